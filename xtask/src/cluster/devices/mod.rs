//! `cargo xtask cluster devices`: devices for pods on the cluster that is up. Installs the agents' part of device plugins,
//! walks through what pods may rely on, and takes everything away again. Each step prints what it saw.

mod assigned;
mod beside;
mod claims;
mod consumer;
mod example;
mod failures;
mod install;
mod kubelet;
mod lives;
mod node;
mod privilege;
mod restarts;
mod scenarios;
mod unplug;
mod watch;

use super::{place::Cluster, plan::Cni, pods};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use std::time::{Duration, Instant};

/// Everything of it is in this namespace of Kubernetes.
const SPACE: &str = "fairlead-devices";
/// The node that all of it is tried on.
const NODE: &str = "n1";
/// How long anything may take that a step waits for.
const LIMIT: Duration = Duration::from_secs(120);

/// What to walk through.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    only: Vec<Step>,
    /// Of `assignments` and `claims`, only those whose name has this in it.
    #[arg(long)]
    scenario: Option<String>,
    /// How often kubelet and agent are ended in `restarts`.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Where the random moments of `restarts` begin; it prints it.
    #[arg(long)]
    seed: Option<u64>,
    /// Beside volumes, in one agent; they stay.
    #[arg(long)]
    volumes: bool,
    /// Install it, and no more.
    #[arg(long)]
    install_only: bool,
}

impl Args {
    /// What takes two minutes or so.
    pub(super) fn short() -> Self {
        use Step::{Example, Privilege, Restarts, Unplug};
        Self {
            only: vec![Example, Unplug, Privilege, Restarts],
            scenario: None,
            rounds: 3,
            seed: None,
            volumes: false,
            install_only: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    /// The specification's example: devices that change, and a pod that is given one.
    Example,
    /// A device that goes and comes back.
    Unplug,
    /// KVM, FUSE and TUN in a container that is neither privileged nor root.
    Privilege,
    /// What Kubernetes' own tests of device plugins ask for.
    Assignments,
    /// Devices by claims (Dynamic Resource Allocation), from slices to what is left of them.
    Claims,
    /// Kubelets and agents that end at random moments.
    Restarts,
}

impl Step {
    /// Answers what was seen, in lines.
    fn run(self, cluster: &Cluster, args: &Args) -> Result<Vec<String>> {
        match self {
            Self::Example => example::run(cluster),
            Self::Unplug => unplug::run(cluster),
            Self::Privilege => privilege::run(cluster),
            Self::Assignments => assigned::run(cluster, args.scenario.as_deref()),
            Self::Claims => claims::run(cluster, args.scenario.as_deref()),
            Self::Restarts => restarts::run(cluster, args.rounds, args.seed),
        }
    }
}

/// Installs, walks, and takes away. A step that does not hold keeps no other from being tried.
///
/// # Errors
/// When something can't be installed, a step does not hold, or something stays.
pub(super) fn run(cluster: &Cluster, args: &Args) -> Result<()> {
    let plan = cluster.plan()?;
    ensure!(
        plan.cni == Cni::Fairlead && plan.node(NODE).is_some(),
        "devices need a cluster with Fairlead and the node {NODE}"
    );
    pods::remove(cluster, SPACE)?;
    install::run(cluster, args.volumes)?;
    if args.install_only {
        return Ok(());
    }
    pods::make(cluster, SPACE)?;
    let all = Step::value_variants().iter().copied();
    let wanted = all.filter(|step| args.only.is_empty() || args.only.contains(step));
    let mut failed = Vec::new();
    for step in wanted {
        let start = Instant::now();
        let name = step.to_possible_value().context("a step has a name")?;
        let name = name.get_name();
        let done = step.run(cluster, args);
        let seconds = start.elapsed().as_secs_f64();
        match done {
            Ok(seen) => println!(
                "ok      {name} ({seconds:.1} s): {}",
                seen.join("\n        ")
            ),
            Err(error) => {
                println!("FAILED  {name} ({seconds:.1} s): {error:#}");
                failed.push(name.to_owned());
            }
        }
        // The next one finds every device free.
        consumer::none(cluster)?;
    }
    let left = pods::remove(cluster, SPACE).and_then(|()| install::undo(cluster, args.volumes));
    ensure!(
        failed.is_empty(),
        "steps that do not hold: {}",
        failed.join(", ")
    );
    left
}
