//! One Service: its frontends, and what of it can't be served.

use super::{
    Frontend, FrontendKind, HealthCheck, WhenEmpty,
    endpoints::{Endpoints, Here, Policy},
};
use crate::model::{EndpointSlice, Protocol, Service, ServicePort, ServiceType};
use ipnetwork::IpNetwork;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// What can be served once: address, port, protocol.
pub(super) type Place = (IpAddr, u16, Protocol);

/// What one Service wants.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) frontends: Vec<Arc<Frontend>>,
    pub(super) health: Option<(u16, HealthCheck)>,
    pub(super) problems: Vec<String>,
}

pub(super) fn place(frontend: &Frontend) -> Place {
    (frontend.address, frontend.port, frontend.protocol)
}

/// `namespace/name`.
pub(super) fn name(service: &Service) -> String {
    format!("{}/{}", service.namespace, service.name)
}

/// `slices` are the Service's own.
pub(super) fn table(service: &Service, slices: &[&EndpointSlice], here: Here<'_>) -> Table {
    let mut frontends = Vec::new();
    for cluster_ip in &service.cluster_ips {
        for port in &service.ports {
            let endpoints = Endpoints::new(slices, port, cluster_ip.is_ipv4(), here);
            for at in places(service, *cluster_ip, port) {
                frontends.push(Arc::new(frontend(service, port, at, &endpoints)));
            }
        }
    }
    Table {
        frontends,
        health: health(service, slices, here),
        problems: problems(service),
    }
}

/// Where a port is served in the family of a ClusterIP. An address of several kinds is of the first
/// of them: a load balancer's source ranges hold although it is among the external addresses too.
pub(super) fn places(
    service: &Service,
    cluster_ip: IpAddr,
    port: &ServicePort,
) -> Vec<(FrontendKind, IpAddr, u16)> {
    let served = |ip: &IpAddr| ip.is_ipv4() == cluster_ip.is_ipv4();
    let ingress = service.ingress.iter().filter(|entry| !entry.proxy);
    let balancers = ingress.map(|entry| (FrontendKind::LoadBalancer, entry.ip));
    let external = service.external_ips.iter();
    let external = external.map(|ip| (FrontendKind::ExternalIp, *ip));
    let mut found = vec![(FrontendKind::ClusterIp, cluster_ip, port.port)];
    for (kind, ip) in balancers.chain(external).filter(|(_, ip)| served(ip)) {
        if found.iter().all(|(_, other, _)| *other != ip) {
            found.push((kind, ip, port.port));
        }
    }
    if let Some(number) = port.node_port {
        let any: IpAddr = match cluster_ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        found.push((FrontendKind::NodePort, any, number));
    }
    found
}

/// Policies for clients inside and outside of the cluster. A pod that asks an outer address is spared
/// the way out and back: it gets what the ClusterIP of a policy `Cluster` would give.
pub(super) fn policies(service: &Service, kind: FrontendKind) -> (Policy, Policy) {
    match kind {
        FrontendKind::ClusterIp => {
            let policy = Policy::local(service.internal_local);
            (policy, policy)
        }
        _ => (Policy::Cluster, Policy::local(service.external_local)),
    }
}

fn frontend(
    service: &Service,
    port: &ServicePort,
    (kind, address, number): (FrontendKind, IpAddr, u16),
    endpoints: &Endpoints<'_>,
) -> Frontend {
    let (internal, policy) = policies(service, kind);
    let when_empty = |list: &[SocketAddr]| {
        if list.is_empty() && endpoints.anybody() {
            WhenEmpty::Drop
        } else {
            WhenEmpty::Pass
        }
    };
    let (internal, external) = if internal == policy {
        let list = endpoints.list(internal);
        (list.clone(), list)
    } else {
        (endpoints.list(internal), endpoints.list(policy))
    };
    let balancer = kind == FrontendKind::LoadBalancer;
    // A NodePort is each node's own. What a client keeps is known to the node where it came in.
    let same_everywhere = (balancer || kind == FrontendKind::ExternalIp)
        && policy == Policy::Cluster
        && !endpoints.has_hints()
        && service.affinity_secs.is_none();
    Frontend {
        address,
        port: number,
        protocol: port.protocol,
        kind,
        service: name(service),
        port_name: port.name.clone(),
        affinity_secs: service.affinity_secs.unwrap_or(0),
        internal_empty: when_empty(&internal),
        internal,
        external_empty: when_empty(&external),
        external,
        source_ranges: balancer
            .then(|| source_ranges(service, address.is_ipv4()))
            .flatten(),
        same_everywhere,
    }
}

/// As kube-proxy has it, ranges of one family alone leave the other one open. Where some could not be
/// read nobody knows which family they were of: those that could are all that is let in.
fn source_ranges(service: &Service, v4: bool) -> Option<Vec<IpNetwork>> {
    let ranges = service.source_ranges.iter();
    let mut ranges: Vec<IpNetwork> = ranges.filter(|r| r.is_ipv4() == v4).copied().collect();
    ranges.sort_unstable();
    (service.source_ranges_faulty || !ranges.is_empty()).then_some(ranges)
}

/// Asked by load balancers of Services that keep to the node's own endpoints.
fn health(
    service: &Service,
    slices: &[&EndpointSlice],
    here: Here<'_>,
) -> Option<(u16, HealthCheck)> {
    let wanted = service.service_type == ServiceType::LoadBalancer && service.external_local;
    let port = service.health_check_port.filter(|_| wanted)?;
    // Of all ports together: a pod counts once.
    let endpoints = slices.iter().filter(|slice| !slice.ports.is_empty());
    let own: BTreeSet<IpAddr> = endpoints
        .flat_map(|slice| &slice.endpoints)
        .filter(|e| e.ready && e.node.as_deref() == Some(here.node))
        .map(|e| e.address)
        .collect();
    let v4 = own.iter().filter(|ip| ip.is_ipv4()).count();
    let check = HealthCheck {
        service: name(service),
        local_endpoints: v4.max(own.len() - v4),
    };
    Some((port, check))
}

fn problems(service: &Service) -> Vec<String> {
    let own = name(service);
    let faults = service.faults.iter();
    let mut problems: Vec<String> = faults
        .map(|fault| format!("Service {own}: {fault}"))
        .collect();
    for ip in &service.external_ips {
        let has = |other: &IpAddr| other.is_ipv4() == ip.is_ipv4();
        if !service.cluster_ips.iter().any(has) {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            problems.push(format!(
                "Service {own} is not served at {ip} of its spec.externalIPs: it has no {family} address of the cluster; add {family} to spec.ipFamilies or remove {ip}"
            ));
        }
    }
    problems
}
