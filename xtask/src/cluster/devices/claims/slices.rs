//! What the API server is told that the node has, and who may tell it.

use super::super::{
    super::{
        place::{Cluster, kubernetes, until},
        plan::Member,
    },
    LIMIT, NODE,
    install::{CLAIMED, SHARED, SHARED_FILE, SHARES, names},
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Stdio,
};
use tempfile::NamedTempFile;

/// The driver's name.
const DRIVER: &str = "devices.fairlead.dev";

/// A device as the slices have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Told {
    pub(super) path: String,
    pub(super) resource: String,
    /// It works, and has no taint.
    pub(super) is_healthy: bool,
    /// How many claims may have it at once; none: one.
    pub(super) shares: Option<String>,
}

/// The node's slices.
pub(super) fn all(cluster: &Cluster) -> Result<Vec<Value>> {
    let own = format!("--field-selector=spec.driver={DRIVER},spec.nodeName={NODE}");
    let text = cluster.ask(&["get", "resourceslices", &own, "-o", "json"])?;
    let mut list: Value = serde_json::from_str(&text)?;
    match list["items"].take() {
        Value::Array(slices) => Ok(slices),
        _ => Ok(Vec::new()),
    }
}

/// The node's devices by their names, where its slices are whole.
pub(super) fn told(cluster: &Cluster) -> Result<BTreeMap<String, Told>> {
    let slices = all(cluster)?;
    let mut told = BTreeMap::new();
    for slice in &slices {
        let pool = &slice["spec"]["pool"];
        let is_whole = pool["resourceSliceCount"].as_u64() == Some(slices.len() as u64);
        ensure!(pool["name"] == NODE && is_whole, "a slice of {pool}");
        for device in slice["spec"]["devices"].as_array().into_iter().flatten() {
            let attribute = |name: &str| &device["attributes"][name];
            let word = |name: &str| attribute(name)["string"].as_str().unwrap_or_default();
            let taints = device["taints"].as_array().map_or(0, Vec::len);
            let healthy = attribute("healthy")["bool"] == true;
            ensure!(healthy == (taints == 0), "its taints are others: {device}");
            let of = Told {
                path: word("path").to_owned(),
                resource: word("resource").to_owned(),
                is_healthy: healthy,
                shares: device["capacity"]["shares"]["value"]
                    .as_str()
                    .map(str::to_owned),
            };
            let name = device["name"].as_str().context("a name")?;
            told.insert(name.to_owned(), of);
        }
    }
    Ok(told)
}

/// What the configuration says that the node has.
fn configured() -> BTreeSet<Told> {
    let of = |path: String, resource: &str, shares| Told {
        path,
        resource: resource.to_owned(),
        is_healthy: true,
        shares,
    };
    let own = names("claimed").map(|path| of(path, CLAIMED, None));
    let shared = of(SHARED_FILE.to_owned(), SHARED, Some(SHARES.to_string()));
    own.chain([shared]).collect()
}

/// Waits until the slices have all devices, each well.
///
/// # Errors
/// When they haven't in time.
pub(super) fn are_whole(cluster: &Cluster) -> Result<BTreeMap<String, Told>> {
    let mut last = None;
    let whole = until(LIMIT, "the node's slices have all of its devices", || {
        // Of a pool that is just being written, the next look has the whole.
        let now = told(cluster);
        let same = now
            .as_ref()
            .is_ok_and(|now| now.values().cloned().collect::<BTreeSet<_>>() == configured());
        last = Some(now);
        Ok(last.take_if(|_| same).and_then(Result::ok))
    });
    whole.with_context(|| format!("they have {last:?}"))
}

/// The slices are those of the configuration.
pub(super) fn say_what_there_is(cluster: &Cluster) -> Result<String> {
    let told = are_whole(cluster)?;
    let devices = told.values().map(|of| {
        let shares = of
            .shares
            .as_ref()
            .map_or_else(String::new, |shares| format!(" for {shares} claims"));
        format!("{}{shares}", of.path)
    });
    let devices: Vec<_> = devices.collect();
    let agent = agent(cluster, NODE)?;
    let form = "jsonpath={.spec.serviceAccountName}";
    let account = cluster.ask(&["get", "pod", &agent, "-n", "kube-system", "-o", form])?;
    ensure!(account == "fairlead", "the agent is {account}");
    Ok(format!(
        "written by {agent} as its service account: {}",
        devices.join(", ")
    ))
}

/// What somebody changes or deletes is mended.
pub(super) fn are_mended(cluster: &Cluster) -> Result<String> {
    are_whole(cluster)?;
    let slices = all(cluster)?;
    let slice = slices.first().context("a slice")?;
    let name = slice["metadata"]["name"].as_str().context("a name")?;
    let none = "[{\"op\":\"replace\",\"path\":\"/spec/devices\",\"value\":[]}]";
    cluster.ask(&["patch", "resourceslice", name, "--type=json", "-p", none])?;
    are_whole(cluster).context("after its devices were removed")?;
    cluster.ask(&["delete", "resourceslice", name])?;
    are_whole(cluster).context("after it was deleted")?;
    Ok(
        "the devices removed from a slice, and the slice deleted: both times all are back"
            .to_owned(),
    )
}

