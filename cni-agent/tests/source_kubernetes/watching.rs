//! What becomes of the cluster when the API server does what API servers do.

use super::fake::{DEFINITIONS, Fake, node, pod, service, slice};
use cni_agent::{
    source::{Source, kubernetes::Kubernetes},
    state::Cluster,
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// Longer than any test: what is waited for comes.
const LONG: Duration = Duration::from_secs(60);
const NODES: &str = "/api/v1/nodes";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

async fn until(
    source: &Kubernetes,
    mut right: impl FnMut(&Cluster) -> bool,
) -> (Arc<Cluster>, watch::Receiver<Arc<Cluster>>) {
    let mut cluster = source.subscribe();
    let found = tokio::time::timeout(LONG, cluster.wait_for(|cluster| right(cluster)));
    let found = found.await.unwrap().unwrap().clone();
    (found, cluster)
}

/// Waits for something of the fake or the source that no channel tells.
async fn eventually(right: impl Fn() -> bool) {
    let look = async {
        while !right() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, look).await.unwrap();
}

#[tokio::test]
async fn nothing_is_published_before_every_kind_was_listed() {
    for streaming in [true, false] {
        let fake = Fake::start(streaming).await;
        fake.put(node("n1", 1));
        fake.put(service("web", 1));
        fake.put(slice("web-1", "web", "10.0.1.5"));
        fake.hold(SLICES);
        let state = tempfile::tempdir().unwrap();
        let source = fake.source(state.path(), Duration::from_millis(300)).await;
        eventually(|| source.own_node().borrow().is_some()).await;
        assert_eq!(source.subscribe().borrow().revision, 0);
        fake.let_go();
        let (cluster, _) = until(&source, |cluster| cluster.revision > 0).await;
        assert_eq!((cluster.nodes.len(), cluster.services.len()), (1, 1));
        assert_eq!(cluster.slices.len(), 1);
        assert_eq!(source.problems(), []);
        let inner = fake.inner.lock().unwrap();
        let ways = (inner.streams > 0, inner.lists > 0);
        assert_eq!(
            ways,
            (streaming, !streaming),
            "lists are read the other way"
        );
    }
}

#[tokio::test]
async fn changes_arrive_and_many_at_once_make_few_snapshots() {
    let fake = Fake::start(true).await;
    fake.put(node("n1", 1));
    let state = tempfile::tempdir().unwrap();
    let source = fake.source(state.path(), LONG).await;
    for number in 0..500 {
        fake.put(service(&format!("s{number}"), number));
    }
    fake.put(node("n2", 2));
    let all = |cluster: &Cluster| cluster.services.len() == 500 && cluster.nodes.len() == 2;
    let (cluster, _) = until(&source, all).await;
    assert!(cluster.revision < 250, "{} snapshots", cluster.revision);
    fake.delete(NODES, "/n2");
    until(&source, |cluster| !cluster.nodes.contains_key("n2")).await;
}

#[tokio::test]
async fn news_of_endpoints_are_known_by_the_revision_that_has_them_and_a_list_is_none() {
    let fake = Fake::start(true).await;
    fake.put(node("n1", 1));
    fake.put(slice("web-1", "web", "10.0.1.5"));
    let state = tempfile::tempdir().unwrap();
    let source = fake.source(state.path(), LONG).await;
    let (listed, _) = until(&source, |cluster| cluster.slices.len() == 1).await;
    assert_eq!(
        source.arrivals().written(u64::MAX),
        [],
        "nobody waited for it"
    );
    fake.put(slice("web-1", "web", "10.0.1.6"));
    let moved = |cluster: &Cluster| cluster.revision > listed.revision;
    let (changed, _) = until(&source, moved).await;
    assert_eq!(source.arrivals().written(changed.revision - 1), []);
    assert_eq!(source.arrivals().written(changed.revision).len(), 1);
    fake.put(node("n2", 2));
    until(&source, |cluster| cluster.nodes.len() == 2).await;
    assert_eq!(source.arrivals().written(u64::MAX), []);
}

#[tokio::test]
async fn a_watch_that_is_too_old_lists_anew_without_removing_what_is_there() {
    let fake = Fake::start(true).await;
    for number in 1..4 {
        fake.put(node(&format!("n{number}"), number));
    }
    let state = tempfile::tempdir().unwrap();
    let source = fake.source(state.path(), LONG).await;
    let mut seen = source.subscribe();
    let smallest = tokio::spawn(async move {
        let mut smallest = usize::MAX;
        loop {
            let cluster = seen.borrow_and_update().clone();
            smallest = smallest.min(cluster.nodes.len());
            if cluster.nodes.contains_key("n9") || seen.changed().await.is_err() {
                return (smallest, cluster);
            }
        }
    });
    // While nobody watches: one goes, another comes, and both changes are forgotten.
    let before = fake.inner.lock().unwrap().streams;
    fake.hold(NODES);
    fake.disconnect();
    fake.delete(NODES, "/n3");
    fake.put(node("n9", 9));
    fake.compact();
    fake.let_go();
    let (smallest, _) = tokio::time::timeout(LONG, smallest).await.unwrap().unwrap();
    assert_eq!(smallest, 3, "a list on its way removed something");
    let gone = |cluster: &Cluster| !cluster.nodes.contains_key("n3");
    let (cluster, _) = until(&source, gone).await;
    assert_eq!(cluster.nodes.keys().collect::<Vec<_>>(), ["n1", "n2", "n9"]);
    assert!(
        fake.inner.lock().unwrap().streams > before,
        "it was not listed anew"
    );
}

#[tokio::test]
async fn an_object_that_can_t_be_used_keeps_what_it_said_and_stops_no_other() {
    let fake = Fake::start(true).await;
    fake.put(node("n1", 1));
    fake.put(service("web", 1));
    let mut never = service("odd", 2);
    never["spec"]["ports"] = json!("none");
    fake.put(never);
    let state = tempfile::tempdir().unwrap();
    let source = fake.source(state.path(), LONG).await;
    let mut broken = node("n1", 1);
    broken["spec"]["podCIDRs"] = json!(["10.0.1.7/24"]);
    fake.put(broken);
    fake.put(node("n2", 2));
    let (cluster, _) = until(&source, |cluster| cluster.nodes.contains_key("n2")).await;
    assert_eq!(cluster.nodes["n1"].pod_cidrs[0].to_string(), "10.0.1.0/24");
    let keys: Vec<_> = cluster.services.keys().map(|key| key.1.as_str()).collect();
    assert_eq!(keys, ["web"]);
    let texts: Vec<_> = source.problems().iter().map(ToString::to_string).collect();
    for part in [
        "Node n1: spec.podCIDRs[0]: 10.0.1.7/24 has host bits set; write 10.0.1.0/24; until then",
        "Service shop/odd: spec.ports",
    ] {
        assert!(texts.iter().any(|t| t.contains(part)), "{texts:?}");
    }
    fake.put(node("n1", 5));
    fake.delete("/api/v1/services", "shop/odd");
    eventually(|| source.problems().is_empty()).await;
}

#[tokio::test]
async fn a_new_node_takes_no_podcidr_from_one_that_has_it() {
    let fake = Fake::start(true).await;
    fake.put(node("n2", 2));
    let state = tempfile::tempdir().unwrap();
    let source = fake.source(state.path(), LONG).await;
    fake.put(node("n1", 2));
    let (cluster, _) = until(&source, |cluster| cluster.nodes.contains_key("n1")).await;
    assert_eq!(cluster.nodes["n2"].pod_cidrs.len(), 1);
    assert!(cluster.nodes["n1"].pod_cidrs.is_empty());
    let conflicts = source.conflicts()();
    assert!(
        conflicts[0].contains("overlaps 10.0.2.0/24 of node n2"),
        "{conflicts:?}"
    );
    // Another change later does not turn it round.
    fake.put(service("web", 1));
    let (cluster, _) = until(&source, |cluster| cluster.services.len() == 1).await;
    assert!(cluster.nodes["n1"].pod_cidrs.is_empty());
}

#[tokio::test]
async fn a_start_without_the_api_server_goes_on_from_disk_and_its_return_changes_nothing() {
    let fake = Fake::start(true).await;
    fake.put(node("n1", 1));
    fake.put(node("n2", 2));
    fake.put(service("web", 1));
    fake.put(slice("web-1", "web", "10.0.1.5"));
    let state = tempfile::tempdir().unwrap();
    let source = fake.source(state.path(), LONG).await;
    let (before, _) = until(&source, |cluster| cluster.revision > 0).await;
    let file = state.path().join("cluster.json");
    eventually(|| file.exists()).await;
    drop(source);
    fake.away(true);
    let source = fake.source(state.path(), Duration::from_millis(50)).await;
    let (saved, mut changes) = until(&source, |cluster| cluster.revision > 0).await;
    assert!(saved.same_objects(&before));
    eventually(|| source.problems().len() > 1).await;
    let texts: Vec<_> = source.problems().iter().map(ToString::to_string).collect();
    assert!(texts[0].contains("from disk"), "{texts:?}");
    assert!(texts[1].contains("can't be watched"), "{texts:?}");
    changes.mark_unchanged();
    fake.away(false);
    eventually(|| source.problems().is_empty()).await;
    assert!(
        !changes.has_changed().unwrap(),
        "the return made a new snapshot"
    );
    // It watches again.
    fake.put(node("n3", 3));
    let (cluster, _) = until(&source, |cluster| cluster.nodes.len() == 3).await;
    assert_eq!(cluster.revision, saved.revision + 1);
}

#[tokio::test]
async fn while_the_api_server_is_away_what_it_said_stays() {
    let fake = Fake::start(true).await;
    fake.put(node("n1", 1));
    fake.put(node("n2", 2));
    let state = tempfile::tempdir().unwrap();
    let source = fake.source(state.path(), LONG).await;
    fake.away(true);
    eventually(|| !source.problems().is_empty()).await;
    assert_eq!(source.subscribe().borrow().nodes.len(), 2);
    fake.delete(NODES, "/n2");
    fake.away(false);
    until(&source, |cluster| cluster.nodes.len() == 1).await;
}

#[tokio::test]
async fn a_state_of_another_node_or_without_sense_is_not_taken() {
    let fake = Fake::start(true).await;
    fake.away(true);
    for text in [
        "{\"version\": 1, \"nodeName\": \"n7\", \"at\": \"\", \"nodes\": [], \"pods\": [], \"services\": [], \"slices\": []}",
        "{\"version\": 1, \"nodeName\":",
    ] {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("cluster.json"), text).unwrap();
        let source = fake.source(state.path(), Duration::from_millis(50)).await;
        assert_eq!(source.subscribe().borrow().revision, 0);
        let texts: Vec<_> = source.problems().iter().map(ToString::to_string).collect();
        assert!(
            texts.iter().any(|t| t.contains("cluster.json")),
            "{texts:?}"
        );
    }
}

