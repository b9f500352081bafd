//! The kernel as the network part sees it, on Linux: `netlink` and `datapath` joined.

mod announce;
mod endpoints;
mod flows;
mod names;
mod node;
mod policies;
mod policy_plan;
mod queries;
mod services;
mod trace;

use super::{
    desired::{Desired, Uplink},
    kernel::{HostLink, Kernel, KernelError, Unapplied},
    services::Served,
};
use crate::{
    config::{CgroupChoice, NetworkConfig, ServicesMode},
    datapath::{Datapath, DatapathConfig, DatapathError, XdpMode},
    model::Endpoint,
    netlink::{
        NetlinkError, foreign,
        link::{self, OwnLink},
        sock_diag,
        uplink::{self, Changes},
        way,
    },
    policy::{Plan, Start, Tables},
};
use endpoints::{in_maps, plan, recovered};
use flows::Flows;
use node::find_uplinks;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout},
};
use trace::Traces;

/// Links, routes, masquerade, programs and maps of this node.
pub struct Linux {
    datapath: Arc<Datapath>,
    xdp: XdpMode,
    cgroup: CgroupChoice,
    services: ServicesMode,
    direct_return: bool,
    /// What the maps hold of Services since they were written last.
    served: Mutex<Served>,
    /// Uplinks that have our programs, with the mode that XDP got.
    attached: Mutex<BTreeMap<String, (u32, XdpMode)>>,
    changes: tokio::sync::Mutex<Option<Changes>>,
    dying: Arc<Notify>,
    reaper: JoinHandle<()>,
    /// Flows that are over are to be forgotten.
    over: Arc<Notify>,
    sweeper: JoinHandle<()>,
    log_reader: Option<JoinHandle<()>>,
    /// What is told of single packets.
    flows: Flows,
    /// Packets that are followed.
    traces: Traces,
}

impl Drop for Linux {
    fn drop(&mut self) {
        self.reaper.abort();
        self.sweeper.abort();
        if let Some(reader) = &self.log_reader {
            reader.abort();
        }
        if let Err(error) = self.datapath.end_trace() {
            tracing::warn!(%error, "the programs of a trace go on until the next start");
        }
    }
}

fn fault(error: impl std::fmt::Display) -> KernelError {
    KernelError::Refused(error.to_string())
}

/// Of a step that enters the sandbox: what the runtime named wrongly is its fault.
fn sandbox_fault(error: NetlinkError) -> KernelError {
    match error {
        NetlinkError::NotNetns(_) | NetlinkError::HostNetns(_) => {
            KernelError::Sandbox(error.to_string())
        }
        _ => fault(error),
    }
}

impl Linux {
    /// Loads the programs, re-using what is pinned.
    ///
    /// # Errors
    /// Worded for people: what the kernel or the machine lacks.
    pub async fn open(config: &NetworkConfig) -> Result<Self, KernelError> {
        let log_level = config.ebpf_log_level.into();
        let load = DatapathConfig {
            bpf_dir: config.bpf_dir.clone(),
            log_level,
        };
        let datapath = blocking(move || Datapath::load(&load)).await?;
        datapath.cut_connections(config.cut_connections);
        let log_reader = (log_level != crate::datapath::LogLevel::Off)
            .then(|| {
                datapath
                    .log_reader()
                    .map(|reader| tokio::spawn(reader.run()))
            })
            .transpose()
            .map_err(fault)?;
        let flows = Flows::new(datapath.event_reader().map_err(fault)?);
        let dying = Arc::new(Notify::new());
        // What an agent before this one marked is deleted, too.
        dying.notify_one();
        let (datapath, over) = (Arc::new(datapath), Arc::new(Notify::new()));
        Ok(Self {
            sweeper: tokio::spawn(sweep_forever(
                datapath.clone(),
                over.clone(),
                config.services == ServicesMode::All,
            )),
            over,
            datapath,
            xdp: config.xdp,
            cgroup: config.cgroup.clone(),
            services: config.services,
            direct_return: config.direct_return,
            served: Mutex::default(),
            attached: Mutex::default(),
            changes: tokio::sync::Mutex::new(Some(uplink::changes().map_err(fault)?)),
            reaper: tokio::spawn(reap_forever(dying.clone())),
            dying,
            log_reader,
            flows,
            traces: Traces::default(),
        })
    }
}

