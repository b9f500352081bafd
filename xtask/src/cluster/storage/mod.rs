//! `cargo xtask cluster storage`: volumes on the cluster that is up. Installs the agents' CSI part and who calls it,
//! then walks through the life of volumes as a user does, by Kubernetes' objects alone. Each step prints what it saw.

mod growth;
mod install;
mod kinds;
mod left;
mod objects;
mod placed;
mod sources;
mod wait;

use super::{place::Cluster, plan::Cni, pods};
use anyhow::{Context, Result, ensure};
pub(super) use left::detach;
use std::time::{Duration, Instant};

/// Everything of it is in this namespace of Kubernetes.
const SPACE: &str = "fairlead-storage";
/// How long anything may take that a step waits for.
const LIMIT: Duration = Duration::from_secs(120);

/// What to install.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kubernetes' own helpers, unchanged, make and delete volumes, cut snapshots, attach and grow; without, the
    /// agents do.
    #[arg(long)]
    sidecars: bool,
    /// Install it, and no more.
    #[arg(long)]
    install_only: bool,
}

/// Who makes volumes of claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Helpers {
    /// external-provisioner and its kin.
    Sidecars,
    /// Each node's agent itself.
    Agent,
}

/// A step of the walk: what it is called, and what it does and saw.
type Step = (&'static str, fn(&Cluster) -> Result<String>);

const STEPS: [Step; 11] = [
    ("claims", placed::claims),
    ("data", placed::data),
    ("grow", growth::online),
    ("snapshot", sources::snapshot),
    ("clone", sources::clone),
    ("generic", kinds::generic),
    ("inline", kinds::inline),
    ("block", kinds::block),
    ("set", placed::set),
    ("full", growth::full),
    ("deleted", left::deleted),
];

/// Installs what is asked for and walks.
///
/// # Errors
/// When something can't be installed, or a step does not hold.
pub(super) fn run(cluster: &Cluster, args: &Args) -> Result<()> {
    let plan = cluster.plan()?;
    ensure!(
        plan.cni == Cni::Fairlead && plan.node("n1").is_some() && plan.node("n2").is_some(),
        "volumes need a cluster with Fairlead and the nodes n1 and n2"
    );
    let helpers = match args.sidecars {
        true => Helpers::Sidecars,
        false => Helpers::Agent,
    };
    install::run(cluster, helpers)?;
    if args.install_only {
        return Ok(());
    }
    walk(cluster)
}

/// The life of volumes, whoever makes them. A step that does not hold keeps no other from being tried.
///
/// # Errors
/// When a step does not hold.
fn walk(cluster: &Cluster) -> Result<()> {
    pods::remove(cluster, SPACE)?;
    left::nothing(cluster).context("before the first step")?;
    pods::make(cluster, SPACE)?;
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        let start = Instant::now();
        let done = step(cluster);
        let seconds = start.elapsed().as_secs_f64();
        match done {
            Ok(seen) => println!("ok      {name} ({seconds:.1} s): {seen}"),
            Err(error) => {
                println!("FAILED  {name} ({seconds:.1} s): {error:#}");
                failed.push(name);
            }
        }
    }
    ensure!(
        failed.is_empty(),
        "steps that do not hold: {}",
        failed.join(", ")
    );
    Ok(())
}
