//! What a change of policies would change, before it is made: compiled twice, and compared for every pair of a
//! pod of this node and a peer.

use super::{Compiler, Direction, LocalPod, PortSet, Start, Tables, select::all_addresses};
use crate::state::Cluster;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// The tables as they are and as they would be.
#[derive(Debug)]
pub struct Preview {
    before: Arc<Tables>,
    after: Arc<Tables>,
    locals: Vec<LocalPod>,
    /// Everybody worth asking about, by name.
    peers: Vec<(String, IpAddr)>,
}

/// What would change between a pod and some peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flip {
    /// Namespace and name.
    pub pod: (String, String),
    pub direction: Direction,
    /// Allowed now, and not any more then.
    pub lost: PortSet,
    /// Not allowed now.
    pub gained: PortSet,
    /// With whom, in order.
    pub peers: Vec<String>,
}

impl Preview {
    /// Compiles both for these pods of the node.
    pub fn new(before: &Cluster, after: &Cluster, node: &str, locals: &[LocalPod]) -> Self {
        let tables = |cluster| Compiler::new(node, Start::default()).update(cluster, locals);
        let (tables_before, tables_after) = (tables(before), tables(after));
        let mut peers: Vec<(String, IpAddr)> = Vec::new();
        for pod in after.pods.values().filter(|pod| !pod.host_network) {
            let (namespace, name) = (&pod.namespace, &pod.name);
            let named = |ip: &IpAddr| (format!("pod {namespace}/{name} ({ip})"), *ip);
            peers.extend(pod.ips.iter().map(named));
        }
        for node in after.nodes.values() {
            let named = |ip: IpAddr| (format!("node {} ({ip})", node.name), ip);
            peers.extend(all_addresses(node).map(named));
        }
        // Names of domains that policies mean have no prefix.
        let domains = before.domains.iter().chain(after.domains.iter());
        for (name, addresses) in domains {
            let named = |ip: &IpAddr| (format!("{name} ({ip})"), *ip);
            peers.extend(addresses.iter().map(named));
        }
        // Of each prefix that either knows, its first address that is in no longer one.
        let both = [&tables_before, &tables_after];
        let prefixes = both.into_iter().flat_map(|tables| tables.prefixes.keys());
        let prefixes: BTreeSet<_> = prefixes.collect();
        for prefix in &prefixes {
            let inner = |ip: IpAddr| {
                let mut longer = prefixes.iter().filter(|p| p.prefix() > prefix.prefix());
                longer.any(|longer| longer.contains(ip))
            };
            let first = prefix.iter().take(MOST_TRIED).find(|ip| !inner(*ip));
            peers.extend(first.map(|ip| (format!("{prefix}"), ip)));
        }
        for (family, nobody) in NOBODY {
            peers.push((format!("everybody else ({family})"), nobody));
        }
        peers.sort();
        peers.dedup();
        Self {
            before: tables_before,
            after: tables_after,
            locals: locals.to_vec(),
            peers,
        }
    }

    /// How many pairs of a pod and a peer are compared, in each direction.
    pub fn pairs(&self) -> usize {
        self.locals.len() * self.peers.len()
    }

    /// What would change, by pod.
    pub fn flips(&self) -> Vec<Flip> {
        // Peers with the same identities fare alike.
        let mut alike: BTreeMap<(Option<u32>, Option<u32>), Vec<&str>> = BTreeMap::new();
        for (name, ip) in &self.peers {
            let identities = (self.before.identity(*ip), self.after.identity(*ip));
            alike.entry(identities).or_default().push(name);
        }
        let mut flips = Vec::new();
        for local in &self.locals {
            for direction in Direction::BOTH {
                let mut changed: BTreeMap<(PortSet, PortSet), Vec<String>> = BTreeMap::new();
                for ((before, after), names) in &alike {
                    let sets =
                        [(&self.before, before), (&self.after, after)].map(|(tables, identity)| {
                            let set = tables.set_with(local.endpoint, direction, *identity);
                            set.unwrap_or_default()
                        });
                    let [before, after] = sets;
                    if before != after {
                        let change = (before.without(&after), after.without(&before));
                        let names = names.iter().map(|name| (*name).to_owned());
                        changed.entry(change).or_default().extend(names);
                    }
                }
                for ((lost, gained), mut peers) in changed {
                    peers.sort();
                    peers.dedup();
                    flips.push(Flip {
                        pod: (local.namespace.clone(), local.name.clone()),
                        direction,
                        lost,
                        gained,
                        peers,
                    });
                }
            }
        }
        flips
    }

    /// What an endpoint may use with a peer then; none: it is none of these pods.
    pub fn then(&self, endpoint: u32, direction: Direction, peer: IpAddr) -> Option<PortSet> {
        self.after.set(endpoint, direction, peer)
    }
}

/// Addresses of a prefix that are looked at for one in no longer prefix.
const MOST_TRIED: usize = 4096;
/// Kept for documentation (RFC 5737, RFC 3849): in no prefix but that of all, unless somebody means just these.
const NOBODY: [(&str, IpAddr); 2] = [
    ("IPv4", IpAddr::V4(Ipv4Addr::new(203, 0, 113, 254))),
    (
        "IPv6",
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 254)),
    ),
];
