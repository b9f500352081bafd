//! What was seen is older than what is done by it: nothing is lost by that.

use super::{Remembering, cluster, seen, site};
use crate::csi::cluster::{
    content, reclaim::Step, snapshot_api::VolumeSnapshotContent, work::Outcome,
};
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value, json};

const V1: &str = "v1";
const SNAPSHOT: &str = "snapshot.storage.k8s.io/v1";
const VOLUMES: &str = "persistentvolumes";
const CONTENTS: &str = "volumesnapshotcontents";

/// A volume whose claim has gone.
fn released() -> Value {
    let here = json!([{"key": "t/node", "operator": "In", "values": ["n1"]}]);
    json!({
        "metadata": {
            "name": "pvc-1", "uid": "uid-1", "labels": {"t/node": "n1"},
            "finalizers": ["external-provisioner.volume.kubernetes.io/finalizer"]
        },
        "spec": {
            "persistentVolumeReclaimPolicy": "Delete", "csi": {"driver": "d", "volumeHandle": "v"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": here}]}}
        },
        "status": {"phase": "Released"}
    })
}

#[tokio::test]
async fn a_volume_stays_that_somebody_wants_to_keep_meanwhile() {
    let retain = json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}});
    let other = json!({"spec": {"csi": {"volumeHandle": "another"}}});
    let namesake = json!({"metadata": {"uid": "uid-of-another"}});
    for (what, change, deleted) in [
        ("nothing", json!({}), true),
        ("the policy", retain, false),
        ("the handle", other, false),
        ("the volume", namesake, false),
    ] {
        let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
        driver
            .pool()
            .volumes
            .insert("pvc-1".into(), ("v".into(), 1));
        fake.put(V1, VOLUMES, released());
        let old: PersistentVolume = seen(&fake, V1, VOLUMES, "pvc-1");
        fake.merge(V1, VOLUMES, "", "pvc-1", change);
        let done = site(&fake, &driver).reclaim(Step::Delete, &old).await;
        let left = (driver.pool().volumes.len(), fake.all(V1, VOLUMES).len());
        match deleted {
            true => assert_eq!((done.is_ok(), left), (true, (0, 0)), "{what}"),
            false => {
                assert_eq!(left, (1, 1), "{what}");
                assert_eq!(done.unwrap_err().outcome, Outcome::Done, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_snapshot_stays_that_somebody_wants_to_keep_meanwhile() {
    let retain = json!({"spec": {"deletionPolicy": "Retain"}});
    let other = json!({"status": {"snapshotHandle": "another"}});
    let namesake = json!({"metadata": {"uid": "uid-of-another"}});
    for (what, change, deleted) in [
        ("nothing", json!({}), true),
        ("the policy", retain, false),
        ("the handle", other, false),
        ("the content", namesake, false),
    ] {
        let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
        let taken = ("snap".to_owned(), "v".to_owned());
        driver.pool().snapshots.insert("snapshot-1".into(), taken);
        let mut leaving = super::life::content("n1", "v");
        leaving["metadata"]["annotations"] =
            json!({"snapshot.storage.kubernetes.io/volumesnapshot-being-deleted": "yes"});
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        leaving["status"] = json!({"snapshotHandle": "snap", "readyToUse": true});
        fake.put(SNAPSHOT, CONTENTS, leaving);
        let old: VolumeSnapshotContent = seen(&fake, SNAPSHOT, CONTENTS, "snapcontent-s");
        fake.merge(SNAPSHOT, CONTENTS, "", "snapcontent-s", change);
        let done = site(&fake, &driver)
            .content(content::Step::Delete, &old)
            .await;
        let left = (
            driver.pool().snapshots.len(),
            fake.all(SNAPSHOT, CONTENTS).len(),
        );
        match deleted {
            true => assert_eq!((done.is_ok(), left), (true, (0, 0)), "{what}"),
            false => {
                assert_eq!(left, (1, 1), "{what}");
                assert_eq!(done.unwrap_err().outcome, Outcome::Done, "{what}");
            }
        }
    }
}
