//! Volumes made of others: of a snapshot, which keeps what was, and of a volume.

use super::{
    super::place::Cluster,
    objects::{AT, Claim, EXAMPLE, STAY, claim, of_claim, pod, snapshot as object},
    wait::{field, get, gone, runs, sh},
};
use anyhow::{Result, ensure};
use std::time::Instant;

/// Cuts, changes the source, restores. Needs the pod `example` on `example-pvc`.
pub(super) fn snapshot(cluster: &Cluster) -> Result<String> {
    // Not written out by anybody: the snapshot has it nevertheless.
    sh(cluster, "example", &format!("echo before > {AT}/when"))?;
    let sum = sh(cluster, "example", &format!("sha256sum < {AT}/file"))?;
    let start = Instant::now();
    cluster.apply(&[object("cut", "example-pvc")])?;
    let cut = field(
        cluster,
        "volumesnapshot",
        "cut",
        "/status/readyToUse",
        "true",
    )?;
    let seconds = start.elapsed().as_secs_f64();
    let size = cut.pointer("/status/restoreSize").cloned();
    let held = get(cluster, "pvc", "example-pvc")?;
    let held = held.pointer("/status/capacity/storage").cloned();
    ensure!(size == held, "restoreSize is {size:?} of {held:?}");
    sh(cluster, "example", &format!("echo after > {AT}/when"))?;
    cluster.apply(&[
        Claim {
            from: Some(("VolumeSnapshot", "cut")),
            ..claim("restored", EXAMPLE, "2Gi")
        }
        .object(),
        pod("restored", of_claim("restored"), STAY),
    ])?;
    let on = runs(cluster, "restored")?;
    let seen = |pod: &str| sh(cluster, pod, &format!("cat {AT}/when"));
    let (source, restored) = (seen("example")?, seen("restored")?);
    ensure!(
        (&*source, &*restored) == ("after", "before"),
        "the source has {source:?}, the restored volume {restored:?}"
    );
    let same = sh(cluster, "restored", &format!("sha256sum < {AT}/file"))?;
    ensure!(same == sum, "the file is {same}, and was {sum}");
    // Neither needs the other.
    gone(cluster, "volumesnapshot", "cut")?;
    let still = sh(cluster, "restored", &format!("sha256sum < {AT}/file"))?;
    ensure!(still == sum, "the file is {still} without the snapshot");
    Ok(format!(
        "ready after {seconds:.1} s, restored on {on}: {restored:?} there, {source:?} in the source, 64 MiB the same, also \
         when the snapshot is deleted"
    ))
}

/// Makes a volume of one that a pod has.
pub(super) fn clone(cluster: &Cluster) -> Result<String> {
    cluster.apply(&[
        Claim {
            from: Some(("PersistentVolumeClaim", "example-pvc")),
            ..claim("cloned", EXAMPLE, "2Gi")
        }
        .object(),
        pod("cloned", of_claim("cloned"), STAY),
    ])?;
    let on = runs(cluster, "cloned")?;
    let seen = sh(cluster, "cloned", &format!("cat {AT}/when"))?;
    ensure!(seen == "after", "the clone has {seen:?}");
    sh(cluster, "cloned", &format!("echo own > {AT}/when"))?;
    let source = sh(cluster, "example", &format!("cat {AT}/when"))?;
    ensure!(source == "after", "the source has {source:?}");
    let volume =
        |claim: &str| get(cluster, "pvc", claim).map(|pvc| pvc["spec"]["volumeName"].clone());
    ensure!(
        volume("cloned")? != volume("example-pvc")?,
        "one volume for both"
    );
    Ok(format!(
        "on {on}, with what the source has, and changes of its own"
    ))
}
