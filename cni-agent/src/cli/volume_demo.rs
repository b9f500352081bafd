//! `fairlead volume demo`.

use super::print::print;
use crate::csi::demo::{Demo, Ended, size};
use clap::{Args, ValueEnum};
use std::{path::PathBuf, process::ExitCode};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sudo fairlead volume demo\n  sudo fairlead volume demo --fs xfs --folder /var/tmp\n  sudo fairlead volume demo --size 128Mi | less\nNo agent and no cluster are needed. Eight times the size has to be free in the folder, little of it is written.\nEach call of the driver is shown with its request (>) and its answer (<), what was seen with =."
)]
pub(super) struct DemoArgs {
    /// Of the claim, as Kubernetes writes it.
    #[arg(long, default_value = "1Gi", value_parser = size)]
    size: u64,
    /// File system of the volumes.
    #[arg(long, value_enum, default_value_t)]
    fs: DemoFs,
    /// Where a folder for the pool is made, and removed.
    #[arg(long, default_value = "/tmp")]
    folder: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum DemoFs {
    #[default]
    Ext4,
    Xfs,
}

/// Exits with 0 when each step held and nothing is left, 1 when not, 2 when it can't begin, 130 when somebody ended it.
pub(super) fn run(args: DemoArgs) -> ExitCode {
    let fail = |problem: &str| eprintln!("fairlead: {problem}");
    let demo = Demo {
        bytes: args.size,
        xfs: args.fs == DemoFs::Xfs,
        folder: args.folder,
    };
    let missing = demo.missing();
    if !missing.is_empty() {
        for problem in missing {
            fail(&problem);
        }
        return ExitCode::from(2);
    }
    let print_line = |line: &str| {
        if let Err(problem) = print(&format!("{line}\n")) {
            fail(&problem);
        }
    };
    match demo.run(print_line) {
        Ok(Ended::Held) => ExitCode::SUCCESS,
        Ok(Ended::Broken(problem)) => {
            fail(&problem);
            ExitCode::FAILURE
        }
        Ok(Ended::Interrupted) => {
            fail("ended before its end");
            ExitCode::from(130)
        }
        Err(problem) => {
            fail(&problem);
            ExitCode::from(2)
        }
    }
}
