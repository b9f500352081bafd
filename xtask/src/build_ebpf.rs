//! `cargo xtask build-ebpf`: the kernel objects alone, for looking at them.

use crate::{
    ebpf_object::{self, Object},
    setup::{self, Group},
    workspace,
};
use anyhow::{Result, anyhow};

/// Build the eBPF programs and print the objects' paths (the agent's build embeds the same).
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Builds both objects.
///
/// # Errors
/// When the machine lacks something or the programs do not compile.
pub(crate) fn run(_: &Args) -> Result<()> {
    setup::ensure(Group::Build)?;
    for object in Object::ALL {
        let built = ebpf_object::build(&workspace::root(), object);
        println!("{}", built.map_err(|fault| anyhow!(fault))?.display());
    }
    Ok(())
}
