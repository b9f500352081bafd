//! The Controller service: volumes and snapshots of this node's pool. Arguments are read first, whatever they name.

use super::{
    Driver,
    fault::Fault,
    health,
    id::{SnapshotId, VolumeId},
    limits::Limits,
    records::{Phase, Snapshot, Source, Volume},
    request::{self, Backing, Capability},
    volumes::{Volumes, Wanted},
};
use node_api::csi::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
    ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse,
    ControllerGetVolumeHealthRequest, ControllerGetVolumeHealthResponse,
    ControllerGetVolumeRequest, ControllerGetVolumeResponse, ControllerListVolumeHealthRequest,
    ControllerListVolumeHealthResponse, ControllerModifyVolumeRequest,
    ControllerModifyVolumeResponse, ControllerPublishVolumeRequest,
    ControllerPublishVolumeResponse, ControllerServiceCapability, ControllerUnpublishVolumeRequest,
    ControllerUnpublishVolumeResponse, CreateSnapshotRequest, CreateSnapshotResponse,
    CreateVolumeRequest, CreateVolumeResponse, DeleteSnapshotRequest, DeleteSnapshotResponse,
    DeleteVolumeRequest, DeleteVolumeResponse, GetCapacityRequest, GetCapacityResponse,
    GetSnapshotRequest, GetSnapshotResponse, ListSnapshotsRequest, ListSnapshotsResponse,
    ListVolumesRequest, ListVolumesResponse, Snapshot as ApiSnapshot, Topology,
    TopologyRequirement, ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
    Volume as ApiVolume, VolumeContentSource, controller_get_volume_response,
    controller_server::Controller,
    controller_service_capability::{Rpc, Type, rpc::Type as RpcType},
    list_snapshots_response, list_volumes_response, validate_volume_capabilities_response,
    volume_content_source::{self, SnapshotSource, VolumeSource},
};
use prost_types::Timestamp;
use tonic::{Code, Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

const CAN: [RpcType; 16] = [
    RpcType::CreateDeleteVolume,
    RpcType::PublishUnpublishVolume,
    RpcType::ListVolumes,
    RpcType::GetCapacity,
    RpcType::CreateDeleteSnapshot,
    RpcType::ListSnapshots,
    RpcType::CloneVolume,
    RpcType::PublishReadonly,
    RpcType::ExpandVolume,
    RpcType::ListVolumesPublishedNodes,
    RpcType::GetVolume,
    RpcType::SingleNodeMultiWriter,
    RpcType::GetSnapshot,
    RpcType::GetVolumeHealth,
    RpcType::ListVolumeHealth,
    RpcType::ModifyVolume,
];

fn source(asked: Option<&VolumeContentSource>) -> Result<Option<Source>, Fault> {
    use volume_content_source::Type as Of;
    const FIELD: &str = "volume_content_source";
    let Some(asked) = asked else {
        return Ok(None);
    };
    let nobody = || Fault::NotFound("the source of the volume is not there".into());
    match &asked.r#type {
        None => Err(Fault::invalid(FIELD, "is neither a snapshot nor a volume")),
        Some(Of::Snapshot(of)) if of.snapshot_id.is_empty() => {
            Err(Fault::missing("volume_content_source.snapshot.snapshot_id"))
        }
        Some(Of::Volume(of)) if of.volume_id.is_empty() => {
            Err(Fault::missing("volume_content_source.volume.volume_id"))
        }
        Some(Of::Snapshot(of)) => SnapshotId::parse(&of.snapshot_id)
            .map(Source::Snapshot)
            .map(Some)
            .ok_or_else(nobody),
        Some(Of::Volume(of)) => VolumeId::parse(&of.volume_id)
            .map(Source::Volume)
            .map(Some)
            .ok_or_else(nobody),
    }
}

pub(super) fn id<'a>(field: &'static str, id: &'a str) -> Result<&'a str, Fault> {
    match id.is_empty() {
        true => Err(Fault::missing(field)),
        false => Ok(id),
    }
}

