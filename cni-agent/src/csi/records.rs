//! What is remembered of volumes and snapshots, as plain values.

use super::{
    id::{GroupId, SnapshotId, VolumeId},
    limits::Limits,
    request::{Access, Backing, Capability, Fs, Mode, Parameters, Ratio},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// How far something is on its way into or out of the pool. What is written before the disk is touched says what a
/// start has to finish or to undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// Nobody was told of it yet: a start removes it.
    Making,
    Ready,
    /// Nobody has it any more: a start goes on.
    Deleting,
}

/// What something is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Source {
    Snapshot(SnapshotId),
    Volume(VolumeId),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(id) => id.fmt(f),
            Self::Volume(id) => id.fmt(f),
        }
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Volume {
    pub(super) id: VolumeId,
    /// The caller's, by which it asks again; an inline volume's is the handle that the kubelet gave it.
    pub(super) name: String,
    pub(super) phase: Phase,
    pub(super) bytes: u64,
    #[serde(default)]
    pub(super) backing: Backing,
    /// Whose quota bounds a folder; none: nothing does, or something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) project: Option<u32>,
    #[serde(default)]
    pub(super) limits: Limits,
    /// None: raw block.
    pub(super) fs: Option<Fs>,
    /// The file system has been made: it is never made again.
    pub(super) formatted: bool,
    pub(super) parameters: Parameters,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<Source>,
    /// It lives with its pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) inline: bool,
    /// Unix time in seconds.
    pub(super) made_at: u64,
    /// By the staging path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) stages: BTreeMap<PathBuf, Capability>,
    /// By the target path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) targets: BTreeMap<PathBuf, Target>,
    /// Published to this node by the controller service, read-only or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) published: Option<bool>,
    /// The claim that it was made for, where the provisioner says so: for people, decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) claim: Option<ObjectName>,
}

/// An object of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectName {
    pub(super) namespace: String,
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<String>,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where a pod has a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Target {
    pub(super) capability: Capability,
    pub(super) readonly: bool,
    /// The pod, where the kubelet says so: for people, decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<ObjectName>,
}

impl Target {
    /// Whether a pod has the volume in the same way.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.capability == other.capability && self.readonly == other.readonly
    }
}

impl Volume {
    /// One on its way, of a file and raw, as far as nobody says more.
    pub(super) fn new(id: VolumeId, name: &str, bytes: u64) -> Self {
        Self {
            id,
            name: name.to_owned(),
            phase: Phase::Making,
            bytes,
            backing: Backing::Image,
            project: None,
            limits: Limits::default(),
            fs: None,
            formatted: false,
            parameters: Parameters::default(),
            source: None,
            inline: false,
            made_at: 0,
            stages: BTreeMap::new(),
            targets: BTreeMap::new(),
            published: None,
            claim: None,
        }
    }

    /// What it is, in a word for people: its file system, its back end, or `block`.
    pub(super) const fn word(&self) -> &'static str {
        match (self.backing, self.fs) {
            (Backing::Image, Some(fs)) => fs.as_str(),
            (Backing::Image, None) => "block",
            (backing, _) => backing.as_str(),
        }
    }

    /// Whether it can be used in a way.
    pub(super) fn suits(&self, capability: &Capability) -> bool {
        match &capability.access {
            Access::Block => self.fs.is_none(),
            Access::Mount { fs, .. } => {
                self.fs.is_some() && fs.is_none_or(|fs| self.fs == Some(fs))
            }
        }
    }

    /// Whether a pod may have it at a further place, beside those that have it.
    pub(super) fn admits(&self, mode: Mode) -> bool {
        let alone = |mode| mode == Mode::OneWriter;
        let mut others = self.targets.values();
        !(others.any(|target| alone(target.capability.mode))
            || alone(mode) && !self.targets.is_empty())
    }
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Snapshot {
    pub(super) id: SnapshotId,
    pub(super) name: String,
    pub(super) phase: Phase,
    pub(super) of: VolumeId,
    #[serde(default)]
    pub(super) backing: Backing,
    pub(super) bytes: u64,
    pub(super) fs: Option<Fs>,
    pub(super) formatted: bool,
    /// Unix time in nanoseconds, of the cut.
    pub(super) made_at_ns: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<GroupId>,
    /// As its volume's class says.
    #[serde(default)]
    pub(super) overcommit: Ratio,
}

impl Snapshot {
    /// One of a volume as it is, on its way.
    pub(super) fn new(id: SnapshotId, name: String, of: &Volume) -> Self {
        Self {
            id,
            name,
            phase: Phase::Making,
            of: of.id.clone(),
            backing: of.backing,
            bytes: of.bytes,
            fs: of.fs,
            formatted: of.formatted,
            made_at_ns: 0,
            group: None,
            overcommit: of.parameters.overcommit,
        }
    }
}

/// Snapshots at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) name: String,
    pub(super) phase: Phase,
    /// By the volumes that they are of.
    pub(super) snapshots: BTreeMap<VolumeId, SnapshotId>,
    pub(super) made_at_ns: i64,
}
