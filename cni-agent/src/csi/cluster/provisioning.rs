//! Claims get their volumes. A claim whose node is another's source goes to that node; one for which there is no room goes
//! back to the scheduler.

use super::{
    Site,
    claim::{self, parameters, requested},
    failure::Failure,
    snapshot_api::{VolumeSnapshot, VolumeSnapshotContent},
    source::{self, Found, Origin},
    words::{CLONE_FINALIZER, SELECTED_NODE, bound, selected, text, without},
};
use crate::node::within;
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
    storage::v1::{StorageClass, VolumeAttributesClass},
};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams, PostParams},
    runtime::events::EventType,
};
use node_api::csi::{
    CreateVolumeRequest, GetCapacityRequest, Topology, VolumeContentSource,
    volume_content_source::{SnapshotSource, Type, VolumeSource},
};
use serde_json::{Value, json};
use tonic::{Code, Request};

/// Reasons of Events, as external-provisioner has them.
const PROVISIONING: &str = "Provisioning";
const SUCCEEDED: &str = "ProvisioningSucceeded";
const FAILED: &str = "ProvisioningFailed";

impl Site {
    pub(super) fn claims(&self, of: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        let namespace = text(of.metadata.namespace.as_ref());
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Writes this node into a claim that has none, if it could make the volume: the first node that does makes it.
    pub(super) async fn take(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<(), Failure> {
        // A source that can't be used is told by whoever makes the volume.
        if let Ok(Some(found)) = self.found(claim).await
            && found.node.is_some_and(|node| node != self.own.node)
        {
            return Ok(());
        }
        if let Ok(parameters) = parameters(class.parameters.as_ref()) {
            let asked = GetCapacityRequest {
                parameters,
                accessible_topology: Some(Topology {
                    segments: self.own.topology.clone().into_iter().collect(),
                }),
                ..GetCapacityRequest::default()
            };
            let answer = self.driver().get_capacity(Request::new(asked)).await;
            let room = answer.map(|answer| answer.into_inner().available_capacity);
            if room.is_ok_and(|room| room < requested(claim)) {
                return Err(Failure::quiet("there is no room for it on this node"));
            }
        }
        self.select(claim, Some(&self.own.node)).await?;
        Ok(())
    }

    /// Writes the node of a claim, or takes it out, on the claim as it was seen.
    async fn select(
        &self,
        claim: &PersistentVolumeClaim,
        node: Option<&str>,
    ) -> Result<(), kube::Error> {
        let patch = json!({"metadata": {
            "resourceVersion": claim.metadata.resource_version,
            "annotations": {SELECTED_NODE: node}
        }});
        self.patch(&self.claims(claim), claim, &patch).await
    }

    /// Changes an object's metadata or spec.
    pub(super) async fn patch<K>(
        &self,
        api: &Api<K>,
        of: &K,
        patch: &Value,
    ) -> Result<(), kube::Error>
    where
        K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let name = text(of.meta().name.as_ref());
        let params = PatchParams::default();
        within(api.patch_metadata(name, &params, &Patch::Merge(patch))).await?;
        Ok(())
    }

    /// Makes the volume of a claim and its PersistentVolume.
    pub(super) async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<(), Failure> {
        let about = claim.object_ref(&());
        let origin = source::origin(claim).map_err(|text| Failure::hopeless(FAILED, text))?;
        if let Origin::Other(kind) = origin {
            let note = format!("its source is a {kind}: somebody else is to fill the volume");
            self.tell(&about, EventType::Normal, PROVISIONING, note)
                .await;
            return Ok(());
        }
        let found = self.found(claim).await?;
        if let Some(there) = found.as_ref().and_then(|found| found.node.as_deref())
            && there != self.own.node
        {
            return self.redirect(claim, there).await;
        }
        let mut asked = claim::request(claim, class, &self.own)
            .map_err(|text| Failure::hopeless(FAILED, text))?;
        asked.volume_content_source = found.as_ref().map(content_source);
        self.add_attributes(claim, &mut asked).await?;
        let note = format!(
            "node {} makes a volume of {} bytes",
            self.own.node,
            requested(claim)
        );
        self.tell(&about, EventType::Normal, PROVISIONING, note)
            .await;
        let answer = self.driver().create_volume(Request::new(asked)).await;
        let made = match answer.map(|answer| answer.into_inner().volume) {
            Ok(Some(volume)) => volume,
            Ok(None) => return Err(Failure::told(FAILED, "the driver has told of no volume")),
            Err(status) => {
                // Where its source is, nobody knew: it is not here.
                let elsewhere = found.is_some_and(|found| found.node.is_none());
                let lost = elsewhere && status.code() == Code::NotFound;
                if lost || status.code() == Code::ResourceExhausted {
                    self.tell(
                        &about,
                        EventType::Warning,
                        FAILED,
                        status.message().to_owned(),
                    )
                    .await;
                    self.select(claim, None).await?;
                    return Ok(());
                }
                return Err(Failure::driver(FAILED, &status));
            }
        };
        self.room.notify_one();
        let volume = claim::volume(claim, class, &made, &self.own)
            .map_err(|text| Failure::hopeless(FAILED, text))?;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        match within(volumes.create(&PostParams::default(), &volume)).await {
            Ok(_) => {
                let note = format!("made volume {}", text(volume.metadata.name.as_ref()));
                self.tell(&about, EventType::Normal, SUCCEEDED, note).await;
                Ok(())
            }
            // By an agent that was ended before it heard of it.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(Failure::told(
                FAILED,
                format!("the PersistentVolume: {error}"),
            )),
        }
    }

    /// Hands a claim to the node that has its source: the scheduler then takes that node, too.
    async fn redirect(&self, claim: &PersistentVolumeClaim, there: &str) -> Result<(), Failure> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        if within(nodes.get_metadata_opt(there)).await?.is_none() {
            let text =
                format!("its source is on node {there}, which is not in the cluster any more");
            return Err(Failure::hopeless(FAILED, text));
        }
        if selected(claim) != Some(&self.own.node) {
            return Ok(());
        }
        self.select(claim, Some(there)).await?;
        let note = format!("its source is on node {there}: the volume is made there");
        self.tell(
            &claim.object_ref(&()),
            EventType::Normal,
            PROVISIONING,
            note,
        )
        .await;
        Ok(())
    }

    /// The source of a claim, if it has one that can be used.
    async fn found(&self, claim: &PersistentVolumeClaim) -> Result<Option<Found>, Failure> {
        let refused = |text: String| Failure::told(FAILED, text);
        let namespace = text(claim.metadata.namespace.as_ref());
        let own = &self.own;
        match source::origin(claim).map_err(refused)? {
            Origin::Nothing | Origin::Other(_) => Ok(None),
            Origin::Claim(name) => {
                let there = within(self.claims(claim).get_opt(&name)).await?;
                let missing = || refused(format!("its source, the claim {name}, is not there"));
                let there = there.ok_or_else(missing)?;
                let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
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
                let contents: Api<VolumeSnapshotContent> = Api::all(self.client.clone());
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

    /// What the claim's VolumeAttributesClass says.
    async fn add_attributes(
        &self,
        claim: &PersistentVolumeClaim,
        asked: &mut CreateVolumeRequest,
    ) -> Result<(), Failure> {
        let Some(name) = super::modification::wanted(claim) else {
            return Ok(());
        };
        let class = self.attributes(name).await?;
        let class = class.map_err(|text| Failure::told(FAILED, text))?;
        asked.mutable_parameters = class.parameters.unwrap_or_default().into_iter().collect();
        Ok(())
    }

    /// A VolumeAttributesClass of this driver, or why it can't be used.
    pub(super) async fn attributes(
        &self,
        name: &str,
    ) -> Result<Result<VolumeAttributesClass, String>, kube::Error> {
        let classes: Api<VolumeAttributesClass> = Api::all(self.client.clone());
        Ok(match within(classes.get_opt(name)).await? {
            None => Err(format!("the VolumeAttributesClass {name} is not there")),
            Some(class) if class.driver_name != self.own.driver => Err(format!(
                "the VolumeAttributesClass {name} is for the driver {:?}, the volume is of {:?}",
                class.driver_name, self.own.driver
            )),
            Some(class) => Ok(class),
        })
    }

    /// Takes a finalizer away that is left from a copy.
    pub(super) async fn unprotect(&self, claim: &PersistentVolumeClaim) -> Result<(), Failure> {
        let patch = json!({"metadata": {
            "resourceVersion": claim.metadata.resource_version,
            "finalizers": without(&claim.metadata, CLONE_FINALIZER)
        }});
        self.patch(&self.claims(claim), claim, &patch).await?;
        Ok(())
    }
}

fn content_source(found: &Found) -> VolumeContentSource {
    let handle = found.handle.clone();
    VolumeContentSource {
        r#type: Some(match found.snapshot {
            true => Type::Snapshot(SnapshotSource {
                snapshot_id: handle,
            }),
            false => Type::Volume(VolumeSource { volume_id: handle }),
        }),
    }
}
