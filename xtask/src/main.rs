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

impl Verb {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Demo(args) => demo::run(&args),
            Self::Test(args) => test::run(&args),
            Self::Bench(args) => bench::run(&args),
            Self::Setup(args) => setup::run(&args),
            Self::Build(args) => build::run(&args),
            Self::BuildEbpf(args) => build_ebpf::run(&args),
            Self::Tidy(args) => tidy::run(&args),
            Self::Deny(args) => deny::run(&args),
            Self::LabProbe(args) => bench::worker::run(args),
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

fn main() -> ExitCode {
    let done = Verb::parse().run();
    // One clear sentence: where in this program it was noticed helps nobody.
    if let Err(error) = done {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
