//! `fairlead agent`: sets up logging and the runtime, and runs the parts until told to end.

use crate::{
    config::{AgentArgs, Config},
    memory,
};
use std::{path::PathBuf, process::ExitCode};
use tracing_subscriber::EnvFilter;

pub(super) fn run(args: AgentArgs, socket: PathBuf) -> ExitCode {
    memory::share_one_arena();
    let fail = |message: String| {
        eprintln!("fairlead: {message}");
        ExitCode::from(2)
    };
    let filter = match EnvFilter::try_new(&args.log_level) {
        Ok(filter) => filter,
        Err(e) => {
            return fail(format!(
                "--log-level: {e}; try info or info,cni_agent=debug"
            ));
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let config = match Config::new(args, socket) {
        Ok(config) => config,
        Err(e) => return fail(e.to_string()),
    };
    // Two threads serve a node: requests are few and blocking work has threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    match runtime {
        Err(e) => fail(format!("the runtime can't start: {e}")),
        Ok(runtime) => match runtime.block_on(crate::agent::run(config)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(e),
        },
    }
}
