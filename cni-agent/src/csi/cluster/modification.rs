//! PURE: how a claim that names another VolumeAttributesClass gets it, and what its status tells; as external-resizer.

use super::{growth::is_of, words::text};
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

const PENDING: &str = "Pending";
const IN_PROGRESS: &str = "InProgress";
const INFEASIBLE: &str = "Infeasible";
const MODIFYING: &str = "ModifyingVolume";
const ERROR: &str = "ModifyVolumeError";

/// The class that a claim names.
pub(super) fn wanted(claim: &PersistentVolumeClaim) -> Option<&str> {
    let name = claim.spec.as_ref()?.volume_attributes_class_name.as_deref();
    name.filter(|name| !name.is_empty())
}

/// The class that is being given to it, and how far that is.
fn target(claim: &PersistentVolumeClaim) -> Option<(&str, &str)> {
    let status = claim.status.as_ref()?.modify_volume_status.as_ref()?;
    let target = text(status.target_volume_attributes_class_name.as_ref());
    Some((target, status.status.as_str()))
}

/// Whether there is something for the driver to do.
pub(super) fn is_wanted(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let target = target(claim);
    let in_progress = target.is_some_and(|(_, phase)| phase == IN_PROGRESS);
    let other = wanted(claim) != current.filter(|name| !name.is_empty());
    is_of(claim, volume)
        && match wanted(claim) {
            None => in_progress,
            Some(_) => target.is_some() || other,
        }
}

/// Which class is to be given to it now. `uncertain`: the last try may still go on, and ends first.
pub(super) fn next(claim: &PersistentVolumeClaim, uncertain: bool) -> Option<&str> {
    let begun = target(claim).filter(|(_, phase)| *phase == IN_PROGRESS);
    match (begun, wanted(claim)) {
        (Some((begun, _)), None) => Some(begun),
        (Some((begun, _)), Some(_)) if uncertain => Some(begun),
        (_, wanted) => wanted,
    }
}

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress<'a> {
    /// Its class is not there.
    Pending,
    Begun,
    /// With the code and the words of the error.
    Failed(&'a str, &'a str),
    Infeasible(&'a str, &'a str),
}

/// Patch of the status of a claim.
pub(super) fn told(
    claim: &PersistentVolumeClaim,
    class: &str,
    progress: Progress<'_>,
    now: &Time,
) -> Value {
    let (phase, error) = match progress {
        Progress::Pending => (PENDING, None),
        Progress::Begun => (IN_PROGRESS, None),
        Progress::Failed(code, message) => (IN_PROGRESS, Some((code, message))),
        Progress::Infeasible(code, message) => (INFEASIBLE, Some((code, message))),
    };
    let mut status = json!({"modifyVolumeStatus": {"status": phase}});
    if progress != Progress::Pending {
        status["modifyVolumeStatus"]["targetVolumeAttributesClassName"] = json!(class);
        let doing = match error {
            None => format!("Modifying volume to {class:?} is in progress."),
            Some(_) => format!("Modifying volume to {class:?} failed. Waiting for retry."),
        };
        let condition = |kind: &str, reason: Option<&str>, message: &str| {
            let before = conditions(claim).find(|one| one.type_ == kind);
            let same = before.filter(|one| one.reason.as_deref() == reason);
            PersistentVolumeClaimCondition {
                type_: kind.to_owned(),
                status: "True".to_owned(),
                reason: reason.map(str::to_owned),
                message: Some(message.to_owned()),
                last_probe_time: Some(now.clone()),
                last_transition_time: same
                    .and_then(|one| one.last_transition_time.clone())
                    .or_else(|| Some(now.clone())),
            }
        };
        let failed = error.map(|(code, message)| condition(ERROR, Some(code), message));
        let new = [Some(condition(MODIFYING, None, &doing)), failed];
        let new: Vec<_> = new.into_iter().flatten().collect();
        let stays = |one: &&PersistentVolumeClaimCondition| {
            new.iter().all(|other| other.type_ != one.type_)
        };
        let before = conditions(claim).filter(stays).cloned();
        status["conditions"] = json!(before.chain(new.clone()).collect::<Vec<_>>());
    }
    json!({"metadata": {"resourceVersion": claim.metadata.resource_version}, "status": status})
}

/// The same: it has that class now.
pub(super) fn done(claim: &PersistentVolumeClaim, class: &str) -> Value {
    let about =
        |one: &&PersistentVolumeClaimCondition| one.type_ != MODIFYING && one.type_ != ERROR;
    let conditions: Vec<_> = conditions(claim).filter(about).collect();
    json!({"status": {
        "modifyVolumeStatus": null,
        "currentVolumeAttributesClassName": class,
        "conditions": conditions,
    }})
}

fn conditions(
    claim: &PersistentVolumeClaim,
) -> impl Iterator<Item = &PersistentVolumeClaimCondition> {
    let all = claim
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    all.into_iter().flatten()
}
