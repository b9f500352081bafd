//! One node: the life of claims, volumes and snapshots.

use super::{Remembering, bound, claim, cluster, release, start};
use serde_json::{Value, json};
use tonic::Status;

const V1: &str = "v1";
const STORAGE: &str = "storage.k8s.io/v1";
const SNAPSHOT: &str = "snapshot.storage.k8s.io/v1";
const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";

#[tokio::test]
async fn a_claim_gets_its_volume_which_goes_with_it() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    let made = bound(&fake, "a").await;
    let spec = &made["spec"];
    assert_eq!(
        spec["csi"],
        json!({"driver": "d", "volumeHandle": "vol-n1-0"})
    );
    assert_eq!(spec["capacity"], json!({"storage": "1Gi"}));
    assert_eq!(spec["claimRef"]["uid"], "uid-a");
    assert_eq!(spec["storageClassName"], "late");
    assert_eq!(spec["persistentVolumeReclaimPolicy"], "Delete");
    let here = json!([{"key": "t/node", "operator": "In", "values": ["n1"]}]);
    let terms = &spec["nodeAffinity"]["required"]["nodeSelectorTerms"];
    assert_eq!(terms[0]["matchExpressions"], here);
    let meta = &made["metadata"];
    assert_eq!(
        meta["finalizers"],
        json!(["external-provisioner.volume.kubernetes.io/finalizer"])
    );
    assert_eq!(meta["annotations"]["pv.kubernetes.io/provisioned-by"], "d");
    {
        let pool = driver.pool();
        let asked = &pool.asked[0];
        assert_eq!(asked.name, "pvc-uid-a");
        assert_eq!(asked.parameters["csi.storage.k8s.io/pvc/name"], "a");
        assert_eq!(asked.parameters["csi.storage.k8s.io/pvc/namespace"], "shop");
        assert_eq!(
            asked.volume_capabilities[0].access_mode.unwrap().mode(),
            node_api::csi::volume_capability::access_mode::Mode::SingleNodeMultiWriter
        );
    }
    assert!(
        fake.told("ProvisioningSucceeded", "a")
            .await
            .contains("pvc-uid-a")
    );
    release(&fake, "a");
    fake.gone(V1, VOLUMES, "", "pvc-uid-a").await;
    assert!(driver.pool().volumes.is_empty());
}

#[tokio::test]
async fn a_volume_that_is_to_stay_stays() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    let retain = json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}});
    fake.merge(V1, VOLUMES, "", "pvc-uid-a", retain);
    fake.until(V1, VOLUMES, "", "pvc-uid-a", |of| {
        of["metadata"]["finalizers"] == json!([])
    })
    .await;
    release(&fake, "a");
    // Somebody removes the object: what is on the disk is theirs.
    fake.delete(V1, VOLUMES, "", "pvc-uid-a");
    claim(&fake, "b", Some("n1"), "late");
    bound(&fake, "b").await;
    assert_eq!(driver.pool().volumes.len(), 2);
}

#[tokio::test]
async fn a_volume_in_use_is_deleted_when_it_is_not_any_more() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    driver.pool().refuses = Some(Status::failed_precondition("in use"));
    release(&fake, "a");
    assert_eq!(fake.told("VolumeFailedDelete", "pvc-uid-a").await, "in use");
    assert_eq!(driver.pool().volumes.len(), 1);
    driver.pool().refuses = None;
    fake.gone(V1, VOLUMES, "", "pvc-uid-a").await;
    assert!(driver.pool().volumes.is_empty());
}

#[tokio::test]
async fn a_claim_for_which_there_is_no_room_goes_back_to_the_scheduler() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    driver.pool().room = 1 << 20;
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    fake.until(V1, CLAIMS, "shop", "a", |of| {
        of["metadata"]["annotations"]["volume.kubernetes.io/selected-node"].is_null()
    })
    .await;
    assert_eq!(fake.told("ProvisioningFailed", "a").await, "no room");
    assert!(fake.all(V1, VOLUMES).is_empty());
}

