//! The Node service: what the kubelet asks of this node.

use super::{
    Driver, fault::Fault, health, records::Target, request, staging::Use, volumes::Volumes,
};
use node_api::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
    NodeGetStorageHealthRequest, NodeGetStorageHealthResponse, NodeGetVolumeHealthRequest,
    NodeGetVolumeHealthResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
    NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest, NodeUnstageVolumeResponse,
    StorageHealthErrorType, VolumeUsage,
    node_get_storage_health_response::StorageBackendHealth,
    node_server::Node,
    node_service_capability::{Rpc, Type, rpc::Type as RpcType},
    volume_usage::Unit,
};
use std::path::PathBuf;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

const CAN: [RpcType; 6] = [
    RpcType::StageUnstageVolume,
    RpcType::GetVolumeStats,
    RpcType::ExpandVolume,
    RpcType::SingleNodeMultiWriter,
    RpcType::GetVolumeHealth,
    RpcType::GetStorageHealth,
];
/// Says that a volume lives with its pod.
const INLINE: &str = "csi.storage.k8s.io/ephemeral";

fn handle(id: &str) -> Result<String, Fault> {
    match id.len() {
        0 => Err(Fault::missing("volume_id")),
        1..=128 => Ok(id.to_owned()),
        _ => Err(Fault::NotFound(
            "there is no such volume on this node".into(),
        )),
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        asked: Request<NodeStageVolumeRequest>,
    ) -> Answer<NodeStageVolumeResponse> {
        let asked = asked.into_inner();
        let handle = handle(&asked.volume_id)?;
        let at = request::path("staging_target_path", &asked.staging_target_path)?;
        let capability = request::capability(asked.volume_capability.as_ref())?;
        self.blocking(move |volumes| volumes.stage(&handle, &at, &capability))
            .await?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        asked: Request<NodeUnstageVolumeRequest>,
    ) -> Answer<NodeUnstageVolumeResponse> {
        let asked = asked.into_inner();
        let handle = handle(&asked.volume_id)?;
        let at = request::path("staging_target_path", &asked.staging_target_path)?;
        self.blocking(move |volumes| volumes.unstage(&handle, &at))
            .await?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        asked: Request<NodePublishVolumeRequest>,
    ) -> Answer<NodePublishVolumeResponse> {
        let asked = asked.into_inner();
        let handle = handle(&asked.volume_id)?;
        let at = request::path("target_path", &asked.target_path)?;
        let target = Target {
            capability: request::capability(asked.volume_capability.as_ref())?,
            readonly: asked.readonly,
            pod: request::pod(&asked.volume_context),
        };
        if asked
            .volume_context
            .get(INLINE)
            .is_some_and(|inline| inline == "true")
        {
            let inline =
                super::inline::Inline::read(handle, &asked.volume_context, &target.capability)?;
            self.blocking(move |volumes| volumes.publish_inline(&inline, &at, target))
                .await?;
            return Ok(Response::new(NodePublishVolumeResponse {}));
        }
        let stage = match asked.staging_target_path.as_str() {
            "" => {
                // Whose volume isn't there is told that first.
                self.volumes.found(&handle)?;
                return Err(Fault::Precondition(
                    "staging_target_path is missing: volumes are staged first".into(),
                )
                .into());
            }
            path => request::path("staging_target_path", path)?,
        };
        self.blocking(move |volumes| volumes.publish(&handle, &stage, &at, target))
            .await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        asked: Request<NodeUnpublishVolumeRequest>,
    ) -> Answer<NodeUnpublishVolumeResponse> {
        let asked = asked.into_inner();
        let handle = handle(&asked.volume_id)?;
        let at = request::path("target_path", &asked.target_path)?;
        self.blocking(move |volumes| volumes.unpublish(&handle, &at))
            .await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        asked: Request<NodeGetVolumeStatsRequest>,
    ) -> Answer<NodeGetVolumeStatsResponse> {
        let asked = asked.into_inner();
        let handle = handle(&asked.volume_id)?;
        if asked.volume_path.is_empty() {
            return Err(Fault::missing("volume_path").into());
        }
        let at = PathBuf::from(asked.volume_path);
        let stats = self
            .blocking(move |volumes| volumes.stats(&handle, &at))
            .await?;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let usage = |of: &Use, unit: Unit| VolumeUsage {
            available: number(of.available),
            total: number(of.total),
            used: number(of.used),
            unit: unit.into(),
        };
        let bytes = usage(&stats.bytes, Unit::Bytes);
        let inodes = stats.inodes.as_ref().map(|of| usage(of, Unit::Inodes));
        Ok(Response::new(NodeGetVolumeStatsResponse {
            usage: [bytes].into_iter().chain(inodes).collect(),
        }))
    }

    async fn node_expand_volume(
        &self,
        asked: Request<NodeExpandVolumeRequest>,
    ) -> Answer<NodeExpandVolumeResponse> {
        let asked = asked.into_inner();
        let handle = handle(&asked.volume_id)?;
        if asked.volume_path.is_empty() {
            return Err(Fault::missing("volume_path").into());
        }
        let at = PathBuf::from(asked.volume_path);
        // The node that has the disk decides: no resizer reaches each node.
        let range = asked.capacity_range;
        let of = handle.clone();
        let grown = self.blocking(move |volumes| volumes.grow(&handle, &at, range.as_ref()));
        let bytes = grown.await.inspect_err(|why| self.refused(&of, why))?;
        Ok(Response::new(NodeExpandVolumeResponse {
            capacity_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Answer<NodeGetCapabilitiesResponse> {
        let capabilities = CAN.map(|kind| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc {
                r#type: kind.into(),
            })),
        });
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: capabilities.into(),
        }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Answer<NodeGetInfoResponse> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.volumes.node.clone(),
            // As many as there is room for.
            max_volumes_per_node: 0,
            accessible_topology: Some(self.topology()),
        }))
    }

    async fn node_get_volume_health(
        &self,
        asked: Request<NodeGetVolumeHealthRequest>,
    ) -> Answer<NodeGetVolumeHealthResponse> {
        let handle = handle(&asked.get_ref().volume_id)?;
        let volume = self.volumes.found(&handle)?;
        let ill = self
            .blocking(move |volumes| volumes.illnesses(&volume))
            .await?;
        Ok(Response::new(NodeGetVolumeHealthResponse {
            volume_health: Some(health::told(&handle, &ill)),
        }))
    }

    async fn node_get_storage_health(
        &self,
        _: Request<NodeGetStorageHealthRequest>,
    ) -> Answer<NodeGetStorageHealthResponse> {
        let sick = self.blocking(Volumes::pool_illness).await?;
        let backend_health = sick.map(|message| StorageBackendHealth {
            status: StorageHealthErrorType::StorageDegraded.into(),
            reason: "PoolFull".to_owned(),
            message,
            volume_capability: None,
        });
        let failures = self.blocking(|volumes| Ok(volumes.unrecovered())).await?;
        let unrecovered = failures.first().map(|first| StorageBackendHealth {
            status: StorageHealthErrorType::StorageDegraded.into(),
            reason: "NotRecovered".to_owned(),
            message: format!(
                "{} things could not be put right when the agent started, first {} ({}); `fairlead volume check` names each, remove the cause and restart the agent",
                failures.len(), first.what, first.problem
            ),
            volume_capability: None,
        });
        Ok(Response::new(NodeGetStorageHealthResponse {
            backend_health: backend_health.into_iter().chain(unrecovered).collect(),
        }))
    }
}
