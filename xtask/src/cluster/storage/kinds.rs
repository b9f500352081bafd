//! Volumes that live with their pod, and one without a file system.

use super::{
    super::place::{Cluster, until},
    LIMIT,
    objects::{AT, Claim, DEVICE, OURS, STAY, claim, of_claim, pod, with_device},
    wait::{bytes, fits, get, gone, runs, sh},
};
use anyhow::{Result, ensure};
use serde_json::json;

const INLINE: u64 = 64 << 20;

/// A claim that comes and goes with its pod.
pub(super) fn generic(cluster: &Cluster) -> Result<String> {
    let template = json!({ "spec": claim("", OURS, "64Mi").spec() });
    let volume = json!({ "ephemeral": { "volumeClaimTemplate": template } });
    cluster.apply(&[pod("generic", volume, STAY)])?;
    runs(cluster, "generic")?;
    sh(cluster, "generic", &format!("echo here > {AT}/file"))?;
    let seen = bytes(cluster, "generic")?;
    let of = get(cluster, "pvc", "generic-volume")?["spec"]["volumeName"].clone();
    gone(cluster, "pod", "generic")?;
    until(LIMIT, "the claim is gone", || {
        Ok(get(cluster, "pvc", "generic-volume").is_err().then_some(()))
    })?;
    let volume = of.as_str().unwrap_or_default().to_owned();
    until(LIMIT, "its volume is gone", || {
        Ok(get(cluster, "pv", &volume).is_err().then_some(()))
    })?;
    Ok(format!("{seen} bytes; {volume} went with the pod"))
}

/// A volume that no claim is for.
pub(super) fn inline(cluster: &Cluster) -> Result<String> {
    let volume =
        json!({ "csi": { "driver": "csi.fairlead.dev", "volumeAttributes": { "size": "64Mi" } } });
    cluster.apply(&[pod("inline", volume, STAY)])?;
    let node = runs(cluster, "inline")?;
    let seen = bytes(cluster, "inline")?;
    fits(seen, INLINE)?;
    let fill = format!("dd if=/dev/zero of={AT}/fill bs=1M 2>&1; true");
    let said = sh(cluster, "inline", &fill)?;
    ensure!(said.contains("No space left on device"), "dd said {said}");
    gone(cluster, "pod", "inline")?;
    Ok(format!(
        "{seen} bytes on {node}, full at that, gone with its pod"
    ))
}

/// A device, in place of a folder.
pub(super) fn block(cluster: &Cluster) -> Result<String> {
    let raw = Claim {
        block: true,
        ..claim("raw", OURS, "128Mi")
    };
    cluster.apply(&[raw.object(), with_device("raw", "raw")])?;
    runs(cluster, "raw")?;
    let size = sh(cluster, "raw", &format!("blockdev --getsize64 {DEVICE}"))?;
    ensure!(
        size == (128_u64 << 20).to_string(),
        "the device has {size} bytes"
    );
    let read =
        format!("dd if={DEVICE} bs=1M skip=100 count=8 iflag=direct 2>/dev/null | sha256sum");
    let write = format!(
        "dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null && \
         dd if=/tmp/data of={DEVICE} bs=1M seek=100 conv=fsync 2>/dev/null && sha256sum < /tmp/data"
    );
    let wrote = sh(cluster, "raw", &write)?;
    gone(cluster, "pod", "raw")?;
    cluster.apply(&[with_device("raw", "raw")])?;
    runs(cluster, "raw")?;
    let found = sh(cluster, "raw", &read)?;
    ensure!(wrote == found, "written: {wrote}, read: {found}");
    // Nobody may take it for a file system.
    let plain = pod("plain", of_claim("raw"), STAY);
    cluster.apply(&[plain])?;
    until(
        LIMIT,
        "a pod that wants a file system of it is refused",
        || {
            let pod = get(cluster, "pod", "plain")?;
            ensure!(pod["status"]["phase"] != "Running", "it runs");
            let events = cluster.ask(&[
                "get",
                "events",
                "-n",
                super::SPACE,
                "--field-selector",
                "involvedObject.name=plain",
                "-o",
                "jsonpath={.items[*].message}",
            ])?;
            Ok(events.contains("has volumeMode Block").then_some(()))
        },
    )?;
    gone(cluster, "pod", "plain")?;
    Ok(format!(
        "a device of {size} bytes keeps what is written; as a file system it is refused"
    ))
}
