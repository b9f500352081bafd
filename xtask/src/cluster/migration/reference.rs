//! From the reference plugins, node by node.

use super::{
    super::{
        images, node, objects,
        place::{Cluster, until},
        plan::{self, Cni, Member, Plan},
        pods::SETTLE,
        up,
    },
    node::{migrate, names, shell},
    streams::{self, SPACE, Windows},
};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{fs, path::PathBuf, time::Duration};

const NODES: [&str; 2] = ["n1", "n2"];
/// As the page has it.
const LABEL: &str = "network";
const TAINT: &str = "network=changing:NoExecute";
const LIMIT: Duration = Duration::from_secs(120);

/// Fairlead chains `portmap` too, by iptables where that is installed: its table may lead to pods that have
/// one of our links, and to no others.
const STRAY_PORTS: &str = r"nft list ruleset |
awk '/^table/ { host = /cni_hostport/ } /chain / { port = /CNI-DN/ } host || port' |
sed -n 's/.*dnat to \(100\.11\.[0-9.]*\):.*/\1/p' |
while read -r address; do
    ip route get $address | grep -q 'dev fl' || echo $address
done";

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    let mut plan = Plan {
        nodes: plan::first(2),
        cni: Cni::Reference,
        kube_proxy: true,
        dns: false,
        ipv6: false,
    };
    // Packed before anything is timed.
    let image = up::image_of_fairlead()?;
    up(cluster, &plan)?;
    let cidrs = node::pod_cidrs(cluster, &plan)?;
    for (member, cidrs) in &cidrs {
        old_network(cluster, &member.name(), cidrs)?;
    }
    streams::start(cluster, &NODES)?;
    println!(
        "before: {} requests answered",
        streams::all_reach_all(cluster)?
    );
    install(cluster, &plan, &image)?;

    let mut windows = Windows::new();
    for node in NODES {
        let since = streams::now()?;
        change(cluster, node, &cidrs).with_context(|| format!("changing {node}"))?;
        streams::settled(cluster)?;
        // A Service leads to its pods a moment after they are ready.
        let mut last = Ok(0);
        let reached = until(SETTLE, "all reach all", || {
            last = streams::all_reach_all(cluster);
            Ok(last.as_ref().ok().copied())
        });
        let asked = last.and(reached)?;
        windows.insert(node.to_owned(), (since, streams::now()?));
        println!("{node} is changed: {asked} requests answered, between old and new nodes too");
    }
    for node in NODES {
        nothing_left(cluster, node)?;
    }
    streams::judge(cluster, &NODES, &windows)?;
    cluster.ask(&["delete", "namespace", SPACE, "--timeout=120s"])?;
    plan.cni = Cni::Fairlead;
    cluster.set_up(&plan)
}

/// The reference network as most have it: pods are masqueraded, host ports lead to them.
fn old_network(cluster: &Cluster, node: &str, cidrs: &[String]) -> Result<()> {
    let mut list = objects::reference(cidrs);
    list["plugins"][0]["ipMasq"] = true.into();
    list["plugins"][0]["ipMasqBackend"] = "nftables".into();
    let file = cluster.dir().join("reference.conflist");
    fs::write(&file, serde_json::to_vec_pretty(&list)?)?;
    let folder = "/etc/cni/net.d";
    let line = format!(
        "cp {} {folder}/new; mv {folder}/new {folder}/10-reference.conflist",
        file.display()
    );
    shell(cluster, node, &line).map(|_| ())
}

/// Fairlead for nodes with our label, of which there is none yet.
fn install(cluster: &Cluster, plan: &Plan, (archive, manifest): &(PathBuf, PathBuf)) -> Result<()> {
    let archive = images::keep(cluster, archive)?;
    for node in plan.nodes() {
        node::import(cluster, node, &archive)?;
    }
    let folder = cluster.dir().join("kustomize");
    fs::create_dir_all(&folder)?;
    fs::copy(manifest, folder.join("fairlead.yaml"))?;
    let place = |name: &str| json!({ "name": name, "namespace": "kube-system" });
    let server = format!("https://{}:6443", Member::ControlPlane.v4());
    let patches = [
        json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": place("fairlead"),
            "spec": { "template": { "spec": { "nodeSelector": { LABEL: "fairlead" } } } } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": place("fairlead"),
            "data": { "FAIRLEAD_API_SERVER": server } }),
    ];
    let patches: Vec<_> = patches
        .iter()
        .map(|p| json!({ "patch": p.to_string() }))
        .collect();
    let text = json!({ "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": ["fairlead.yaml"], "patches": patches });
    fs::write(folder.join("kustomization.yaml"), text.to_string())?;
    cluster
        .ask(&["apply", "-k", &folder.to_string_lossy()])
        .map(|_| ())
}

