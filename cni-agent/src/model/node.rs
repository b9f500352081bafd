//! A node of the cluster.

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// What the network needs to know of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    /// The node's own addresses (`status.addresses` of type InternalIP), at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`, at most one of each family, host bits zero.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Its label `topology.kubernetes.io/zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its other addresses: policies may mean a node by any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_addresses: Vec<IpAddr>,
    /// Policies select by them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}
