//! Where a claim is answered: by its source, by the room, by what its class allows.

use super::{Fake, LONG, Remembering, bound, claim, cluster, seen, site, start};
use crate::csi::cluster::work::Outcome;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};
use tonic::Status;

const V1: &str = "v1";
const STORAGE: &str = "storage.k8s.io/v1";
const SNAPSHOT: &str = "snapshot.storage.k8s.io/v1";
const CLAIMS: &str = "persistentvolumeclaims";
const SELECTED: &str = "volume.kubernetes.io/selected-node";

/// A claim that is a copy of the claim `a`.
fn copy(fake: &Fake, name: &str, node: Option<&str>, class: &str) {
    let mut copy = crate::csi::cluster::plan::tests::claim(name, node);
    copy["spec"]["storageClassName"] = json!(class);
    copy["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "a"});
    fake.put(V1, CLAIMS, copy);
}

fn node_of(fake: &Fake, name: &str) -> Value {
    let of: Value = seen(fake, V1, CLAIMS, name);
    of["metadata"]["annotations"][SELECTED].clone()
}

/// The claim `a` is answered by a node, whose agent has gone since.
async fn with_source(names: &[&str], node: &str) -> (Fake, Arc<Remembering>) {
    let (fake, driver) = (cluster(names).await, Remembering::of(node));
    let agent = start(&fake, &driver);
    claim(&fake, "a", Some(node), "late");
    bound(&fake, "a").await;
    agent.kill().await;
    (fake, driver)
}

async fn take(fake: &Fake, driver: &Arc<Remembering>, name: &str) -> Option<Outcome> {
    let class = seen(fake, STORAGE, "storageclasses", "soon");
    let of = seen(fake, V1, CLAIMS, name);
    let done = site(fake, driver).take(&of, &class).await;
    done.err().map(|failure| failure.outcome)
}

#[tokio::test]
async fn a_copy_whose_source_is_gone_from_its_node_says_so_once() {
    let (fake, driver) = with_source(&["n1"], "n1").await;
    driver.pool().volumes.clear();
    let tried = driver.pool().tried;
    let _agent = start(&fake, &driver);
    copy(&fake, "b", None, "soon");
    let told = fake.told("ProvisioningFailed", "b").await;
    assert!(told.contains("gone from node n1"), "{told}");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(driver.pool().tried, tried + 1);
    assert_eq!(node_of(&fake, "b"), "n1");
}

#[tokio::test]
async fn a_copy_for_which_there_is_no_room_waits_where_its_source_is() {
    let (fake, driver) = with_source(&["n1"], "n1").await;
    driver.pool().room = 0;
    let _agent = start(&fake, &driver);
    copy(&fake, "b", Some("n1"), "late");
    let told = fake.told("ProvisioningFailed", "b").await;
    assert!(
        told.contains("no room; its source is on this node"),
        "{told}"
    );
    driver.pool().room = 1 << 40;
    bound(&fake, "b").await;
}

#[tokio::test]
async fn whoever_sees_a_copy_first_writes_the_node_of_its_source() {
    let (fake, _) = with_source(&["n1", "n2", "n3"], "n3").await;
    let before = fake.inner.lock().unwrap().reads.len();
    let drivers = ["n1", "n2"].map(Remembering::of);
    let _agents: Vec<_> = drivers.iter().map(|driver| start(&fake, driver)).collect();
    copy(&fake, "b", None, "soon");
    fake.until(V1, CLAIMS, "shop", "b", |of| {
        of["metadata"]["annotations"][SELECTED] == "n3"
    })
    .await;
    // The others need not look for it, and none looks again.
    sleep(Duration::from_secs(6)).await;
    let reads = fake.inner.lock().unwrap().reads[before..].to_vec();
    let looked = reads
        .iter()
        .filter(|one| *one == "persistentvolumes pvc-uid-a");
    assert!(looked.count() <= 2, "{reads:?}");
}

#[tokio::test]
async fn a_source_of_which_nobody_knows_the_node_is_looked_for_before_its_copy_is_taken() {
    let (fake, there) = with_source(&["n1", "n2"], "n2").await;
    let mut content = super::life::content("n2", "vol-n2-0");
    content["metadata"]["labels"] = json!({});
    content["status"] = json!({"snapshotHandle": "snap", "readyToUse": true});
    fake.put(SNAPSHOT, "volumesnapshotcontents", content);
    fake.put(SNAPSHOT, "volumesnapshots", json!({
        "metadata": {"name": "s", "namespace": "shop", "uid": "uid-s"},
        "status": {"boundVolumeSnapshotContentName": "snapcontent-s", "readyToUse": true, "restoreSize": "1Gi"}
    }));
    let taken = ("snap".to_owned(), "vol-n2-0".to_owned());
    there.pool().snapshots.insert("s".into(), taken);
    for (name, node) in [("b", None), ("c", Some("n1"))] {
        let mut restored = crate::csi::cluster::plan::tests::claim(name, node);
        restored["spec"]["dataSource"] =
            json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
        fake.put(V1, CLAIMS, restored);
    }
    let here = Remembering::of("n1");
    assert_eq!(take(&fake, &here, "b").await, Some(Outcome::Hopeless));
    assert_eq!(node_of(&fake, "b"), Value::Null);
    assert_eq!(take(&fake, &there, "b").await, None);
    assert_eq!(node_of(&fake, "b"), "n2");
    // The scheduler has chosen a node that doesn't have it.
    let (of, class) = (
        seen(&fake, V1, CLAIMS, "c"),
        seen(&fake, STORAGE, "storageclasses", "late"),
    );
    let failure = site(&fake, &here).provision(&of, &class).await.unwrap_err();
    assert_eq!(failure.outcome, Outcome::GaveBack);
    assert!(
        failure.text.contains("another one may have it"),
        "{}",
        failure.text
    );
    assert_eq!(node_of(&fake, "c"), Value::Null);
}

#[tokio::test]
async fn a_node_that_can_t_tell_its_room_takes_no_claim() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    claim(&fake, "a", None, "soon");
    driver.pool().tells = Some(Err(Status::internal("the pool is gone")));
    assert_eq!(take(&fake, &driver, "a").await, Some(Outcome::Failed));
    assert_eq!(node_of(&fake, "a"), Value::Null);
    driver.pool().tells = None;
    assert_eq!(take(&fake, &driver, "a").await, None);
    assert_eq!(node_of(&fake, "a"), "n1");
}

