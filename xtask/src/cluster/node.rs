//! A node: namespaces with one first process, containerd and kubelet in them, and a file system whose
//! changes stay its own.

use super::{
    control_plane::ended,
    images, objects, pki,
    place::{Cluster, kubernetes, search_path, until},
    plan::{Cni, Member, Plan},
};
use crate::{lab::remove_group, setup};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The node's first process, as `sh` reads it.
const INIT: &str = include_str!("init.sh");
/// How long a node may take for one step.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where the machine's control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// How the first process gets to it: from its own process namespace into the node's control groups, then
/// into a namespace of them. `$1`: the script; then the groups.
const ENTER: &str = r#"
script=$1; shift
for group; do echo 0 > "$group/cgroup.procs"; done
exec unshare --cgroup sh "$script"
"#;

/// Starts a node's first process, with containerd and the kubelet. It does not wait for either.
///
/// # Errors
/// When a file, a control group or the process cannot be made; with the end of its log.
pub(super) fn start(cluster: &Cluster, plan: &Plan, node: Member) -> Result<()> {
    let (name, dir) = (node.name(), cluster.node_dir(node));
    fs::create_dir_all(&dir)?;
    let mounted = dir.join("mounted");
    if mounted.exists() {
        // Of the time before it was stopped.
        fs::remove_file(mounted)?;
    }
    let script = dir.join("init.sh");
    fs::write(&script, INIT)?;
    fs::write(dir.join("containerd.toml"), objects::containerd()?)?;
    let kubelet = objects::kubelet(cluster, node);
    fs::write(
        dir.join("kubelet.json"),
        serde_json::to_vec_pretty(&kubelet)?,
    )?;
    fs::write(
        dir.join("kubeconfig.json"),
        pki::kubeconfig(cluster, &name)?,
    )?;

    let address = node.v4().to_string();
    let register = match plan.ipv6 {
        true => format!("{address},{}", node.v6()),
        false => address.clone(),
    };
    let groups = control_groups(cluster, node)?;
    let mut command = cluster.inside(node, "unshare");
    command
        .args([
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child=KILL",
        ])
        .args(["--propagation", "private", "sh", "-euc", ENTER, "init"])
        .arg(&script)
        .args(groups)
        .env("NODE", &name)
        .env("ADDRESS", &address)
        .env("REGISTER", &register)
        .env("DIR", &dir)
        .env("PATH", search_path()?);
    let log = format!("{name}-init");
    let outer = cluster.daemon(&log, &mut command)?;
    let children = format!("/proc/{outer}/task/{outer}/children");
    let init: u32 = until(PATIENCE, "a node's first process starts", || {
        if ended(outer) {
            bail!("{}", cluster.log_end(&log));
        }
        Ok(fs::read_to_string(&children)?.trim().parse().ok())
    })?;
    fs::write(dir.join("pid"), init.to_string())?;
    fs::write(dir.join("outer"), outer.to_string())?;
    cluster.record(init)
}

/// Ends everything on a node, as a power cut does; its disk stays. Answers when nothing of it runs.
///
/// # Errors
/// When a process does not end in time.
pub(super) fn stop(cluster: &Cluster, node: Member) -> Result<()> {
    let dir = cluster.node_dir(node);
    let init = fs::read_to_string(dir.join("pid"))?;
    cluster.kill(&init)?;
    for file in ["pid", "outer"] {
        let pid = fs::read_to_string(dir.join(file))?.parse()?;
        until(PATIENCE, &format!("{} has ended", node.name()), || {
            Ok(ended(pid).then_some(()))
        })?;
    }
    // The kernel takes a moment to bury what was in them.
    for group in control_groups(cluster, node)? {
        until(PATIENCE, "its control groups are empty", || {
            Ok(remove_group(&group).ok())
        })?;
    }
    Ok(())
}

