//! What is deleted goes, also when something else went first or nothing fits any more.

use super::{Fake, Remembering, bound, claim, cluster, seen, site, start};
use crate::csi::cluster::attachment::{HANDLE, Step};
use serde_json::{Value, json};
use std::sync::Arc;
use tonic::Status;

const V1: &str = "v1";
const STORAGE: &str = "storage.k8s.io/v1";
const SNAPSHOT: &str = "snapshot.storage.k8s.io/v1";
const VOLUMES: &str = "persistentvolumes";
const ATTACHMENTS: &str = "volumeattachments";
const CONTENTS: &str = "volumesnapshotcontents";

#[tokio::test]
async fn a_snapshot_that_was_never_taken_for_lack_of_room_can_be_deleted() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let class = json!({"metadata": {"name": "cut"}, "driver": "d"});
    fake.put(SNAPSHOT, "volumesnapshotclasses", class);
    driver.pool().refuses = Some(Status::resource_exhausted("no room"));
    let _agent = start(&fake, &driver);
    fake.put(SNAPSHOT, CONTENTS, super::life::content("n1", "v"));
    let told = fake.told("SnapshotCreationFailed", "snapcontent-s").await;
    assert_eq!(told, "no room");
    let leave = json!({"metadata": {"annotations": {"snapshot.storage.kubernetes.io/volumesnapshot-being-deleted": "yes"}}});
    fake.merge(SNAPSHOT, CONTENTS, "", "snapcontent-s", leave);
    fake.delete(SNAPSHOT, CONTENTS, "", "snapcontent-s");
    fake.gone(SNAPSHOT, CONTENTS, "", "snapcontent-s").await;
}

fn attachment(finalizers: Value) -> Value {
    json!({
        "metadata": {"name": "csi-1", "finalizers": finalizers},
        "spec": {"attacher": "d", "nodeName": "n1", "source": {"persistentVolumeName": "pvc-uid-a"}},
        "status": {"attached": false}
    })
}

/// A cluster whose pods wait for attachments, with one volume.
async fn attaching() -> (Fake, Arc<Remembering>) {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let required = json!({"spec": {"attachRequired": true}});
    fake.merge(STORAGE, "csidrivers", "", "d", required);
    (fake, driver)
}

#[tokio::test]
async fn an_attachment_goes_also_after_its_volume() {
    let (fake, driver) = attaching().await;
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    fake.put(STORAGE, ATTACHMENTS, attachment(json!([])));
    fake.until(STORAGE, ATTACHMENTS, "", "csi-1", |of| {
        of["status"]["attached"] == true
    })
    .await;
    // Somebody forces it.
    fake.merge(
        V1,
        VOLUMES,
        "",
        "pvc-uid-a",
        json!({"metadata": {"finalizers": []}}),
    );
    fake.delete(V1, VOLUMES, "", "pvc-uid-a");
    fake.delete(STORAGE, ATTACHMENTS, "", "csi-1");
    fake.gone(STORAGE, ATTACHMENTS, "", "csi-1").await;
    assert!(driver.pool().published.is_empty());
}

#[tokio::test]
async fn what_was_attached_is_detached_also_when_another_volume_has_its_name() {
    let (fake, driver) = attaching().await;
    let mut attached = attachment(json!(["external-attacher/d"]));
    attached["metadata"]["annotations"] = json!({HANDLE: "first"});
    fake.put(STORAGE, ATTACHMENTS, attached);
    let of = seen(&fake, STORAGE, ATTACHMENTS, "csi-1");
    let again = json!({"metadata": {"name": "pvc-uid-a"}, "spec": {"csi": {"driver": "d", "volumeHandle": "second"}}});
    let again = serde_json::from_value(again).unwrap();
    driver.pool().published = vec!["first".into(), "second".into()];
    let site = site(&fake, &driver);
    let done = site.attachment(Step::Detach, &of, Some(&again)).await;
    done.unwrap();
    assert_eq!(driver.pool().published, ["second"]);
}

#[tokio::test]
async fn a_volume_that_just_went_keeps_no_other_from_its_label() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let here = json!([{"key": "t/node", "operator": "In", "values": ["n1"]}]);
    for name in ["a", "b", "c"] {
        let volume = json!({
            "metadata": {"name": name},
            "spec": {
                "csi": {"driver": "d", "volumeHandle": name},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": here}]}}
            }
        });
        fake.put(V1, VOLUMES, volume);
    }
    let unchanged = |code| fake.change(|inner| inner.unchanged = [("a", code), ("b", 409)].into());
    let site = site(&fake, &driver);
    unchanged(404);
    site.label().await.unwrap();
    let labels: Vec<Value> = fake.all(V1, VOLUMES);
    let labels: Vec<_> = labels.iter().map(|of| &of["metadata"]["labels"]).collect();
    assert_eq!(
        labels,
        [&Value::Null, &Value::Null, &json!({"t/node": "n1"})]
    );
    unchanged(403);
    site.label().await.unwrap_err();
}

#[tokio::test]
async fn an_attachment_of_no_volume_says_so_and_goes() {
    let (fake, driver) = attaching().await;
    let _agent = start(&fake, &driver);
    // As external-attacher leaves it.
    fake.put(
        STORAGE,
        ATTACHMENTS,
        attachment(json!(["external-attacher/d"])),
    );
    let told = fake.told("VolumeAttachmentFailed", "csi-1").await;
    assert!(told.contains("pvc-uid-a is not there"), "{told}");
    fake.delete(STORAGE, ATTACHMENTS, "", "csi-1");
    fake.gone(STORAGE, ATTACHMENTS, "", "csi-1").await;
}

#[tokio::test]
async fn a_volume_that_external_attacher_held_goes_when_it_is_attached_nowhere() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    for name in ["a", "b"] {
        let agent = start(&fake, &driver);
        claim(&fake, name, Some("n1"), "late");
        bound(&fake, name).await;
        agent.kill().await;
        let held = json!([
            "external-provisioner.volume.kubernetes.io/finalizer",
            "external-attacher/d"
        ]);
        let volume = format!("pvc-uid-{name}");
        fake.merge(
            V1,
            VOLUMES,
            "",
            &volume,
            json!({"metadata": {"finalizers": held}}),
        );
        super::release(&fake, name);
    }
    // Left from before; nobody watches it, since pods don't wait.
    fake.put(
        STORAGE,
        ATTACHMENTS,
        attachment(json!(["external-attacher/d"])),
    );
    let _agent = start(&fake, &driver);
    fake.gone(V1, VOLUMES, "", "pvc-uid-b").await;
    let left = fake
        .until(V1, VOLUMES, "", "pvc-uid-a", |of| {
            of["metadata"]["deletionTimestamp"].is_string()
        })
        .await;
    let finalizers = left["metadata"]["finalizers"].as_array().unwrap();
    assert!(finalizers.contains(&json!("external-attacher/d")));
}
