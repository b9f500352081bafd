//! Services and EndpointSlices as tables: what is written, what is understood.

use super::{FieldError, endpoint_slice, node, service};
use crate::model::{Hints, Ingress, Protocol, Service, ServiceType, SliceEndpoint};
use serde_json::{Value, json};

fn read_service(spec: Value) -> Result<crate::model::Service, Vec<FieldError>> {
    let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
    service(&serde_json::from_value(object).unwrap())
}

fn read_slice(rest: Value) -> Result<Option<crate::model::EndpointSlice>, Vec<FieldError>> {
    let mut object = json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": []
    });
    for (field, value) in rest.as_object().unwrap() {
        object[field] = value.clone();
    }
    endpoint_slice(&serde_json::from_value(object).unwrap())
}

fn refused<T: std::fmt::Debug>(result: Result<T, Vec<FieldError>>, parts: &[&str]) {
    let text = result.unwrap_err()[0].to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

#[test]
fn a_service_has_the_addresses_that_it_was_given() {
    for (spec, expected) in [
        (
            json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::a"]}),
            vec!["10.96.0.10", "fd00::a"],
        ),
        (json!({"clusterIP": "10.96.0.10"}), vec!["10.96.0.10"]),
        // Headless, not given any yet, and by name.
        (json!({"clusterIP": "None", "clusterIPs": ["None"]}), vec![]),
        (json!({"clusterIP": ""}), vec![]),
        (json!({}), vec![]),
        (
            json!({"type": "ExternalName", "externalName": "x.org", "clusterIP": "10.96.0.10"}),
            vec![],
        ),
    ] {
        let read = read_service(spec.clone()).unwrap();
        let ips: Vec<_> = read.cluster_ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, expected, "{spec}");
    }
}

#[test]
fn a_service_of_another_proxy_is_left_to_it() {
    let object = json!({
        "metadata": {"name": "web", "labels": {"service.kubernetes.io/service-proxy-name": "mesh"}},
        "spec": {"clusterIP": "10.96.0.10"}
    });
    let read = service(&serde_json::from_value(object).unwrap()).unwrap();
    assert!(read.cluster_ips.is_empty());
}

