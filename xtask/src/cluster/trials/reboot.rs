//! n2 loses its power and starts again: nothing runs, links, /run and bpffs are new, the disk is the old one.
//! Its pods come back with one address each, and nothing of the time before stays.

use super::{
    super::{members, objects::STATIC_PODS, place::Cluster, place::until, pods},
    LIMIT, SPACE, agents,
};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};

const NODE: &str = "n2";
/// Pods of a Deployment on the node.
const REPLICAS: u8 = 4;

pub(super) fn run(cluster: &Cluster) -> Result<String> {
    let plan = cluster.plan()?;
    let node = plan.node(NODE).context("n2 is there")?;
    cluster.apply(&[
        controller("DaemonSet", "everywhere", json!({})),
        controller("Deployment", "several", json!({ "replicas": REPLICAS })),
    ])?;
    let file = cluster.dir().join("static.json");
    let mut pod = pods::web(SPACE, "static", NODE);
    pod["spec"]["automountServiceAccountToken"] = false.into();
    std::fs::write(&file, serde_json::to_vec(&pod)?)?;
    let mut copy = cluster.in_node(NODE, "cp")?;
    workspace::output(copy.arg(&file).arg(format!("{STATIC_PODS}/static.json")))?;
    // client, far and spare; one of the DaemonSet on each node; the Deployment's and the static one.
    let expected = 3 + plan.nodes().count() + usize::from(REPLICAS) + 1;
    until(LIMIT, "all pods are made", || {
        let words = ["get", "pods", "-n", SPACE, "-o", "name"];
        Ok((cluster.ask(&words)?.lines().count() == expected).then_some(()))
    })?;
    pods::ready(cluster, SPACE)?;
    agents::agree(cluster, NODE)?;
    let before = containers(cluster)?;

    let since = Instant::now();
    members::reboot(cluster, &plan, node)?;
    let started = since.elapsed();
    // Until then the API server tells what was before.
    until(LIMIT, "every pod of the node runs anew", || {
        let now = containers(cluster)?;
        let anew = |(pod, container): (&String, &Container)| {
            let now = now.get(pod);
            now.is_some_and(|now| now.ready && now.id != container.id)
        };
        Ok((now.len() == before.len() && before.iter().all(anew)).then_some(()))
    })
    .with_context(|| format!("before: {before:?}; now: {:?}", containers(cluster)))?;
    let back = since.elapsed();
    let agreed = agents::agree(cluster, NODE)?;
    let far = pods::address(cluster, SPACE, "far")?;
    let ping = ["ping", "-c", "2", "-W", "5", &far];
    pods::exec(cluster, SPACE, "client", &ping).context("from n1 to a pod of n2")?;
    let problems = problems(cluster)?;
    ensure!(
        problems.is_empty(),
        "the agent of n2 has problems: {problems:?}"
    );

    workspace::output(
        cluster
            .in_node(NODE, "rm")?
            .arg(format!("{STATIC_PODS}/static.json")),
    )?;
    cluster.ask(&[
        "delete",
        "deployment/several",
        "daemonset/everywhere",
        "-n",
        SPACE,
    ])?;
    let left = agents::agree(cluster, NODE)?;
    Ok(format!(
        "containerd back after {:.1} s, {} pods after {:.1} s: {agreed}; then {left}",
        started.as_secs_f64(),
        before.len(),
        back.as_secs_f64()
    ))
}

/// A Deployment or a DaemonSet of web servers; the Deployment's all on the node.
fn controller(kind: &str, name: &str, spec: Value) -> Value {
    let labels = json!({ "app": name });
    let mut server = pods::server();
    if kind == "Deployment" {
        server["nodeSelector"] = json!({ "kubernetes.io/hostname": NODE });
    }
    let mut all = spec;
    all["selector"] = json!({ "matchLabels": labels });
    all["template"] = json!({ "metadata": { "labels": labels }, "spec": server });
    json!({ "apiVersion": "apps/v1", "kind": kind,
        "metadata": { "name": name, "namespace": SPACE }, "spec": all })
}

/// A pod's container.
#[derive(Debug)]
struct Container {
    id: String,
    ready: bool,
}

/// The containers of the node's pods with a network, by their pods.
fn containers(cluster: &Cluster) -> Result<BTreeMap<String, Container>> {
    let on = format!("spec.nodeName={NODE}");
    let words = ["get", "pods", "-A", "-o", "json", "--field-selector", &on];
    let list: Value = serde_json::from_str(&cluster.ask(&words)?)?;
    let items = list["items"].as_array().context("a list of pods")?.iter();
    let own = items.filter(|pod| pod["spec"]["hostNetwork"] != true);
    own.map(|pod| {
        let name = pod["metadata"]["name"].as_str().context("a pod's name")?;
        let status = &pod["status"]["containerStatuses"][0];
        let id = status["containerID"].as_str().unwrap_or_default();
        let ready = status["ready"] == true;
        Ok((
            name.to_owned(),
            Container {
                id: id.to_owned(),
                ready,
            },
        ))
    })
    .collect()
}

/// What the node's agent finds wrong.
fn problems(cluster: &Cluster) -> Result<Vec<Value>> {
    let status: Value = agents::ask(cluster, NODE, &["status"])?;
    Ok(status["problems"].as_array().cloned().unwrap_or_default())
}