/// The pod of a node's agent.
fn agent(cluster: &Cluster, node: &str) -> Result<String> {
    let on = format!("--field-selector=spec.nodeName={node}");
    let words = [
        "get",
        "pods",
        "-n",
        "kube-system",
        "-l",
        "app.kubernetes.io/name=fairlead",
    ];
    let form = "jsonpath={.items[0].metadata.name}";
    cluster.ask(&[&words[..], &[&on, "-o", form]].concat())
}

/// `kubectl` with the rights of an agent: by a token of its service account, bound to its pod or to nothing.
struct AsAgent<'a> {
    cluster: &'a Cluster,
    config: NamedTempFile,
}

impl<'a> AsAgent<'a> {
    fn of(cluster: &'a Cluster, pod: Option<&str>) -> Result<Self> {
        let bound = pod.map(|pod| {
            [
                "--bound-object-kind=Pod".to_owned(),
                format!("--bound-object-name={pod}"),
            ]
        });
        let bound = bound.iter().flatten().map(String::as_str);
        let create = ["create", "token", "fairlead", "-n", "kube-system"];
        let words: Vec<_> = create.into_iter().chain(bound).collect();
        let token = cluster.ask(&words)?;
        let text = fs::read(cluster.dir().join("admin.json"))?;
        let mut all: Value = serde_json::from_slice(&text)?;
        all["users"][0]["user"] = json!({ "token": token.trim() });
        let config = NamedTempFile::new_in(cluster.dir())?;
        fs::write(config.path(), serde_json::to_vec(&all)?)?;
        Ok(Self { cluster, config })
    }

    /// What it says, whether it does it or not. Nothing is kept: it is asked for a dry run.
    fn tries(&self, words: &[&str]) -> Result<Result<String, String>> {
        let mut kubectl = self
            .cluster
            .inside(Member::ControlPlane, kubernetes("kubectl")?);
        kubectl.arg("--kubeconfig").arg(self.config.path());
        kubectl
            .args(words)
            .arg("--dry-run=server")
            .stdin(Stdio::null());
        let done = kubectl.output().context("starting kubectl")?;
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        Ok(match done.status.success() {
            true => Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned()),
            false => Err(said),
        })
    }

    /// Tries to create a slice.
    fn creates(&self, driver: &str, node: &str, pool: &str) -> Result<Result<String, String>> {
        let slice = json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
            "metadata": { "name": "fairlead-test" },
            "spec": { "driver": driver, "nodeName": node, "devices": [],
                "pool": { "name": pool, "generation": 1, "resourceSliceCount": 1 } } });
        let file = NamedTempFile::new_in(self.cluster.dir())?;
        fs::write(file.path(), serde_json::to_vec(&slice)?)?;
        self.tries(&["create", "-f", &file.path().to_string_lossy()])
    }
}

/// With an agent's own token: slices of its node may be written, and nothing else.
pub(super) fn are_of_the_node_alone(cluster: &Cluster) -> Result<String> {
    const ALONE: &str = "may write slices of devices.fairlead.dev of its own node alone";
    let own = AsAgent::of(cluster, Some(&agent(cluster, NODE)?))?;
    let done = own.creates(DRIVER, NODE, NODE)?;
    ensure!(done.is_ok(), "one of its own node: {done:?}");
    let refused = |what: &str, said: Result<String, String>, why: &str| match said {
        Err(said) if said.contains(why) => Ok(said),
        said => anyhow::bail!("{what}: {said:?}"),
    };
    let said = refused(
        "of another node",
        own.creates(DRIVER, "elsewhere", "elsewhere")?,
        ALONE,
    )?;
    refused(
        "of another driver",
        own.creates("other.example.com", NODE, NODE)?,
        ALONE,
    )?;
    let done = own.creates(DRIVER, NODE, "elsewhere")?;
    refused("of another pool", done, ALONE)?;
    let unbound = AsAgent::of(cluster, None)?;
    let without = "the agent's token does not say which node it is on";
    refused(
        "by an unbound token",
        unbound.creates(DRIVER, NODE, NODE)?,
        without,
    )?;
    let mut seen = vec![
        "of its own node: taken; of another node, driver or pool, or by a token of no pod: refused"
            .to_owned(),
    ];
    let nodes = cluster.plan()?;
    let other = nodes.nodes().map(|node| node.name());
    if let Some(other) = other.into_iter().find(|name| name != NODE) {
        are_whole(cluster)?;
        let slices = all(cluster)?;
        let name = slices[0]["metadata"]["name"].as_str().context("a name")?;
        let neighbour = AsAgent::of(cluster, Some(&agent(cluster, &other)?))?;
        let done = neighbour.tries(&["delete", "resourceslice", name])?;
        refused("deleted from another node", done, ALONE)?;
        seen.push(format!("{other}'s agent may not delete {name}"));
    }
    let said = said.lines().last().unwrap_or_default();
    seen.push(format!("\"{said}\""));
    Ok(seen.join("; "))
}
