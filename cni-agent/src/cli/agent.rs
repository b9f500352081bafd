//! `fairlead agent`: sets up logging and the runtime, and runs the parts until told to end.

use crate::{
    config::{AgentArgs, Config},
    log_level, memory,
};
use std::{path::PathBuf, process::ExitCode};

pub(super) fn run(args: AgentArgs, socket: PathBuf) -> ExitCode {
    memory::share_one_arena();
    let fail = |message: String| {
        eprintln!("fairlead: {message}");
        ExitCode::from(2)
    };
    let log = match log_level::start(&args.log_level, args.log_format) {
        Ok(log) => log,
        Err(e) => return fail(format!("--log-level: {e}")),
    };
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
        Ok(runtime) => match runtime.block_on(crate::agent::run(config, log)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(e),
        },
    }
}
