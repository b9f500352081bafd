//! What the API's text says, read out for one packet at a time.

use super::{Direction, LocalPod};
use crate::{
    model::{
        Action, NamedPort, Node, Operator, Peer, Pod, PortChoice, Protocol, Rule, Selector, Tier,
    },
    state::Cluster,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// May the pod talk with this peer?
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    pub(super) direction: Direction,
    pub(super) peer: IpAddr,
    /// None: a protocol without ports.
    pub(super) port: Option<(Protocol, u16)>,
}

/// Everything worth asking.
pub(super) fn questions(cluster: &Cluster) -> BTreeSet<Question> {
    let mut peers: BTreeSet<IpAddr> = cluster
        .pods
        .values()
        .flat_map(|pod| pod.ips.clone())
        .collect();
    for text in [
        "192.0.2.1",
        "10.0.0.1",
        "10.0.0.6",
        "10.0.0.70",
        "10.0.0.90",
        "10.0.1.1",
        "fd00::1",
        "fd00::46",
        "2001:db8::1",
        "198.51.100.9",
        "2001:db8::9",
    ] {
        peers.insert(text.parse().unwrap());
    }
    let mut asked = BTreeSet::new();
    for peer in peers {
        for direction in Direction::BOTH {
            asked.insert(Question {
                direction,
                peer,
                port: None,
            });
            for protocol in Protocol::ALL {
                for port in [1, 79, 80, 81, 90, 91, 8080, 65_535] {
                    asked.insert(Question {
                        direction,
                        peer,
                        port: Some((protocol, port)),
                    });
                }
            }
        }
    }
    asked
}

pub(super) fn allowed(cluster: &Cluster, local: &LocalPod, question: &Question) -> bool {
    let pod = cluster
        .pods
        .get(&(local.namespace.clone(), local.name.clone()))
        .unwrap();
    let own = cluster.nodes.get(pod.node.as_ref().unwrap());
    let of_node = own.is_some_and(|own| is_of(own, question.peer));
    if of_node && question.direction == Direction::Ingress {
        return true;
    }
    let namespace = cluster.namespaces.get(&pod.namespace);
    if namespace.is_none() && !cluster.cluster_policies.is_empty() {
        return false;
    }
    match tier(cluster, Tier::Admin, pod, question) {
        Some(Action::Accept) => return true,
        Some(Action::Deny) => return false,
        Some(Action::Pass) | None => {}
    }
    let mut isolated = false;
    for policy in cluster.policies.values() {
        if policy.namespace != pod.namespace || !matches(&policy.pods, &pod.labels) {
            continue;
        }
        let rules = match question.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        let Some(rules) = rules else { continue };
        isolated = true;
        let mut rules = rules.iter();
        if of_node || rules.any(|rule| lets(cluster, pod, &policy.namespace, rule, question)) {
            return true;
        }
    }
    if isolated {
        return false;
    }
    tier(cluster, Tier::Baseline, pod, question) != Some(Action::Deny)
}

/// What the first rule of a tier that means it says.
fn tier(cluster: &Cluster, tier: Tier, pod: &Pod, question: &Question) -> Option<Action> {
    let namespace = cluster.namespaces.get(&pod.namespace)?;
    let mut policies: Vec<_> = cluster.cluster_policies.values().collect();
    policies.sort_by(|a, b| (a.priority, &a.kind, &a.name).cmp(&(b.priority, &b.kind, &b.name)));
    for policy in policies {
        let about = policy.tier == tier
            && matches(&policy.namespaces, &namespace.labels)
            && matches(&policy.pods, &pod.labels);
        if !about {
            continue;
        }
        let rules = match question.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        for rule in rules {
            if lets(cluster, pod, "", &rule.rule, question) {
                return Some(rule.action);
            }
        }
    }
    None
}

fn is_of(node: &Node, address: IpAddr) -> bool {
    node.addresses.contains(&address) || node.further_addresses.contains(&address)
}

/// Whether a rule means it.
fn lets(cluster: &Cluster, pod: &Pod, namespace: &str, rule: &Rule, question: &Question) -> bool {
    // The last one, as when pods that share an address are entered one after the other.
    let other = cluster
        .pods
        .values()
        .filter(|p| !p.host_network && p.ips.contains(&question.peer))
        .last();
    if let Some(peers) = &rule.peers {
        let mut found = false;
        for peer in peers {
            found |= match peer {
                Peer::Block { cidr, except } => {
                    cidr.contains(question.peer)
                        && except.iter().all(|part| !part.contains(question.peer))
                }
                Peer::Nodes(selector) => cluster
                    .nodes
                    .values()
                    .any(|node| is_of(node, question.peer) && matches(selector, &node.labels)),
                Peer::Domain(pattern) => cluster.domains.iter().any(|(name, addresses)| {
                    let meant = match pattern.as_str().strip_prefix("*.") {
                        Some(parent) => name.split_once('.').is_some_and(|(_, rest)| {
                            rest == parent || rest.ends_with(&format!(".{parent}"))
                        }),
                        None => name == pattern.as_str(),
                    };
                    meant && addresses.contains(&question.peer)
                }),
                Peer::Pods { namespaces, pods } => other.is_some_and(|other| {
                    let there = match namespaces {
                        None => other.namespace == namespace,
                        Some(selector) => cluster
                            .namespaces
                            .get(&other.namespace)
                            .is_some_and(|namespace| matches(selector, &namespace.labels)),
                    };
                    there && matches(pods, &other.labels)
                }),
            };
        }
        if !found {
            return false;
        }
    }
    let Some(ports) = &rule.ports else {
        return true;
    };
    let Some((protocol, number)) = question.port else {
        return false;
    };
    // Whose ports are meant: those of the pod that is connected to.
    let named: &[NamedPort] = match question.direction {
        Direction::Ingress => &pod.ports,
        Direction::Egress => other.map_or(&[], |other| &other.ports),
    };
    ports.iter().any(|entry| {
        entry.protocol == protocol
            && match &entry.port {
                PortChoice::All => true,
                PortChoice::Range(first, last) => number >= *first && number <= *last,
                PortChoice::Named(name) => named
                    .iter()
                    .any(|p| p.name == *name && p.protocol == protocol && p.port == number),
            }
    })
}

fn matches(selector: &Selector, labels: &BTreeMap<String, String>) -> bool {
    for requirement in &selector.0 {
        let has = labels.get(&requirement.key);
        let good = match (&requirement.is, has) {
            (Operator::In(values), Some(value)) => values.contains(value),
            (Operator::In(_) | Operator::Exists, None) | (Operator::DoesNotExist, Some(_)) => false,
            (Operator::NotIn(values), Some(value)) => !values.contains(value),
            (Operator::NotIn(_) | Operator::DoesNotExist, None) | (Operator::Exists, Some(_)) => {
                true
            }
        };
        if !good {
            return false;
        }
    }
    true
}
