//! The compiled tables, case by case.

use super::*;
use crate::model::{
    EndpointSlice, Hints, Ingress, Node, Service, ServicePort, ServiceType, SliceEndpoint,
    SlicePort,
};

pub(super) fn service(name: &str, ips: &[&str]) -> Service {
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
        ..Service::default()
    }
}

pub(super) fn endpoint(address: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint {
        address: address.parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(node.into()),
        zone: None,
        hints: None,
    }
}

pub(super) fn ending(address: &str, serving: bool) -> SliceEndpoint {
    SliceEndpoint {
        ready: false,
        serving,
        terminating: true,
        ..endpoint(address, "n1")
    }
}

pub(super) fn slice(name: &str, service: &str, endpoints: Vec<SliceEndpoint>) -> EndpointSlice {
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

pub(super) fn cluster(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Cluster {
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
    let texts = |f: &Arc<Frontend>| f.internal.iter().map(ToString::to_string).collect();
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

/// A Service of each kind of address, with both policies `Local` as asked.
fn open_to_all(internal_local: bool, external_local: bool) -> Service {
    Service {
        service_type: ServiceType::LoadBalancer,
        ports: vec![ServicePort {
            node_port: Some(30080),
            ..service("web", &[]).ports[0].clone()
        }],
        external_ips: vec!["198.51.100.1".parse().unwrap()],
        ingress: vec![
            Ingress {
                ip: "203.0.113.1".parse().unwrap(),
                proxy: false,
            },
            Ingress {
                ip: "203.0.113.2".parse().unwrap(),
                proxy: true,
            },
        ],
        internal_local,
        external_local,
        health_check_port: Some(31000),
        ..service("web", &["10.96.0.1"])
    }
}

/// Kind, address and port, who answers inside, who outside.
fn rows(compiled: &Compiled) -> Vec<(FrontendKind, String, String, String)> {
    let texts = |list: &[SocketAddr], empty: WhenEmpty| match (list, empty) {
        ([], empty) => format!("{empty:?}"),
        (list, _) => {
            let list: Vec<_> = list.iter().map(|b| b.ip().to_string()).collect();
            list.join(" ")
        }
    };
    let row = |f: &Arc<Frontend>| {
        (
            f.kind,
            SocketAddr::new(f.address, f.port).to_string(),
            texts(&f.internal, f.internal_empty),
            texts(&f.external, f.external_empty),
        )
    };
    compiled.frontends.iter().map(row).collect()
}

fn row(
    kind: FrontendKind,
    at: &str,
    internal: &str,
    external: &str,
) -> (FrontendKind, String, String, String) {
    (kind, at.into(), internal.into(), external.into())
}

use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};

#[test]
fn each_kind_of_address_is_served_and_policies_are_of_their_own_side() {
    let slices = || {
        let endpoints = vec![endpoint("10.1.0.2", "n1"), endpoint("10.1.0.3", "n2")];
        vec![slice("a", "web", endpoints)]
    };
    let compiled = compile(&cluster(vec![open_to_all(false, true)], slices()), "n1");
    let both = "10.1.0.2 10.1.0.3";
    let outside = [
        row(NodePort, "0.0.0.0:30080", both, "10.1.0.2"),
        row(ClusterIp, "10.96.0.1:80", both, both),
        row(ExternalIp, "198.51.100.1:80", both, "10.1.0.2"),
        row(LoadBalancer, "203.0.113.1:80", both, "10.1.0.2"),
    ];
    assert_eq!(rows(&compiled), outside);
    assert_eq!(compiled.problems, Vec::<String>::new());
    let compiled = compile(&cluster(vec![open_to_all(true, false)], slices()), "n1");
    let inside = [
        row(NodePort, "0.0.0.0:30080", both, both),
        row(ClusterIp, "10.96.0.1:80", "10.1.0.2", "10.1.0.2"),
        row(ExternalIp, "198.51.100.1:80", both, both),
        row(LoadBalancer, "203.0.113.1:80", both, both),
    ];
    assert_eq!(rows(&compiled), inside);
}

#[test]
fn nodes_come_to_the_same_backends_only_where_nothing_of_a_node_decides() {
    let same = |service: Service, endpoints| {
        let slices = vec![slice("a", "web", endpoints)];
        let compiled = compile(&cluster(vec![service], slices), "n1");
        let same = compiled.frontends.iter().filter(|f| f.same_everywhere);
        same.map(|f| f.kind).collect::<Vec<_>>()
    };
    let endpoints = || vec![endpoint("10.1.0.2", "n1"), endpoint("10.1.0.3", "n2")];
    let outer = [ExternalIp, LoadBalancer];
    assert_eq!(same(open_to_all(false, false), endpoints()), outer);
    assert_eq!(same(open_to_all(false, true), endpoints()), []);
    let affine = Service {
        affinity_secs: Some(10),
        ..open_to_all(false, false)
    };
    assert_eq!(same(affine, endpoints()), []);
    // Another node may follow it.
    let mut hinted = endpoints();
    hinted[1].hints = Some(Box::new(crate::model::Hints {
        zones: vec!["z2".into()],
        nodes: Vec::new(),
    }));
    assert_eq!(same(open_to_all(false, false), hinted), []);
}

#[test]
fn without_an_endpoint_here_a_local_policy_drops_and_without_any_nobody_does() {
    let elsewhere = vec![slice("a", "web", vec![endpoint("10.1.0.3", "n2")])];
    let compiled = compile(&cluster(vec![open_to_all(true, true)], elsewhere), "n1");
    let found = rows(&compiled);
    assert_eq!(found[0], row(NodePort, "0.0.0.0:30080", "10.1.0.3", "Drop"));
    assert_eq!(found[1], row(ClusterIp, "10.96.0.1:80", "Drop", "Drop"));
    let compiled = compile(&cluster(vec![open_to_all(true, true)], vec![]), "n1");
    for (_, at, internal, external) in rows(&compiled) {
        assert_eq!((&*internal, &*external), ("Pass", "Pass"), "{at}");
    }
}

#[test]
fn each_scope_falls_back_to_endpoints_that_end_by_itself() {
    // Those of this node end while others are ready.
    let endpoints = vec![ending("10.1.0.2", true), endpoint("10.1.0.3", "n2")];
    let compiled = compile(
        &cluster(
            vec![open_to_all(false, true)],
            vec![slice("a", "web", endpoints)],
        ),
        "n1",
    );
    assert_eq!(
        rows(&compiled)[0],
        row(NodePort, "0.0.0.0:30080", "10.1.0.3", "10.1.0.2")
    );
}

#[test]
fn a_load_balancer_is_told_of_ready_endpoints_on_this_node() {
    let endpoints = vec![
        endpoint("10.1.0.2", "n1"),
        endpoint("10.1.0.3", "n2"),
        ending("10.1.0.4", true),
    ];
    let v6 = vec![endpoint("fd00::2", "n1"), endpoint("fd00::5", "n1")];
    let slices = vec![slice("a", "web", endpoints), slice("b", "web", v6)];
    let check =
        |service: Service| compile(&cluster(vec![service], slices.clone()), "n1").health_checks;
    let expected = HealthCheck {
        service: "default/web".into(),
        local_endpoints: 2,
    };
    assert_eq!(check(open_to_all(false, true)), [(31000, expected)].into());
    assert!(
        check(open_to_all(false, false)).is_empty(),
        "policy Cluster"
    );
}

#[test]
fn source_ranges_hold_for_load_balancers_addresses_of_their_family() {
    let both = ["10.96.0.1", "fd96::1"].map(|ip| ip.parse().unwrap());
    let mut web = open_to_all(false, false);
    web.cluster_ips = both.to_vec();
    web.external_ips = web.ingress.iter().map(|entry| entry.ip).collect();
    web.ingress.push(Ingress {
        ip: "2001:db8::1".parse().unwrap(),
        proxy: false,
    });
    let ranges = |web: &Service| -> Vec<_> {
        let compiled = compile(&cluster(vec![web.clone()], vec![]), "n1");
        let of = |kind| {
            let found = compiled.frontends.iter().filter(move |f| f.kind == kind);
            found.map(|f| f.source_ranges.clone().map(|ranges| ranges.len()))
        };
        assert_eq!(
            of(ExternalIp).collect::<Vec<_>>(),
            [None],
            "the address of both is a load balancer's"
        );
        of(LoadBalancer).collect()
    };
    assert_eq!(ranges(&web), [None, None]);
    web.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
    assert_eq!(
        ranges(&web),
        [Some(1), None],
        "ranges of the other family only"
    );
    web.source_ranges_faulty = true;
    assert_eq!(
        ranges(&web),
        [Some(1), Some(0)],
        "what can't be read opens nothing"
    );
}

#[test]
fn hints_are_followed_where_all_ready_endpoints_have_them_and_one_is_for_here() {
    let hinted = |address: &str, zones: &[&str], nodes: &[&str]| {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let (zones, nodes) = (names(zones), names(nodes));
        SliceEndpoint {
            hints: Some(Box::new(Hints { zones, nodes })),
            ..endpoint(address, "n2")
        }
    };
    let answers = |zone: Option<&str>, endpoints: Vec<SliceEndpoint>| {
        let mut cluster = cluster(
            vec![service("web", &["10.96.0.1"])],
            vec![slice("a", "web", endpoints)],
        );
        let node = Node {
            name: "n1".into(),
            zone: zone.map(ToOwned::to_owned),
            ..Node::default()
        };
        cluster.nodes.insert("n1".into(), node);
        rows(&compile(&cluster, "n1"))[0].2.clone()
    };
    let zones = || {
        vec![
            hinted("10.1.0.1", &["a"], &[]),
            hinted("10.1.0.2", &["b", "c"], &[]),
        ]
    };
    assert_eq!(answers(Some("a"), zones()), "10.1.0.1");
    assert_eq!(answers(Some("c"), zones()), "10.1.0.2");
    assert_eq!(
        answers(Some("d"), zones()),
        "10.1.0.1 10.1.0.2",
        "no endpoint for the zone"
    );
    assert_eq!(
        answers(None, zones()),
        "10.1.0.1 10.1.0.2",
        "a node without a zone"
    );
    let one_without = [zones(), vec![endpoint("10.1.0.3", "n2")]].concat();
    assert_eq!(
        answers(Some("a"), one_without),
        "10.1.0.1 10.1.0.2 10.1.0.3"
    );
    let not_ready = SliceEndpoint {
        ready: false,
        ..endpoint("10.1.0.3", "n2")
    };
    assert_eq!(
        answers(Some("a"), [zones(), vec![not_ready]].concat()),
        "10.1.0.1",
        "that one says nothing"
    );
    let nodes = vec![
        hinted("10.1.0.1", &["a"], &["n2"]),
        hinted("10.1.0.2", &["b"], &["n1"]),
    ];
    assert_eq!(
        answers(Some("a"), nodes),
        "10.1.0.2",
        "nodes go before zones"
    );
}

#[test]
fn an_outer_address_or_node_port_of_two_services_is_the_first_ones_and_the_other_is_named() {
    let clusterip = service("b", &["198.51.100.1"]);
    let mut other = open_to_all(false, true);
    other.name = "z".into();
    other.cluster_ips = vec!["10.96.0.9".parse().unwrap()];
    other.external_ips.clear();
    other.ingress.clear();
    let compiled = compile(
        &cluster(vec![other, open_to_all(false, true), clusterip], vec![]),
        "n1",
    );
    let served: Vec<_> = compiled
        .frontends
        .iter()
        .map(|f| (f.kind, &*f.service))
        .collect();
    let expected = [
        (NodePort, "default/web"),
        (ClusterIp, "default/web"),
        (ClusterIp, "default/z"),
        (ClusterIp, "default/b"),
        (LoadBalancer, "default/web"),
    ];
    assert_eq!(served, expected);
    let told = [
        ["default/z", "node port 30080", "default/web"],
        ["default/web", "198.51.100.1 port 80", "default/b"],
        ["default/z", "spec.healthCheckNodePort", "default/web"],
    ];
    assert_eq!(
        compiled.problems.len(),
        told.len(),
        "{:?}",
        compiled.problems
    );
    for (problem, parts) in compiled.problems.iter().zip(told) {
        assert!(parts.iter().all(|part| problem.contains(part)), "{problem}");
    }
}

#[test]
fn an_external_address_needs_a_cluster_ip_of_its_family_and_faults_are_told() {
    let mut web = open_to_all(false, false);
    web.external_ips.push("2001:db8::9".parse().unwrap());
    web.faults
        .push("spec.loadBalancerSourceRanges[0]: wrong".into());
    let compiled = compile(&cluster(vec![web], vec![]), "n1");
    assert!(compiled.frontends.iter().all(|f| f.address.is_ipv4()));
    let [fault, family] = &*compiled.problems else {
        panic!("{:?}", compiled.problems)
    };
    assert!(fault.contains("Service default/web: spec.loadBalancerSourceRanges[0]"));
    assert!(family.contains("2001:db8::9") && family.contains("spec.ipFamilies"));
}

#[test]
fn an_explanation_says_of_each_endpoint_why_it_does_not_answer() {
    let not_ready = SliceEndpoint {
        ready: false,
        serving: false,
        ..endpoint("10.1.0.4", "n1")
    };
    let endpoints = vec![
        endpoint("10.1.0.2", "n1"),
        endpoint("10.1.0.3", "n2"),
        not_ready,
        ending("10.1.0.5", true),
    ];
    let mut portless = slice("b", "web", vec![endpoint("10.1.0.6", "n1")]);
    portless.ports.clear();
    let slices = vec![
        slice("a", "web", endpoints),
        portless,
        slice("c", "web", vec![endpoint("fd00::2", "n1")]),
    ];
    let mut first = service("a", &["203.0.113.1"]);
    first.ports[0].port = 80;
    let cluster = cluster(vec![open_to_all(false, true), first], slices);
    let key = ("default".to_owned(), "web".to_owned());
    let explained = explain(&cluster, "n1", &key).unwrap();
    let of = |kind| {
        explained
            .frontends
            .iter()
            .find(|f| f.frontend.kind == kind)
            .unwrap()
    };
    let why: Vec<_> = of(NodePort)
        .endpoints
        .iter()
        .map(|e| (e.internal, e.external))
        .collect();
    let expected = [
        (None, None),
        (None, Some(Unused::NotLocal)),
        (Some(Unused::NotReady), Some(Unused::NotReady)),
        (Some(Unused::Terminating), Some(Unused::Terminating)),
        (Some(Unused::NoPort), Some(Unused::NoPort)),
        (Some(Unused::WrongFamily), Some(Unused::WrongFamily)),
    ];
    assert_eq!(why, expected);
    assert_eq!(of(NodePort).held_by, None);
    assert_eq!(of(LoadBalancer).held_by.as_deref(), Some("default/a"));
    let text = explained.problems.join("\n");
    assert!(
        text.contains("203.0.113.2") && text.contains("Service default/a has the same"),
        "{text}"
    );
    assert_eq!(
        explain(&cluster, "n1", &("default".into(), "none".into())),
        None
    );
}
