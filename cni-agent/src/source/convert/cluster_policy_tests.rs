//! Policies of the cluster as tables: what is written, what is understood, and what is done about the rest.

use super::{FieldError, cluster_policy};
use crate::{
    model::{
        Action, ClusterPolicy, DomainPattern, Operator, Peer, PortChoice, Ports, Protocol,
        Requirement, Rule, Selector, Tier,
    },
    source::policy_api::{AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy},
};
use serde_json::{Value, json};

fn read(spec: Value) -> Result<ClusterPolicy, Vec<FieldError>> {
    let object = json!({"metadata": {"name": "p"}, "spec": spec});
    cluster_policy(&serde_json::from_value::<ClusterNetworkPolicy>(object).unwrap())
}

/// With rules for what goes.
fn egress(rules: Value) -> Value {
    json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "egress": rules})
}

fn label(key: &str, value: &str) -> Selector {
    Selector(vec![Requirement {
        key: key.into(),
        is: Operator::In([value.to_owned()].into()),
    }])
}

fn tcp(first: u16, last: u16) -> Ports {
    Ports {
        protocol: Protocol::Tcp,
        port: PortChoice::Range(first, last),
    }
}

#[test]
fn every_kind_of_peer_and_protocol_is_read() {
    let read = read(egress(json!([{
        "name": "out", "action": "Pass",
        "to": [
            {"namespaces": {"matchLabels": {"team": "a"}}},
            {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}},
            {"nodes": {"matchLabels": {"edge": "yes"}}},
            {"networks": ["10.0.0.0/8", "2001:db8::/32"]},
        ],
        "protocols": [
            {"tcp": {"destinationPort": {"number": 80}}},
            {"tcp": {"destinationPort": {"range": {"start": 8000, "end": 8010}}}},
            {"udp": {}},
            {"destinationNamedPort": "dns"},
        ],
    }])))
    .unwrap();
    assert_eq!(
        (read.tier, read.priority, read.unmet.len()),
        (Tier::Admin, 5, 0)
    );
    assert_eq!((read.namespaces, read.pods), Default::default());
    let [judgement] = read.egress.as_slice() else {
        panic!("{:?}", read.egress)
    };
    assert_eq!(
        (judgement.name.as_str(), judgement.action),
        ("out", Action::Pass)
    );
    let of = |namespaces, pods| Peer::Pods {
        namespaces: Some(namespaces),
        pods,
    };
    let block = |cidr: &str| Peer::Block {
        cidr: cidr.parse().unwrap(),
        except: Vec::new(),
    };
    let expected = vec![
        of(label("team", "a"), Selector::default()),
        of(Selector::default(), label("app", "db")),
        Peer::Nodes(label("edge", "yes")),
        block("10.0.0.0/8"),
        block("2001:db8::/32"),
    ];
    assert_eq!(judgement.rule.peers, Some(expected));
    let mut expected = vec![
        tcp(80, 80),
        tcp(8000, 8010),
        Ports {
            protocol: Protocol::Udp,
            port: PortChoice::All,
        },
    ];
    // A port's name says nothing of its protocol.
    expected.extend(Protocol::ALL.map(|protocol| Ports {
        protocol,
        port: PortChoice::Named("dns".into()),
    }));
    assert_eq!(judgement.rule.ports, Some(expected));
}

/// "For Accept rules, fail closed means: treat the rule as matching no traffic. For Deny and Pass rules: treat
/// the rule as a Deny all rule."
#[test]
fn a_peer_or_protocol_that_nobody_knows_fails_closed() {
    let known = json!({"namespaces": {}});
    for (to, protocols) in [
        (json!([{"unheardOf": {}}]), Value::Null),
        (json!([{"unheardOf": {}}, known.clone()]), Value::Null),
        (json!([known]), json!([{"icmp": {}}])),
    ] {
        for action in ["Accept", "Deny", "Pass"] {
            let rule = json!({"action": action, "to": to, "protocols": protocols});
            let read = read(egress(json!([rule]))).unwrap();
            let [judgement] = read.egress.as_slice() else {
                panic!("{action} {to} {protocols}")
            };
            let (action, peers) = match action {
                "Accept" => (Action::Accept, Some(Vec::new())),
                _ => (Action::Deny, None),
            };
            assert_eq!(judgement.action, action);
            let rule = Rule { peers, ports: None };
            assert_eq!(judgement.rule, rule, "nobody, or everybody");
            assert!(
                read.unmet[0].starts_with("spec.egress[0]: "),
                "{:?}",
                read.unmet
            );
        }
    }
}

