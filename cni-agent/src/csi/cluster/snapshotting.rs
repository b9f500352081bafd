//! Snapshots of this node's volumes are taken, told of, and deleted.

use super::{
    Site,
    claim::parameters,
    content::{self, Step},
    failure::{Failure, is_final},
    snapshot_api::{BEING_CREATED, FINALIZER, VolumeSnapshotClass, VolumeSnapshotContent},
    words::{annotation, text, without},
};
use crate::node::within;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use node_api::csi::{CreateSnapshotRequest, DeleteSnapshotRequest, GetSnapshotRequest, Snapshot};
use serde_json::{Value, json};
use tonic::Request;

/// Reasons of Events, as external-snapshotter has them.
const CREATION_FAILED: &str = "SnapshotCreationFailed";
const LOOK_FAILED: &str = "SnapshotContentCheckandUpdateFailed";
const DELETION_FAILED: &str = "SnapshotDeleteError";

impl Site {
    pub(super) fn contents(&self) -> Api<VolumeSnapshotContent> {
        Api::all(self.client.clone())
    }

    async fn content_status(
        &self,
        of: &VolumeSnapshotContent,
        patch: &Value,
    ) -> Result<(), Failure> {
        let (name, params) = (text(of.metadata.name.as_ref()), PatchParams::default());
        within(
            self.contents()
                .patch_status(name, &params, &Patch::Merge(patch)),
        )
        .await?;
        Ok(())
    }

    /// Does what there is to do for a VolumeSnapshotContent.
    pub(super) async fn content(
        &self,
        step: Step,
        of: &VolumeSnapshotContent,
    ) -> Result<(), Failure> {
        match step {
            Step::Take => {
                let taken = self.take_snapshot(of).await;
                self.or_told(of, CREATION_FAILED, taken).await?;
                self.being_created(of, false).await
            }
            Step::Look => {
                let looked = self.look(of).await;
                self.or_told(of, LOOK_FAILED, looked).await
            }
            Step::Settle => self.being_created(of, false).await,
            Step::Delete => self.delete_snapshot(of).await,
            Step::LetGo => self.let_go(of).await,
        }
    }

    async fn take_snapshot(&self, of: &VolumeSnapshotContent) -> Result<(), Failure> {
        let name = of.spec.volume_snapshot_class_name.as_deref();
        let Some(name) = name else {
            return Err(Failure::hopeless(
                CREATION_FAILED,
                "volumeSnapshotClassName is missing",
            ));
        };
        let classes: Api<VolumeSnapshotClass> = Api::all(self.client.clone());
        let class = within(classes.get_opt(name)).await?;
        let missing = || {
            Failure::told(
                CREATION_FAILED,
                format!("the VolumeSnapshotClass {name} is not there"),
            )
        };
        let class = class.ok_or_else(missing)?;
        let parameters = parameters(class.parameters.as_ref());
        let parameters = parameters.map_err(|text| Failure::hopeless(CREATION_FAILED, text))?;
        let of_snapshot = &of.spec.volume_snapshot_ref;
        if of_snapshot.uid.is_empty() {
            return Err(Failure::quiet("it is not bound to a VolumeSnapshot yet"));
        }
        // Before it is taken: whoever deletes meanwhile waits for the answer.
        self.being_created(of, true).await?;
        let asked = CreateSnapshotRequest {
            source_volume_id: of.spec.source.volume_handle.clone().unwrap_or_default(),
            name: format!("snapshot-{}", of_snapshot.uid),
            parameters,
            ..CreateSnapshotRequest::default()
        };
        match self.driver().create_snapshot(Request::new(asked)).await {
            Ok(answer) => {
                self.room.notify_one();
                self.told(of, answer.into_inner().snapshot).await
            }
            Err(status) => {
                if is_final(status.code()) {
                    self.being_created(of, false).await?;
                }
                Err(Failure::driver(CREATION_FAILED, &status))
            }
        }
    }

    async fn look(&self, of: &VolumeSnapshotContent) -> Result<(), Failure> {
        let asked = GetSnapshotRequest {
            snapshot_id: of.spec.source.snapshot_handle.clone().unwrap_or_default(),
            ..GetSnapshotRequest::default()
        };
        let answer = self.driver().get_snapshot(Request::new(asked)).await;
        let answer = answer.map_err(|status| Failure::driver(LOOK_FAILED, &status))?;
        self.told(of, answer.into_inner().snapshot).await
    }

