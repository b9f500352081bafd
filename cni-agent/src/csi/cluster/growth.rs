//! PURE: how a claim that asks for more gets it: to what size its volume grows next, and what its status tells, so that the
//! kubelet grows the file system; as external-resizer with recovery from growth that fails.

use super::{
    claim::requested,
    quantity::{bytes, quantity},
    words::{STORAGE, text},
};
use k8s_openapi::{
    api::core::v1::{
        PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition,
        PersistentVolumeClaimStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

const CONTROLLER_IN_PROGRESS: &str = "ControllerResizeInProgress";
const CONTROLLER_INFEASIBLE: &str = "ControllerResizeInfeasible";
const NODE_PENDING: &str = "NodeResizePending";
const NODE_IN_PROGRESS: &str = "NodeResizeInProgress";
const NODE_INFEASIBLE: &str = "NodeResizeInfeasible";

const RESIZING: &str = "Resizing";
const FS_PENDING: &str = "FileSystemResizePending";
const CONTROLLER_ERROR: &str = "ControllerResizeError";
/// Conditions about growth.
const CONDITIONS: [&str; 4] = [RESIZING, FS_PENDING, CONTROLLER_ERROR, "NodeResizeError"];

/// To what size a volume grows next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) bytes: i64,
    /// It is another one than the status tells.
    pub(super) new: bool,
}

/// Whether a volume is a claim's.
pub(super) fn is_of(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let bound = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    bound.is_some_and(|bound| bound.uid == claim.metadata.uid)
        && status(claim).is_some_and(|status| status.phase.as_deref() == Some("Bound"))
}

/// Whether there is something for the driver to do.
pub(super) fn is_wanted(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let has = status(claim).and_then(|status| status.capacity.as_ref());
    let has = has
        .and_then(|capacity| capacity.get(STORAGE))
        .and_then(bytes);
    is_of(claim, volume)
        && requested(claim) > has.unwrap_or(0)
        && target(claim, volume, false).is_some()
}

/// Whether what a claim had before can be forgotten: it has all that its volume has.
pub(super) fn is_settled(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let has = status(claim).and_then(|status| status.capacity.as_ref());
    let has = has
        .and_then(|capacity| capacity.get(STORAGE))
        .and_then(bytes);
    is_of(claim, volume) && has.is_some_and(|has| has >= size(volume))
}

/// To what size the volume of a claim grows next, which asks for more than it has. None: that is the node's now.
/// `failed_for_good`: the last try ended with an error after which nothing goes on in the background.
pub(super) fn target(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    failed_for_good: bool,
) -> Option<Target> {
    let wanted = requested(claim);
    let (allocated, phase) = allocated(claim);
    // What was begun ends before something else begins.
    let begun = allocated.unwrap_or(wanted);
    let has = size(volume);
    let bytes = match (phase, has < wanted) {
        (NODE_PENDING | NODE_IN_PROGRESS, true) if has >= begun => return None,
        (NODE_PENDING | NODE_IN_PROGRESS, false) => return None,
        (CONTROLLER_IN_PROGRESS, true) if failed_for_good => wanted,
        (NODE_PENDING | NODE_IN_PROGRESS | NODE_INFEASIBLE | CONTROLLER_IN_PROGRESS, _) => begun,
        (CONTROLLER_INFEASIBLE, false) => begun,
        ("", false) if allocated.is_some() => begun,
        // The volume has it, and nobody knows of a growth: of an older cluster.
        (_, false) if has_condition(claim, FS_PENDING) => return None,
        _ => wanted,
    };
    Some(Target {
        bytes,
        new: allocated != Some(bytes),
    })
}

fn status(claim: &PersistentVolumeClaim) -> Option<&PersistentVolumeClaimStatus> {
    claim.status.as_ref()
}

/// What a volume has.
pub(super) fn size(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    let storage = capacity.and_then(|capacity| capacity.get(STORAGE));
    storage.and_then(bytes).unwrap_or(0)
}

/// To what a claim grows, and how far that is.
fn allocated(claim: &PersistentVolumeClaim) -> (Option<i64>, &str) {
    let Some(status) = status(claim) else {
        return (None, "");
    };
    let allocated = status
        .allocated_resources
        .as_ref()
        .and_then(|all| all.get(STORAGE));
    let statuses = status.allocated_resource_statuses.as_ref();
    let phase = statuses.and_then(|all| all.get(STORAGE));
    (allocated.and_then(bytes), text(phase))
}

fn has_condition(claim: &PersistentVolumeClaim, kind: &str) -> bool {
    let conditions = status(claim).and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|one| one.type_ == kind && one.status == "True")
}