#[tokio::test]
async fn a_node_that_gave_a_claim_back_lets_others_try() {
    let fake = cluster(&["n1", "n2"]).await;
    let drivers = ["n1", "n2"].map(Remembering::of);
    // It says that it has room, and has none.
    drivers[0].pool().room = 0;
    drivers[0].pool().tells = Some(Ok(1 << 40));
    let _agents: Vec<_> = drivers.iter().map(|driver| start(&fake, driver)).collect();
    let names: Vec<String> = (0..6).map(|number| format!("c{number}")).collect();
    for name in &names {
        claim(&fake, name, None, "soon");
    }
    let all = async {
        for name in &names {
            bound(&fake, name).await;
        }
    };
    timeout(LONG / 2, all).await.unwrap();
    assert_eq!(drivers[1].pool().volumes.len(), names.len());
    assert!(drivers[0].pool().tried <= names.len());
}

/// Has a class allow what is in zone `b` alone.
fn in_zone_b(fake: &Fake, class: &str) {
    let terms = json!([{"matchLabelExpressions": [{"key": "zone", "values": ["b"]}]}]);
    let change = json!({"allowedTopologies": terms});
    fake.merge(STORAGE, "storageclasses", "", class, change);
}

#[tokio::test]
async fn a_class_that_does_not_allow_the_chosen_node_has_another_one_chosen() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    in_zone_b(&fake, "late");
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    let told = fake.told("ProvisioningFailed", "a").await;
    assert!(
        told.contains("late allows no volumes on node n1 (allowedTopologies)"),
        "{told}"
    );
    assert_eq!(node_of(&fake, "a"), Value::Null);
    assert!(driver.pool().volumes.is_empty());
}

#[tokio::test]
async fn a_copy_does_not_go_where_its_class_allows_none() {
    let (fake, _) = with_source(&["n1", "n2"], "n2").await;
    let here = Remembering::of("n1");
    fake.merge(
        V1,
        "nodes",
        "",
        "n1",
        json!({"metadata": {"labels": {"zone": "b"}}}),
    );
    in_zone_b(&fake, "late");
    let _agent = start(&fake, &here);
    copy(&fake, "b", Some("n1"), "late");
    let told = fake.told("ProvisioningFailed", "b").await;
    assert!(told.contains("allows no volumes on node n2"), "{told}");
    assert_eq!(node_of(&fake, "b"), "n1");
    // Where it may go there, it does.
    fake.merge(
        V1,
        "nodes",
        "",
        "n2",
        json!({"metadata": {"labels": {"zone": "b"}}}),
    );
    copy(&fake, "c", Some("n1"), "late");
    fake.until(V1, CLAIMS, "shop", "c", |of| {
        of["metadata"]["annotations"][SELECTED] == "n2"
    })
    .await;
}
