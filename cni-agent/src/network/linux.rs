//! The kernel as the network part sees it, on Linux: `netlink` and `datapath` joined.

use super::{
    desired::{Desired, Uplink},
    kernel::{HostLink, Kernel, KernelError, NewLink, Unapplied},
};
use crate::{
    config::NetworkConfig,
    datapath::{
        AddressRow, Datapath, DatapathConfig, DropRow as CountedDrop, NodeRoute as MapRoute, Via,
        XdpMode, endpoint_rows,
    },
    model::{Addresses, AttachmentId, Endpoint, Mac},
    netlink::{
        NetlinkError,
        link::{self, LinkIds, LinkPlan, OwnLink},
        masquerade, route, sysctl,
        uplink::{self, Changes},
        way,
    },
    query::{DropRow, PathRow, PinRow},
};
use ipnetwork::IpNetwork;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{sync::Notify, task::JoinHandle};

/// Links, routes, masquerade, programs and maps of this node.
pub struct Linux {
    datapath: Arc<Datapath>,
    xdp: XdpMode,
    /// Uplinks that have our programs, with the mode that XDP got.
    attached: Mutex<BTreeMap<String, (u32, XdpMode)>>,
    changes: tokio::sync::Mutex<Option<Changes>>,
    dying: Arc<Notify>,
    reaper: JoinHandle<()>,
    log_reader: Option<JoinHandle<()>>,
}