#[test]
fn names_of_domains_are_peers_of_rules_that_accept() {
    let rule = |action: &str, names: Value| {
        let to = json!([{"domainNames": names}, {"networks": ["192.0.2.0/24"]}]);
        read(egress(json!([{"action": action, "to": to}])))
    };
    let accepted = rule("Accept", json!(["Example.com.", "*.example.org"])).unwrap();
    let peers = accepted.egress[0].rule.peers.as_ref().unwrap();
    let domain = |text| Peer::Domain(DomainPattern::parse(text).unwrap());
    assert_eq!(peers[..2], [domain("example.com"), domain("*.example.org")]);
    assert_eq!(peers.len(), 3);
    let told = &accepted.unmet[0];
    assert!(
        told.starts_with("spec.egress[0].to[0].domainNames[1]: names below *.example.org"),
        "{told}"
    );
    // The API has no such rule; what is not known to be meant must not pass.
    for action in ["Deny", "Pass"] {
        let denied = rule(action, json!(["example.com"])).unwrap();
        assert_eq!(denied.egress[0].action, Action::Deny);
        assert_eq!(denied.egress[0].rule, Rule::default());
    }
    let faults = rule("Accept", json!(["not a name"])).unwrap_err();
    assert_eq!(faults[0].field, "spec.egress[0].to[0].domainNames[0]");
}

#[test]
fn a_fault_names_its_field_and_the_remedy() {
    let rule = |rule: Value| egress(json!([rule]));
    let to = json!([{"namespaces": {}}]);
    for (spec, field, remedy) in [
        (
            json!({"priority": 1, "subject": {"namespaces": {}}}),
            "spec.tier",
            "write Admin or Baseline",
        ),
        (
            json!({"tier": "admin", "priority": 1, "subject": {"namespaces": {}}}),
            "spec.tier",
            "write Admin or Baseline",
        ),
        (
            json!({"tier": "Admin", "subject": {"namespaces": {}}}),
            "spec.priority",
            "write a number from 0",
        ),
        (
            json!({"tier": "Admin", "priority": 1001, "subject": {"namespaces": {}}}),
            "spec.priority",
            "from 0 to 1000",
        ),
        (
            json!({"tier": "Admin", "priority": 1}),
            "spec.subject",
            "write namespaces or pods",
        ),
        (
            json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}, "pods": {}}}),
            "spec.subject",
            "write one of them",
        ),
        (
            rule(json!({"action": "Allow", "to": to})),
            "spec.egress[0].action",
            "write Accept, Deny or Pass",
        ),
        (
            rule(json!({"action": "Deny", "to": []})),
            "spec.egress[0].to",
            "at least one",
        ),
        (
            rule(json!({"action": "Deny", "from": to})),
            "spec.egress[0].to",
            "at least one",
        ),
        (
            rule(json!({"action": "Deny", "to": [{"namespaces": {}, "networks": ["10.0.0.0/8"]}]})),
            "spec.egress[0].to[0]",
            "an entry for each",
        ),
        (
            rule(json!({"action": "Deny", "to": [{"networks": ["10.0.0.0"]}]})),
            "spec.egress[0].to[0].networks[0]",
            "write one like",
        ),
        (
            rule(json!({"action": "Deny", "to": to, "ports": []})),
            "spec.egress[0].ports",
            "write protocols",
        ),
        (
            rule(
                json!({"action": "Deny", "to": to, "protocols": [{"tcp": {"destinationPort": {"number": 0}}}]}),
            ),
            "spec.egress[0].protocols[0].tcp.destinationPort.number",
            "from 1 to 65535",
        ),
        (
            rule(
                json!({"action": "Deny", "to": to, "protocols": [{"udp": {"destinationPort": {"range": {"start": 9, "end": 8}}}}]}),
            ),
            "spec.egress[0].protocols[0].udp.destinationPort.range",
            "exchange them",
        ),
        (
            json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [{"action": "Deny", "from": [{"nodes": {}}]}]}),
            "spec.ingress[0].from[0]",
            "write one of them",
        ),
    ] {
        let errors = read(spec.clone()).unwrap_err();
        assert_eq!(errors.len(), 1, "{spec} {errors:?}");
        assert_eq!(errors[0].field, field, "{spec}");
        assert!(errors[0].message.contains(remedy), "{spec} {errors:?}");
    }
}

#[test]
fn the_older_kinds_mean_the_same_in_other_words() {
    let rules = json!([{"action": "Allow", "to": [{"namespaces": {}}], "ports": [
        {"portNumber": {"protocol": "TCP", "port": 80}},
        {"portRange": {"protocol": "TCP", "start": 90, "end": 99}},
    ]}]);
    let object = json!({"metadata": {"name": "default"}, "spec": {"priority": 3, "subject": {"namespaces": {}}, "egress": rules}});
    let admin: AdminNetworkPolicy = serde_json::from_value(object.clone()).unwrap();
    let admin = cluster_policy(&admin).unwrap();
    assert_eq!((admin.tier, admin.priority), (Tier::Admin, 3));
    assert_eq!(admin.egress[0].action, Action::Accept);
    assert_eq!(
        admin.egress[0].rule.ports,
        Some(vec![tcp(80, 80), tcp(90, 99)])
    );
    let baseline: BaselineAdminNetworkPolicy = serde_json::from_value(object).unwrap();
    let baseline = cluster_policy(&baseline).unwrap();
    assert_eq!(
        (baseline.tier, baseline.kind.as_str()),
        (Tier::Baseline, "BaselineAdminNetworkPolicy")
    );
    assert_eq!(baseline.egress, admin.egress);
}
