//! A minute without the API server. Agents are killed and come back; a pod whose sandbox ends gets a new
//! one; a kubelet runs and removes a pod of its own folder. One that is started anew runs such a pod too, but
//! ends none before it has heard the API server. Nothing is lost meanwhile.

use super::{
    super::{objects::STATIC_PODS, place::Cluster, place::until, pods, processes},
    LIMIT, SPACE, agents, load,
};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

/// How long the API server is away, at least.
const AWAY: Duration = Duration::from_secs(60);
/// A pod of a kubelet's own folder; the kubelet adds its node's name.
const STATIC: &str = "static";

pub(super) fn run(cluster: &Cluster) -> Result<String> {
    let before = agents::agree(cluster, "n1")?;
    // An agent that starts without the API server goes on from its disk, where the newest may still lack.
    // What was there before the last Service is there with it.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let last = format!("last-{}", since.as_millis());
    cluster.apply(&[pods::service(SPACE, &last)])?;
    for node in ["n1", "n2"] {
        until(LIMIT, "the agent has the cluster on its disk", || {
            let mut grep = cluster.in_node(node, "grep")?;
            grep.args(["-qF", &last, "/var/lib/fairlead/cluster.json"]);
            Ok(workspace::status(&mut grep)?.success().then_some(()))
        })?;
    }
    let mut steps = Vec::new();
    let pings = load::under(cluster, || {
        let server = cluster.pid_of("kube-apiserver")?;
        let server = Pid::from_raw(server).context("the API server's pid")?;
        kill_process(server, Signal::STOP)?;
        let done = without_server(cluster);
        kill_process(server, Signal::CONT)?;
        steps = done?;
        until(LIMIT, "the agents are ready again", || {
            let words = "-n kube-system get daemonset fairlead -o \
                jsonpath={.status.numberReady}/{.status.desiredNumberScheduled}";
            let words: Vec<_> = words.split(' ').collect();
            let all = |told: &String| {
                told.split_once('/')
                    .is_some_and(|(ready, wanted)| ready == wanted)
            };
            Ok(cluster.ask(&words).ok().filter(all))
        })?;
        gone(cluster, "n1")?;
        let after = agents::agree(cluster, "n1")?;
        ensure!(before == after, "before: {before}; after: {after}");
        agents::agree(cluster, "n2").map(|_| ())
    })?;
    Ok(format!("{}; {pings}", steps.join("; ")))
}

fn without_server(cluster: &Cluster) -> Result<Vec<String>> {
    let start = Instant::now();
    let mut steps = Vec::new();
    let mut step = |what: &str, since: Instant| {
        steps.push(format!(
            "{what} after {:.1} s",
            since.elapsed().as_secs_f64()
        ));
    };

    let since = Instant::now();
    agents::kill(cluster)?;
    step("killed agents back", since);

    let since = Instant::now();
    new_sandbox(cluster)?;
    step("a killed sandbox replaced", since);

    let since = Instant::now();
    let before = used(cluster, "n2")?;
    let address = come(cluster, "n2")?;
    step("a pod of the kubelet's own folder served", since);
    let since = Instant::now();
    take(cluster, "n2")?;
    gone(cluster, "n2")?;
    until(LIMIT, "its address is free", || {
        Ok((used(cluster, "n2")? == before).then_some(()))
    })?;
    ensure!(
        name_at(cluster, "n2", &address).is_err(),
        "{address} still answers"
    );
    step("and gone", since);

    let since = Instant::now();
    let before = processes::both(cluster, "kubelet")?;
    processes::kill(cluster, "n1", "kubelet")?;
    until(LIMIT, "n1 has a new kubelet", || {
        let now = processes::both(cluster, "kubelet").unwrap_or_default();
        let new = now
            .get("n1")
            .is_some_and(|pid| before.get("n1") != Some(pid));
        Ok(new.then_some(()))
    })?;
    come(cluster, "n1")?;
    step("a pod of a new kubelet's own folder served", since);
    take(cluster, "n1")?;

    thread::sleep(AWAY.saturating_sub(start.elapsed()));
    Ok(steps)
}

/// Ends all processes of a pod, its sandbox among them, and waits until its kubelet has made it anew.
fn new_sandbox(cluster: &Cluster) -> Result<()> {
    let before = agents::endpoint(cluster, "n2", SPACE, "spare")?;
    let netns = before.sandbox.rsplit_once('/').context("a path")?.1;
    let mut ip = cluster.in_node("n2", "ip")?;
    let pids = workspace::output(ip.args(["netns", "pids", netns]))?;
    ensure!(
        !pids.trim().is_empty(),
        "nothing runs in the sandbox of {before:?}"
    );
    // Some of them may have ended by themselves; whether the sandbox has is looked at below.
    let words = pids.split_whitespace().collect::<Vec<_>>().join(" ");
    let script = format!("kill -9 {words} || true");
    workspace::output(cluster.in_node("n2", "sh")?.args(["-c", &script]))?;
    until(LIMIT, "the pod answers from a new sandbox", || {
        let Ok(now) = agents::endpoint(cluster, "n2", SPACE, "spare") else {
            return Ok(None);
        };
        let other = now.container_id != before.container_id;
        Ok((other && name_at(cluster, "n2", now.address()).is_ok()).then_some(()))
    })
}

/// Puts the pod's manifest into a node's folder, complete when it appears, and answers the address at which it
/// serves then.
fn come(cluster: &Cluster, node: &str) -> Result<String> {
    let mut pod = pods::web(SPACE, STATIC, node);
    // Nobody could give it a token.
    pod["spec"]["automountServiceAccountToken"] = false.into();
    let file = cluster.dir().join("static.json");
    std::fs::write(&file, serde_json::to_vec(&pod)?)?;
    let hidden = format!("{STATIC_PODS}/.static");
    workspace::output(cluster.in_node(node, "cp")?.arg(&file).arg(&hidden))?;
    workspace::output(cluster.in_node(node, "mv")?.args([hidden, manifest()]))?;
    let name = format!("{STATIC}-{node}");
    until(LIMIT, "the static pod answers", || {
        let Ok(endpoint) = agents::endpoint(cluster, node, SPACE, &name) else {
            return Ok(None);
        };
        let named = name_at(cluster, node, endpoint.address());
        Ok(named.is_ok().then(|| endpoint.address().to_owned()))
    })
}

/// Takes the pod's manifest away.
fn take(cluster: &Cluster, node: &str) -> Result<()> {
    workspace::output(cluster.in_node(node, "rm")?.arg(manifest())).map(|_| ())
}

/// Until the pod is gone.
fn gone(cluster: &Cluster, node: &str) -> Result<()> {
    let name = format!("{STATIC}-{node}");
    until(LIMIT, "the static pod is gone", || {
        let gone = agents::endpoint(cluster, node, SPACE, &name).is_err();
        Ok(gone.then_some(()))
    })
}

fn manifest() -> String {
    format!("{STATIC_PODS}/{STATIC}.json")
}

/// What the web server at an address calls itself.
fn name_at(cluster: &Cluster, node: &str, address: &str) -> Result<String> {
    let url = format!("http://{address}:{}/hostname", pods::PORT);
    workspace::output(
        cluster
            .in_node(node, "curl")?
            .args(["-fsS", "-m", "2", &url]),
    )
}

/// Addresses in use on a node.
fn used(cluster: &Cluster, node: &str) -> Result<Vec<u64>> {
    let pools: Vec<serde_json::Value> = agents::ask(cluster, node, &["ipam"])?;
    Ok(pools
        .iter()
        .filter_map(|pool| pool["used"].as_u64())
        .collect())
}
