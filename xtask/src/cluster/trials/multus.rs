//! Multus as the meta plugin: it calls Fairlead for `eth0` of every pod, and once more for a second interface
//! of those that ask for one. docs/standalone.md has the same steps for people.

use super::{
    super::{place::Cluster, place::until, pods},
    LIMIT, SPACE, agents,
};
use crate::{
    setup::{self, Extra},
    workspace,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{fs, path::Path};

const NODES: [&str; 2] = ["n1", "n2"];
const PODS: [(&str, &str); 2] = [("two-1", "n1"), ("two-2", "n2")];
/// Goes before ours.
const FILE: &str = "/etc/cni/net.d/00-multus.conf";
const KUBECONFIG: &str = "/etc/cni/net.d/multus.d/multus.kubeconfig";
const NETWORK: &str = "second";

pub(super) fn run(cluster: &Cluster) -> Result<String> {
    setup::ensure_extra(Extra::Multus)?;
    let before: Vec<_> = NODES
        .iter()
        .map(|node| used(cluster, node))
        .collect::<Result<_>>()?;
    for node in NODES {
        install(cluster, node)?;
    }
    let seen = trial(cluster);
    let removed = NODES.iter().try_for_each(|node| {
        let line = format!("rm -rf {FILE} $(dirname {KUBECONFIG}) /opt/cni/bin/multus");
        shell(cluster, node, &line)
    });
    let seen = seen?;
    removed?;
    for (node, before) in NODES.iter().zip(before) {
        until(LIMIT, "the addresses of both interfaces are free", || {
            Ok((used(cluster, node)? == before).then_some(()))
        })?;
        agents::agree(cluster, node)?;
    }
    Ok(format!("{seen}; all addresses are free again"))
}

/// The plugin, what it may ask the API server, and its configuration, complete when it appears.
fn install(cluster: &Cluster, node: &str) -> Result<()> {
    let config = json!({
        "cniVersion": "1.0.0", "name": "multus", "type": "multus",
        "kubeconfig": KUBECONFIG, "clusterNetwork": "/etc/cni/net.d/10-fairlead.conflist",
    });
    let file = cluster.dir().join("multus.conf");
    fs::write(&file, serde_json::to_vec_pretty(&config)?)?;
    let place = Path::new("/opt/cni/bin/multus");
    let mut copy = cluster.in_node(node, "cp")?;
    workspace::output(copy.arg(setup::multus()?).arg(place))?;
    let line = format!(
        "mkdir -p $(dirname {KUBECONFIG}); cp {} {KUBECONFIG}; cp {} {FILE}.new; mv {FILE}.new {FILE}",
        cluster.dir().join("admin.json").display(),
        file.display()
    );
    shell(cluster, node, &line)
}

fn shell(cluster: &Cluster, node: &str, line: &str) -> Result<()> {
    workspace::output(cluster.in_node(node, "sh")?.args(["-euc", line])).map(|_| ())
}

fn used(cluster: &Cluster, node: &str) -> Result<Vec<u64>> {
    let pools: Vec<Value> = agents::ask(cluster, node, &["ipam"])?;
    let used = pools.iter().filter_map(|pool| pool["used"].as_u64());
    Ok(used.collect())
}

fn trial(cluster: &Cluster) -> Result<String> {
    cluster.apply(&[definition()])?;
    let kind = "crd/network-attachment-definitions.k8s.cni.cncf.io";
    cluster.ask(&["wait", "--for=condition=Established", kind, "--timeout=60s"])?;
    let config = json!({ "cniVersion": "1.0.0", "name": NETWORK, "type": "fairlead-cni" });
    let network = json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": { "name": NETWORK, "namespace": SPACE },
        "spec": { "config": config.to_string() },
    });
    cluster.apply(&[network])?;
    let made: Vec<Value> = PODS
        .iter()
        .map(|(name, node)| {
            let mut pod = pods::web(SPACE, name, node);
            pod["metadata"]["annotations"] = json!({ "k8s.v1.cni.cncf.io/networks": NETWORK });
            pod
        })
        .collect();
    cluster.apply(&made)?;
    pods::ready(cluster, SPACE)?;

    let second = address(cluster, "two-2", "net1")?;
    let first = pods::address(cluster, SPACE, "two-2")?;
    ensure!(
        first != second,
        "eth0 and net1 have the same address {first}"
    );
    let own = address(cluster, "two-1", "net1")?;
    for (interface, target) in [("eth0", &first), ("net1", &second)] {
        let words = ["ping", "-c", "2", "-W", "5", "-I", interface, target];
        pods::exec(cluster, SPACE, "two-1", &words)
            .with_context(|| format!("over {interface} to {target}"))?;
    }
    // An answer of the other pod is for that address, whichever interface was asked.
    let url = format!("http://{second}:{}/clientip", pods::PORT);
    let words = ["curl", "-fsS", "-m", "5", "--interface", "net1", &url];
    let client = pods::exec(cluster, SPACE, "two-1", &words)?;
    ensure!(
        client.starts_with(&format!("{own}:")),
        "asked from {own} of net1, and the server saw {client}"
    );
    let status = pods::field(
        cluster,
        SPACE,
        "two-1",
        r".metadata.annotations.k8s\.v1\.cni\.cncf\.io/network-status",
    )?;
    ensure!(
        status.contains(&own),
        "Multus' network-status does not tell {own}: {status}"
    );
    for (name, _) in PODS {
        cluster.ask(&["delete", "pod", name, "-n", SPACE, "--timeout=120s"])?;
    }
    cluster.ask(&["delete", kind, "--timeout=60s"])?;
    Ok(format!(
        "pods of n1 and n2 have eth0 ({first}) and net1 ({second}); ping by both, HTTP from net1 to net1"
    ))
}

/// The IPv4 address of a pod's interface.
fn address(cluster: &Cluster, pod: &str, interface: &str) -> Result<String> {
    let words = ["ip", "-4", "-o", "addr", "show", "dev", interface];
    let text = pods::exec(cluster, SPACE, pod, &words)?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "inet");
    let address = words.nth(1).and_then(|address| address.split('/').next());
    Ok(address
        .with_context(|| format!("{interface} of {pod} has no address: {text:?}"))?
        .to_owned())
}

/// The kind of objects that name networks, as much of it as Multus needs
/// (k8snetworkplumbingwg, "Network Custom Resource Definition", version 1).
fn definition() -> Value {
    let schema = json!({ "type": "object", "properties": { "spec": {
        "type": "object", "properties": { "config": { "type": "string" } } } } });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "network-attachment-definitions.k8s.cni.cncf.io" },
        "spec": {
            "group": "k8s.cni.cncf.io", "scope": "Namespaced",
            "names": { "plural": "network-attachment-definitions", "singular": "network-attachment-definition",
                "kind": "NetworkAttachmentDefinition", "shortNames": ["net-attach-def"] },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": schema } }],
        },
    })
}