impl Kernel for Linux {
    async fn wire(&self, endpoint: &Endpoint, sandbox: Arc<OwnedFd>) -> Result<(), KernelError> {
        let (datapath, enforced) = (self.datapath.clone(), endpoint.clone());
        let enforce = move |ifindex| enforce(&datapath, &enforced, ifindex);
        link::wire(&plan(endpoint), sandbox.as_fd(), enforce)
            .await
            .map(drop)
            .map_err(sandbox_fault)
    }

    async fn enforce(&self, endpoint: &Endpoint, ifindex: u32) -> Result<(), KernelError> {
        let (datapath, endpoint) = (self.datapath.clone(), endpoint.clone());
        blocking(move || enforce(&datapath, &endpoint, ifindex)).await
    }

    async fn lost(&self, endpoint: &Endpoint, ifindex: u32) -> Result<Option<String>, KernelError> {
        let (datapath, endpoint) = (self.datapath.clone(), endpoint.clone());
        blocking(move || datapath.intact(&endpoint, ifindex)).await
    }

    async fn fill(&self, living: Vec<(Endpoint, u32)>) {
        let datapath = self.datapath.clone();
        let work = move || {
            for (endpoint, ifindex) in living {
                if let Err(error) = datapath.upsert_endpoint(&endpoint, ifindex) {
                    tracing::debug!(attachment = %endpoint.attachment, %error, "not in the maps yet");
                }
            }
            Ok::<_, KernelError>(())
        };
        if let Err(error) = blocking(work).await {
            tracing::debug!(%error, "the maps are filled one by one");
        }
    }

    async fn remove(&self, endpoint: &Endpoint) -> Result<(), KernelError> {
        let (datapath, endpoint) = (self.datapath.clone(), endpoint.clone());
        let dying = self.dying.clone();
        // The rows first: without them no packet reaches the pod, and its programs refuse what it
        // sends. The programs last: a link without them would let everything pass.
        let work = move || {
            let rows = datapath.remove_endpoint(&endpoint);
            let own = OwnLink {
                host_ifname: endpoint.host_ifname.clone(),
                alias: link::alias(&endpoint.attachment),
            };
            link::mark_dying(&[own]).map_err(fault)?;
            dying.notify_one();
            rows.map_err(fault)?;
            (datapath.detach_endpoint(&endpoint.host_ifname)).map_err(fault)
        };
        blocking(work).await
    }

    async fn policy_start(&self) -> Result<Start, KernelError> {
        let datapath = self.datapath.clone();
        blocking(move || datapath.policy_start().map_err(fault)).await
    }

    async fn write_policies(
        &self,
        plan: Plan,
        after: Arc<Tables>,
        sweep: bool,
    ) -> Result<(), KernelError> {
        let datapath = self.datapath.clone();
        let write = move || datapath.write_policies(&plan, &after, sweep).map_err(fault);
        blocking(write).await
    }

    async fn clear_policies(&self, plan: Plan) -> Result<(), KernelError> {
        let datapath = self.datapath.clone();
        blocking(move || datapath.clear_policies(&plan).map_err(fault)).await
    }

    async fn ignore_policies(&self) -> Result<(), KernelError> {
        let datapath = self.datapath.clone();
        blocking(move || datapath.ignore_policies().map_err(fault)).await
    }

    async fn links(&self) -> Result<Vec<HostLink>, KernelError> {
        let links = link::list_host_links().await.map_err(fault)?;
        let living = links.into_iter().filter(|link| !link.dying);
        Ok(living
            .map(|l| HostLink {
                name: l.name,
                ifindex: l.ifindex,
                alias: l.alias,
                up: l.up,
            })
            .collect())
    }

