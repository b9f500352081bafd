//! A CSI client as the kubelet and the sidecars are one: requests over the driver's socket.

use anyhow::{Context, Result, anyhow};
use node_api::csi::{
    CapacityRange, ControllerExpandVolumeRequest, CreateSnapshotRequest, CreateVolumeRequest,
    DeleteSnapshotRequest, DeleteVolumeRequest, ListSnapshotsRequest, ListVolumesRequest,
    NodeExpandVolumeRequest, NodePublishVolumeRequest, NodeStageVolumeRequest,
    NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, VolumeCapability, VolumeContentSource,
    controller_client::ControllerClient,
    node_client::NodeClient,
    volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode},
    volume_content_source::{Type, VolumeSource},
};
use std::path::Path;
use tokio::runtime::Runtime;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// What volumes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    /// Of the StorageClass.
    pub(crate) parameters: &'static [(&'static str, &'static str)],
    /// Raw, without a file system.
    pub(crate) block: bool,
}

/// Asks one driver. May be asked by several threads at a time, all over one connection.
pub(crate) struct Client {
    runtime: Runtime,
    channel: Channel,
}

/// What a driver answers instead of what was asked for.
fn refused(what: &'static str) -> impl Fn(Status) -> anyhow::Error {
    move |status| anyhow!("{what}: {:?}: {}", status.code(), status.message())
}

