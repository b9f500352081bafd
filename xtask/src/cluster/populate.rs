//! A large cluster, as far as the API server knows, and what it costs each agent: Nodes, Services and Pods
//! that nobody runs (cni-agent/examples/populate makes them), and a table of figures. Nothing here is a
//! limit.

use super::{
    place::{Cluster, until},
    plan::Member,
    processes,
};
use crate::{lab::run as program, table::Table, workspace};
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Addresses of the simulated Nodes; the real ones find them beyond their uplink.
const SIMULATED: &str = "172.28.0.0/16";
const LIMIT: Duration = Duration::from_secs(300);

/// Size of the cluster.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Nodes that are simulated.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    nodes: u32,
    /// Pods on them, 250 on each at most.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pods: u32,
    /// Services, each with an equal share of the Pods as endpoints.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    services: u32,
}

/// Makes the objects step by step and prints what each costs the agents.
///
/// # Errors
/// When the cluster isn't up, the API server refuses, or an agent doesn't come to hold all.
pub(super) fn run(cluster: &Cluster, args: &Args) -> Result<()> {
    let plan = cluster.plan()?;
    let nodes: Vec<Member> = plan.nodes().collect();
    let tool = tool()?;
    let populate = |what: &str| -> Result<String> {
        let mut command = cluster.inside(Member::ControlPlane, &tool);
        command
            .env("KUBECONFIG", cluster.dir().join("admin.json"))
            .arg(what)
            .args(["--nodes", &args.nodes.to_string()])
            .args(["--pods", &args.pods.to_string()])
            .args(["--services", &args.services.to_string()]);
        Ok(workspace::output(&mut command)?.trim().to_owned())
    };
    // Nobody renews the leases of simulated nodes: they and their pods would be given up within a minute.
    for manager in ["kube-controller-manager", "kube-scheduler"] {
        if let Ok(pid) = cluster.pid_of(manager) {
            kill_process(Pid::from_raw(pid).context("a pid")?, Signal::KILL)?;
        }
    }
    for node in &nodes {
        let netns = cluster.netns(*node);
        let words = ["-n", &netns, "route", "replace", SIMULATED, "dev", "eth0"];
        program("ip", &words)?;
    }
    let mut report = Report::new(cluster, nodes);
    report.row("before", None)?;

    let made = populate("nodes")?;
    let begin = Instant::now();
    until(LIMIT, "each agent has a route to each node", || {
        Ok(report.have_routes(args.nodes)?.then_some(()))
    })?;
    let behind = begin.elapsed().as_secs_f64();
    println!("{made}; routes complete {behind:.1} s after the last");
    report.row("with Nodes", None)?;

    println!("{}", populate("services")?);
    let wanted = args.services;
    let begin = Instant::now();
    until(LIMIT, "each agent has each Service", || {
        Ok(report.have_services(wanted)?.then_some(()))
    })?;
    let behind = begin.elapsed().as_secs_f64();
    println!("Services complete {behind:.1} s after the last");
    report.row("with Services", None)?;

    println!("{}", populate("pods")?);
    report.row("with Pods", None)?;

    let begin = Instant::now();
    report.restart()?;
    let took = begin.elapsed().as_secs_f64();
    println!("agents killed, ready again after {took:.1} s");
    report.row("after a restart", None)?;

    let before = report.cpu()?;
    let begin = Instant::now();
    let made = populate("churn")?;
    let seconds = begin.elapsed().as_secs_f64();
    println!("{made}");
    report.row("a tenth of the Pods replaced", Some((before, seconds)))?;
    print!("{}", report.table);
    println!(
        "\nThe control plane works no more on what changes: remove the cluster by `cluster down`."
    );
    Ok(())
}

/// Builds the program that makes the objects; it is no part of the agent.
fn tool() -> Result<PathBuf> {
    let words = ["build", "--locked", "--package", "cni-agent"];
    workspace::run(
        workspace::cargo()
            .args(words)
            .args(["--example", "populate"]),
    )?;
    Ok(workspace::target_dir().join("debug/examples/populate"))
}

struct Report<'a> {
    cluster: &'a Cluster,
    nodes: Vec<Member>,
    table: Table,
}

impl<'a> Report<'a> {
    fn new(cluster: &'a Cluster, nodes: Vec<Member>) -> Self {
        let header = [
            "when",
            "node",
            "RSS MiB",
            "peak MiB",
            "rows of nodes",
            "of endpoints",
            "CPU %",
        ];
        let table = Table::new(2, &header);
        Self {
            cluster,
            nodes,
            table,
        }
    }

