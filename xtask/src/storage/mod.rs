//! The CSI driver on a real disk, as an agent of its own process: under a client that nobody here wrote (csi-sanity, by
//! grpc-go, as the kubelet is), under callers who mean no good, killed in every operation, and without power. The ring
//! `storage` has a short form of each trial; this verb has the long ones.

mod backend;
#[cfg(test)]
mod chance;
#[cfg(test)]
mod client;
#[cfg(test)]
mod cuts;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod node;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod sanity;
mod sweep;

pub(crate) use sweep::loop_devices;

use crate::{
    build,
    setup::{self, Group},
    workspace,
};
use anyhow::Result;
use backend::Backend;

/// Try the CSI driver on loop devices of this machine for as long as you like: kills, power cuts. As root.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    trial: Trial,
    /// Have the same chance again; each trial prints its own.
    #[arg(long, global = true)]
    seed: Option<u64>,
}

#[derive(clap::Subcommand)]
enum Trial {
    /// Kill the agent at a random moment of every operation, and ask the next one again.
    Kills {
        /// How many kills at least.
        #[arg(long, default_value_t = 200)]
        rounds: u64,
        /// Volumes of this back end alone [default: each in its turn].
        #[arg(long, value_enum)]
        backend: Option<Backend>,
    },
    /// Cut the disk's power while pods write and operations run, and recover.
    PowerCuts {
        /// How many cuts at least.
        #[arg(long, default_value_t = 50)]
        rounds: u64,
        /// Volumes of this back end alone [default: each in its turn].
        #[arg(long, value_enum)]
        backend: Option<Backend>,
    },
    /// Run csi-sanity in each configuration while the driver is killed in a fifth of its calls.
    Sanity {
        /// How many configurations.
        #[arg(long, default_value_t = 5)]
        rounds: u64,
        /// Those of this back end alone.
        #[arg(long, value_enum)]
        backend: Option<Backend>,
    },
}

impl Trial {
    const fn backend(&self) -> Option<Backend> {
        match self {
            Self::Kills { backend, .. }
            | Self::PowerCuts { backend, .. }
            | Self::Sanity { backend, .. } => *backend,
        }
    }

    /// Its test, and the variable and number that make it long.
    const fn test(&self) -> (&'static str, &'static str, u64) {
        match self {
            Self::Kills { rounds, .. } => (
                "storage::kills::every_operation_survives_a_kill_at_any_moment_and_nothing_is_left",
                "FAIRLEAD_KILLS",
                *rounds,
            ),
            Self::PowerCuts { rounds, .. } => (
                "storage::cuts::a_power_cut_loses_nothing_that_was_acknowledged_and_leaves_nothing",
                "FAIRLEAD_CUTS",
                *rounds,
            ),
            Self::Sanity { rounds, .. } => (
                "storage::sanity::every_spec_passes_while_the_driver_is_killed_in_a_fifth_of_the_calls",
                "FAIRLEAD_CONFIGURATIONS",
                *rounds,
            ),
        }
    }
}

/// Runs one trial.
///
/// # Errors
/// When the machine lacks something, or the trial fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(Group::Test)?;
    build::ensure_built()?;
    let (test, variable, rounds) = args.trial.test();
    let mut command = workspace::cargo();
    command
        .args(["test", "--locked", "--bin", "xtask", "--"])
        .args(["--ignored", "--nocapture", "--exact", test])
        .env(variable, rounds.to_string());
    if let Some(backend) = args.trial.backend() {
        command.env(backend::VARIABLE, backend.name());
    }
    if let Some(seed) = args.seed {
        command.env("FAIRLEAD_SEED", seed.to_string());
    }
    // Ctrl-C ends the trial, and what it had is removed here.
    let ignored = std::sync::Arc::default();
    signal_hook::flag::register(signal_hook::consts::SIGINT, ignored)?;
    let done = workspace::run(&mut command);
    sweep::sweep();
    done
}
