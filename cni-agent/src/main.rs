//! `fairlead`: the agent and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni_agent::cli::main()
}
