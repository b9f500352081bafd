//! The command line: `fairlead agent` runs the node, every other verb asks a running agent.

mod agent;
mod client;
mod device;
mod flows;
mod migrate;
mod policy;
mod policy_plan;
mod print;
mod rows;
mod service;
mod trace;
mod uninstall;
mod volume;
mod volume_demo;

use crate::{
    config::{AgentArgs, DEFAULT_SOCKET, Output},
    query::Query,
};
use clap::{CommandFactory, Parser, Subcommand};
use client::ask;
use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Network, storage and devices of a Kubernetes node in one agent.
///
/// Run the agent with `fairlead agent --node-name NAME`; ask it with the other commands.
#[derive(Parser)]
#[command(name = "fairlead", version, propagate_version = true)]
#[command(
    after_help = "Examples:\n  fairlead status\n  fairlead endpoint list -o wide\n  fairlead service explain kube-system/kube-dns\n  fairlead policy explain shop/client shop/web 8080\n  fairlead trace shop/client service/shop/web 80\n  fairlead drops -o json\n  fairlead volume list\n  fairlead device list\n  fairlead debug maps"
)]
struct Cli {
    /// Unix socket of the agent, where the CNI plugin and these commands meet it.
    #[arg(long, global = true, env = "FAIRLEAD_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the node agent until it is told to end; the pods' traffic goes on without it.
    Agent(Box<AgentArgs>),
    /// Whether this node can serve, and what is in the way; exits with 1 while it can't.
    Status(Print),
    /// For probes: exits with 0 if it is so, with 1 and the reasons if not, with 2 if no agent answers.
    Health {
        #[command(flatten)]
        asked: Asked,
    },
    /// The pods' interfaces on this node.
    #[command(subcommand, visible_alias = "ep")]
    Endpoint(EndpointVerb),
    /// The cluster's nodes and the way to each.
    #[command(subcommand)]
    Node(NodeVerb),
    /// Services: who answers their clients on this node, and why.
    #[command(subcommand, visible_alias = "svc")]
    Service(service::ServiceVerb),
    /// Policies: what is allowed, and which rule says so.
    #[command(subcommand, visible_alias = "pol")]
    Policy(policy::PolicyVerb),
    /// Volumes of this node: list, explain, measure and check them.
    #[command(subcommand, visible_alias = "vol")]
    Volume(volume::VolumeVerb),
    /// Devices of this node: which there are, who has them, why one can't be had.
    #[command(subcommand, visible_alias = "dev")]
    Device(device::DeviceVerb),
    /// Addresses in use, cooling down and free, by podCIDR.
    Ipam(Print),
    /// Dropped packets by interface, pod and reason.
    Drops(Print),
    /// Single packets as they are dropped, and connections as they begin, with names and policies.
    Flows(flows::FlowsArgs),
    /// Single packets on their way through this node's programs: each step, what policies said, the verdict.
    Trace(trace::TraceArgs),
    /// Show what the running agent logs, or change it until it ends: `fairlead log-level debug`.
    LogLevel {
        /// As `--log-level` of the agent: info, debug, `info,cni_agent=debug`.
        filter: Option<String>,
        #[command(flatten)]
        print: Print,
    },
    /// What another pod network left on this node: find it, explain it, remove it.
    #[command(subcommand)]
    Migrate(migrate::MigrateVerb),
    /// How to look beneath the agent.
    #[command(subcommand)]
    Debug(DebugVerb),
    /// Take Fairlead off this node: plugin, configuration, links, routes, programs, store.
    Uninstall(uninstall::UninstallArgs),
    /// Holds a volume's file system still for an agent that takes a snapshot; started by the agent.
    #[command(hide = true)]
    ThawGuard,
    /// Print a completion script: `fairlead completion bash > /etc/bash_completion.d/fairlead`.
    Completion { shell: clap_complete::Shell },
}

#[derive(Subcommand)]
enum EndpointVerb {
    /// Every endpoint.
    #[command(visible_alias = "ls")]
    List(Print),
    /// One endpoint, by number, address, pod (namespace/name), container id or interface.
    Get {
        endpoint: String,
        #[command(flatten)]
        print: Print,
    },
}

#[derive(Subcommand)]
enum NodeVerb {
    /// Every node that the agent knows.
    #[command(visible_alias = "ls")]
    List(Print),
}

