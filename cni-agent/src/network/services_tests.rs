//! Answers about a small cluster: `shop/web` behind every kind of address, `shop/none` without endpoints,
//! `shop/headless`, and `zoo/web`.

use super::*;
use crate::{
    model::{EndpointSlice, Ingress, Pod, ServicePort, SliceEndpoint, SlicePort},
    service::{Unused, compile},
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(namespace: &str, name: &str, cluster_ip: Option<&str>) -> Service {
    Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        cluster_ips: cluster_ip.into_iter().map(ip).collect(),
        ports: vec![ServicePort {
            port: 80,
            ..ServicePort::default()
        }],
        ..Service::default()
    }
}

fn web() -> Service {
    let mut web = service("shop", "web", Some("10.96.0.1"));
    web.service_type = ServiceType::LoadBalancer;
    web.ports[0].node_port = Some(30_080);
    web.external_local = true;
    web.health_check_port = Some(30_999);
    web.ingress = vec![Ingress {
        ip: ip("192.0.2.1"),
        proxy: false,
    }];
    web.ports.push(ServicePort {
        name: "dns".to_owned(),
        protocol: Protocol::Udp,
        port: 53,
        node_port: None,
    });
    web
}

fn endpoint(address: &str, node: &str, ready: bool) -> SliceEndpoint {
    SliceEndpoint {
        address: ip(address),
        ready,
        serving: ready,
        terminating: false,
        node: Some(node.to_owned()),
        zone: Some("a".to_owned()),
        hints: None,
    }
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    let node = Node {
        name: "n1".to_owned(),
        addresses: vec![ip("172.16.0.1")],
        pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
        zone: Some("a".to_owned()),
        ..Node::default()
    };
    cluster.nodes.insert("n1".to_owned(), node);
    for service in [
        web(),
        service("shop", "none", Some("10.96.0.2")),
        service("shop", "headless", None),
        service("zoo", "web", Some("10.96.0.3")),
    ] {
        let key = (service.namespace.clone(), service.name.clone());
        cluster.services.insert(key, service);
    }
    let port = |name: &str, protocol, port| SlicePort {
        name: name.to_owned(),
        protocol,
        port,
    };
    let slice = EndpointSlice {
        namespace: "shop".to_owned(),
        name: "web-1".to_owned(),
        service: "web".to_owned(),
        ports: vec![
            port("", Protocol::Tcp, 8080),
            port("dns", Protocol::Udp, 5353),
        ],
        endpoints: vec![
            endpoint("10.1.0.2", "n1", true),
            endpoint("10.1.1.3", "n2", true),
            endpoint("10.1.1.4", "n2", false),
        ],
    };
    let key = ("shop".to_owned(), "web-1".to_owned());
    cluster.slices.insert(key, slice);
    let pod = Pod {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: None,
        labels: Default::default(),
        node: Some("n1".to_owned()),
        host_network: false,
        ips: vec![ip("10.1.0.2")],
        ports: Vec::new(),
    };
    let key = ("shop".to_owned(), "web-0".to_owned());
    cluster.pods.insert(key, pod);
    cluster
}

fn written() -> Served {
    Served {
        at: Some(Instant::now()),
        sockets: true,
        refused: BTreeSet::new(),
    }
}

fn asked<T>(mode: ServicesMode, served: &Served, ask: impl FnOnce(&Seen<'_>) -> T) -> T {
    let cluster = cluster();
    let flows = FlowCounts::from([
        ((ip("10.96.0.1"), 53, Protocol::Udp), 4),
        ((ip("172.16.0.1"), 30_080, Protocol::Tcp), 2),
        ((ip("203.0.113.9"), 30_080, Protocol::Tcp), 9),
    ]);
    ask(&Seen {
        cluster: &cluster,
        node: "n1",
        mode,
        compiled: &compile(&cluster, "n1"),
        served,
        flows: &flows,
    })
}

fn detail(mode: ServicesMode, served: &Served) -> ServiceDetail {
    let answer = asked(mode, served, |seen| seen.answer(Some("shop"), "web"));
    answer.service.unwrap()
}

#[test]
fn a_list_has_addresses_ports_backends_flows_and_who_answers() {
    let rows = asked(ServicesMode::Pods, &written(), |seen| seen.rows());
    let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["headless", "none", "web", "web"]);
    let [headless, none, web, _] = &*rows else {
        panic!("{rows:?}")
    };
    assert_eq!(web.addresses, [ip("10.96.0.1"), ip("192.0.2.1")]);
    assert_eq!(web.ports, ["80:30080/TCP", "53/UDP"]);
    assert_eq!((web.backends_used, web.backends_known), (2, 3));
    assert_eq!(web.flows, 6, "of the node's own addresses alone");
    let by: Vec<By> = web.pods.iter().map(|answerer| answerer.by).collect();
    assert_eq!(by, [By::Sockets, By::Programs]);
    assert_eq!(none.pods[0].by, By::KubeProxy);
    assert_eq!(none.pods[0].why.as_deref(), Some("no endpoint answers"));
    assert_eq!(headless.pods[0].by, By::Nobody);
    assert!(headless.pods[0].why.as_ref().unwrap().contains("headless"));
}

