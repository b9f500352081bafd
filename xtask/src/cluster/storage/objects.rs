//! Kubernetes objects of the walk.

use super::{super::objects::BUSYBOX, SPACE};
use serde_json::{Value, json};

/// The class of the specification's example: ext4, made at once.
pub(super) const EXAMPLE: &str = "csi-hostpath-sc";
/// Ours: ext4, made where its first pod goes.
pub(super) const OURS: &str = "fairlead";
pub(super) const XFS: &str = "fairlead-xfs";
/// Where pods have their volume.
pub(super) const AT: &str = "/data";
/// Where they have it as a device.
pub(super) const DEVICE: &str = "/dev/volume";
/// Keeps a pod.
pub(super) const STAY: &str = "exec sleep 1000000";

/// A claim.
pub(super) struct Claim<'a> {
    pub(super) name: &'a str,
    pub(super) class: &'a str,
    pub(super) size: &'a str,
    /// Kind and name of what it is made from.
    pub(super) from: Option<(&'a str, &'a str)>,
    pub(super) block: bool,
}

impl Claim<'_> {
    pub(super) fn object(&self) -> Value {
        json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": self.name, "namespace": SPACE }, "spec": self.spec() })
    }

    pub(super) fn spec(&self) -> Value {
        let mut spec = json!({
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": self.class,
            "volumeMode": if self.block { "Block" } else { "Filesystem" },
            "resources": { "requests": { "storage": self.size } },
        });
        if let Some((kind, name)) = self.from {
            spec["dataSource"] = json!({ "kind": kind, "name": name });
            if kind == "VolumeSnapshot" {
                spec["dataSource"]["apiGroup"] = "snapshot.storage.k8s.io".into();
            }
        }
        spec
    }
}

/// A plain claim.
pub(super) fn claim<'a>(name: &'a str, class: &'a str, size: &'a str) -> Claim<'a> {
    Claim {
        name,
        class,
        size,
        from: None,
        block: false,
    }
}

/// A volume of a pod that is a claim.
pub(super) fn of_claim(name: &str) -> Value {
    json!({ "persistentVolumeClaim": { "claimName": name } })
}

/// A pod with one volume, which the script finds at [`AT`].
pub(super) fn pod(name: &str, volume: Value, script: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": SPACE },
        "spec": spec(volume, script) })
}

/// What such a pod consists of.
pub(super) fn spec(mut volume: Value, script: &str) -> Value {
    volume["name"] = "volume".into();
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [container(script)],
        "volumes": [volume],
    })
}

pub(super) fn container(script: &str) -> Value {
    json!({
        "name": "busybox",
        "image": BUSYBOX,
        "command": ["sh", "-c", script],
        "volumeMounts": [{ "name": "volume", "mountPath": AT }],
    })
}

/// A pod that has a raw block volume.
pub(super) fn with_device(name: &str, claim: &str) -> Value {
    let mut pod = pod(name, of_claim(claim), STAY);
    let container = &mut pod["spec"]["containers"][0];
    container["volumeMounts"] = json!([]);
    container["volumeDevices"] = json!([{ "name": "volume", "devicePath": DEVICE }]);
    pod
}

/// A snapshot of a claim's volume.
pub(super) fn snapshot(name: &str, claim: &str) -> Value {
    json!({ "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": { "name": name, "namespace": SPACE },
        "spec": { "volumeSnapshotClassName": "fairlead",
            "source": { "persistentVolumeClaimName": claim } } })
}