impl Drop for Linux {
    fn drop(&mut self) {
        self.reaper.abort();
        if let Some(reader) = &self.log_reader {
            reader.abort();
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
        let log_reader = (log_level != crate::datapath::LogLevel::Off)
            .then(|| {
                datapath
                    .log_reader()
                    .map(|reader| tokio::spawn(reader.run()))
            })
            .transpose()
            .map_err(fault)?;
        let dying = Arc::new(Notify::new());
        // What a killed agent marked is deleted first.
        dying.notify_one();
        Ok(Self {
            datapath: Arc::new(datapath),
            xdp: config.xdp,
            attached: Mutex::default(),
            changes: tokio::sync::Mutex::new(Some(uplink::changes().map_err(fault)?)),
            reaper: tokio::spawn(reap_forever(dying.clone())),
            dying,
            log_reader,
        })
    }

    /// The mode that XDP has on an uplink.
    pub fn xdp_on(&self, uplink: &str) -> String {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        match attached.get(uplink) {
            Some((_, XdpMode::Native)) => "native",
            Some((_, XdpMode::Generic)) => "generic",
            _ => "off",
        }
        .to_owned()
    }

    /// Drops by interface and reason, named by the endpoints they belong to.
    ///
    /// # Errors
    /// When a map can't be read.
    pub async fn drop_rows(&self, endpoints: &[Endpoint]) -> Result<Vec<DropRow>, KernelError> {
        let datapath = self.datapath.clone();
        let (drops, rows) = blocking(move || {
            Ok::<_, crate::datapath::DatapathError>((datapath.drops()?, datapath.endpoints()?))
        })
        .await?;
        let by_id: BTreeMap<u32, &Endpoint> = endpoints.iter().map(|e| (e.id, e)).collect();
        let by_ifindex: BTreeMap<u32, &Endpoint> = rows
            .iter()
            .filter_map(|(ifindex, row)| Some((*ifindex, *by_id.get(&row.id)?)))
            .collect();
        let uplinks: BTreeMap<u32, String> = {
            let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
            attached
                .iter()
                .map(|(name, (ifindex, _))| (*ifindex, name.clone()))
                .collect()
        };
        Ok(drops
            .iter()
            .map(|drop| named(drop, &by_ifindex, &uplinks))
            .collect())
    }

    /// Packets by the way they took.
    ///
    /// # Errors
    /// When the map can't be read.
    pub async fn path_rows(&self) -> Result<Vec<PathRow>, KernelError> {
        let datapath = self.datapath.clone();
        let paths = blocking(move || datapath.paths()).await?;
        let row =
            |(path, counter): &(crate::datapath::PacketPath, crate::datapath::Counter)| PathRow {
                path: path.name().to_owned(),
                packets: counter.packets,
                bytes: counter.bytes,
            };
        Ok(paths.iter().map(row).collect())
    }

    /// Pinned maps and links with the bpftool command for each.
    ///
    /// # Errors
    /// When a pin can't be read.
    pub async fn pin_rows(&self) -> Result<Vec<PinRow>, KernelError> {
        let datapath = self.datapath.clone();
        let attachments = blocking(move || datapath.attachments()).await?;
        let maps = self.datapath.pinned().into_iter().map(|map| {
            let path = map.path.display().to_string();
            PinRow {
                name: map.name.to_owned(),
                kind: "map".to_owned(),
                command: format!("bpftool map dump pinned {path}"),
                path,
            }
        });
        let links = attachments.into_iter().map(|attachment| PinRow {
            name: format!("{}.{}", attachment.ifname, attachment.program),
            kind: "link".to_owned(),
            command: format!("bpftool prog show id {}", attachment.program_id),
            path: attachment.pin.display().to_string(),
        });
        Ok(maps.chain(links).collect())
    }

    /// Programs on the uplinks that are desired, and on no other.
    async fn attach_uplinks(&self, uplinks: &[Uplink]) -> Vec<KernelError> {
        let (datapath, xdp, wanted) = (self.datapath.clone(), self.xdp, uplinks.to_vec());
        let work = move || {
            let mut done = Vec::new();
            let mut failures = Vec::new();
            let names: Vec<&str> = wanted.iter().map(|uplink| uplink.name.as_str()).collect();
            if let Err(error) = datapath.retain_uplinks(&names) {
                failures.push(fault(error));
            }
            for uplink in wanted {
                match datapath.attach_uplink(&uplink.name, uplink.ifindex, xdp) {
                    Ok(mode) => done.push((uplink.name, (uplink.ifindex, mode))),
                    Err(error) => failures.push(fault(error)),
                }
            }
            Ok::<_, KernelError>((done, failures))
        };
        match blocking(work).await {
            Ok((done, failures)) => {
                let attached = done.into_iter().collect();
                *self.attached.lock().unwrap_or_else(PoisonError::into_inner) = attached;
                failures
            }
            Err(error) => vec![error],
        }
    }

    /// podCIDRs that the map has no room for.
    async fn sync_nodes(&self, desired: &Desired) -> Result<Vec<IpNetwork>, KernelError> {
        let local = desired.local.iter().map(|cidr| MapRoute {
            cidr: *cidr,
            via: Via::Local,
        });
        let remote = desired.remote.iter().map(|r| MapRoute {
            cidr: r.cidr,
            via: Via::Node {
                next_hop: r.next_hop,
                ifindex: r.ifindex,
                mtu: r.mtu,
            },
        });
        let routes: Vec<_> = local.chain(remote).collect();
        let datapath = self.datapath.clone();
        let change = blocking(move || datapath.sync_nodes(&routes)).await?;
        Ok(change.refused)
    }
}

impl Kernel for Linux {
    async fn create(
        &self,
        endpoint: &Endpoint,
        sandbox: Arc<OwnedFd>,
    ) -> Result<NewLink, KernelError> {
        let ids = link::create_endpoint(&plan(endpoint), sandbox.as_fd())
            .await
            .map_err(sandbox_fault)?;
        Ok(NewLink {
            host_ifindex: ids.host_ifindex,
            pod_ifindex: ids.pod_ifindex,
        })
    }

    async fn enforce(&self, endpoint: &Endpoint, ifindex: u32) -> Result<(), KernelError> {
        let (datapath, endpoint) = (self.datapath.clone(), endpoint.clone());
        blocking(move || {
            // Rows first: at a restart the new programs find them at once.
            datapath.upsert_endpoint(&endpoint, ifindex)?;
            datapath.attach_endpoint(&endpoint.host_ifname, ifindex)
        })
        .await
    }

    async fn bring_up(
        &self,
        endpoint: &Endpoint,
        link: NewLink,
        sandbox: Arc<OwnedFd>,
    ) -> Result<(), KernelError> {
        let ids = LinkIds {
            host_ifindex: link.host_ifindex,
            pod_ifindex: link.pod_ifindex,
        };
        link::bring_up(&plan(endpoint), ids, sandbox.as_fd())
            .await
            .map_err(fault)
    }

