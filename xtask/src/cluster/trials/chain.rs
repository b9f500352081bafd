//! Plugins chained after ours, as Calico's own configuration has them: `portmap` leads a host port to a pod,
//! `tuning` sets what is asked for; what `bandwidth` limits is measured and told.

use super::{
    super::{place::Cluster, plan::Member, pods},
    SPACE, agents,
};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{fs, process::Stdio};

const NODE: &str = "n2";
const POD: &str = "chained";
const HOST_PORT: u16 = 30092;
/// Goes before ours on its node.
const FILE: &str = "/etc/cni/net.d/05-chain.conflist";
const SYSCTL: (&str, &str) = ("net.core.somaxconn", "511");
/// What the pod is to be limited to, each way.
const MEGABITS: u32 = 20;

pub(super) fn run(cluster: &Cluster) -> Result<String> {
    install(cluster)?;
    let held = trial(cluster);
    let removed = pods_gone(cluster).and_then(|()| {
        workspace::output(cluster.in_node(NODE, "rm")?.args(["-f", FILE])).map(|_| ())
    });
    let seen = held?;
    removed?;
    let left = agents::agree(cluster, NODE)?;
    Ok(format!("{seen}; then {left}"))
}

fn install(cluster: &Cluster) -> Result<()> {
    let list = json!({
        "cniVersion": "1.0.0", "name": "fairlead",
        "plugins": [
            { "type": "fairlead-cni", "capabilities": { "ips": true, "mac": true, "dns": true } },
            { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
            { "type": "tuning", "sysctl": { SYSCTL.0: SYSCTL.1 } },
        ],
    });
    let file = cluster.dir().join("chain.conflist");
    fs::write(&file, serde_json::to_vec_pretty(&list)?)?;
    // Complete when it appears: containerd watches the folder.
    let line = format!("cp {} {FILE}.new; mv {FILE}.new {FILE}", file.display());
    workspace::output(cluster.in_node(NODE, "sh")?.args(["-euc", &line])).map(|_| ())
}

fn pods_gone(cluster: &Cluster) -> Result<()> {
    let delete = [
        "delete",
        "pod",
        POD,
        "-n",
        SPACE,
        "--ignore-not-found",
        "--timeout=60s",
    ];
    cluster.ask(&delete).map(|_| ())
}

fn trial(cluster: &Cluster) -> Result<String> {
    let mut pod = pods::web(SPACE, POD, NODE);
    let limit = format!("{MEGABITS}M");
    pod["metadata"]["annotations"] = json!({
        "kubernetes.io/ingress-bandwidth": limit, "kubernetes.io/egress-bandwidth": limit });
    pod["spec"]["containers"][0]["ports"] =
        json!([{ "containerPort": pods::PORT, "hostPort": HOST_PORT }]);
    cluster.apply(&[pod])?;
    pods::ready(cluster, SPACE)?;

    let node = Member::Node(2).v4();
    let url = format!("http://{node}:{HOST_PORT}/hostname");
    let words = ["curl", "-fsS", "-m", "5", &url];
    let mut curl = cluster.in_node("n1", "curl")?;
    for (from, answer) in [
        ("n1", workspace::output(curl.args(&words[1..]))),
        ("a pod of n1", pods::exec(cluster, SPACE, "client", &words)),
    ] {
        let answer = answer.with_context(|| format!("{from} to the host port"))?;
        ensure!(answer.trim() == POD, "{from} to the host port: {answer:?}");
    }
    let file = format!("/proc/sys/{}", SYSCTL.0.replace('.', "/"));
    let set = pods::exec(cluster, SPACE, POD, &["cat", &file])?;
    ensure!(set.trim() == SYSCTL.1, "{} is {set:?}", SYSCTL.0);

    let ingress = megabits(cluster, &[])?;
    let egress = megabits(cluster, &["-R"])?;
    Ok(format!(
        "a host port answers n1 and its pod, {} is set; limited to {MEGABITS} Mbit/s the pod receives {ingress:.0} and \
         sends {egress:.0}",
        SYSCTL.0
    ))
}

/// What passes from `client` on n1 to the pod, or back.
fn megabits(cluster: &Cluster, way: &[&str]) -> Result<f64> {
    let inside = |node: &str, pod: &str| {
        let sandbox = agents::endpoint(cluster, node, SPACE, pod)?.sandbox;
        let mut command = cluster.in_node(node, "nsenter")?;
        command.args([&format!("--net={sandbox}"), "iperf3"]);
        command.stdin(Stdio::null());
        anyhow::Ok(command)
    };
    // It answers one client, and detaches when it listens.
    workspace::output(
        inside(NODE, POD)?
            .args(["-s", "-1", "-D"])
            .stdout(Stdio::null()),
    )?;
    let address = pods::address(cluster, SPACE, POD)?;
    let mut client = inside("n1", "client")?;
    let text = workspace::output(client.args(["-J", "-t", "3", "-c", &address]).args(way))?;
    let report: Value = serde_json::from_str(&text)?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| format!("iperf3 said {text}"))? / 1e6)
}
