//! Services and EndpointSlices as tables: what is written, what is understood.

use super::{FieldError, endpoint_slice, service};
use crate::model::{Protocol, SliceEndpoint};
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
fn outside_addresses_of_a_service_are_read_where_it_has_the_family() {
    let object = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.10"], "ports": [
                {"port": 80, "name": "a", "nodePort": 30080}, {"port": 81, "name": "b", "nodePort": 0}],
            "externalIPs": ["192.0.2.1", "2001:db8::1"],
            "loadBalancerSourceRanges": [" 10.0.0.0/8 ", "2001:db8::/32"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"hostname": "x.example"},
            {"ip": "192.0.2.3", "ipMode": "VIP"}, {"ip": "192.0.2.4", "ipMode": "Proxy"}]}}});
    let read = service(&serde_json::from_value(object).unwrap()).unwrap();
    let texts = |ips: &[std::net::IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&read.external_ips), ["192.0.2.1"]);
    assert_eq!(texts(&read.load_balancer_ips), ["192.0.2.2", "192.0.2.3"]);
    let ranges: Vec<_> = read.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.0.0/8", "2001:db8::/32"]);
    let ports: Vec<_> = read.ports.iter().map(|p| p.node_port).collect();
    assert_eq!(ports, [Some(30_080), None]);
    let headless = read_service(json!({"clusterIP": "None", "externalIPs": ["192.0.2.1"]}));
    assert!(headless.unwrap().external_ips.is_empty());
    for (field, value) in [
        ("externalIPs", json!(["x"])),
        ("loadBalancerSourceRanges", json!(["10.0.0.0/33"])),
    ] {
        let result = read_service(json!({"clusterIP": "10.96.0.1", field: value}));
        refused(result, &[&format!("spec.{field}[0]: "), "write one like"]);
    }
    refused(
        read_service(json!({"ports": [{"port": 1, "nodePort": 70000}]})),
        &["spec.ports[0].nodePort"],
    );
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
