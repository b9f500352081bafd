//! Latency of ADD and DEL against the reference plugins, and memory of shim and agent.

use super::stats::{Estimate, median, percentile, percentile_ratio};
use crate::lab::{
    Action, Agent, Call, Lab, LabOptions, NetNs, Node, Plugin, Session, Underlay, reference,
};
use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
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

/// Rounds, each with ADDs and DELs of all sandboxes by both plugins, in turns (A B, B A, …).
pub(super) const ROUNDS: usize = 10;
/// Links that a plugin removes after its answer are gone within this time.
const SETTLE: Duration = Duration::from_secs(60);

/// Durations of one kind of call, by Fairlead and by the reference, in milliseconds, by round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) action: &'static str,
    pub(super) parallel: usize,
    pub(super) ours_ms: Vec<Vec<f64>>,
    pub(super) reference_ms: Vec<Vec<f64>>,
}

impl Latency {
    /// Median and 99th percentile of ours, then of the reference.
    pub(super) fn percentiles(&self) -> [f64; 4] {
        let (ours, reference) = (self.ours_ms.concat(), self.reference_ms.concat());
        let p99 = |values: &[f64]| percentile(values, 99.0);
        [
            median(&ours),
            p99(&ours),
            median(&reference),
            p99(&reference),
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
    /// Peak of a shim that waits for the agent's answer to an ADD.
    pub(super) shim_kib: u64,
    /// The agent's resident memory with `pods` pods; the greatest of all rounds.
    pub(super) agent_kib: u64,
    pub(super) pods: usize,
}

/// Latencies and memory.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cni {
    pub(super) latencies: Vec<Latency>,
    pub(super) memory: Memory,
    /// The same DELs until the links are gone too, which ours removes after the answer.
    pub(super) until_gone: Vec<UntilGone>,
}

/// From the first DEL of a round until the last link is gone, divided by the pods; milliseconds, one a
/// round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct UntilGone {
    pub(super) parallel: usize,
    pub(super) ours_ms: Vec<f64>,
    pub(super) reference_ms: Vec<f64>,
}

struct Contender {
    node: usize,
    plugin: Plugin,
}

/// Measures ADDs and DELs of `count` sandboxes, 1 and 8 at a time, in some rounds.
///
/// # Errors
/// When a call fails.
pub(super) fn measure(
    session: &Arc<Session>,
    binaries: &Path,
    plugins: &Path,
    count: usize,
    rounds: usize,
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
    let kinds = [1, 8].map(|parallel| [Action::Add, Action::Del].map(|a| (parallel, a)));
    let mut latencies: Vec<_> = kinds
        .as_flattened()
        .iter()
        .map(|(parallel, action)| Latency {
            action: action.as_str(),
            parallel: *parallel,
            ours_ms: Vec::new(),
            reference_ms: Vec::new(),
        })
        .collect();
    let mut gone = [1, 8].map(|parallel| UntilGone {
        parallel,
        ours_ms: Vec::new(),
        reference_ms: Vec::new(),
    });
    let shim_kib = shim_peak(&lab.nodes[0], &ours.plugin, &namespaces[0][0])?;
    let mut agent_kib = 0;
    for round in 0..rounds {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for (kind, (parallel, action)) in kinds.as_flattened().iter().enumerate() {
            for who in order {
                let contender = [&ours, &bridge][who];
                let node = &lab.nodes[contender.node];
                let start = Instant::now();
                let times = calls(
                    node,
                    &contender.plugin,
                    *action,
                    &namespaces[who],
                    *parallel,
                )?;
                if *action == Action::Del {
                    until_gone(node)?;
                    let each = start.elapsed().as_secs_f64() * 1e3 / count as f64;
                    for one in gone.iter_mut().filter(|one| one.parallel == *parallel) {
                        [&mut one.ours_ms, &mut one.reference_ms][who].push(each);
                    }
                }
                let latency = &mut latencies[kind];
                [&mut latency.ours_ms, &mut latency.reference_ms][who].push(times);
            }
            if *action == Action::Add {
                agent_kib = agent_kib.max(status_kib(agent.id(), "VmRSS:")?);
            }
        }
    }
    agent.stop()?;
    Ok(Cni {
        latencies,
        memory: Memory {
            shim_kib,
            agent_kib,
            pods: count,
        },
        until_gone: gone.into(),
    })
}

/// Waits until the node has no pod's link any more: what one plugin still does must not cost the
/// other's time.
fn until_gone(node: &Node) -> Result<()> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let links = node
            .ns
            .run(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let is_pod = |line: &&str| {
            let name = line.trim_start();
            name.starts_with("fl") || name.starts_with("veth")
        };
        let left = links.lines().filter(is_pod).count();
        if left == 0 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{left} links of deleted pods are still there"
        );
        thread::sleep(Duration::from_millis(1));
    }
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
fn shim_peak(node: &Node, plugin: &Plugin, sandbox: &NetNs) -> Result<u64> {
    let socket = node.dir.join("bench.sock");
    let listener = UnixListener::bind(&socket)?;
    let mut config = plugin.config.clone();
    config["socket"] = json!(socket);
    let mut command = Command::new(plugin.path.join("fairlead-cni"));
    command
        .env_clear()
        .envs([("CNI_COMMAND", "ADD"), ("CNI_PATH", "/opt/cni/bin")])
        .envs([("CNI_CONTAINERID", sandbox.name()), ("CNI_IFNAME", "eth0")])
        .env("CNI_NETNS", sandbox.path())
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
    let patience = Duration::from_secs(5);
    let mut ready = [PollFd::new(&listener, PollFlags::IN)];
    ensure!(
        poll(&mut ready, Some(&patience.try_into()?))? > 0,
        "the shim never asked"
    );
    let (connection, _) = listener.accept()?;
    connection.set_read_timeout(Some(patience))?;
    // One read returns when the request is there.
    let mut request = [0; 4096];
    ensure!(
        std::io::Read::read(&mut &connection, &mut request)? > 8,
        "the shim sent nothing"
    );
    let peak = status_kib(process.id(), "VmHWM:")?;
    drop(connection);
    process.wait(patience)?;
    Ok(peak)
}

/// A line of `/proc/PID/status` in KiB.
///
/// # Errors
/// When the process has ended, or there is no such line.
pub(super) fn status_kib(pid: u32, key: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse().ok())
        .with_context(|| format!("/proc/{pid}/status has no {key}"))
}
