//! What is told of policies.

use crate::{
    model::{ClusterPolicy, NetworkPolicy},
    policy::{Explanation, Port},
};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// May one end connect to the other?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyQuestion {
    /// A pod as namespace/name, or an address.
    pub from: String,
    /// The same, or a Service as service/namespace/name.
    pub to: String,
    pub port: Port,
}

/// The answer, as far as this node can give it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAnswer {
    pub node: String,
    pub from: End,
    pub to: End,
    pub port: Port,
    /// By what is decided on this node.
    pub allowed: bool,
    /// Who answers, where `to` is an address of a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// What policies say to the pod that begins; none where it is not this node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Explanation>,
    /// What they say to the pod that is connected to, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Explanation>,
    /// What is decided elsewhere, and where to ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<String>,
    /// What the programs make of such a packet.
    pub programs: ProgramsSay,
    /// What doesn't fit together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

impl PolicyAnswer {
    /// Adds where the rules are written.
    pub fn locate(&mut self, place: impl Fn(&str, &str) -> Option<String>) {
        let sides = [&mut self.egress, &mut self.ingress];
        for rule in sides.into_iter().flatten().flat_map(|said| &mut said.rules) {
            rule.place = place(&rule.object, &rule.rule);
        }
    }
}

/// Somebody at one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// `pod shop/web`, `node n1`, `service shop/web`; empty: nobody whom the cluster knows.
    pub name: String,
    pub address: IpAddr,
    /// Whose pod it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Who answers for a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    pub address: SocketAddr,
    pub end: End,
}

/// What became of a packet that was run through the programs without being sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramsSay {
    /// `from_pod`, `from_uplink` or `to_pod`.
    pub program: String,
    pub passes: bool,
    /// Why it is dropped, or where it goes.
    pub outcome: String,
}

/// A policy in a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    /// `Admin`, `NetworkPolicy` or `Baseline`, in the order in which they are asked.
    pub tier: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    pub kind: String,
    /// Empty for kinds without namespaces.
    pub namespace: String,
    pub name: String,
    /// Rules for what comes; none: it says nothing about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<usize>,
    /// Pods of this node that it selects, as namespace/name.
    pub pods: Vec<String>,
    /// What of it is not met.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// What would change if these policies were there?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyChange {
    /// New, or in place of those of the same name.
    pub policies: Vec<NetworkPolicy>,
    pub cluster_policies: Vec<ClusterPolicy>,
    /// To be gone, as kind, namespace (empty for kinds without) and name.
    pub removed: Vec<(String, String, String)>,
}

/// The answer, for the pods of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyPlan {
    pub node: String,
    /// How many pairs of a pod of this node and somebody were compared, in both directions.
    pub pairs: usize,
    pub changes: Vec<PlannedChange>,
    /// Connections that go on now and would be cut: the first of them.
    pub cut: Vec<CutConnection>,
    /// How many they are, of how many that go on.
    pub cut_count: usize,
    pub connections: usize,
    /// Domain names that no policy in force names yet: nobody knows their addresses, so that what goes to them is shown
    /// as if they had none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unresolved: Vec<String>,
}

/// What a pod and some peers could not do any more, or could do then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedChange {
    /// namespace/name.
    pub pod: String,
    /// `ingress` or `egress`.
    pub direction: String,
    pub peers: Vec<String>,
    /// Ports that are allowed now and not then; empty: none.
    pub denied: String,
    /// Ports that are allowed then and not now.
    pub allowed: String,
}

/// A connection that would end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CutConnection {
    /// The pod of this node, as namespace/name.
    pub pod: String,
    /// `ingress`: the peer began it.
    pub direction: String,
    pub peer: String,
    /// Of who is connected to, with its protocol.
    pub port: String,
}
