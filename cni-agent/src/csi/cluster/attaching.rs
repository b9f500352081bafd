//! Attachments of this node's volumes are made and undone, where pods wait for them.

use super::{
    Site,
    attachment::{HANDLE, NODE_ID, Step, finalizer},
    expansion::access,
    failure::Failure,
    words::{annotation, csi, handle, is_held, text, without},
};
use crate::node::within;
use k8s_openapi::{
    api::{core::v1::PersistentVolume, storage::v1::VolumeAttachment},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use node_api::csi::{ControllerPublishVolumeRequest, ControllerUnpublishVolumeRequest};
use serde_json::{Value, json};
use tonic::Request;

const FAILED: &str = "VolumeAttachmentFailed";

impl Site {
    pub(super) fn attachments(&self) -> Api<VolumeAttachment> {
        Api::all(self.client.clone())
    }

    async fn attachment_status(&self, of: &VolumeAttachment, status: Value) -> Result<(), Failure> {
        let (name, params) = (text(of.metadata.name.as_ref()), PatchParams::default());
        let patch = json!({"status": status});
        within(
            self.attachments()
                .patch_status(name, &params, &Patch::Merge(&patch)),
        )
        .await?;
        Ok(())
    }

    /// Does what there is to do for a VolumeAttachment.
    pub(super) async fn attachment(
        &self,
        step: Step,
        of: &VolumeAttachment,
        volume: Option<&PersistentVolume>,
    ) -> Result<(), Failure> {
        let named = text(of.spec.source.persistent_volume_name.as_ref());
        let volume = match volume {
            Some(volume) => Some(volume.clone()),
            // Not seen: it may be gone, or lack the label by which it is watched.
            None => within(self.volumes().get_opt(named)).await?,
        };
        let (done, field) = match (step, volume) {
            (Step::Attach, Some(volume)) => (self.attach(of, &volume).await, "attachError"),
            (Step::Attach, None) => {
                let text = format!("the PersistentVolume {named} is not there");
                (Err(Failure::told(FAILED, text)), "attachError")
            }
            (Step::Detach, volume) => {
                let before = annotation(&of.metadata, HANDLE).map(str::to_owned);
                // What was attached: another volume may have its name by now.
                let volume = before.or(volume.as_ref().map(handle));
                (self.detach(of, volume).await, "detachError")
            }
        };
        if let Err(failure) = &done
            && failure.reason.is_some()
        {
            let error = json!({"message": failure.text, "time": Timestamp::now().to_string()});
            self.attachment_status(of, json!({"attached": step == Step::Detach, field: error}))
                .await?;
        }
        done
    }

    async fn attach(
        &self,
        of: &VolumeAttachment,
        volume: &PersistentVolume,
    ) -> Result<(), Failure> {
        let csi = csi(volume).cloned().unwrap_or_default();
        let capability = access(volume).map_err(|text| Failure::told(FAILED, text))?;
        let (meta, own) = (&of.metadata, self.own());
        let finalizer = finalizer(&own.driver);
        let known = annotation(meta, NODE_ID) == Some(&own.node)
            && annotation(meta, HANDLE) == Some(&csi.volume_handle);
        if !is_held(meta, &finalizer) || !known {
            let mut finalizers = without(meta, &finalizer);
            finalizers.push(finalizer);
            let patch = json!({"metadata": {
                "resourceVersion": meta.resource_version,
                "annotations": {NODE_ID: own.node, HANDLE: csi.volume_handle},
                "finalizers": finalizers
            }});
            self.patch(&self.attachments(), of, &patch).await?;
        }
        let asked = ControllerPublishVolumeRequest {
            volume_id: csi.volume_handle,
            node_id: own.node.clone(),
            volume_capability: Some(capability),
            readonly: csi.read_only.unwrap_or(false),
            volume_context: csi
                .volume_attributes
                .unwrap_or_default()
                .into_iter()
                .collect(),
            ..ControllerPublishVolumeRequest::default()
        };
        let done = self
            .driver()
            .controller_publish_volume(Request::new(asked))
            .await;
        let done = done.map_err(|status| Failure::driver(FAILED, &status))?;
        let context = done.into_inner().publish_context;
        let status = json!({"attached": true, "attachmentMetadata": context, "attachError": null});
        self.attachment_status(of, status).await
    }

    /// `volume`: as the driver calls it, if that is known yet.
    async fn detach(&self, of: &VolumeAttachment, volume: Option<String>) -> Result<(), Failure> {
        if let Some(volume_id) = volume {
            let asked = ControllerUnpublishVolumeRequest {
                volume_id,
                node_id: self.own().node.clone(),
                ..ControllerUnpublishVolumeRequest::default()
            };
            let done = self
                .driver()
                .controller_unpublish_volume(Request::new(asked))
                .await;
            done.map_err(|status| Failure::driver(FAILED, &status))?;
        }
        // What goes and is held by nobody counts as detached, whatever its status says.
        let patch = json!({"metadata": {
            "resourceVersion": of.metadata.resource_version,
            "finalizers": without(&of.metadata, &finalizer(&self.own().driver))
        }});
        self.patch(&self.attachments(), of, &patch).await?;
        Ok(())
    }
}