/// Only parts of an object are read: none that Services need may be left out.
#[tokio::test]
async fn what_services_are_compiled_from_reaches_the_cluster() {
    let fake = Fake::start(true).await;
    let mut own = node("n1", 1);
    own["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "a"});
    let mut web = service("web", 1);
    for (field, value) in [
        ("type", json!("LoadBalancer")),
        ("externalIPs", json!(["198.51.100.1"])),
        ("externalTrafficPolicy", json!("Local")),
        ("loadBalancerSourceRanges", json!(["192.0.2.0/24"])),
        ("loadBalancerClass", json!("example.org/lb")),
        ("allocateLoadBalancerNodePorts", json!(false)),
        ("healthCheckNodePort", json!(31000)),
        ("trafficDistribution", json!("PreferSameZone")),
        ("publishNotReadyAddresses", json!(true)),
    ] {
        web["spec"][field] = value;
    }
    web["spec"]["ports"][0]["nodePort"] = json!(30080);
    web["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}});
    let mut part = slice("web-1", "web", "10.0.1.5");
    part["endpoints"][0]["zone"] = json!("a");
    part["endpoints"][0]["hints"] = json!({"forZones": [{"name": "a"}]});
    for object in [own, web, part] {
        fake.put(object);
    }
    let state = tempfile::tempdir().unwrap();
    let source = fake.source(state.path(), LONG).await;
    let (cluster, _) = until(&source, |cluster| cluster.revision > 0).await;
    assert_eq!(cluster.nodes["n1"].zone.as_deref(), Some("a"));
    let web = &cluster.services[&("shop".to_owned(), "web".to_owned())];
    assert_eq!(web.ports[0].node_port, Some(30080));
    assert_eq!((web.external_ips.len(), web.ingress.len()), (1, 1));
    assert_eq!(
        (web.source_ranges.len(), web.health_check_port),
        (1, Some(31000))
    );
    assert!(web.external_local && web.publish_not_ready && web.without_node_ports);
    assert_eq!(web.load_balancer_class.as_deref(), Some("example.org/lb"));
    assert_eq!(web.traffic_distribution.as_deref(), Some("PreferSameZone"));
    let part = &cluster.slices[&("shop".to_owned(), "web-1".to_owned())];
    assert_eq!(part.endpoints[0].zone.as_deref(), Some("a"));
    assert_eq!(part.endpoints[0].zone_hints(), ["a"]);
}

/// A cluster has a hundred thousand pods that mean nothing to a node without policies.
#[tokio::test]
async fn pods_of_other_nodes_are_news_only_where_policies_are() {
    let fake = Fake::start(true).await;
    fake.put(node("n1", 1));
    fake.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "a"}}}));
    let state = tempfile::tempdir().unwrap();
    let source = fake.source(state.path(), LONG).await;
    let (cluster, _) = until(&source, |cluster| cluster.revision > 0).await;
    assert_eq!(cluster.namespaces["shop"].labels["team"], "a");
    let key = |name: &str| ("shop".to_owned(), name.to_owned());
    fake.put(pod("far", "n2", "a"));
    fake.put(pod("near", "n1", "a"));
    let near = |cluster: &Cluster| cluster.pods.contains_key(&key("near"));
    let (cluster, _) = until(&source, near).await;
    let revision = cluster.revision;
    assert_eq!(cluster.pods[&key("near")].uid.as_deref(), Some("uid-near"));
    fake.put(pod("far", "n2", "b"));
    fake.put(pod("near", "n1", "b"));
    let relabelled = |cluster: &Cluster, name: &str| {
        let pod = cluster.pods.get(&key(name));
        pod.is_some_and(|pod| pod.labels["app"] == "b")
    };
    let (cluster, _) = until(&source, |cluster| relabelled(cluster, "near")).await;
    assert_eq!(cluster.revision, revision + 1);
    fake.put(
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": "shop"}, "spec": {"podSelector": {}}}),
    );
    let (cluster, _) = until(&source, |cluster| !cluster.policies.is_empty()).await;
    assert!(relabelled(&cluster, "far"), "it comes along");
    let far = &cluster.pods[&key("far")];
    assert_eq!((far.uid.as_deref(), far.ports[0].port), (None, 80));
    assert!(std::sync::Arc::ptr_eq(
        &far.labels,
        &cluster.pods[&key("near")].labels
    ));
    fake.put(pod("far", "n2", "c"));
    until(&source, |cluster| !relabelled(cluster, "far")).await;
}

