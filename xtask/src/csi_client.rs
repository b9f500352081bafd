//! A CSI client, which asks as the kubelet and the sidecars do: requests over the driver's socket.

use anyhow::{Context, Result};
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
use std::{collections::BTreeSet, fmt, path::Path};
use tokio::runtime::Runtime;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

/// What a driver answers instead of what was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    call: &'static str,
    status: Status,
}

impl Refused {
    pub(crate) fn code(&self) -> Code {
        self.status.code()
    }

    pub(crate) fn message(&self) -> &str {
        self.status.message()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.call, self.code(), self.message())
    }
}

impl std::error::Error for Refused {}

/// The answer to a call, which an error names.
pub(crate) fn answer<T>(
    call: &'static str,
    answer: Result<Response<T>, Status>,
) -> Result<T, Refused> {
    let answer = answer.map_err(|status| Refused { call, status });
    answer.map(Response::into_inner)
}

/// What an answer may not be without.
fn there<T>(call: &'static str, found: Option<T>) -> Result<T, Refused> {
    found.ok_or_else(|| Refused {
        call,
        status: Status::internal("its answer has none"),
    })
}

/// What volumes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    /// Of the StorageClass.
    pub(crate) parameters: &'static [(&'static str, &'static str)],
    /// Raw, without a file system.
    pub(crate) block: bool,
}

impl Class {
    /// A volume of a name. `of`: a volume that it is a clone of.
    pub(crate) fn volume(
        self,
        name: &str,
        bytes: u64,
        of: Option<&str>,
        thin: bool,
    ) -> CreateVolumeRequest {
        let parameters = self.parameters.iter().copied();
        let thin = thin.then_some(("thin", "true"));
        let source = of.map(|of| VolumeContentSource {
            r#type: Some(Type::Volume(VolumeSource {
                volume_id: of.to_owned(),
            })),
        });
        CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(range(bytes)),
            volume_capabilities: vec![self.into()],
            parameters: parameters
                .chain(thin)
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            volume_content_source: source,
            ..Default::default()
        }
    }
}

impl From<Class> for VolumeCapability {
    fn from(class: Class) -> Self {
        by_one_writer(match class.block {
            true => AccessType::Block(BlockVolume {}),
            false => AccessType::Mount(MountVolume::default()),
        })
    }
}

/// As a claim of ReadWriteOnce is given to pods.
pub(crate) fn by_one_writer(access: AccessType) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter.into(),
        }),
        access_type: Some(access),
    }
}

