//! Nodes that come and go while the cluster is up: `join`, `leave`, and a node that is started again.

use super::{
    images, node,
    place::Cluster,
    plan::{Cni, Member, Plan},
    underlay, up,
};
use anyhow::{Context, Result, ensure};
use std::{fs, path::PathBuf};

const UNKNOWN: &str = "there is no such node; see cargo xtask cluster status";
/// How long a node may take until it is ready.
const READY: &str = "--timeout=120s";

/// Adds a node with all that the others have.
///
/// # Errors
/// When there are as many as can be, or it does not get ready; nothing of it is left then.
pub(super) fn join(cluster: &Cluster) -> Result<Member> {
    let node = begin(cluster)?;
    let made = register(cluster, node).and_then(|_| finish(cluster, node));
    undone(cluster, node, made)?;
    Ok(node)
}

/// Gives a node that joins its number; it is one of the cluster's from here on.
///
/// # Errors
/// When there are as many as can be.
pub(super) fn begin(cluster: &Cluster) -> Result<Member> {
    let mut plan = cluster.plan()?;
    let node = plan.next().context("no more nodes can join")?;
    let Member::Node(number) = node else {
        unreachable!("only nodes join")
    };
    plan.nodes.insert(number);
    cluster.set_up(&plan)?;
    Ok(node)
}

/// Starts a node until it is registered; answers its podCIDRs. It lacks the images that were loaded while
/// the cluster is up, Fairlead's among them.
///
/// # Errors
/// When a part does not start.
pub(super) fn register(cluster: &Cluster, node: Member) -> Result<Vec<String>> {
    let plan = cluster.plan()?;
    up::machine(cluster, &plan, node)?;
    up::prepare(cluster, node, &images::archives(&plan)?)?;
    let cidrs = node::pod_cidrs(cluster, &plan)?;
    // Where packets find their way by the reference's routes, every node needs one more.
    node::routes(cluster, &plan, &cidrs)?;
    let own = cidrs.into_iter().find(|(member, _)| *member == node);
    let (_, cidrs) = own.context("a node of the plan has podCIDRs")?;
    up::registered(cluster, &plan, node, &cidrs)?;
    Ok(cidrs)
}

/// Gives a node that is registered the images that the others were given, and waits until it is ready.
///
/// # Errors
/// When it does not get ready.
pub(super) fn finish(cluster: &Cluster, node: Member) -> Result<()> {
    give_images(cluster, node)?;
    if cluster.plan()?.cni != Cni::None {
        let node = format!("node/{}", node.name());
        cluster.ask(&["wait", "--for=condition=Ready", &node, READY])?;
    }
    Ok(())
}

/// Gives a node the images that the others were given.
///
/// # Errors
/// When containerd refuses one.
pub(super) fn give_images(cluster: &Cluster, node: Member) -> Result<()> {
    for archive in images::kept(cluster)? {
        node::import(cluster, node, &archive)?;
    }
    Ok(())
}

/// Deletes a Node object and removes the node.
///
/// # Errors
/// When there is no such node, or something of it stays.
pub(super) fn leave(cluster: &Cluster, name: &str) -> Result<()> {
    let plan = cluster.plan()?;
    let node = plan.node(name).context(UNKNOWN)?;
    ensure!(
        plan.nodes.len() > 1,
        "{name} is the last node; remove the cluster: cargo xtask cluster down"
    );
    forget(cluster, node)?;
    remove(cluster, node)
}

/// Deletes a Node object.
///
/// # Errors
/// When the API server refuses.
pub(super) fn forget(cluster: &Cluster, node: Member) -> Result<()> {
    let words = ["delete", "node", &node.name(), "--ignore-not-found"];
    cluster.ask(&words).map(|_| ())
}

/// Removes a node that is no Node any more, or only half made; what is not there is fine.
///
/// # Errors
/// When something of it stays.
pub(super) fn remove(cluster: &Cluster, node: Member) -> Result<()> {
    let (name, dir) = (node.name(), cluster.node_dir(node));
    halt(cluster, node)?;
    // Nobody is there to end them.
    let on = format!("spec.nodeName={name}");
    let list = ["get", "pods", "-A", "--field-selector", &on, "-o"];
    let form = "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{\"\\n\"}{end}";
    for line in cluster.ask(&[&list[..], &[form]].concat())?.lines() {
        let (space, pod) = line.split_once(' ').context("namespace and name")?;
        let words = [
            "delete",
            "pod",
            pod,
            "-n",
            space,
            "--force",
            "--grace-period=0",
        ];
        cluster.ask(&[&words[..], &["--ignore-not-found"]].concat())?;
    }
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    node::remove_routes(cluster, node)?;
    let mut plan = cluster.plan()?;
    plan.nodes.retain(|number| Member::Node(*number) != node);
    cluster.set_up(&plan)
}

/// After an error of making a node nothing of it stays.
pub(super) fn undone<T>(cluster: &Cluster, node: Member, made: Result<T>) -> Result<T> {
    made.map_err(|error| {
        let left = forget(cluster, node).and_then(|()| remove(cluster, node));
        if let Err(left) = left {
            eprintln!("clean-up: {left:#}");
        }
        error.context(format!("adding {}", node.name()))
    })
}

/// Starts the node of that name again.
///
/// # Errors
/// When there is none, or something does not end or start in time.
pub(super) fn restart(cluster: &Cluster, name: &str) -> Result<()> {
    let plan = cluster.plan()?;
    let node = plan.node(name).context(UNKNOWN)?;
    reboot(cluster, &plan, node)
}

/// Takes a node's power, and gives it back: its processes, links, /run and bpffs are gone, its disk stays.
///
/// # Errors
/// When something does not end or start in time.
pub(super) fn reboot(cluster: &Cluster, plan: &Plan, node: Member) -> Result<()> {
    halt(cluster, node)?;
    underlay::attach(cluster, node)?;
    node::start(cluster, plan, node)?;
    node::wait_runtime(cluster, node)?;
    if plan.cni == Cni::Reference {
        node::routes(cluster, plan, &node::pod_cidrs(cluster, plan)?)?;
    }
    match plan.kube_proxy {
        true => node::kube_proxy(cluster, plan, node),
        false => Ok(()),
    }
}

/// Ends a node's processes and removes its links and its namespace.
fn halt(cluster: &Cluster, node: Member) -> Result<()> {
    if cluster.node_dir(node).join("outer").exists() {
        node::stop(cluster, node)?;
    }
    let netns = PathBuf::from("/run/netns").join(cluster.netns(node));
    match netns.exists() {
        true => underlay::detach(cluster, node),
        false => Ok(()),
    }
}
