//! A third node joins. Its pods are there before its agent; the other nodes find the way to it; when its Node
//! is deleted, nothing of it stays with them.

use super::{
    super::{
        members,
        place::{Cluster, until},
        plan::Member,
        pods,
    },
    LIMIT, SPACE, agents,
};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// Pods that are bound to the node before it exists.
const EARLY: [&str; 3] = ["early-1", "early-2", "early-3"];
/// Selects agents.
const AGENT: [&str; 2] = ["-l", "app.kubernetes.io/name=fairlead"];
/// How long the others may take for the way to a node, from its podCIDR on.
const WAY_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn run(cluster: &Cluster) -> Result<String> {
    let node = members::begin(cluster)?;
    let joined = join(cluster, node);
    let mut seen = members::undone(cluster, node, joined)?;
    seen.push(leave(cluster, node)?);
    Ok(seen.join("; "))
}

fn join(cluster: &Cluster, node: Member) -> Result<Vec<String>> {
    let name = node.name();
    let early = EARLY.map(|pod| pods::web(SPACE, pod, &name));
    cluster.apply(&early)?;
    let watch = Watch::start(cluster)?;
    let cidrs = members::register(cluster, node)?;
    let cidr = cidrs.first().context("the node has a podCIDR")?.clone();
    let mut seen = vec![watch.ways(&name, &cidr)?];

    let on = format!("spec.nodeName={name}");
    // The kubelet knows its pods, but there is no agent, since its image is not there.
    until(LIMIT, "the kubelet has tried to start the agent", || {
        let reason = "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}";
        let words = ["get", "pods", "-n", "kube-system", "-o", reason];
        let reason = cluster.ask(&[&words[..], &AGENT, &["--field-selector", &on]].concat())?;
        Ok(reason.contains("Image").then_some(()))
    })?;
    for pod in EARLY {
        let status = pods::field(cluster, SPACE, pod, ".status")?;
        let status: Value = serde_json::from_str(&status)?;
        ensure!(
            status["phase"] == "Pending" && status["podIP"].is_null(),
            "{pod} runs without a network: {status}"
        );
    }
    let before = agents::failed_sandboxes(cluster, "early-")?;
    let since = Instant::now();
    members::give_images(cluster, node)?;
    // Its kubelet would try again by itself, after a pause that grows.
    let agent = [
        "delete",
        "pod",
        "-n",
        "kube-system",
        "--field-selector",
        &on,
    ];
    cluster.ask(&[&agent[..], &AGENT].concat())?;
    pods::ready(cluster, SPACE)?;
    seen.push(format!(
        "{} pods from before the agent ready {:.1} s after its image was there, {} sandboxes had failed \
         before, {} after",
        EARLY.len(),
        since.elapsed().as_secs_f64(),
        before,
        agents::failed_sandboxes(cluster, "early-")? - before,
    ));
    for pod in EARLY {
        let address = pods::address(cluster, SPACE, pod)?;
        for client in ["client", "far"] {
            let ping = ["ping", "-c", "1", "-W", "5", &address];
            pods::exec(cluster, SPACE, client, &ping)
                .with_context(|| format!("from {client} to {pod}"))?;
        }
    }
    seen.push(agents::agree(cluster, &name)?);
    Ok(seen)
}

/// Deletes the Node and waits until the others know nothing of it, then removes the node.
fn leave(cluster: &Cluster, node: Member) -> Result<String> {
    let name = node.name();
    let cidr = cidr_of(cluster, &name)?;
    members::forget(cluster, node)?;
    let since = Instant::now();
    for other in ["n1", "n2"] {
        until(LIMIT, &format!("{other} has forgotten {name}"), || {
            Ok((!knows(cluster, other, &name, &cidr)?).then_some(()))
        })?;
    }
    let seen = format!(
        "its Node deleted, routes and rows gone after {:.2} s",
        since.elapsed().as_secs_f64()
    );
    members::remove(cluster, node)?;
    Ok(seen)
}

