//! NetworkPolicies as tables: what is written, what is understood.

use super::{FieldError, network_policy, pod};
use crate::model::{NetworkPolicy, Operator, Peer, PortChoice, Protocol, Rule};
use serde_json::{Value, json};

fn read(spec: Value) -> Result<NetworkPolicy, Vec<FieldError>> {
    let object = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
    network_policy(&serde_json::from_value(object).unwrap())
}

#[test]
fn directions_follow_from_the_types_or_else_from_the_rules() {
    for (spec, ingress, egress) in [
        (json!({"podSelector": {}}), true, false),
        (json!({"podSelector": {}, "ingress": []}), true, false),
        (json!({"podSelector": {}, "egress": []}), true, false),
        (json!({"podSelector": {}, "egress": [{}]}), true, true),
        (
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
            false,
            true,
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}]}),
            false,
            true,
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]}),
            true,
            false,
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
            true,
            true,
        ),
    ] {
        let read = read(spec.clone()).unwrap();
        assert_eq!(
            (read.ingress.is_some(), read.egress.is_some()),
            (ingress, egress),
            "{spec}"
        );
    }
}

#[test]
fn what_is_left_out_of_a_rule_lets_everything() {
    for rule in [json!({}), json!({"from": [], "ports": []})] {
        let read = read(json!({"podSelector": {}, "ingress": [rule]})).unwrap();
        assert_eq!(read.ingress, Some(vec![Rule::default()]));
    }
    let read = read(json!({"podSelector": {}, "ingress": [{"ports": [{}, {"protocol": "UDP", "port": 53}, {"port": 1, "endPort": 9}, {"port": "web"}]}]})).unwrap();
    let ports = read.ingress.unwrap()[0].ports.clone().unwrap();
    let choices: Vec<_> = ports.into_iter().map(|p| (p.protocol, p.port)).collect();
    let expected = [
        (Protocol::Tcp, PortChoice::All),
        (Protocol::Udp, PortChoice::Range(53, 53)),
        (Protocol::Tcp, PortChoice::Range(1, 9)),
        (Protocol::Tcp, PortChoice::Named("web".into())),
    ];
    assert_eq!(choices, expected);
}

#[test]
fn peers_are_of_the_policys_namespace_unless_others_are_selected() {
    let from = json!([
        {"podSelector": {"matchLabels": {"app": "a"}}},
        {"namespaceSelector": {}},
        {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["x"]}]}, "podSelector": {}},
        {"ipBlock": {"cidr": "10.1.2.3/16", "except": ["10.1.9.0/24"]}},
    ]);
    let read = read(json!({"podSelector": {}, "ingress": [{"from": from}]})).unwrap();
    let peers = read.ingress.unwrap()[0].peers.clone().unwrap();
    let Peer::Pods {
        namespaces: None,
        pods,
    } = &peers[0]
    else {
        panic!("{peers:?}")
    };
    assert_eq!(pods.0[0].is, Operator::In(["a".to_owned()].into()));
    let all = Peer::Pods {
        namespaces: Some(Default::default()),
        pods: Default::default(),
    };
    assert_eq!(peers[1], all);
    let Peer::Pods {
        namespaces: Some(of),
        ..
    } = &peers[2]
    else {
        panic!("{peers:?}")
    };
    assert_eq!(of.0[0].is, Operator::NotIn(["x".to_owned()].into()));
    let block = Peer::Block {
        cidr: "10.1.0.0/16".parse().unwrap(),
        except: vec!["10.1.9.0/24".parse().unwrap()],
    };
    assert_eq!(peers[3], block);
}

#[test]
fn what_can_t_be_used_is_refused_by_field_and_remedy() {
    let rule = |rule: Value| json!({"podSelector": {}, "ingress": [rule]});
    for (spec, parts) in [
        (
            json!({"podSelector": {}, "policyTypes": ["Both"]}),
            ["spec.policyTypes[0]", "Ingress or Egress"],
        ),
        (
            rule(json!({"from": [{}]})),
            ["spec.ingress[0].from[0]", "ipBlock"],
        ),
        (
            rule(json!({"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]})),
            ["from[0].ipBlock.cidr", "192.0.2.0/24"],
        ),
        (
            rule(json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}}]})),
            ["except[0]", "no part of 10.0.0.0/8"],
        ),
        (
            rule(json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]})),
            ["from[0].ipBlock", "two entries"],
        ),
        (
            rule(json!({"ports": [{"port": 0}]})),
            ["ports[0].port", "1 to 65535"],
        ),
        (
            rule(json!({"ports": [{"endPort": 9}]})),
            ["ports[0].endPort", "first port"],
        ),
        (
            rule(json!({"ports": [{"port": 9, "endPort": 8}]})),
            ["ports[0].endPort", "9 to 65535"],
        ),
        (
            rule(json!({"ports": [{"port": "web", "endPort": 8}]})),
            ["ports[0].endPort", "number"],
        ),
        (
            rule(json!({"ports": [{"port": 9, "protocol": "ICMP"}]})),
            ["ports[0].protocol", "SCTP"],
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}),
            ["matchExpressions[0].operator", "NotIn"],
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            ["matchExpressions[0].values", "at least one"],
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}}),
            ["matchExpressions[0].values", "remove"],
        ),
    ] {
        let text = read(spec.clone()).unwrap_err()[0].to_string();
        for part in parts {
            assert!(text.contains(part), "{spec}: {text:?} lacks {part:?}");
        }
    }
}

#[test]
fn a_pod_has_the_ports_that_it_names_and_none_of_its_addresses_once_it_has_ended() {
    let read = |phase: &str| {
        let object = json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "web"}, {"containerPort": 81}]}],
                "initContainers": [
                    {"name": "once", "ports": [{"containerPort": 5, "name": "once"}]},
                    {"name": "beside", "restartPolicy": "Always", "ports": [{"containerPort": 53, "name": "dns", "protocol": "UDP"}]},
                ],
            },
            "status": {"phase": phase, "podIPs": [{"ip": "10.1.0.2"}]},
        });
        pod(&serde_json::from_value(object).unwrap()).unwrap()
    };
    let pod = read("Running");
    let names: Vec<_> = pod
        .ports
        .iter()
        .map(|p| (p.name.as_str(), p.protocol, p.port))
        .collect();
    assert_eq!(
        names,
        [("dns", Protocol::Udp, 53), ("web", Protocol::Tcp, 80)]
    );
    assert_eq!(pod.ips.len(), 1);
    assert!(read("Succeeded").ips.is_empty() && read("Failed").ips.is_empty());
}
