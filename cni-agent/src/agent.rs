//! Composition root: builds each part, connects them, serves the socket, stops in order.

use crate::{
    cni::{CniError, caller::Caller, protocol::CniCall},
    config::{Config, NetworkConfig, PartName},
    csi::{self, CsiSlot},
    device::{self, DeviceSlot},
    health::{self, Probed},
    install::{self, InstallProblems},
    log_level::LogLevel,
    metrics::{self, Recorder, Snapshot},
    netlink::sysctl,
    network::part::{self, Named, NetworkSlot},
    parts::{Part, PartStates, Shutdown, supervise},
    query::{Query, Status},
    server::{self, Handler},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use std::{os::fd::OwnedFd, sync::Arc, time::Instant};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::AbortHandle,
};

/// Runs the agent until SIGTERM or SIGINT. What is in the kernel stays: traffic goes on.
///
/// # Errors
/// When the socket can't be had or signals can't be received.
pub async fn run(config: Config, log: LogLevel) -> Result<(), String> {
    raise_file_limit();
    sysctl::set_root(&config.proc_sys);
    let socket = config.socket.clone();
    let listener =
        server::listen(&socket).map_err(|e| format!("socket {}: {e}", socket.display()))?;
    let (stop, shutdown) = Shutdown::new();
    let has_network = config.parts.contains(&PartName::Network);
    let slot = if has_network {
        NetworkSlot::starting()
    } else {
        NetworkSlot::absent()
    };
    let volumes = match config.parts.contains(&PartName::Csi) {
        true => CsiSlot::starting(),
        false => CsiSlot::absent(),
    };
    let devices = match config.parts.contains(&PartName::Devices) {
        true => DeviceSlot::starting(),
        false => DeviceSlot::absent(),
    };
    let states = PartStates::default();
    let recorder = Recorder::default();
    let mut parts = Vec::new();
    if has_network {
        let (api, config, slot) = (config.api.clone(), config.network.clone(), slot.clone());
        let passes = recorder.passes();
        parts.push(Part {
            name: PartName::Network,
            start: Box::new(move |shutdown| {
                Box::pin(part::run(
                    config.clone(),
                    api.clone(),
                    slot.clone(),
                    passes.clone(),
                    shutdown,
                ))
            }),
        });
    }
    if config.parts.contains(&PartName::Csi) {
        let (csi, slot, counts) = (config.csi, volumes.clone(), recorder.volumes());
        parts.push(Part {
            name: PartName::Csi,
            start: Box::new(move |shutdown| {
                Box::pin(csi::run(
                    csi.clone(),
                    slot.clone(),
                    counts.clone(),
                    shutdown,
                ))
            }),
        });
    }
    if config.parts.contains(&PartName::Devices) {
        let (device, slot, counts) = (config.device, devices.clone(), recorder.devices());
        parts.push(Part {
            name: PartName::Devices,
            start: Box::new(move |shutdown| {
                Box::pin(device::run(
                    device.clone(),
                    slot.clone(),
                    counts.clone(),
                    shutdown,
                ))
            }),
        });
    }
    let installation = InstallProblems::default();
    let installing = config.install.map(|install| {
        let (slot, problems) = (slot.clone(), installation.clone());
        tokio::spawn(install::run(install, slot, problems, shutdown.clone()))
    });
    let (health_problem, health_told) = watch::channel(None);
    let running = tokio::spawn(supervise(parts, states.clone(), shutdown.clone()));
    let agent = Arc::new(Agent {
        config: config.network,
        slot,
        volumes,
        devices,
        has_network,
        installation,
        states,
        supervision: running.abort_handle(),
        started: Instant::now(),
        recorder,
        log,
        health_problem: health_told,
    });
    let serving = tokio::spawn(server::serve(listener, agent.clone(), shutdown.clone()));
    let watched = Arc::new(Watched {
        agent,
        named: Named {
            endpoints: config.metrics_per_endpoint,
            services: config.metrics_per_service,
        },
        volumes_named: config.metrics_per_volume,
        serving: serving.abort_handle(),
    });
    let mut tasks = vec![serving, running];
    if let Some(address) = config.health {
        let probed = health::serve(address, watched, health_problem, shutdown);
        tasks.push(tokio::spawn(probed));
    }

    let mut term = signal(SignalKind::terminate()).map_err(|e| format!("SIGTERM: {e}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| format!("SIGINT: {e}"))?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending; the pods' traffic goes on without the agent");
    stop.send_replace(true);
    for task in tasks.into_iter().chain(installing) {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task ended badly");
        }
    }
    Ok(())
}

