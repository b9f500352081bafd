//! What pods must not notice, and what has to come back: agents that are updated and killed, an API server
//! that is away, nodes that join, leave and start again. Each trial fails when it doesn't hold.

mod agents;
mod attack;
mod away;
mod balancer;
mod burst;
mod chain;
mod domains;
mod join;
mod load;
mod multus;
mod policy;
mod reboot;
mod rolling;

use super::{
    place::Cluster,
    plan::Cni,
    pods::{self, service, web},
};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use std::time::{Duration, Instant};

/// Everything of it is in this namespace of Kubernetes.
const SPACE: &str = "fairlead-trials";
/// How long anything may take that a trial waits for, and that depends on Kubernetes' own pauses.
const LIMIT: Duration = Duration::from_secs(120);

/// Which trials to run.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only these, separated by commas.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "NAME",
        conflicts_with = "all"
    )]
    only: Vec<Trial>,
    /// Those too that take minutes.
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Trial {
    /// Two rolling updates of the agents, under load.
    Update,
    /// A third node joins, with pods that were there before its agent, and leaves.
    Join,
    /// A node loses its power and starts again.
    Reboot,
    // After those: the agent of n1 has run for a while by then, and its kubelet keeps nothing by chance.
    /// A minute without the API server, under load: agents and a kubelet end meanwhile, pods come and go.
    Away,
    /// Plugins chained after ours on one node: portmap, bandwidth, tuning.
    Chain,
    /// Multus calls Fairlead for the pods' own network, and once more for a second interface.
    Multus,
    /// A Deployment of ten restarted under load, once more while agents are killed.
    Rolling,
    /// A hundred pods at once on one node.
    Burst,
    /// Ten minutes of policies that come, go and change, while agents are killed.
    Policy,
    /// A hostile pod: floods, scans and misleading fragments.
    Attack,
    /// A policy that names a domain, with the cluster's own DNS (cluster up --dns).
    Domains,
    /// A load balancer's address moves when the node that answers for it loses its power.
    Balancer,
}

impl Trial {
    fn is_slow(self) -> bool {
        matches!(
            self,
            Self::Multus
                | Self::Rolling
                | Self::Burst
                | Self::Policy
                | Self::Attack
                | Self::Domains
                | Self::Balancer
        )
    }

    /// Answers what was seen.
    fn run(self, cluster: &Cluster) -> Result<String> {
        match self {
            Self::Update => load::under(cluster, || {
                rollout(cluster)?;
                rollout(cluster)
            }),
            Self::Away => away::run(cluster),
            Self::Join => join::run(cluster),
            Self::Reboot => reboot::run(cluster),
            Self::Chain => chain::run(cluster),
            Self::Multus => multus::run(cluster),
            Self::Rolling => rolling::run(cluster),
            Self::Burst => burst::run(cluster),
            Self::Policy => policy::run(cluster),
            Self::Attack => attack::run(cluster),
            Self::Domains => domains::run(cluster),
            Self::Balancer => balancer::run(cluster),
        }
    }
}

/// Runs the trials, prints each, and removes what they made.
///
/// # Errors
/// The first trial that does not hold.
pub(super) fn run(cluster: &Cluster, args: &Args) -> Result<()> {
    let plan = cluster.plan()?;
    ensure!(
        plan.cni == Cni::Fairlead && plan.node("n1").is_some() && plan.node("n2").is_some(),
        "the trials need a cluster with Fairlead and the nodes n1 and n2"
    );
    let all = Trial::value_variants().iter().copied();
    let wanted: Vec<_> = all
        .filter(|trial| match args.only.is_empty() {
            true => args.all || !trial.is_slow(),
            false => args.only.contains(trial),
        })
        .collect();
    pods::remove(cluster, SPACE)?;
    let servers = [
        web(SPACE, "client", "n1"),
        web(SPACE, "far", "n2"),
        web(SPACE, "spare", "n2"),
    ];
    pods::start(cluster, SPACE, &[service(SPACE, "far")], &servers)?;
    for trial in wanted {
        let start = Instant::now();
        let name = trial.to_possible_value().context("a trial has a name")?;
        let name = name.get_name();
        let seen = trial
            .run(cluster)
            .with_context(|| format!("trial {name}"))?;
        println!(
            "ok      {name} ({:.0} s): {seen}",
            start.elapsed().as_secs_f64()
        );
    }
    pods::remove(cluster, SPACE)
}

fn rollout(cluster: &Cluster) -> Result<()> {
    let daemon_set = |words: &[&str]| {
        let place = ["-n", "kube-system", "rollout"];
        cluster.ask(&[&place[..], words, &["daemonset/fairlead"]].concat())
    };
    daemon_set(&["restart"])?;
    daemon_set(&["status", "--timeout=120s"]).map(|_| ())
}
