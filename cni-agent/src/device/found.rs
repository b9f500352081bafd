//! PURE: what was found on the node, before it is a device of a resource.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// Something that a finder found: one file, one USB device, one PCI function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Stable name: serial number, PCI address or path, the first that it has; no two that are there at once have one.
    pub key: String,
    /// What it says that it is, whoever says the same beside it.
    pub name: String,
    /// The files that belong to it, in order of their paths.
    pub files: Vec<DeviceFile>,
    /// Where it is; none: sysfs doesn't tell, or it is what somebody describes as one.
    pub site: Option<Site>,
    /// NUMA nodes that it is near to; empty: not known.
    pub numa: Vec<u32>,
    /// What templates may ask for, and what people see: see [`super::template::FIELDS`].
    pub fields: BTreeMap<String, String>,
}

/// Where something is in the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Site {
    /// The same whenever it is plugged in there: of what is on USB its port and interface, with what it says.
    pub name: String,
    /// Its folder in sysfs.
    pub sysfs: PathBuf,
    /// Tells one that is there from whatever was there before it since the machine's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
}

/// A file of a device on the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeviceFile {
    /// Where the node has it, as its own processes see it: `/dev/…`.
    pub path: PathBuf,
    pub kind: FileKind,
    pub major: u32,
    pub minor: u32,
    /// Group that owns it.
    pub group: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    Character,
    Block,
}

/// What a look at the node found for one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub found: Vec<Found>,
    /// What could not be read, worded for people.
    pub problems: Vec<String>,
    /// Of each finder in order, what was looked at and how much of it was left by each condition: so that an empty
    /// answer can be explained.
    pub looks: Vec<Look>,
}

/// What became of one finder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The finder in words: `PCI functions with vendor 8086`.
    pub finder: String,
    /// Candidates before any condition.
    pub candidates: usize,
    /// Each condition in order with how many candidates were left by it.
    pub left: Vec<(String, usize)>,
}