impl Driver {
    fn volume(&self, volume: &Volume) -> ApiVolume {
        let content_source = volume.source.as_ref().map(|source| VolumeContentSource {
            r#type: Some(match source {
                Source::Snapshot(of) => volume_content_source::Type::Snapshot(SnapshotSource {
                    snapshot_id: of.to_string(),
                }),
                Source::Volume(of) => volume_content_source::Type::Volume(VolumeSource {
                    volume_id: of.to_string(),
                }),
            }),
        });
        ApiVolume {
            capacity_bytes: i64::try_from(volume.bytes).unwrap_or(i64::MAX),
            volume_id: volume.id.to_string(),
            volume_context: [].into(),
            content_source,
            accessible_topology: vec![self.topology()],
        }
    }

    /// Whether this node is one of those where a volume may be.
    fn is_meant(&self, asked: Option<&TopologyRequirement>) -> Result<(), Fault> {
        let own = self.topology();
        let requisite = asked.map_or(&[][..], |asked| asked.requisite.as_slice());
        let here = |topology: &Topology| {
            topology
                .segments
                .iter()
                .all(|(key, value)| own.segments.get(key) == Some(value))
        };
        match requisite.is_empty() || requisite.iter().any(here) {
            true => Ok(()),
            // The scheduler then tries another node.
            false => Err(Fault::Exhausted(
                "the volume is to be on other nodes than this one".into(),
            )),
        }
    }

    fn published(volume: &Volume, node: &str) -> Vec<String> {
        volume.published.iter().map(|_| node.to_owned()).collect()
    }
}

/// When something was cut.
pub(super) fn timestamp(ns: i64) -> Timestamp {
    const SECOND: i64 = 1_000_000_000;
    Timestamp {
        seconds: ns / SECOND,
        nanos: i32::try_from(ns % SECOND).unwrap_or(0),
    }
}

pub(super) fn snapshot(of: &Snapshot, topology: Topology) -> ApiSnapshot {
    ApiSnapshot {
        size_bytes: i64::try_from(of.bytes).unwrap_or(i64::MAX),
        snapshot_id: of.id.to_string(),
        source_volume_id: of.of.to_string(),
        creation_time: Some(timestamp(of.made_at_ns)),
        ready_to_use: of.phase == Phase::Ready,
        group_snapshot_id: of
            .group
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        accessible_topology: vec![topology],
    }
}

/// A page of a list in the order of its ids: what it holds and the token of the next one. A token is the id that the
/// next page begins with, so that what comes and goes in between moves nothing.
fn page<'a, K: Ord + AsRef<str>, T>(
    all: impl Iterator<Item = (K, &'a T)>,
    token: &str,
    is_token: impl Fn(&str) -> bool,
    most: i32,
) -> Result<(Vec<&'a T>, String), Fault> {
    if !token.is_empty() && !is_token(token) {
        return Err(Fault::Busy(
            "starting_token is none that was given; begin the list anew".into(),
        ));
    }
    let most = usize::try_from(most).map_err(|_| Fault::invalid("max_entries", "is negative"))?;
    let mut rest = all.filter(|(key, _)| key.as_ref() >= token);
    let most = if most == 0 { usize::MAX } else { most };
    let entries = rest.by_ref().take(most).map(|(_, value)| value).collect();
    let next = rest
        .next()
        .map_or_else(String::new, |(key, _)| key.as_ref().to_owned());
    Ok((entries, next))
}

/// That a controller can do this.
pub(super) fn capabilities<const N: usize>(can: [RpcType; N]) -> ControllerGetCapabilitiesResponse {
    let capabilities = can.map(|kind| ControllerServiceCapability {
        r#type: Some(Type::Rpc(Rpc {
            r#type: kind.into(),
        })),
    });
    ControllerGetCapabilitiesResponse {
        capabilities: capabilities.into(),
    }
}

/// What a provisioner is told of a source that has a name of ours and isn't here: after this answer alone it asks another
/// node, which may have it.
fn elsewhere(status: Status, may_be_elsewhere: bool) -> Status {
    match status.code() {
        Code::NotFound if may_be_elsewhere => {
            Fault::Exhausted("the source of the volume is on another node".into()).into()
        }
        _ => status,
    }
}

