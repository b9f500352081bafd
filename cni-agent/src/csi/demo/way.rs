//! A volume's way: made for a claim, into a pod, back, and deleted.

use super::walk::{Driver, NAMESPACE, Used, Walk};
use crate::csi::TOPOLOGY;
use node_api::csi::{
    CapacityRange, ControllerPublishVolumeRequest, ControllerUnpublishVolumeRequest,
    CreateVolumeRequest, DeleteVolumeRequest, NodePublishVolumeRequest, NodeStageVolumeRequest,
    NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, Topology, TopologyRequirement, Volume,
    VolumeCapability, VolumeContentSource,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
    volume_content_source::Type as Of,
};
use std::{collections::HashMap, path::Path};

impl<P: FnMut(&str) + Send> Walk<'_, P> {
    pub(super) fn topology(&self) -> Topology {
        let segment = (TOPOLOGY.to_owned(), self.config.node_name.clone());
        Topology {
            segments: [segment].into(),
        }
    }

    pub(super) fn capability(&self) -> VolumeCapability {
        VolumeCapability {
            access_mode: Some(AccessMode {
                mode: Mode::SingleNodeWriter.into(),
            }),
            access_type: Some(AccessType::Mount(MountVolume {
                fs_type: self.fs.to_owned(),
                ..MountVolume::default()
            })),
        }
    }

    /// What the provisioner asks for a claim.
    pub(super) fn wanted(
        &self,
        claim: &str,
        bytes: u64,
        source: Option<Of>,
    ) -> CreateVolumeRequest {
        let topology = self.topology();
        let pv = name(claim);
        let parameters = [
            ("pvc/name", claim),
            ("pvc/namespace", NAMESPACE),
            ("pv/name", pv.as_str()),
        ];
        CreateVolumeRequest {
            name: name(claim),
            capacity_range: Some(range(bytes)),
            volume_capabilities: vec![self.capability()],
            parameters: words(&parameters),
            volume_content_source: source.map(|of| VolumeContentSource { r#type: Some(of) }),
            accessibility_requirements: Some(TopologyRequirement {
                requisite: vec![topology.clone()],
                preferred: vec![topology],
            }),
            ..CreateVolumeRequest::default()
        }
    }

    pub(super) async fn create(
        &mut self,
        driver: &mut Driver,
        meaning: &str,
        asked: CreateVolumeRequest,
    ) -> Result<Volume, String> {
        let bytes = asked.capacity_range.map_or(0, |range| range.required_bytes);
        let controller = &mut driver.controller;
        let made = self
            .call("CreateVolume", meaning, asked, async |asked| {
                controller.create_volume(asked).await
            })
            .await?;
        let Some(volume) = made.volume else {
            return Err(self.broken("the answer has no volume".to_owned()));
        };
        if volume.capacity_bytes < bytes || volume.accessible_topology != [self.topology()] {
            return Err(self.broken("it is smaller, or on another node".to_owned()));
        }
        Ok(volume)
    }

    /// Has a volume on the way into a pod.
    pub(super) async fn publish(
        &mut self,
        driver: &mut Driver,
        claim: &str,
        volume: &Volume,
    ) -> Result<Used, String> {
        let used = Used {
            id: volume.volume_id.clone(),
            stage: self.place.stage(&name(claim)),
            target: self.place.target(&format!("pod-of-{claim}"), &name(claim)),
        };
        let asked = ControllerPublishVolumeRequest {
            volume_id: used.id.clone(),
            node_id: self.config.node_name.clone(),
            volume_capability: Some(self.capability()),
            ..ControllerPublishVolumeRequest::default()
        };
        let controller = &mut driver.controller;
        self.call(
            "ControllerPublishVolume",
            "the attacher: a pod of this node is to have it",
            asked,
            async |asked| controller.controller_publish_volume(asked).await,
        )
        .await?;
        self.show(driver, claim, &used).await?;
        Ok(used)
    }

    pub(super) async fn show(
        &mut self,
        driver: &mut Driver,
        claim: &str,
        used: &Used,
    ) -> Result<(), String> {
        let asked = NodeStageVolumeRequest {
            volume_id: used.id.clone(),
            staging_target_path: text(&used.stage),
            volume_capability: Some(self.capability()),
            ..NodeStageVolumeRequest::default()
        };
        let node = &mut driver.node;
        self.call(
            "NodeStageVolume",
            "the kubelet: attach its device, make its file system once, mount it once",
            asked,
            async |asked| node.node_stage_volume(asked).await,
        )
        .await?;
        let pod = format!("pod-of-{claim}");
        let context = [
            ("pod.name", pod.as_str()),
            ("pod.namespace", NAMESPACE),
            ("ephemeral", "false"),
        ];
        let asked = NodePublishVolumeRequest {
            volume_id: used.id.clone(),
            staging_target_path: text(&used.stage),
            target_path: text(&used.target),
            volume_capability: Some(self.capability()),
            volume_context: words(&context),
            ..NodePublishVolumeRequest::default()
        };
        self.call(
            "NodePublishVolume",
            "the kubelet: show it to the pod",
            asked,
            async |asked| node.node_publish_volume(asked).await,
        )
        .await
        .map(drop)
    }

    pub(super) async fn leave(&mut self, driver: &mut Driver, used: &Used) -> Result<(), String> {
        let asked = NodeUnpublishVolumeRequest {
            volume_id: used.id.clone(),
            target_path: text(&used.target),
        };
        let node = &mut driver.node;
        let meaning = "its pod has ended";
        self.call("NodeUnpublishVolume", meaning, asked, async |asked| {
            node.node_unpublish_volume(asked).await
        })
        .await?;
        let asked = NodeUnstageVolumeRequest {
            volume_id: used.id.clone(),
            staging_target_path: text(&used.stage),
        };
        self.call(
            "NodeUnstageVolume",
            "no pod of this node has it: unmount it, take its device away",
            asked,
            async |asked| node.node_unstage_volume(asked).await,
        )
        .await
        .map(drop)
    }

    pub(super) async fn give_back(
        &mut self,
        driver: &mut Driver,
        used: &Used,
    ) -> Result<(), String> {
        self.leave(driver, used).await?;
        let asked = ControllerUnpublishVolumeRequest {
            volume_id: used.id.clone(),
            node_id: self.config.node_name.clone(),
            ..ControllerUnpublishVolumeRequest::default()
        };
        let controller = &mut driver.controller;
        self.call(
            "ControllerUnpublishVolume",
            "the attacher: this node doesn't use it",
            asked,
            async |asked| controller.controller_unpublish_volume(asked).await,
        )
        .await?;
        self.call(
            "DeleteVolume",
            "the provisioner: its claim is deleted (reclaim policy Delete)",
            delete(used),
            async |asked| controller.delete_volume(asked).await,
        )
        .await?;
        self.call(
            "DeleteVolume",
            "asked again, as after a lost answer: it is deleted",
            delete(used),
            async |asked| controller.delete_volume(asked).await,
        )
        .await
        .map(drop)
    }
}

pub(super) fn delete(used: &Used) -> DeleteVolumeRequest {
    DeleteVolumeRequest {
        volume_id: used.id.clone(),
        ..DeleteVolumeRequest::default()
    }
}

pub(super) fn range(bytes: u64) -> CapacityRange {
    CapacityRange {
        required_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        limit_bytes: 0,
    }
}

pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}

/// What sidecars and the kubelet add.
pub(super) fn words(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), (*value).to_owned()))
        .collect()
}

/// The volume's name of a claim: `pvc-` and the claim's UID, which is made of its name here.
fn name(claim: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(claim.as_bytes());
    let hex: String = digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (a, b, c, d, e) = (
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    );
    format!("pvc-{a}-{b}-{c}-{d}-{e}")
}