    async fn recover(&self, links: &[HostLink]) -> Result<Vec<Endpoint>, KernelError> {
        let datapath = self.datapath.clone();
        let rows = blocking(move || datapath.addresses()).await?;
        let found = link::list_host_links().await.map_err(fault)?;
        let found = found
            .iter()
            .filter(|found| links.iter().any(|link| link.name == found.name));
        let endpoints = found.filter_map(|link| recovered(link, &rows));
        Ok(endpoints.collect())
    }

    async fn sweep(&self, living: &[Endpoint], spared: &[String]) -> Result<usize, KernelError> {
        let lives = |name: &str| {
            living.iter().any(|e| e.host_ifname == name) || spared.iter().any(|n| n == name)
        };
        let orphans: Vec<OwnLink> = self
            .links()
            .await?
            .into_iter()
            .filter(|link| !lives(&link.name))
            .map(|link| OwnLink {
                host_ifname: link.name,
                alias: link.alias,
            })
            .collect();
        let swept = blocking(move || link::mark_dying(&orphans)).await?;
        let (datapath, living) = (self.datapath.clone(), living.to_vec());
        let spared = spared.to_vec();
        blocking(move || {
            let names = living.iter().map(|e| e.host_ifname.as_str());
            let names: Vec<&str> = names.chain(spared.iter().map(String::as_str)).collect();
            datapath.retain_endpoint_rows(&living.iter().map(|e| e.id).collect())?;
            datapath.retain_endpoints(&names).map(|_| ())
        })
        .await?;
        self.dying.notify_one();
        Ok(swept)
    }

    async fn differences(
        &self,
        endpoint: &Endpoint,
        sandbox: Option<Arc<OwnedFd>>,
    ) -> Result<Vec<String>, KernelError> {
        let mut differences = Vec::new();
        if let Some(sandbox) = sandbox {
            let found = link::inspect(&plan(endpoint), sandbox.as_fd())
                .await
                .map_err(sandbox_fault)?;
            differences.extend(found.iter().map(ToString::to_string));
        }
        let links = self.links().await?;
        let Some(link) = links.iter().find(|link| link.name == endpoint.host_ifname) else {
            differences.push(format!(
                "link {} on the node: expected, not found",
                endpoint.host_ifname
            ));
            return Ok(differences);
        };
        let (datapath, endpoint, ifindex) = (self.datapath.clone(), endpoint.clone(), link.ifindex);
        let in_maps = blocking(move || in_maps(&datapath, &endpoint, ifindex)).await?;
        differences.extend(in_maps);
        Ok(differences)
    }

    async fn uplinks(
        &self,
        addresses: &[IpAddr],
        named: Option<&str>,
    ) -> Result<Vec<Uplink>, KernelError> {
        find_uplinks(addresses, named).await
    }

    async fn neighbours(
        &self,
        addresses: Vec<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
        way::on_link(addresses).await.map_err(fault)
    }

    async fn apply(&self, desired: &Desired) -> Unapplied {
        self.apply_desired(desired).await
    }

    async fn mend(&self, endpoints: &[Endpoint]) -> Vec<KernelError> {
        match link::mend(endpoints.iter().map(plan).collect()).await {
            Ok(0) => Vec::new(),
            Ok(count) => {
                tracing::info!(
                    count,
                    "routes and neighbours of pods had been removed and are back"
                );
                Vec::new()
            }
            Err(error) => vec![fault(error)],
        }
    }

    fn services_written(&self) -> Option<std::time::Instant> {
        self.served().at
    }

    async fn chains(&self) -> Result<Vec<(String, String)>, KernelError> {
        let chains = blocking(foreign::chains).await?.into_iter();
        Ok(chains.map(|chain| (chain.table, chain.name)).collect())
    }

    async fn tidy(&self) {
        self.over.notify_one();
        let datapath = self.datapath.clone();
        let work = move || datapath.tidy_connections().map_err(fault);
        if let Err(error) = blocking(work).await {
            tracing::debug!(%error, "connections of former endpoints stay for now");
        }
    }

