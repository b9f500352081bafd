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
        Ok(Response::new(GetPluginInfoResponse {
            name: self.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: [].into(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let service = |kind: ServiceType| {
            plugin_capability::Type::Service(Service {
                r#type: kind.into(),
            })
        };
        let expansion = |kind: ExpansionType| {
            plugin_capability::Type::VolumeExpansion(VolumeExpansion {
                r#type: kind.into(),
            })
        };
        let all = [
            service(ServiceType::ControllerService),
            service(ServiceType::VolumeAccessibilityConstraints),
            service(ServiceType::GroupControllerService),
            service(ServiceType::SnapshotMetadataService),
            service(ServiceType::SnapshotAccessibilityConstraints),
            expansion(ExpansionType::Online),
        ];
        let capabilities = all.map(|kind| PluginCapability { r#type: Some(kind) });
        Ok(Response::new(GetPluginCapabilitiesResponse {
            capabilities: capabilities.into(),
        }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        // It is served once its pool is whole.
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}