    async fn remove(&self, endpoint: &Endpoint) -> Result<(), KernelError> {
        // The rows first: without them no packet reaches the pod, and its programs refuse what it
        // sends. The programs last: a link without them would let everything pass.
        let (datapath, gone) = (self.datapath.clone(), endpoint.clone());
        let rows = blocking(move || datapath.remove_endpoint(&gone)).await;
        let own = OwnLink {
            host_ifname: endpoint.host_ifname.clone(),
            alias: link::alias(&endpoint.attachment),
        };
        link::mark_dying(&[own]).await.map_err(fault)?;
        rows?;
        let (datapath, ifname) = (self.datapath.clone(), endpoint.host_ifname.clone());
        blocking(move || datapath.detach_endpoint(&ifname)).await?;
        self.dying.notify_one();
        Ok(())
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
        let swept = link::mark_dying(&orphans).await.map_err(fault)?;
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
        let found = match named {
            Some(name) => vec![uplink::find_uplink_named(name).await.map_err(fault)?],
            None => match uplink::find_uplinks(addresses).await {
                Err(NetlinkError::NoUplink { .. }) => Vec::new(),
                found => found.map_err(fault)?,
            },
        };
        let own = |all: &[ipnetwork::IpNetwork]| {
            addresses
                .iter()
                .filter(|a| all.iter().any(|p| p.ip() == **a))
                .copied()
                .collect()
        };
        let uplinks = found.into_iter().map(|found| Uplink {
            addresses: own(&found.addresses),
            name: found.name,
            ifindex: found.ifindex,
            mtu: found.mtu,
        });
        Ok(uplinks.collect())
    }

    async fn neighbours(
        &self,
        addresses: Vec<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
        way::on_link(addresses).await.map_err(fault)
    }

