//! What the agent was told of itself changes while it runs.

use super::{Remembering, bound, claim, cluster, start};
use crate::{config::ApiOptions, csi::cluster::connected};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tonic::Status;

const V1: &str = "v1";
const STORAGE: &str = "storage.k8s.io/v1";

#[tokio::test]
async fn a_label_that_the_node_gets_lets_it_take_claims() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let terms = json!([{"matchLabelExpressions": [{"key": "zone", "values": ["b"]}]}]);
    let change = json!({"allowedTopologies": terms});
    fake.merge(STORAGE, "storageclasses", "", "soon", change);
    let _agent = start(&fake, &driver);
    claim(&fake, "a", None, "soon");
    // It works, and leaves that one alone.
    claim(&fake, "b", Some("n1"), "late");
    bound(&fake, "b").await;
    let labelled = json!({"metadata": {"labels": {"zone": "b"}}});
    fake.merge(V1, "nodes", "", "n1", labelled);
    bound(&fake, "a").await;
}

#[tokio::test]
async fn a_node_that_comes_again_owns_what_tells_of_its_room() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let _agent = start(&fake, &driver);
    let owned = |uid: &'static str| {
        let fake = fake.clone();
        async move {
            let is_owned = || {
                let all = fake.all(STORAGE, "csistoragecapacities");
                let mut owners = all.iter().flat_map(|of| {
                    let owners = of["metadata"]["ownerReferences"].as_array();
                    owners.cloned().unwrap_or_default()
                });
                owners.any(|owner| owner["uid"] == uid)
            };
            fake.settled(is_owned).await;
        }
    };
    owned("uid-n1").await;
    fake.delete(V1, "nodes", "", "n1");
    fake.put(
        V1,
        "nodes",
        json!({"metadata": {"name": "n1", "uid": "uid-again"}}),
    );
    owned("uid-again").await;
}

#[tokio::test]
async fn attachments_are_answered_from_when_the_driver_asks_for_them() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    let attachment = |name: &str| {
        json!({
            "metadata": {"name": name},
            "spec": {"attacher": "d", "nodeName": "n1", "source": {"persistentVolumeName": "pvc-uid-a"}},
            "status": {"attached": false}
        })
    };
    let required = |is: bool| {
        let change = json!({"spec": {"attachRequired": is}});
        fake.merge(STORAGE, "csidrivers", "", "d", change);
    };
    required(true);
    fake.put(STORAGE, "volumeattachments", attachment("first"));
    let attached = |name: &'static str| {
        let is = |of: &serde_json::Value| of["status"]["attached"] == true;
        fake.until(STORAGE, "volumeattachments", "", name, is)
    };
    attached("first").await;
    required(false);
    claim(&fake, "b", Some("n1"), "late");
    bound(&fake, "b").await;
    required(true);
    fake.put(STORAGE, "volumeattachments", attachment("second"));
    attached("second").await;
}

#[tokio::test]
async fn an_agent_is_idle_while_attachments_can_t_be_listed() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    driver.pool().refuses = Some(Status::unavailable("busy"));
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    fake.told("ProvisioningFailed", "a").await;
    fake.change(|inner| inner.unlisted.insert("volumeattachments", 0));
    let change = json!({"spec": {"attachRequired": true}});
    fake.merge(STORAGE, "csidrivers", "", "d", change);
    let tried =
        |inner: &super::fake::Inner| (inner.unlisted["volumeattachments"] > 0).then_some(());
    fake.wait("attachments are listed", tried).await;
    // The claim would be tried again by now.
    sleep(Duration::from_millis(2500)).await;
    // Everything here runs in this thread.
    let used = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let before = used();
    sleep(Duration::from_secs(1)).await;
    let used = used() - before;
    assert!(used < Duration::from_millis(100), "{used:?}");
    driver.pool().refuses = None;
    fake.change(|inner| inner.unlisted.clear());
    bound(&fake, "a").await;
}

#[tokio::test]
async fn a_kubeconfig_that_comes_later_is_read_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let api = ApiOptions {
        kubeconfig: Some(path.clone()),
        api_server: None,
    };
    let client = tokio::spawn(async move { connected(&api, Duration::from_millis(10)).await });
    sleep(Duration::from_millis(50)).await;
    assert!(!client.is_finished());
    let text = "{kind: Config, apiVersion: v1, current-context: x, clusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443'}}], users: [{name: u, user: {token: t}}], contexts: [{name: x, context: {cluster: c, user: u, namespace: shop}}]}";
    std::fs::write(&path, text).unwrap();
    let client = timeout(Duration::from_secs(10), client)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(client.default_namespace(), "shop");
}