/// A cluster-wide policy's kind is there when somebody installs it, and goes with its definition.
#[tokio::test]
async fn a_kind_that_is_installed_later_is_watched_from_then_on_until_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(true).await;
    fake.put(node("n1", 1));
    let source = fake.source(folder.path(), LONG).await;
    let (cluster, _) = until(&source, |cluster| !cluster.nodes.is_empty()).await;
    assert!(cluster.cluster_policies.is_empty() && source.problems().is_empty());
    let name = "clusternetworkpolicies.policy.networking.k8s.io";
    fake.put(
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "others.example.com"}}),
    );
    fake.put(
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": name}}),
    );
    let policy = |priority: u32| {
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "guard"}, "spec": {"tier": "Admin", "priority": priority,
        "subject": {"namespaces": {}}, "ingress": [{"action": "Deny", "from": [{"unheardOf": {}}]}]}})
    };
    fake.put(policy(7));
    let key = ("ClusterNetworkPolicy".to_owned(), "guard".to_owned());
    let has = |priority| {
        let key = key.clone();
        move |cluster: &Cluster| {
            let policy = cluster.cluster_policies.get(&key);
            policy.is_some_and(|policy| policy.priority == priority)
        }
    };
    until(&source, has(7)).await;
    let problems = source.problems();
    assert!(
        problems[0].message.contains("denies everything"),
        "{problems:?}"
    );
    fake.put(policy(8));
    until(&source, has(8)).await;
    // Its server is not ready for a moment: what is in force stays.
    fake.change(|inner| inner.unserved = true);
    fake.disconnect();
    fake.put(node("n2", 2));
    let (cluster, _) = until(&source, |cluster| cluster.nodes.len() == 2).await;
    assert!(has(8)(&cluster));
    fake.change(|inner| inner.unserved = false);
    fake.put(policy(9));
    until(&source, has(9)).await;
    fake.delete(DEFINITIONS, &format!("/{name}"));
    fake.disconnect();
    until(&source, |cluster| cluster.cluster_policies.is_empty()).await;
}

/// A role from before this kind: everything else is served, and what is missing is told.
#[tokio::test]
async fn who_may_not_read_cluster_wide_policies_is_served_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(true).await;
    fake.put(node("n1", 1));
    fake.forbid("policy.networking.k8s.io");
    let source = fake.source(folder.path(), LONG).await;
    until(&source, |cluster| !cluster.nodes.is_empty()).await;
    let problems = source.problems();
    assert!(
        problems
            .iter()
            .any(|problem| problem.message.contains("give the agent's role that right")),
        "{problems:?}"
    );
}
