//! PURE: from Services and EndpointSlices to what the datapath serves: for each address and port of a
//! Service the backends that its clients are sent to by this node.
//!
//! `endpoints` decides who answers, `table` makes one Service's frontends, [`Compiler`] all of them with
//! little work after a change, [`explain`] tells why a backend is not used, [`maglev`] spreads flows over
//! backends.

mod compiler;
mod endpoints;
mod explain;
pub mod maglev;
#[cfg(test)]
#[path = "tests/oracle.rs"]
mod oracle;
mod reach;
mod table;
#[cfg(test)]
mod tests;

pub use compiler::Compiler;
pub use endpoints::{Topology, Unused};
pub use explain::{ExplainedEndpoint, ExplainedFrontend, Explanation, explain};
pub use reach::{for_all, for_pods, without_thefts};

use crate::{model::Protocol, state::Cluster};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// By which of a Service's addresses its clients come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FrontendKind {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    LoadBalancer,
    #[serde(rename = "ExternalIP")]
    ExternalIp,
    NodePort,
}

/// What becomes of packets that find an empty list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WhenEmpty {
    /// Nobody answers anywhere: left to what refuses connections to nobody.
    Pass,
    /// Endpoints of other nodes would answer, which a policy `Local` forbids: dropped, as a refusal
    /// would tell clients that the Service is gone.
    Drop,
}

/// An address and port that clients send to, and who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// The unspecified address of the family for NodePorts, which stands for each of the node's own.
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub kind: FrontendKind,
    /// `namespace/name` of the Service.
    pub service: String,
    /// Name of the port, empty for the one port of a Service with one.
    pub port_name: String,
    /// Seconds that a client keeps its backend; 0: each flow chooses.
    pub affinity_secs: u32,
    /// Who answers pods of any node and processes of hosts, by address, each once.
    pub internal: Vec<SocketAddr>,
    pub internal_empty: WhenEmpty,
    /// Who answers everybody else, by address, each once.
    pub external: Vec<SocketAddr>,
    pub external_empty: WhenEmpty,
    /// Whose packets are taken, of the address's family; none: everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ranges: Option<Vec<IpNetwork>>,
    /// Each node serves this address and has the same `external`.
    #[serde(default)]
    pub same_everywhere: bool,
}

/// What a load balancer is told at a `healthCheckNodePort`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// `namespace/name` of the Service.
    pub service: String,
    /// Ready endpoints on this node; of both families the greater number, as they are the same pods.
    pub local_endpoints: usize,
}

/// What was compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// By address, port and protocol: each once. One that a change left as it was is the same allocation
    /// as before ([`Arc::ptr_eq`]), as long as one [`Compiler`] made both.
    pub frontends: Vec<Arc<Frontend>>,
    /// By `healthCheckNodePort`.
    pub health_checks: BTreeMap<u16, HealthCheck>,
    /// What can't be served, for people.
    pub problems: Vec<String>,
}

/// Compiles the frontends of every Service for the clients that a node serves. Of two Services with the
/// same address, port and protocol the first by namespace and name is served. After changes a
/// [`Compiler`] gives the same with less work.
pub fn compile(cluster: &Cluster, node: &str) -> Compiled {
    Compiler::default().compile(cluster, node)
}
