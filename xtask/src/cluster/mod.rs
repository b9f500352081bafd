//! `cargo xtask cluster`: a real Kubernetes on this machine, its control plane and every node in a
//! network namespace of their own. See docs/cluster.md.
//!
//! Reading order: `plan` (what it is made of), `place` (where it lives and how it goes away), `up` (the
//! order of things), then the parts.

mod api_server;
mod conformance;
mod control_plane;
mod devices;
mod e2e;
mod images;
mod members;
mod migration;
mod node;
mod objects;
mod parts;
mod pki;
mod place;
mod plan;
mod pods;
mod populate;
mod processes;
mod smoke;
mod storage;
mod trials;
mod underlay;
mod up;

use crate::{
    setup::{self, Extra, Group},
    table::Table,
};
use anyhow::{Context, Result, ensure};
pub(crate) use api_server::{ApiServer, ProxyMode};
use place::Cluster;
use plan::{Member, Plan};
use std::{ffi::OsString, fs, os::unix::process::CommandExt, path::PathBuf, process::Command};

/// Run a real Kubernetes of network namespaces on this machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Tells clusters on one machine apart.
    #[arg(long, default_value = "main")]
    name: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Start a cluster; it stays until `down`.
    Up(Plan),
    /// Remove the cluster and everything that belongs to it.
    Down,
    /// Print the nodes, what is in them and how to enter one.
    Status,
    /// Add a node to the cluster that is up.
    Join,
    /// Delete a Node and remove the node.
    Leave {
        /// `n3`, for example.
        node: String,
    },
    /// Start a node again, as after a power cut: its disk stays.
    Reboot {
        /// `n2`, for example.
        node: String,
    },
    /// Give every node an image from an archive.
    LoadImage {
        /// As `cargo xtask image` writes it.
        archive: PathBuf,
    },
    /// Run kubectl as administrator.
    Kubectl {
        /// Passed on.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Run a program on a node, in all its namespaces.
    Node {
        /// `n1`, `n2` and so on.
        node: String,
        /// Program and arguments [default: sh].
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Check pods, Services, NodePorts, logs and DNS of the cluster that is up.
    Smoke,
    /// Update and kill agents, stop the API server, let nodes join, leave and lose their power, on the
    /// cluster that is up: what must go on goes on, and what must come back does.
    Trials(trials::Args),
    /// Have the cluster that is up make volumes, and walk through their life: claims, data, growth, snapshots,
    /// clones, raw block, a full volume, deletion.
    Storage(storage::Args),
    /// Give pods of the cluster that is up devices, and end kubelets, agents and a node meanwhile: each container keeps its
    /// own.
    Devices(devices::Args),
    /// Tell the API server of thousands of Nodes and Pods that nobody runs, and print what that costs
    /// the agents of the cluster that is up.
    Populate(populate::Args),
    /// Start a cluster with Fairlead, kube-proxy and DNS, run smoke and trials, and remove it.
    Check,
    /// Change a cluster of its own from another network to Fairlead, as docs/migrate-from-calico.md says.
    Rehearse(migration::Args),
    /// Run Kubernetes' own end-to-end tests against the cluster that is up, or with --all against one of
    /// its own.
    E2e(e2e::Args),
    /// Install the cluster-wide policies' kinds on the cluster that is up, and run their project's
    /// conformance tests against it.
    Conformance(conformance::Args),
}

/// Does what the verb says.
///
/// # Errors
/// Those of the verb.
pub(crate) fn run(args: Args) -> Result<()> {
    let cluster = Cluster::named(&args.name)?;
    match args.verb {
        Verb::Up(plan) => up(&cluster, &plan),
        Verb::Down => down(&cluster),
        Verb::Status => status(&cluster),
        Verb::LoadImage { archive } => load_image(&cluster, &archive),
        Verb::Join => {
            println!("{} has joined", members::join(&cluster)?.name());
            Ok(())
        }
        Verb::Leave { node } => members::leave(&cluster, &node),
        Verb::Reboot { node } => members::restart(&cluster, &node),
        Verb::Kubectl { words } => {
            cluster.plan()?;
            become_program(cluster.kubectl()?.args(words))
        }
        Verb::Node { node, words } => {
            let mut words = words.into_iter();
            let program = words.next().unwrap_or_else(|| "sh".into());
            become_program(cluster.in_node(&node, program)?.args(words))
        }
        Verb::Smoke => smoke::run(&cluster),
        Verb::Trials(args) => trials::run(&cluster, &args),
        Verb::Storage(args) => storage::run(&cluster, &args),
        Verb::Devices(args) => devices::run(&cluster, &args),
        Verb::Populate(args) => populate::run(&cluster, &args),
        Verb::Check => check(&cluster),
        Verb::Rehearse(args) => migration::run(&cluster, &args).and_then(|()| down(&cluster)),
        Verb::E2e(args) => {
            setup::ensure_extra(Extra::EndToEnd)?;
            end_to_end(&cluster, &args)
        }
        Verb::Conformance(args) => {
            setup::ensure_extra(Extra::NetworkPolicy)?;
            conformance::run(&cluster, &args)
        }
    }
}

fn up(cluster: &Cluster, plan: &Plan) -> Result<()> {
    setup::ensure(Group::Cluster)?;
    if plan.dns {
        setup::ensure_extra(Extra::Dns)?;
    }
    up::run(cluster, plan)
}

fn check(cluster: &Cluster) -> Result<()> {
    let plan = Plan {
        nodes: plan::first(2),
        cni: plan::Cni::Fairlead,
        kube_proxy: true,
        dns: true,
        ipv6: false,
    };
    up(cluster, &plan)?;
    let passed = smoke::run(cluster)
        .and_then(|()| trials::run(cluster, &trials::Args::default()))
        .and_then(|()| devices::run(cluster, &devices::Args::short()));
    passed.and(down(cluster))
}

fn end_to_end(cluster: &Cluster, args: &e2e::Args) -> Result<()> {
    if !args.all {
        return e2e::run(cluster, args);
    }
    let plan = Plan {
        nodes: plan::first(2),
        cni: args.cni,
        kube_proxy: true,
        dns: true,
        ipv6: true,
    };
    up(cluster, &plan)?;
    let ran = e2e::run(cluster, args);
    ran.and(down(cluster))
}

fn down(cluster: &Cluster) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root can remove a cluster"
    );
    cluster.remove()?;
    println!("no cluster is up");
    Ok(())
}

