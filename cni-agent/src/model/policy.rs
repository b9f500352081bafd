//! NetworkPolicies, cluster-wide policies and namespaces, as networking.k8s.io/v1 and
//! policy.networking.k8s.io have them: what is left out there and what it then means is settled here, so that
//! nobody asks twice.

use super::Protocol;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A namespace: policies select by its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// A NetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    pub namespace: String,
    pub name: String,
    /// The pods of its namespace that it is about.
    pub pods: Selector,
    /// What may come to them; none: it says nothing about what comes. An empty list lets nothing in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<Rule>>,
    /// What may go from them, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<Rule>>,
}

/// A policy of the whole cluster: ClusterNetworkPolicy, or one of the older kinds that it has replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPolicy {
    /// As Kubernetes writes it: names are one kind's.
    pub kind: String,
    pub name: String,
    pub tier: Tier,
    /// The lowest is asked first; of two with the same, the first by kind and name.
    pub priority: i32,
    /// Of the namespaces that it is about…
    pub namespaces: Selector,
    /// …these pods.
    pub pods: Selector,
    /// The first that means a packet decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Judgement>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Judgement>,
    /// What of it is not understood, and what is done instead: for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmet: Vec<String>,
}

/// Who asks first: Admin before NetworkPolicies, Baseline after them and only about pods that none of them
/// selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    Admin,
    Baseline,
}

/// A rule of a [`ClusterPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Judgement {
    /// As people know it; empty: they gave it no name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub action: Action,
    pub rule: Rule,
}

/// What becomes of what a rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    Accept,
    Deny,
    /// The next tier decides.
    Pass,
}

/// Which peers and ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// None: everybody, inside and outside of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<Peer>>,
    /// None: every port, and protocols without ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<Ports>>,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Peer {
    /// Pods, in the policy's own namespace where `namespaces` is none.
    Pods {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespaces: Option<Selector>,
        pods: Selector,
    },
    /// Nodes of the cluster, by any of their addresses.
    Nodes(Selector),
    /// Addresses, whoever has them.
    Block {
        cidr: IpNetwork,
        /// Parts of `cidr` that don't count.
        except: Vec<IpNetwork>,
    },
    /// Addresses that names have.
    Domain(DomainPattern),
}

/// A name, or all names below one (`*.example.com`); in lower case, without a dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DomainPattern(String);

impl DomainPattern {
    /// Reads it as people write it; none: it is no name.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let name = text.strip_prefix("*.").unwrap_or(&text);
        let is_label = |label: &str| {
            let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
            let end = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
            let bytes = label.as_bytes();
            bytes.len() <= 63
                && bytes.iter().copied().all(inner)
                && end(bytes.first())
                && end(bytes.last())
        };
        let is_name = name.len() <= 253 && name.contains('.') && name.split('.').all(is_label);
        is_name.then_some(Self(text))
    }

    /// The one name that it means; none: it means all below one.
    pub fn exact(&self) -> Option<&str> {
        (!self.0.starts_with("*.")).then_some(&self.0)
    }

    /// Whether it means a name, in the same form.
    pub fn means(&self, name: &str) -> bool {
        match self.0.strip_prefix('*') {
            // At least one label before the dot.
            Some(below) => name.len() > below.len() && name.ends_with(below),
            None => name == self.0,
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Ports of one protocol at the end that is connected to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ports {
    pub protocol: Protocol,
    pub port: PortChoice,
}

/// Which ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PortChoice {
    All,
    /// From the first to the last, both in it.
    Range(u16, u16),
    /// What the pod that is connected to calls so.
    Named(String),
}

/// A label selector: all of its requirements hold. An empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub Vec<Requirement>);

/// What is asked of one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Requirement {
    pub key: String,
    pub is: Operator,
}

/// How.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operator {
    In(BTreeSet<String>),
    /// Also where the label is missing.
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Whether labels are selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.is {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the API.
    #[test]
    fn a_pattern_means_one_name_or_those_below_one() {
        let means = |pattern: &str, name: &str| DomainPattern::parse(pattern).unwrap().means(name);
        assert!(means("kubernetes.io", "kubernetes.io"));
        assert!(means("Kubernetes.IO.", "kubernetes.io"));
        for name in ["www.kubernetes.io", "my-kubernetes.io", "wikipedia.org"] {
            assert!(!means("kubernetes.io", name), "{name}");
        }
        for name in ["www.kubernetes.io", "latest.blog.kubernetes.io"] {
            assert!(means("*.kubernetes.io", name), "{name}");
        }
        for name in [
            "kubernetes.io",
            ".kubernetes.io",
            "my-kubernetes.io",
            "wikipedia.org",
        ] {
            assert!(!means("*.kubernetes.io", name), "{name}");
        }
    }

    #[test]
    fn what_is_no_name_is_none() {
        let long = format!("{}.io", "a".repeat(64));
        for text in [
            "",
            "*",
            "*.",
            "localhost",
            "a..b",
            "-a.io",
            "a.-b",
            "a.*.io",
            "*a.io",
            "a b.io",
            &long,
        ] {
            assert_eq!(DomainPattern::parse(text), None, "{text}");
        }
        assert!(
            DomainPattern::parse("_dns-sd.example.com").is_none(),
            "as in the API"
        );
        assert!(DomainPattern::parse("a_b.example.com").is_some());
    }
}
