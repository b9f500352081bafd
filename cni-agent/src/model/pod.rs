//! A pod of the cluster, local or not.

use super::Protocol;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// What the network needs to know of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Pods of one owner mostly have the same: they share them.
    pub labels: Arc<BTreeMap<String, String>>,
    /// The node it was scheduled to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// It lives in the node's own network namespace.
    pub host_network: bool,
    /// Its addresses, at most one of each family; none of a pod that has ended, whose addresses may be
    /// others' by now.
    pub ips: Vec<IpAddr>,
    /// Ports of its containers that have names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
}

/// A container's port that policies may name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamedPort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}
