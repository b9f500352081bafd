//! The compiler against an oracle that is written from the API's text and shares no code with it, and each
//! moment of a change against what was and what shall be.

mod maps;
mod oracle;
mod random;

use super::*;
use crate::{
    model::{
        Action, ClusterPolicy, Judgement, NamedPort, Namespace, NetworkPolicy, Node, Operator,
        Peer, Pod, PortChoice, Ports, Protocol, Requirement, Rule, Selector, Tier,
    },
    state::Cluster,
};
use maps::Maps;
use oracle::{Question, allowed, questions};
use proptest::prelude::*;
use std::{collections::BTreeSet, net::IpAddr};

const NODE: &str = "n1";

/// The pods of the node, by the order of their names.
fn locals(cluster: &Cluster) -> Vec<LocalPod> {
    let here = |pod: &&Pod| pod.node.as_deref() == Some(NODE) && !pod.host_network;
    let pods = cluster.pods.values().filter(here);
    pods.map(|pod| LocalPod {
        // From the name, so that a pod keeps its number.
        endpoint: format!("{}/{}", pod.namespace, pod.name)
            .bytes()
            .fold(7u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte)),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        addresses: pod.ips.clone(),
    })
    .collect()
}

fn is_in(set: &PortSet, question: &Question) -> bool {
    match question.port {
        Some((protocol, port)) => set.has(protocol, port),
        None => set.others,
    }
}