#[tokio::test]
async fn what_can_t_be_made_is_told_on_the_claim() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    driver.pool().refuses = Some(Status::invalid_argument("thim is not known"));
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    assert_eq!(
        fake.told("ProvisioningFailed", "a").await,
        "thim is not known"
    );
    driver.pool().refuses = None;
    // Not before somebody changes something; then at once.
    let class = json!({"metadata": {"annotations": {"better": "yes"}}});
    fake.merge(STORAGE, "storageclasses", "", "late", class);
    bound(&fake, "a").await;
}

fn storage<'a>(claim: &'a Value, field: &str) -> &'a Value {
    &claim["status"][field]["storage"]
}

fn conditions(claim: &Value) -> Vec<&str> {
    let all = claim["status"]["conditions"].as_array().unwrap();
    all.iter()
        .map(|one| one["type"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_claim_that_asks_for_more_gets_it_and_the_kubelet_is_told() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    let more = |amount: &str| json!({"spec": {"resources": {"requests": {"storage": amount}}}});
    fake.merge(V1, CLAIMS, "shop", "a", more("2Gi"));
    let grown = fake
        .until(V1, CLAIMS, "shop", "a", |of| {
            *storage(of, "allocatedResourceStatuses") == "NodeResizePending"
        })
        .await;
    assert_eq!(*storage(&grown, "allocatedResources"), "2Gi");
    assert_eq!(
        *storage(&grown, "capacity"),
        "1Gi",
        "the kubelet tells that"
    );
    assert_eq!(conditions(&grown), ["Resizing", "FileSystemResizePending"]);
    let volume = fake
        .until(V1, VOLUMES, "", "pvc-uid-a", |of| {
            of["spec"]["capacity"]["storage"] == "2Gi"
        })
        .await;
    let before = "volume.alpha.kubernetes.io/pre-resize-capacity";
    assert_eq!(volume["metadata"]["annotations"][before], "1Gi");
    // The kubelet has grown the file system.
    fake.merge(
        V1,
        CLAIMS,
        "shop",
        "a",
        json!({"status": {
            "capacity": {"storage": "2Gi"}, "conditions": [],
            "allocatedResourceStatuses": null, "allocatedResources": {"storage": "2Gi"}
        }}),
    );
    fake.until(V1, VOLUMES, "", "pvc-uid-a", |of| {
        of["metadata"]["annotations"][before].is_null()
    })
    .await;
    driver.pool().refuses = Some(Status::out_of_range("too much"));
    fake.merge(V1, CLAIMS, "shop", "a", more("9Gi"));
    let failed = fake
        .until(V1, CLAIMS, "shop", "a", |of| {
            *storage(of, "allocatedResourceStatuses") == "ControllerResizeInfeasible"
        })
        .await;
    assert!(conditions(&failed).contains(&"ControllerResizeError"));
    assert_eq!(fake.told("VolumeResizeFailed", "a").await, "too much");
    // Less than that is feasible.
    driver.pool().refuses = None;
    fake.merge(V1, CLAIMS, "shop", "a", more("3Gi"));
    fake.until(V1, VOLUMES, "", "pvc-uid-a", |of| {
        of["spec"]["capacity"]["storage"] == "3Gi"
    })
    .await;
    let bytes: Vec<_> = driver
        .pool()
        .volumes
        .values()
        .map(|(_, bytes)| bytes >> 30)
        .collect();
    assert_eq!(bytes, [3]);
}

#[tokio::test]
async fn a_claim_gets_another_class_of_attributes() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    fake.merge(
        V1,
        CLAIMS,
        "shop",
        "a",
        json!({"spec": {"volumeAttributesClassName": "fast"}}),
    );
    let pending = |of: &Value| of["status"]["modifyVolumeStatus"]["status"] == "Pending";
    fake.until(V1, CLAIMS, "shop", "a", pending).await;
    fake.told("VolumeModifyFailed", "a").await;
    fake.put(
        STORAGE,
        "volumeattributesclasses",
        json!({"metadata": {"name": "fast"}, "driverName": "d", "parameters": {"iops": "9"}}),
    );
    let done = fake
        .until(V1, CLAIMS, "shop", "a", |of| {
            of["status"]["currentVolumeAttributesClassName"] == "fast"
        })
        .await;
    assert!(done["status"]["modifyVolumeStatus"].is_null());
    assert!(conditions(&done).is_empty());
    fake.until(V1, VOLUMES, "", "pvc-uid-a", |of| {
        of["spec"]["volumeAttributesClassName"] == "fast"
    })
    .await;
    let asked = driver.pool().modified.clone().unwrap();
    assert_eq!(asked, [("iops".to_owned(), "9".to_owned())].into());
}

pub(super) fn content(node: &str, handle: &str) -> Value {
    json!({
        "metadata": {
            "name": "snapcontent-s", "labels": {"snapshot.storage.kubernetes.io/managed-by": node},
            "finalizers": ["snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"]
        },
        "spec": {
            "driver": "d", "deletionPolicy": "Delete", "source": {"volumeHandle": handle},
            "sourceVolumeMode": "Filesystem", "volumeSnapshotClassName": "cut",
            "volumeSnapshotRef": {"namespace": "shop", "name": "s", "uid": "uid-s"}
        }
    })
}

#[tokio::test]
async fn a_snapshot_is_taken_restored_from_and_deleted() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    fake.put(
        SNAPSHOT,
        "volumesnapshotcontents",
        content("n1", "vol-n1-0"),
    );
    fake.told("SnapshotCreationFailed", "snapcontent-s").await;
    fake.put(
        SNAPSHOT,
        "volumesnapshotclasses",
        json!({"metadata": {"name": "cut"}, "driver": "d"}),
    );
    let taken = fake.until(SNAPSHOT, "volumesnapshotcontents", "", "snapcontent-s", |of| {
        of["status"]["readyToUse"] == true && of["metadata"]["annotations"]["snapshot.storage.kubernetes.io/volumesnapshot-being-created"].is_null()
    }).await;
    assert_eq!(
        taken["status"],
        json!({"snapshotHandle": "snap-n1-0", "readyToUse": true, "creationTime": 7_000_000_005_i64, "restoreSize": 1 << 30})
    );
    fake.put(SNAPSHOT, "volumesnapshots", json!({
        "metadata": {"name": "s", "namespace": "shop", "uid": "uid-s"},
        "status": {"boundVolumeSnapshotContentName": "snapcontent-s", "readyToUse": true, "restoreSize": "1Gi"}
    }));
    let mut restored = super::super::plan::tests::claim("b", Some("n1"));
    restored["spec"]["dataSource"] =
        json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
    fake.put(V1, CLAIMS, restored);
    bound(&fake, "b").await;
    {
        use node_api::csi::volume_content_source::{SnapshotSource, Type};
        let pool = driver.pool();
        let source = pool
            .asked
            .last()
            .unwrap()
            .volume_content_source
            .clone()
            .unwrap();
        assert_eq!(
            source.r#type,
            Some(Type::Snapshot(SnapshotSource {
                snapshot_id: "snap-n1-0".into()
            }))
        );
    }
    let leave = json!({"metadata": {"annotations": {"snapshot.storage.kubernetes.io/volumesnapshot-being-deleted": "yes"}}});
    fake.merge(
        SNAPSHOT,
        "volumesnapshotcontents",
        "",
        "snapcontent-s",
        leave,
    );
    fake.delete(SNAPSHOT, "volumesnapshotcontents", "", "snapcontent-s");
    fake.gone(SNAPSHOT, "volumesnapshotcontents", "", "snapcontent-s")
        .await;
    assert!(driver.pool().snapshots.is_empty());
}

