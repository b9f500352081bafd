//! PURE: what there is to do for a snapshot of this node, as external-snapshotter with --node-deployment.

use super::{
    Own,
    snapshot_api::{
        BEING_CREATED, BEING_DELETED, ContentStatus, FINALIZER, GROUP_MEMBER, MANAGED_BY,
        VolumeSnapshotContent,
    },
    words::{annotation, is_held, label},
};
use serde_json::{Value, json};

/// What there is to do with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Take the snapshot, or tell of the one that was taken.
    Take,
    /// Look whether a snapshot that was there before is ready.
    Look,
    /// The note that it is being taken is left from before.
    Settle,
    /// Delete the snapshot.
    Delete,
    /// The snapshot is gone, or is to stay.
    LetGo,
}

/// What there is to do, if anything.
pub(super) fn step(content: &VolumeSnapshotContent, own: &Own) -> Option<Step> {
    let meta = &content.metadata;
    let source = &content.spec.source;
    let here = label(meta, MANAGED_BY) == Some(&own.node) && content.spec.driver == own.driver;
    if !here || source.volume_handle.is_none() && source.snapshot_handle.is_none() {
        return None;
    }
    let none = ContentStatus::default();
    let status = content.status.as_ref().unwrap_or(&none);
    if is_leaving(content) {
        let in_group = status.volume_group_snapshot_handle.is_some();
        let deletes = content.spec.deletion_policy == "Delete";
        return match is_held(meta, FINALIZER) {
            _ if deletes && status.snapshot_handle.is_some() && !in_group => Some(Step::Delete),
            true => Some(Step::LetGo),
            false => None,
        };
    }
    let being_created = annotation(meta, BEING_CREATED).is_some();
    if status.ready_to_use == Some(true) {
        return being_created.then_some(Step::Settle);
    }
    match &source.volume_handle {
        None => Some(Step::Look),
        // Whoever takes the group tells of its members.
        Some(_) if annotation(meta, GROUP_MEMBER).is_some() => None,
        Some(_) => Some(Step::Take),
    }
}

fn is_leaving(content: &VolumeSnapshotContent) -> bool {
    let meta = &content.metadata;
    let unbound = content.spec.volume_snapshot_ref.uid.is_empty();
    let status = content.status.as_ref();
    let is_known = status.is_some_and(|status| status.snapshot_handle.is_some());
    meta.deletion_timestamp.is_some()
        && (content.spec.source.snapshot_handle.is_some() && unbound
            // While it is being taken, nobody knows what there is to delete, until it is told.
            || (annotation(meta, BEING_CREATED).is_none() || is_known)
                && annotation(meta, BEING_DELETED).is_some())
}

/// Patch of the status of a content whose snapshot is known.
pub(super) fn told(
    content: &VolumeSnapshotContent,
    handle: &str,
    ready: bool,
    made_at_ns: i64,
    bytes: i64,
) -> Value {
    let none = ContentStatus::default();
    let before = content.status.as_ref().unwrap_or(&none);
    let mut status = json!({
        "snapshotHandle": before.snapshot_handle.as_deref().unwrap_or(handle),
        "readyToUse": ready,
        "creationTime": before.creation_time.unwrap_or(made_at_ns),
    });
    if bytes > 0 {
        status["restoreSize"] = json!(before.restore_size.unwrap_or(bytes));
    }
    if ready {
        status["error"] = Value::Null;
    }
    json!({"status": status})
}