#[derive(Subcommand)]
enum DebugVerb {
    /// Where maps and links are pinned, and the bpftool command that shows each.
    Maps(Print),
}

#[derive(clap::Args, Clone, Copy)]
#[group(required = true, multiple = false)]
struct Asked {
    /// The agent works; if not, only another start of it helps.
    #[arg(long)]
    live: bool,
    /// This node can give pods their network.
    #[arg(long)]
    ready: bool,
}

#[derive(clap::Args, Clone, Copy)]
struct Print {
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// A file's bytes; of `-` those of standard input.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    fs::read(path)
}

/// Runs the command line and says how the process ends: 0 good, 1 not ready or not found, 2 wrong
/// use or no agent.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.verb {
        Verb::Agent(args) => return agent::run(*args, cli.socket),
        Verb::Uninstall(args) => return uninstall::run(args, &cli.socket),
        Verb::ThawGuard => return crate::csi::guard(),
        Verb::Completion { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "fairlead",
                &mut std::io::stdout(),
            );
            return ExitCode::SUCCESS;
        }
        Verb::Flows(args) => {
            let done = flows::run(&args, &cli.socket);
            let text = String::new();
            done.map(|()| rows::Answer { text, code: 0 })
        }
        Verb::Trace(args) => {
            let done = trace::run(&args, &cli.socket);
            let text = String::new();
            done.map(|()| rows::Answer { text, code: 0 })
        }
        Verb::Status(p) => ask(&cli.socket, Query::Status).and_then(|s| rows::status(&s, p.output)),
        Verb::Health { asked } => {
            let query = match asked.live {
                true => Query::Dead,
                false => Query::Unready,
            };
            ask(&cli.socket, query).map(|reasons: Vec<String>| rows::health(&reasons))
        }
        Verb::Endpoint(EndpointVerb::List(p)) => ask(&cli.socket, Query::Endpoints)
            .and_then(|list: Vec<_>| rows::endpoints(&list, p.output)),
        Verb::Endpoint(EndpointVerb::Get { endpoint, print }) => ask(&cli.socket, Query::Endpoints)
            .and_then(|list: Vec<_>| rows::endpoint(&list, &endpoint, print.output)),
        Verb::Node(NodeVerb::List(p)) => {
            ask(&cli.socket, Query::Nodes).and_then(|list: Vec<_>| rows::nodes(&list, p.output))
        }
        Verb::Service(verb) => service::run(&verb, &cli.socket),
        Verb::Policy(verb) => policy::run(verb, &cli.socket),
        Verb::Volume(volume::VolumeVerb::Demo(args)) => return volume_demo::run(args),
        Verb::Volume(verb) => volume::run(verb, &cli.socket),
        Verb::Device(verb) => device::run(verb, &cli.socket),
        Verb::Ipam(p) => {
            ask(&cli.socket, Query::Ipam).and_then(|list: Vec<_>| rows::ipam(&list, p.output))
        }
        Verb::Drops(p) => {
            ask(&cli.socket, Query::Drops).and_then(|list: Vec<_>| rows::drops(&list, p.output))
        }
        Verb::Migrate(verb) => migrate::run(&verb),
        Verb::LogLevel { filter, print } => ask(&cli.socket, Query::LogLevel { set: filter })
            .and_then(|row| rows::log_level(&row, print.output)),
        Verb::Debug(DebugVerb::Maps(p)) => {
            ask(&cli.socket, Query::Maps).and_then(|list: Vec<_>| rows::pins(&list, p.output))
        }
    };
    let printed = outcome.and_then(|answer| {
        print::print(&answer.text)?;
        Ok(ExitCode::from(answer.code))
    });
    printed.unwrap_or_else(|error| {
        eprintln!("fairlead: {error}");
        ExitCode::from(2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_probe_says_what_it_asks() {
        for line in ["fairlead health", "fairlead health --live --ready"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        let line = "fairlead health --ready";
        assert!(Cli::try_parse_from(line.split(' ')).is_ok());
    }

    #[test]
    fn the_socket_may_stand_before_or_after_the_verb() {
        for line in [
            "fairlead --socket /s status",
            "fairlead status --socket /s",
            "fairlead agent --socket /s --node-name n1",
            "fairlead --socket /s agent --node-name n1",
        ] {
            let cli = Cli::parse_from(line.split(' '));
            assert_eq!(cli.socket, PathBuf::from("/s"), "{line}");
        }
    }
}
