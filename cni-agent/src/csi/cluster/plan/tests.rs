//! Which tasks follow from what the cluster has; and the objects that other tests begin with.

use super::*;
use serde_json::{Value, json};

pub(in crate::csi::cluster) fn own(node: &str) -> Own {
    let topology = [("t/node".to_owned(), node.to_owned())];
    Own {
        node: node.into(),
        driver: "d".into(),
        topology: topology.into(),
        labels: BTreeMap::new(),
        node_uid: Some(format!("uid-{node}")),
    }
}

pub(in crate::csi::cluster) fn claim(name: &str, node: Option<&str>) -> Value {
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": "1",
            "annotations": {"volume.kubernetes.io/storage-provisioner": "d"}
        },
        "spec": {
            "storageClassName": "late", "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": "1Gi"}}
        },
        "status": {"phase": "Pending"}
    });
    if let Some(node) = node {
        claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] = json!(node);
    }
    claim
}

pub(in crate::csi::cluster) fn class(name: &str, mode: &str) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": "1"},
        "provisioner": "d", "volumeBindingMode": mode, "reclaimPolicy": "Delete"
    })
}

fn read<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn versioned(mut claim: Value, version: &str) -> Value {
    claim["metadata"]["resourceVersion"] = json!(version);
    claim
}

pub(in crate::csi::cluster) fn provision(name: &str, version: &str) -> Task {
    let claim = versioned(claim(name, Some("n1")), version);
    Task::Provision(read(claim), read(class("late", "WaitForFirstConsumer")))
}

pub(in crate::csi::cluster) fn larger(name: &str, version: &str) -> Task {
    let mut claim = versioned(claim(name, Some("n1")), version);
    claim["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
    Task::Provision(read(claim), read(class("late", "WaitForFirstConsumer")))
}

pub(in crate::csi::cluster) fn take(name: &str, node: &str) -> Task {
    Task::Take(
        read(claim(name, None)),
        read(class("soon", "Immediate")),
        node.into(),
    )
}

pub(in crate::csi::cluster) fn take_version(name: &str, node: &str, version: &str) -> Task {
    let claim = versioned(claim(name, None), version);
    Task::Take(read(claim), read(class("soon", "Immediate")), node.into())
}

pub(in crate::csi::cluster) fn take_more(name: &str, node: &str) -> Task {
    let mut claim = claim(name, None);
    claim["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
    Task::Take(read(claim), read(class("soon", "Immediate")), node.into())
}

pub(in crate::csi::cluster) fn provision_soon(name: &str, version: &str) -> Task {
    let claim = versioned(claim(name, Some("n1")), version);
    Task::Provision(read(claim), read(class("soon", "Immediate")))
}

fn objects<K: serde::de::DeserializeOwned>(all: &[Value]) -> Objects<K> {
    let entry = |value: &Value| {
        let text = |field: &str| {
            value["metadata"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        ((text("namespace"), text("name")), read(value.clone()))
    };
    all.iter().map(entry).collect()
}

fn keys(seen: &Seen, node: &str) -> Vec<String> {
    let tasks = plan(seen, &own(node));
    tasks
        .iter()
        .map(|task| format!("{} {}", task.key().0, task.key().1))
        .collect()
}

#[test]
fn a_claim_is_answered_once_by_the_node_that_was_chosen() {
    let mut soon = claim("soon", None);
    soon["spec"]["storageClassName"] = json!("soon");
    let mut taken = claim("taken", Some("n2"));
    taken["spec"]["storageClassName"] = json!("soon");
    let mut other = claim("other", Some("n1"));
    other["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"] = json!("another");
    let mut lost = claim("lost", Some("n1"));
    lost["spec"]["storageClassName"] = json!("nobody's");
    let mut bound = claim("bound", Some("n1"));
    bound["spec"]["volumeName"] = json!("pvc-uid-bound");
    let mut beta = claim("beta", Some("n1"));
    beta["metadata"]["annotations"] = json!({
        "volume.beta.kubernetes.io/storage-provisioner": "d", "volume.kubernetes.io/selected-node": "n1"
    });
    let claims = [
        claim("here", Some("n1")),
        claim("there", Some("n2")),
        claim("waits", None),
        soon,
        taken,
        other,
        lost,
        bound,
        beta,
    ];
    let mut seen = Seen {
        claims: objects(&claims),
        classes: objects(&[
            class("late", "WaitForFirstConsumer"),
            class("soon", "Immediate"),
        ]),
        ..Seen::default()
    };
    assert_eq!(
        keys(&seen, "n1"),
        ["provision uid-beta", "provision uid-here", "take uid-soon"]
    );
    assert_eq!(
        keys(&seen, "n2"),
        [
            "take uid-soon",
            "provision uid-taken",
            "provision uid-there"
        ]
    );
    let made = json!({"metadata": {"name": "pvc-uid-here"}, "spec": {}});
    seen.volumes = objects(&[made]);
    assert_eq!(keys(&seen, "n1"), ["provision uid-beta", "take uid-soon"]);
}

#[test]
fn a_class_that_allows_other_places_is_not_this_node_s() {
    let mut soon = claim("soon", None);
    soon["spec"]["storageClassName"] = json!("soon");
    for (terms, expected) in [
        (json!([]), 1),
        (
            json!([{"matchLabelExpressions": [{"key": "t/node", "values": ["n9", "n1"]}]}]),
            1,
        ),
        (
            json!([{"matchLabelExpressions": [{"key": "zone", "values": ["a"]}]}]),
            1,
        ),
        (
            json!([{"matchLabelExpressions": [{"key": "zone", "values": ["b"]}]}]),
            0,
        ),
        (
            json!([{"matchLabelExpressions": [{"key": "zone", "values": ["a"]}, {"key": "rack", "values": ["1"]}]}]),
            0,
        ),
        (
            json!([{"matchLabelExpressions": [{"key": "zone", "values": ["b"]}]}, {"matchLabelExpressions": [{"key": "zone", "values": ["a"]}]}]),
            1,
        ),
    ] {
        let mut class = class("soon", "Immediate");
        class["allowedTopologies"] = terms.clone();
        let seen = Seen {
            claims: objects(&[soon.clone()]),
            classes: objects(&[class]),
            ..Seen::default()
        };
        let mut own = own("n1");
        own.labels = [("zone".to_owned(), "a".to_owned())].into();
        assert_eq!(plan(&seen, &own).len(), expected, "{terms}");
    }
}

#[test]
fn only_what_concerns_this_node_is_kept() {
    let here = |name: &str| name == "mine";
    let bound = |volume: &str, node| {
        let mut claim = claim("a", node);
        claim["spec"]["volumeName"] = json!(volume);
        claim
    };
    let mut foreign = claim("a", Some("n1"));
    foreign["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"] = json!("x");
    for (claim, kept) in [
        (claim("a", None), true),
        (claim("a", Some("n1")), true),
        (claim("a", Some("n2")), false),
        (bound("mine", None), true),
        (bound("mine", Some("n2")), true),
        (bound("not-seen-yet", Some("n1")), true),
        (bound("another", Some("n2")), false),
        (bound("another", None), false),
        (foreign, false),
    ] {
        let read: Arc<PersistentVolumeClaim> = read(claim.clone());
        assert_eq!(concerns(&read, &own("n1"), here), kept, "{claim}");
    }
}
