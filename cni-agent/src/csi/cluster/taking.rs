//! Claims that wait for no pod are taken: the first node that could answer one writes its name into it. Of a claim with a
//! source, whoever is first writes the node that has it, so that the others need not look.

use super::{
    Site,
    claim::{self, parameters, requested},
    failure::Failure,
};
use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass};
use node_api::csi::{GetCapacityRequest, Topology};
use tonic::Request;

impl Site {
    /// Writes a node into a claim that has none: this one, if it could make the volume, or the one that has its source.
    pub(super) async fn take(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<(), Failure> {
        let own = self.own().node.clone();
        let found = match self.found(claim).await {
            Ok(found) => found,
            // A source that can't be used is told by whoever makes the volume.
            Err(failure) if failure.reason.is_some() => {
                return Ok(self.select(claim, Some(&own)).await?);
            }
            Err(failure) => return Err(failure),
        };
        match found {
            None => self.has_room(claim, class).await?,
            Some(found) => match &found.node {
                Some(there) if *there == own => {}
                Some(there) => {
                    if self.may_be_on(class, there).await?.is_ok() {
                        return self.hand_to(claim, there).await;
                    }
                    // This one tells why not.
                }
                None => {
                    if !self.has(&found).await? {
                        return Err(Failure::waiting("its source is on another node"));
                    }
                }
            },
        }
        Ok(self.select(claim, Some(&own)).await?)
    }

    /// Looks whether this node has room for a claim.
    async fn has_room(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<(), Failure> {
        let asked = claim::request(claim, class, &self.own());
        let parameters = parameters(class.parameters.as_ref());
        let (Ok(asked), Ok(parameters)) = (asked, parameters) else {
            // What can't be asked for is told by whoever takes it.
            return Ok(());
        };
        let asked = GetCapacityRequest {
            volume_capabilities: asked.volume_capabilities,
            parameters,
            accessible_topology: Some(Topology {
                segments: self.own().topology.clone().into_iter().collect(),
            }),
        };
        let answer = self.driver().get_capacity(Request::new(asked)).await;
        let room = answer.map_err(|status| {
            Failure::quiet(format!(
                "the driver does not tell how much room this node has: {}",
                status.message()
            ))
        })?;
        match room.into_inner().available_capacity < requested(claim) {
            true => Err(Failure::quiet("there is no room for it on this node")),
            false => Ok(()),
        }
    }
}