/// Waits until containerd answers.
///
/// # Errors
/// When the node's first process ends, or containerd does not answer in time.
pub(super) fn wait_runtime(cluster: &Cluster, node: Member) -> Result<()> {
    let (name, dir) = (node.name(), cluster.node_dir(node));
    let init: u32 = fs::read_to_string(dir.join("pid"))?.parse()?;
    let answers = || {
        if ended(init) {
            bail!("{}", cluster.log_end(&format!("{name}-init")));
        }
        if !dir.join("mounted").exists() {
            return Ok(None);
        }
        let asked = cluster.in_node(&name, "ctr")?.arg("version").output()?;
        Ok(asked.status.success().then_some(()))
    };
    until(PATIENCE, &format!("containerd of {name} answers"), answers)
        .with_context(|| cluster.log_end(&format!("{name}/containerd")))
}

/// Imports an image's archive.
///
/// # Errors
/// When `ctr` refuses it.
pub(super) fn import(cluster: &Cluster, node: Member, archive: &Path) -> Result<()> {
    let mut ctr = cluster.in_node(&node.name(), "ctr")?;
    ctr.args(["--namespace", "k8s.io", "images", "import"])
        .arg(archive);
    crate::workspace::output(&mut ctr).map(|_| ())
}

/// Gives every node an image, also those that join.
///
/// # Errors
/// When it can't be kept, or `ctr` refuses it.
pub(super) fn give(cluster: &Cluster, plan: &Plan, archive: &Path) -> Result<()> {
    // The cluster's folder is the same on every node, which other places need not be.
    let archive = images::keep(cluster, archive)?;
    plan.nodes()
        .try_for_each(|node| import(cluster, node, &archive))
}

/// Waits until every node has registered and has its podCIDRs; answers the nodes with them.
///
/// # Errors
/// When one does not in time.
pub(super) fn pod_cidrs(cluster: &Cluster, plan: &Plan) -> Result<Vec<(Member, Vec<String>)>> {
    let mut missing = None;
    let all = until(
        PATIENCE,
        "every node has registered and has podCIDRs",
        || {
            let list: Value = serde_json::from_str(&cluster.ask(&["get", "nodes", "-o", "json"])?)?;
            let cidrs = |node: Member| -> Option<Vec<String>> {
                let items = list["items"].as_array()?.iter();
                let mut same = items.filter(|item| item["metadata"]["name"] == node.name());
                let cidrs = same.next()?["spec"]["podCIDRs"].as_array()?.iter();
                Some(
                    cidrs
                        .filter_map(|c| c.as_str().map(str::to_owned))
                        .collect(),
                )
            };
            let found = plan.nodes().map(|node| {
                let cidrs = cidrs(node);
                if cidrs.is_none() {
                    missing = Some(node);
                }
                Some((node, cidrs?))
            });
            Ok(found.collect())
        },
    );
    all.with_context(|| match missing {
        Some(node) => cluster.log_end(&format!("{}/kubelet", node.name())),
        None => "asking for the nodes".to_owned(),
    })
}

/// Gives a node what a distribution's package of plugins (`kubernetes-cni`) gives it: containerd runs
/// `loopback` for each pod, and networks chain others.
///
/// # Errors
/// Those of the file system, and when the plugins are not built.
pub(super) fn plugins(cluster: &Cluster, node: Member) -> Result<()> {
    let folder = root(cluster, node)?.join("opt/cni/bin");
    let tools = setup::go_tools()?;
    for plugin in [
        "bandwidth",
        "bridge",
        "host-local",
        "loopback",
        "portmap",
        "tuning",
    ] {
        fs::copy(tools.join(plugin), folder.join(plugin))
            .with_context(|| format!("installing {plugin}"))?;
    }
    Ok(())
}

/// Gives a node the reference plugin's network.
///
/// # Errors
/// Those of the file system.
pub(super) fn reference(cluster: &Cluster, node: Member, cidrs: &[String]) -> Result<()> {
    let root = root(cluster, node)?;
    let list = serde_json::to_vec_pretty(&objects::reference(cidrs))?;
    // Complete when it appears: containerd watches the folder.
    let folder = root.join("etc/cni/net.d");
    fs::write(folder.join("reference.new"), list)?;
    fs::rename(
        folder.join("reference.new"),
        folder.join("10-reference.conflist"),
    )?;
    Ok(())
}