fn status(cluster: &Cluster) -> Result<()> {
    let plan = cluster.plan()?;
    let mut table = Table::new(5, &["what", "address", "pid", "network namespace", "enter"]);
    for member in [Member::Underlay, Member::ControlPlane] {
        let netns = cluster.netns(member);
        let enter = format!("nsenter --net=/run/netns/{netns} sh");
        let address = member.v4().to_string();
        table.row([member.name(), address, "-".to_owned(), netns, enter]);
    }
    for node in plan.nodes() {
        // One that is just joining has none yet.
        let pid = fs::read_to_string(cluster.node_dir(node).join("pid"));
        let pid = pid.unwrap_or_else(|_| "-".to_owned());
        let enter = format!("cargo xtask cluster node {}", node.name());
        let address = node.v4().to_string();
        table.row([node.name(), address, pid, cluster.netns(node), enter]);
    }
    print!("{table}");
    println!("\nlogs: {}\n", cluster.dir().display());
    print!(
        "{}",
        cluster.ask(&["get", "nodes,pods", "-A", "-o", "wide"])?
    );
    Ok(())
}

fn load_image(cluster: &Cluster, archive: &std::path::Path) -> Result<()> {
    // The cluster's folder is the same on every node, which other places need not be.
    let path = images::keep(cluster, archive)?;
    for node in cluster.plan()?.nodes() {
        node::import(cluster, node, &path)?;
        println!("{} has {}", node.name(), archive.display());
    }
    Ok(())
}

/// Lets a program take this one's place, with its terminal and its exit code.
fn become_program(command: &mut Command) -> Result<()> {
    let refused = command.exec();
    Err(refused).with_context(|| format!("starting {}", command.get_program().display()))
}
