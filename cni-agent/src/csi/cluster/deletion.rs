//! PersistentVolumes of this node are held while their volumes are there, and go with them.

use super::{
    Site, attachment,
    failure::Failure,
    reclaim::{self, Step},
    words::{CAPACITY_BEFORE, VOLUME_FINALIZER, handle, text, without},
};
use crate::node::within;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Preconditions},
};
use node_api::csi::DeleteVolumeRequest;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tonic::Request;

const FAILED: &str = "VolumeFailedDelete";
/// How often it is looked for volumes that lack this node's label.
const LOOK: Duration = Duration::from_secs(1800);
const AGAIN: Duration = Duration::from_secs(30);
const PAGE: u32 = 250;

impl Site {
    pub(super) fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    /// Does what there is to do with a PersistentVolume.
    pub(super) async fn reclaim(&self, step: Step, of: &PersistentVolume) -> Result<(), Failure> {
        match step {
            Step::Hold => {
                let mut finalizers = of.metadata.finalizers.clone().unwrap_or_default();
                finalizers.push(VOLUME_FINALIZER.to_owned());
                self.finalizers(of, finalizers).await
            }
            Step::LetGo => {
                self.finalizers(of, without(&of.metadata, VOLUME_FINALIZER))
                    .await
            }
            Step::Delete => self.delete(of).await,
            Step::Detached => {
                // They are not watched where pods don't wait for them, and some may be left from before.
                let name = text(of.metadata.name.as_ref());
                let all = within(self.attachments().list(&ListParams::default())).await?;
                if all.items.iter().any(|one| attachment::is_of(one, name)) {
                    return Err(Failure::waiting("a VolumeAttachment is of it"));
                }
                let finalizer = attachment::finalizer(&self.own().driver);
                self.finalizers(of, without(&of.metadata, &finalizer)).await
            }
        }
    }

    async fn finalizers(
        &self,
        of: &PersistentVolume,
        finalizers: Vec<String>,
    ) -> Result<(), Failure> {
        let patch = json!({"metadata": {
            "resourceVersion": of.metadata.resource_version, "finalizers": finalizers
        }});
        self.patch(&self.volumes(), of, &patch).await?;
        Ok(())
    }

    async fn delete(&self, of: &PersistentVolume) -> Result<(), Failure> {
        let name = text(of.metadata.name.as_ref());
        // What was seen may be old: meanwhile somebody may want the volume to stay, or has another by that name.
        let now = within(self.volumes().get_opt(name)).await?;
        let still = |now: &PersistentVolume| {
            now.metadata.uid == of.metadata.uid
                && handle(now) == handle(of)
                && reclaim::step(now, false, &self.own()) == Some(Step::Delete)
        };
        if !now.as_ref().is_some_and(still) {
            return Err(Failure::overtaken(
                "the PersistentVolume has changed; its volume is not deleted",
            ));
        }
        self.delete_volume(of, FAILED).await?;
        let same = DeleteParams {
            preconditions: Some(Preconditions {
                uid: of.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        within(self.volumes().delete(name, &same)).await?;
        // With what the deletion has changed.
        let left = within(self.volumes().get_opt(name)).await?;
        if let Some(left) = left.filter(|left| left.metadata.uid == of.metadata.uid) {
            let finalizers = without(&left.metadata, VOLUME_FINALIZER);
            self.finalizers(&left, finalizers).await?;
        }
        Ok(())
    }

    /// Has the driver delete a volume. `reason`: of the Event, if it doesn't.
    pub(super) async fn delete_volume(
        &self,
        of: &PersistentVolume,
        reason: &'static str,
    ) -> Result<(), Failure> {
        let asked = DeleteVolumeRequest {
            volume_id: handle(of),
            secrets: [].into(),
        };
        let done = self.driver().delete_volume(Request::new(asked)).await;
        done.map_err(|status| Failure::driver(reason, &status))?;
        self.room.notify_one();
        Ok(())
    }

    /// Takes the note away of what a claim had before its volume grew.
    pub(super) async fn forget(&self, of: &PersistentVolume) -> Result<(), Failure> {
        let patch = json!({"metadata": {"annotations": {CAPACITY_BEFORE: null}}});
        self.patch(&self.volumes(), of, &patch).await?;
        Ok(())
    }

    /// Gives volumes of this node its label that somebody else has made: only what has it is watched.
    pub(super) async fn label(&self) -> Result<(), kube::Error> {
        let lacking: Vec<_> = self
            .own()
            .topology
            .keys()
            .map(|key| format!("!{key}"))
            .collect();
        let mut page = ListParams::default().labels(&lacking.join(",")).limit(PAGE);
        loop {
            let listed = within(self.volumes().list(&page)).await?;
            for volume in listed
                .items
                .iter()
                .filter(|one| reclaim::is_own(one, &self.own()))
            {
                let patch = json!({"metadata": {"labels": self.own().topology}});
                match self.patch(&self.volumes(), volume, &patch).await {
                    Ok(()) => {}
                    // It went, or somebody else was faster: the others are labelled all the same.
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                    Err(error) => return Err(error),
                }
            }
            match listed.metadata.continue_ {
                Some(next) if !next.is_empty() => page = page.continue_token(&next),
                _ => return Ok(()),
            }
        }
    }
}

/// Labels volumes of this node that lack its label, for ever.
pub(super) async fn adopt(site: Arc<Site>) {
    loop {
        let pause = match site.label().await {
            Ok(()) => LOOK,
            Err(error) => {
                tracing::warn!(%error, "volumes that somebody else has made on this node may be missed");
                AGAIN
            }
        };
        sleep(pause).await;
    }
}
