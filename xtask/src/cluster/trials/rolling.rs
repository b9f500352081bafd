//! A Deployment of ten is restarted, pod by pod, while clients ask it by its ClusterIP and by its NodePort;
//! once more while agents are killed. Pods that end go on serving until everybody knows: no request fails.

use super::{
    super::{place::Cluster, plan::Member, pods},
    SPACE, agents,
    load::Requests,
};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

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
    let mut killed = 0;
    let killing = under(cluster, || {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let killer = scope.spawn(|| -> Result<u32> {
                let mut times = 0;
                while !over.load(Ordering::Relaxed) {
                    agents::kill(cluster)?;
                    times += 1;
                    // Kubelets wait longer before each restart: a few are enough.
                    thread::park_timeout(Duration::from_secs(10));
                }
                Ok(times)
            });
            let restarted = (0..ROUNDS).try_for_each(|_| restart(cluster));
            over.store(true, Ordering::Relaxed);
            killer.thread().unpark();
            let times = killer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            restarted?;
            killed = times?;
            anyhow::Ok(())
        })
    })?;
    ensure!(killed > 0, "no agent was killed meanwhile");
    let words = ["delete", "-n", SPACE, "--timeout=120s"];
    cluster.ask(&[&words[..], &["deployment,service", NAME]].concat())?;
    Ok(format!(
        "{calm}; with each agent killed {killed} times: {killing}"
    ))
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
        let (done, failed) = requests.stop().with_context(|| name.to_owned())?;
        ensure!(done > 50, "{name}: {done} requests only");
        seen.push(format!("{name} {done}"));
        if failed > 0 {
            failures.push(format!("{name}: {failed} of {done} failed"));
        }
    }
    done?;
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(format!("{} requests, none failed", seen.join(", ")))
}
