//! The sources of claims are looked for: in the cluster, and at the driver.

use super::{
    Site,
    failure::Failure,
    provisioning::FAILED,
    snapshot_api::VolumeSnapshot,
    source::{self, Found, Origin},
    topology,
    words::{bound, text},
};
use crate::node::within;
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::Api;
use node_api::csi::{ControllerGetVolumeRequest, GetSnapshotRequest};
use tonic::{Code, Request};

impl Site {
    /// The source of a claim, if it has one that can be used.
    pub(super) async fn found(
        &self,
        claim: &PersistentVolumeClaim,
    ) -> Result<Option<Found>, Failure> {
        let refused = |text: String| Failure::told(FAILED, text);
        let namespace = text(claim.metadata.namespace.as_ref());
        let own = self.own();
        match source::origin(claim).map_err(refused)? {
            Origin::Nothing | Origin::Other(_) => Ok(None),
            Origin::Claim(name) => {
                let there = within(self.claims(claim).get_opt(&name)).await?;
                let missing = || refused(format!("its source, the claim {name}, is not there"));
                let there = there.ok_or_else(missing)?;
                let volumes = self.volumes();
                let volume = match bound(&there) {
                    Some(volume) => within(volumes.get_opt(volume)).await?,
                    None => None,
                };
                let key = own.topology.keys().next().map_or("", String::as_str);
                source::from_claim(claim, &there, volume.as_ref(), &own.driver, key)
                    .map(Some)
                    .map_err(refused)
            }
            Origin::Snapshot(name) => {
                let snapshots: Api<VolumeSnapshot> =
                    Api::namespaced(self.client.clone(), namespace);
                let there = within(snapshots.get_opt(&name)).await?;
                let missing = || refused(format!("its source, the snapshot {name}, is not there"));
                let there = there.ok_or_else(missing)?;
                let status = there.status.as_ref();
                let content =
                    status.and_then(|of| of.bound_volume_snapshot_content_name.as_deref());
                let contents = self.contents();
                let content = match content {
                    Some(content) => within(contents.get_opt(content)).await?,
                    None => None,
                };
                source::from_snapshot(claim, &there, content.as_ref(), &own.driver)
                    .map(Some)
                    .map_err(refused)
            }
        }
    }

    /// Whether the driver has a source on this node.
    pub(super) async fn has(&self, found: &Found) -> Result<bool, Failure> {
        let handle = found.handle.clone();
        let answer = match found.snapshot {
            true => {
                let asked = GetSnapshotRequest {
                    snapshot_id: handle,
                    ..GetSnapshotRequest::default()
                };
                let answer = self.driver().get_snapshot(Request::new(asked)).await;
                answer.map(drop)
            }
            false => {
                let asked = ControllerGetVolumeRequest { volume_id: handle };
                let mut driver = self.driver();
                let answer = driver.controller_get_volume(Request::new(asked)).await;
                answer.map(drop)
            }
        };
        match answer {
            Ok(()) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(Failure::quiet(status.message())),
        }
    }

    /// Whether volumes of a class may be on another node; else why not.
    pub(super) async fn may_be_on(
        &self,
        class: &StorageClass,
        node: &str,
    ) -> Result<Result<(), String>, kube::Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let Some(there) = within(nodes.get_metadata_opt(node)).await? else {
            return Ok(Err(format!("node {node} is not in the cluster any more")));
        };
        let mut place = there.metadata.labels.unwrap_or_default();
        let own = self.own();
        let there = |key: &String| (key.clone(), node.to_owned());
        place.extend(own.topology.keys().map(there));
        Ok(match topology::allows(class, &place) {
            true => Ok(()),
            false => Err(topology::refusal(class, node)),
        })
    }
}