/// The claim's conditions with one more about growth; the others about growth stay or go.
fn conditions(
    claim: &PersistentVolumeClaim,
    kind: &str,
    message: Option<String>,
    keep: bool,
    now: &Time,
) -> Vec<PersistentVolumeClaimCondition> {
    let before = status(claim).and_then(|status| status.conditions.as_ref());
    let stays = |one: &&PersistentVolumeClaimCondition| {
        one.type_ != kind && (keep || !CONDITIONS.contains(&one.type_.as_str()))
    };
    let before = before.into_iter().flatten().filter(stays).cloned();
    let new = PersistentVolumeClaimCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        message,
        last_transition_time: Some(now.clone()),
        ..PersistentVolumeClaimCondition::default()
    };
    before.chain([new]).collect()
}

/// Patch of the status of a claim: its volume is about to grow.
pub(super) fn begun(claim: &PersistentVolumeClaim, target: Target, now: &Time) -> Value {
    let mut status = json!({
        "conditions": conditions(claim, RESIZING, None, !target.new, now),
        "allocatedResources": {STORAGE: quantity(target.bytes)},
    });
    if target.new {
        status["allocatedResourceStatuses"] = json!({STORAGE: CONTROLLER_IN_PROGRESS});
    }
    patch(claim, status)
}

/// The same: the volume has grown, its file system follows on the node.
pub(super) fn grown(claim: &PersistentVolumeClaim, now: &Time) -> Value {
    let message = "Waiting for the node to grow the file system of the volume.".to_owned();
    patch(
        claim,
        json!({
            "conditions": conditions(claim, FS_PENDING, Some(message), true, now),
            "allocatedResourceStatuses": {STORAGE: NODE_PENDING},
        }),
    )
}

/// The same: the volume has grown, and nothing is left to do on the node.
pub(super) fn finished(claim: &PersistentVolumeClaim, bytes: i64) -> Value {
    let before = status(claim).and_then(|status| status.conditions.as_ref());
    let others = before.into_iter().flatten();
    let others: Vec<_> = others
        .filter(|one| !CONDITIONS.contains(&one.type_.as_str()))
        .collect();
    patch(
        claim,
        json!({
            "capacity": {STORAGE: quantity(bytes)},
            "conditions": others,
            "allocatedResourceStatuses": {STORAGE: null},
        }),
    )
}

/// The same: it could not grow, and won't until something else is asked for, or it may.
pub(super) fn failed(
    claim: &PersistentVolumeClaim,
    error: &str,
    infeasible: bool,
    now: &Time,
) -> Value {
    let message = format!("failed to expand pvc with {error}");
    let mut status =
        json!({"conditions": conditions(claim, CONTROLLER_ERROR, Some(message), true, now)});
    if infeasible {
        status["allocatedResourceStatuses"] = json!({STORAGE: CONTROLLER_INFEASIBLE});
    }
    patch(claim, status)
}

