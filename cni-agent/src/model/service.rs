//! Services and where their packets go.

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Transport protocol of a port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ServiceType {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// What the network needs to know of a Service. What newer versions added is left out of a saved
/// state of an older one: each such field has a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    pub service_type: ServiceType,
    /// `spec.clusterIPs`, at most one of each family; empty for headless ones and ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<IpAddr>,
    /// Entries of `status.loadBalancer.ingress` that have an address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Ingress>,
    /// Addresses that it asks a load balancer for, by annotation or `spec.loadBalancerIP`, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`, host bits zero; nothing written: every client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<IpNetwork>,
    /// Some of them can't be read. They let nobody in, and their lack opens the address to nobody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub source_ranges_faulty: bool,
    /// `spec.internalTrafficPolicy` is `Local`: only endpoints of the client's node.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy` is `Local`: only endpoints of the node that is asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external_local: bool,
    /// `spec.healthCheckNodePort`: where a load balancer asks whether this node has endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check_port: Option<u16>,
    /// `spec.sessionAffinity` is `ClientIP`: seconds that a client keeps its endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_secs: Option<u32>,
    /// `spec.trafficDistribution`, for people: the hints of the slices are what counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
    /// `spec.publishNotReadyAddresses`, for people: the slices call such endpoints ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub publish_not_ready: bool,
    /// `spec.loadBalancerClass`: who gives it an address, none for the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer_class: Option<String>,
    /// `spec.allocateLoadBalancerNodePorts` is `false`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_node_ports: bool,
    /// What is written and not in force while the rest is: field, fault and remedy of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

/// An address that a load balancer has for a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ingress {
    pub ip: IpAddr,
    /// `ipMode` is `Proxy`: what reaches a node was sent to an address of the node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy: bool,
}

/// An entry of `spec.ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Empty for the one port of a Service with one.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    /// `nodePort`: the port of every node that leads to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
}

/// An EndpointSlice: some of a Service's endpoints, of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    pub namespace: String,
    pub name: String,
    /// The Service's name (label `kubernetes.io/service-name`).
    pub service: String,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<SliceEndpoint>,
}

/// A port that all endpoints of a slice have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// Name of the Service's port.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// The first of `addresses`: the others mean nothing (API of discovery.k8s.io/v1).
    pub address: IpAddr,
    /// Takes new connections.
    pub ready: bool,
    /// Answers those that it has, also while it ends.
    pub serving: bool,
    /// Is ending.
    pub terminating: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Boxed, since most endpoints have none and there may be a hundred thousand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<Box<Hints>>,
}

/// Whose clients an endpoint is meant for; an empty list says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// Names of `forZones`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Names of `forNodes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

impl SliceEndpoint {
    /// Zones that it is hinted for; none without such hints.
    pub fn zone_hints(&self) -> &[String] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }

    /// Nodes that it is hinted for; none without such hints.
    pub fn node_hints(&self) -> &[String] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }
}