    async fn told(
        &self,
        of: &VolumeSnapshotContent,
        taken: Option<Snapshot>,
    ) -> Result<(), Failure> {
        let taken = taken.ok_or_else(|| Failure::quiet("the driver has told of no snapshot"))?;
        let made_at = taken.creation_time.as_ref().map_or(0, |at| {
            at.seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(at.nanos))
        });
        let status = content::told(
            of,
            &taken.snapshot_id,
            taken.ready_to_use,
            made_at,
            taken.size_bytes,
        );
        self.content_status(of, &status).await?;
        match taken.ready_to_use {
            true => Ok(()),
            false => Err(Failure::quiet("the snapshot is not ready yet")),
        }
    }

    /// Passes on what went wrong, after it was told in the status.
    async fn or_told(
        &self,
        of: &VolumeSnapshotContent,
        reason: &str,
        done: Result<(), Failure>,
    ) -> Result<(), Failure> {
        let failure = match done {
            Err(failure) if failure.reason == Some(reason) => failure,
            other => return other,
        };
        let told = of.status.as_ref().and_then(|status| status.error.as_ref());
        if told.and_then(|error| error.message.as_ref()) != Some(&failure.text) {
            let now = Timestamp::now();
            let now = Timestamp::from_second(now.as_second())
                .unwrap_or(now)
                .to_string();
            let status = json!({"status": {
                "readyToUse": false, "error": {"time": now, "message": failure.text}
            }});
            self.content_status(of, &status).await?;
        }
        Err(failure)
    }

    /// Notes that a snapshot is being taken, or not any more.
    async fn being_created(&self, of: &VolumeSnapshotContent, is: bool) -> Result<(), Failure> {
        if is && annotation(&of.metadata, BEING_CREATED).is_some() {
            return Ok(());
        }
        let patch = json!({"metadata": {"annotations": {BEING_CREATED: is.then_some("yes")}}});
        self.patch(&self.contents(), of, &patch).await?;
        Ok(())
    }

    async fn delete_snapshot(&self, of: &VolumeSnapshotContent) -> Result<(), Failure> {
        let told = |of: &VolumeSnapshotContent| {
            let status = of.status.as_ref();
            status.and_then(|status| status.snapshot_handle.clone())
        };
        let now = self.content_now(of, Step::Delete).await?;
        if told(&now) != told(of) {
            return Err(changed());
        }
        let asked = DeleteSnapshotRequest {
            snapshot_id: told(of).unwrap_or_default(),
            secrets: [].into(),
        };
        let done = self.driver().delete_snapshot(Request::new(asked)).await;
        done.map_err(|status| Failure::driver(DELETION_FAILED, &status))?;
        self.room.notify_one();
        self.content_status(of, &content::gone()).await?;
        self.let_go(of).await
    }

    /// A content as it is now, if the same is still to be done. What was seen may be old: meanwhile somebody may want the
    /// snapshot to stay, or has another by that name.
    async fn content_now(
        &self,
        of: &VolumeSnapshotContent,
        step: Step,
    ) -> Result<VolumeSnapshotContent, Failure> {
        let name = text(of.metadata.name.as_ref());
        let now = within(self.contents().get_opt(name)).await?;
        let still = |now: &VolumeSnapshotContent| {
            now.metadata.uid == of.metadata.uid && content::step(now, &self.own()) == Some(step)
        };
        now.filter(still).ok_or_else(changed)
    }

    async fn let_go(&self, of: &VolumeSnapshotContent) -> Result<(), Failure> {
        let left = self.content_now(of, Step::LetGo).await?;
        let patch = json!({"metadata": {
            "resourceVersion": left.metadata.resource_version,
            "finalizers": without(&left.metadata, FINALIZER)
        }});
        self.patch(&self.contents(), &left, &patch).await?;
        Ok(())
    }
}

fn changed() -> Failure {
    Failure::overtaken("the VolumeSnapshotContent has changed; its snapshot is not deleted")
}
