//! The controller for callers that aren't on a volume's node: of external-attacher and external-resizer one runs in the
//! cluster, beside any agent. A volume is on its node from the beginning, and that node decides at NodeStageVolume and
//! NodeExpandVolume; here only what is asked is checked. A socket of its own, so that the node's own controller keeps
//! telling which volumes it knows.

use super::{
    call_log,
    controller::{capabilities, id},
    fault::Fault,
    identity, listen, request, requested,
};
use crate::{config::CsiConfig, parts::Shutdown};
use node_api::csi::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
    ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse,
    ControllerGetVolumeHealthRequest, ControllerGetVolumeHealthResponse,
    ControllerGetVolumeRequest, ControllerGetVolumeResponse, ControllerListVolumeHealthRequest,
    ControllerListVolumeHealthResponse, ControllerModifyVolumeRequest,
    ControllerModifyVolumeResponse, ControllerPublishVolumeRequest,
    ControllerPublishVolumeResponse, ControllerUnpublishVolumeRequest,
    ControllerUnpublishVolumeResponse, CreateSnapshotRequest, CreateSnapshotResponse,
    CreateVolumeRequest, CreateVolumeResponse, DeleteSnapshotRequest, DeleteSnapshotResponse,
    DeleteVolumeRequest, DeleteVolumeResponse, GetCapacityRequest, GetCapacityResponse,
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, GetSnapshotRequest, GetSnapshotResponse, ListSnapshotsRequest,
    ListSnapshotsResponse, ListVolumesRequest, ListVolumesResponse, ProbeRequest, ProbeResponse,
    ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
    controller_server::{Controller, ControllerServer},
    controller_service_capability::rpc::Type as RpcType,
    identity_server::{Identity, IdentityServer},
    plugin_capability::service::Type as ServiceType,
};
use tonic::{Request, Response, Status, service::Routes, transport::Server};

type Answer<T> = Result<Response<T>, Status>;

const CAN: [RpcType; 3] = [
    RpcType::PublishUnpublishVolume,
    RpcType::ExpandVolume,
    RpcType::SingleNodeMultiWriter,
];

/// Answers for the volumes of all nodes, and knows none.
#[derive(Clone, Debug)]
struct Anywhere {
    driver: String,
}

/// Serves it until `shutdown`.
///
/// # Errors
/// When its socket can't be had, worded for people.
pub(super) async fn serve(config: &CsiConfig, shutdown: Shutdown) -> Result<(), String> {
    let socket = config.controller_socket();
    let fault = |error: &dyn std::fmt::Display| format!("socket {}: {error}", socket.display());
    let listener = listen::bind(&socket).map_err(|error| fault(&error))?;
    let anywhere = Anywhere {
        driver: config.driver.clone(),
    };
    let services = Routes::new(IdentityServer::new(anywhere.clone()))
        .add_service(ControllerServer::new(anywhere))
        .into_axum_router()
        .layer(axum::middleware::from_fn(call_log::log));
    Server::builder()
        .add_routes(services.into())
        .serve_with_incoming_shutdown(listen::connections(listener), requested(shutdown))
        .await
        .map_err(|error| fault(&error))
}