/// Whether a node has a route to another's pods, or a row of it.
fn knows(cluster: &Cluster, node: &str, other: &str, cidr: &str) -> Result<bool> {
    let mut ip = cluster.in_node(node, "ip")?;
    let route = workspace::output(ip.args(["route", "show", cidr]))?;
    let rows: Vec<Value> = agents::ask(cluster, node, &["node", "list"])?;
    Ok(!route.is_empty() || rows.iter().any(|row| row["name"] == other))
}

fn cidr_of(cluster: &Cluster, node: &str) -> Result<String> {
    cluster.ask(&["get", "node", node, "-o", "jsonpath={.spec.podCIDR}"])
}

/// Who is watched, what was said, and when.
type Said = (&'static str, String, Instant);

/// What the API server says of Nodes, and the kernels of n1 and n2 of routes, as it comes.
struct Watch {
    children: Vec<Child>,
    said: Receiver<Said>,
}

impl Watch {
    fn start(cluster: &Cluster) -> Result<Self> {
        let (say, said) = channel();
        let mut watch = Self {
            children: Vec::new(),
            said,
        };
        let mut nodes = cluster.kubectl()?;
        nodes.args(["get", "nodes", "--watch", "--no-headers", "-o"]);
        nodes.arg("custom-columns=NAME:.metadata.name,CIDR:.spec.podCIDR");
        let mut add = |who: &'static str, mut command: Command| -> Result<()> {
            let mut child = command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()?;
            let output = child.stdout.take().context("a pipe")?;
            watch.children.push(child);
            let say = say.clone();
            thread::Builder::new().name(who.to_owned()).spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if say.send((who, line, Instant::now())).is_err() {
                        break;
                    }
                }
            })?;
            Ok(())
        };
        add("nodes", nodes)?;
        for (who, number) in [("n1", 1), ("n2", 2)] {
            let mut ip = cluster.inside(Member::Node(number), "ip");
            ip.args(["monitor", "route"]);
            add(who, ip)?;
        }
        Ok(watch)
    }

    /// When the other nodes had a route for a node's podCIDR. Its row in the map of nodes comes before.
    fn ways(&self, node: &str, cidr: &str) -> Result<String> {
        let (mut registered, mut allocated) = (None, None);
        let (mut first, mut second) = (None, None);
        let end = Instant::now() + WAY_LIMIT;
        while allocated.is_none() || first.is_none() || second.is_none() {
            let left = end.saturating_duration_since(Instant::now());
            let Ok((who, line, at)) = self.said.recv_timeout(left) else {
                anyhow::bail!(
                    "no way to {cidr} within {WAY_LIMIT:?}: podCIDR told: {}, route on n1: {}, on n2: {}",
                    allocated.is_some(),
                    first.is_some(),
                    second.is_some()
                );
            };
            let mut words = line.split_whitespace();
            match who {
                "nodes" if words.next() == Some(node) => {
                    registered.get_or_insert(at);
                    if words.next() == Some(cidr) {
                        allocated.get_or_insert(at);
                    }
                }
                "n1" if words.next() == Some(cidr) => {
                    first.get_or_insert(at);
                }
                "n2" if words.next() == Some(cidr) => {
                    second.get_or_insert(at);
                }
                _ => {}
            }
        }
        let (Some(registered), Some(allocated)) = (registered, allocated) else {
            anyhow::bail!("nobody told of {node}");
        };
        let after = |at: Option<Instant>, since: Instant| {
            let at = at.unwrap_or(since);
            match at.checked_duration_since(since) {
                Some(after) => format!("{:.0} ms after", after.as_secs_f64() * 1e3),
                None => format!(
                    "{:.0} ms before",
                    since.duration_since(at).as_secs_f64() * 1e3
                ),
            }
        };
        Ok(format!(
            "route to {node} on n1 {} and on n2 {} a client saw its podCIDR (n1 {}, n2 {} it saw the Node)",
            after(first, allocated),
            after(second, allocated),
            after(first, registered),
            after(second, registered),
        ))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            child.kill().ok();
            child.wait().ok();
        }
    }
}
