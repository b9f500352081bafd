//! PURE: from Services and EndpointSlices to what the datapath serves: for each address and port of a
//! Service the backends that this node's pods are sent to. Those for clients outside, too: to pods they
//! are only other names of the Service, whatever its `externalTrafficPolicy`, as with kube-proxy.

use crate::{
    model::{EndpointSlice, Node, Protocol, Service, ServicePort, SliceEndpoint},
    state::Cluster,
};
use ipnetwork::IpNetwork;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

#[cfg(test)]
mod tests;

/// An address and port that pods send to, and who answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    /// `namespace/name` of the Service.
    pub service: String,
    /// Name of the port, empty for the one port of a Service with one.
    pub port_name: String,
    /// Seconds that a client keeps its backend; 0: each flow chooses.
    pub affinity_secs: u32,
    /// By address; none: the packets are left to the host's stack.
    pub backends: Vec<SocketAddr>,
}

/// What was compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// By address, port and protocol: each once.
    pub frontends: Vec<Frontend>,
    /// What can't be served, for people.
    pub problems: Vec<String>,
}

/// Compiles the frontends of every Service for the pods of a node. Of two Services with the same
/// address, port and protocol the first by namespace and name is served, but a ClusterIP before an
/// external address: else a Service could name another's ClusterIP and take its clients
/// (CVE-2020-8554).
pub fn compile(cluster: &Cluster, node: &str) -> Compiled {
    let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in cluster.slices.values() {
        let key = (slice.namespace.as_str(), slice.service.as_str());
        slices.entry(key).or_default().push(slice);
    }
    let own = cluster.nodes.get(node);
    let mut table = Table::default();
    for of in [cluster_ips, outside_ips, node_ports] {
        for service in cluster.services.values() {
            let key = (service.namespace.as_str(), service.name.as_str());
            let slices: &[&EndpointSlice] = slices.get(&key).map_or(&[], Vec::as_slice);
            for place in of(service, own) {
                let local =
                    (place.policy == Policy::Internal && service.internal_local).then_some(node);
                table.add(frontend(service, &place, slices, local), place.policy);
            }
        }
    }
    Compiled {
        frontends: table.frontends.into_values().collect(),
        problems: table.problems,
    }
}

/// An address and port of a Service.
struct Place<'a> {
    address: IpAddr,
    number: u16,
    port: &'a ServicePort,
    policy: Policy,
}

/// Whose policy decides about the endpoints.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// The ClusterIP's: `internalTrafficPolicy`.
    Internal,
    /// None: pods that use a way from outside reach all endpoints.
    Outside,
}

fn cluster_ips<'a>(service: &'a Service, _: Option<&'a Node>) -> Vec<Place<'a>> {
    let addresses = service.cluster_ips.iter();
    let places = addresses.flat_map(|ip| at_ports(*ip, service, Policy::Internal));
    places.collect()
}

fn outside_ips<'a>(service: &'a Service, own: Option<&'a Node>) -> Vec<Place<'a>> {
    let balanced = service.load_balancer_ips.iter();
    let balanced = balanced.filter(|ip| may_use(service, own, **ip));
    let addresses: BTreeSet<_> = service.external_ips.iter().chain(balanced).collect();
    let places = addresses.into_iter();
    places
        .flat_map(|ip| at_ports(*ip, service, Policy::Outside))
        .collect()
}

fn at_ports(address: IpAddr, service: &Service, policy: Policy) -> impl Iterator<Item = Place<'_>> {
    service.ports.iter().map(move |port| Place {
        address,
        number: port.port,
        port,
        policy,
    })
}

/// Other nodes' are their own work: what they do depends on their endpoints.
fn node_ports<'a>(service: &'a Service, own: Option<&'a Node>) -> Vec<Place<'a>> {
    let addresses = own.map_or(&[][..], |node| &node.addresses);
    let served = addresses.iter().filter(|address| {
        let mut families = service.cluster_ips.iter().map(IpAddr::is_ipv4);
        families.any(|v4| v4 == address.is_ipv4())
    });
    let places = served.flat_map(|address| {
        let ports = service.ports.iter();
        ports.filter_map(|port| {
            Some(Place {
                address: *address,
                number: port.node_port?,
                port,
                policy: Policy::Outside,
            })
        })
    });
    places.collect()
}

/// Whether every pod of the node may use a load balancer's address. If not, its packets are
/// kube-proxy's, which knows the ranges.
fn may_use(service: &Service, own: Option<&Node>, address: IpAddr) -> bool {
    let of_family = |net: &&IpNetwork| net.is_ipv4() == address.is_ipv4();
    let ranges: Vec<_> = service.source_ranges.iter().filter(of_family).collect();
    let inside = |cidr: &IpNetwork| {
        let holds =
            |range: &&IpNetwork| range.prefix() <= cidr.prefix() && range.contains(cidr.network());
        ranges.iter().any(holds)
    };
    let mut pods = own.into_iter().flat_map(|node| &node.pod_cidrs);
    ranges.is_empty() || pods.by_ref().filter(of_family).all(inside)
}

/// Frontends by address, port and protocol.
#[derive(Default)]
struct Table {
    frontends: BTreeMap<(IpAddr, u16, Protocol), Frontend>,
    problems: Vec<String>,
}

impl Table {
    fn add(&mut self, frontend: Frontend, policy: Policy) {
        let Frontend { address, port, .. } = frontend;
        let place = (address, port, frontend.protocol);
        match self.frontends.get(&place) {
            None => {
                self.frontends.insert(place, frontend);
            }
            // A port that one Service lists twice is told by the API server already.
            Some(first) if first.service == frontend.service => {}
            Some(first) => {
                let other = match policy {
                    Policy::Internal => "spec.clusterIP",
                    Policy::Outside => "external address or another port",
                };
                self.problems.push(format!(
                    "Service {} is not served at {address} port {port}: Service {} has the same address and port; give one of them another {other}",
                    frontend.service, first.service
                ));
            }
        }
    }
}

/// `local`: the node whose endpoints alone answer.
fn frontend(
    service: &Service,
    place: &Place<'_>,
    slices: &[&EndpointSlice],
    local: Option<&str>,
) -> Frontend {
    let Place { address, port, .. } = *place;
    let here = |endpoint: &SliceEndpoint| local.is_none() || endpoint.node.as_deref() == local;
    let of = |wanted: fn(&SliceEndpoint) -> bool| -> BTreeSet<SocketAddr> {
        slices
            .iter()
            .flat_map(|slice| {
                let same = |p: &&crate::model::SlicePort| {
                    p.name == port.name && p.protocol == port.protocol
                };
                let target = slice.ports.iter().find(same);
                target.into_iter().flat_map(move |target| {
                    let chosen = slice.endpoints.iter().filter(move |e| {
                        wanted(e) && here(e) && e.address.is_ipv4() == address.is_ipv4()
                    });
                    chosen.map(|e| SocketAddr::new(e.address, target.port))
                })
            })
            .collect()
    };
    let mut backends = of(|endpoint| endpoint.ready);
    if backends.is_empty() {
        // All of them end: those that still answer are better than none.
        backends = of(|endpoint| endpoint.serving && endpoint.terminating);
    }
    Frontend {
        address,
        port: place.number,
        protocol: port.protocol,
        service: format!("{}/{}", service.namespace, service.name),
        port_name: port.name.clone(),
        affinity_secs: service.affinity_secs.unwrap_or(0),
        backends: backends.into_iter().collect(),
    }
}
