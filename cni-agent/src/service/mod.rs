//! PURE: from Services and EndpointSlices to what the datapath serves: for each ClusterIP and port
//! the backends that this node's pods are sent to.

use crate::{
    model::{EndpointSlice, Protocol, Service, ServicePort, SliceEndpoint},
    state::Cluster,
};
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
/// address, port and protocol the first by namespace and name is served.
pub fn compile(cluster: &Cluster, node: &str) -> Compiled {
    let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in cluster.slices.values() {
        let key = (slice.namespace.as_str(), slice.service.as_str());
        slices.entry(key).or_default().push(slice);
    }
    let mut frontends: BTreeMap<(IpAddr, u16, Protocol), Frontend> = BTreeMap::new();
    let mut problems = Vec::new();
    for service in cluster.services.values() {
        let key = (service.namespace.as_str(), service.name.as_str());
        let own: &[&EndpointSlice] = slices.get(&key).map_or(&[], Vec::as_slice);
        for address in &service.cluster_ips {
            for port in &service.ports {
                let frontend = frontend(service, *address, port, own, node);
                let place = (*address, port.port, port.protocol);
                match frontends.get(&place) {
                    None => {
                        frontends.insert(place, frontend);
                    }
                    // A port that one Service lists twice is told by the API server already.
                    Some(first) if first.service == frontend.service => {}
                    Some(first) => problems.push(format!(
                        "Service {} is not served at {} port {}: Service {} has the same address and port; give one of them another spec.clusterIP",
                        frontend.service, address, port.port, first.service
                    )),
                }
            }
        }
    }
    Compiled {
        frontends: frontends.into_values().collect(),
        problems,
    }
}

fn frontend(
    service: &Service,
    address: IpAddr,
    port: &ServicePort,
    slices: &[&EndpointSlice],
    node: &str,
) -> Frontend {
    let here = |endpoint: &SliceEndpoint| {
        !service.internal_local || endpoint.node.as_deref() == Some(node)
    };
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
        port: port.port,
        protocol: port.protocol,
        service: format!("{}/{}", service.namespace, service.name),
        port_name: port.name.clone(),
        affinity_secs: service.affinity_secs.unwrap_or(0),
        backends: backends.into_iter().collect(),
    }
}
