//! PURE: what people ask about Services: what the cluster wants of them, what the maps hold, and who
//! answers where.

use super::desired::own_node;
use crate::{
    config::ServicesMode,
    datapath::FlowCounts,
    model::{Node, Protocol, Service, ServiceType},
    query::{
        Answerer, By, EndpointOfService, FrontendRow, HealthCheckRow, ServiceAnswer, ServiceDetail,
        ServiceRow,
    },
    service::{
        Compiled, ExplainedFrontend, Frontend, FrontendKind, WhenEmpty, explain, for_all, for_pods,
    },
    state::Cluster,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

/// What the maps hold of Services, since they were written last.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// When the last writing ended; none while it failed.
    pub at: Option<Instant>,
    /// Sockets of pods get their backend when they connect.
    pub sockets: bool,
    /// What found no room.
    pub refused: BTreeSet<(IpAddr, u16, Protocol)>,
}

/// What questions about Services are answered from.
pub struct Seen<'a> {
    pub cluster: &'a Cluster,
    pub node: &'a str,
    pub mode: ServicesMode,
    pub compiled: &'a Compiled,
    pub served: &'a Served,
    pub flows: &'a FlowCounts,
}

/// Names that are told.
const MOST_NEAR: usize = 5;

impl Seen<'_> {
    fn own(&self) -> Option<&Node> {
        own_node(self.cluster, self.node).ok()
    }

    /// Every Service, by namespace and name.
    pub fn rows(&self) -> Vec<ServiceRow> {
        let mut frontends: BTreeMap<&str, Vec<&Arc<Frontend>>> = BTreeMap::new();
        for frontend in &self.compiled.frontends {
            frontends
                .entry(&frontend.service)
                .or_default()
                .push(frontend);
        }
        let mut known: BTreeMap<(&str, &str), BTreeSet<IpAddr>> = BTreeMap::new();
        for slice in self.cluster.slices.values() {
            let of = known.entry((&slice.namespace, &slice.service)).or_default();
            of.extend(slice.endpoints.iter().map(|endpoint| endpoint.address));
        }
        let row = |service: &Service| {
            let name = format!("{}/{}", service.namespace, service.name);
            let own = frontends.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            let known = known.get(&(&service.namespace, &service.name));
            self.row(service, own, known.map_or(0, BTreeSet::len))
        };
        self.cluster.services.values().map(row).collect()
    }

    fn row(&self, service: &Service, own: &[&Arc<Frontend>], known: usize) -> ServiceRow {
        let used: BTreeSet<IpAddr> = own
            .iter()
            .flat_map(|f| f.internal.iter().chain(&f.external))
            .map(SocketAddr::ip)
            .collect();
        let pods: BTreeSet<Answerer> = own.iter().map(|f| self.pods(f, None)).collect();
        let mut pods: Vec<Answerer> = pods.into_iter().collect();
        if own.is_empty() {
            pods.push(nobody_asks(service));
        }
        let outer = service.ingress.iter().map(|entry| entry.ip);
        let addresses = service.cluster_ips.iter().chain(&service.external_ips);
        let ports = service.ports.iter().map(|port| {
            let protocol = port.protocol.as_str();
            match port.node_port {
                Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
                None => format!("{}/{protocol}", port.port),
            }
        });
        ServiceRow {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            service_type: service.service_type,
            addresses: addresses.copied().chain(outer).collect(),
            ports: ports.collect(),
            backends_used: used.len(),
            backends_known: known,
            flows: own.iter().map(|f| self.flows(f)).sum(),
            pods,
        }
    }

    /// The Service of that name; without a namespace the only one.
    pub fn answer(&self, namespace: Option<&str>, name: &str) -> ServiceAnswer {
        let services = self.cluster.services.values();
        let wanted = |s: &&Service| s.name == name && namespace.is_none_or(|n| s.namespace == n);
        let found: Vec<&Service> = services.filter(wanted).collect();
        match &*found {
            [one] => ServiceAnswer {
                service: self.detail(one),
                near: Vec::new(),
            },
            [] => ServiceAnswer {
                service: None,
                near: self.near(namespace, name),
            },
            several => ServiceAnswer {
                service: None,
                near: several.iter().map(|s| full_name(s)).collect(),
            },
        }
    }

    /// Those whose names are alike: a letter in three may be wrong, or the rest left out. The most alike
    /// first, of two the one in the namespace.
    fn near(&self, namespace: Option<&str>, name: &str) -> Vec<String> {
        let most = (name.chars().count() / 3).max(1);
        let differences = |other: &str| match !name.is_empty() && other.contains(name) {
            true => 1.min(other.len() - name.len()),
            false => strsim::damerau_levenshtein(name, other),
        };
        let services = self.cluster.services.values();
        let mut near: Vec<_> = services
            .map(|service| (differences(&service.name), service))
            .filter(|(differences, _)| *differences <= most)
            .collect();
        near.sort_by_key(|(differences, service)| {
            (*differences, namespace != Some(service.namespace.as_str()))
        });
        let names = near.into_iter().map(|(_, service)| full_name(service));
        names.take(MOST_NEAR).collect()
    }

    fn detail(&self, service: &Service) -> Option<ServiceDetail> {
        let key = (service.namespace.clone(), service.name.clone());
        let explained = explain(self.cluster, self.node, &key)?;
        let pods = self.cluster.pods.values().filter(|pod| !pod.host_network);
        let pods: BTreeMap<IpAddr, String> = pods
            .flat_map(|pod| pod.ips.iter().map(move |ip| (*ip, pod)))
            .map(|(ip, pod)| (ip, format!("{}/{}", pod.namespace, pod.name)))
            .collect();
        let has_outer =
            service.service_type != ServiceType::ClusterIp || !service.external_ips.is_empty();
        let checks = self.compiled.health_checks.iter();
        let mut checks = checks.filter(|(_, check)| check.service == explained.service);
        let frontends = explained.frontends.into_iter();
        Some(ServiceDetail {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            service_type: service.service_type,
            node: self.node.to_owned(),
            zone: self.own().and_then(|own| own.zone.clone()),
            internal_traffic_policy: policy(service.internal_local),
            external_traffic_policy: has_outer.then(|| policy(service.external_local)),
            affinity_secs: service.affinity_secs,
            traffic_distribution: service.traffic_distribution.clone(),
            publish_not_ready_addresses: service.publish_not_ready,
            source_ranges: service.source_ranges.clone(),
            health_check: checks.next().map(|(port, check)| HealthCheckRow {
                port: *port,
                check: check.clone(),
                served: self.mode == ServicesMode::All,
            }),
            frontends: frontends
                .map(|f| self.frontend(service, f, &pods))
                .collect(),
            problems: explained.problems,
        })
    }

    fn frontend(
        &self,
        service: &Service,
        explained: ExplainedFrontend,
        pods: &BTreeMap<IpAddr, String>,
    ) -> FrontendRow {
        let frontend = Arc::new(explained.frontend);
        let held_by = explained.held_by.as_deref();
        let target = |slice: &str| {
            let key = (service.namespace.clone(), slice.to_owned());
            let mut ports = self.cluster.slices.get(&key)?.ports.iter();
            let port =
                ports.find(|p| p.name == frontend.port_name && p.protocol == frontend.protocol);
            port.map(|port| port.port)
        };
        let endpoints = explained.endpoints.into_iter();
        let endpoints = endpoints.map(|endpoint| EndpointOfService {
            address: endpoint.address,
            port: target(&endpoint.slice),
            slice: endpoint.slice,
            local: endpoint.node.as_deref() == Some(self.node),
            node: endpoint.node,
            zone: endpoint.zone,
            pod: pods.get(&endpoint.address).cloned(),
            internal: endpoint.internal,
            external: endpoint.external,
        });
        FrontendRow {
            endpoints: endpoints.collect(),
            kind: frontend.kind,
            at: SocketAddr::new(frontend.address, frontend.port),
            protocol: frontend.protocol,
            port_name: frontend.port_name.clone(),
            pods: self.pods(&frontend, held_by),
            outside: self.outside(&frontend, held_by),
            flows: if held_by.is_some() {
                0
            } else {
                self.flows(&frontend)
            },
            topology: explained.topology,
        }
    }

    /// A node port's flows are those to each of the node's own addresses.
    fn flows(&self, frontend: &Frontend) -> u64 {
        let at = |address: IpAddr| {
            let key = (address, frontend.port, frontend.protocol);
            self.flows.get(&key).copied().unwrap_or(0)
        };
        match (frontend.kind, self.own()) {
            (FrontendKind::NodePort, Some(own)) => own.addresses.iter().map(|a| at(*a)).sum(),
            _ => at(frontend.address),
        }
    }

    /// Who answers the pods of this node.
    fn pods(&self, frontend: &Arc<Frontend>, held_by: Option<&str>) -> Answerer {
        let Some(own) = self.own() else {
            return left("this node has no Node object with podCIDR and address yet");
        };
        if let Some(holder) = held_by {
            return other(holder);
        }
        if self.mode == ServicesMode::Off {
            return left("--services is off");
        }
        if frontend.internal.is_empty() {
            return self.empty(frontend.internal_empty, "internalTrafficPolicy");
        }
        let one = std::slice::from_ref(frontend);
        let reached = match self.mode {
            ServicesMode::All => for_all(one, own),
            _ => for_pods(one, own),
        };
        if reached.is_empty() {
            return left(match frontend.kind {
                FrontendKind::NodePort => "the node has no address of this family",
                _ => "spec.loadBalancerSourceRanges lets in a part of the node's pods only",
            });
        }
        let place = |f: &Arc<Frontend>| (f.address, f.port, f.protocol);
        if reached
            .iter()
            .any(|f| self.served.refused.contains(&place(f)))
        {
            return left("the maps are full");
        }
        if self.served.at.is_none() {
            return left("the maps could not be written; `fairlead status` says why");
        }
        answered(match frontend.protocol {
            Protocol::Tcp if self.served.sockets => By::Sockets,
            _ => By::Programs,
        })
    }

    /// Who answers what comes to this node from outside.
    fn outside(&self, frontend: &Frontend, held_by: Option<&str>) -> Answerer {
        match held_by {
            Some(holder) => other(holder),
            None if self.mode != ServicesMode::All => left("--services is not all"),
            None if frontend.external.is_empty() => {
                self.empty(frontend.external_empty, "externalTrafficPolicy")
            }
            None => answered(By::Programs),
        }
    }

    fn empty(&self, when: WhenEmpty, policy: &str) -> Answerer {
        let why = match when {
            WhenEmpty::Drop => format!("no endpoint on this node, and {policy} is Local"),
            WhenEmpty::Pass => "no endpoint answers".to_owned(),
        };
        let by = match self.mode {
            ServicesMode::All => By::Nobody,
            ServicesMode::Pods | ServicesMode::Off => By::KubeProxy,
        };
        let why = Some(why);
        Answerer { by, why }
    }
}

fn answered(by: By) -> Answerer {
    Answerer { by, why: None }
}

fn left(why: &str) -> Answerer {
    Answerer {
        by: By::KubeProxy,
        why: Some(why.to_owned()),
    }
}

fn other(holder: &str) -> Answerer {
    Answerer {
        by: By::OtherService,
        why: Some(format!("Service {holder} has the same address and port")),
    }
}

/// Of a Service that has no address and port to be served at.
fn nobody_asks(service: &Service) -> Answerer {
    let why = match service.service_type {
        ServiceType::ExternalName => "DNS gives another name",
        _ if service.cluster_ips.is_empty() => "headless: DNS gives the endpoints' addresses",
        _ => "other Services have its addresses and ports, or it has no port",
    };
    Answerer {
        by: By::Nobody,
        why: Some(why.to_owned()),
    }
}

fn full_name(service: &Service) -> String {
    format!("{}/{}", service.namespace, service.name)
}

fn policy(local: bool) -> String {
    if local { "Local" } else { "Cluster" }.to_owned()
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
