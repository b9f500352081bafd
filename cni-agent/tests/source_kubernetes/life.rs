//! What the agent writes to its Node object.

use super::fake::{Fake, node};
use cni_agent::node::{Facts, Life, TAINT};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_node_is_opened_to_pods_when_it_serves_and_not_before() {
    let fake = Fake::start(true).await;
    let mut own = node("n1", 1);
    own["spec"]["taints"] = json!([
        {"key": TAINT, "effect": "NoSchedule"}, {"key": "keep", "value": "x", "effect": "NoExecute"}
    ]);
    own["metadata"]["annotations"] = json!({"other": "stays"});
    fake.put(own);
    let state = tempfile::tempdir().unwrap();
    let source = fake.source(state.path(), LONG).await;
    let mut life = Life::new(fake.client(), source.own_node(), source.conflicts());
    let serving = Arc::new(AtomicBool::new(false));
    let (looked, mut looks) = tokio::sync::mpsc::unbounded_channel();
    let now = serving.clone();
    let task = tokio::spawn(async move {
        life.keep(|| {
            looked.send(()).unwrap();
            let serving = now.load(Ordering::SeqCst);
            let mtu = Some(1440);
            async move { Facts { serving, mtu } }
        })
        .await;
    });
    // The second look comes after everything that followed the first.
    looks.recv().await.unwrap();
    looks.recv().await.unwrap();
    assert!(fake.inner.lock().unwrap().writes.is_empty());
    serving.store(true, Ordering::SeqCst);
    let mut seen = source.own_node();
    let open = seen.wait_for(|own| own.as_ref().is_some_and(|own| own.taints.len() == 1));
    let own = tokio::time::timeout(LONG, open)
        .await
        .unwrap()
        .unwrap()
        .clone()
        .unwrap();
    assert_eq!(
        own.taints[0].0,
        json!({"key": "keep", "value": "x", "effect": "NoExecute"})
    );
    assert_eq!(own.network_unavailable.as_deref(), Some("False"));
    assert_eq!(own.annotations["fairlead.dev/mtu"], "1440");
    while looks.try_recv().is_ok() {}
    looks.recv().await.unwrap();
    let writes = fake.inner.lock().unwrap().writes.clone();
    let paths: Vec<_> = writes.iter().map(|(_, path, _)| path.as_str()).collect();
    let expected = [
        "/api/v1/nodes/n1",
        "/api/v1/nodes/n1/status",
        "/api/v1/nodes/n1",
    ];
    assert_eq!(paths, expected, "each once, the taint last");
    task.abort();
}

#[tokio::test]
async fn a_node_without_podcidr_is_told_once_as_an_event() {
    let fake = Fake::start(true).await;
    let mut own = node("n1", 1);
    own["spec"] = json!({});
    fake.put(own.clone());
    let state = tempfile::tempdir().unwrap();
    let source = fake.source(state.path(), LONG).await;
    let mut life = Life::new(fake.client(), source.own_node(), source.conflicts());
    let (looked, mut looks) = tokio::sync::mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        life.keep(|| {
            looked.send(()).unwrap();
            async { Facts::default() }
        })
        .await;
    });
    for _ in 0..3 {
        looks.recv().await.unwrap();
    }
    let writes = fake.inner.lock().unwrap().writes.clone();
    let [(method, path, event)] = writes.as_slice() else {
        panic!("{writes:?}")
    };
    assert_eq!(method, "POST");
    assert_eq!(path, "/apis/events.k8s.io/v1/namespaces/default/events");
    assert_eq!(
        (&event["reason"], &event["regarding"]["name"]),
        (&json!("NoPodCIDR"), &json!("n1"))
    );
    task.abort();
}
