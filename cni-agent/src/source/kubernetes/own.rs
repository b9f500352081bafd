//! This node's Node object, as far as the agent writes to it.

use serde_json::Value;
use std::collections::BTreeMap;

/// What the API server has of it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnNode {
    pub name: String,
    pub uid: String,
    /// Lets a change that is based on this content fail when there is a newer one.
    pub resource_version: String,
    /// Those of `fairlead.dev/` only.
    pub annotations: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// Status of the condition NetworkUnavailable: `True`, `False` or `Unknown`.
    pub network_unavailable: Option<String>,
    pub has_pod_cidr: bool,
}

/// An entry of `spec.taints`, whole: a list of taints is written as a whole too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint(pub Value);

impl Taint {
    pub fn key(&self) -> &str {
        self.0["key"].as_str().unwrap_or_default()
    }
}
