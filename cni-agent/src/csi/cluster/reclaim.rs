//! PURE: what becomes of this node's PersistentVolumes; as sig-storage-lib-external-provisioner. A volume is deleted only
//! if its claim is gone and its policy says so: never because something of the cluster is missing.

use super::{
    Own, attachment,
    words::{PROVISIONED_BY, VOLUME_FINALIZER, annotation, csi, is_held, is_here},
};
use k8s_openapi::api::core::v1::PersistentVolume;

/// What there is to do with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It stays until its volume is deleted.
    Hold,
    /// Its volume is to stay when it goes.
    LetGo,
    /// With its volume.
    Delete,
    /// external-attacher holds it, which answered attachments before: it lets go of what is attached nowhere.
    Detached,
}

/// Whether a volume is this driver's and on this node.
pub(super) fn is_own(volume: &PersistentVolume, own: &Own) -> bool {
    let by = annotation(&volume.metadata, PROVISIONED_BY);
    csi(volume).is_some_and(|csi| csi.driver == own.driver)
        && by.is_none_or(|by| by == own.driver)
        && is_here(volume, &own.topology)
}

/// What there is to do, if anything. `attached`: a VolumeAttachment is of it.
pub(super) fn step(volume: &PersistentVolume, attached: bool, own: &Own) -> Option<Step> {
    if !is_own(volume, own) {
        return None;
    }
    let meta = &volume.metadata;
    let (held, leaving) = (
        is_held(meta, VOLUME_FINALIZER),
        meta.deletion_timestamp.is_some(),
    );
    let policy = volume
        .spec
        .as_ref()?
        .persistent_volume_reclaim_policy
        .as_deref();
    let phase = volume
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let step = match (policy, phase) {
        (Some("Delete"), Some("Bound")) if !held && !leaving => Some(Step::Hold),
        // One that is going and is not held: its volume was deleted.
        (Some("Delete"), Some("Released")) if !attached && (held || !leaving) => Some(Step::Delete),
        (Some("Retain" | "Recycle"), _) if held => Some(Step::LetGo),
        _ => None,
    };
    let by_attacher = is_held(meta, &attachment::finalizer(&own.driver));
    step.or((leaving && by_attacher && !attached).then_some(Step::Detached))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::cluster::plan::tests::own;
    use serde_json::json;

    struct Case {
        policy: &'static str,
        phase: &'static str,
        held: bool,
        leaving: bool,
    }

    fn volume(case: &Case) -> PersistentVolume {
        let finalizers = match case.held {
            true => json!(["kubernetes.io/pv-protection", VOLUME_FINALIZER]),
            false => json!(["kubernetes.io/pv-protection"]),
        };
        let leaving = case.leaving.then_some("2026-01-01T00:00:00Z");
        let expressions = json!([{"key": "t/node", "operator": "In", "values": ["n1"]}]);
        serde_json::from_value(json!({
            "metadata": {"name": "pvc-1", "finalizers": finalizers, "deletionTimestamp": leaving},
            "spec": {
                "persistentVolumeReclaimPolicy": case.policy,
                "csi": {"driver": "d", "volumeHandle": "h"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}
            },
            "status": {"phase": case.phase}
        }))
        .unwrap()
    }

    #[test]
    fn a_volume_goes_when_its_claim_has_gone_and_its_policy_says_so() {
        for (policy, phase, held, leaving, attached, expected) in [
            ("Delete", "Bound", true, false, false, None),
            ("Delete", "Bound", false, false, false, Some(Step::Hold)),
            ("Delete", "Bound", false, true, false, None),
            ("Delete", "Bound", true, true, false, None),
            ("Delete", "Pending", true, false, false, None),
            ("Delete", "Available", true, true, false, None),
            ("Delete", "Released", true, false, false, Some(Step::Delete)),
            ("Delete", "Released", true, false, true, None),
            ("Delete", "Released", true, true, false, Some(Step::Delete)),
            (
                "Delete",
                "Released",
                false,
                false,
                false,
                Some(Step::Delete),
            ),
            ("Delete", "Released", false, true, false, None),
            ("Delete", "Failed", true, false, false, None),
            ("Retain", "Released", false, false, false, None),
            ("Retain", "Released", true, true, false, Some(Step::LetGo)),
            ("Retain", "Bound", true, false, false, Some(Step::LetGo)),
        ] {
            let of = volume(&Case {
                policy,
                phase,
                held,
                leaving,
            });
            let found = step(&of, attached, &own("n1"));
            assert_eq!(
                found, expected,
                "{policy} {phase} held={held} leaving={leaving} attached={attached}"
            );
            assert_eq!(step(&of, attached, &own("n2")), None, "another node's");
        }
        let mut of = volume(&Case {
            policy: "Delete",
            phase: "Released",
            held: true,
            leaving: false,
        });
        let finalizer = || Some(vec![attachment::finalizer("d")]);
        for (policy, leaving, attached, expected) in [
            ("Delete", true, false, Some(Step::Detached)),
            ("Retain", true, false, Some(Step::Detached)),
            ("Delete", true, true, None),
            ("Retain", false, false, None),
        ] {
            let mut of = volume(&Case {
                policy,
                phase: "Released",
                held: false,
                leaving,
            });
            of.metadata.finalizers = finalizer();
            let found = step(&of, attached, &own("n1"));
            assert_eq!(found, expected, "{policy} {leaving} {attached}");
        }
        let by = [(PROVISIONED_BY.to_owned(), "another".to_owned())];
        of.metadata.annotations = Some(by.into());
        assert_eq!(step(&of, false, &own("n1")), None, "another provisioner's");
    }
}