/// Lets the agent open as many files as the machine grants: each call has a connection, a sandbox and
/// sockets of its own, and the usual soft limit of 1024 is for programs that use select(2).
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Problems that a status tells; a thousand broken manifests are told by the first of them too.
const MOST_PROBLEMS: usize = 100;

struct Agent {
    config: NetworkConfig,
    slot: NetworkSlot,
    volumes: CsiSlot,
    devices: DeviceSlot,
    has_network: bool,
    installation: InstallProblems,
    states: PartStates,
    /// Ends only with the agent.
    supervision: AbortHandle,
    started: Instant,
    recorder: Recorder,
    log: LogLevel,
    /// Why health and metrics are not served; none while they are.
    health_problem: watch::Receiver<Option<String>>,
}

impl Handler for Agent {
    async fn cni(
        self: Arc<Self>,
        call: CniCall,
        sandbox: Option<OwnedFd>,
        caller: Caller,
    ) -> Result<Value, CniError> {
        let (command, begin) = (call.command, Instant::now());
        let answer = part::cni(&self.slot, call, sandbox, caller).await;
        let code = answer.as_ref().err().map_or(0, |error| error.code);
        self.recorder.answered(command, code, begin.elapsed());
        answer
    }

    async fn query(self: Arc<Self>, query: Query) -> Result<Value, CniError> {
        let value = match query {
            Query::Status => serde_json::to_value(self.status().await),
            // Who gets an answer has shown that the socket is served.
            Query::Dead => serde_json::to_value(self.dead()),
            Query::Unready => serde_json::to_value(self.unready().await),
            Query::LogLevel { set } => serde_json::to_value(self.log.ask(set.as_deref())?),
            Query::Volumes | Query::Snapshots | Query::VolumeUsage | Query::VolumeCheck => {
                return csi::query(&self.volumes, query).await;
            }
            Query::Devices => return device::query(&self.devices, query).await,
            other => return part::query(&self.slot, other).await,
        };
        value.map_err(|e| CniError::internal(&e.to_string()))
    }
}

impl Agent {
    /// A part that failed is started again by its supervision, so it makes the node unready, not dead.
    fn dead(&self) -> Vec<String> {
        ended("the supervision of the parts", &self.supervision)
            .into_iter()
            .collect()
    }

    async fn unready(&self) -> Vec<String> {
        match self.has_network {
            true => part::unready(&self.slot).await,
            false => Vec::new(),
        }
    }

    /// Answers even while the network part is down: that is when people ask.
    async fn status(&self) -> Status {
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.config.node_name.clone(),
            ready: false,
            problems: Vec::new(),
            parts: self.states.snapshot().await,
            pod_cidrs: Vec::new(),
            pod_mtu: 0,
            uplinks: Vec::new(),
            endpoints: 0,
            nodes: 0,
            uptime_secs: self.started.elapsed().as_secs(),
            adoption: None,
            paths: Vec::new(),
        };
        part::complete_status(&self.slot, &mut status).await;
        status.problems.extend(self.installation.snapshot());
        status.problems.extend(self.health_problem.borrow().clone());
        let more = status.problems.len().saturating_sub(MOST_PROBLEMS);
        if more > 0 {
            status.problems.truncate(MOST_PROBLEMS);
            status
                .problems
                .push(format!("… and {more} more; the log has all"));
        }
        status
    }
}

/// The agent as probes and Prometheus see it.
struct Watched {
    agent: Arc<Agent>,
    named: Named,
    /// Volumes are told one by one.
    volumes_named: bool,
    /// The socket's server: it ends only with the agent.
    serving: AbortHandle,
}

/// That a task has ended which ends only with the agent.
fn ended(name: &str, task: &AbortHandle) -> Option<String> {
    task.is_finished()
        .then(|| format!("{name} has ended: restart the agent"))
}

impl Probed for Watched {
    fn dead(&self) -> Vec<String> {
        let mut dead = self.agent.dead();
        dead.extend(ended("the socket's server", &self.serving));
        dead
    }

    async fn unready(&self) -> Vec<String> {
        self.agent.unready().await
    }

    async fn metrics(&self) -> Result<String, String> {
        // Beside each other: a scrape has the time of the slowest only.
        let (network, parts, volumes, devices) = tokio::join!(
            part::snapshot(&self.agent.slot, self.named),
            self.agent.states.snapshot(),
            csi::snapshot(&self.agent.volumes, self.volumes_named),
            device::snapshot(&self.agent.devices),
        );
        let snapshot = Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            parts,
            volumes,
            devices,
            // What is counted here is told also while the maps can't be read.
            network: network.unwrap_or_else(|error| {
                tracing::warn!(%error, "a scrape goes without the network's metrics");
                None
            }),
        };
        metrics::encode(&self.agent.recorder, &snapshot).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_as_granted_can_be_open() {
        raise_file_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
