//! Growth: what the claim's status tells, and who ends it.

use super::{Remembering, bound, claim, cluster, start};
use serde_json::{Value, json};
use tonic::Status;

const V1: &str = "v1";
const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";

fn more(amount: &str) -> Value {
    json!({"spec": {"resources": {"requests": {"storage": amount}}}})
}

#[tokio::test]
async fn a_volume_without_a_file_system_of_its_own_has_grown_at_once() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    driver.pool().folders = true;
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    fake.merge(V1, CLAIMS, "shop", "a", more("2Gi"));
    let grown = fake
        .until(V1, CLAIMS, "shop", "a", |of| {
            of["status"]["capacity"]["storage"] == "2Gi"
        })
        .await;
    assert_eq!(grown["status"]["conditions"], json!([]));
    let phase = &grown["status"]["allocatedResourceStatuses"]["storage"];
    assert!(phase.is_null(), "{phase}");
    fake.told("VolumeResizeSuccessful", "a").await;
    let volume = fake.until(V1, VOLUMES, "", "pvc-uid-a", |_| true).await;
    assert_eq!(volume["spec"]["capacity"]["storage"], "2Gi");
    let before = "volume.alpha.kubernetes.io/pre-resize-capacity";
    assert!(volume["metadata"]["annotations"][before].is_null());
    // It is no file system that would have to be grown later.
    fake.merge(V1, CLAIMS, "shop", "a", more("3Gi"));
    fake.until(V1, CLAIMS, "shop", "a", |of| {
        of["status"]["capacity"]["storage"] == "3Gi"
    })
    .await;
}

#[tokio::test]
async fn less_can_be_asked_for_when_there_is_no_room_to_grow() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let _agent = start(&fake, &driver);
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    driver.pool().refuses = Some(Status::resource_exhausted("no room"));
    fake.merge(V1, CLAIMS, "shop", "a", more("9Gi"));
    fake.told("VolumeResizeFailed", "a").await;
    fake.merge(V1, CLAIMS, "shop", "a", more("2Gi"));
    driver.pool().refuses = None;
    fake.until(V1, VOLUMES, "", "pvc-uid-a", |of| {
        of["spec"]["capacity"]["storage"] == "2Gi"
    })
    .await;
}
