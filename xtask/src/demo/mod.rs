//! `cargo xtask demo`: the product at work on one machine, from nothing to a table of who talks
//! to whom.

mod compare;
mod matrix;
mod show;

use crate::{
    build,
    lab::{self, Agent, Lab, LabOptions, Plugin, Pod, Session, Underlay, probe::Server},
    setup::{self, Group},
    table::Table,
    workspace,
};
use anyhow::{Context, Result, bail, ensure};
use matrix::Matrix;
use std::{path::Path, sync::Arc, time::Instant};

/// Pods of a demo at most: all pairs are probed.
const MOST_PODS: usize = 64;

/// Nodes as network namespaces, an agent in each, pods by real CNI calls, all pairs talking.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// Pods on each node.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=32))]
    pods: u8,
    /// Leave everything running until Ctrl-C, and say how to explore it.
    #[arg(long)]
    keep: bool,
    /// Seconds for the comparison with kernel routing; 0 leaves it out.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=600))]
    seconds: u32,
    /// Only remove what a killed demo, test or bench left behind.
    #[arg(long)]
    down: bool,
}

/// Prints what happens, with the time since the start.
struct Progress(Instant);

impl Progress {
    fn say(&self, what: &str) {
        println!("[{:6.1} s] {what}", self.0.elapsed().as_secs_f64());
    }
}

/// Runs the demo.
///
/// # Errors
/// When something is missing or fails, or one pair does not talk.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.down {
        let swept = lab::sweep()?;
        for name in &swept.removed {
            println!("removed {name}");
        }
        for error in &swept.errors {
            println!("FAILED {error:#}");
        }
        let (removed, failed) = (swept.removed.len(), swept.errors.len());
        ensure!(failed == 0, "{failed} things could not be removed");
        println!("removed what {removed} killed runs left");
        return Ok(());
    }
    let total = usize::from(args.nodes) * usize::from(args.pods);
    ensure!(
        total <= MOST_PODS,
        "{total} pods in all; the demo takes at most {MOST_PODS}"
    );
    let progress = Progress(Instant::now());
    progress.say("looking at rights, kernel and commands");
    setup::ensure(Group::Lab)?;
    let missing = lab::missing();
    if !missing.is_empty() {
        let list: Vec<_> = missing.iter().map(|one| format!("  - {one}")).collect();
        bail!("this machine cannot run the demo yet:\n{}", list.join("\n"));
    }
    progress.say("building (the first time takes some minutes)");
    build::ensure_built()?;
    let binaries = workspace::binaries();
    let session = Session::start()?;
    demo(args, &progress, &session, &binaries)
}

