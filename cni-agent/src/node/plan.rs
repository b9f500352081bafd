//! PURE: what is to be written to this node's Node object.

use crate::source::kubernetes::own::{OwnNode, Taint};
use std::collections::BTreeMap;

/// Key of the taint that keeps pods away until the network serves; whoever makes the node sets it.
pub const TAINT: &str = "fairlead.dev/agent-not-ready";

/// What this version offers, for tools that look at many nodes.
const FEATURES: &str = "ipv4,ipv6,direct-routing";

/// What is known of the network part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// A pod made now would have its network, and nothing of the node's own is amiss.
    pub serving: bool,
    /// Of pods made from now on, in bytes.
    pub mtu: Option<u32>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// These annotations, beside all others.
    Annotations(BTreeMap<String, String>),
    /// `NetworkUnavailable=False`.
    NetworkAvailable,
    /// The taints that stay.
    Taints(Vec<Taint>),
}

/// What differs from what should be, in the order of writing: the taint goes last, because pods come
/// then. Only what a node that serves may say; one that served and has a fault takes nothing back,
/// because its pods go on.
pub fn plan(own: &OwnNode, facts: &Facts) -> Vec<Write> {
    let mut writes = Vec::new();
    if !facts.serving {
        return writes;
    }
    let wanted = [
        ("version", Some(env!("CARGO_PKG_VERSION").to_owned())),
        ("features", Some(FEATURES.to_owned())),
        ("mtu", facts.mtu.map(|mtu| mtu.to_string())),
    ];
    let different: BTreeMap<_, _> = wanted
        .into_iter()
        .filter_map(|(name, value)| Some((format!("fairlead.dev/{name}"), value?)))
        .filter(|(name, value)| own.annotations.get(name) != Some(value))
        .collect();
    if !different.is_empty() {
        writes.push(Write::Annotations(different));
    }
    if own.network_unavailable.as_deref() != Some("False") {
        writes.push(Write::NetworkAvailable);
    }
    let stay: Vec<Taint> = (own.taints.iter())
        .filter(|taint| taint.key() != TAINT)
        .cloned()
        .collect();
    if stay.len() != own.taints.len() {
        writes.push(Write::Taints(stay));
    }
    writes
}

/// What an operator must know of, as an Event.
pub(super) struct Trouble {
    pub(super) reason: &'static str,
    pub(super) note: String,
}

pub(super) fn troubles(own: &OwnNode, conflicts: &[String]) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    if !own.has_pod_cidr {
        let note = "the Node has no podCIDR, so its pods get no addresses: run kube-controller-manager with --allocate-node-cidrs, or set spec.podCIDRs";
        troubles.push(Trouble {
            reason: "NoPodCIDR",
            note: note.to_owned(),
        });
    }
    if !conflicts.is_empty() {
        troubles.push(Trouble {
            reason: "PodCIDRConflict",
            note: conflicts.join("; "),
        });
    }
    troubles
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fresh() -> OwnNode {
        OwnNode {
            name: "n1".to_owned(),
            taints: [
                json!({"key": TAINT, "effect": "NoSchedule"}),
                json!({"key": "other", "effect": "NoSchedule"}),
                json!({"key": TAINT, "effect": "NoExecute"}),
            ]
            .map(Taint)
            .to_vec(),
            network_unavailable: Some("True".to_owned()),
            has_pod_cidr: true,
            ..OwnNode::default()
        }
    }

    #[test]
    fn a_node_that_does_not_serve_is_told_nothing() {
        let facts = Facts {
            serving: false,
            mtu: Some(1500),
        };
        assert_eq!(plan(&fresh(), &facts), []);
    }

    #[test]
    fn a_node_that_serves_loses_its_taints_last_and_is_then_left_alone() {
        let facts = Facts {
            serving: true,
            mtu: Some(1440),
        };
        let mut own = fresh();
        let writes = plan(&own, &facts);
        let [
            Write::Annotations(annotations),
            Write::NetworkAvailable,
            Write::Taints(stay),
        ] = writes.as_slice()
        else {
            panic!("{writes:?}")
        };
        assert_eq!(annotations["fairlead.dev/mtu"], "1440");
        assert_eq!(stay.len(), 1);
        assert_eq!(stay[0].key(), "other");
        own.annotations.clone_from(annotations);
        own.network_unavailable = Some("False".to_owned());
        own.taints.clone_from(stay);
        assert_eq!(plan(&own, &facts), []);
        // Only what differs is written.
        let larger = Facts {
            mtu: Some(9000),
            ..facts
        };
        let only = BTreeMap::from([("fairlead.dev/mtu".to_owned(), "9000".to_owned())]);
        assert_eq!(plan(&own, &larger), [Write::Annotations(only)]);
    }

    #[test]
    fn what_an_operator_must_know_is_told() {
        let reasons = |own: &OwnNode, conflicts: &[String]| -> Vec<&str> {
            troubles(own, conflicts).iter().map(|t| t.reason).collect()
        };
        assert!(reasons(&fresh(), &[]).is_empty());
        let without = OwnNode::default();
        assert_eq!(
            reasons(&without, &["taken".to_owned()]),
            ["NoPodCIDR", "PodCIDRConflict"]
        );
    }
}
