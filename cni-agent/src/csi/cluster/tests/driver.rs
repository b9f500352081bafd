//! A driver that remembers: it makes what it is asked for as the real one answers, without a disk.

use node_api::csi::{self, controller_server::Controller};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};
use tonic::{Request, Response, Status};

/// What it has.
#[derive(Default)]
pub(super) struct Pool {
    /// By name: id and bytes.
    pub(super) volumes: BTreeMap<String, (String, i64)>,
    /// By name: id and what it is of.
    pub(super) snapshots: BTreeMap<String, (String, String)>,
    pub(super) published: Vec<String>,
    pub(super) room: i64,
    /// Answers everything that changes something, if set.
    pub(super) refuses: Option<Status>,
    /// Parameters of the last change of a volume.
    pub(super) modified: Option<BTreeMap<String, String>>,
    pub(super) asked: Vec<csi::CreateVolumeRequest>,
    /// How often a volume was asked for.
    pub(super) tried: usize,
    /// Its volumes have no file system of their own that the node would grow.
    pub(super) folders: bool,
    /// What it tells of its room; none: the truth.
    pub(super) tells: Option<Result<i64, Status>>,
}

pub(super) struct Remembering {
    pub(super) node: String,
    pool: Mutex<Pool>,
}

type Answer<T> = Result<Response<T>, Status>;

fn done<T: Default>() -> Answer<T> {
    Ok(Response::new(T::default()))
}

fn nothing<T>() -> Answer<T> {
    Err(Status::unimplemented("nobody asks for it here"))
}

impl Remembering {
    pub(super) fn of(node: &str) -> std::sync::Arc<Self> {
        let room = 100 << 30;
        std::sync::Arc::new(Self {
            node: node.into(),
            pool: Mutex::new(Pool {
                room,
                ..Pool::default()
            }),
        })
    }

    pub(super) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap()
    }

    fn willing(&self) -> Result<MutexGuard<'_, Pool>, Status> {
        let pool = self.pool();
        match &pool.refuses {
            Some(status) => Err(status.clone()),
            None => Ok(pool),
        }
    }
}

impl Pool {
    fn has_snapshot(&self, wanted: &str) -> bool {
        self.snapshots.values().any(|(id, _)| id == wanted)
    }

    fn has_volume(&self, wanted: &str) -> bool {
        self.volumes.values().any(|(id, _)| id == wanted)
    }

    /// As the real one answers: with nodes to choose from, another may have the source.
    fn look_for_source(&self, asked: &csi::CreateVolumeRequest) -> Result<(), Status> {
        use csi::volume_content_source::Type;
        let source = asked.volume_content_source.as_ref();
        let has = match source.and_then(|source| source.r#type.as_ref()) {
            None => true,
            Some(Type::Snapshot(of)) => self.has_snapshot(&of.snapshot_id),
            Some(Type::Volume(of)) => self.has_volume(&of.volume_id),
        };
        match (has, &asked.accessibility_requirements) {
            (true, _) => Ok(()),
            (false, Some(_)) => Err(Status::resource_exhausted(
                "the source of the volume is on another node",
            )),
            (false, None) => Err(Status::not_found("the source of the volume is not there")),
        }
    }
}

#[tonic::async_trait]
impl Controller for Remembering {
    async fn create_volume(
        &self,
        asked: Request<csi::CreateVolumeRequest>,
    ) -> Answer<csi::CreateVolumeResponse> {
        // Something else may happen meanwhile.
        tokio::task::yield_now().await;
        let asked = asked.into_inner();
        self.pool().tried += 1;
        let mut pool = self.willing()?;
        pool.look_for_source(&asked)?;
        let bytes = asked.capacity_range.unwrap_or_default().required_bytes;
        let id = format!("vol-{}-{}", self.node, pool.volumes.len());
        if !pool.volumes.contains_key(&asked.name) {
            if bytes > pool.room {
                return Err(Status::resource_exhausted("no room"));
            }
            pool.room -= bytes;
            pool.volumes.insert(asked.name.clone(), (id, bytes));
        }
        let (volume_id, capacity_bytes) = pool.volumes[&asked.name].clone();
        pool.asked.push(asked.clone());
        let segments = [("t/node".to_owned(), self.node.clone())].into();
        Ok(Response::new(csi::CreateVolumeResponse {
            volume: Some(csi::Volume {
                capacity_bytes,
                volume_id,
                content_source: asked.volume_content_source,
                accessible_topology: vec![csi::Topology { segments }],
                ..csi::Volume::default()
            }),
        }))
    }

    async fn delete_volume(
        &self,
        asked: Request<csi::DeleteVolumeRequest>,
    ) -> Answer<csi::DeleteVolumeResponse> {
        let id = &asked.get_ref().volume_id;
        self.willing()?.volumes.retain(|_, (of, _)| of != id);
        done()
    }

    async fn controller_publish_volume(
        &self,
        asked: Request<csi::ControllerPublishVolumeRequest>,
    ) -> Answer<csi::ControllerPublishVolumeResponse> {
        let id = asked.into_inner().volume_id;
        self.willing()?.published.push(id);
        let publish_context = [("device".to_owned(), "x".to_owned())].into();
        Ok(Response::new(csi::ControllerPublishVolumeResponse {
            publish_context,
        }))
    }