fn demo(args: &Args, progress: &Progress, session: &Arc<Session>, binaries: &Path) -> Result<()> {
    progress.say(&format!("making {} nodes on an underlay", args.nodes));
    let options = LabOptions {
        name: "demo",
        nodes: args.nodes,
        underlay: Underlay::Bridge,
    };
    let lab = Lab::new(session, options)?;
    progress.say("starting an agent on each node");
    let fairlead = binaries.join("fairlead");
    let agents = start_agents(&lab, &fairlead)?;
    progress.say(&format!(
        "adding {} pods on each node by fairlead-cni ADD",
        args.pods
    ));
    let pods = add_pods(&lab, binaries, args.pods)?;
    let _servers = pods
        .iter()
        .map(|pod| Server::start(&pod.ns))
        .collect::<Result<Vec<_>>>()?;

    progress.say("probing all pairs: ICMP, TCP and UDP, IPv4 and IPv6");
    let matrix = Matrix::run(&lab, &pods)?;
    let mut failures = matrix.failures();
    let failed_checks = failures.len();
    // What fails from here on is told below the tables, which are worth seeing all the same.
    let mut attempt = |what: &str, result: Result<String>| match result {
        Ok(text) => text,
        Err(error) => {
            failures.push(format!("{what}: {error:#}"));
            "  failed, see below\n".to_owned()
        }
    };
    let mut sections = Vec::new();
    let per_node = usize::from(args.pods);
    if args.seconds > 0 && failed_checks == 0 && pods.len() > 1 {
        progress.say("measuring next to plain kernel routing, in turns");
        let compared = compare::compare(session, &lab, &pods, per_node, args.seconds);
        let text = attempt("comparison", compared.map(|table| table.to_string()));
        sections.push((
            "Beside plain kernel routing (cargo xtask bench measures properly)",
            text,
        ));
    }
    progress.say("reading the maps, forging a packet");
    sections.push((
        "The maps of n1",
        attempt("maps", show::maps(&lab, &lab.nodes[0])),
    ));
    if let [from, .., to] = pods.as_slice() {
        let title = "n1p1 forged its source address: nothing got out, and the reason is counted";
        let drops = show::spoof(&lab.nodes[0], &agents[0], from, to);
        sections.push((title, attempt("forged packet", drops)));
    }
    if args.keep {
        sections.push(("Explore", show::exploring(&lab, &pods, &fairlead)?));
    }
    sections.push(("Where to look next", show::next_steps(session, args.keep)));

    section(
        "Pods, and what CNI ADD answered",
        &pod_table(&lab, &pods, args.pods),
    );
    let checks = matrix.checks();
    section(
        "Who talks to whom (ok: ICMP, TCP and UDP, each by IPv4 and IPv6)",
        &matrix.table(),
    );
    println!("  {} of {checks} checks passed", checks - failed_checks);
    for (title, body) in &sections {
        section(title, body);
    }
    if args.keep {
        tell(&failures);
        session.keep_until_signal(i32::from(!failures.is_empty()));
    }
    progress.say("deleting the pods by CNI DEL, and everything else");
    if let Err(error) = delete_pods(&lab, binaries, pods, per_node) {
        failures.push(format!("CNI DEL: {error:#}"));
    }
    tell(&failures);
    ensure!(
        failures.is_empty(),
        "the demo found {} failures, listed above",
        failures.len()
    );
    Ok(())
}

fn tell(failures: &[String]) {
    for failure in failures {
        println!("  FAILED {failure}");
    }
}

fn section(title: &str, body: &impl std::fmt::Display) {
    println!("\n{title}\n\n{body}");
}

/// Starts all agents, then waits for each: they come up side by side.
fn start_agents(lab: &Lab, fairlead: &Path) -> Result<Vec<Agent>> {
    let mut agents = lab
        .nodes
        .iter()
        .map(|node| Agent::spawn(lab, node, fairlead, &[]))
        .collect::<Result<Vec<_>>>()?;
    for (agent, node) in agents.iter_mut().zip(&lab.nodes) {
        agent
            .wait_ready()
            .with_context(|| format!("the agent of {}", node.name))?;
    }
    Ok(agents)
}

/// Pods in the order of the nodes.
fn add_pods(lab: &Lab, binaries: &Path, per_node: u8) -> Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for node in &lab.nodes {
        let plugin = Plugin {
            path: binaries.to_owned(),
            config: node.cni_config("1.1.0"),
        };
        for number in 1..=per_node {
            pods.push(Pod::add(node, &plugin, &format!("{}p{number}", node.name))?);
        }
    }
    Ok(pods)
}

/// DEL of every pod, as a runtime does it before it removes the sandbox.
fn delete_pods(lab: &Lab, binaries: &Path, pods: Vec<Pod>, per_node: usize) -> Result<()> {
    for (index, pod) in pods.into_iter().enumerate() {
        let node = &lab.nodes[index / per_node];
        let plugin = Plugin {
            path: binaries.to_owned(),
            config: node.cni_config("1.1.0"),
        };
        pod.delete(node, &plugin)?;
    }
    Ok(())
}

fn pod_table(lab: &Lab, pods: &[Pod], per_node: u8) -> Table {
    let mut table = Table::new(5, &["pod", "node", "IPv4", "IPv6", "network namespace"]);
    let nodes = lab
        .nodes
        .iter()
        .flat_map(|node| (0..per_node).map(move |_| node));
    for (pod, node) in pods.iter().zip(nodes) {
        table.row([
            pod.name.clone(),
            node.name.clone(),
            pod.v4.to_string(),
            pod.v6.to_string(),
            pod.ns.name().to_owned(),
        ]);
    }
    table
}
