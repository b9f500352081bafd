//! Claims get their volumes. A claim whose source is on another node goes to that node; one that this node can't answer, and
//! another may, goes back to the scheduler.

use super::{
    Site,
    claim::{self, requested},
    failure::Failure,
    source::{self, Found, Origin},
    topology,
    words::{CLONE_FINALIZER, SELECTED_NODE, selected, text, without},
};
use crate::node::within;
use k8s_openapi::api::{
    core::v1::PersistentVolumeClaim,
    storage::v1::{StorageClass, VolumeAttributesClass},
};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
    runtime::events::EventType,
};
use node_api::csi::{
    CreateVolumeRequest, VolumeContentSource,
    volume_content_source::{SnapshotSource, Type, VolumeSource},
};
use serde_json::{Value, json};
use tonic::{Code, Request, Status};

/// Reasons of Events, as external-provisioner has them.
const PROVISIONING: &str = "Provisioning";
pub(super) const SUCCEEDED: &str = "ProvisioningSucceeded";
pub(super) const FAILED: &str = "ProvisioningFailed";

impl Site {
    pub(super) fn claims(&self, of: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        let namespace = text(of.metadata.namespace.as_ref());
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Writes the node of a claim, or takes it out, on the claim as it was seen.
    pub(super) async fn select(
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
            && there != self.own().node
        {
            return self.redirect(claim, class, there).await;
        }
        let own = self.own();
        if !topology::allows(class, &own.place()) {
            let why = topology::refusal(class, &own.node);
            // Nobody else has its source.
            return Err(match found.is_some_and(|found| found.node.is_some()) {
                true => Failure::hopeless(FAILED, format!("{why}, and its source is on it")),
                false => self.give_back(claim, why).await,
            });
        }
        let mut asked =
            claim::request(claim, class, &own).map_err(|text| Failure::hopeless(FAILED, text))?;
        if let Some(found) = &found {
            asked.volume_content_source = Some(content_source(found));
            // With it a source that is not here would look like a lack of room.
            asked.accessibility_requirements = None;
        }
        self.add_attributes(claim, &mut asked).await?;
        let note = format!(
            "node {} makes a volume of {} bytes",
            own.node,
            requested(claim)
        );
        self.tell(&about, EventType::Normal, PROVISIONING, note)
            .await;
        let answer = self.driver().create_volume(Request::new(asked)).await;
        let made = match answer.map(|answer| answer.into_inner().volume) {
            Ok(Some(volume)) => volume,
            Ok(None) => return Err(Failure::told(FAILED, "the driver has told of no volume")),
            Err(status) => return Err(self.not_made(claim, found.as_ref(), &status).await),
        };
        self.room.notify_one();
        let volume = claim::volume(claim, class, &made, &own)
            .map_err(|text| Failure::hopeless(FAILED, text))?;
        self.write(claim, volume).await
    }

    /// What becomes of a claim whose volume could not be made.
    async fn not_made(
        &self,
        claim: &PersistentVolumeClaim,
        found: Option<&Found>,
        status: &Status,
    ) -> Failure {
        let (words, node) = (status.message(), &self.own().node);
        match (status.code(), found) {
            (Code::ResourceExhausted, None) => self.give_back(claim, words.to_owned()).await,
            // The driver has its source: no other node could make it.
            (Code::ResourceExhausted, Some(_)) => Failure::told(
                FAILED,
                format!("{words}; its source is on this node, {node}, and so must be its room"),
            ),
            (Code::NotFound, Some(Found { node: None, .. })) => {
                let text = format!("{words} on node {node}; another one may have it");
                self.give_back(claim, text).await
            }
            (Code::NotFound, Some(_)) => Failure::hopeless(
                FAILED,
                format!("{words}: it is gone from node {node}, which had it"),
            ),
            _ => Failure::driver(FAILED, status),
        }
    }

    /// Leaves a claim to other nodes, and says why.
    async fn give_back(&self, claim: &PersistentVolumeClaim, why: String) -> Failure {
        match self.select(claim, None).await {
            Ok(()) => Failure::given_back(FAILED, why),
            Err(error) => error.into(),
        }
    }

    /// Hands a claim to the node that has its source: the scheduler then takes that node, too.
    async fn redirect(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        there: &str,
    ) -> Result<(), Failure> {
        let may_be = self.may_be_on(class, there).await?;
        may_be
            .map_err(|why| Failure::hopeless(FAILED, format!("its source is there, but {why}")))?;
        if selected(claim) != Some(&self.own().node) {
            return Ok(());
        }
        self.hand_to(claim, there).await
    }

    /// Writes the node that has its source into a claim.
    pub(super) async fn hand_to(
        &self,
        claim: &PersistentVolumeClaim,
        there: &str,
    ) -> Result<(), Failure> {
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
            Some(class) if class.driver_name != self.own().driver => Err(format!(
                "the VolumeAttributesClass {name} is for the driver {:?}, the volume is of {:?}",
                class.driver_name,
                self.own().driver
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