    async fn changed(&self) {
        let mut changes = self.changes.lock().await;
        loop {
            if let Some(subscription) = changes.as_mut() {
                match subscription.next().await {
                    Ok(_) => return,
                    Err(error) => tracing::warn!(%error, "news of links are subscribed to anew"),
                }
            }
            match uplink::changes() {
                Ok(subscription) => {
                    *changes = Some(subscription);
                    // Something may have been missed.
                    return;
                }
                Err(error) => {
                    *changes = None;
                    tracing::warn!(%error, "no news of links for now");
                    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
                }
            }
        }
    }
}

/// Rows first: at a restart the new programs find them at once.
fn enforce(datapath: &Datapath, endpoint: &Endpoint, ifindex: u32) -> Result<(), DatapathError> {
    datapath.upsert_endpoint(endpoint, ifindex)?;
    datapath.attach_endpoint(&endpoint.host_ifname, ifindex)
}

/// System calls that wait for locks of the kernel, off the async threads.
async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, KernelError>
where
    T: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(fault),
        Err(panic) => Err(fault(panic)),
    }
}

/// Once no DEL has come for this long, marked links are deleted: the kernel changes links one after the
/// other, so a DEL that comes meanwhile would wait.
const QUIET: Duration = Duration::from_millis(50);
/// The longest that a marked link waits while DELs keep coming.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after a link that the kernel did not delete.
const RETRY: Duration = Duration::from_secs(30);

/// Deletes marked links.
async fn reap_forever(dying: Arc<Notify>) {
    loop {
        dying.notified().await;
        let until = Instant::now() + PATIENCE;
        while timeout(QUIET, dying.notified()).await.is_ok() && Instant::now() < until {}
        if let Err(error) = link::reap().await {
            tracing::warn!(%error, "marked links that stay are tried again");
            tokio::time::sleep(RETRY).await;
            dying.notify_one();
        }
    }
}

/// Ends the node's connected UDP sockets whose backend is none any more.
async fn end_lost_sockets(datapath: &Arc<Datapath>) -> Result<(), KernelError> {
    let connected = sock_diag::connected_udp().await.map_err(fault)?;
    let datapath = datapath.clone();
    let lost = blocking(move || {
        let is_lost =
            |socket: &sock_diag::Connected| datapath.is_lost(socket.cookie(), socket.peer());
        let mut lost = Vec::new();
        for socket in connected {
            if is_lost(&socket)? {
                lost.push(socket);
            }
        }
        Ok::<_, DatapathError>(lost)
    });
    let lost = lost.await?;
    if lost.is_empty() {
        return Ok(());
    }
    tracing::debug!(sockets = lost.len(), "their backends are gone");
    sock_diag::end(lost).await.map_err(fault)
}

/// Forgets flows that are over, once at a time: what is asked for meanwhile is one more time.
async fn sweep_forever(datapath: Arc<Datapath>, over: Arc<Notify>, has_host_sockets: bool) {
    loop {
        over.notified().await;
        if has_host_sockets && let Err(error) = end_lost_sockets(&datapath).await {
            tracing::warn!(%error, "the node's UDP sockets to backends that are gone are ended later");
        }
        let datapath = datapath.clone();
        match blocking(move || datapath.sweep_flows()).await {
            Ok(rows) => tracing::debug!(rows, "forgot flows that are over"),
            Err(error) => tracing::warn!(%error, "flows that are over are forgotten later"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::CniError;

    #[test]
    fn a_sandbox_that_is_none_is_the_callers_fault() {
        let code = |error| CniError::from(&sandbox_fault(error)).code;
        assert_eq!(code(NetlinkError::HostNetns("net:[1]".to_owned())), 4);
        assert_eq!(code(NetlinkError::NotNetns("a file".to_owned())), 4);
        let ifname = "eth0".to_owned();
        assert_eq!(code(NetlinkError::Exists { ifname }), 101);
    }
}