#[test]
fn ports_policy_and_affinity_of_a_service_are_read_with_kubernetes_defaults() {
    let read = read_service(json!({
        "clusterIP": "10.96.0.10", "internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
        "ports": [{"port": 53, "protocol": "UDP", "name": "dns"}, {"port": 53, "name": "dns-tcp", "targetPort": "x"}]
    }))
    .unwrap();
    let ports: Vec<_> = read
        .ports
        .iter()
        .map(|p| (p.name.as_str(), p.protocol, p.port))
        .collect();
    assert_eq!(
        ports,
        [("dns", Protocol::Udp, 53), ("dns-tcp", Protocol::Tcp, 53)]
    );
    assert_eq!(
        (read.internal_local, read.affinity_secs),
        (true, Some(10_800))
    );
    let read = read_service(json!({"sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}));
    assert_eq!(read.unwrap().affinity_secs, Some(60));
    let read = read_service(json!({"sessionAffinity": "None"})).unwrap();
    assert_eq!((read.internal_local, read.affinity_secs), (false, None));
}

#[test]
fn a_service_that_can_t_be_used_is_refused_by_field_and_remedy() {
    let port = |port: Value| json!({"ports": [port]});
    refused(
        read_service(json!({"clusterIP": "x"})),
        &["spec.clusterIP:", "is not an IP address"],
    );
    refused(
        read_service(json!({"clusterIPs": ["10.0.0.1", "10.0.0.2"]})),
        &["spec.clusterIPs[1]", "same family", "remove one"],
    );
    refused(
        read_service(port(json!({"port": 0}))),
        &["spec.ports[0].port", "1 to 65535"],
    );
    refused(
        read_service(port(json!({"port": 80, "protocol": "tcp"}))),
        &["spec.ports[0].protocol", "write TCP, UDP or SCTP"],
    );
    refused(
        read_service(json!({"ports": [{"port": 80}, {"port": 80}]})),
        &["spec.ports[1].port", "twice"],
    );
    refused(
        read_service(
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
        ),
        &["timeoutSeconds", "86400"],
    );
}

#[test]
fn conditions_left_out_mean_what_kubernetes_says() {
    for (conditions, ready, serving, terminating) in [
        (json!(null), true, true, false),
        (json!({}), true, true, false),
        (json!({"ready": false}), false, false, false),
        (
            json!({"ready": false, "serving": true, "terminating": true}),
            false,
            true,
            true,
        ),
    ] {
        let endpoint = json!({"addresses": ["10.1.0.5", "10.1.0.6"], "conditions": conditions, "nodeName": "n1"});
        let read = read_slice(json!({"endpoints": [endpoint]}))
            .unwrap()
            .unwrap();
        let expected = SliceEndpoint {
            address: "10.1.0.5".parse().unwrap(),
            ready,
            serving,
            terminating,
            node: Some("n1".to_owned()),
            zone: None,
            hints: None,
        };
        assert_eq!(read.endpoints, [expected], "{conditions}");
        assert_eq!(read.service, "web");
    }
}

#[test]
fn a_slice_without_a_number_of_a_port_or_without_addresses_says_nothing() {
    let ports = json!([{"port": 8080}, {"name": "all", "port": null}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let read = read_slice(json!({"ports": ports})).unwrap().unwrap();
    let ports: Vec<_> = read
        .ports
        .iter()
        .map(|p| (p.name.as_str(), p.protocol, p.port))
        .collect();
    assert_eq!(
        ports,
        [("", Protocol::Tcp, 8080), ("dns", Protocol::Udp, 53)]
    );
    let named = json!({"addressType": "FQDN", "endpoints": [{"addresses": ["x.org"]}]});
    assert_eq!(read_slice(named), Ok(None));
    assert_eq!(read_slice(json!({"metadata": {"name": "web-1"}})), Ok(None));
}

#[test]
fn a_slice_that_can_t_be_used_is_refused_by_field_and_remedy() {
    let endpoint = |endpoint: Value| json!({"endpoints": [endpoint]});
    refused(
        read_slice(json!({"addressType": "IPX"})),
        &["addressType", "write IPv4, IPv6 or FQDN"],
    );
    refused(
        read_slice(endpoint(json!({"addresses": []}))),
        &["endpoints[0].addresses[0]", "is missing"],
    );
    refused(
        read_slice(endpoint(json!({"addresses": ["fd00::1"]}))),
        &["not of the slice's addressType"],
    );
    refused(
        read_slice(endpoint(json!({"addresses": ["127.0.0.1"]}))),
        &["loopback"],
    );
    refused(
        read_slice(json!({"ports": [{"port": 70000}]})),
        &["ports[0].port", "1 to 65535"],
    );
}

#[test]
fn addresses_from_outside_and_their_policies_are_read() {
    let read = service(
        &serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.10",
                "ports": [{"port": 80, "nodePort": 30080}, {"port": 81, "name": "x", "nodePort": 0}],
                "externalIPs": ["198.51.100.1", "2001:db8::1", "198.51.100.1"],
                "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
                "trafficDistribution": "PreferClose", "publishNotReadyAddresses": true,
                "loadBalancerClass": "example.org/lb", "allocateLoadBalancerNodePorts": false
            },
            "status": {"loadBalancer": {"ingress": [
                {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "VIP"},
                {"ip": "203.0.113.3", "ipMode": "Proxy"}, {"hostname": "lb.example.org"}
            ]}}
        }))
        .unwrap(),
    )
    .unwrap();
    let ports: Vec<_> = read.ports.iter().map(|p| p.node_port).collect();
    assert_eq!(ports, [Some(30080), None]);
    let ingress = |ip: &str, proxy| Ingress {
        ip: ip.parse().unwrap(),
        proxy,
    };
    let expected = Service {
        namespace: "shop".into(),
        name: "web".into(),
        service_type: ServiceType::LoadBalancer,
        cluster_ips: vec!["10.96.0.10".parse().unwrap()],
        ports: read.ports.clone(),
        external_ips: ["198.51.100.1", "2001:db8::1"]
            .map(|ip| ip.parse().unwrap())
            .to_vec(),
        ingress: vec![
            ingress("203.0.113.1", false),
            ingress("203.0.113.2", false),
            ingress("203.0.113.3", true),
        ],
        external_local: true,
        health_check_port: Some(31000),
        traffic_distribution: Some("PreferClose".into()),
        publish_not_ready: true,
        load_balancer_class: Some("example.org/lb".into()),
        without_node_ports: true,
        ..Service::default()
    };
    assert_eq!(read, expected);
}

#[test]
fn addresses_that_a_service_asks_for_are_read_one_by_one() {
    let read = |wanted: &str| {
        let object = json!({
            "metadata": {"name": "web",
                "annotations": {"fairlead.dev/load-balancer-ips": wanted}},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.10",
                "loadBalancerIP": "192.0.2.7"}});
        service(&serde_json::from_value(object).unwrap()).unwrap()
    };
    let texts = |read: &Service| -> Vec<String> {
        read.wanted_ips.iter().map(ToString::to_string).collect()
    };
    let good = read("192.0.2.9, 2001:db8::9,192.0.2.7,");
    assert_eq!(texts(&good), ["192.0.2.9", "2001:db8::9", "192.0.2.7"]);
    assert_eq!(good.faults, [""; 0]);
    let odd = read("192.0.2.9,192.0.2.900");
    assert_eq!(texts(&odd), ["192.0.2.9", "192.0.2.7"]);
    let fault = &odd.faults[0];
    let field = "metadata.annotations[fairlead.dev/load-balancer-ips]: ";
    assert!(
        fault.starts_with(field) && fault.contains("192.0.2.900"),
        "{fault}"
    );
}

