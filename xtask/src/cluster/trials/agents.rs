//! What the agent of a node says, asked on the node: it needs no API server.

use super::{
    super::{place::Cluster, place::until, processes},
    LIMIT, SPACE,
};
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::BTreeSet;

/// As `fairlead endpoint list` has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint {
    pub(super) container_id: String,
    pod: Option<Pod>,
    addresses: Addresses,
    /// Path of the network namespace.
    pub(super) sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Pod {
    namespace: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Addresses {
    v4: Option<String>,
}

impl Endpoint {
    pub(super) fn address(&self) -> &str {
        self.addresses.v4.as_deref().unwrap_or_default()
    }

    /// Namespace and name of its pod.
    fn pod(&self) -> String {
        let pod = self.pod.as_ref();
        pod.map_or_else(String::new, |pod| format!("{}/{}", pod.namespace, pod.name))
    }
}

/// Runs `fairlead` on a node.
///
/// # Errors
/// When no agent answers.
pub(super) fn ask<T: DeserializeOwned>(cluster: &Cluster, node: &str, words: &[&str]) -> Result<T> {
    // The program of this clone, in the node's namespaces: the agent's socket is there.
    let mut fairlead = cluster.in_node(node, workspace::binaries().join("fairlead"))?;
    let text = workspace::output(fairlead.args(words).args(["-o", "json"]))?;
    serde_json::from_str(&text).with_context(|| format!("fairlead {words:?} said {text}"))
}

/// The pods' interfaces of a node.
///
/// # Errors
/// When no agent answers.
pub(super) fn endpoints(cluster: &Cluster, node: &str) -> Result<Vec<Endpoint>> {
    ask(cluster, node, &["endpoint", "list"])
}

/// The only endpoint of a pod.
///
/// # Errors
/// When it has none or several.
pub(super) fn endpoint(cluster: &Cluster, node: &str, space: &str, pod: &str) -> Result<Endpoint> {
    let wanted = format!("{space}/{pod}");
    let all = endpoints(cluster, node)?.into_iter();
    let mut own: Vec<_> = all.filter(|endpoint| endpoint.pod() == wanted).collect();
    match (own.pop(), own.is_empty()) {
        (Some(endpoint), true) => Ok(endpoint),
        (None, _) => bail!("{wanted} has no endpoint on {node}"),
        (Some(_), false) => bail!("{wanted} has {} endpoints on {node}", own.len() + 1),
    }
}

/// Ends the agents of n1 and n2 at once, as a crash would, and waits until new ones answer.
///
/// # Errors
/// When none comes.
pub(super) fn kill(cluster: &Cluster) -> Result<()> {
    let before = processes::both(cluster, "fairlead")?;
    for node in ["n1", "n2"] {
        processes::kill(cluster, node, "fairlead")?;
    }
    until(LIMIT, "the kubelets have started new agents", || {
        // Between the two there is none.
        let now = processes::both(cluster, "fairlead").unwrap_or_default();
        let new = now.iter().all(|(node, pid)| before.get(node) != Some(pid));
        Ok((now.len() == before.len() && new).then_some(()))
    })?;
    for node in ["n1", "n2"] {
        until(LIMIT, "the agent answers", || {
            Ok(endpoints(cluster, node).ok())
        })?;
    }
    Ok(())
}

/// Waits until the API server, the agent's endpoints, its addresses, and the kernel's links tell the same of
/// a node's pods, and answers that.
///
/// # Errors
/// The difference that stays.
pub(super) fn agree(cluster: &Cluster, node: &str) -> Result<String> {
    let mut last = None;
    let agreed = until(LIMIT, "all books of a node agree", || {
        // Between two looks a pod may come or go.
        let seen = books(cluster, node);
        Ok(match seen {
            Ok(text) => Some(text),
            Err(difference) => {
                last = Some(difference);
                None
            }
        })
    });
    agreed.map_err(|late| last.unwrap_or(late))
}

fn books(cluster: &Cluster, node: &str) -> Result<String> {
    let endpoints = endpoints(cluster, node)?;
    let on = format!("spec.nodeName={node}");
    let words = ["get", "pods", "-A", "-o", "json", "--field-selector", &on];
    let list: Value = serde_json::from_str(&cluster.ask(&words)?)?;
    let items = list["items"].as_array().context("a list of pods")?.iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut told: Vec<_> = items
        .filter(|pod| pod["spec"]["hostNetwork"] != true)
        .map(|pod| {
            let name = format!(
                "{}/{}",
                text(&pod["metadata"]["namespace"]),
                text(&pod["metadata"]["name"])
            );
            (name, text(&pod["status"]["podIP"]))
        })
        .collect();
    let pair = |endpoint: &Endpoint| (endpoint.pod(), endpoint.address().to_owned());
    let mut known: Vec<_> = endpoints.iter().map(pair).collect();
    told.sort();
    known.sort();
    ensure!(
        told == known,
        "{node}: Kubernetes has {told:?}, the agent {known:?}"
    );

    let addresses: BTreeSet<_> = known.iter().map(|(_, address)| address).collect();
    let count = known.len();
    ensure!(
        addresses.len() == count,
        "{node}: pods share addresses: {known:?}"
    );
    let pools: Vec<Value> = ask(cluster, node, &["ipam"])?;
    ensure!(
        !pools.is_empty() && pools.iter().all(|pool| pool["used"] == count),
        "{node}: {count} pods, but addresses: {pools:?}"
    );
    let mut ip = cluster.in_node(node, "ip")?;
    let links: Vec<Value> = serde_json::from_str(&workspace::output(ip.args(["-j", "link"]))?)?;
    let ours = |link: &&Value| text(&link["ifname"]).starts_with("fl");
    let links = links.iter().filter(ours).count();
    ensure!(links == count, "{node}: {count} pods, but {links} links");
    Ok(format!(
        "{node} has {count} pods, endpoints, addresses and links"
    ))
}

/// The agent's metrics as text.
///
/// # Errors
/// When no agent answers.
pub(super) fn metrics(cluster: &Cluster, node: &str) -> Result<String> {
    let mut curl = cluster.in_node(node, "curl")?;
    workspace::output(curl.args(["-fsS", "-m", "5", "http://127.0.0.1:9470/metrics"]))
}

/// How often a sandbox could not be made, of pods whose names begin so.
///
/// # Errors
/// When the API server does not answer.
pub(super) fn failed_sandboxes(cluster: &Cluster, pods: &str) -> Result<u64> {
    let words = "get events -o json --field-selector reason=FailedCreatePodSandBox -n";
    let words: Vec<_> = words.split(' ').chain([SPACE]).collect();
    let list: Value = serde_json::from_str(&cluster.ask(&words)?)?;
    let items = list["items"].as_array().context("a list of events")?;
    let named = |event: &&Value| {
        let name = event["involvedObject"]["name"].as_str();
        name.is_some_and(|name| name.starts_with(pods))
    };
    let counts = items.iter().filter(named);
    Ok(counts
        .map(|event| event["count"].as_u64().unwrap_or(1))
        .sum())
}
