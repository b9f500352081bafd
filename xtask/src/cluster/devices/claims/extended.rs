//! Pods that ask by limits, as from a device plugin, and are served by claims that the scheduler makes.

use super::{
    super::{
        super::place::Cluster,
        consumer::{Consumer, gone, phase, stays},
        install::{CLAIMED, TOLD},
        watch,
    },
    held,
    holder::{self, Holder, field, files},
    objects::CLASS,
};
use anyhow::{Result, ensure};
use serde_json::json;
use std::collections::BTreeSet;

const ONE: [(&str, usize); 1] = [(CLAIMED, 1)];

/// By the name that the class has for it.
pub(super) fn explicit(cluster: &Cluster) -> Result<String> {
    let holder = Holder::run(cluster, &stays("claim-limits", &ONE).object())?;
    held::is_prepared(cluster, &[&holder.claim])?;
    let numbers = watch::now(cluster, CLAIMED)?;
    ensure!(
        numbers.allocatable.is_none(),
        "the Node has {numbers:?} of it, as from a device plugin"
    );
    let told = field(
        cluster,
        "claim-limits",
        ".status.extendedResourceClaimStatus.requestMappings[0]",
    )?;
    ensure!(
        told.contains(CLAIMED) && told.contains("\"consumer\""),
        "its status has {told}"
    );
    holder.end(cluster)?;
    holder::until_claims_are(cluster, &[])?;
    Ok(format!(
        "{} by claim {}, told in the pod's status; the claim goes with the pod",
        holder.file, holder.claim.name
    ))
}

/// By the class's own name.
pub(super) fn implicit(cluster: &Cluster) -> Result<String> {
    let resource = format!("deviceclass.resource.kubernetes.io/{CLASS}");
    let asks = [(&*resource, 1)];
    let holder = Holder::run(cluster, &stays("claim-implicit", &asks).object())?;
    held::is_prepared(cluster, &[&holder.claim])?;
    Ok(format!("{resource}: {}", holder.file))
}

/// Containers of one pod have one each, and who asks for two has two.
pub(super) fn several(cluster: &Cluster) -> Result<String> {
    let mut object = stays("claim-each", &ONE).object();
    let two = [(CLAIMED, 2)];
    object["spec"]["containers"] = json!([
        stays("claim-each-a", &ONE).container("a"),
        stays("claim-each-b", &ONE).container("b"),
        stays("claim-each-c", &two).container("c"),
    ]);
    cluster.apply(&[object])?;
    phase(cluster, "claim-each", "Running")?;
    let mut all = BTreeSet::new();
    let mut seen = Vec::new();
    for (container, count) in [("a", 1), ("b", 1), ("c", 2)] {
        let files = files(cluster, "claim-each", container)?;
        ensure!(files.len() == count, "{container} has {files:?}");
        all.extend(files.clone());
        seen.push(format!("{container}: {}", files.join(", ")));
    }
    ensure!(all.len() == 4, "some have the same: {seen:?}");
    held::is_prepared(cluster, &[&held::of_pod(cluster, "claim-each")?])?;
    // There are no more, and the next one waits until there are.
    cluster.apply(&[stays("claim-none", &ONE).object()])?;
    let why = holder::is_unschedulable(cluster, "claim-none")?;
    gone(cluster, "claim-each")?;
    Holder::running(cluster, "claim-none")?;
    Ok(format!(
        "{}; one more waits ({why}) until they are free",
        seen.join("; ")
    ))
}

/// A pod that is done gives it back, and its claim goes.
pub(super) fn done(cluster: &Cluster) -> Result<String> {
    let ends = Consumer {
        script: format!("echo told ${TOLD}"),
        ..stays("claim-limits-done", &ONE)
    };
    let mut object = ends.object();
    object["spec"]["restartPolicy"] = "Never".into();
    cluster.apply(&[object])?;
    phase(cluster, "claim-limits-done", "Succeeded")?;
    holder::until_claims_are(cluster, &[])?;
    held::is_prepared(cluster, &[])?;
    Ok("the claim is deleted and taken back while the pod stays Succeeded".to_owned())
}
