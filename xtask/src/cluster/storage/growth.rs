//! Volumes that grow, and one that is full.

use super::{
    super::place::{Cluster, until},
    LIMIT, SPACE, left,
    objects::{AT, OURS, STAY, XFS, claim, of_claim, pod},
    wait::{bytes, field, fits, get, gone, runs, sh, text},
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;

const TWO_GIB: u64 = 2 << 30;
/// A mounted ext4 grows for who has this right alone (`CAP_SYS_RESOURCE`).
const GROWS_EXT4: u32 = 24;
const PROMISED: u64 = 256 << 20;

fn ask(cluster: &Cluster, claim: &str, size: &str) -> Result<()> {
    let patch = json!({ "spec": { "resources": { "requests": { "storage": size } } } }).to_string();
    let words = ["patch", "pvc", claim, "-n", SPACE, "-p", &patch];
    cluster.ask(&words).map(|_| ())
}

/// Whether a container here can have the right at all.
fn may_grow_ext4() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let all = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let all = all.context("no CapBnd in /proc/self/status")?.trim();
    Ok(u64::from_str_radix(all, 16)? >> GROWS_EXT4 & 1 == 1)
}

/// Claims grow to twice their size while their pods run.
pub(super) fn online(cluster: &Cluster) -> Result<String> {
    cluster.apply(&[
        claim("grows", XFS, "1Gi").object(),
        pod("grows", of_claim("grows"), STAY),
    ])?;
    runs(cluster, "grows")?;
    let before = bytes(cluster, "grows")?;
    ask(cluster, "grows", "2Gi")?;
    ask(cluster, "example-pvc", "2Gi")?;
    field(cluster, "pvc", "grows", "/status/capacity/storage", "2Gi")?;
    let after = bytes(cluster, "grows")?;
    fits(after, TWO_GIB)?;
    let xfs = format!("xfs from {before} to {after} bytes while its pod runs");

    let how = match may_grow_ext4()? {
        true => "while its pod runs",
        false => {
            anew(cluster, "example", "example-pvc")?;
            "when its pod was started anew: root may not grow a mounted one on this machine (CAP_SYS_RESOURCE)"
        }
    };
    field(
        cluster,
        "pvc",
        "example-pvc",
        "/status/capacity/storage",
        "2Gi",
    )?;
    let after = bytes(cluster, "example")?;
    fits(after, TWO_GIB)?;
    sh(cluster, "example", &format!("test -s {AT}/file"))?;
    Ok(format!("{xfs}; ext4 to {after} bytes {how}"))
}

/// Waits until the node was refused to grow a claim's mounted file system, ends its pod, and starts another one when the
/// volume is off the node: one that comes before that finds it mounted still.
fn anew(cluster: &Cluster, name: &str, claim: &str) -> Result<()> {
    until(LIMIT, "the node has tried to grow it", || {
        let form = "jsonpath={.items[*].message}";
        let events = cluster.ask(&["get", "events", "-n", SPACE, "-o", form])?;
        Ok(events.contains("CAP_SYS_RESOURCE").then_some(()))
    })?;
    let node = runs(cluster, name)?;
    let volume = text(&get(cluster, "pvc", claim)?, "/spec/volumeName")?;
    let handle = text(&get(cluster, "pv", &volume)?, "/spec/csi/volumeHandle")?;
    gone(cluster, "pod", name)?;
    until(LIMIT, "the volume is taken off the node", || {
        Ok((!left::is_staged(cluster, &node, &handle)?).then_some(()))
    })?;
    cluster.apply(&[pod(name, of_claim(claim), STAY)])?;
    runs(cluster, name).map(|_| ())
}

/// A pod fills its volume; one beside it, on the same node, writes on.
pub(super) fn full(cluster: &Cluster) -> Result<String> {
    let node = "n1";
    let on = |mut pod: Value| {
        pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
        pod
    };
    let writes = format!(
        "while :; do echo x | dd of={AT}/log oflag=append conv=notrunc,fsync 2>/dev/null || exit 1; sleep 0.02; done"
    );
    cluster.apply(&[
        claim("full", OURS, "256Mi").object(),
        claim("beside", OURS, "256Mi").object(),
        on(pod("full", of_claim("full"), STAY)),
        on(pod("beside", of_claim("beside"), &writes)),
    ])?;
    runs(cluster, "full")?;
    runs(cluster, "beside")?;
    let lines = || -> Result<u64> {
        let line = format!("wc -l < {AT}/log");
        sh(cluster, "beside", &line)?.parse().context("a count")
    };
    let fill = format!("dd if=/dev/zero of={AT}/fill bs=1M conv=fsync 2>&1; stat -c %s {AT}/fill");
    let said = sh(cluster, "full", &fill)?;
    ensure!(said.contains("No space left on device"), "dd said {said}");
    let wrote: u64 = said.lines().last().unwrap_or_default().parse()?;
    fits(wrote, PROMISED)?;
    let then = lines()?;
    let goes_on = until(LIMIT, "the neighbour writes on", || {
        Ok(Some(lines()?).filter(|now| *now > then + 10))
    })?;
    let restarts = get(cluster, "pod", "beside")?;
    ensure!(
        restarts.pointer("/status/containerStatuses/0/restartCount") == Some(&json!(0)),
        "the neighbour failed to write"
    );
    let pressed = cluster.ask(&[
        "get",
        "node",
        node,
        "-o",
        "jsonpath={.status.conditions[?(@.type==\"DiskPressure\")].status}",
    ])?;
    ensure!(pressed == "False", "{node} has DiskPressure {pressed}");
    Ok(format!(
        "no space left after {wrote} of {PROMISED} bytes; its neighbour went on from {then} to {goes_on} lines, {node} has \
         no pressure"
    ))
}
