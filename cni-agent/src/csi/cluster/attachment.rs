//! PURE: what there is to do for a VolumeAttachment of this node, as external-attacher.

use super::{Own, words::is_held};
use k8s_openapi::api::storage::v1::VolumeAttachment;

/// The id by which the driver knows the node of an attachment.
pub(super) const NODE_ID: &str = "csi.alpha.kubernetes.io/node-id";

/// What the driver calls the volume of an attachment, for the time when its PersistentVolume is gone.
pub(super) const HANDLE: &str = "csi.fairlead.dev/volume-handle";

/// What there is to do with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Attach,
    Detach,
}

/// Holds an attachment until it is undone.
pub(super) fn finalizer(driver: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let mut name: String = driver.chars().map(word).collect();
    if name.ends_with('-') {
        name.push('X');
    }
    format!("external-attacher/{name}")
}

/// Whether an attachment is of the PersistentVolume of that name.
pub(super) fn is_of(attachment: &VolumeAttachment, volume: &str) -> bool {
    attachment.spec.source.persistent_volume_name.as_deref() == Some(volume)
}

/// Whether an attachment is of this driver and node.
pub(super) fn is_own(attachment: &VolumeAttachment, own: &Own) -> bool {
    attachment.spec.attacher == own.driver && attachment.spec.node_name == own.node
}

/// What there is to do, if anything.
pub(super) fn step(attachment: &VolumeAttachment, own: &Own) -> Option<Step> {
    let attached = attachment
        .status
        .as_ref()
        .is_some_and(|status| status.attached);
    let meta = &attachment.metadata;
    match meta.deletion_timestamp.is_some() {
        _ if !is_own(attachment, own) => None,
        false => (!attached).then_some(Step::Attach),
        true => is_held(meta, &finalizer(&own.driver)).then_some(Step::Detach),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::cluster::plan::tests::own;
    use serde_json::json;

    #[test]
    fn an_attachment_is_made_once_and_undone_before_it_goes() {
        assert_eq!(
            finalizer("csi.fairlead.dev"),
            "external-attacher/csi-fairlead-dev"
        );
        assert_eq!(finalizer("a."), "external-attacher/a-X");
        for (attached, leaving, held, expected) in [
            (false, false, false, Some(Step::Attach)),
            (false, false, true, Some(Step::Attach)),
            (true, false, true, None),
            (true, true, true, Some(Step::Detach)),
            (false, true, true, Some(Step::Detach)),
            (true, true, false, None),
        ] {
            let finalizers = if held {
                vec![finalizer("d")]
            } else {
                Vec::new()
            };
            let of = json!({
                "metadata": {"name": "a", "finalizers": finalizers, "deletionTimestamp": leaving.then_some("2026-01-01T00:00:00Z")},
                "spec": {"attacher": "d", "nodeName": "n1", "source": {"persistentVolumeName": "pvc-1"}},
                "status": {"attached": attached}
            });
            let of: VolumeAttachment = serde_json::from_value(of).unwrap();
            assert_eq!(
                step(&of, &own("n1")),
                expected,
                "{attached} {leaving} {held}"
            );
            assert_eq!(step(&of, &own("n2")), None);
        }
    }
}
