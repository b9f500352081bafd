//! What makes a cluster have devices: `deploy/devices`, a configuration for the walk, and their end.

use super::{
    super::{
        parts,
        place::{Cluster, until},
    },
    LIMIT, NODE, claims,
    kubelet::Kubelet,
    node,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Devices of the kernel that do no harm.
pub(super) const NULL: &str = "fairlead.test/null";
/// The same, by way of CDI.
pub(super) const CDI: &str = "fairlead.test/cdi";
/// The same, and there is only one.
pub(super) const SINGLE: &str = "fairlead.test/single";
/// Its file.
pub(super) const SINGLE_FILE: &str = "/dev/net/single0";
/// Devices for claims, each for one of them.
pub(super) const CLAIMED: &str = "fairlead.test/claimed";
/// A device for several claims, and there is only one.
pub(super) const SHARED: &str = "fairlead.test/shared";
/// Its file.
pub(super) const SHARED_FILE: &str = "/dev/net/shared0";
/// How many claims may have it at once.
pub(super) const SHARES: usize = 3;
/// What pods are told of one.
pub(super) const TOLD: &str = "FAIRLEAD_TEST_DEVICE";
/// How many there are of each.
pub(super) const COUNT: usize = 4;
/// Where their files are: on the node alone, not on the machine.
pub(super) const FOLDER: &str = "/dev/net";

/// Installs it and waits until the node has its devices.
///
/// # Errors
/// When something is refused, or doesn't start in time.
pub(super) fn run(cluster: &Cluster, volumes: bool) -> Result<()> {
    for name in files() {
        node::plug(cluster, &name)?;
    }
    // Devices before volumes or after: the order doesn't matter.
    let parts = [&["devices", "devices/dra"], others(volumes)].concat();
    parts::apply(cluster, "devices", &parts, LIMIT)?;
    configure(cluster, &whole())?;
    parts::rolled_out(cluster, "daemonset/fairlead", LIMIT)?;
    let kubelet = Kubelet::of(cluster, NODE)?;
    for (resource, count) in [(NULL, COUNT), (CDI, COUNT), (SINGLE, 1)] {
        kubelet.has(resource, count).context("after the start")?;
    }
    println!("installed: {}", parts.join(", "));
    Ok(())
}

/// Parts beside it.
fn others(volumes: bool) -> &'static [&'static str] {
    match volumes {
        true => &["storage", "storage/claims"],
        false => &[],
    }
}

/// Names of the devices of a kind.
pub(super) fn names(kind: &str) -> impl Iterator<Item = String> {
    (0..COUNT).map(move |number| format!("{FOLDER}/{kind}{number}"))
}

/// All files of devices that are made.
fn files() -> impl Iterator<Item = String> {
    let single = [SINGLE_FILE, SHARED_FILE].map(str::to_owned);
    ["null", "cdi", "claimed"]
        .into_iter()
        .flat_map(names)
        .chain(single)
}

/// The resources of the walk.
pub(super) fn whole() -> Value {
    let resource = |name: &str, kind: &str, cdi: bool| {
        json!({
            "name": name,
            "find": [{ "path": format!("{FOLDER}/{kind}*") }],
            "give": { "writeCdi": cdi, "environment": { TOLD: "{path}" } },
        })
    };
    let claimed = |name: &str, kind: &str, count: usize| {
        let mut resource = resource(name, kind, true);
        resource["serve"] = "dra".into();
        resource["count"] = count.into();
        resource
    };
    let preset = |name: &str| json!({ "preset": name, "give": { "writeCdi": true } });
    json!([
        resource(NULL, "null", false),
        resource(CDI, "cdi", true),
        resource(SINGLE, "single", false),
        claimed(CLAIMED, "claimed", 1),
        claimed(SHARED, "shared", SHARES),
        preset("kvm"),
        preset("tun"),
        preset("fuse"),
    ])
}

/// Has the agents serve these resources. They take it when the kubelet hands it on.
pub(super) fn configure(cluster: &Cluster, resources: &Value) -> Result<()> {
    let text = json!({ "resources": resources }).to_string();
    cluster.apply(&[json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "fairlead-devices", "namespace": "kube-system",
            "labels": { "app.kubernetes.io/name": "fairlead" } },
        "data": { "devices.yaml": text } })])
}

/// Takes it away, and looks that nothing stays on the node.
///
/// # Errors
/// What stays.
pub(super) fn undo(cluster: &Cluster, volumes: bool) -> Result<()> {
    configure(cluster, &json!([]))?;
    let kubelet = Kubelet::of(cluster, NODE)?;
    for resource in [NULL, CDI, SINGLE] {
        kubelet
            .has(resource, 0)
            .context("after the configuration was emptied")?;
    }
    until(LIMIT, "the node has no slices", || {
        Ok(claims::slices(cluster)?.is_empty().then_some(()))
    })?;
    let mut left = Vec::new();
    until(LIMIT, "nothing of devices is left on the node", || {
        left = node::left(cluster)?;
        // The driver of claims stays as long as its agent: claims may have to be taken back.
        left.retain(|name| !name.contains("devices.fairlead.dev"));
        Ok(left.is_empty().then_some(()))
    })
    .with_context(|| format!("left: {left:?}"))?;
    parts::apply(cluster, "devices", others(volumes), LIMIT)?;
    let words = [
        "delete",
        "configmap",
        "fairlead-devices",
        "-n",
        "kube-system",
    ];
    cluster.ask(&words)?;
    for kinds in [
        "clusterrole,clusterrolebinding",
        "validatingadmissionpolicy,validatingadmissionpolicybinding",
    ] {
        cluster.ask(&["delete", kinds, "fairlead-dra", "--ignore-not-found"])?;
    }
    parts::rolled_out(cluster, "daemonset/fairlead", LIMIT)?;
    for name in files() {
        node::unplug(cluster, &name)?;
    }
    let left = node::left(cluster)?;
    ensure!(left.is_empty(), "after its end there are {left:?}");
    println!("taken away: no socket, no specification and no file of a device is left");
    Ok(())
}