/// Only on the claim as it was seen.
fn patch(claim: &PersistentVolumeClaim, status: Value) -> Value {
    json!({"metadata": {"resourceVersion": claim.metadata.resource_version}, "status": status})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(
        wanted: &str,
        has: &str,
        allocated: Option<&str>,
        phase: &str,
        pending: bool,
    ) -> PersistentVolumeClaim {
        let mut status = json!({"phase": "Bound", "capacity": {"storage": has}, "conditions": []});
        if let Some(allocated) = allocated {
            status["allocatedResources"] = json!({"storage": allocated});
        }
        if !phase.is_empty() {
            status["allocatedResourceStatuses"] = json!({"storage": phase});
        }
        if pending {
            status["conditions"] = json!([{"type": FS_PENDING, "status": "True"}]);
        }
        serde_json::from_value(json!({
            "metadata": {"uid": "u", "resourceVersion": "7"},
            "spec": {"resources": {"requests": {"storage": wanted}}}, "status": status
        }))
        .unwrap()
    }

    fn volume(size: &str) -> PersistentVolume {
        serde_json::from_value(json!({"spec": {
            "capacity": {"storage": size}, "claimRef": {"uid": "u"}
        }}))
        .unwrap()
    }

    #[test]
    fn what_was_begun_ends_before_something_else_begins() {
        // What the claim asks for, its volume has, it grows to, how far that is; a final error; then the next size.
        for (wanted, has, allocated, phase, ended, expected) in [
            ("2Gi", "1Gi", None, "", false, Some((2, true))),
            ("2Gi", "1Gi", Some("1Gi"), "", false, Some((2, true))),
            (
                "3Gi",
                "1Gi",
                Some("2Gi"),
                CONTROLLER_IN_PROGRESS,
                false,
                Some((2, false)),
            ),
            (
                "3Gi",
                "1Gi",
                Some("2Gi"),
                CONTROLLER_IN_PROGRESS,
                true,
                Some((3, true)),
            ),
            (
                "2Gi",
                "1Gi",
                Some("9Gi"),
                CONTROLLER_INFEASIBLE,
                false,
                Some((2, true)),
            ),
            (
                "9Gi",
                "1Gi",
                Some("9Gi"),
                CONTROLLER_INFEASIBLE,
                false,
                Some((9, false)),
            ),
            ("3Gi", "2Gi", Some("2Gi"), NODE_PENDING, false, None),
            ("3Gi", "2Gi", Some("2Gi"), NODE_IN_PROGRESS, false, None),
            (
                "3Gi",
                "1Gi",
                Some("2Gi"),
                NODE_PENDING,
                false,
                Some((2, false)),
            ),
            (
                "3Gi",
                "2Gi",
                Some("2Gi"),
                NODE_INFEASIBLE,
                false,
                Some((2, false)),
            ),
            ("2Gi", "2Gi", Some("2Gi"), NODE_PENDING, false, None),
            ("2Gi", "2Gi", Some("2Gi"), NODE_IN_PROGRESS, false, None),
            (
                "2Gi",
                "2Gi",
                Some("2Gi"),
                NODE_INFEASIBLE,
                false,
                Some((2, false)),
            ),
            // The volume has grown, and that could not be written.
            (
                "2Gi",
                "2Gi",
                Some("2Gi"),
                CONTROLLER_IN_PROGRESS,
                false,
                Some((2, false)),
            ),
            (
                "2Gi",
                "3Gi",
                Some("3Gi"),
                CONTROLLER_IN_PROGRESS,
                false,
                Some((3, false)),
            ),
            ("2Gi", "2Gi", Some("2Gi"), "", false, Some((2, false))),
            ("2Gi", "2Gi", None, "", false, Some((2, true))),
        ] {
            let claim = claim(wanted, "512Mi", allocated, phase, false);
            let found = target(&claim, &volume(has), ended);
            let found = found.map(|target| (target.bytes >> 30, target.new));
            assert_eq!(
                found, expected,
                "{wanted} {has} {allocated:?} {phase} {ended}"
            );
            assert_eq!(is_wanted(&claim, &volume(has)), expected.is_some());
        }
        let older = claim("2Gi", "1Gi", None, "", true);
        assert_eq!(target(&older, &volume("2Gi"), false), None);
    }

    #[test]
    fn only_a_bound_claim_that_asks_for_more_than_it_has_grows() {
        let volume = volume("1Gi");
        assert!(is_wanted(&claim("2Gi", "1Gi", None, "", false), &volume));
        assert!(!is_wanted(&claim("1Gi", "1Gi", None, "", false), &volume));
        assert!(!is_wanted(&claim("1", "1Gi", None, "", false), &volume));
        let mut other = claim("2Gi", "1Gi", None, "", false);
        other.metadata.uid = Some("another".into());
        assert!(!is_wanted(&other, &volume));
        let mut lost = claim("2Gi", "1Gi", None, "", false);
        lost.status.as_mut().unwrap().phase = Some("Lost".into());
        assert!(!is_wanted(&lost, &volume));
    }

    #[test]
    fn conditions_of_others_stay() {
        let mut before = claim("2Gi", "1Gi", None, "", true);
        let other = serde_json::from_value(json!({"type": "Other", "status": "True"})).unwrap();
        before
            .status
            .as_mut()
            .unwrap()
            .conditions
            .as_mut()
            .unwrap()
            .push(other);
        let now = Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        let types = |patch: &Value| -> Vec<String> {
            let all = patch["status"]["conditions"].as_array().unwrap();
            all.iter()
                .map(|one| one["type"].as_str().unwrap().to_owned())
                .collect()
        };
        let new = begun(
            &before,
            Target {
                bytes: 2 << 30,
                new: true,
            },
            &now,
        );
        assert_eq!(types(&new), ["Other", RESIZING]);
        assert_eq!(
            new["status"]["allocatedResources"],
            json!({"storage": "2Gi"})
        );
        assert_eq!(new["metadata"]["resourceVersion"], "7");
        let again = begun(
            &before,
            Target {
                bytes: 2 << 30,
                new: false,
            },
            &now,
        );
        assert_eq!(types(&again), [FS_PENDING, "Other", RESIZING]);
        assert!(again["status"]["allocatedResourceStatuses"].is_null());
        assert_eq!(types(&grown(&before, &now)), ["Other", FS_PENDING]);
        let done = finished(&before, 2 << 30);
        assert_eq!(types(&done), ["Other"]);
        assert_eq!(done["status"]["capacity"], json!({"storage": "2Gi"}));
        let failure = failed(&before, "no room", false, &now);
        assert_eq!(types(&failure), [FS_PENDING, "Other", CONTROLLER_ERROR]);
    }
}
