//! The Identity service: who the driver is and what it can.

use super::Driver;
use node_api::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse,
    identity_server::Identity,
    plugin_capability::{
        self, Service, VolumeExpansion, service::Type as ServiceType,
        volume_expansion::Type as ExpansionType,
    },
};
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(info(&self.name)))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(capabilities([
            ServiceType::ControllerService,
            ServiceType::VolumeAccessibilityConstraints,
            ServiceType::GroupControllerService,
            ServiceType::SnapshotMetadataService,
            ServiceType::SnapshotAccessibilityConstraints,
        ])))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        // It is served once its pool is whole.
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

/// Who a driver of this name is.
pub(super) fn info(name: &str) -> GetPluginInfoResponse {
    GetPluginInfoResponse {
        name: name.to_owned(),
        vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
        manifest: [].into(),
    }
}

/// That a driver has these services, and that volumes grow while pods have them.
pub(super) fn capabilities<const N: usize>(
    services: [ServiceType; N],
) -> GetPluginCapabilitiesResponse {
    let services = services.map(|kind| {
        plugin_capability::Type::Service(Service {
            r#type: kind.into(),
        })
    });
    let growth = plugin_capability::Type::VolumeExpansion(VolumeExpansion {
        r#type: ExpansionType::Online.into(),
    });
    let all = services.into_iter().chain([growth]);
    GetPluginCapabilitiesResponse {
        capabilities: all
            .map(|kind| PluginCapability { r#type: Some(kind) })
            .collect(),
    }
}
