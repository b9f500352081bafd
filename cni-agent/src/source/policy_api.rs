//! The kinds of policy.networking.k8s.io, for which no crate has types (network-policy-api, v1beta1 and v1alpha2,
//! which have the same fields, and the two kinds of v1alpha1 that they have replaced). Everything may be missing here: what must not is said by the
//! conversion, in words that help.

use super::resource;
use k8s_openapi::{
    ClusterResourceScope,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Group of all three.
pub const GROUP: &str = "policy.networking.k8s.io";

/// What the three kinds have in common.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Of ClusterNetworkPolicy alone.
    pub tier: Option<String>,
    /// Not of BaselineAdminNetworkPolicy.
    pub priority: Option<i32>,
    pub subject: Selected,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
}

/// A rule of either direction.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    pub name: Option<String>,
    pub action: String,
    /// Of what comes.
    pub from: Option<Vec<Peer>>,
    /// Of what goes.
    pub to: Option<Vec<Peer>>,
    /// Of ClusterNetworkPolicy.
    pub protocols: Option<Vec<Protocol>>,
    /// Of the older kinds.
    pub ports: Option<Vec<Port>>,
}

/// Pods by namespace, or by namespace and labels: exactly one of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selected {
    pub namespaces: Option<LabelSelector>,
    pub pods: Option<NamespacedPod>,
}

/// Exactly one field.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Peer {
    pub namespaces: Option<LabelSelector>,
    pub pods: Option<NamespacedPod>,
    pub nodes: Option<LabelSelector>,
    pub networks: Option<Vec<String>>,
    pub domain_names: Option<Vec<String>>,
}

/// Pods of some namespaces.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespacedPod {
    pub namespace_selector: LabelSelector,
    pub pod_selector: LabelSelector,
}

/// Exactly one field.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Protocol {
    pub tcp: Option<OfProtocol>,
    pub udp: Option<OfProtocol>,
    pub sctp: Option<OfProtocol>,
    pub destination_named_port: Option<String>,
}

/// What is asked of a protocol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OfProtocol {
    pub destination_port: Option<Destination>,
}

/// Exactly one field.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Destination {
    pub number: Option<i32>,
    pub range: Option<Range>,
}

/// Both in it. The protocol is the older kinds'.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Range {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    pub start: i32,
    pub end: i32,
}

/// Of the older kinds: exactly one field.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    pub port_number: Option<Number>,
    pub named_port: Option<String>,
    pub port_range: Option<Range>,
}

/// One port.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Number {
    pub protocol: Option<String>,
    pub port: i32,
}

/// A kind of this group.
pub trait Policy {
    /// As Kubernetes writes it.
    const KIND: &'static str;
    fn metadata(&self) -> &ObjectMeta;
    fn spec(&self) -> &Spec;
}

macro_rules! kind {
    ($kind:ident, $version:literal, $plural:literal, $what:literal) => {
        #[doc = $what]
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $kind {
            pub api_version: String,
            pub kind: String,
            pub metadata: ObjectMeta,
            pub spec: Spec,
            pub status: Option<Value>,
        }

        impl Policy for $kind {
            const KIND: &'static str = stringify!($kind);

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn spec(&self) -> &Spec {
                &self.spec
            }
        }

        resource!($kind, ClusterResourceScope, GROUP, $version, $plural);
    };
}

kind!(
    ClusterNetworkPolicy,
    "v1beta1",
    "clusternetworkpolicies",
    "Of tier Admin or Baseline."
);
kind!(
    AdminNetworkPolicy,
    "v1alpha1",
    "adminnetworkpolicies",
    "Its predecessor in the tier Admin."
);
kind!(
    BaselineAdminNetworkPolicy,
    "v1alpha1",
    "baselineadminnetworkpolicies",
    "Its predecessor in the tier Baseline, of which there is one, `default`."
);
