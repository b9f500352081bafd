//! What is asked of the node's devices.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// Every resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceAnswer {
    pub resources: Vec<ResourceRow>,
    /// Faults in the configuration: what was in force before goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What keeps changes of the node from being seen at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why it isn't known who holds what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<String>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRow {
    pub name: String,
    /// Where it is written.
    pub origin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The kubelet has it.
    pub registered: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// How many containers may have one at once.
    pub count: u32,
    pub devices: Vec<DeviceRow>,
    pub problems: Vec<String>,
    /// Of each finder, what it looked at.
    pub looks: Vec<DeviceLook>,
    /// What a container gets with each, in words.
    pub gives: Vec<String>,
}

/// One device as the kubelet knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRow {
    pub id: String,
    /// Its stable name on the node; shares of one have the same.
    pub key: String,
    pub healthy: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it isn't healthy, Unix time in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    pub numa: Vec<u32>,
    pub files: Vec<PathBuf>,
    /// What templates may ask for.
    pub fields: BTreeMap<String, String>,
    pub holders: Vec<HolderRow>,
}

/// A container that holds a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HolderRow {
    pub namespace: String,
    pub pod: String,
    pub container: String,
}

/// What became of a finder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceLook {
    pub finder: String,
    pub candidates: usize,
    pub steps: Vec<DeviceStep>,
}

/// A condition and how many it left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStep {
    pub condition: String,
    pub left: usize,
}
