//! What is told of Services.

use crate::{
    model::{Protocol, ServiceType},
    service::{FrontendKind, HealthCheck, Topology, Unused},
};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Who answers at an address and port of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The client's socket gets its backend when it connects.
    Sockets,
    /// Each packet is translated.
    Programs,
    /// It is left to the host's stack.
    KubeProxy,
    /// Another Service has the same address and port.
    OtherService,
    Nobody,
}

impl By {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sockets => "sockets",
            Self::Programs => "programs",
            Self::KubeProxy => "kube-proxy",
            Self::OtherService => "other-service",
            Self::Nobody => "nobody",
        }
    }
}

/// Who answers, and why it is not this agent where it is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answerer {
    pub by: By,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A Service in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    pub namespace: String,
    pub name: String,
    #[serde(rename = "type")]
    pub service_type: ServiceType,
    /// Of the cluster, then those from outside.
    pub addresses: Vec<IpAddr>,
    /// `80/TCP`, or `80:30080/TCP` with its node port.
    pub ports: Vec<String>,
    /// Addresses of endpoints that answer some client of this node.
    pub backends_used: usize,
    /// Addresses of all endpoints.
    pub backends_known: usize,
    /// Flows that the programs remember on this node.
    pub flows: u64,
    /// Who answers the pods of this node, each once.
    pub pods: Vec<Answerer>,
}

/// The answer to a question for one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAnswer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceDetail>,
    /// `namespace/name` of those that could be meant, where it is none or more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub near: Vec<String>,
}

/// A Service, explained for this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDetail {
    pub namespace: String,
    pub name: String,
    #[serde(rename = "type")]
    pub service_type: ServiceType,
    pub node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// `Cluster` or `Local`, for clients in the cluster.
    pub internal_traffic_policy: String,
    /// The same for those outside, where the Service has addresses for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<String>,
    /// Seconds that a client keeps its backend; absent: each connection chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_secs: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub publish_not_ready_addresses: bool,
    /// Whose packets are taken at its load balancer's addresses; none: everybody's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<IpNetwork>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckRow>,
    pub frontends: Vec<FrontendRow>,
    /// What of it is not in force, each with its remedy.
    pub problems: Vec<String>,
}

/// What a load balancer is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheckRow {
    pub port: u16,
    #[serde(flatten)]
    pub check: HealthCheck,
    /// By this agent.
    pub served: bool,
}

/// An address and port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendRow {
    pub kind: FrontendKind,
    /// The unspecified one stands for each of the node's own.
    pub at: SocketAddr,
    pub protocol: Protocol,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub port_name: String,
    /// Who answers the pods of this node.
    pub pods: Answerer,
    /// Who answers what comes from outside to this node.
    pub outside: Answerer,
    pub flows: u64,
    /// Which hints are followed where no policy `Local` holds.
    pub topology: Topology,
    pub endpoints: Vec<EndpointOfService>,
}

/// An endpoint at one address and port of its Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointOfService {
    pub address: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Name of its EndpointSlice.
    pub slice: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// On this node.
    pub local: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// `namespace/name`, of pods of this node: of others nothing is known but their address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Why it does not answer clients of the cluster; absent: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal: Option<Unused>,
    /// Why it does not answer everybody else; absent: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<Unused>,
}

impl EndpointOfService {
    /// Whether some client gets to it.
    pub const fn is_used(&self) -> bool {
        self.internal.is_none() || self.external.is_none()
    }
}