#[test]
fn who_answers_follows_the_mode_and_what_the_maps_hold() {
    let of = |mode, served: &Served, kind| {
        let detail = detail(mode, served);
        let tcp = |f: &&FrontendRow| f.kind == kind && f.protocol == Protocol::Tcp;
        let row = detail.frontends.iter().find(tcp).unwrap();
        (row.pods.clone(), row.outside.clone())
    };
    let why = |answerer: &Answerer| answerer.why.clone().unwrap_or_default();
    let (pods, outside) = of(ServicesMode::Pods, &written(), FrontendKind::NodePort);
    assert_eq!((pods.by, outside.by), (By::Sockets, By::KubeProxy));
    let (pods, outside) = of(ServicesMode::All, &written(), FrontendKind::NodePort);
    assert_eq!((pods.by, outside.by), (By::Sockets, By::Programs));
    let (pods, outside) = of(ServicesMode::Off, &written(), FrontendKind::ClusterIp);
    assert_eq!((pods.by, outside.by), (By::KubeProxy, By::KubeProxy));
    assert!(why(&pods).contains("--services is off"));
    let without = Served {
        sockets: false,
        ..written()
    };
    let (pods, _) = of(ServicesMode::Pods, &without, FrontendKind::ClusterIp);
    assert_eq!(pods.by, By::Programs);
    let full = Served {
        refused: [(ip("172.16.0.1"), 30_080, Protocol::Tcp)].into(),
        ..written()
    };
    let (pods, _) = of(ServicesMode::Pods, &full, FrontendKind::NodePort);
    assert_eq!(
        (pods.by, why(&pods)),
        (By::KubeProxy, "the maps are full".to_owned())
    );
    let (pods, _) = of(
        ServicesMode::Pods,
        &Served::default(),
        FrontendKind::ClusterIp,
    );
    assert!(why(&pods).contains("could not be written"));
}

#[test]
fn a_service_is_told_with_its_endpoints_pods_and_policies() {
    let detail = detail(ServicesMode::All, &written());
    assert_eq!(detail.external_traffic_policy.as_deref(), Some("Local"));
    assert_eq!(detail.zone.as_deref(), Some("a"));
    let health = detail.health_check.unwrap();
    assert_eq!((health.port, health.check.local_endpoints), (30_999, 1));
    assert!(health.served);
    let port = |f: &&FrontendRow| f.kind == FrontendKind::NodePort;
    let [here, there, unready] = &*detail.frontends.iter().find(port).unwrap().endpoints else {
        panic!("not three")
    };
    assert_eq!(
        (here.local, here.pod.as_deref()),
        (true, Some("shop/web-0"))
    );
    assert_eq!((here.port, there.port), (Some(8080), Some(8080)));
    assert_eq!(
        (there.internal, there.external),
        (None, Some(Unused::NotLocal))
    );
    assert!(there.is_used() && !unready.is_used());
    assert_eq!(unready.internal, Some(Unused::NotReady));
}

#[test]
fn a_name_that_is_none_or_several_is_answered_with_those_that_could_be_meant() {
    let near = |namespace, name: &str| {
        let answer = asked(ServicesMode::Pods, &written(), |s| {
            s.answer(namespace, name)
        });
        assert_eq!(answer.service, None);
        answer.near
    };
    assert_eq!(near(None, "web"), ["shop/web", "zoo/web"]);
    assert_eq!(near(Some("zoo"), "wbe"), ["zoo/web", "shop/web"]);
    assert_eq!(near(None, "headles"), ["shop/headless"]);
    assert_eq!(near(None, "nothing-alike"), [""; 0]);
}
