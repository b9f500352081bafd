//! `fairlead-cni`, the CNI plugin: a pipe between a container runtime and the node agent.
//!
//! It checks the call (`call`, `conf`), opens the sandbox (`sandbox`), asks the agent (`agent`, in
//! the words of `protocol`), and prints the answer. VERSION is answered here; a DEL that the agent
//! can't be asked for is written down (`spool`) and done by the agent later. Invariant: whatever
//! happens, standard output holds one result, one error object or nothing, and the exit code is
//! zero only for success.

#![cfg_attr(not(test), no_main)]

mod agent;
mod call;
mod conf;
mod fault;
mod input;
mod json;
mod loopback;
mod protocol;
mod sandbox;
mod spool;
#[cfg(not(test))]
mod start;
mod version;

use agent::{Deadline, Failure};
use call::{Call, Command};
use conf::Conf;
use fault::{Fault, code};
use serde_json::value::RawValue;
use std::{
    io::{self, Write},
    time::Duration,
};

/// Longest wait for the runtime to write the configuration and close standard input.
const STDIN_PATIENCE: Duration = Duration::from_secs(30);
/// The same for VERSION, which can be answered without: people call it from a terminal.
const VERSION_PATIENCE: Duration = Duration::from_millis(200);

/// Does the call and returns whether it succeeded. Called once, by `start`, with the name that the program
/// was called by.
fn plugin(called: &[u8]) -> bool {
    let name = called.rsplit(|byte| *byte == b'/').next();
    let loopback = name == Some(loopback::NAME.as_bytes());
    if std::env::var_os("CNI_COMMAND").is_none_or(|command| command.is_empty()) {
        // As the reference plugins do: a person is looking, not a runtime.
        // The first words are what the agent knows a copy of ours by.
        say(&format!(
            "CNI plugin fairlead-cni v{}: hands a container runtime's calls to the fairlead agent; called \
             loopback, sets lo up\n\
             CNI protocol versions supported: {}",
            env!("CARGO_PKG_VERSION"),
            version::SUPPORTED.join(", ")
        ));
        return true;
    }
    let (output, success) = match run(loopback) {
        Ok(output) => (output, true),
        Err(fault) => (fault.to_json(), false),
    };
    match write(&output) {
        Ok(()) => success,
        Err(error) => {
            say(&format!(
                "fairlead-cni: the answer can't be written: {error}"
            ));
            false
        }
    }
}

/// The test harness puts its own in place; this one keeps the code in use.
#[cfg(test)]
fn main() {
    assert!(plugin(b"fairlead-cni"));
}

/// Writes to standard error. A reader that is gone is no reason to fail.
fn say(text: &str) {
    writeln!(io::stderr(), "{text}").unwrap_or_default();
}

fn write(output: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(output.as_bytes())?;
    stdout.flush()
}

/// Does one call and returns what belongs on standard output.
fn run(loopback: bool) -> Result<String, Fault> {
    let call = Call::from_env(|name| std::env::var_os(name))?;
    if call.command == Command::Version {
        let asked = input::read(VERSION_PATIENCE).unwrap_or_default();
        return Ok(version::answer(&asked));
    }
    let text = input::read(STDIN_PATIENCE)?;
    let conf = Conf::parse(&text)?;
    let serve = if loopback { loopback::serve } else { serve };
    serve(&call, &conf).map_err(|fault| fault.for_version(conf.version))
}

fn serve(call: &Call, conf: &Conf<'_>) -> Result<String, Fault> {
    version::allows(conf.version, call.command)?;
    let deadline = Deadline::after(conf.timeout);
    let sandbox = sandbox::open(call)?;
    match (
        agent::ask(call, conf, sandbox.as_ref(), deadline),
        call.command,
    ) {
        (Ok(result), Command::Add) => added(&result),
        (Ok(_), _) => Ok(String::new()),
        (Err(Failure::Refused(fault)), Command::Del) if fault.code == code::TRY_AGAIN => {
            spooled(call, conf, &Failure::Refused(fault))
        }
        (Err(Failure::Refused(fault)), _) => Err(fault),
        (Err(failure), Command::Del) => spooled(call, conf, &failure),
        (Err(failure), command) => Err(failure.into_fault(command, conf)),
    }
}

/// The agent's result, passed on as it is.
fn added(result: &RawValue) -> Result<String, Fault> {
    if result.get().starts_with('{') {
        Ok(format!("{}\n", result.get()))
    } else {
        Err(
            Fault::new(code::PROTOCOL, "the agent's answer to ADD holds no result")
                .with_details("agent and plugin are of different releases: install both from one"),
        )
    }
}

/// Writes the deletion down. The runtime gets success: the agent will do it, and a pod must not
/// stay around because its node's agent is being updated.
fn spooled(call: &Call, conf: &Conf<'_>, failure: &Failure) -> Result<String, Fault> {
    match spool::write(conf, &call.container_id, &call.ifname) {
        Ok(file) => {
            say(&format!(
                "fairlead-cni: {failure}; the deletion is kept in {file} for the agent"
            ));
            Ok(String::new())
        }
        Err(error) => Err(Fault::new(
            code::IO,
            format!(
                "{failure}, and the deletion can't be kept in {}: {error}",
                conf.spool
            ),
        )
        .with_details(
            "start the agent, or name the spool of its --state-dir by \"spool\" and make it writable for root alone; then repeat DEL",
        )),
    }
}
