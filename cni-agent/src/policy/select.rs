//! Which policies are about which pods of a node, and what their words mean.

use super::{
    Direction, LocalPod,
    peers::{Meaning, Namespaces},
};
use crate::{
    model::{ClusterPolicy, Judgement, NamedPort, Namespace, NetworkPolicy, Node, Peer, Rule},
    state::Cluster,
};
use std::{collections::HashMap, net::IpAddr};

/// What a local pod is told by policies, before peers have numbers.
#[derive(Debug)]
pub(super) struct Selected<'a> {
    pub(super) pod: &'a LocalPod,
    pub(super) ingress: Option<Vec<&'a NetworkPolicy>>,
    pub(super) egress: Option<Vec<&'a NetworkPolicy>>,
    /// In the order in which they are asked.
    pub(super) cluster: Vec<&'a ClusterPolicy>,
    /// Everything, whatever else is said.
    pub(super) denied: bool,
    /// Its namespace only has them watched.
    pub(super) audit: bool,
    pub(super) ports: &'a [NamedPort],
}

impl<'a> Selected<'a> {
    /// Every rule with the namespace of its policy.
    pub(super) fn rules(&self) -> impl Iterator<Item = (Direction, &'a str, &'a Rule)> + '_ {
        let of = |policies: &Option<Vec<&'a NetworkPolicy>>, side| {
            let policies: Vec<&'a NetworkPolicy> = policies.iter().flatten().copied().collect();
            policies.into_iter().flat_map(move |policy| {
                rules(policy, side).map(move |rule| (side, policy.namespace.as_str(), rule))
            })
        };
        let of_cluster = Direction::BOTH.into_iter().flat_map(|side| {
            let policies = self.cluster.iter();
            policies.flat_map(move |policy| {
                judgements(policy, side)
                    .iter()
                    .map(move |judgement| (side, "", &judgement.rule))
            })
        });
        of(&self.ingress, Direction::Ingress)
            .chain(of(&self.egress, Direction::Egress))
            .chain(of_cluster)
    }
}

pub(super) fn judgements(policy: &ClusterPolicy, side: Direction) -> &[Judgement] {
    match side {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

/// Every address by which it may be meant.
pub(super) fn all_addresses(node: &Node) -> impl Iterator<Item = IpAddr> + '_ {
    node.addresses
        .iter()
        .chain(&node.further_addresses)
        .copied()
}

/// Whether policies about a namespace's pods only watch: a label that no pod can give itself.
fn is_watched(namespace: &Namespace) -> bool {
    let mode = namespace.labels.get(AUDIT_LABEL);
    mode.is_some_and(|mode| mode == "audit")
}

/// Label of a namespace whose policies are to be watched, not enforced: `audit`.
const AUDIT_LABEL: &str = "fairlead.dev/network-policy";

pub(super) fn rules(policy: &NetworkPolicy, side: Direction) -> impl Iterator<Item = &Rule> {
    let rules = match side {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    };
    rules.iter().flatten()
}

/// Which policies are about which local pods.
pub(super) fn select<'a>(cluster: &'a Cluster, locals: &'a [LocalPod]) -> Vec<Selected<'a>> {
    let mut of: HashMap<&str, Vec<&NetworkPolicy>> = HashMap::new();
    for policy in cluster.policies.values() {
        of.entry(&policy.namespace).or_default().push(policy);
    }
    let mut of_cluster: Vec<&ClusterPolicy> = cluster.cluster_policies.values().collect();
    // Those of one priority in the order of their keys.
    of_cluster.sort_by_key(|policy| policy.priority);
    let one = |local: &'a LocalPod| {
        let policies = of
            .get(local.namespace.as_str())
            .map_or(&[][..], Vec::as_slice);
        let (pod, namespace) = (
            cluster.pods.get(&local.key()),
            cluster.namespaces.get(&local.namespace),
        );
        let may_be_about = |policy: &&ClusterPolicy| {
            namespace.is_none_or(|namespace| policy.namespaces.selects(&namespace.labels))
        };
        let audit = namespace.is_some_and(is_watched);
        // Nobody knows its labels yet, or its namespace's: whatever policies there are may be about it.
        let denied = match pod {
            None => of_cluster.iter().any(may_be_about),
            Some(_) => namespace.is_none() && !of_cluster.is_empty(),
        };
        let Some(pod) = pod.filter(|_| !denied) else {
            let closed = || (!policies.is_empty()).then(Vec::new);
            return Selected {
                pod: local,
                ingress: closed(),
                egress: closed(),
                cluster: Vec::new(),
                denied,
                audit,
                ports: &[],
            };
        };
        let about = |has: fn(&NetworkPolicy) -> bool| -> Option<Vec<&NetworkPolicy>> {
            let about = policies
                .iter()
                .filter(|p| has(p) && p.pods.selects(&pod.labels));
            let about: Vec<_> = about.copied().collect();
            (!about.is_empty()).then_some(about)
        };
        let about_it =
            |policy: &&&ClusterPolicy| may_be_about(policy) && policy.pods.selects(&pod.labels);
        Selected {
            pod: local,
            ingress: about(|policy| policy.ingress.is_some()),
            egress: about(|policy| policy.egress.is_some()),
            cluster: of_cluster.iter().filter(about_it).copied().collect(),
            denied,
            audit,
            ports: &pod.ports,
        }
    };
    locals.iter().map(one).collect()
}

pub(super) fn meaning(peer: &Peer, namespace: &str) -> Meaning {
    match peer {
        Peer::Pods { namespaces, pods } => Meaning::Pods {
            of: match namespaces {
                None => Namespaces::One(namespace.to_owned()),
                Some(selector) => Namespaces::Selected(selector.clone()),
            },
            pods: pods.clone(),
        },
        Peer::Nodes(selector) => Meaning::Nodes(selector.clone()),
        Peer::Block { cidr, except } => Meaning::Block {
            cidr: *cidr,
            except: except.clone(),
        },
        Peer::Domain(pattern) => Meaning::Domain(pattern.clone()),
    }
}