#[tokio::test]
async fn pods_wait_for_attachments_only_where_the_cluster_says_so() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    fake.merge(
        STORAGE,
        "csidrivers",
        "",
        "d",
        json!({"spec": {"attachRequired": true}}),
    );
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    let attachment = json!({
        "metadata": {"name": "csi-1"},
        "spec": {"attacher": "d", "nodeName": "n1", "source": {"persistentVolumeName": "pvc-uid-a"}},
        "status": {"attached": false}
    });
    fake.put(STORAGE, "volumeattachments", attachment);
    let made = fake
        .until(STORAGE, "volumeattachments", "", "csi-1", |of| {
            of["status"]["attached"] == true
        })
        .await;
    assert_eq!(
        made["metadata"]["finalizers"],
        json!(["external-attacher/d"])
    );
    assert_eq!(
        made["metadata"]["annotations"]["csi.alpha.kubernetes.io/node-id"],
        "n1"
    );
    assert_eq!(made["status"]["attachmentMetadata"], json!({"device": "x"}));
    // The claim goes first: its volume stays while a node may have it.
    release(&fake, "a");
    claim(&fake, "b", Some("n1"), "late");
    bound(&fake, "b").await;
    assert_eq!(driver.pool().volumes.len(), 2);
    fake.delete(STORAGE, "volumeattachments", "", "csi-1");
    fake.gone(STORAGE, "volumeattachments", "", "csi-1").await;
    fake.gone(V1, VOLUMES, "", "pvc-uid-a").await;
    assert!(driver.pool().published.is_empty());
}

