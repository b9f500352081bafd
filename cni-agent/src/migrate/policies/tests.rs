//! Calico's policies as tables: what is written, what comes of it.

use super::*;
use crate::source::{convert::cluster_policy, policy_api::ClusterNetworkPolicy};

fn global(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": { "name": name }, "spec": spec })
}

/// Each object is one that the agent takes.
fn converted(objects: &[Value]) -> Converted {
    let converted = convert(objects);
    for object in &converted.objects {
        let read: ClusterNetworkPolicy = serde_json::from_value(object.clone()).unwrap();
        let policy = cluster_policy(&read).unwrap_or_else(|errors| panic!("{object}: {errors:?}"));
        assert_eq!(policy.unmet, Vec::<String>::new());
    }
    converted
}

#[test]
fn order_becomes_priority_and_what_no_rule_means_is_denied_last() {
    let allow = json!({ "selector": "app == 'db'", "types": ["Ingress"], "order": 20, "ingress": [
        { "action": "Allow", "protocol": "TCP", "source": { "selector": "app == 'web' || app == 'job'", "namespaceSelector": "all()" },
          "destination": { "ports": [5432, "6000:6010"] } } ] });
    let pass = json!({ "selector": "all()", "types": ["Egress"], "order": 10, "egress": [{ "action": "Pass" }] });
    let converted = converted(&[global("default.db", &allow), global("out", &pass)]);
    let names: Vec<_> = (converted.objects.iter())
        .map(|object| {
            (
                object["metadata"]["name"].as_str().unwrap(),
                object["spec"]["tier"].as_str().unwrap(),
                object["spec"]["priority"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("out", "Admin", 10),
        ("out-rest", "Baseline", 10),
        ("db", "Admin", 20),
        ("db-rest", "Baseline", 20),
    ];
    assert_eq!(names, expected);
    let rule = &converted.objects[2]["spec"]["ingress"][0];
    assert_eq!(rule["action"], "Accept");
    assert_eq!(
        rule["from"].as_array().unwrap().len(),
        2,
        "either side of the ||"
    );
    assert_eq!(
        rule["protocols"][0],
        json!({ "tcp": { "destinationPort": { "number": 5432 } } })
    );
    assert_eq!(
        rule["protocols"][1],
        json!({ "tcp": { "destinationPort": { "range": { "start": 6000, "end": 6010 } } } })
    );
    let everywhere = json!([{ "networks": ["0.0.0.0/0", "::/0"] }]);
    assert_eq!(converted.objects[0]["spec"]["egress"][0]["to"], everywhere);
    assert_eq!(converted.problems.len(), 1, "{:?}", converted.problems);
    assert!(
        converted.problems[0]
            .1
            .contains("from outside of the cluster")
    );
}

#[test]
fn a_policy_of_a_namespace_stays_in_it() {
    let policy = json!({ "apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "tier": "security", "selector": "has(web)", "egress": [{ "action": "Deny", "destination": { "selector": "app == 'db'" } }] } });
    let converted = converted(&[json!({ "kind": "List", "items": [policy] })]);
    let [object] = converted.objects.as_slice() else {
        panic!("{converted:?}")
    };
    assert_eq!(object["metadata"]["name"], "shop-web");
    let shop = json!([{ "key": NAME, "operator": "In", "values": ["shop"] }]);
    let subject = &object["spec"]["subject"]["pods"];
    assert_eq!(subject["namespaceSelector"]["matchExpressions"], shop);
    let [rule, rest] = object["spec"]["egress"].as_array().unwrap().as_slice() else {
        panic!("{object}")
    };
    assert_eq!(
        rule["to"][0]["pods"]["namespaceSelector"]["matchExpressions"],
        shop
    );
    assert_eq!(
        rest["action"], "Deny",
        "a tier of its own ends with a denial"
    );
    assert_eq!(converted.problems, []);
}

#[test]
fn what_has_no_counterpart_leaves_the_policy_out_and_is_named() {
    let rule = |rule: Value| json!({ "selector": "all()", "ingress": [rule] });
    for (spec, field) in [
        (
            json!({ "selector": "all()", "doNotTrack": true }),
            "spec.doNotTrack",
        ),
        (json!({ "selector": "app contains 'x'" }), "spec.selector"),
        (
            json!({ "selector": "all()", "serviceAccountSelector": "all()" }),
            "spec.serviceAccountSelector",
        ),
        (
            rule(json!({ "action": "Allow", "source": { "nets": ["192.0.2.0/24"] } })),
            "spec.ingress[0].source.nets",
        ),
        (
            rule(json!({ "action": "Allow", "source": { "notNets": ["192.0.2.0/24"] } })),
            "spec.ingress[0].source.notNets",
        ),
        (
            rule(json!({ "action": "Allow", "source": { "ports": [1] } })),
            "spec.ingress[0].source.ports",
        ),
        (
            rule(json!({ "action": "Allow", "destination": { "selector": "all()" } })),
            "spec.ingress[0].destination",
        ),
        (
            rule(json!({ "action": "Allow", "protocol": "ICMP" })),
            "spec.ingress[0].protocol",
        ),
        (
            rule(
                json!({ "action": "Allow", "protocol": "TCP", "destination": { "ports": ["9:1"] } }),
            ),
            "spec.ingress[0].destination.ports",
        ),
        (
            rule(json!({ "action": "Allow", "destination": { "ports": [80] } })),
            "spec.ingress[0].destination.ports",
        ),
        (
            rule(json!({ "action": "Allow", "http": { "methods": ["GET"] } })),
            "spec.ingress[0].http",
        ),
        (
            rule(json!({ "action": "Refuse" })),
            "spec.ingress[0].action",
        ),
    ] {
        let converted = converted(&[global("p", &spec)]);
        assert_eq!(converted.objects, Vec::<Value>::new(), "{spec}");
        let named = converted.problems.iter().any(|(of, problem)| {
            of == "GlobalNetworkPolicy p"
                && problem.starts_with("left out: ")
                && problem.contains(field)
        });
        assert!(named, "{field}: {:?}", converted.problems);
    }
}

#[test]
fn what_is_weaker_than_it_was_is_said() {
    let spec = json!({ "selector": "all()", "types": ["Ingress"], "ingress": [
        { "action": "Log" },
        { "action": "Deny", "protocol": "TCP", "destination": { "ports": ["web"] } } ] });
    let converted = converted(&[global("p", &spec)]);
    assert_eq!(converted.objects.len(), 2);
    let said = |part: &str| {
        converted
            .problems
            .iter()
            .any(|(_, problem)| problem.contains(part))
    };
    for part in ["nothing is logged", "from outside", "the port's name"] {
        assert!(said(part), "{part}: {:?}", converted.problems);
    }
}

#[test]
fn other_kinds_are_passed_over() {
    let other = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "x" }, "spec": {} });
    let converted = converted(&[other]);
    assert!(converted.objects.is_empty() && converted.problems.is_empty());
}