/// Limits of the whole machine are not for kube-proxy on a node of ours to set.
pub(super) const OF_THE_MACHINE: [&str; 3] = [
    "--conntrack-max-per-core=0",
    "--conntrack-tcp-timeout-established=0s",
    "--conntrack-tcp-timeout-close-wait=0s",
];

/// Starts kube-proxy on a node.
///
/// # Errors
/// When it cannot be started.
pub(super) fn kube_proxy(cluster: &Cluster, plan: &Plan, node: Member) -> Result<()> {
    let name = node.name();
    let mut proxy = cluster.in_node(&name, kubernetes("kube-proxy")?)?;
    proxy.arg(format!(
        "--kubeconfig={}",
        cluster.dir().join("proxy.json").display()
    ));
    proxy.arg(format!("--hostname-override={name}"));
    proxy.arg(format!("--cluster-cidr={}", plan.pods()));
    proxy.args([
        "--proxy-mode=nftables",
        "--metrics-bind-address=127.0.0.1:10249",
    ]);
    proxy.args(OF_THE_MACHINE);
    cluster.daemon(&format!("{name}-kube-proxy"), &mut proxy)?;
    Ok(())
}

/// A node's file system as a process outside sees it.
fn root(cluster: &Cluster, node: Member) -> Result<PathBuf> {
    let pid = fs::read_to_string(cluster.node_dir(node).join("pid"))?;
    Ok(PathBuf::from(format!("/proc/{pid}/root")))
}

/// Makes the node's control group in every hierarchy.
fn control_groups(cluster: &Cluster, node: Member) -> Result<Vec<PathBuf>> {
    let name = cluster.control_group(node);
    let top = PathBuf::from(CGROUPS);
    let entries = fs::read_dir(&top)?.flatten().map(|entry| entry.path());
    // One hierarchy, or one in each folder; links between folders name the same one twice.
    let hierarchies: Vec<_> = match top.join("cgroup.controllers").exists() {
        true => vec![top],
        false => entries
            .filter(|path| !path.is_symlink() && path.join("cgroup.procs").exists())
            .collect(),
    };
    let _making = cluster.making()?;
    let mut groups = Vec::new();
    for hierarchy in hierarchies {
        let group = hierarchy.join(&name);
        fs::create_dir_all(&group).with_context(|| format!("making {}", group.display()))?;
        // A new group of this hierarchy has neither, and takes no process then.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (hierarchy.join(file), group.join(file));
            if from.exists() && fs::read_to_string(&to).is_ok_and(|now| now.trim().is_empty()) {
                fs::write(&to, fs::read(&from)?)?;
            }
        }
        groups.push(group);
    }
    Ok(groups)
}

/// Removes the underlay's routes by way of a node.
///
/// # Errors
/// Those of `ip`.
pub(super) fn remove_routes(cluster: &Cluster, node: Member) -> Result<()> {
    for member in [Member::Underlay, Member::ControlPlane] {
        for (family, via) in [("-4", node.v4().to_string()), ("-6", node.v6())] {
            let netns = cluster.netns(member);
            let flush = ["-n", &netns, family, "route", "flush", "via", &via];
            crate::workspace::output(Command::new("ip").args(flush))?;
        }
    }
    Ok(())
}

/// `ip` commands that carry pods' packets on the underlay, as a cloud's route table does.
pub(super) fn routes(
    cluster: &Cluster,
    plan: &Plan,
    cidrs: &[(Member, Vec<String>)],
) -> Result<()> {
    for (owner, cidrs) in cidrs {
        for cidr in cidrs {
            let via = match cidr.contains(':') {
                true => owner.v6(),
                false => owner.v4().to_string(),
            };
            // Only the reference needs its nodes told; others find their way.
            let nodes = plan.nodes().filter(|_| plan.cni == Cni::Reference);
            let all = [Member::Underlay, Member::ControlPlane]
                .into_iter()
                .chain(nodes);
            for member in all.filter(|member| member != owner) {
                crate::workspace::output(
                    Command::new("ip")
                        .args(["-n", &cluster.netns(member), "route", "replace", cidr])
                        .args(["via", &via]),
                )?;
            }
        }
    }
    Ok(())
}
