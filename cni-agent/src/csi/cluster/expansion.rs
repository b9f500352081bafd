//! Volumes grow and change with their claims.

use super::{
    Site,
    claim::{access_mode, capability, is_block},
    failure::{Failure, is_final, is_infeasible},
    growth::{self, Target},
    modification::{self, Progress},
    quantity::quantity,
    words::{CAPACITY_BEFORE, STORAGE, annotation, handle, text},
};
use crate::node::within;
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Resource,
    api::{Patch, PatchParams},
    runtime::events::EventType,
};
use node_api::csi::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerModifyVolumeRequest, VolumeCapability,
};
use serde_json::{Value, json};
use std::sync::PoisonError;
use tonic::Request;

/// Reasons of Events, as external-resizer has them.
const RESIZING: &str = "Resizing";
const RESIZE_FAILED: &str = "VolumeResizeFailed";
const RESIZED: &str = "VolumeResizeSuccessful";
const ON_THE_NODE: &str = "FileSystemResizeRequired";
const MODIFYING: &str = "VolumeModify";
const MODIFIED: &str = "VolumeModifySuccessful";
const MODIFY_FAILED: &str = "VolumeModifyFailed";

fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// How a volume is accessed, as far as its PersistentVolume tells.
pub(super) fn access(of: &PersistentVolume) -> Result<VolumeCapability, String> {
    let spec = of.spec.clone().unwrap_or_default();
    let mode = access_mode(spec.access_modes.as_deref().unwrap_or_default())?;
    let fs_type = spec.csi.and_then(|csi| csi.fs_type).unwrap_or_default();
    let flags = spec.mount_options.unwrap_or_default();
    Ok(capability(
        mode,
        is_block(spec.volume_mode.as_ref()),
        &fs_type,
        &flags,
    ))
}

impl Site {
    async fn status(
        &self,
        claim: &PersistentVolumeClaim,
        patch: &Value,
    ) -> Result<PersistentVolumeClaim, kube::Error> {
        let (name, params) = (text(claim.metadata.name.as_ref()), PatchParams::default());
        within(
            self.claims(claim)
                .patch_status(name, &params, &Patch::Merge(patch)),
        )
        .await
    }

    async fn spec(&self, volume: &PersistentVolume, patch: &Value) -> Result<(), kube::Error> {
        let volumes = self.volumes();
        self.patch(&volumes, volume, patch).await
    }

    /// Grows the volume of a claim; its file system is grown by the kubelet then.
    pub(super) async fn grow(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), Failure> {
        let uid = text(claim.metadata.uid.as_ref());
        let failed_for_good = self.ended().contains(uid);
        let Some(target) = growth::target(claim, volume, failed_for_good) else {
            return Ok(());
        };
        let claim = self
            .status(claim, &growth::begun(claim, target, &now()))
            .await?;
        let about = claim.object_ref(&());
        if target.new {
            let note = format!("the volume grows to {} bytes", target.bytes);
            self.tell(&about, EventType::Normal, RESIZING, note).await;
        }
        let Target { bytes, .. } = target;
        let asked = ControllerExpandVolumeRequest {
            volume_id: handle(volume),
            capacity_range: Some(CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            volume_capability: access(volume).ok(),
            ..ControllerExpandVolumeRequest::default()
        };
        let grown = match self
            .driver()
            .controller_expand_volume(Request::new(asked))
            .await
        {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                let (code, infeasible) = (status.code(), is_infeasible(status.code()));
                match is_final(code) {
                    true => self.ended().insert(uid.to_owned()),
                    false => self.ended().remove(uid),
                };
                if is_final(code) {
                    let told = growth::failed(&claim, status.message(), infeasible, &now());
                    self.status(&claim, &told).await?;
                }
                return Err(match infeasible {
                    true => Failure::hopeless(RESIZE_FAILED, status.message()),
                    false => Failure::told(RESIZE_FAILED, status.message()),
                });
            }
        };
        self.ended().remove(uid);
        self.room.notify_one();
        let before = claim
            .status
            .as_ref()
            .and_then(|status| status.capacity.as_ref());
        let before = before.and_then(|capacity| capacity.get(STORAGE));
        let bytes = grown.capacity_bytes;
        let mut patch = json!({"spec": {"capacity": {STORAGE: quantity(bytes)}}});
        if !grown.node_expansion_required {
            self.spec(volume, &patch).await?;
            self.status(&claim, &growth::finished(&claim, bytes))
                .await?;
            let note = format!("the volume has {bytes} bytes");
            self.tell(&about, EventType::Normal, RESIZED, note).await;
            return Ok(());
        }
        if annotation(&volume.metadata, CAPACITY_BEFORE).is_none() {
            patch["metadata"] = json!({"annotations": {CAPACITY_BEFORE: before}});
        }
        self.spec(volume, &patch).await?;
        self.status(&claim, &growth::grown(&claim, &now())).await?;
        let note = "the node grows its file system".to_owned();
        self.tell(&about, EventType::Normal, ON_THE_NODE, note)
            .await;
        Ok(())
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeSet<String>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the volume of a claim what its VolumeAttributesClass says.
    pub(super) async fn modify(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), Failure> {
        // Nothing goes on in the background: a call of the driver ends before it is answered.
        let Some(name) = modification::next(claim, false) else {
            return Ok(());
        };
        let class = match self.attributes(name).await? {
            Ok(class) => class,
            Err(text) => {
                let told = modification::told(claim, name, Progress::Pending, &now());
                self.status(claim, &told).await?;
                return Err(Failure::told(MODIFY_FAILED, text));
            }
        };
        let told = modification::told(claim, name, Progress::Begun, &now());
        let claim = self.status(claim, &told).await?;
        let about = claim.object_ref(&());
        let note = format!("the volume gets the class {name}");
        self.tell(&about, EventType::Normal, MODIFYING, note).await;
        let asked = ControllerModifyVolumeRequest {
            volume_id: handle(volume),
            mutable_parameters: class.parameters.unwrap_or_default().into_iter().collect(),
            ..ControllerModifyVolumeRequest::default()
        };
        if let Err(status) = self
            .driver()
            .controller_modify_volume(Request::new(asked))
            .await
        {
            let (code, words) = (format!("{:?}", status.code()), status.message());
            let infeasible = status.code() == tonic::Code::InvalidArgument;
            let progress = match infeasible {
                true => Progress::Infeasible(&code, words),
                false => Progress::Failed(&code, words),
            };
            let told = modification::told(&claim, name, progress, &now());
            self.status(&claim, &told).await?;
            return Err(Failure::driver(MODIFY_FAILED, &status));
        }
        // The volume first: whoever sees the claim with it finds the volume so, too.
        self.spec(
            volume,
            &json!({"spec": {"volumeAttributesClassName": name}}),
        )
        .await?;
        self.status(&claim, &modification::done(&claim, name))
            .await?;
        let note = format!("the volume has the class {name}");
        self.tell(&about, EventType::Normal, MODIFIED, note).await;
        Ok(())
    }
}