#[tonic::async_trait]
impl Controller for Driver {
    async fn create_volume(
        &self,
        asked: Request<CreateVolumeRequest>,
    ) -> Answer<CreateVolumeResponse> {
        let asked = asked.into_inner();
        let wanted = Wanted {
            name: request::name("name", &asked.name)?,
            capabilities: request::capabilities(&asked.volume_capabilities)?,
            parameters: request::parameters(&asked.parameters)?,
            source: source(asked.volume_content_source.as_ref())?,
            range: asked.capacity_range,
            limits: Limits::read(&asked.mutable_parameters)?,
            claim: request::claim(&asked.name, &asked.parameters),
        };
        self.is_meant(asked.accessibility_requirements.as_ref())?;
        let may_be_elsewhere =
            wanted.source.is_some() && asked.accessibility_requirements.is_some();
        let made = self.blocking(move |volumes| volumes.create(&wanted)).await;
        let volume = made.map_err(|status| elsewhere(status, may_be_elsewhere))?;
        Ok(Response::new(CreateVolumeResponse {
            volume: Some(self.volume(&volume)),
        }))
    }

    async fn delete_volume(
        &self,
        asked: Request<DeleteVolumeRequest>,
    ) -> Answer<DeleteVolumeResponse> {
        let handle = id("volume_id", &asked.get_ref().volume_id)?.to_owned();
        self.blocking(move |volumes| volumes.delete(&handle))
            .await?;
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn controller_publish_volume(
        &self,
        asked: Request<ControllerPublishVolumeRequest>,
    ) -> Answer<ControllerPublishVolumeResponse> {
        let asked = asked.into_inner();
        let handle = id("volume_id", &asked.volume_id)?.to_owned();
        let node = id("node_id", &asked.node_id)?.to_owned();
        let capability = request::capability(asked.volume_capability.as_ref())?;
        let readonly = asked.readonly;
        self.blocking(move |volumes| volumes.attach_to(&handle, &node, &capability, readonly))
            .await?;
        Ok(Response::new(ControllerPublishVolumeResponse {
            publish_context: [].into(),
        }))
    }

    async fn controller_unpublish_volume(
        &self,
        asked: Request<ControllerUnpublishVolumeRequest>,
    ) -> Answer<ControllerUnpublishVolumeResponse> {
        let asked = asked.into_inner();
        let handle = id("volume_id", &asked.volume_id)?.to_owned();
        self.blocking(move |volumes| volumes.detach_from(&handle, &asked.node_id))
            .await?;
        Ok(Response::new(ControllerUnpublishVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        asked: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<ValidateVolumeCapabilitiesResponse> {
        let asked = asked.into_inner();
        let handle = id("volume_id", &asked.volume_id)?;
        if asked.volume_capabilities.is_empty() {
            return Err(Fault::missing("volume_capabilities").into());
        }
        let volume = self.volumes.found(handle)?;
        let read: Result<Vec<Capability>, Fault> = asked
            .volume_capabilities
            .iter()
            .map(|asked| request::capability(Some(asked)))
            .collect();
        let problem = match read {
            Err(fault) => Some(fault.to_string()),
            Ok(read) => (!read.iter().all(|capability| volume.suits(capability)))
                .then(|| "the volume can't be used in each of these ways".to_owned()),
        };
        let parameters = request::parameters(&asked.parameters);
        let problem = problem.or(parameters.err().map(|fault| fault.to_string()));
        let limits = Limits::read(&asked.mutable_parameters)
            .and_then(|limits| limits.fit(volume.backing, volume.project.is_some()));
        let problem = problem.or(limits.err().map(|fault| fault.to_string()));
        let confirmed =
            problem
                .is_none()
                .then_some(validate_volume_capabilities_response::Confirmed {
                    volume_context: asked.volume_context,
                    volume_capabilities: asked.volume_capabilities,
                    parameters: asked.parameters,
                    mutable_parameters: asked.mutable_parameters,
                });
        Ok(Response::new(ValidateVolumeCapabilitiesResponse {
            confirmed,
            message: problem.unwrap_or_default(),
        }))
    }

    async fn list_volumes(
        &self,
        asked: Request<ListVolumesRequest>,
    ) -> Answer<ListVolumesResponse> {
        let asked = asked.into_inner();
        let contents = self.volumes.book.read();
        let ready = contents
            .volumes
            .iter()
            .filter(|(_, of)| of.phase == Phase::Ready && !of.inline);
        let ready = ready.map(|(id, of)| (id.as_str(), of));
        let is_token = |token: &str| VolumeId::parse(token).is_some();
        let (entries, next_token) =
            page(ready, &asked.starting_token, is_token, asked.max_entries)?;
        let entries = entries.into_iter().map(|of| list_volumes_response::Entry {
            volume: Some(self.volume(of)),
            status: Some(list_volumes_response::VolumeStatus {
                published_node_ids: Self::published(of, &self.volumes.node),
            }),
        });
        Ok(Response::new(ListVolumesResponse {
            entries: entries.collect(),
            next_token,
        }))
    }

    async fn get_capacity(
        &self,
        asked: Request<GetCapacityRequest>,
    ) -> Answer<GetCapacityResponse> {
        let asked = asked.into_inner();
        let own = self.topology();
        let elsewhere = asked.accessible_topology.is_some_and(|asked| {
            asked
                .segments
                .iter()
                .any(|(key, value)| own.segments.get(key) != Some(value))
        });
        let capabilities = asked.volume_capabilities.iter();
        let capabilities: Result<Vec<Capability>, Fault> = capabilities
            .map(|asked| request::capability(Some(asked)))
            .collect();
        let (Ok(parameters), Ok(capabilities), false) = (
            request::parameters(&asked.parameters),
            capabilities,
            elsewhere,
        ) else {
            return Ok(Response::new(GetCapacityResponse::default()));
        };
        let available = self
            .blocking(move |volumes| volumes.capacity_for(&parameters, &capabilities))
            .await?;
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(Response::new(GetCapacityResponse {
            available_capacity: bytes(available),
            maximum_volume_size: Some(bytes(available)),
            minimum_volume_size: None,
        }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Answer<ControllerGetCapabilitiesResponse> {
        Ok(Response::new(capabilities(CAN)))
    }

    async fn create_snapshot(
        &self,
        asked: Request<CreateSnapshotRequest>,
    ) -> Answer<CreateSnapshotResponse> {
        let asked = asked.into_inner();
        let name = request::name("name", &asked.name)?;
        let of = id("source_volume_id", &asked.source_volume_id)?.to_owned();
        self.is_meant(asked.accessibility_requirements.as_ref())?;
        let taken = self
            .blocking(move |volumes| volumes.snapshot(&name, &of))
            .await?;
        // Where it can be had is optional here, and lists tell it: csi-test 5.6.0 compares this field with
        // what else its own decoder keeps of a message, which is never the same.
        let taken = ApiSnapshot {
            accessible_topology: Vec::new(),
            ..snapshot(&taken, self.topology())
        };
        Ok(Response::new(CreateSnapshotResponse {
            snapshot: Some(taken),
        }))
    }

    async fn delete_snapshot(
        &self,
        asked: Request<DeleteSnapshotRequest>,
    ) -> Answer<DeleteSnapshotResponse> {
        let handle = id("snapshot_id", &asked.get_ref().snapshot_id)?.to_owned();
        self.blocking(move |volumes| volumes.delete_snapshot(&handle))
            .await?;
        Ok(Response::new(DeleteSnapshotResponse {}))
    }

    async fn list_snapshots(
        &self,
        asked: Request<ListSnapshotsRequest>,
    ) -> Answer<ListSnapshotsResponse> {
        let asked = asked.into_inner();
        let contents = self.volumes.book.read();
        let wanted = |of: &Snapshot| {
            let is = |field: &str, id: &str| field.is_empty() || field == id;
            of.phase == Phase::Ready
                && is(&asked.snapshot_id, of.id.as_str())
                && is(&asked.source_volume_id, of.of.as_str())
        };
        let ready = contents.snapshots.iter().filter(|(_, of)| wanted(of));
        let ready = ready.map(|(id, of)| (id.as_str(), of));
        let is_token = |token: &str| SnapshotId::parse(token).is_some();
        let (entries, next_token) =
            page(ready, &asked.starting_token, is_token, asked.max_entries)?;
        let entries = entries
            .into_iter()
            .map(|of| list_snapshots_response::Entry {
                snapshot: Some(snapshot(of, self.topology())),
            });
        Ok(Response::new(ListSnapshotsResponse {
            entries: entries.collect(),
            next_token,
        }))
    }

    async fn get_snapshot(
        &self,
        asked: Request<GetSnapshotRequest>,
    ) -> Answer<GetSnapshotResponse> {
        let handle = id("snapshot_id", &asked.get_ref().snapshot_id)?;
        let found = self.volumes.ready(handle)?;
        Ok(Response::new(GetSnapshotResponse {
            snapshot: Some(snapshot(&found, self.topology())),
        }))
    }

    async fn controller_expand_volume(
        &self,
        asked: Request<ControllerExpandVolumeRequest>,
    ) -> Answer<ControllerExpandVolumeResponse> {
        let asked = asked.into_inner();
        let handle = id("volume_id", &asked.volume_id)?.to_owned();
        let range = asked
            .capacity_range
            .ok_or_else(|| Fault::missing("capacity_range"))?;
        request::size(Some(&range), None)?;
        let of = handle.clone();
        let expanded = self.blocking(move |volumes| volumes.expand(&handle, &range));
        let volume = expanded.await.inspect_err(|why| self.refused(&of, why))?;
        Ok(Response::new(ControllerExpandVolumeResponse {
            capacity_bytes: i64::try_from(volume.bytes).unwrap_or(i64::MAX),
            // Its device, and its file system.
            node_expansion_required: volume.backing == Backing::Image,
        }))
    }

    async fn controller_get_volume(
        &self,
        asked: Request<ControllerGetVolumeRequest>,
    ) -> Answer<ControllerGetVolumeResponse> {
        let handle = id("volume_id", &asked.get_ref().volume_id)?;
        let volume = self.volumes.found(handle)?;
        Ok(Response::new(ControllerGetVolumeResponse {
            volume: Some(self.volume(&volume)),
            status: Some(controller_get_volume_response::VolumeStatus {
                published_node_ids: Self::published(&volume, &self.volumes.node),
            }),
        }))
    }

    async fn controller_modify_volume(
        &self,
        asked: Request<ControllerModifyVolumeRequest>,
    ) -> Answer<ControllerModifyVolumeResponse> {
        let asked = asked.into_inner();
        let handle = id("volume_id", &asked.volume_id)?.to_owned();
        let limits = Limits::read(&asked.mutable_parameters)?;
        self.blocking(move |volumes| volumes.modify(&handle, limits))
            .await?;
        Ok(Response::new(ControllerModifyVolumeResponse {}))
    }

    async fn controller_get_volume_health(
        &self,
        asked: Request<ControllerGetVolumeHealthRequest>,
    ) -> Answer<ControllerGetVolumeHealthResponse> {
        let handle = id("volume_id", &asked.get_ref().volume_id)?;
        let volume = self.volumes.found(handle)?;
        let name = volume.id.to_string();
        let ill = self
            .blocking(move |volumes| volumes.illnesses(&volume))
            .await?;
        Ok(Response::new(ControllerGetVolumeHealthResponse {
            volume_health: Some(health::told(&name, &ill)),
        }))
    }

    async fn controller_list_volume_health(
        &self,
        asked: Request<ControllerListVolumeHealthRequest>,
    ) -> Answer<ControllerListVolumeHealthResponse> {
        let asked = asked.into_inner();
        let ill = self.blocking(Volumes::all_illnesses).await?;
        let all = ill.iter().map(|of| (of.0.as_str(), of));
        let is_token = |token: &str| VolumeId::parse(token).is_some();
        let (entries, next_token) = page(all, &asked.starting_token, is_token, asked.max_entries)?;
        let entries = entries.into_iter().map(|(id, ill)| health::told(id, ill));
        Ok(Response::new(ControllerListVolumeHealthResponse {
            entries: entries.collect(),
            next_token,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_another_node_may_have_has_the_provisioner_ask_on() {
        let code = |code, may_be| elsewhere(Status::new(code, ""), may_be).code();
        assert_eq!(code(Code::NotFound, true), Code::ResourceExhausted);
        assert_eq!(code(Code::NotFound, false), Code::NotFound);
        assert_eq!(code(Code::Aborted, true), Code::Aborted);
    }

    #[test]
    fn a_list_is_read_in_pages_that_begin_where_the_one_before_ended() {
        let values = [("a", 1), ("b", 2), ("c", 3)];
        let all = || values.iter().map(|(key, value)| (*key, value));
        let is_token = |token: &str| token.len() == 1;
        let read = |token, most| {
            page(all(), token, is_token, most)
                .map(|(entries, next)| (entries.into_iter().copied().collect::<Vec<i32>>(), next))
        };
        assert_eq!(read("", 0), Ok((vec![1, 2, 3], String::new())));
        assert_eq!(read("", 2), Ok((vec![1, 2], "c".into())));
        assert_eq!(read("c", 0), Ok((vec![3], String::new())));
        assert_eq!(read("bb", 0).unwrap_err().code(), tonic::Code::Aborted);
        assert_eq!(
            read("", -1).unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
    }
}
