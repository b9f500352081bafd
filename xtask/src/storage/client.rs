//! A CSI client for trials, which asks as the kubelet and the sidecars do.

use node_api::csi::{
    self, controller_client::ControllerClient, group_controller_client::GroupControllerClient,
    node_client::NodeClient, volume_capability, volume_content_source,
};
use std::{collections::BTreeSet, path::Path};
use tokio::runtime::Runtime;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

pub(super) type Controller = ControllerClient<Channel>;
pub(super) type Group = GroupControllerClient<Channel>;
pub(super) type Kubelet = NodeClient<Channel>;

/// A connection to a driver, for callers that wait.
pub(super) struct Client {
    runtime: Runtime,
    channel: Channel,
}

/// What a volume is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Ext4,
    Xfs,
    Block,
}

impl Form {
    /// The smallest that serves.
    pub(super) const fn bytes(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 320 << 20,
            Self::Block => 16 << 20,
        }
    }

    pub(super) fn capability(self) -> csi::VolumeCapability {
        use volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode};
        let mount = |fs: &str| {
            AccessType::Mount(MountVolume {
                fs_type: fs.to_owned(),
                ..MountVolume::default()
            })
        };
        csi::VolumeCapability {
            access_mode: Some(AccessMode {
                mode: access_mode::Mode::SingleNodeWriter.into(),
            }),
            access_type: Some(match self {
                Self::Ext4 => mount("ext4"),
                Self::Xfs => mount("xfs"),
                Self::Block => AccessType::Block(BlockVolume {}),
            }),
        }
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
    pub(super) fn new(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        Self { runtime, channel }
    }

    pub(super) fn controller<T, F: Future<Output = Result<T, Status>>>(
        &self,
        call: impl FnOnce(Controller) -> F,
    ) -> Result<T, Status> {
        let client = Controller::new(self.channel.clone());
        self.runtime.block_on(call(client))
    }

    pub(super) fn group<T, F: Future<Output = Result<T, Status>>>(
        &self,
        call: impl FnOnce(Group) -> F,
    ) -> Result<T, Status> {
        self.runtime
            .block_on(call(Group::new(self.channel.clone())))
    }

    pub(super) fn kubelet<T, F: Future<Output = Result<T, Status>>>(
        &self,
        call: impl FnOnce(Kubelet) -> F,
    ) -> Result<T, Status> {
        self.runtime
            .block_on(call(Kubelet::new(self.channel.clone())))
    }

    /// Makes a volume; its id.
    pub(super) fn create(&self, name: &str, form: Form, of: &Of) -> Result<String, Status> {
        use volume_content_source::{SnapshotSource, Type, VolumeSource};
        let source = match of.clone() {
            Of::Nothing => None,
            Of::Snapshot(snapshot_id) => Some(Type::Snapshot(SnapshotSource { snapshot_id })),
            Of::Volume(volume_id) => Some(Type::Volume(VolumeSource { volume_id })),
        };
        // One that is made from another one is as large as that.
        let required = if source.is_none() { form.bytes() } else { 0 };
        let asked = csi::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(range(required)),
            volume_capabilities: vec![form.capability()],
            volume_content_source: source.map(|source| csi::VolumeContentSource {
                r#type: Some(source),
            }),
            ..Default::default()
        };
        let made = self.controller(|mut it| async move { it.create_volume(asked).await })?;
        Ok(made.into_inner().volume.unwrap().volume_id)
    }

    pub(super) fn delete(&self, volume: &str) -> Result<(), Status> {
        let asked = csi::DeleteVolumeRequest {
            volume_id: volume.to_owned(),
            ..Default::default()
        };
        self.controller(|mut it| async move { it.delete_volume(asked).await })
            .map(drop)
    }

    pub(super) fn attach(&self, volume: &str, form: Form) -> Result<(), Status> {
        let asked = csi::ControllerPublishVolumeRequest {
            volume_id: volume.to_owned(),
            node_id: "n1".to_owned(),
            volume_capability: Some(form.capability()),
            ..Default::default()
        };
        self.controller(|mut it| async move { it.controller_publish_volume(asked).await })
            .map(drop)
    }

    pub(super) fn detach(&self, volume: &str) -> Result<(), Status> {
        let asked = csi::ControllerUnpublishVolumeRequest {
            volume_id: volume.to_owned(),
            node_id: "n1".to_owned(),
            ..Default::default()
        };
        self.controller(|mut it| async move { it.controller_unpublish_volume(asked).await })
            .map(drop)
    }

    /// Has the controller service grow a volume.
    pub(super) fn expand(&self, volume: &str, bytes: u64) -> Result<(), Status> {
        let asked = csi::ControllerExpandVolumeRequest {
            volume_id: volume.to_owned(),
            capacity_range: Some(range(bytes)),
            ..Default::default()
        };
        self.controller(|mut it| async move { it.controller_expand_volume(asked).await })
            .map(drop)
    }

    /// Has the node service do the rest.
    pub(super) fn grow(&self, volume: &str, at: &Path, bytes: u64) -> Result<(), Status> {
        let asked = csi::NodeExpandVolumeRequest {
            volume_id: volume.to_owned(),
            volume_path: at.display().to_string(),
            capacity_range: Some(range(bytes)),
            ..Default::default()
        };
        self.kubelet(|mut it| async move { it.node_expand_volume(asked).await })
            .map(drop)
    }

    /// Takes a snapshot; its id.
    pub(super) fn snapshot(&self, name: &str, of: &str) -> Result<String, Status> {
        let asked = csi::CreateSnapshotRequest {
            name: name.to_owned(),
            source_volume_id: of.to_owned(),
            ..Default::default()
        };
        let taken = self.controller(|mut it| async move { it.create_snapshot(asked).await })?;
        Ok(taken.into_inner().snapshot.unwrap().snapshot_id)
    }

    pub(super) fn delete_snapshot(&self, snapshot: &str) -> Result<(), Status> {
        let asked = csi::DeleteSnapshotRequest {
            snapshot_id: snapshot.to_owned(),
            ..Default::default()
        };
        self.controller(|mut it| async move { it.delete_snapshot(asked).await })
            .map(drop)
    }

    /// Takes snapshots at one moment; the group's id and theirs.
    pub(super) fn snapshots(
        &self,
        name: &str,
        of: &[String],
    ) -> Result<(String, BTreeSet<String>), Status> {
        let asked = csi::CreateVolumeGroupSnapshotRequest {
            name: name.to_owned(),
            source_volume_ids: of.to_vec(),
            ..Default::default()
        };
        let taken =
            self.group(|mut it| async move { it.create_volume_group_snapshot(asked).await })?;
        let group = taken.into_inner().group_snapshot.unwrap();
        let members = group.snapshots.into_iter().map(|of| of.snapshot_id);
        Ok((group.group_snapshot_id, members.collect()))
    }

    pub(super) fn delete_group(
        &self,
        group: &str,
        members: &BTreeSet<String>,
    ) -> Result<(), Status> {
        let asked = csi::DeleteVolumeGroupSnapshotRequest {
            group_snapshot_id: group.to_owned(),
            snapshot_ids: members.iter().cloned().collect(),
            ..Default::default()
        };
        self.group(|mut it| async move { it.delete_volume_group_snapshot(asked).await })
            .map(drop)
    }

    pub(super) fn stage(&self, volume: &str, at: &Path, form: Form) -> Result<(), Status> {
        let asked = csi::NodeStageVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: at.display().to_string(),
            volume_capability: Some(form.capability()),
            ..Default::default()
        };
        self.kubelet(|mut it| async move { it.node_stage_volume(asked).await })
            .map(drop)
    }

    pub(super) fn unstage(&self, volume: &str, at: &Path) -> Result<(), Status> {
        let asked = csi::NodeUnstageVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: at.display().to_string(),
        };
        self.kubelet(|mut it| async move { it.node_unstage_volume(asked).await })
            .map(drop)
    }

    pub(super) fn publish(
        &self,
        volume: &str,
        stage: &Path,
        at: &Path,
        form: Form,
    ) -> Result<(), Status> {
        let asked = csi::NodePublishVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: stage.display().to_string(),
            target_path: at.display().to_string(),
            volume_capability: Some(form.capability()),
            ..Default::default()
        };
        self.kubelet(|mut it| async move { it.node_publish_volume(asked).await })
            .map(drop)
    }

    /// Gives a pod a volume that lives with it.
    pub(super) fn publish_inline(&self, handle: &str, at: &Path, form: Form) -> Result<(), Status> {
        let attributes = [
            ("csi.storage.k8s.io/ephemeral", "true".to_owned()),
            ("size", form.bytes().to_string()),
        ];
        let asked = csi::NodePublishVolumeRequest {
            volume_id: handle.to_owned(),
            target_path: at.display().to_string(),
            volume_capability: Some(form.capability()),
            volume_context: attributes
                .map(|(key, value)| (key.to_owned(), value))
                .into(),
            ..Default::default()
        };
        self.kubelet(|mut it| async move { it.node_publish_volume(asked).await })
            .map(drop)
    }

    pub(super) fn unpublish(&self, volume: &str, at: &Path) -> Result<(), Status> {
        let asked = csi::NodeUnpublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: at.display().to_string(),
        };
        self.kubelet(|mut it| async move { it.node_unpublish_volume(asked).await })
            .map(drop)
    }

    /// Ids of all volumes.
    pub(super) fn volumes(&self) -> BTreeSet<String> {
        let asked = csi::ListVolumesRequest::default();
        let listed = self.controller(|mut it| async move { it.list_volumes(asked).await });
        let entries = listed.unwrap().into_inner().entries.into_iter();
        entries
            .map(|entry| entry.volume.unwrap().volume_id)
            .collect()
    }

    /// Ids of all snapshots.
    pub(super) fn all_snapshots(&self) -> BTreeSet<String> {
        let asked = csi::ListSnapshotsRequest::default();
        let listed = self.controller(|mut it| async move { it.list_snapshots(asked).await });
        let entries = listed.unwrap().into_inner().entries.into_iter();
        entries
            .map(|entry| entry.snapshot.unwrap().snapshot_id)
            .collect()
    }
}

fn range(bytes: u64) -> csi::CapacityRange {
    csi::CapacityRange {
        required_bytes: i64::try_from(bytes).unwrap(),
        limit_bytes: 0,
    }
}
