//! What a pod gets: one device, by CDI, several resources at once, in containers one after the other.

use super::{
    super::{place::Cluster, pods},
    NODE, SPACE,
    consumer::{self, Consumer, phase, stays, who},
    install::{CDI, COUNT, FOLDER, NULL},
    kubelet::Kubelet,
};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Files of our kinds that a pod's container has.
fn files(cluster: &Cluster, pod: &str) -> Result<BTreeSet<String>> {
    let line = format!("ls -d {FOLDER}/null* {FOLDER}/cdi* 2>/dev/null || true");
    let said = pods::exec(cluster, SPACE, pod, &["sh", "-c", &line])?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// What it was told, as a set.
fn told(cluster: &Cluster, pod: &str) -> Result<BTreeSet<String>> {
    let told = consumer::told(cluster, pod)?;
    Ok(told.split(',').map(str::to_owned).collect())
}

pub(super) fn requires(cluster: &Cluster) -> Result<String> {
    one(cluster, NULL)
}

pub(super) fn by_cdi(cluster: &Cluster) -> Result<String> {
    one(cluster, CDI)
}

/// One device: it is the one that the pod is told of, and the only one there; the kubelet says the same.
fn one(cluster: &Cluster, resource: &str) -> Result<String> {
    let asks = [(resource, 1)];
    stays("one", &asks).run(cluster)?;
    let (told, files) = (told(cluster, "one")?, files(cluster, "one")?);
    ensure!(told == files, "told of {told:?}, has {files:?}");
    let ids = Kubelet::of(cluster, NODE)?.given(resource, &who("one"))?;
    ensure!(ids.len() == 1, "the kubelet gave {ids:?}");
    Ok(format!("{told:?}, which the kubelet calls {ids:?}"))
}

pub(super) fn several(cluster: &Cluster) -> Result<String> {
    let asks = [(NULL, 2), (CDI, 1)];
    stays("several", &asks).run(cluster)?;
    let files = files(cluster, "several")?;
    ensure!(files.len() == 3, "it has {files:?}");
    let kubelet = Kubelet::of(cluster, NODE)?;
    for (resource, count) in asks {
        let ids = kubelet.given(resource, &who("several"))?;
        ensure!(ids.len() == count, "of {resource} it has {ids:?}");
    }
    Ok(format!("{files:?}"))
}

/// An init container's device goes on to the next one; what stays beside the pod's own container has another.
pub(super) fn restartable_init(cluster: &Cluster) -> Result<String> {
    let asks = [(NULL, 1)];
    let pod = stays("init", &asks);
    let ends = Consumer {
        script: "echo told $DEVICE".to_owned(),
        ..stays("init", &asks)
    };
    let mut object = pod.object();
    let mut beside = pod.container("restartable-init-2");
    beside["restartPolicy"] = "Always".into();
    object["spec"]["initContainers"] = json!([ends.container("init-1"), beside]);
    cluster.apply(&[object])?;
    phase(cluster, "init", "Running")?;
    let log = |container: &str| consumer::log(cluster, "init", container);
    let (first, second, own) = (log("init-1")?, log("restartable-init-2")?, log("consumer")?);
    ensure!(
        first == second,
        "the first has {first}, the one after it {second}"
    );
    ensure!(own != second, "both have {own}");
    let held = Kubelet::of(cluster, NODE)?.held(NULL)?;
    let names: Vec<&str> = held
        .keys()
        .filter_map(|who| who.split('/').nth(2))
        .collect();
    ensure!(
        names == ["consumer", "restartable-init-2"],
        "the kubelet says that {held:?} have some"
    );
    super::kubelet::distinct(&held)?;
    Ok(format!(
        "{first} goes on to the second, {own} is the third's"
    ))
}

/// A pod of a Deployment with a device each.
pub(super) fn deployment(name: &str, replicas: usize) -> Value {
    assert!(replicas < COUNT, "one is left for who is alone");
    let asks = [(NULL, 1)];
    let labels = json!({ "app": name });
    json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": SPACE },
        "spec": { "replicas": replicas, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": stays(name, &asks).spec() } } })
}
