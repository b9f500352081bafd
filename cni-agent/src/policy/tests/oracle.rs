//! What the API's text says, read out for one packet at a time.

use super::{Direction, LocalPod};
use crate::{
    model::{NamedPort, NetworkPolicy, Operator, Peer, Pod, PortChoice, Protocol, Rule, Selector},
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
        "10.0.1.1",
        "fd00::1",
        "fd00::46",
        "2001:db8::1",
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
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
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
        if rules
            .iter()
            .any(|rule| lets(cluster, pod, policy, rule, question))
        {
            return true;
        }
    }
    !isolated
}

fn lets(
    cluster: &Cluster,
    pod: &Pod,
    policy: &NetworkPolicy,
    rule: &Rule,
    question: &Question,
) -> bool {
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
                Peer::Pods { namespaces, pods } => other.is_some_and(|other| {
                    let there = match namespaces {
                        None => other.namespace == policy.namespace,
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
