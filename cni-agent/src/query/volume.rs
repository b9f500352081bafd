//! What is told of volumes.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How far something is on its way into or out of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    Making,
    /// No pod has it.
    Ready,
    /// It is mounted on the node, or its device is there, and no pod has it.
    Staged,
    /// A pod has it.
    Published,
    Deleting,
}

impl VolumeState {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Making => "making",
            Self::Ready => "ready",
            Self::Staged => "staged",
            Self::Published => "published",
            Self::Deleting => "deleting",
        }
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRow {
    /// Its handle (`spec.csi.volumeHandle` of the PersistentVolume); of an inline volume in the pool alone.
    pub id: String,
    /// As it was asked for: `pvc-` and the claim's UID, mostly; an inline volume's is the kubelet's handle.
    pub name: String,
    /// namespace/name, where the provisioner says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// namespace/name of pods that have it, where the kubelet says them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<String>,
    pub state: VolumeState,
    pub bytes: u64,
    /// Of its own file system; none where it is not mounted, or has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// Bytes of the pool that its file has, also where others share them; none: it has no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<u64>,
    /// What it is on the pool: `image`, `btrfs` or `directory`.
    pub back_end: String,
    /// `ext4`, `xfs` or `block`; of another back end its name.
    pub fs: String,
    /// Blocks are taken when they are written.
    pub thin: bool,
    /// Lives with its pod.
    pub inline: bool,
    /// The volume or the snapshot that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Unix time in seconds.
    pub made_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<PathBuf>,
    /// Where it is mounted once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub staged: Vec<PathBuf>,
    /// Where pods have it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PublishedRow>,
    /// What is wrong with it, each with its remedy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A place where a pod has a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedRow {
    pub path: PathBuf,
    pub readonly: bool,
    /// namespace/name, where the kubelet says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRow {
    pub id: String,
    pub name: String,
    /// The volume that it is of, which may be gone.
    pub of: String,
    /// The claim of that volume, as long as it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    pub state: VolumeState,
    pub bytes: u64,
    /// Bytes that no other file of the pool shares: what its removal frees at least; none: it has no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<u64>,
    /// Bytes that others have, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<u64>,
    /// Unix time in seconds, of the cut.
    pub made_at: u64,
    /// The group that it was taken with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// How the pool's room is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolUsage {
    pub folder: PathBuf,
    pub total: u64,
    pub free: u64,
    /// What volumes and snapshots may still ask for: as much is kept free for them.
    pub promised: u64,
    /// Free, and promised to nobody: how large another volume may be.
    pub available: u64,
    /// Those that take or may take most first.
    pub rows: Vec<UsageRow>,
    /// What would fill the pool, and what to do about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What one volume or snapshot has of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRow {
    /// `volume` or `snapshot`.
    pub kind: String,
    pub id: String,
    /// Its claim, or as it was asked for.
    pub name: String,
    pub bytes: u64,
    /// That nobody shares.
    pub own: u64,
    pub shared: u64,
    /// What is kept free for it.
    pub promised: u64,
}

/// What a comparison of the pool, the store, the mounts and the pods' folders found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckAnswer {
    pub volumes: usize,
    pub snapshots: usize,
    pub files: usize,
    pub devices: usize,
    pub mounts: usize,
    /// Pods of this node whose folders name volumes of this driver.
    pub pods: usize,
    /// Volumes that something was being done with: they were left out.
    pub busy: usize,
    pub differences: Vec<Difference>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// A volume's or snapshot's id, a file, a device or a path.
    pub what: String,
    pub problem: String,
    pub remedy: String,
}
