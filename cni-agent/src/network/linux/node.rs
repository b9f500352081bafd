//! What a node holds beside its endpoints: uplinks, ways to other nodes, masquerade.

use super::{Linux, blocking, fault};
use crate::{
    config::{CgroupChoice, ServicesMode},
    datapath::{NodeRoute as MapRoute, ServedOutside, ServedSockets, Via, unified_cgroup},
    netlink::{NetlinkError, masquerade, route, sysctl, uplink},
    network::{
        desired::{Desired, Uplink},
        kernel::{KernelError, Unapplied},
        services::Served,
    },
};
use ipnetwork::IpNetwork;
use std::{net::IpAddr, sync::PoisonError, time::Instant};

/// The devices that hold the node's addresses, or the one that is named.
pub(super) async fn find_uplinks(
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

impl Linux {
    /// Makes the kernel hold what is desired; goes on after a failure.
    pub(super) async fn apply_desired(&self, desired: &Desired) -> Unapplied {
        let mut unapplied = Unapplied::default();
        // They change most often, and what else is looked at takes longer the more nodes there are.
        match self.sync_services(desired).await {
            Err(error) => {
                self.change_served(|served| served.at = None);
                unapplied.remote.push(error);
            }
            Ok(refused) => unapplied.remote.extend(refused),
        }
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
        // Without them packets are translated, but not the host's own.
        let mut sockets = self.serve_sockets().await;
        if self.services == ServicesMode::All && sockets == Ok(false) {
            sockets = Err(fault(
                "this kernel or machine has no control group of version 2 for sockets: the node's own processes \
                 reach no Service; mount cgroup2 and name it by --cgroup, or set --services to pods beside \
                 kube-proxy",
            ));
        }
        let pods = self.services != ServicesMode::Off;
        self.change_served(|served| served.sockets = pods && sockets == Ok(true));
        unapplied.remote.extend(sockets.err());
        let masqueraded = match &desired.masquerade {
            Some(wanted) => masquerade::sync(&wanted.pod_cidrs, &wanted.inside)
                .await
                .map(|_| ()),
            None => masquerade::remove().await.map(|_| ()),
        };
        unapplied.own.extend(masqueraded.err().map(fault));
        unapplied
            .remote
            .extend(self.serve_outside(desired).await.err());
        let attached = self.attach_uplinks(&desired.uplinks).await;
        unapplied.own.extend(attached.own);
        unapplied.remote.extend(attached.remote);
        unapplied
    }

    /// Programs of sockets on the control group that was chosen, or on none; whether on one.
    async fn serve_sockets(&self) -> Result<bool, KernelError> {
        let (datapath, choice) = (self.datapath.clone(), self.cgroup.clone());
        let served = ServedSockets {
            pods: self.services != ServicesMode::Off,
            host: self.services == ServicesMode::All,
        };
        blocking(move || {
            let folder = match &choice {
                CgroupChoice::Off => {
                    return datapath.detach_sockets().map(|_| false).map_err(fault);
                }
                CgroupChoice::Auto => None,
                CgroupChoice::Folder(folder) => Some(folder.as_path()),
            };
            match (unified_cgroup(folder), folder) {
                (Some(cgroup), _) => datapath
                    .serve_sockets(&cgroup, served)
                    .map(|_| true)
                    .map_err(fault),
                (None, None) => Ok(false),
                (None, Some(folder)) => Err(fault(format!(
                    "no control group of version 2 at {}: packets to Services are translated one by \
                     one; correct --cgroup or set it to off",
                    folder.display()
                ))),
            }
        })
        .await
    }

    /// Whether the programs answer what comes from outside.
    async fn serve_outside(&self, desired: &Desired) -> Result<(), KernelError> {
        let datapath = self.datapath.clone();
        let served = ServedOutside {
            take: self.services == ServicesMode::All,
            direct: self.direct_return,
            addresses: desired.addresses.clone(),
            ports: ServedOutside::PORTS,
        };
        blocking(move || datapath.serve_outside(&served).map_err(fault)).await
    }

    /// Programs on the uplinks that are desired, and on no other. An uplink without XDP serves.
    async fn attach_uplinks(&self, uplinks: &[Uplink]) -> Unapplied {
        let (datapath, xdp, wanted) = (self.datapath.clone(), self.xdp, uplinks.to_vec());
        let answers = self.services == ServicesMode::All;
        let work = move || {
            let mut done = Vec::new();
            let mut failures = Unapplied::default();
            let names: Vec<&str> = wanted.iter().map(|uplink| uplink.name.as_str()).collect();
            if let Err(error) = datapath.retain_uplinks(&names) {
                failures.own.push(fault(error));
            }
            for uplink in wanted {
                if answers {
                    let attached = datapath.attach_answers(&uplink.name, uplink.ifindex);
                    failures.remote.extend(attached.err().map(fault));
                }
                match datapath.attach_uplink(&uplink.name, uplink.ifindex, xdp) {
                    Ok(taken) => {
                        failures.remote.extend(
                            taken
                                .refused
                                .map(|error| fault(format!("no XDP on {}: {error}", uplink.name))),
                        );
                        done.push((uplink.name, (uplink.ifindex, taken.mode)));
                    }
                    Err(error) => failures.own.push(fault(error)),
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
            Err(error) => Unapplied {
                own: vec![error],
                ..Unapplied::default()
            },
        }
    }

    fn change_served(&self, change: impl FnOnce(&mut Served)) {
        change(&mut self.served.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// That the maps have no room for some frontends.
    async fn sync_services(&self, desired: &Desired) -> Result<Option<KernelError>, KernelError> {
        let (datapath, frontends) = (self.datapath.clone(), desired.frontends.clone());
        let change = blocking(move || datapath.sync_services(&frontends)).await?;
        let refused = change.refused.iter();
        let refused = refused.map(|f| (f.address, f.port, f.protocol)).collect();
        self.change_served(|served| {
            served.at = Some(Instant::now());
            served.refused = refused;
        });
        if change.unswept {
            // Beside this pass, which others wait for; a failure is mended by the next periodic one.
            self.over.notify_one();
        }
        let count = change.refused.len();
        Ok(change.refused.first().map(|first| {
            KernelError::Refused(format!(
                "the maps of Services are full: {count} ports of Services are left to kube-proxy, {} of Service {} first",
                first.port, first.service
            ))
        }))
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
