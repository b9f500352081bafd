//! The kinds of snapshot.storage.k8s.io, for which no crate has types (external-snapshotter's v1): the fields that are
//! read here. What is written goes as patches, so that no other field is lost.

use crate::source::resource;
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Group of all three.
pub(super) const GROUP: &str = "snapshot.storage.k8s.io";
/// Their definition.
pub(super) const CONTENTS: &str = "volumesnapshotcontents.snapshot.storage.k8s.io";
/// The node that has a content's snapshot, written by the snapshot-controller (`--enable-distributed-snapshotting`).
pub(super) const MANAGED_BY: &str = "snapshot.storage.kubernetes.io/managed-by";
/// The driver was asked for the snapshot and may have taken it.
pub(super) const BEING_CREATED: &str =
    "snapshot.storage.kubernetes.io/volumesnapshot-being-created";
/// The snapshot-controller wants the content deleted.
pub(super) const BEING_DELETED: &str =
    "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted";
/// Holds a content while its snapshot is there.
pub(super) const FINALIZER: &str =
    "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";
/// A content with it is taken in a group.
pub(super) const GROUP_MEMBER: &str = "groupsnapshot.storage.k8s.io/volumeGroupSnapshotHandle";
/// Somebody who may has allowed a raw volume to become one with a file system, or the other way round.
pub(super) const MODE_CHANGE: &str = "snapshot.storage.kubernetes.io/allow-volume-mode-change";

/// Spec of a VolumeSnapshotContent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContentSpec {
    pub(super) driver: String,
    pub(super) deletion_policy: String,
    pub(super) source: ContentSource,
    pub(super) volume_snapshot_ref: SnapshotRef,
    pub(super) volume_snapshot_class_name: Option<String>,
    pub(super) source_volume_mode: Option<String>,
}

/// A volume to be cut, or a snapshot that was there before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContentSource {
    pub(super) volume_handle: Option<String>,
    pub(super) snapshot_handle: Option<String>,
}

/// The VolumeSnapshot of a content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SnapshotRef {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// Status of a VolumeSnapshotContent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContentStatus {
    pub(super) snapshot_handle: Option<String>,
    pub(super) ready_to_use: Option<bool>,
    pub(super) creation_time: Option<i64>,
    pub(super) restore_size: Option<i64>,
    pub(super) volume_group_snapshot_handle: Option<String>,
    pub(super) error: Option<SnapshotError>,
}

/// Why a snapshot can't be had.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SnapshotError {
    pub(super) message: Option<String>,
}

/// Status of a VolumeSnapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SnapshotStatus {
    pub(super) bound_volume_snapshot_content_name: Option<String>,
    pub(super) ready_to_use: Option<bool>,
    pub(super) restore_size: Option<k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
}

macro_rules! kind {
    ($kind:ident, $scope:ty, $plural:literal, { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }, $what:literal) => {
        #[doc = $what]
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(super) struct $kind {
            pub(super) metadata: ObjectMeta,
            $($(#[$attribute])* pub(super) $field: $type,)*
        }

        resource!($kind, $scope, GROUP, "v1", $plural);
    };
}

kind!(
    VolumeSnapshotContent,
    ClusterResourceScope,
    "volumesnapshotcontents",
    {
        spec: ContentSpec,
        status: Option<ContentStatus>,
    },
    "A snapshot as the cluster has it."
);
kind!(
    VolumeSnapshot,
    NamespaceResourceScope,
    "volumesnapshots",
    {
        status: Option<SnapshotStatus>,
    },
    "A snapshot as somebody asked for it."
);
kind!(
    VolumeSnapshotClass,
    ClusterResourceScope,
    "volumesnapshotclasses",
    {
        driver: String,
        parameters: Option<BTreeMap<String, String>>,
    },
    "How snapshots are taken."
);