#[test]
fn source_ranges_are_read_one_by_one_and_what_is_wrong_with_one_costs_that_one_only() {
    let read = |ranges: Value| read_service(json!({"loadBalancerSourceRanges": ranges})).unwrap();
    let good = read(json!(["10.1.2.3/8", "2001:db8::/32", "10.0.0.0/8"]));
    let texts: Vec<_> = good.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        ["10.0.0.0/8", "2001:db8::/32"],
        "the network, each once"
    );
    assert!(!good.source_ranges_faulty && good.faults.is_empty());
    let padded = read(json!([" 192.0.2.0/24 "]));
    assert_eq!(
        (padded.source_ranges.len(), padded.source_ranges_faulty),
        (1, false)
    );
    assert!(
        padded.faults[0].contains("loadBalancerSourceRanges[0]")
            && padded.faults[0].contains("write \"192.0.2.0/24\"")
    );
    for wrong in [
        "192.0.2.1",
        "192.0.2.0/255.255.255.0",
        "192.0.2.0/33",
        "",
        "x/8",
    ] {
        let read = read(json!(["192.0.2.0/24", wrong]));
        assert_eq!(
            (read.source_ranges.len(), read.source_ranges_faulty),
            (1, true),
            "{wrong}"
        );
        assert!(
            read.faults[0].contains("loadBalancerSourceRanges[1]")
                && read.faults[0].contains("write one like")
        );
    }
}

#[test]
fn a_status_that_can_t_be_used_costs_that_address_only() {
    let object = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.10"},
        "status": {"loadBalancer": {"ingress": [{"ip": "lb"}, {"ip": "203.0.113.1"}]}}});
    let read = service(&serde_json::from_value(object).unwrap()).unwrap();
    assert_eq!((read.ingress.len(), read.cluster_ips.len()), (1, 1));
    assert!(
        read.faults[0].starts_with("status.loadBalancer.ingress[0].ip: "),
        "{:?}",
        read.faults
    );
}

