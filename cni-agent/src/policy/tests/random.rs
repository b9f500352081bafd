//! Random clusters: few names, so that things meet.

use super::{
    NODE, NamedPort, Namespace, NetworkPolicy, Operator, Peer, Pod, PortChoice, Ports, Protocol,
    Requirement, Rule, Selector,
};
use crate::{
    model::{Action, ClusterPolicy, DomainPattern, Judgement, Node, Tier},
    state::Cluster,
};
use proptest::{
    collection::{btree_map, btree_set, vec},
    option,
    prelude::*,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Clusters in a row, of which each has much of the one before.
pub(super) fn clusters(count: usize) -> impl Strategy<Value = Vec<Cluster>> {
    let changes = vec(
        (
            vec(pod(), 0..3),
            vec(policy(), 0..2),
            vec(cluster_policy(), 0..2),
            vec(namespace(), 0..2),
            vec(node(), 0..2),
            domains(),
            0..4usize,
        ),
        count - 1,
    );
    (
        vec(pod(), 1..9),
        vec(policy(), 0..6),
        // Half of the clusters have none, as most have.
        prop_oneof![Just(Vec::new()), vec(cluster_policy(), 1..4)],
        vec(namespace(), 0..4),
        vec(node(), 0..3),
        domains(),
        changes,
    )
        .prop_map(
            |(pods, policies, of_cluster, namespaces, nodes, names, changes)| {
                let mut cluster = Cluster::default();
                let none = of_cluster.is_empty();
                add(&mut cluster, pods, policies, namespaces);
                add_more(&mut cluster, of_cluster, nodes, names);
                let mut all = vec![cluster.clone()];
                for (pods, policies, of_cluster, namespaces, nodes, names, gone) in changes {
                    let key = cluster.cluster_policies.keys().nth(gone).cloned();
                    if let Some(key) = key {
                        cluster.cluster_policies.remove(&key);
                    }
                    let of_cluster = if none { Vec::new() } else { of_cluster };
                    add_more(&mut cluster, of_cluster, nodes, names);
                    let key = cluster.policies.keys().nth(gone).cloned();
                    if let Some(key) = key {
                        cluster.policies.remove(&key);
                    }
                    let key = cluster.pods.keys().nth(gone + 2).cloned();
                    if let Some(key) = key {
                        cluster.pods.remove(&key);
                    }
                    add(&mut cluster, pods, policies, namespaces);
                    all.push(cluster.clone());
                }
                all
            },
        )
}

fn add(
    cluster: &mut Cluster,
    pods: Vec<Pod>,
    policies: Vec<NetworkPolicy>,
    namespaces: Vec<Namespace>,
) {
    for pod in pods {
        cluster
            .pods
            .insert((pod.namespace.clone(), pod.name.clone()), pod);
    }
    for policy in policies {
        cluster
            .policies
            .insert((policy.namespace.clone(), policy.name.clone()), policy);
    }
    for namespace in namespaces {
        cluster.namespaces.insert(namespace.name.clone(), namespace);
    }
}

fn add_more(
    cluster: &mut Cluster,
    policies: Vec<ClusterPolicy>,
    nodes: Vec<Node>,
    names: BTreeMap<String, BTreeSet<IpAddr>>,
) {
    for (name, addresses) in names {
        cluster.domains.insert(name, addresses);
    }
    for policy in policies {
        let key = (policy.kind.clone(), policy.name.clone());
        cluster.cluster_policies.insert(key, policy);
    }
    for node in nodes {
        cluster.nodes.insert(node.name.clone(), node);
    }
}

/// Names of somebody outside, of pods and of nodes; an empty set: it has none any more.
fn domains() -> impl Strategy<Value = BTreeMap<String, BTreeSet<IpAddr>>> {
    let address = one_of(&[
        "198.51.100.9",
        "2001:db8::9",
        "10.0.0.1",
        "10.0.0.70",
        "fd00::1",
        "192.0.2.1",
        "10.0.1.1",
    ]);
    let address = address.prop_map(|address| address.parse().unwrap());
    btree_map(one_of(NAMES), btree_set(address, 0..3), 0..3)
}

const NAMES: &[&str] = &[
    "example.com",
    "a.example.com",
    "c.a.example.com",
    "a.example.org",
];

fn pattern() -> impl Strategy<Value = Peer> {
    let text = prop_oneof![
        2 => one_of(NAMES),
        1 => one_of(&["*.example.com", "*.a.example.com", "*.example.org"]),
    ];
    text.prop_map(|text| Peer::Domain(DomainPattern::parse(&text).unwrap()))
}

fn one_of(all: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(all).prop_map(ToOwned::to_owned)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp][..])
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(one_of(&["a", "b"]), one_of(&["x", "y"]), 0..3)
}

fn namespace() -> impl Strategy<Value = Namespace> {
    (one_of(&["s", "t", "u"]), labels()).prop_map(|(name, labels)| Namespace { name, labels })
}

