//! docs/migrate-from-calico.md carried out on a cluster of its own: step by step, with what the page has done
//! by hand done, and with a look at every pod's traffic meanwhile.

mod calico;
mod node;
mod reference;
mod streams;

use super::{place::Cluster, smoke};
use anyhow::Result;
use clap::ValueEnum;

/// Which rehearsal.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What the nodes had before.
    #[arg(long, value_enum)]
    from: Old,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Old {
    /// The reference plugins bridge and portmap, with pods that ask each other all the time.
    Reference,
    /// What Calico leaves, put there by hand: there are no pods of it.
    Calico,
}

/// Starts a cluster with the old network, changes it to Fairlead, and removes it. After a failure it stays.
///
/// # Errors
/// The first step that doesn't do what the page says, and the first request that was lost by it.
pub(super) fn run(cluster: &Cluster, args: &Args) -> Result<()> {
    match args.from {
        Old::Reference => reference::run(cluster)?,
        Old::Calico => calico::run(cluster)?,
    }
    smoke::run(cluster)
}