/// The same of one whose snapshot is gone.
pub(super) fn gone() -> Value {
    json!({"status": {
        "snapshotHandle": null, "readyToUse": null, "creationTime": null, "restoreSize": null
    }})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::cluster::plan::tests::own;
    use serde_json::json;

    fn content(changes: &[(&str, Value)]) -> VolumeSnapshotContent {
        let mut of = json!({
            "metadata": {"name": "c", "labels": {MANAGED_BY: "n1"}, "annotations": {}, "finalizers": [FINALIZER]},
            "spec": {
                "driver": "d", "deletionPolicy": "Delete", "source": {"volumeHandle": "v"},
                "volumeSnapshotRef": {"uid": "u", "name": "s", "namespace": "x"}
            }
        });
        for (path, value) in changes {
            *of.pointer_mut(path.rsplit_once('/').unwrap().0)
                .unwrap()
                .as_object_mut()
                .unwrap()
                .entry(path.rsplit_once('/').unwrap().1.replace("~1", "/"))
                .or_insert(Value::Null) = value.clone();
        }
        serde_json::from_value(of).unwrap()
    }

    #[test]
    fn a_snapshot_is_taken_told_and_deleted_in_order() {
        let leaving = ("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"));
        let created = (
            &*format!("/metadata/annotations/{}", BEING_CREATED.replace('/', "~1")),
            json!("yes"),
        );
        let deleted = (
            &*format!("/metadata/annotations/{}", BEING_DELETED.replace('/', "~1")),
            json!("yes"),
        );
        let member = (
            &*format!("/metadata/annotations/{}", GROUP_MEMBER.replace('/', "~1")),
            json!("g"),
        );
        let failed = (
            "/status",
            json!({"readyToUse": false, "error": {"message": "x"}}),
        );
        let ready = (
            "/status",
            json!({"readyToUse": true, "snapshotHandle": "s"}),
        );
        let in_group = (
            "/status",
            json!({"readyToUse": true, "snapshotHandle": "s", "volumeGroupSnapshotHandle": "g"}),
        );
        let retain = ("/spec/deletionPolicy", json!("Retain"));
        let before = ("/spec/source", json!({"snapshotHandle": "s"}));
        let unbound = (
            "/spec/volumeSnapshotRef",
            json!({"name": "s", "namespace": "x"}),
        );
        let free = ("/metadata/finalizers", json!([]));
        for (changes, expected) in [
            (vec![], Some(Step::Take)),
            (vec![created.clone()], Some(Step::Take)),
            (vec![failed.clone()], Some(Step::Take)),
            (vec![member], None),
            (vec![ready.clone()], None),
            (vec![ready.clone(), created.clone()], Some(Step::Settle)),
            (vec![before.clone()], Some(Step::Look)),
            (vec![before.clone(), ready.clone()], None),
            // It may have been taken: that has to be known first.
            (
                vec![leaving.clone(), deleted.clone(), created.clone()],
                Some(Step::Take),
            ),
            (
                vec![
                    leaving.clone(),
                    deleted.clone(),
                    created.clone(),
                    ("/status", json!({"snapshotHandle": "s"})),
                ],
                Some(Step::Delete),
            ),
            (vec![leaving.clone(), ready.clone()], None),
            (
                vec![leaving.clone(), deleted.clone(), ready.clone()],
                Some(Step::Delete),
            ),
            (
                vec![leaving.clone(), deleted.clone(), in_group],
                Some(Step::LetGo),
            ),
            (
                vec![leaving.clone(), deleted.clone(), ready.clone(), retain],
                Some(Step::LetGo),
            ),
            (vec![leaving.clone(), deleted.clone()], Some(Step::LetGo)),
            (vec![leaving.clone(), deleted.clone(), free], None),
            (vec![leaving, before, unbound, ready], Some(Step::Delete)),
            (vec![("/spec/driver", json!("another"))], None),
            (vec![("/metadata/labels", json!({MANAGED_BY: "n2"}))], None),
        ] {
            assert_eq!(
                step(&content(&changes), &own("n1")),
                expected,
                "{changes:?}"
            );
        }
    }

    #[test]
    fn what_was_told_of_a_snapshot_stays() {
        let first = told(&content(&[]), "s", true, 7, 1024);
        assert_eq!(
            first["status"],
            json!({"snapshotHandle": "s", "readyToUse": true, "creationTime": 7, "restoreSize": 1024, "error": null})
        );
        let before = (
            "/status",
            json!({"snapshotHandle": "a", "creationTime": 1, "restoreSize": 2}),
        );
        let again = told(&content(&[before]), "s", false, 7, 1024);
        assert_eq!(
            again["status"],
            json!({"snapshotHandle": "a", "readyToUse": false, "creationTime": 1, "restoreSize": 2})
        );
    }
}
