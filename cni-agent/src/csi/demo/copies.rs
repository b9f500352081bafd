//! Snapshots, clones, a larger volume and one that lives with its pod.

use super::{
    pod,
    walk::{CLAIM, Driver, LEAST_PERCENT, NAMESPACE, Used, Walk},
    way::{range, text, words},
};
use node_api::csi::{
    CapacityRange, ControllerExpandVolumeRequest, CreateSnapshotRequest, DeleteSnapshotRequest,
    NodeExpandVolumeRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest, Volume,
    volume_content_source::{SnapshotSource, Type as Of, VolumeSource},
};
use std::path::PathBuf;

impl<P: FnMut(&str) + Send> Walk<'_, P> {
    pub(super) async fn snapshot(
        &mut self,
        driver: &mut Driver,
        used: &Used,
    ) -> Result<String, String> {
        self.say.part("A snapshot, and a volume restored from it");
        let asked = CreateSnapshotRequest {
            source_volume_id: used.id.clone(),
            name: "snapshot-of-pvc-test".into(),
            ..CreateSnapshotRequest::default()
        };
        let controller = &mut driver.controller;
        let taken = self
            .call(
                "CreateSnapshot",
                "the snapshotter: the file system is held still, its blocks are shared, it goes on",
                asked,
                async |asked| controller.create_snapshot(asked).await,
            )
            .await?;
        let Some(snapshot) = taken.snapshot.filter(|snapshot| snapshot.ready_to_use) else {
            return Err(self.broken("it is not ready to use".to_owned()));
        };
        self.note("changes what it wrote", used, "second").await?;
        Ok(snapshot.snapshot_id)
    }

    pub(super) async fn restore(
        &mut self,
        driver: &mut Driver,
        snapshot: &str,
    ) -> Result<Used, String> {
        const RESTORED: &str = "pvc-restored";
        let source = Of::Snapshot(SnapshotSource {
            snapshot_id: snapshot.to_owned(),
        });
        let wanted = self.wanted(RESTORED, self.bytes, Some(source));
        let volume = self
            .create(
                driver,
                "the provisioner: a claim whose data source is the snapshot",
                wanted,
            )
            .await?;
        let used = self.publish(driver, RESTORED, &volume).await?;
        self.reads(
            "of the restored claim reads what was there then",
            &used,
            "first",
        )
        .await?;
        Ok(used)
    }

    pub(super) async fn grow(&mut self, driver: &mut Driver, used: &Used) -> Result<(), String> {
        self.say.part("The claim asks for twice as much");
        let twice = range(2 * self.bytes);
        let asked = ControllerExpandVolumeRequest {
            volume_id: used.id.clone(),
            capacity_range: Some(twice),
            volume_capability: Some(self.capability()),
            ..ControllerExpandVolumeRequest::default()
        };
        let controller = &mut driver.controller;
        self.call(
            "ControllerExpandVolume",
            "the resizer: its file becomes longer",
            asked,
            async |asked| controller.controller_expand_volume(asked).await,
        )
        .await?;
        match self.grows_mounted {
            true => self.grow_mounted(driver, used, twice).await?,
            false => {
                self.say.plain("     Growing a mounted ext4 needs CAP_SYS_RESOURCE, which this process lacks: the pod ends and comes");
                self.say
                    .plain("     back, and its volume grows when it is staged.");
                self.leave(driver, used).await?;
                self.show(driver, CLAIM, used).await?;
            }
        }
        let (at, least) = (used.target.clone(), 2 * self.bytes * LEAST_PERCENT / 100);
        let judge = |bytes: &u64| match *bytes >= least {
            true => Ok(format!("its file system has {bytes} bytes")),
            false => Err(format!("its file system has {bytes} bytes only")),
        };
        self.look(("The pod", "sees more room"), move || pod::size(&at), judge)
            .await?;
        self.reads("still has what it wrote", used, "second").await
    }

    pub(super) async fn grow_mounted(
        &mut self,
        driver: &mut Driver,
        used: &Used,
        twice: CapacityRange,
    ) -> Result<(), String> {
        let asked = NodeExpandVolumeRequest {
            volume_id: used.id.clone(),
            volume_path: text(&used.target),
            capacity_range: Some(twice),
            staging_target_path: text(&used.stage),
            volume_capability: Some(self.capability()),
            ..NodeExpandVolumeRequest::default()
        };
        let node = &mut driver.node;
        self.call(
            "NodeExpandVolume",
            "the kubelet: the device and the file system follow",
            asked,
            async |asked| node.node_expand_volume(asked).await,
        )
        .await
        .map(drop)
    }

    pub(super) async fn clone_of(
        &mut self,
        driver: &mut Driver,
        volume: &Volume,
        used: &Used,
    ) -> Result<Used, String> {
        const CLONE: &str = "pvc-clone";
        self.say.part("A clone of the claim, while the pod has it");
        let source = Of::Volume(VolumeSource {
            volume_id: volume.volume_id.clone(),
        });
        let wanted = self.wanted(CLONE, 2 * self.bytes, Some(source));
        let copy = self
            .create(
                driver,
                "the provisioner: a claim whose data source is another claim",
                wanted,
            )
            .await?;
        let clone = self.publish(driver, CLONE, &copy).await?;
        self.reads(
            "of the clone reads what the first pod wrote",
            &clone,
            "second",
        )
        .await?;
        self.note("of the clone changes it", &clone, "third")
            .await?;
        self.reads("of the first claim doesn't see that", used, "second")
            .await?;
        Ok(clone)
    }

    /// A volume that lives with its pod.
    pub(super) async fn inline(&mut self, driver: &mut Driver) -> Result<(), String> {
        self.say
            .part("A volume in a pod's own specification (ephemeral)");
        let handle = format!("csi-{}", "0123456789abcdef".repeat(4));
        let target = self.place.target("pod-with-inline", "scratch");
        let context = [
            ("ephemeral", "true"),
            ("pod.name", "pod-with-inline"),
            ("pod.namespace", NAMESPACE),
        ];
        let mut context = words(&context);
        context.insert("size".into(), self.bytes.to_string());
        let asked = NodePublishVolumeRequest {
            volume_id: handle.clone(),
            target_path: text(&target),
            volume_capability: Some(self.capability()),
            volume_context: context,
            ..NodePublishVolumeRequest::default()
        };
        let node = &mut driver.node;
        self.call(
            "NodePublishVolume",
            "the kubelet: made, mounted and shown in one call",
            asked,
            async |asked| node.node_publish_volume(asked).await,
        )
        .await?;
        let used = Used {
            id: handle,
            stage: PathBuf::new(),
            target,
        };
        self.note("writes into it", &used, "scratch").await?;
        let asked = NodeUnpublishVolumeRequest {
            volume_id: used.id,
            target_path: text(&used.target),
        };
        self.call(
            "NodeUnpublishVolume",
            "the pod ends, and its volume with it",
            asked,
            async |asked| node.node_unpublish_volume(asked).await,
        )
        .await
        .map(drop)
    }

    pub(super) async fn delete_snapshot(
        &mut self,
        driver: &mut Driver,
        snapshot: &str,
        restored: &Used,
    ) -> Result<(), String> {
        self.say.part("The snapshot is deleted");
        let asked = DeleteSnapshotRequest {
            snapshot_id: snapshot.to_owned(),
            ..DeleteSnapshotRequest::default()
        };
        let controller = &mut driver.controller;
        self.call(
            "DeleteSnapshot",
            "the snapshotter: what was restored from it stays whole",
            asked,
            async |asked| controller.delete_snapshot(asked).await,
        )
        .await?;
        self.reads("of the restored claim still reads it", restored, "first")
            .await
    }
}

/// Whether this process has the right that the kernel asks for.
pub(super) fn may_grow_ext4() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
}
