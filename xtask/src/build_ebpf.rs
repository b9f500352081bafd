//! `cargo xtask build-ebpf`: the kernel object alone, for looking at it.

use crate::{
    ebpf_object,
    setup::{self, Group},
    workspace,
};
use anyhow::{Result, anyhow};

/// Build the eBPF programs and print the object's path (the agent's build embeds the same).
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Builds the object.
///
/// # Errors
/// When the machine lacks something or the programs do not compile.
pub(crate) fn run(_: &Args) -> Result<()> {
    setup::ensure(Group::Build)?;
    let object = ebpf_object::build(&workspace::root()).map_err(|fault| anyhow!(fault))?;
    println!("{}", object.display());
    Ok(())
}