#[test]
fn a_service_of_another_proxy_or_by_name_has_no_outer_address_either() {
    let label = "service.kubernetes.io/service-proxy-name";
    for (labels, kind) in [
        (json!({label: "mesh"}), "LoadBalancer"),
        (json!({}), "ExternalName"),
    ] {
        let object = json!({"metadata": {"name": "web", "labels": labels},
            "spec": {"type": kind, "externalIPs": ["198.51.100.1"], "healthCheckNodePort": 31000,
                "ports": [{"port": 80, "nodePort": 30080}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
        let read = service(&serde_json::from_value(object).unwrap()).unwrap();
        assert!(
            read.external_ips.is_empty() && read.ingress.is_empty(),
            "{kind}"
        );
        assert_eq!(
            (read.ports[0].node_port, read.health_check_port),
            (None, None),
            "{kind}"
        );
    }
}

#[test]
fn endpoints_that_are_for_dns_alone_answer_nobody() {
    let slice = |labels| {
        let object = json!({"metadata": {"name": "web-1", "namespace": "shop", "labels": labels},
            "addressType": "IPv4", "endpoints": []});
        endpoint_slice(&serde_json::from_value(object).unwrap()).unwrap()
    };
    let service = "kubernetes.io/service-name";
    assert!(slice(json!({service: "web"})).is_some());
    let headless = "service.kubernetes.io/headless";
    assert!(slice(json!({service: "web", headless: ""})).is_none());
}

#[test]
fn what_of_outer_addresses_can_t_be_used_is_refused_by_field_and_remedy() {
    for (spec, parts) in [
        (
            json!({"type": "Balancer"}),
            ["spec.type", "write ClusterIP, NodePort"],
        ),
        (
            json!({"healthCheckNodePort": 70000}),
            ["spec.healthCheckNodePort", "1 to 65535"],
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": -1}]}),
            ["spec.ports[0].nodePort", "1 to 65535"],
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30080}, {"port": 81, "nodePort": 30080}]}),
            ["spec.ports[1].nodePort", "give one of the entries another"],
        ),
    ] {
        refused(read_service(spec), &parts);
    }
    // The rest of the Service is served.
    let read = read_service(json!({"externalIPs": ["127.0.0.1", "192.0.2.1"]})).unwrap();
    assert_eq!(read.external_ips.len(), 1);
    let fault = &read.faults[0];
    assert!(
        fault.contains("spec.externalIPs[0]") && fault.contains("loopback"),
        "{fault}"
    );
}

#[test]
fn hints_and_zones_are_read() {
    let endpoint = |hints: Value| {
        let endpoint = json!({"addresses": ["10.1.0.5"], "zone": "a", "hints": hints});
        let read = read_slice(json!({"endpoints": [endpoint]}))
            .unwrap()
            .unwrap();
        read.endpoints[0].clone()
    };
    let read =
        endpoint(json!({"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]}));
    let expected = Hints {
        zones: vec!["a".into(), "b".into()],
        nodes: vec!["n1".into()],
    };
    assert_eq!(
        (read.zone.as_deref(), read.hints.as_deref()),
        (Some("a"), Some(&expected))
    );
    for none in [json!(null), json!({}), json!({"forZones": []})] {
        assert_eq!(endpoint(none).hints, None);
    }
    let zone = |labels: Value| {
        let object = json!({"metadata": {"name": "n1", "labels": labels}});
        node(&serde_json::from_value(object).unwrap()).unwrap().zone
    };
    assert_eq!(
        zone(json!({"topology.kubernetes.io/zone": "a"})).as_deref(),
        Some("a")
    );
    assert_eq!(zone(json!({"topology.kubernetes.io/zone": ""})), None);
}

#[test]
fn what_an_older_version_saved_is_read() {
    let saved = json!({"namespace": "shop", "name": "web", "cluster_ips": ["10.96.0.10"], "internal_local": true,
        "ports": [{"name": "", "protocol": "TCP", "port": 80}]});
    let read: Service = serde_json::from_value(saved).unwrap();
    assert_eq!(
        (
            read.internal_local,
            read.external_local,
            read.ports[0].node_port
        ),
        (true, false, None)
    );
    let saved =
        json!({"address": "10.1.0.5", "ready": true, "serving": true, "terminating": false});
    assert_eq!(
        serde_json::from_value::<SliceEndpoint>(saved)
            .unwrap()
            .hints,
        None
    );
    let saved = json!({"name": "n1", "addresses": [], "pod_cidrs": []});
    assert_eq!(
        serde_json::from_value::<crate::model::Node>(saved)
            .unwrap()
            .zone,
        None
    );
}