fn check(cluster: &Cluster, maps: &Maps) -> Result<(), TestCaseError> {
    for local in locals(cluster) {
        for question in questions(cluster) {
            let set = maps.set(local.endpoint, question.direction, question.peer);
            let set = set.ok_or_else(|| TestCaseError::fail(format!("{local:?} has no entry")))?;
            let expected = allowed(cluster, &local, &question);
            prop_assert_eq!(
                is_in(&set, &question),
                expected,
                "{:?} {:?} {:?}",
                local,
                question,
                set
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_500))]

    /// Four clusters in a row: 10,000 of them.
    #[test]
    fn tables_say_what_the_policies_say_whatever_was_before(clusters in random::clusters(4)) {
        let mut compiler = Compiler::new(NODE, Start::default());
        let mut maps = Maps::default();
        for cluster in &clusters {
            let tables = compiler.update(cluster, &locals(cluster));
            maps.write_all(&plan(&maps.tables, &tables), &tables);
            check(cluster, &maps)?;
            let settled = compiler.settle();
            maps.write_all(&plan(&maps.tables, &settled), &settled);
            check(cluster, &maps)?;
            prop_assert!(maps.is(&settled), "rows are left or missing");
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// After each single row: what both clusters allow passes, what neither allows doesn't.
    #[test]
    fn no_moment_of_a_change_is_worse_than_before_and_after(clusters in random::clusters(3)) {
        let mut compiler = Compiler::new(NODE, Start::default());
        let mut maps = Maps::default();
        let first = compiler.update(&clusters[0], &locals(&clusters[0]));
        maps.write_all(&plan(&maps.tables, &first), &first);
        for pair in clusters.windows(2) {
            let settled = compiler.settle();
            maps.write_all(&plan(&maps.tables, &settled), &settled);
            let tables = compiler.update(&pair[1], &locals(&pair[1]));
            let stays: Vec<_> = locals(&pair[0]).into_iter().filter(|l| locals(&pair[1]).contains(l)).collect();
            let asked: BTreeSet<Question> = questions(&pair[0]).into_iter().chain(questions(&pair[1])).collect();
            let mut fault = None;
            maps.write_each(&plan(&maps.tables, &tables), &tables, |maps| {
                for local in &stays {
                    // What a pod sends to itself never comes by.
                    let own = |question: &&Question| local.addresses.contains(&question.peer);
                    for question in asked.iter().filter(|question| !own(question)) {
                        let both = [&pair[0], &pair[1]].map(|cluster| allowed(cluster, local, question));
                        let now = maps.set(local.endpoint, question.direction, question.peer);
                        let now = now.is_some_and(|set| is_in(&set, question));
                        if both[0] == both[1] && now != both[0] {
                            fault = Some(format!("{local:?} {question:?} is {now}"));
                        }
                    }
                }
            });
            prop_assert_eq!(fault, None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// What changes between two clusters is what a preview says changes, and nothing else.
    #[test]
    fn a_preview_names_each_pair_that_changes(clusters in random::clusters(2)) {
        let [before, after] = &clusters[..] else { unreachable!() };
        // The pods are those that are; policies change.
        let after = Cluster { policies: after.policies.clone(), cluster_policies: after.cluster_policies.clone(), ..before.clone() };
        let pods = locals(before);
        let preview = Preview::new(before, &after, NODE, &pods);
        let flips = preview.flips();
        for local in &pods {
            for question in questions(before) {
                let said = |flip: &&Flip| {
                    let own = (local.namespace.clone(), local.name.clone());
                    let set = if allowed(before, local, &question) { &flip.lost } else { &flip.gained };
                    let pod = before.pods.values().filter(|pod| !pod.host_network).filter(|pod| pod.ips.contains(&question.peer)).last();
                    let named = pod.is_none_or(|pod| flip.peers.contains(&format!("pod {}/{} ({})", pod.namespace, pod.name, question.peer)));
                    flip.pod == own && flip.direction == question.direction && is_in(set, &question) && named
                };
                let changes = allowed(before, local, &question) != allowed(&after, local, &question);
                let pod = before.pods.values().any(|pod| !pod.host_network && pod.ips.contains(&question.peer));
                if changes {
                    prop_assert!(flips.iter().any(|flip| said(&flip)), "{:?} {:?} {:?}", local, question, flips);
                } else if pod {
                    prop_assert!(!flips.iter().any(|flip| said(&flip)), "{:?} {:?} {:?}", local, question, flips);
                }
            }
        }
    }

    /// And the rule that decides is one that means it.
    #[test]
    fn an_explanation_says_what_the_policies_say(clusters in random::clusters(2)) {
        for cluster in &clusters {
            for local in locals(cluster) {
                for question in questions(cluster) {
                    let port = match question.port {
                        Some((protocol, port)) => Port::Of(protocol, port),
                        None => Port::None,
                    };
                    let said = explain(cluster, NODE, &local, question.direction, question.peer, port);
                    prop_assert_eq!(said.allowed, allowed(cluster, &local, &question), "{:?} {:?} {:?}", local, question, said);
                    let deciding = said.rules.iter().rfind(|rule| rule.decides);
                    let by_rule = said.because == Because::Rule;
                    prop_assert_eq!(by_rule, deciding.is_some_and(|rule| rule.action != Action::Pass), "{:?}", said);
                    prop_assert!(deciding.is_none_or(|rule| rule.peer && rule.port));
                }
            }
        }
    }
}

fn pod(namespace: &str, name: &str, app: &str, ip: &str) -> Pod {
    Pod {
        namespace: namespace.into(),
        name: name.into(),
        uid: None,
        labels: std::sync::Arc::new([("app".to_owned(), app.to_owned())].into()),
        node: Some(NODE.into()),
        host_network: false,
        ips: vec![ip.parse().unwrap()],
        ports: Vec::new(),
    }
}

fn app(value: &str) -> Selector {
    Selector(vec![Requirement {
        key: "app".into(),
        is: Operator::In([value.to_owned()].into()),
    }])
}

fn cluster(pods: Vec<Pod>, policies: Vec<NetworkPolicy>) -> Cluster {
    Cluster {
        namespaces: ["shop", "other"]
            .map(|name| {
                let labels = [("kubernetes.io/metadata.name".to_owned(), name.to_owned())];
                (
                    name.to_owned(),
                    Namespace {
                        name: name.to_owned(),
                        labels: labels.into(),
                    },
                )
            })
            .into_iter()
            .collect(),
        pods: pods
            .into_iter()
            .map(|p| ((p.namespace.clone(), p.name.clone()), p))
            .collect(),
        policies: policies
            .into_iter()
            .map(|p| ((p.namespace.clone(), p.name.clone()), p))
            .collect(),
        ..Cluster::default()
    }
}

fn lets_in(peers: Vec<Peer>, ports: Option<Vec<Ports>>) -> NetworkPolicy {
    NetworkPolicy {
        namespace: "shop".into(),
        name: "web".into(),
        pods: app("web"),
        ingress: Some(vec![Rule {
            peers: Some(peers),
            ports,
        }]),
        egress: None,
    }
}

/// What may come to the pod `web` from an address.
fn comes(cluster: &Cluster, peer: &str) -> PortSet {
    let tables = Compiler::new(NODE, Start::default()).update(cluster, &locals(cluster));
    let web = locals(cluster)
        .into_iter()
        .find(|local| local.name == "web")
        .unwrap();
    tables
        .set(
            web.endpoint,
            Direction::Ingress,
            peer.parse::<IpAddr>().unwrap(),
        )
        .unwrap()
}

/// CVE-2023-41333: a label that a pod can have must not make it one of another namespace.
#[test]
fn a_pod_that_calls_itself_one_of_the_namespace_is_none() {
    let mut intruder = pod("other", "x", "db", "10.1.0.9");
    let name = "kubernetes.io/metadata.name";
    std::sync::Arc::make_mut(&mut intruder.labels).insert(name.into(), "shop".into());
    let pods = vec![
        pod("shop", "web", "web", "10.1.0.2"),
        pod("shop", "db", "db", "10.1.0.3"),
        intruder,
    ];
    let own = Peer::Pods {
        namespaces: None,
        pods: app("db"),
    };
    let named = Peer::Pods {
        namespaces: Some(Selector(vec![Requirement {
            key: name.into(),
            is: Operator::In(["shop".to_owned()].into()),
        }])),
        pods: app("db"),
    };
    for peer in [own, named] {
        let cluster = cluster(pods.clone(), vec![lets_in(vec![peer], None)]);
        assert!(comes(&cluster, "10.1.0.3").is_all());
        assert!(comes(&cluster, "10.1.0.9").is_empty());
    }
}

/// A block means addresses, also where a pod has them; a peer skips that.
#[test]
fn a_block_covers_pods_and_its_exceptions_do_not() {
    let pods = vec![
        pod("shop", "web", "web", "10.1.0.2"),
        pod("shop", "a", "x", "10.1.0.3"),
        pod("shop", "b", "y", "10.1.0.77"),
    ];
    let block = Peer::Block {
        cidr: "10.1.0.0/24".parse().unwrap(),
        except: vec!["10.1.0.64/26".parse().unwrap()],
    };
    // Makes an entry of its own for both.
    let other = Peer::Pods {
        namespaces: None,
        pods: Selector::default(),
    };
    let only = Some(vec![Ports {
        protocol: Protocol::Udp,
        port: PortChoice::Range(53, 53),
    }]);
    let mut policy = lets_in(vec![block], None);
    policy.ingress.as_mut().unwrap().push(Rule {
        peers: Some(vec![other]),
        ports: only,
    });
    let cluster = cluster(pods, vec![policy]);
    assert!(comes(&cluster, "10.1.0.3").is_all());
    assert!(comes(&cluster, "10.1.0.200").is_all() && comes(&cluster, "10.1.0.65").is_empty());
    let excepted = comes(&cluster, "10.1.0.77");
    assert!(
        excepted.has(Protocol::Udp, 53) && !excepted.has(Protocol::Udp, 54) && !excepted.others
    );
}

/// CVE-2023-30851: what everybody may use is not what one peer may use.
#[test]
fn one_peers_everything_is_nobody_elses() {
    let pods = vec![
        pod("shop", "web", "web", "10.1.0.2"),
        pod("shop", "db", "db", "10.1.0.3"),
        pod("shop", "x", "x", "10.1.0.4"),
    ];
    let mut policy = lets_in(
        vec![Peer::Pods {
            namespaces: None,
            pods: app("db"),
        }],
        None,
    );
    policy.ingress.as_mut().unwrap().push(Rule {
        peers: None,
        ports: Some(vec![Ports {
            protocol: Protocol::Tcp,
            port: PortChoice::Range(80, 90),
        }]),
    });
    let cluster = cluster(pods, vec![policy]);
    assert!(comes(&cluster, "10.1.0.3").is_all());
    for stranger in ["10.1.0.4", "192.0.2.1"] {
        let set = comes(&cluster, stranger);
        assert_eq!(set.ranges(Protocol::Tcp), [(80, 90)], "{stranger}");
        assert!(!set.others && set.ranges(Protocol::Udp).is_empty());
    }
}

#[test]
fn a_pod_that_nobody_knows_yet_is_closed_where_policies_are_and_open_elsewhere() {
    let cluster = cluster(Vec::new(), vec![lets_in(Vec::new(), None)]);
    let unknown = |endpoint, namespace: &str| LocalPod {
        endpoint,
        namespace: namespace.into(),
        name: "new".into(),
        addresses: Vec::new(),
    };
    let tables = Compiler::new(NODE, Start::default())
        .update(&cluster, &[unknown(1, "shop"), unknown(2, "other")]);
    for direction in Direction::BOTH {
        let with = |endpoint| {
            tables
                .set(endpoint, direction, "192.0.2.1".parse().unwrap())
                .unwrap()
        };
        assert!(with(1).is_empty() && with(2).is_all());
    }
}

/// The kubelet writes a pod's address into its status a moment after the pod has started.
#[test]
fn a_local_pod_is_a_peer_before_its_status_has_its_address() {
    let mut db = pod("shop", "db", "db", "10.1.0.3");
    db.ips.clear();
    let peer = Peer::Pods {
        namespaces: None,
        pods: app("db"),
    };
    let pods = vec![pod("shop", "web", "web", "10.1.0.2"), db];
    let cluster = cluster(pods, vec![lets_in(vec![peer], None)]);
    let mut locals = locals(&cluster);
    let web = locals.iter().find(|l| l.name == "web").unwrap().endpoint;
    let address: IpAddr = "10.1.0.3".parse().unwrap();
    let mut compiler = Compiler::new(NODE, Start::default());
    let mut comes = |locals: &[LocalPod]| {
        let tables = compiler.update(&cluster, locals);
        tables.set(web, Direction::Ingress, address).unwrap()
    };
    assert!(comes(&locals).is_empty());
    let db = locals.iter_mut().find(|l| l.name == "db").unwrap();
    db.addresses.push(address);
    assert!(comes(&locals).is_all());
    locals.retain(|local| local.name == "web");
    assert!(comes(&locals).is_empty(), "it has gone");
}

#[test]
fn a_changed_label_writes_the_rows_of_that_pod() {
    let mut pods: Vec<Pod> = (2..250)
        .map(|n| pod("shop", &format!("p{n}"), "db", &format!("10.1.0.{n}")))
        .collect();
    pods.push(pod("shop", "web", "web", "10.1.0.250"));
    let policies = vec![lets_in(
        vec![Peer::Pods {
            namespaces: None,
            pods: app("db"),
        }],
        None,
    )];
    let before = cluster(pods.clone(), policies);
    let mut compiler = Compiler::new(NODE, Start::default());
    compiler.update(&before, &locals(&before));
    let first = compiler.settle();
    let mut after = before.clone();
    std::sync::Arc::make_mut(&mut pods[7].labels).insert("app".into(), "x".into());
    after
        .pods
        .insert(("shop".into(), "p9".into()), pods[7].clone());
    let second = compiler.update(&after, &locals(&after));
    assert_eq!(
        plan(&first, &second).rows(),
        1,
        "its address means nobody any more"
    );
    let port = NamedPort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: 80,
    };
    pods[7].ports.push(port);
    after
        .pods
        .insert(("shop".into(), "p9".into()), pods[7].clone());
    compiler.settle();
    let third = compiler.update(&after, &locals(&after));
    assert_eq!(plan(&second, &third).rows(), 0, "nobody names it");
}

/// The pod whose packets they are is the one that is left.
#[test]
fn of_two_pods_with_one_address_the_one_that_stays_is_who_has_it() {
    let peer = Peer::Pods {
        namespaces: None,
        pods: app("db"),
    };
    let pods = vec![
        pod("shop", "web", "web", "10.1.0.2"),
        pod("shop", "db", "db", "10.1.0.3"),
        pod("shop", "later", "x", "10.1.0.3"),
    ];
    let other = Peer::Pods {
        namespaces: None,
        pods: app("x"),
    };
    let only = Some(vec![Ports {
        protocol: Protocol::Udp,
        port: PortChoice::All,
    }]);
    let mut policy = lets_in(vec![peer], None);
    policy.ingress.as_mut().unwrap().push(Rule {
        peers: Some(vec![other]),
        ports: only,
    });
    let mut cluster = cluster(pods, vec![policy]);
    let mut compiler = Compiler::new(NODE, Start::default());
    let local = locals(&cluster)
        .into_iter()
        .find(|l| l.name == "web")
        .unwrap();
    let mut comes = |cluster: &Cluster| {
        compiler.update(cluster, &locals(cluster));
        let tables = compiler.settle();
        let address = "10.1.0.3".parse().unwrap();
        tables
            .set(local.endpoint, Direction::Ingress, address)
            .unwrap()
    };
    assert!(!comes(&cluster).is_all());
    cluster
        .pods
        .remove(&("shop".to_owned(), "later".to_owned()));
    assert!(comes(&cluster).is_all());
}

/// Tiers before priorities before the order of rules; what a rule leaves open the next may decide
/// (CVE-2024-47825: a wide denial lost to a narrow rule; CVE-2024-52529: a range hid what lay in it).
#[test]
fn the_first_rule_that_means_a_packet_decides_and_port_ranges_may_lie_in_one_another() {
    let everybody = || {
        Some(vec![Peer::Block {
            cidr: "0.0.0.0/0".parse().unwrap(),
            except: Vec::new(),
        }])
    };
    let of = |cidr: &str| {
        Some(vec![Peer::Block {
            cidr: cidr.parse().unwrap(),
            except: Vec::new(),
        }])
    };
    let tcp = |first, last| {
        Some(vec![Ports {
            protocol: Protocol::Tcp,
            port: PortChoice::Range(first, last),
        }])
    };
    let judgement = |action, peers, ports| Judgement {
        name: String::new(),
        action,
        rule: Rule { peers, ports },
    };
    let policy = |name: &str, tier, priority, ingress| ClusterPolicy {
        kind: "ClusterNetworkPolicy".into(),
        name: name.into(),
        tier,
        priority,
        namespaces: Selector::default(),
        pods: Selector::default(),
        ingress,
        egress: Vec::new(),
        unmet: Vec::new(),
    };
    let policies = [
        // A range within the range that a later one denies, and a narrow network within a wide one.
        policy(
            "z",
            Tier::Admin,
            1,
            vec![
                judgement(Action::Accept, everybody(), tcp(80, 90)),
                judgement(Action::Deny, of("10.9.0.0/16"), tcp(85, 200)),
            ],
        ),
        policy(
            "a",
            Tier::Admin,
            2,
            vec![
                judgement(Action::Accept, of("10.9.9.0/24"), tcp(150, 150)),
                judgement(Action::Pass, of("10.8.0.0/16"), tcp(300, 310)),
                judgement(Action::Deny, everybody(), tcp(70, 400)),
            ],
        ),
        policy(
            "b",
            Tier::Baseline,
            0,
            vec![
                judgement(Action::Deny, of("10.8.1.0/24"), tcp(305, 305)),
                judgement(Action::Deny, everybody(), tcp(500, 500)),
            ],
        ),
    ];
    let mut cluster = cluster(vec![pod("shop", "web", "web", "10.1.0.2")], Vec::new());
    for policy in policies {
        cluster
            .cluster_policies
            .insert((policy.kind.clone(), policy.name.clone()), policy);
    }
    let wide = comes(&cluster, "10.9.1.1");
    assert_eq!(
        wide.ranges(Protocol::Tcp),
        [(0, 69), (80, 90), (401, 499), (501, 65_535)]
    );
    assert_eq!(
        comes(&cluster, "10.9.9.1"),
        wide,
        "the narrow network's Accept comes after the wide one's Deny"
    );
    let passed = comes(&cluster, "10.8.0.1");
    assert_eq!(
        passed.ranges(Protocol::Tcp),
        [(0, 69), (80, 90), (300, 310), (401, 499), (501, 65_535)]
    );
    assert!(!comes(&cluster, "10.8.1.1").has(Protocol::Tcp, 305));
    assert!(wide.others && wide.ranges(Protocol::Udp) == [(0, 65_535)]);
}

/// A pod becomes a peer that the old rules deny, in the same change that allows it: nobody is told half of that.
#[test]
fn new_peers_and_new_rules_of_one_change_come_together() {
    let peer = Peer::Pods {
        namespaces: Some(Selector::default()),
        pods: Selector::default(),
    };
    let denied = Judgement {
        name: String::new(),
        action: Action::Deny,
        rule: Rule {
            peers: Some(vec![peer]),
            ports: None,
        },
    };
    let guard = ClusterPolicy {
        kind: "ClusterNetworkPolicy".into(),
        name: "guard".into(),
        tier: Tier::Baseline,
        priority: 0,
        namespaces: Selector::default(),
        pods: Selector::default(),
        ingress: vec![denied],
        egress: Vec::new(),
        unmet: Vec::new(),
    };
    let web = pod("shop", "web", "web", "10.1.0.2");
    let with = |pods: Vec<Pod>, policies| {
        let mut cluster = cluster(pods, policies);
        let key = (guard.kind.clone(), guard.name.clone());
        cluster.cluster_policies.insert(key, guard.clone());
        cluster
    };
    let before = with(vec![web.clone()], Vec::new());
    let mut open = lets_in(Vec::new(), None);
    open.ingress = Some(vec![Rule::default()]);
    let new = pod("shop", "new", "new", "10.1.0.3");
    let after = with(vec![web.clone(), new], vec![open]);
    let local = locals(&before).remove(0);
    let mut compiler = Compiler::new(NODE, Start::default());
    let mut maps = Maps::default();
    let first = compiler.update(&before, std::slice::from_ref(&local));
    maps.write_all(&plan(&maps.tables, &first), &first);
    let tables = compiler.update(&after, std::slice::from_ref(&local));
    let mut moments = 0;
    maps.write_each(&plan(&maps.tables, &tables), &tables, |maps| {
        let peer = "10.1.0.3".parse().unwrap();
        let set = maps.set(local.endpoint, Direction::Ingress, peer).unwrap();
        assert!(set.is_all(), "{set:?}");
        moments += 1;
    });
    assert!(moments > 3);
}

/// CVE-2025-30163: labels of nodes are no labels of pods.
#[test]
fn a_node_selector_means_no_pod_with_the_same_labels() {
    let judgement = Judgement {
        name: String::new(),
        action: Action::Deny,
        rule: Rule {
            peers: Some(vec![Peer::Nodes(app("db"))]),
            ports: None,
        },
    };
    let policy = ClusterPolicy {
        kind: "ClusterNetworkPolicy".into(),
        name: "nodes".into(),
        tier: Tier::Admin,
        priority: 0,
        namespaces: Selector::default(),
        pods: Selector::default(),
        ingress: Vec::new(),
        egress: vec![judgement],
        unmet: Vec::new(),
    };
    let pods = vec![
        pod("shop", "web", "web", "10.1.0.2"),
        pod("shop", "db", "db", "10.1.0.3"),
    ];
    let mut cluster = cluster(pods, Vec::new());
    cluster
        .cluster_policies
        .insert((policy.kind.clone(), policy.name.clone()), policy);
    for (name, address, label) in [("n2", "192.0.2.2", "db"), ("n3", "192.0.2.3", "web")] {
        let node = Node {
            name: name.into(),
            addresses: vec![address.parse().unwrap()],
            labels: [("app".to_owned(), label.to_owned())].into(),
            ..Node::default()
        };
        cluster.nodes.insert(name.into(), node);
    }
    let tables = Compiler::new(NODE, Start::default()).update(&cluster, &locals(&cluster));
    let web = locals(&cluster)
        .into_iter()
        .find(|local| local.name == "web")
        .unwrap();
    let goes = |peer: &str| {
        let set = tables.set(web.endpoint, Direction::Egress, peer.parse().unwrap());
        set.unwrap()
    };
    assert!(goes("192.0.2.2").is_empty());
    assert!(goes("10.1.0.3").is_all() && goes("192.0.2.3").is_all());
}