#[tokio::test]
async fn the_scheduler_knows_the_room_of_each_class() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let _agent = start(&fake, &driver);
    let all = |fake: &super::Fake| fake.all(STORAGE, "csistoragecapacities");
    let told = |wanted: &'static [(&'static str, &'static str)]| {
        let fake = fake.clone();
        async move {
            let is = |objects: Vec<Value>| {
                let mut found: Vec<_> = objects
                    .iter()
                    .map(|of| {
                        (
                            of["storageClassName"].as_str().unwrap().to_owned(),
                            of["capacity"].as_str().unwrap().to_owned(),
                        )
                    })
                    .collect();
                found.sort();
                found
                    .iter()
                    .map(|(a, b)| (a.as_str(), b.as_str()))
                    .eq(wanted.iter().copied())
            };
            fake.settled(|| is(all(&fake))).await;
        }
    };
    told(&[("late", "100Gi")]).await;
    let object = all(&fake).remove(0);
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "uid-n1");
    assert_eq!(
        object["nodeTopology"],
        json!({"matchLabels": {"t/node": "n1"}})
    );
    assert_eq!(
        object["metadata"]["labels"]["csi.storage.k8s.io/managed-by"],
        "external-provisioner-n1"
    );
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    told(&[("late", "99Gi")]).await;
    fake.put(
        STORAGE,
        "storageclasses",
        super::super::plan::tests::class("later", "WaitForFirstConsumer"),
    );
    told(&[("late", "99Gi"), ("later", "99Gi")]).await;
    fake.delete(STORAGE, "storageclasses", "", "late");
    told(&[("later", "99Gi")]).await;
}

#[tokio::test]
async fn volumes_that_somebody_else_has_made_here_are_taken_over() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    for (name, node) in [("mine", "n1"), ("another", "n2")] {
        fake.put(V1, VOLUMES, json!({
            "metadata": {"name": name, "finalizers": ["kubernetes.io/pv-protection"]},
            "spec": {
                "csi": {"driver": "d", "volumeHandle": "v"}, "persistentVolumeReclaimPolicy": "Delete",
                "nodeAffinity": {"required": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "t/node", "operator": "In", "values": [node]}]}
                ]}}
            },
            "status": {"phase": "Bound"}
        }));
    }
    let _agent = start(&fake, &driver);
    let taken = fake
        .until(V1, VOLUMES, "", "mine", |of| {
            of["metadata"]["finalizers"].as_array().unwrap().len() == 2
        })
        .await;
    assert_eq!(taken["metadata"]["labels"]["t/node"], "n1");
    let other = fake.until(V1, VOLUMES, "", "another", |_| true).await;
    assert!(other["metadata"]["labels"].is_null());
}