    async fn controller_unpublish_volume(
        &self,
        asked: Request<csi::ControllerUnpublishVolumeRequest>,
    ) -> Answer<csi::ControllerUnpublishVolumeResponse> {
        let id = &asked.get_ref().volume_id;
        self.willing()?.published.retain(|of| of != id);
        done()
    }

    async fn validate_volume_capabilities(
        &self,
        _: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<csi::ValidateVolumeCapabilitiesResponse> {
        nothing()
    }

    async fn list_volumes(
        &self,
        _: Request<csi::ListVolumesRequest>,
    ) -> Answer<csi::ListVolumesResponse> {
        nothing()
    }

    async fn get_capacity(
        &self,
        _: Request<csi::GetCapacityRequest>,
    ) -> Answer<csi::GetCapacityResponse> {
        let pool = self.pool();
        let available_capacity = pool.tells.clone().unwrap_or(Ok(pool.room))?;
        Ok(Response::new(csi::GetCapacityResponse {
            available_capacity,
            maximum_volume_size: Some(available_capacity),
            minimum_volume_size: None,
        }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Answer<csi::ControllerGetCapabilitiesResponse> {
        use csi::controller_service_capability::{Rpc, Type, rpc};
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse {
            capabilities: vec![csi::ControllerServiceCapability {
                r#type: Some(Type::Rpc(Rpc {
                    r#type: rpc::Type::ModifyVolume.into(),
                })),
            }],
        }))
    }

    async fn create_snapshot(
        &self,
        asked: Request<csi::CreateSnapshotRequest>,
    ) -> Answer<csi::CreateSnapshotResponse> {
        let asked = asked.into_inner();
        let mut pool = self.willing()?;
        let id = format!("snap-{}-{}", self.node, pool.snapshots.len());
        let new = (id, asked.source_volume_id);
        let (snapshot_id, source_volume_id) =
            pool.snapshots.entry(asked.name).or_insert(new).clone();
        Ok(Response::new(csi::CreateSnapshotResponse {
            snapshot: Some(csi::Snapshot {
                size_bytes: 1 << 30,
                snapshot_id,
                source_volume_id,
                creation_time: Some(prost_types::Timestamp {
                    seconds: 7,
                    nanos: 5,
                }),
                ready_to_use: true,
                ..csi::Snapshot::default()
            }),
        }))
    }

    async fn delete_snapshot(
        &self,
        asked: Request<csi::DeleteSnapshotRequest>,
    ) -> Answer<csi::DeleteSnapshotResponse> {
        let id = &asked.get_ref().snapshot_id;
        self.willing()?.snapshots.retain(|_, (of, _)| of != id);
        done()
    }

    async fn list_snapshots(
        &self,
        _: Request<csi::ListSnapshotsRequest>,
    ) -> Answer<csi::ListSnapshotsResponse> {
        nothing()
    }

    async fn get_snapshot(
        &self,
        asked: Request<csi::GetSnapshotRequest>,
    ) -> Answer<csi::GetSnapshotResponse> {
        match self.pool().has_snapshot(&asked.get_ref().snapshot_id) {
            true => done(),
            false => Err(Status::not_found("no such snapshot")),
        }
    }

    async fn controller_expand_volume(
        &self,
        asked: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Answer<csi::ControllerExpandVolumeResponse> {
        let asked = asked.into_inner();
        let mut pool = self.willing()?;
        let mut volumes = pool.volumes.values_mut();
        let of = volumes.find(|(id, _)| *id == asked.volume_id);
        let of = of.ok_or_else(|| Status::not_found("no such volume"))?;
        of.1 = asked.capacity_range.unwrap_or_default().required_bytes;
        let capacity_bytes = of.1;
        Ok(Response::new(csi::ControllerExpandVolumeResponse {
            capacity_bytes,
            node_expansion_required: !pool.folders,
        }))
    }

    async fn controller_get_volume(
        &self,
        asked: Request<csi::ControllerGetVolumeRequest>,
    ) -> Answer<csi::ControllerGetVolumeResponse> {
        match self.pool().has_volume(&asked.get_ref().volume_id) {
            true => done(),
            false => Err(Status::not_found("no such volume")),
        }
    }

    async fn controller_modify_volume(
        &self,
        asked: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Answer<csi::ControllerModifyVolumeResponse> {
        let asked = asked.into_inner();
        self.willing()?.modified = Some(asked.mutable_parameters.into_iter().collect());
        done()
    }

    async fn controller_get_volume_health(
        &self,
        _: Request<csi::ControllerGetVolumeHealthRequest>,
    ) -> Answer<csi::ControllerGetVolumeHealthResponse> {
        nothing()
    }

    async fn controller_list_volume_health(
        &self,
        _: Request<csi::ControllerListVolumeHealthRequest>,
    ) -> Answer<csi::ControllerListVolumeHealthResponse> {
        nothing()
    }
}
