//! What trials alone ask of a driver, beside what [`Client`] asks for all.

pub(super) use crate::csi_client::{Client, Refused};
use crate::csi_client::{answer, by_one_writer, range};
use node_api::csi::{
    self, group_controller_client::GroupControllerClient, volume_capability, volume_content_source,
};
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};
use tonic::{Status, transport::Channel};

/// What a volume is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Ext4,
    Xfs,
    Block,
    /// A subvolume of the pool's btrfs.
    Btrfs,
    /// A folder of the pool.
    Directory,
}

impl Form {
    /// The smallest that serves.
    pub(super) const fn bytes(self) -> u64 {
        match self {
            Self::Ext4 | Self::Btrfs | Self::Directory => 64 << 20,
            Self::Xfs => 320 << 20,
            Self::Block => 16 << 20,
        }
    }

    /// Whether it is a file of the pool, with all that such a volume can.
    pub(super) const fn is_image(self) -> bool {
        matches!(self, Self::Ext4 | Self::Xfs | Self::Block)
    }

    /// Of its StorageClass.
    fn parameters(self) -> HashMap<String, String> {
        let named: &[(&str, &str)] = match self {
            Self::Ext4 | Self::Xfs | Self::Block => &[],
            Self::Btrfs => &[("backend", "btrfs")],
            Self::Directory => &[("backend", "directory"), ("allowUnenforced", "true")],
        };
        let named = named.iter();
        named
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    /// A volume of a name.
    pub(super) fn volume(self, name: &str, of: &Of) -> csi::CreateVolumeRequest {
        use volume_content_source::{SnapshotSource, Type, VolumeSource};
        let source = match of.clone() {
            Of::Nothing => None,
            Of::Snapshot(snapshot_id) => Some(Type::Snapshot(SnapshotSource { snapshot_id })),
            Of::Volume(volume_id) => Some(Type::Volume(VolumeSource { volume_id })),
        };
        // One that is made from another one is as large as that.
        let required = if source.is_none() { self.bytes() } else { 0 };
        csi::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(range(required)),
            volume_capabilities: vec![self.into()],
            parameters: self.parameters(),
            volume_content_source: source.map(|source| csi::VolumeContentSource {
                r#type: Some(source),
            }),
            ..Default::default()
        }
    }
}

impl From<Form> for csi::VolumeCapability {
    fn from(form: Form) -> Self {
        use volume_capability::{AccessType, BlockVolume, MountVolume};
        let mount = |fs: &str| {
            AccessType::Mount(MountVolume {
                fs_type: fs.to_owned(),
                ..MountVolume::default()
            })
        };
        by_one_writer(match form {
            Form::Ext4 => mount("ext4"),
            Form::Xfs => mount("xfs"),
            Form::Block => AccessType::Block(BlockVolume {}),
            Form::Btrfs | Form::Directory => mount(""),
        })
    }
}

/// What a volume is made from.
#[derive(Clone, Debug)]
pub(super) enum Of {
    Nothing,
    Snapshot(String),
    Volume(String),
}

impl Client {
    pub(super) fn group<T, F: Future<Output = Result<T, Status>>>(
        &self,
        call: impl FnOnce(GroupControllerClient<Channel>) -> F,
    ) -> Result<T, Status> {
        self.ask(|channel| call(GroupControllerClient::new(channel)))
    }

    pub(super) fn attach(&self, volume: &str, form: Form) -> Result<(), Refused> {
        let asked = csi::ControllerPublishVolumeRequest {
            volume_id: volume.to_owned(),
            node_id: "n1".to_owned(),
            volume_capability: Some(form.into()),
            ..Default::default()
        };
        let done =
            self.controller(|mut it| async move { it.controller_publish_volume(asked).await });
        answer("ControllerPublishVolume", done).map(drop)
    }

    pub(super) fn detach(&self, volume: &str) -> Result<(), Refused> {
        let asked = csi::ControllerUnpublishVolumeRequest {
            volume_id: volume.to_owned(),
            node_id: "n1".to_owned(),
            ..Default::default()
        };
        let done =
            self.controller(|mut it| async move { it.controller_unpublish_volume(asked).await });
        answer("ControllerUnpublishVolume", done).map(drop)
    }

    /// Takes snapshots at one moment; the group's id and theirs.
    pub(super) fn snapshots(
        &self,
        name: &str,
        of: &[String],
    ) -> Result<(String, BTreeSet<String>), Refused> {
        let asked = csi::CreateVolumeGroupSnapshotRequest {
            name: name.to_owned(),
            source_volume_ids: of.to_vec(),
            ..Default::default()
        };
        let taken =
            self.group(|mut it| async move { it.create_volume_group_snapshot(asked).await });
        let group = answer("CreateVolumeGroupSnapshot", taken)?
            .group_snapshot
            .unwrap();
        let members = group.snapshots.into_iter().map(|of| of.snapshot_id);
        Ok((group.group_snapshot_id, members.collect()))
    }

    pub(super) fn delete_group(
        &self,
        group: &str,
        members: &BTreeSet<String>,
    ) -> Result<(), Refused> {
        let asked = csi::DeleteVolumeGroupSnapshotRequest {
            group_snapshot_id: group.to_owned(),
            snapshot_ids: members.iter().cloned().collect(),
            ..Default::default()
        };
        let done = self.group(|mut it| async move { it.delete_volume_group_snapshot(asked).await });
        answer("DeleteVolumeGroupSnapshot", done).map(drop)
    }

    /// Gives a pod a volume that lives with it.
    pub(super) fn publish_inline(
        &self,
        handle: &str,
        at: &Path,
        form: Form,
    ) -> Result<(), Refused> {
        let attributes = [
            ("csi.storage.k8s.io/ephemeral", "true".to_owned()),
            ("size", form.bytes().to_string()),
        ];
        let asked = csi::NodePublishVolumeRequest {
            volume_id: handle.to_owned(),
            target_path: at.display().to_string(),
            volume_capability: Some(form.into()),
            volume_context: attributes
                .map(|(key, value)| (key.to_owned(), value))
                .into(),
            ..Default::default()
        };
        let done = self.kubelet(|mut it| async move { it.node_publish_volume(asked).await });
        answer("NodePublishVolume", done).map(drop)
    }
}
