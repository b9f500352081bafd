//! Fairlead's chores: `cargo xtask <verb>`, one file or folder for each.

mod attack;
mod bench;
mod build;
mod build_ebpf;
mod cluster;
mod containerd;
mod csi_agent;
mod csi_client;
mod demo;
mod deny;
mod device_use;
#[expect(unreachable_pub, reason = "shared with the agent's build script")]
mod ebpf_object;
mod hostpath_proxy;
mod image;
mod lab;
#[cfg(test)]
mod runtime;
#[cfg(test)]
mod scenarios;
mod sctp;
mod setup;
mod storage;
mod table;
mod test;
mod tidy;
mod vm;
mod workspace;

use anyhow::Context;
use clap::Parser;
use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

/// Fairlead's chores. Start with `cargo xtask demo`: it sets the machine up, builds, and shows the
/// product at work.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
enum Verb {
    Demo(demo::Args),
    Test(test::Args),
    Bench(bench::Args),
    Setup(setup::Args),
    Build(build::Args),
    Image(image::Args),
    BuildEbpf(build_ebpf::Args),
    Tidy(tidy::Args),
    Deny(deny::Args),
    Cluster(cluster::Args),
    Vm(vm::Args),
    Storage(storage::Args),
    VmVolumes(vm::trials::Args),
    #[command(hide = true)]
    LabProbe(bench::worker::Args),
    #[command(hide = true)]
    VmWithin(vm::trials::within::Args),
    #[command(hide = true)]
    DeviceUse(device_use::Args),
    #[command(hide = true)]
    Sctp(sctp::Args),
    #[command(hide = true)]
    HostpathProxy(hostpath_proxy::Args),
    #[command(hide = true)]
    Attack(attack::Args),
}

impl Verb {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Demo(args) => demo::run(&args),
            Self::Test(args) => test::run(&args),
            Self::Bench(args) => bench::run(&args),
            Self::Setup(args) => setup::run(&args),
            Self::Build(args) => build::run(&args),
            Self::Image(args) => image::run(&args),
            Self::BuildEbpf(args) => build_ebpf::run(&args),
            Self::Tidy(args) => tidy::run(&args),
            Self::Deny(args) => deny::run(&args),
            Self::Cluster(args) => cluster::run(args),
            Self::Vm(args) => vm::run(&args),
            Self::Storage(args) => storage::run(&args),
            Self::VmVolumes(args) => vm::trials::run(&args),
            Self::VmWithin(args) => vm::trials::within::run(&args),
            Self::LabProbe(args) => bench::worker::run(args),
            Self::DeviceUse(args) => device_use::run(&args),
            Self::Sctp(args) => sctp::run(&args),
            Self::HostpathProxy(args) => hostpath_proxy::run(&args),
            Self::Attack(args) => attack::run(&args),
        }
    }
}

/// Runs a verb as the command line would: `["demo", "--keep"]`.
///
/// # Errors
/// Those of the verb, and words that it does not know.
fn verb(words: &[&str]) -> anyhow::Result<()> {
    let line = std::iter::once("xtask").chain(words.iter().copied());
    Verb::try_parse_from(line)?.run()
}

/// Starts this program anew when `PATH` lacks root's programs, as a user's does on Debian. The
/// environment of a running process is not changed: another thread may read it.
fn with_system_programs() -> anyhow::Result<()> {
    let Some(path) = workspace::longer_path()? else {
        return Ok(());
    };
    let mut again = Command::new(std::env::current_exe()?);
    let refused = again
        .args(std::env::args_os().skip(1))
        .env("PATH", path)
        .exec();
    Err(refused).context("starting anew with a longer PATH")
}

fn main() -> ExitCode {
    let verb = Verb::parse();
    let done = with_system_programs().and_then(|()| verb.run());
    // One clear sentence: where in this program it was noticed helps nobody.
    if let Err(error) = done {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
