//! Latency of ADD and DEL against the reference plugins, and memory of shim and agent.

use super::stats::{Estimate, median, percentile, percentile_ratio};
use crate::lab::{
    Action, Agent, Call, Lab, LabOptions, NetNs, Node, Plugin, Session, Underlay, reference,
};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;
use std::{
    fs,
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Blocks in which the calls of one kind are made, the plugins in turns (A B B A).
const BLOCKS: usize = 4;

/// Durations of one kind of call, by Fairlead and by the reference, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) action: &'static str,
    pub(super) parallel: usize,
    pub(super) ours_ms: Vec<f64>,
    pub(super) reference_ms: Vec<f64>,
}

impl Latency {
    /// Median and 99th percentile of ours, then of the reference.
    pub(super) fn percentiles(&self) -> [f64; 4] {
        let p99 = |values: &[f64]| percentile(values, 99.0);
        [
            median(&self.ours_ms),
            p99(&self.ours_ms),
            median(&self.reference_ms),
            p99(&self.reference_ms),
        ]
    }

    /// The ratio of one percentile to the reference's.
    pub(super) fn ratio(&self, percent: f64) -> Estimate {
        percentile_ratio(&self.ours_ms, &self.reference_ms, percent)
    }
}

/// Memory in KiB.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Memory {
    /// Peak of a shim that waits for the agent's answer.
    pub(super) shim_kib: u64,
    /// The agent's resident memory with `pods` pods.
    pub(super) agent_kib: u64,
    pub(super) pods: usize,
}

/// Latencies and memory.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cni {
    pub(super) latencies: Vec<Latency>,
    pub(super) memory: Memory,
}

struct Contender {
    node: usize,
    plugin: Plugin,
}

/// Measures `count` ADDs and DELs, 1 and 8 at a time.
///
/// # Errors
/// When a call fails.
pub(super) fn measure(
    session: &Arc<Session>,
    binaries: &Path,
    plugins: &Path,
    count: usize,
) -> Result<Cni> {
    let options = LabOptions {
        name: "cni",
        nodes: 2,
        underlay: Underlay::Direct,
    };
    let lab = Lab::new(session, options)?;
    let agent = Agent::start(&lab, &lab.nodes[0], &binaries.join("fairlead"), &[])?;
    let config = lab.nodes[0].cni_config("1.1.0");
    let ours = Contender {
        node: 0,
        plugin: Plugin {
            path: binaries.to_owned(),
            config,
        },
    };
    let plugin = reference::bridge_plugin(&lab.nodes[1], plugins);
    let bridge = Contender { node: 1, plugin };

    // A runtime makes the sandbox before it calls; so does the bench.
    let sandboxes = |word: &str| -> Result<Vec<NetNs>> {
        (0..count)
            .map(|number| NetNs::new(session, &format!("cni-{word}{number}")))
            .collect()
    };
    let namespaces = [sandboxes("f")?, sandboxes("r")?];
    let mut latencies = Vec::new();
    let mut memory = None;
    for parallel in [1, 8] {
        for action in [Action::Add, Action::Del] {
            let mut times = [Vec::new(), Vec::new()];
            for block in 0..BLOCKS {
                let part = count * block / BLOCKS..count * (block + 1) / BLOCKS;
                let order = if block % 2 == 0 { [0, 1] } else { [1, 0] };
                for who in order {
                    let contender = [&ours, &bridge][who];
                    let node = &lab.nodes[contender.node];
                    let part = &namespaces[who][part.clone()];
                    times[who].extend(calls(node, &contender.plugin, action, part, parallel)?);
                }
            }
            if action == Action::Add && memory.is_none() {
                let shim_kib = shim_peak(&lab.nodes[0], &ours.plugin)?;
                let agent_kib = status_kib(agent.id(), "VmRSS:")?;
                memory = Some(Memory {
                    shim_kib,
                    agent_kib,
                    pods: count,
                });
            }
            let [ours_ms, reference_ms] = times;
            latencies.push(Latency {
                action: action.as_str(),
                parallel,
                ours_ms,
                reference_ms,
            });
        }
    }
    agent.stop()?;
    Ok(Cni {
        latencies,
        memory: memory.context("no ADD was made")?,
    })
}

/// Calls a plugin for each namespace, some at a time; answers the duration of each in
/// milliseconds, from before the exec to the parsed answer.
fn calls(
    node: &Node,
    plugin: &Plugin,
    action: Action,
    namespaces: &[NetNs],
    parallel: usize,
) -> Result<Vec<f64>> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<Vec<f64>> {
        node.ns.enter()?;
        let mut times = Vec::new();
        while let Some(ns) = namespaces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let call = Call {
                container_id: ns.name(),
                netns: ns.path(),
                ifname: "eth0",
                args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod".to_owned(),
            };
            let start = Instant::now();
            plugin.call(action, &call, None)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..parallel).map(|_| scope.spawn(worker)).collect();
        let mut times = Vec::new();
        for worker in workers {
            let done = worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            times.extend(done?);
        }
        Ok(times)
    })
}

/// Peak memory of a shim in the middle of its work: it asks a socket of the bench's own, which
/// looks at the process instead of answering. By then it has read, parsed, connected and sent.
fn shim_peak(node: &Node, plugin: &Plugin) -> Result<u64> {
    let socket = node.dir.join("bench.sock");
    let listener = UnixListener::bind(&socket)?;
    let mut config = plugin.config.clone();
    config["socket"] = json!(socket);
    let mut command = Command::new(plugin.path.join("fairlead-cni"));
    command
        .env_clear()
        .envs([("CNI_COMMAND", "STATUS"), ("CNI_PATH", "/opt/cni/bin")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut process = node.ns.spawn("a shim", &mut command)?;
    let stdin = process
        .child()
        .stdin
        .take()
        .context("no pipe to the shim")?;
    serde_json::to_writer(stdin, &config)?;
    let (connection, _) = listener.accept()?;
    // One read returns when the request is there.
    let mut request = [0; 4096];
    ensure!(
        std::io::Read::read(&mut &connection, &mut request)? > 8,
        "the shim sent nothing"
    );
    let peak = status_kib(process.id(), "VmHWM:")?;
    drop(connection);
    process.wait(Duration::from_secs(5))?;
    Ok(peak)
}

/// A line of `/proc/PID/status` in KiB.
fn status_kib(pid: u32, key: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse().ok())
        .with_context(|| format!("/proc/{pid}/status has no {key}"))
}
