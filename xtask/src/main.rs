//! Fairlead's chores: `cargo xtask <verb>`, one file or folder for each.

mod bench;
mod build;
mod build_ebpf;
#[cfg(test)]
mod containerd;
mod demo;
mod deny;
#[expect(unreachable_pub, reason = "shared with the agent's build script")]
mod ebpf_object;
mod lab;
#[cfg(test)]
mod runtime;
#[cfg(test)]
mod scenarios;
mod setup;
mod table;
mod test;
mod tidy;
mod workspace;

use clap::Parser;
use std::process::ExitCode;

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
    BuildEbpf(build_ebpf::Args),
    Tidy(tidy::Args),
    Deny(deny::Args),
    #[command(hide = true)]
    LabProbe(bench::worker::Args),
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::Demo(args) => demo::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Setup(args) => setup::run(&args),
        Verb::Build(args) => build::run(&args),
        Verb::BuildEbpf(args) => build_ebpf::run(&args),
        Verb::Tidy(args) => tidy::run(&args),
        Verb::Deny(args) => deny::run(&args),
        Verb::LabProbe(args) => bench::worker::run(args),
    };
    // One clear sentence: where in this program it was noticed helps nobody.
    if let Err(error) = done {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
