//! A pod of the cluster, local or not.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// What the network needs to know of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// The node it was scheduled to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// It lives in the node's own network namespace.
    pub host_network: bool,
    /// Its addresses, at most one of each family.
    pub ips: Vec<IpAddr>,
}