fn capability(block: bool) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter.into(),
        }),
        access_type: Some(match block {
            true => AccessType::Block(BlockVolume {}),
            false => AccessType::Mount(MountVolume::default()),
        }),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Client {
    /// Connects to the driver behind a socket.
    ///
    /// # Errors
    /// What the driver answers instead.
    pub(crate) fn new(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let channel = runtime
            .block_on(endpoint.connect())
            .context("connecting to the driver")?;
        Ok(Self { runtime, channel })
    }

    fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone())
    }

    fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    /// A volume's id. `of`: a volume that it is a clone of.
    ///
    /// # Errors
    /// What the driver answers instead.
    pub(crate) fn create(
        &self,
        name: &str,
        class: Class,
        bytes: u64,
        of: Option<&str>,
        thin: bool,
    ) -> Result<String> {
        let parameters = class.parameters.iter().copied();
        let thin = thin.then_some(("thin", "true"));
        let source = of.map(|of| VolumeContentSource {
            r#type: Some(Type::Volume(VolumeSource {
                volume_id: of.to_owned(),
            })),
        });
        let request = CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(CapacityRange {
                required_bytes: i64::try_from(bytes)?,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![capability(class.block)],
            parameters: parameters
                .chain(thin)
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            volume_content_source: source,
            ..Default::default()
        };
        let answer = self
            .runtime
            .block_on(self.controller().create_volume(request));
        let volume = answer.map_err(refused("CreateVolume"))?.into_inner().volume;
        Ok(volume
            .context("CreateVolume answers without a volume")?
            .volume_id)
    }

    /// Removes a volume.
    ///
    /// # Errors
    /// What the driver answers instead.
    pub(crate) fn delete(&self, id: &str) -> Result<()> {
        let request = DeleteVolumeRequest {
            volume_id: id.to_owned(),
            ..Default::default()
        };
        let answer = self
            .runtime
            .block_on(self.controller().delete_volume(request));
        answer.map(drop).map_err(refused("DeleteVolume"))
    }

    /// NodeStageVolume.
    ///
    /// # Errors
    /// What the driver answers instead.
    pub(crate) fn stage(&self, id: &str, class: Class, at: &Path) -> Result<()> {
        let request = NodeStageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: text(at),
            volume_capability: Some(capability(class.block)),
            ..Default::default()
        };
        let answer = self
            .runtime
            .block_on(self.node().node_stage_volume(request));
        answer.map(drop).map_err(refused("NodeStageVolume"))
    }

    /// NodePublishVolume.
    ///
    /// # Errors
    /// What the driver answers instead.
    pub(crate) fn publish(&self, id: &str, class: Class, stage: &Path, at: &Path) -> Result<()> {
        let request = NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: text(stage),
            target_path: text(at),
            volume_capability: Some(capability(class.block)),
            ..Default::default()
        };
        let answer = self
            .runtime
            .block_on(self.node().node_publish_volume(request));
        answer.map(drop).map_err(refused("NodePublishVolume"))
    }

    /// NodeUnpublishVolume.
    ///
    /// # Errors
    /// What the driver answers instead.
    pub(crate) fn unpublish(&self, id: &str, at: &Path) -> Result<()> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: text(at),
        };
        let answer = self
            .runtime
            .block_on(self.node().node_unpublish_volume(request));
        answer.map(drop).map_err(refused("NodeUnpublishVolume"))
    }

    /// NodeUnstageVolume.
    ///
    /// # Errors
    /// What the driver answers instead.
    pub(crate) fn unstage(&self, id: &str, stage: &Path) -> Result<()> {
        let request = NodeUnstageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: text(stage),
        };
        let answer = self
            .runtime
            .block_on(self.node().node_unstage_volume(request));
        answer.map(drop).map_err(refused("NodeUnstageVolume"))
    }

    /// A snapshot's id.
    ///
    /// # Errors
    /// What the driver answers instead.
    pub(crate) fn snapshot(&self, name: &str, of: &str) -> Result<String> {
        let request = CreateSnapshotRequest {
            name: name.to_owned(),
            source_volume_id: of.to_owned(),
            ..Default::default()
        };
        let answer = self
            .runtime
            .block_on(self.controller().create_snapshot(request));
        let answer = answer.map_err(refused("CreateSnapshot"))?.into_inner();
        let snapshot = answer
            .snapshot
            .context("CreateSnapshot answers without one")?;
        Ok(snapshot.snapshot_id)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// What the driver answers instead.
    pub(crate) fn delete_snapshot(&self, id: &str) -> Result<()> {
        let request = DeleteSnapshotRequest {
            snapshot_id: id.to_owned(),
            ..Default::default()
        };
        let answer = self
            .runtime
            .block_on(self.controller().delete_snapshot(request));
        answer.map(drop).map_err(refused("DeleteSnapshot"))
    }

    /// Ids of all volumes.
    ///
    /// # Errors
    /// What the driver answers instead.
    pub(crate) fn volumes(&self) -> Result<Vec<String>> {
        let answer = self.runtime.block_on(
            self.controller()
                .list_volumes(ListVolumesRequest::default()),
        );
        let entries = answer.map_err(refused("ListVolumes"))?.into_inner().entries;
        let volumes = entries.into_iter().filter_map(|entry| entry.volume);
        Ok(volumes.map(|volume| volume.volume_id).collect())
    }

    /// Ids of all snapshots.
    ///
    /// # Errors
    /// What the driver answers instead.
    pub(crate) fn snapshots(&self) -> Result<Vec<String>> {
        let answer = self.runtime.block_on(
            self.controller()
                .list_snapshots(ListSnapshotsRequest::default()),
        );
        let entries = answer
            .map_err(refused("ListSnapshots"))?
            .into_inner()
            .entries;
        let snapshots = entries.into_iter().filter_map(|entry| entry.snapshot);
        Ok(snapshots.map(|snapshot| snapshot.snapshot_id).collect())
    }

    /// Grows a volume that a pod has, first for the controller and then for the node.
    ///
    /// # Errors
    /// What the driver answers instead.
    pub(crate) fn expand(&self, id: &str, at: &Path, bytes: u64) -> Result<()> {
        let range = Some(CapacityRange {
            required_bytes: i64::try_from(bytes)?,
            limit_bytes: 0,
        });
        let request = ControllerExpandVolumeRequest {
            volume_id: id.to_owned(),
            capacity_range: range,
            ..Default::default()
        };
        let answer = self
            .runtime
            .block_on(self.controller().controller_expand_volume(request));
        answer.map_err(refused("ControllerExpandVolume"))?;
        let request = NodeExpandVolumeRequest {
            volume_id: id.to_owned(),
            volume_path: text(at),
            capacity_range: range,
            ..Default::default()
        };
        let answer = self
            .runtime
            .block_on(self.node().node_expand_volume(request));
        answer.map(drop).map_err(refused("NodeExpandVolume"))
    }
}
