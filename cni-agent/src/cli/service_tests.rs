//! What people and scripts see.

use super::*;
use crate::{
    model::{Protocol, ServiceType},
    query::{By, HealthCheckRow},
    service::{FrontendKind, HealthCheck},
};
use serde_json::{Value, json};

fn endpoint(address: &str, node: &str, external: Option<Unused>) -> EndpointOfService {
    EndpointOfService {
        address: address.parse().unwrap(),
        port: Some(8080),
        slice: "web-1".to_owned(),
        node: Some(node.to_owned()),
        local: node == "n1",
        zone: None,
        pod: (node == "n1").then(|| "shop/web-0".to_owned()),
        internal: external.filter(|why| *why == Unused::NotReady),
        external,
    }
}

fn detail() -> ServiceDetail {
    ServiceDetail {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        service_type: ServiceType::NodePort,
        node: "n1".to_owned(),
        zone: None,
        internal_traffic_policy: "Cluster".to_owned(),
        external_traffic_policy: Some("Local".to_owned()),
        affinity_secs: Some(600),
        traffic_distribution: None,
        publish_not_ready_addresses: false,
        source_ranges: vec!["192.0.2.0/24".parse().unwrap()],
        health_check: Some(HealthCheckRow {
            port: 30_999,
            check: HealthCheck {
                service: "shop/web".to_owned(),
                local_endpoints: 1,
            },
            served: false,
        }),
        frontends: vec![FrontendRow {
            kind: FrontendKind::NodePort,
            at: "0.0.0.0:30080".parse().unwrap(),
            protocol: Protocol::Tcp,
            port_name: String::new(),
            pods: Answerer {
                by: By::Sockets,
                why: None,
            },
            outside: Answerer {
                by: By::KubeProxy,
                why: Some("--services is not all".to_owned()),
            },
            flows: 3,
            topology: Topology::SameZone,
            endpoints: vec![
                endpoint("10.1.0.2", "n1", None),
                endpoint("10.1.1.3", "n2", Some(Unused::NotLocal)),
                endpoint("10.1.1.4", "n2", Some(Unused::NotReady)),
            ],
        }],
        problems: vec!["something with its remedy".to_owned()],
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn a_list_is_a_line_for_each_service_and_wide_says_why() {
    let row = ServiceRow {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        service_type: ServiceType::ClusterIp,
        addresses: vec!["10.96.0.1".parse().unwrap()],
        ports: vec!["80/TCP".to_owned(), "53/UDP".to_owned()],
        backends_used: 0,
        backends_known: 3,
        flows: 7,
        pods: vec![Answerer {
            by: By::KubeProxy,
            why: Some("no endpoint answers".to_owned()),
        }],
    };
    let rows = [row];
    let text = |output| list(&rows, output).unwrap().text;
    let table = text(Output::Table);
    let expected = "shop web ClusterIP 10.96.0.1 80/TCP,53/UDP 0/3 7 kube-proxy";
    assert_eq!(words(table.lines().nth(1).unwrap()), words(expected));
    assert!(!table.contains("no endpoint") && text(Output::Wide).contains("no endpoint answers"));
    let json: Value = serde_json::from_str(&text(Output::Json)).unwrap();
    let pods = json!([{"by": "kube-proxy", "why": "no endpoint answers"}]);
    assert_eq!(
        (&json[0]["type"], &json[0]["pods"]),
        (&json!("ClusterIP"), &pods)
    );
    assert_eq!(
        serde_saphyr::from_str::<Value>(&text(Output::Yaml)).unwrap(),
        json
    );
}

#[test]
fn one_service_is_shown_with_the_backends_that_answer() {
    let table = get(detail(), Output::Wide).unwrap();
    assert_eq!(
        table.lines().count(),
        3,
        "one endpoint is not used:\n{table}"
    );
    assert!(
        table.contains("10.1.0.2:8080") && table.contains("n1 (this)"),
        "{table}"
    );
    let other = table.lines().nth(2).unwrap();
    assert!(
        other.contains("10.1.1.3:8080") && other.ends_with("cluster"),
        "{table}"
    );
    let json: Value = serde_json::from_str(&get(detail(), Output::Json).unwrap()).unwrap();
    assert_eq!(
        json["frontends"][0]["endpoints"].as_array().unwrap().len(),
        2
    );
    let mut empty = detail();
    empty.frontends[0].endpoints.clear();
    assert_eq!(get(empty, Output::Table).unwrap().lines().count(), 2);
}

#[test]
fn an_explanation_says_of_every_endpoint_whether_and_why() {
    let text = explain(detail(), Output::Table).unwrap();
    for part in [
        "n1, no zone",
        "keeps its backend for 600 s",
        "192.0.2.0/24",
        "port 30999 by kube-proxy: 1 local endpoints",
        "pods by sockets; outside by kube-proxy (--services is not all)",
        "hints for this zone followed; 3 flows",
        "something with its remedy",
        "not on this node (policy Local)",
        "not ready",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let json: Value = serde_json::from_str(&explain(detail(), Output::Json).unwrap()).unwrap();
    let endpoints = &json["frontends"][0]["endpoints"];
    assert_eq!(endpoints[2]["internal"], "notReady");
    assert_eq!(json["healthCheck"]["localEndpoints"], 1);
}

#[test]
fn a_service_that_is_not_there_is_told_with_those_that_could_be_meant() {
    let near = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let told = unknown("wbe", &near(&["shop/web"]));
    assert!(told.contains("is it one of these? shop/web"), "{told}");
    let told = unknown("web", &near(&["shop/web", "zoo/web"]));
    assert!(told.contains("say which: shop/web,zoo/web"), "{told}");
    assert!(unknown("x", &[]).contains("fairlead service list"));
}

#[test]
fn a_name_may_have_its_namespace_before_a_stroke() {
    let query = |name: &str, namespace: Option<&str>| {
        let one = One {
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            output: Output::Table,
        };
        match one.query() {
            Query::Service { namespace, name } => (namespace, name),
            other => panic!("{other:?}"),
        }
    };
    let expected = |namespace: Option<&str>| (namespace.map(str::to_owned), "web".to_owned());
    assert_eq!(query("shop/web", None), expected(Some("shop")));
    assert_eq!(query("web", Some("zoo")), expected(Some("zoo")));
    assert_eq!(query("web", None), expected(None));
}