    /// Adds what each agent has now; its peak counts from the row before.
    fn row(&mut self, when: &str, churn: Option<(Vec<f64>, f64)>) -> Result<()> {
        let cpu = self.cpu()?;
        for (index, node) in self.nodes.iter().enumerate() {
            let pid = self.agent(*node)?;
            let status = self.read(*node, &format!("/proc/{pid}/status"))?;
            let metrics = self.metrics(*node)?;
            let busy = churn
                .as_ref()
                .map_or_else(String::new, |(before, seconds)| {
                    format!("{:.1}", (cpu[index] - before[index]) / seconds * 100.0)
                });
            self.table.row([
                when.to_owned(),
                node.name(),
                mib(&status, "VmRSS:"),
                mib(&status, "VmHWM:"),
                entries(&metrics, "nodes").to_string(),
                entries(&metrics, "endpoints").to_string(),
                busy,
            ]);
            // The kernel's way to begin VmHWM anew.
            let forget = format!("echo 5 > /proc/{pid}/clear_refs");
            workspace::run(self.inside(*node, "sh")?.args(["-c", &forget]))?;
        }
        Ok(())
    }

    fn have_routes(&self, wanted: u32) -> Result<bool> {
        for node in &self.nodes {
            let netns = self.cluster.netns(*node);
            let words = ["-n", &netns, "-o", "route", "show", "proto", "157"];
            let routes = workspace::output(std::process::Command::new("ip").args(words))?;
            let remote = routes.lines().filter(|line| line.starts_with("10."));
            let in_map = entries(&self.metrics(*node)?, "nodes");
            if remote.count() < wanted as usize || in_map < u64::from(wanted) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn have_services(&self, wanted: u32) -> Result<bool> {
        for node in &self.nodes {
            if gauge(&self.metrics(*node)?, "fairlead_services ") < u64::from(wanted) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Kills the agents and waits until others are ready.
    fn restart(&self) -> Result<()> {
        for node in &self.nodes {
            let before = self.agent(*node)?;
            workspace::run(self.inside(*node, "kill")?.args(["-9", &before]))?;
            until(LIMIT, "another agent is ready", || {
                let Ok(after) = self.agent(*node) else {
                    return Ok(None);
                };
                let ready = self.inside(*node, "curl")?.args(READY).output()?;
                Ok((after != before && ready.status.success()).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Seconds of CPU of each agent since its start.
    fn cpu(&self) -> Result<Vec<f64>> {
        let of = |node: &Member| {
            let pid = self.agent(*node)?;
            let stat = self.read(*node, &format!("/proc/{pid}/stat"))?;
            let (_, rest) = stat.rsplit_once(')').context("no stat")?;
            let fields: Vec<_> = rest.split_whitespace().collect();
            let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok());
            let ticks = ticks(11).zip(ticks(12)).context("no times in stat")?;
            // The kernel counts for user space in hundredths, whatever its own tick.
            Ok((ticks.0 + ticks.1) / 100.0)
        };
        self.nodes.iter().map(of).collect()
    }

    fn agent(&self, node: Member) -> Result<String> {
        processes::pids(self.cluster, &node.name(), "fairlead")
    }

    fn metrics(&self, node: Member) -> Result<String> {
        workspace::output(self.inside(node, "curl")?.args(METRICS))
    }

    fn read(&self, node: Member, path: &str) -> Result<String> {
        workspace::output(self.inside(node, "cat")?.arg(path))
    }

    fn inside(&self, node: Member, program: &str) -> Result<std::process::Command> {
        self.cluster.in_node(&node.name(), program)
    }
}

const READY: [&str; 4] = ["-fsS", "-o", "/dev/null", "http://127.0.0.1:9470/readyz"];
const METRICS: [&str; 2] = ["-fsS", "http://127.0.0.1:9470/metrics"];

/// A size of `/proc/PID/status` in MiB.
fn mib(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map_or_else(|| "?".to_owned(), |kib| format!("{:.1}", kib / 1024.0))
}

/// Rows of a map, by the metrics.
fn entries(metrics: &str, map: &str) -> u64 {
    gauge(metrics, &format!("fairlead_map_entries{{map=\"{map}\"}} "))
}

/// A gauge by its name and labels; 0 where there is none.
fn gauge(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rows_are_read_as_kernel_and_agent_write_them() {
        let status = "VmHWM:\t   20480 kB\nVmRSS:\t   18944 kB\n";
        assert_eq!(mib(status, "VmRSS:"), "18.5");
        assert_eq!(mib(status, "VmSwap:"), "?");
        let metrics = "fairlead_map_entries{map=\"nodes\"} 5002\n";
        assert_eq!(entries(metrics, "nodes"), 5002);
        assert_eq!(entries(metrics, "drops"), 0);
    }
}
