//! The compiled tables, case by case and against a plain reading of the API.

use super::*;
use crate::model::SlicePort;
use proptest::prelude::*;

fn service(name: &str, ips: &[&str]) -> Service {
    Service {
        namespace: "default".into(),
        name: name.into(),
        cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        internal_local: false,
        affinity_secs: None,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
    }
}

fn endpoint(address: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint {
        address: address.parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(node.into()),
    }
}

fn ending(address: &str, serving: bool) -> SliceEndpoint {
    SliceEndpoint {
        ready: false,
        serving,
        terminating: true,
        ..endpoint(address, "n1")
    }
}

fn slice(name: &str, service: &str, endpoints: Vec<SliceEndpoint>) -> EndpointSlice {
    EndpointSlice {
        namespace: "default".into(),
        name: name.into(),
        service: service.into(),
        ports: vec![SlicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints,
    }
}

fn cluster(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Cluster {
    let key = |namespace: &String, name: &String| (namespace.clone(), name.clone());
    Cluster {
        services: services
            .into_iter()
            .map(|s| (key(&s.namespace, &s.name), s))
            .collect(),
        slices: slices
            .into_iter()
            .map(|s| (key(&s.namespace, &s.name), s))
            .collect(),
        ..Cluster::default()
    }
}

fn backends(cluster: &Cluster) -> Vec<Vec<String>> {
    let compiled = compile(cluster, "n1");
    assert_eq!(compiled.problems, Vec::<String>::new());
    let texts = |f: &Frontend| f.backends.iter().map(ToString::to_string).collect();
    compiled.frontends.iter().map(texts).collect()
}

#[test]
fn ready_endpoints_of_all_slices_and_of_the_address_family_answer() {
    let slices = vec![
        slice(
            "a",
            "web",
            vec![endpoint("10.1.0.3", "n2"), ending("10.1.0.9", true)],
        ),
        slice(
            "b",
            "web",
            vec![endpoint("10.1.0.2", "n1"), endpoint("10.1.0.3", "n2")],
        ),
        slice("c", "web", vec![endpoint("fd00::2", "n1")]),
        slice("d", "other", vec![endpoint("10.1.0.7", "n1")]),
    ];
    let found = backends(&cluster(
        vec![service("web", &["10.96.0.1", "fd96::1"])],
        slices,
    ));
    let expected = vec![
        vec!["10.1.0.2:8080", "10.1.0.3:8080"],
        vec!["[fd00::2]:8080"],
    ];
    assert_eq!(found, expected);
}

#[test]
fn endpoints_that_end_answer_only_when_no_other_is_ready() {
    let mut slices = vec![slice(
        "a",
        "web",
        vec![ending("10.1.0.2", true), ending("10.1.0.3", false)],
    )];
    let one = || vec![service("web", &["10.96.0.1"])];
    assert_eq!(
        backends(&cluster(one(), slices.clone())),
        [["10.1.0.2:8080"]]
    );
    slices[0].endpoints.push(endpoint("10.1.0.4", "n1"));
    assert_eq!(backends(&cluster(one(), slices)), [["10.1.0.4:8080"]]);
}

#[test]
fn a_local_policy_keeps_to_the_nodes_own_endpoints() {
    let mut local = service("web", &["10.96.0.1"]);
    local.internal_local = true;
    let there = vec![
        endpoint("10.1.0.2", "n2"),
        SliceEndpoint {
            node: None,
            ..endpoint("10.1.0.4", "n1")
        },
    ];
    let none: Vec<Vec<String>> = vec![vec![]];
    assert_eq!(
        backends(&cluster(
            vec![local.clone()],
            vec![slice("a", "web", there.clone())]
        )),
        none
    );
    let both = [there, vec![endpoint("10.1.0.3", "n1")]].concat();
    assert_eq!(
        backends(&cluster(vec![local], vec![slice("a", "web", both)])),
        [["10.1.0.3:8080"]]
    );
}

#[test]
fn a_port_has_the_target_of_its_own_name_and_protocol() {
    let mut web = service("web", &["10.96.0.1"]);
    web.ports.push(ServicePort {
        name: "http".into(),
        protocol: Protocol::Udp,
        port: 80,
        node_port: None,
    });
    web.ports.push(ServicePort {
        name: "admin".into(),
        protocol: Protocol::Tcp,
        port: 81,
        node_port: None,
    });
    let mut one = slice("a", "web", vec![endpoint("10.1.0.2", "n1")]);
    one.ports.push(SlicePort {
        name: "admin".into(),
        protocol: Protocol::Tcp,
        port: 9,
    });
    let found = backends(&cluster(vec![web], vec![one]));
    assert_eq!(found, [vec!["10.1.0.2:8080"], vec![], vec!["10.1.0.2:9"]]);
}

#[test]
fn of_two_services_with_one_address_the_first_is_served_and_the_other_named() {
    let services = vec![service("b", &["10.96.0.1"]), service("a", &["10.96.0.1"])];
    let compiled = compile(&cluster(services, vec![]), "n1");
    assert_eq!(compiled.frontends.len(), 1);
    assert_eq!(compiled.frontends[0].service, "default/a");
    assert!(
        compiled.problems[0].contains("default/b") && compiled.problems[0].contains("default/a")
    );
}

/// The places where a Service is served, and by whom.
fn served(compiled: &Compiled) -> Vec<String> {
    let text = |f: &Frontend| {
        let backends: Vec<_> = f.backends.iter().map(ToString::to_string).collect();
        format!(
            "{} by {}",
            SocketAddr::new(f.address, f.port),
            backends.join(" ")
        )
    };
    compiled.frontends.iter().map(text).collect()
}

fn node(name: &str, addresses: &[&str], cidrs: &[&str]) -> Node {
    Node {
        name: name.into(),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
    }
}

#[test]
fn pods_reach_a_service_by_its_outside_addresses_at_all_its_endpoints() {
    let mut web = service("web", &["10.96.0.1"]);
    web.internal_local = true;
    web.ports[0].node_port = Some(30_080);
    web.external_ips = vec!["192.0.2.1".parse().unwrap()];
    web.load_balancer_ips = vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
    let endpoints = vec![endpoint("10.1.0.2", "n1"), endpoint("10.2.0.3", "n2")];
    let mut cluster = cluster(vec![web], vec![slice("a", "web", endpoints)]);
    let nodes = [
        // Without a ClusterIP of its family the Service has no IPv6.
        node("n1", &["172.16.0.1", "fd10::1"], &["10.1.0.0/24"]),
        node("n2", &["172.16.0.2"], &["10.2.0.0/24"]),
    ];
    for node in nodes {
        cluster.nodes.insert(node.name.clone(), node);
    }
    let compiled = compile(&cluster, "n1");
    assert_eq!(compiled.problems, Vec::<String>::new());
    let expected = [
        "10.96.0.1:80 by 10.1.0.2:8080",
        "172.16.0.1:30080 by 10.1.0.2:8080 10.2.0.3:8080",
        "192.0.2.1:80 by 10.1.0.2:8080 10.2.0.3:8080",
        "192.0.2.2:80 by 10.1.0.2:8080 10.2.0.3:8080",
    ];
    assert_eq!(served(&compiled), expected);
}

#[test]
fn a_load_balancers_address_is_left_to_others_where_not_every_pod_may_use_it() {
    for (ranges, expected) in [
        (vec![], true),
        (vec!["10.1.0.0/16"], true),
        (vec!["192.0.2.0/24", "10.1.0.0/24"], true),
        (vec!["10.1.0.0/25"], false),
        (vec!["192.0.2.0/24"], false),
        // None of the family: nobody is kept out in it.
        (vec!["2001:db8::/32"], true),
    ] {
        let mut web = service("web", &["10.96.0.1"]);
        web.external_ips = vec!["192.0.2.1".parse().unwrap()];
        web.load_balancer_ips = vec!["192.0.2.2".parse().unwrap()];
        web.source_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let mut cluster = cluster(vec![web], vec![]);
        let own = node("n1", &[], &["10.1.0.0/24", "fd00::/64"]);
        cluster.nodes.insert("n1".into(), own);
        let places: Vec<_> = compile(&cluster, "n1").frontends;
        let places: Vec<_> = places.iter().map(|f| f.address.to_string()).collect();
        let all = ["10.96.0.1", "192.0.2.1", "192.0.2.2"];
        assert_eq!(places, all[..if expected { 3 } else { 2 }], "{ranges:?}");
    }
}

#[test]
fn nobody_takes_a_cluster_ip_by_naming_it_as_an_external_one() {
    let mut thief = service("a", &["10.96.0.9"]);
    thief.external_ips = vec!["10.96.0.1".parse().unwrap()];
    let compiled = compile(
        &cluster(vec![thief, service("b", &["10.96.0.1"])], vec![]),
        "n1",
    );
    assert_eq!(compiled.frontends[0].service, "default/b");
    assert!(compiled.problems[0].contains("default/a is not served at 10.96.0.1"));
    assert!(compiled.problems[0].contains("another external address"));
}

fn any_cluster() -> impl Strategy<Value = Cluster> {
    let state = (0u8..20, any::<[bool; 3]>(), any::<bool>());
    let slices = proptest::collection::vec((0u8..4, proptest::collection::vec(state, 0..5)), 0..6);
    (
        proptest::collection::vec((0u8..4, any::<bool>()), 0..5),
        slices,
    )
        .prop_map(|(services, slices)| {
            let services = services
                .into_iter()
                .enumerate()
                .map(|(i, (ip, local))| Service {
                    internal_local: local,
                    ..service(&format!("s{i}"), &[&format!("10.96.0.{ip}")])
                });
            let slices = slices.into_iter().enumerate().map(|(i, (of, states))| {
                let endpoints =
                    states
                        .into_iter()
                        .map(|(ip, [ready, serving, terminating], here)| SliceEndpoint {
                            ready,
                            serving,
                            terminating,
                            ..endpoint(&format!("10.1.0.{ip}"), if here { "n1" } else { "n2" })
                        });
                slice(&format!("e{i}"), &format!("s{of}"), endpoints.collect())
            });
            cluster(services.collect(), slices.collect())
        })
}

proptest! {
    /// A plain reading of the API: for each place the first Service, with each endpoint judged alone.
    #[test]
    fn the_tables_are_what_a_plain_reading_gives(cluster in any_cluster()) {
        let compiled = compile(&cluster, "n1");
        prop_assert!(compiled.frontends.is_sorted_by_key(|f| (f.address, f.port, f.protocol)));
        let addresses: BTreeSet<IpAddr> = cluster.services.values().flat_map(|s| s.cluster_ips.clone()).collect();
        prop_assert_eq!(compiled.frontends.len(), addresses.len());
        for frontend in &compiled.frontends {
            let first = cluster.services.values().find(|s| s.cluster_ips.contains(&frontend.address)).unwrap();
            prop_assert_eq!(&frontend.service, &format!("default/{}", first.name));
            let candidates: Vec<&SliceEndpoint> = cluster.slices.values().filter(|s| s.service == first.name)
                .flat_map(|s| &s.endpoints)
                .filter(|e| !first.internal_local || e.node.as_deref() == Some("n1")).collect();
            let any_ready = candidates.iter().any(|e| e.ready);
            let expected: BTreeSet<SocketAddr> = candidates.iter()
                .filter(|e| if any_ready { e.ready } else { e.serving && e.terminating })
                .map(|e| SocketAddr::new(e.address, 8080)).collect();
            prop_assert_eq!(&frontend.backends, &expected.into_iter().collect::<Vec<_>>());
        }
        prop_assert_eq!(compiled.problems.len(), cluster.services.len() - compiled.frontends.len());
    }
}
