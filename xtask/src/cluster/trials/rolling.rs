//! A Deployment of ten is restarted, pod by pod, while clients ask it by its ClusterIP and by its NodePort;
//! once more while agents are killed. Pods that end go on serving until everybody knows: no request fails.

use super::{
    super::{place::Cluster, plan::Member, pods},
    SPACE, agents,
    load::Requests,
};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::thread;

const NAME: &str = "rolled";
const REPLICAS: u32 = 10;
const NODE_PORT: u16 = 30093;
/// Restarts under one load.
const ROUNDS: u32 = 4;
/// Longer than anybody takes to hear that a pod ends, as its users set it (`preStop`).
const DRAIN_SECONDS: u32 = 5;

pub(super) fn run(cluster: &Cluster) -> Result<String> {
    deploy(cluster)?;
    let calm = under(cluster, || (0..ROUNDS).try_for_each(|_| restart(cluster)))?;
    // A kubelet starts a container that ended at once, and waits longer each further time: nobody could do
    // an agent's work then. So they are new ones, and end once.
    super::rollout(cluster)?;
    let killing = under(cluster, || {
        thread::scope(|scope| {
            let killer = scope.spawn(|| agents::kill(cluster));
            let restarted = (0..ROUNDS).try_for_each(|_| restart(cluster));
            let killed = killer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            restarted.and(killed)
        })
    })?;
    let words = ["delete", "-n", SPACE, "--timeout=120s"];
    cluster.ask(&[&words[..], &["deployment,service", NAME]].concat())?;
    Ok(format!("{calm}; with each agent killed: {killing}"))
}

fn deploy(cluster: &Cluster) -> Result<()> {
    let mut pod = pods::server();
    pod["terminationGracePeriodSeconds"] = (2 * DRAIN_SECONDS).into();
    pod["containers"][0]["lifecycle"] =
        json!({ "preStop": { "sleep": { "seconds": DRAIN_SECONDS } } });
    let labels = json!({ "app": NAME });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": NAME, "namespace": SPACE },
        "spec": {
            "replicas": REPLICAS, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    });
    let mut service = pods::service(SPACE, NAME);
    service["spec"]["type"] = "NodePort".into();
    service["spec"]["ports"][0]["nodePort"] = NODE_PORT.into();
    cluster.apply(&[deployment, service])?;
    rolled_out(cluster)
}

fn restart(cluster: &Cluster) -> Result<()> {
    let words = ["rollout", "restart", "deployment", NAME, "-n", SPACE];
    cluster.ask(&words)?;
    rolled_out(cluster)
}

fn rolled_out(cluster: &Cluster) -> Result<()> {
    let words = ["rollout", "status", "deployment", NAME, "-n", SPACE];
    cluster
        .ask(&[&words[..], &["--timeout=300s"]].concat())
        .map(|_| ())
}

/// Does the work while a pod, a node and somebody outside ask.
fn under(cluster: &Cluster, work: impl FnOnce() -> Result<()>) -> Result<String> {
    let service = pods::cluster_ip(cluster, SPACE, NAME)?;
    let at = |node: u8| format!("{}:{NODE_PORT}", Member::Node(node).v4());
    let sandbox = agents::endpoint(cluster, "n1", SPACE, "client")?.sandbox;
    let mut pod = cluster.in_node("n1", "nsenter")?;
    pod.args([&format!("--net={sandbox}"), "sh"]);
    let outside = || cluster.inside(Member::Underlay, "sh");
    let mut clients = Vec::new();
    for (name, mut shell, target) in [
        ("pod to ClusterIP", pod, service.clone()),
        ("node to ClusterIP", cluster.in_node("n2", "sh")?, service),
        ("outside to NodePort of n1", outside(), at(1)),
        ("outside to NodePort of n2", outside(), at(2)),
    ] {
        clients.push((name, Requests::start(&mut shell, &target)?));
    }
    let done = work();
    let mut seen = Vec::new();
    let mut failures = Vec::new();
    for (name, requests) in clients {
        let outcomes = requests.stop().with_context(|| name.to_owned())?;
        let answered = outcomes.answered;
        ensure!(answered > 50, "{name}: {answered} answers only");
        seen.push(format!("{name} {answered}"));
        if !outcomes.failures.is_empty() {
            let list = outcomes.failures.join(", ");
            failures.push(format!("{name}: {answered} answers, failed: {list}"));
        }
    }
    done?;
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(format!("{} requests, none failed", seen.join(", ")))
}