#[tonic::async_trait]
impl Identity for Anywhere {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Answer<GetPluginInfoResponse> {
        Ok(Response::new(identity::info(&self.driver)))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Answer<GetPluginCapabilitiesResponse> {
        Ok(Response::new(identity::capabilities([
            ServiceType::ControllerService,
            ServiceType::VolumeAccessibilityConstraints,
        ])))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Answer<ProbeResponse> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

#[tonic::async_trait]
impl Controller for Anywhere {
    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Answer<ControllerGetCapabilitiesResponse> {
        Ok(Response::new(capabilities(CAN)))
    }

    async fn controller_publish_volume(
        &self,
        asked: Request<ControllerPublishVolumeRequest>,
    ) -> Answer<ControllerPublishVolumeResponse> {
        let asked = asked.into_inner();
        id("volume_id", &asked.volume_id)?;
        id("node_id", &asked.node_id)?;
        request::capability(asked.volume_capability.as_ref())?;
        Ok(Response::new(ControllerPublishVolumeResponse {
            publish_context: [].into(),
        }))
    }

    async fn controller_unpublish_volume(
        &self,
        asked: Request<ControllerUnpublishVolumeRequest>,
    ) -> Answer<ControllerUnpublishVolumeResponse> {
        id("volume_id", &asked.get_ref().volume_id)?;
        Ok(Response::new(ControllerUnpublishVolumeResponse {}))
    }

    async fn controller_expand_volume(
        &self,
        asked: Request<ControllerExpandVolumeRequest>,
    ) -> Answer<ControllerExpandVolumeResponse> {
        let asked = asked.into_inner();
        id("volume_id", &asked.volume_id)?;
        let range = asked
            .capacity_range
            .ok_or_else(|| Fault::missing("capacity_range"))?;
        let bytes = request::size(Some(&range), None)?;
        Ok(Response::new(ControllerExpandVolumeResponse {
            capacity_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            // The node that has the disk looks whether there is room, and takes it.
            node_expansion_required: true,
        }))
    }

    async fn create_volume(&self, _: Request<CreateVolumeRequest>) -> Answer<CreateVolumeResponse> {
        at_its_node()
    }

    async fn delete_volume(&self, _: Request<DeleteVolumeRequest>) -> Answer<DeleteVolumeResponse> {
        at_its_node()
    }

    async fn validate_volume_capabilities(
        &self,
        _: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<ValidateVolumeCapabilitiesResponse> {
        at_its_node()
    }

    async fn list_volumes(&self, _: Request<ListVolumesRequest>) -> Answer<ListVolumesResponse> {
        at_its_node()
    }

    async fn get_capacity(&self, _: Request<GetCapacityRequest>) -> Answer<GetCapacityResponse> {
        at_its_node()
    }

    async fn create_snapshot(
        &self,
        _: Request<CreateSnapshotRequest>,
    ) -> Answer<CreateSnapshotResponse> {
        at_its_node()
    }

    async fn delete_snapshot(
        &self,
        _: Request<DeleteSnapshotRequest>,
    ) -> Answer<DeleteSnapshotResponse> {
        at_its_node()
    }

    async fn list_snapshots(
        &self,
        _: Request<ListSnapshotsRequest>,
    ) -> Answer<ListSnapshotsResponse> {
        at_its_node()
    }

    async fn get_snapshot(&self, _: Request<GetSnapshotRequest>) -> Answer<GetSnapshotResponse> {
        at_its_node()
    }

    async fn controller_get_volume(
        &self,
        _: Request<ControllerGetVolumeRequest>,
    ) -> Answer<ControllerGetVolumeResponse> {
        at_its_node()
    }

    async fn controller_modify_volume(
        &self,
        _: Request<ControllerModifyVolumeRequest>,
    ) -> Answer<ControllerModifyVolumeResponse> {
        at_its_node()
    }

    async fn controller_get_volume_health(
        &self,
        _: Request<ControllerGetVolumeHealthRequest>,
    ) -> Answer<ControllerGetVolumeHealthResponse> {
        at_its_node()
    }

    async fn controller_list_volume_health(
        &self,
        _: Request<ControllerListVolumeHealthRequest>,
    ) -> Answer<ControllerListVolumeHealthResponse> {
        at_its_node()
    }
}

/// Nobody is told here that it could be had.
fn at_its_node<T>() -> Answer<T> {
    Err(Status::unimplemented(
        "a volume's own node answers this; ask the driver's socket there",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_api::csi::CapacityRange;
    use tonic::Code;

    fn anywhere() -> Anywhere {
        Anywhere {
            driver: "csi.example.com".into(),
        }
    }

    fn expand(volume_id: &str, required_bytes: i64) -> Request<ControllerExpandVolumeRequest> {
        Request::new(ControllerExpandVolumeRequest {
            volume_id: volume_id.into(),
            capacity_range: Some(CapacityRange {
                required_bytes,
                limit_bytes: 0,
            }),
            ..Default::default()
        })
    }

    #[tokio::test]
    async fn the_node_of_a_volume_is_left_to_grow_it() {
        let answer = anywhere()
            .controller_expand_volume(expand("vol-of-another-node", 2 << 30))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.capacity_bytes, 2 << 30);
        assert!(answer.node_expansion_required);
    }

    #[tokio::test]
    async fn what_is_missing_is_told_and_what_needs_a_disk_is_refused() {
        let anywhere = anywhere();
        let missing = anywhere.controller_expand_volume(expand("", 2 << 30)).await;
        assert_eq!(missing.unwrap_err().code(), Code::InvalidArgument);
        let negative = anywhere.controller_expand_volume(expand("vol", -1)).await;
        assert_eq!(negative.unwrap_err().code(), Code::InvalidArgument);
        let create = Request::new(CreateVolumeRequest::default());
        let create = anywhere.create_volume(create).await;
        let refused = create.err().map(|status| status.code());
        assert_eq!(refused, Some(Code::Unimplemented));
    }
}