/// The page's section "A node".
fn change(cluster: &Cluster, node: &str, cidrs: &[(Member, Vec<String>)]) -> Result<()> {
    cluster.ask(&["cordon", node])?;
    let drain = [
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--timeout=120s",
    ];
    cluster.ask(&[&["drain", node][..], &drain].concat())?;
    cluster.ask(&["taint", "node", node, TAINT])?;
    until(LIMIT, "no pod of the old network is left", || {
        Ok(pods_with_network(cluster, node)?.is_empty().then_some(()))
    })?;

    let found = migrate(cluster, node, &["check"])?;
    let wanted = [
        "10-reference.conflist",
        "cni0",
        "cni_hostport",
        "cni_plugins_masquerade",
        "reference",
    ];
    names(&found, &wanted)?;
    let left = migrate(cluster, node, &["clean", "--yes"])?;
    for finding in &left {
        let command = finding.by_hand();
        let command = command.with_context(|| format!("clean left {finding:?}"))?;
        println!("{node}: by hand: {command}");
        shell(cluster, node, command)?;
    }
    for (owner, cidrs) in cidrs.iter().filter(|(owner, _)| owner.name() != node) {
        for cidr in cidrs {
            let line = format!("ip route delete {cidr} via {}", owner.v4());
            println!("{node}: by hand: {line}");
            shell(cluster, node, &line)?;
        }
    }

    cluster.ask(&["label", "node", node, &format!("{LABEL}=fairlead")])?;
    let program = workspace::binaries().join("fairlead");
    until(LIMIT, "the node's agent is ready", || {
        let ready = cluster
            .in_node(node, &program)?
            .args(["health", "--ready"])
            .output()?;
        Ok(ready.status.success().then_some(()))
    })?;
    let found = migrate(cluster, node, &["check"])?;
    ensure!(found.is_empty(), "{node} still has {found:#?}");
    let ready = [
        "wait",
        "--for=condition=Ready",
        &format!("node/{node}"),
        "--timeout=60s",
    ];
    cluster.ask(&ready)?;
    cluster.ask(&["taint", "node", node, &format!("{TAINT}-")])?;
    cluster.ask(&["uncordon", node]).map(|_| ())
}

/// Names of a node's pods that are not of the host's network.
fn pods_with_network(cluster: &Cluster, node: &str) -> Result<Vec<String>> {
    let on = format!("spec.nodeName={node}");
    let words = ["get", "pods", "-A", "-o", "json", "--field-selector", &on];
    let list: Value = serde_json::from_str(&cluster.ask(&words)?)?;
    let items = list["items"].as_array().context("a list of pods")?.iter();
    let own = items.filter(|pod| pod["spec"]["hostNetwork"] != true);
    Ok(own.map(|pod| pod["metadata"]["name"].to_string()).collect())
}

/// Looks for itself, past what `migrate` looks at.
fn nothing_left(cluster: &Cluster, node: &str) -> Result<()> {
    for (what, line) in [
        (
            "links",
            "ip -o link | grep -E ' (cni0|veth[0-9a-f]+)[:@]' || true",
        ),
        (
            "routes",
            "ip route | grep -E '^100\\.11\\..*(cni0|proto (boot|static))' || true",
        ),
        (
            "routes",
            "ip route | grep -E '^100\\.11\\.' | grep -v proto || true",
        ),
        (
            "chains",
            "nft list ruleset | grep -E 'cni_plugins|CNI-[0-9a-f]{24}' || true",
        ),
        ("host ports", STRAY_PORTS),
        (
            "configurations",
            "ls /etc/cni/net.d | grep -vE '^10-fairlead.conflist$|fairlead-disabled$' || true",
        ),
        (
            "records",
            "ls -d /var/lib/cni/networks/* /var/lib/cni/results/reference-* 2> /dev/null || true",
        ),
    ] {
        let left = shell(cluster, node, line)?;
        ensure!(left.is_empty(), "{node} still has {what}: {left}");
    }
    println!("{node}: no link, route, chain, configuration or record of the old network is left");
    Ok(())
}