fn pod() -> impl Strategy<Value = Pod> {
    let named = (
        one_of(&["web", "db"]),
        protocol(),
        prop::sample::select(&[80u16, 8080, 90][..]),
    );
    let named = named.prop_map(|(name, protocol, port)| NamedPort {
        name,
        protocol,
        port,
    });
    (
        one_of(&["s", "t"]),
        0..6u8,
        labels(),
        vec(named, 0..3),
        any::<bool>(),
        0..10u8,
        any::<bool>(),
    )
        .prop_map(|(namespace, number, labels, mut ports, here, kind, both)| {
            ports.sort_unstable();
            // One address for each pod: of two that share one, nobody knows whose packets are.
            let place = u16::from(number) + if namespace == "s" { 0 } else { 64 };
            let mut ips = vec![format!("10.0.0.{}", place + 1).parse().unwrap()];
            if both {
                ips.push(format!("fd00::{:x}", place + 1).parse().unwrap());
            }
            Pod {
                name: format!("p{number}"),
                namespace,
                uid: None,
                labels: labels.into(),
                node: Some(if here {
                    NODE.to_owned()
                } else {
                    "n2".to_owned()
                }),
                host_network: kind == 0,
                ips: if kind == 1 { Vec::new() } else { ips },
                ports,
            }
        })
}

fn selector() -> impl Strategy<Value = Selector> {
    let is = prop_oneof![
        3 => btree_set(one_of(&["x", "y"]), 1..3).prop_map(Operator::In),
        1 => btree_set(one_of(&["x", "y"]), 1..3).prop_map(Operator::NotIn),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    let requirement = (one_of(&["a", "b"]), is).prop_map(|(key, is)| Requirement { key, is });
    vec(requirement, 0..3).prop_map(Selector)
}

fn peer() -> impl Strategy<Value = Peer> {
    let block = prop::sample::select(
        &[
            ("0.0.0.0/0", ""),
            ("0.0.0.0/0", "10.0.0.0/24"),
            ("10.0.0.0/24", "10.0.0.64/26"),
            ("10.0.0.0/29", ""),
            ("10.0.0.0/29", "10.0.0.4/30"),
            ("10.0.0.1/32", ""),
            ("::/0", ""),
            ("fd00::/120", "fd00::40/122"),
            ("192.0.2.0/24", ""),
        ][..],
    );
    let block = block.prop_map(|(cidr, except)| Peer::Block {
        cidr: cidr.parse().unwrap(),
        except: Some(except)
            .filter(|e| !e.is_empty())
            .map(|e| e.parse().unwrap())
            .into_iter()
            .collect(),
    });
    let pods = (option::of(selector()), selector())
        .prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods });
    prop_oneof![2 => pods, 1 => block]
}

fn ports() -> impl Strategy<Value = Ports> {
    let choice = prop_oneof![
        1 => Just(PortChoice::All),
        2 => prop::sample::select(&[(80u16, 80u16), (80, 90), (81, 81), (8080, 8080), (1, 65_535), (79, 8080)][..])
            .prop_map(|(first, last)| PortChoice::Range(first, last)),
        2 => one_of(&["web", "db", "none"]).prop_map(PortChoice::Named),
    ];
    (protocol(), choice).prop_map(|(protocol, port)| Ports { protocol, port })
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        option::weighted(0.8, vec(peer(), 1..3)),
        option::weighted(0.7, vec(ports(), 1..3)),
    )
        .prop_map(|(peers, ports)| Rule { peers, ports })
}

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    option::weighted(0.7, vec(rule(), 0..3))
}

fn policy() -> impl Strategy<Value = NetworkPolicy> {
    (one_of(&["s", "t"]), 0..5u8, selector(), rules(), rules()).prop_map(
        |(namespace, number, pods, ingress, egress)| NetworkPolicy {
            namespace,
            name: format!("r{number}"),
            pods,
            ingress,
            egress,
        },
    )
}

/// Two nodes at addresses that are asked about.
fn node() -> impl Strategy<Value = Node> {
    let places = [
        (NODE, ["192.0.2.1", "2001:db8::1"]),
        ("n2", ["10.0.1.1", "10.0.0.90"]),
    ];
    (prop::sample::select(places.to_vec()), labels()).prop_map(|((name, addresses), labels)| {
        let [first, further] = addresses.map(|address| address.parse().unwrap());
        Node {
            name: name.into(),
            addresses: vec![first],
            further_addresses: vec![further],
            labels,
            ..Node::default()
        }
    })
}

/// Its peers are what a ClusterNetworkPolicy can have.
fn judgements() -> impl Strategy<Value = Vec<Judgement>> {
    let action = prop::sample::select(&[Action::Accept, Action::Deny, Action::Pass][..]);
    let nodes = option::weighted(0.2, selector());
    let names = option::weighted(0.2, pattern());
    let judgement = (action, rule(), nodes, names).prop_map(|(action, mut rule, nodes, names)| {
        for peer in rule.peers.iter_mut().flatten() {
            if let Peer::Pods { namespaces, .. } = peer {
                namespaces.get_or_insert_default();
            }
        }
        if let (Some(peers), Some(nodes)) = (&mut rule.peers, nodes) {
            peers.push(Peer::Nodes(nodes));
        }
        if let Some(peers) = &mut rule.peers {
            peers.extend(names);
        }
        Judgement {
            name: String::new(),
            action,
            rule,
        }
    });
    vec(judgement, 0..4)
}

fn cluster_policy() -> impl Strategy<Value = ClusterPolicy> {
    let tier = prop::sample::select(&[Tier::Admin, Tier::Baseline][..]);
    (
        0..4u8,
        tier,
        0..3,
        (selector(), selector()),
        judgements(),
        judgements(),
    )
        .prop_map(
            |(number, tier, priority, (namespaces, pods), ingress, egress)| ClusterPolicy {
                kind: "ClusterNetworkPolicy".into(),
                name: format!("c{number}"),
                tier,
                priority,
                namespaces,
                pods,
                ingress,
                egress,
                unmet: Vec::new(),
            },
        )
}