    async fn apply(&self, desired: &Desired) -> Unapplied {
        let mut unapplied = Unapplied::default();
        let names: Vec<String> = desired.uplinks.iter().map(|u| u.name.clone()).collect();
        let prepared = blocking(move || sysctl::prepare_host(&names)).await;
        unapplied.own.extend(prepared.err());
        // Routes before the maps: what the programs leave to the kernel finds its way at once.
        let routes: Vec<route::NodeRoute> = desired
            .remote
            .iter()
            .map(|r| route::NodeRoute {
                cidr: r.cidr,
                via: r.next_hop,
                ifindex: r.ifindex,
                src: Some(r.source),
            })
            .collect();
        // The programs know the ways too; the host's own packets to some nodes lack theirs.
        let routed = route::sync_node_routes(&routes, &desired.local).await;
        unapplied.remote.extend(routed.err().map(fault));
        match self.sync_nodes(desired).await {
            Err(error) => unapplied.own.push(error),
            Ok(refused) => {
                let (own, remote): (Vec<_>, Vec<_>) = refused
                    .iter()
                    .partition(|cidr| desired.local.contains(cidr));
                let full = |cidrs: &[&IpNetwork], effect: &str| {
                    let count = cidrs.len();
                    let first = cidrs.first()?;
                    Some(KernelError::Refused(format!(
                        "the map nodes is full: {count} podCIDRs {effect}, {first} first"
                    )))
                };
                let of_this_node = full(&own, "of this node have no room");
                let of_others = full(&remote, "are reached by the kernel's routes instead");
                unapplied.own.extend(of_this_node);
                unapplied.remote.extend(of_others);
            }
        }
        let masqueraded = match &desired.masquerade {
            Some(wanted) => masquerade::sync(&wanted.pod_cidrs, &wanted.inside)
                .await
                .map(|_| ()),
            None => masquerade::remove().await.map(|_| ()),
        };
        unapplied.own.extend(masqueraded.err().map(fault));
        unapplied
            .own
            .extend(self.attach_uplinks(&desired.uplinks).await);
        unapplied
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

/// Deletes marked links, all that have come together by one request.
async fn reap_forever(dying: Arc<Notify>) {
    loop {
        dying.notified().await;
        if let Err(error) = link::reap().await {
            tracing::warn!(%error, "marked links stay until the next deletion or start");
        }
    }
}

fn plan(endpoint: &Endpoint) -> LinkPlan {
    LinkPlan {
        ifname: endpoint.attachment.ifname().to_owned(),
        host_ifname: endpoint.host_ifname.clone(),
        alias: link::alias(&endpoint.attachment),
        mac: endpoint.mac,
        host_mac: endpoint.host_mac,
        addresses: endpoint.addresses,
        mtu: endpoint.mtu,
    }
}

/// An endpoint from its link and its rows alone; none if they don't fit together.
fn recovered(link: &link::HostLink, rows: &[(IpAddr, AddressRow)]) -> Option<Endpoint> {
    let (container_id, ifname) = link
        .alias
        .strip_prefix(link::ALIAS_PREFIX)?
        .rsplit_once('/')?;
    let attachment = AttachmentId::new(container_id, ifname).ok()?;
    if link::host_ifname(&attachment) != link.name {
        return None;
    }
    let own = rows.iter().filter(|(_, row)| row.ifindex == link.ifindex);
    let mut addresses = Addresses::default();
    let mut row = None;
    for (address, of_address) in own {
        match address {
            IpAddr::V4(address) => addresses.v4 = Some(*address),
            IpAddr::V6(address) => addresses.v6 = Some(*address),
        }
        row = Some(of_address);
    }
    let row = row?;
    Some(Endpoint {
        attachment,
        id: row.id,
        network: String::new(),
        pod: None,
        addresses,
        mac: Mac(row.mac),
        host_mac: Mac(row.host_mac),
        host_ifname: link.name.clone(),
        mtu: link.mtu,
        sandbox: String::new(),
        created_at: 0,
        wired: true,
    })
}

/// What of an endpoint is not in the maps as it should be, and which program is not attached.
fn in_maps(
    datapath: &Datapath,
    endpoint: &Endpoint,
    ifindex: u32,
) -> Result<Vec<String>, crate::datapath::DatapathError> {
    let wanted = endpoint_rows(endpoint, ifindex);
    let mut differences = Vec::new();
    let row = datapath
        .endpoints()?
        .into_iter()
        .find(|(index, _)| *index == ifindex);
    if row.map(|(_, row)| row) != Some(wanted.row) {
        differences.push(format!(
            "map endpoints, interface {ifindex}: expected {:?}, found {row:?}",
            wanted.row
        ));
    }
    let addresses = datapath.addresses()?;
    for address in endpoint.addresses.iter() {
        let found = addresses
            .iter()
            .find(|(a, _)| *a == address)
            .map(|(_, row)| row);
        if found.is_none_or(|row| row.ifindex != ifindex || row.id != endpoint.id) {
            differences.push(format!(
                "map endpoint_addrs, {address}: expected interface {ifindex}, found {found:?}"
            ));
        }
    }
    let attached = datapath.attachments()?;
    for program in ["from_pod", "to_pod"] {
        let there = attached.iter().any(|a| {
            a.ifname == endpoint.host_ifname && a.program == program && a.ifindex == ifindex
        });
        if !there {
            differences.push(format!(
                "program {program} on {}: expected, not attached",
                endpoint.host_ifname
            ));
        }
    }
    Ok(differences)
}

fn named(
    drop: &CountedDrop,
    endpoints: &BTreeMap<u32, &Endpoint>,
    uplinks: &BTreeMap<u32, String>,
) -> DropRow {
    let endpoint = endpoints.get(&drop.ifindex);
    let interface = endpoint.map(|e| e.host_ifname.clone());
    let interface = interface.or_else(|| uplinks.get(&drop.ifindex).cloned());
    let pod = endpoint.map(|e| match &e.pod {
        Some(pod) => pod.to_string(),
        None => e.attachment.to_string(),
    });
    DropRow {
        reason: drop.reason.name().to_owned(),
        ifindex: drop.ifindex,
        interface: interface.unwrap_or_default(),
        endpoint: pod.unwrap_or_default(),
        packets: drop.packets,
        bytes: drop.bytes,
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