/// At least so many bytes.
pub(crate) fn range(bytes: u64) -> CapacityRange {
    CapacityRange {
        required_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        limit_bytes: 0,
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Asks one driver, for callers that wait. May be asked by several threads at a time, all over one connection.
pub(crate) struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Client {
    /// Connects to the driver behind a socket.
    ///
    /// # Errors
    /// When nobody serves it.
    pub(crate) fn new(socket: &Path) -> Result<Self> {
        let endpoint = endpoint(socket)?;
        let runtime = runtime()?;
        let channel = runtime
            .block_on(endpoint.connect())
            .context("connecting to the driver")?;
        Ok(Self { runtime, channel })
    }

    /// Connects with the first call, and again after each that failed.
    #[cfg(test)]
    pub(crate) fn lazy(socket: &Path) -> Result<Self> {
        let endpoint = endpoint(socket)?;
        let runtime = runtime()?;
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        Ok(Self { runtime, channel })
    }

    /// Asks over its connection.
    pub(crate) fn ask<T, F: Future<Output = Result<T, Status>>>(
        &self,
        call: impl FnOnce(Channel) -> F,
    ) -> Result<T, Status> {
        self.runtime.block_on(call(self.channel.clone()))
    }

    pub(crate) fn controller<T, F: Future<Output = Result<T, Status>>>(
        &self,
        call: impl FnOnce(ControllerClient<Channel>) -> F,
    ) -> Result<T, Status> {
        self.ask(|channel| call(ControllerClient::new(channel)))
    }

    pub(crate) fn kubelet<T, F: Future<Output = Result<T, Status>>>(
        &self,
        call: impl FnOnce(NodeClient<Channel>) -> F,
    ) -> Result<T, Status> {
        self.ask(|channel| call(NodeClient::new(channel)))
    }

    /// Makes a volume; its id.
    ///
    /// # Errors
    /// What the driver answers instead; so does each of the following.
    pub(crate) fn create(&self, volume: CreateVolumeRequest) -> Result<String, Refused> {
        const CALL: &str = "CreateVolume";
        let made = self.controller(|mut it| async move { it.create_volume(volume).await });
        there(CALL, answer(CALL, made)?.volume).map(|volume| volume.volume_id)
    }

    /// Removes a volume.
    pub(crate) fn delete(&self, volume: &str) -> Result<(), Refused> {
        let asked = DeleteVolumeRequest {
            volume_id: volume.to_owned(),
            ..Default::default()
        };
        let done = self.controller(|mut it| async move { it.delete_volume(asked).await });
        answer("DeleteVolume", done).map(drop)
    }

    pub(crate) fn stage(
        &self,
        volume: &str,
        at: &Path,
        capability: impl Into<VolumeCapability>,
    ) -> Result<(), Refused> {
        let asked = NodeStageVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: text(at),
            volume_capability: Some(capability.into()),
            ..Default::default()
        };
        let done = self.kubelet(|mut it| async move { it.node_stage_volume(asked).await });
        answer("NodeStageVolume", done).map(drop)
    }

    pub(crate) fn publish(
        &self,
        volume: &str,
        stage: &Path,
        at: &Path,
        capability: impl Into<VolumeCapability>,
    ) -> Result<(), Refused> {
        let asked = NodePublishVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: text(stage),
            target_path: text(at),
            volume_capability: Some(capability.into()),
            ..Default::default()
        };
        let done = self.kubelet(|mut it| async move { it.node_publish_volume(asked).await });
        answer("NodePublishVolume", done).map(drop)
    }

    pub(crate) fn unpublish(&self, volume: &str, at: &Path) -> Result<(), Refused> {
        let asked = NodeUnpublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: text(at),
        };
        let done = self.kubelet(|mut it| async move { it.node_unpublish_volume(asked).await });
        answer("NodeUnpublishVolume", done).map(drop)
    }

    pub(crate) fn unstage(&self, volume: &str, stage: &Path) -> Result<(), Refused> {
        let asked = NodeUnstageVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: text(stage),
        };
        let done = self.kubelet(|mut it| async move { it.node_unstage_volume(asked).await });
        answer("NodeUnstageVolume", done).map(drop)
    }

    /// Has the controller service grow a volume.
    pub(crate) fn expand(&self, volume: &str, bytes: u64) -> Result<(), Refused> {
        let asked = ControllerExpandVolumeRequest {
            volume_id: volume.to_owned(),
            capacity_range: Some(range(bytes)),
            ..Default::default()
        };
        let done =
            self.controller(|mut it| async move { it.controller_expand_volume(asked).await });
        answer("ControllerExpandVolume", done).map(drop)
    }

    /// Has the node service do the rest.
    pub(crate) fn grow(&self, volume: &str, at: &Path, bytes: u64) -> Result<(), Refused> {
        let asked = NodeExpandVolumeRequest {
            volume_id: volume.to_owned(),
            volume_path: text(at),
            capacity_range: Some(range(bytes)),
            ..Default::default()
        };
        let done = self.kubelet(|mut it| async move { it.node_expand_volume(asked).await });
        answer("NodeExpandVolume", done).map(drop)
    }

    /// Takes a snapshot; its id.
    pub(crate) fn snapshot(&self, name: &str, of: &str) -> Result<String, Refused> {
        const CALL: &str = "CreateSnapshot";
        let asked = CreateSnapshotRequest {
            name: name.to_owned(),
            source_volume_id: of.to_owned(),
            ..Default::default()
        };
        let taken = self.controller(|mut it| async move { it.create_snapshot(asked).await });
        there(CALL, answer(CALL, taken)?.snapshot).map(|snapshot| snapshot.snapshot_id)
    }

    /// Removes a snapshot.
    pub(crate) fn delete_snapshot(&self, snapshot: &str) -> Result<(), Refused> {
        let asked = DeleteSnapshotRequest {
            snapshot_id: snapshot.to_owned(),
            ..Default::default()
        };
        let done = self.controller(|mut it| async move { it.delete_snapshot(asked).await });
        answer("DeleteSnapshot", done).map(drop)
    }

    /// Ids of all volumes.
    pub(crate) fn volumes(&self) -> Result<BTreeSet<String>, Refused> {
        let asked = ListVolumesRequest::default();
        let listed = self.controller(|mut it| async move { it.list_volumes(asked).await });
        let entries = answer("ListVolumes", listed)?.entries.into_iter();
        let volumes = entries.filter_map(|entry| entry.volume);
        Ok(volumes.map(|volume| volume.volume_id).collect())
    }

    /// Ids of all snapshots.
    pub(crate) fn all_snapshots(&self) -> Result<BTreeSet<String>, Refused> {
        let asked = ListSnapshotsRequest::default();
        let listed = self.controller(|mut it| async move { it.list_snapshots(asked).await });
        let entries = answer("ListSnapshots", listed)?.entries.into_iter();
        let snapshots = entries.filter_map(|entry| entry.snapshot);
        Ok(snapshots.map(|snapshot| snapshot.snapshot_id).collect())
    }
}

fn endpoint(socket: &Path) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(format!(
        "unix://{}",
        socket.display()
    ))?)
}

fn runtime() -> Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    Ok(runtime.worker_threads(2).enable_all().build()?)
}
