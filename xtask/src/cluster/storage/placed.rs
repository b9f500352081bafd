//! Claims get volumes, and what is in a volume stays when its pod goes.

use super::{
    super::place::{Cluster, until},
    LIMIT, SPACE,
    objects::{AT, EXAMPLE, OURS, STAY, claim, of_claim, pod, spec},
    wait::{bound, bytes, field, fits, get, gone, runs, sh, text},
};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::Instant;

const GIB: u64 = 1 << 30;
const SET: usize = 3;

/// The specification's claims, one of each class.
pub(super) fn claims(cluster: &Cluster) -> Result<String> {
    let start = Instant::now();
    cluster.apply(&[claim("example-pvc", EXAMPLE, "1Gi").object()])?;
    let example = bound(cluster, "example-pvc")?;
    let at_once = start.elapsed().as_secs_f64();
    let is = |pointer: &str, wanted: &Value| {
        let found = example.pointer(pointer);
        ensure!(
            found == Some(wanted),
            "{pointer} is {found:?}, not {wanted}"
        );
        Ok(())
    };
    is("/spec/capacity/storage", &json!("1Gi"))?;
    is("/spec/persistentVolumeReclaimPolicy", &json!("Delete"))?;
    is("/spec/csi/driver", &json!("csi.fairlead.dev"))?;
    let terms = "/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0";
    is(
        &format!("{terms}/key"),
        &json!("topology.fairlead.dev/node"),
    )?;
    let node = text(&example, &format!("{terms}/values/0"))?;

    let start = Instant::now();
    cluster.apply(&[
        claim("pvc-test", OURS, "1Gi").object(),
        pod("test", of_claim("pvc-test"), STAY),
    ])?;
    bound(cluster, "pvc-test")?;
    let made = start.elapsed().as_secs_f64();
    let on = runs(cluster, "test")?;
    let running = start.elapsed().as_secs_f64();
    let seen = bytes(cluster, "test")?;
    fits(seen, GIB)?;
    Ok(format!(
        "example-pvc Bound after {at_once:.1} s, 1Gi, Delete, on {node}; pvc-test Bound after {made:.1} s, its pod runs on \
         {on} after {running:.1} s and sees {seen} bytes"
    ))
}

/// A pod writes, goes, and another one finds it.
pub(super) fn data(cluster: &Cluster) -> Result<String> {
    let reader = || pod("example", of_claim("example-pvc"), STAY);
    cluster.apply(&[reader()])?;
    let first = runs(cluster, "example")?;
    let line = format!(
        "dd if=/dev/urandom of={AT}/file bs=1M count=64 conv=fsync 2>/dev/null && sha256sum < {AT}/file"
    );
    let wrote = sh(cluster, "example", &line)?;
    gone(cluster, "pod", "example")?;
    cluster.apply(&[reader()])?;
    let second = runs(cluster, "example")?;
    let read = sh(cluster, "example", &format!("sha256sum < {AT}/file"))?;
    ensure!(wrote == read, "written: {wrote}, read: {read}");
    ensure!(
        first == second,
        "from {first} to {second}, away from the disk"
    );
    Ok(format!(
        "64 MiB written on {first}, the pod deleted, another one on {second} reads the same"
    ))
}

/// A StatefulSet of three, one pod of which goes.
pub(super) fn set(cluster: &Cluster) -> Result<String> {
    let script = format!("[ -e {AT}/name ] || hostname > {AT}/name; {STAY}");
    let mut template = spec(json!({}), &script);
    template["volumes"] = json!([]);
    let labels = json!({ "app": "db" });
    let mut claims = claim("volume", OURS, "64Mi").object();
    claims["metadata"] = json!({ "name": "volume" });
    cluster.apply(&[json!({ "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": { "name": "db", "namespace": SPACE },
            "spec": { "replicas": SET, "serviceName": "db", "podManagementPolicy": "Parallel",
                "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": template },
                "volumeClaimTemplates": [claims] } })])?;
    let ready = SET.to_string();
    let wait = || {
        field(
            cluster,
            "statefulset",
            "db",
            "/status/readyReplicas",
            &ready,
        )
    };
    wait()?;
    let names = || -> Result<Vec<String>> {
        let of = |number| sh(cluster, &format!("db-{number}"), &format!("cat {AT}/name"));
        (0..SET).map(of).collect()
    };
    let own: Vec<_> = (0..SET).map(|number| format!("db-{number}")).collect();
    let first = names()?;
    ensure!(first == own, "the pods find {first:?}");
    let uid = text(&get(cluster, "pod", "db-1")?, "/metadata/uid")?;
    // Another hostname would write another name, were the volume a new one.
    gone(cluster, "pod", "db-1")?;
    until(LIMIT, "another db-1 is there", || {
        let now = get(cluster, "pod", "db-1").and_then(|pod| text(&pod, "/metadata/uid"));
        Ok((now.is_ok_and(|now| now != uid)).then_some(()))
    })?;
    wait()?;
    let second = names()?;
    ensure!(
        second == own,
        "after db-1 was deleted, the pods find {second:?}"
    );
    Ok(format!(
        "{} each with a volume of its own, db-1 deleted and back with its own",
        own.join(", ")
    ))
}
