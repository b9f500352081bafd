//! PURE: what a claim's volume is made from, and whether that can be used; as external-provisioner checks it.

use super::{
    claim::{is_block, requested},
    quantity::bytes,
    snapshot_api::{MANAGED_BY, MODE_CHANGE, VolumeSnapshot, VolumeSnapshotContent},
    words::{annotation, label, node_of, text},
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

const SNAPSHOT_GROUP: &str = "snapshot.storage.k8s.io";

/// What a claim names as its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Nothing,
    /// Name of a VolumeSnapshot in the claim's namespace.
    Snapshot(String),
    /// Name of a claim there.
    Claim(String),
    /// Somebody else fills the volume: nothing to do here.
    Other(String),
}

/// A source that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) handle: String,
    pub(super) snapshot: bool,
    /// The node that has it, if that is known.
    pub(super) node: Option<String>,
}

/// Reads the source of a claim.
///
/// # Errors
/// It can't be one, naming the field.
pub(super) fn origin(claim: &PersistentVolumeClaim) -> Result<Origin, String> {
    let Some(spec) = &claim.spec else {
        return Ok(Origin::Nothing);
    };
    let (group, kind, name) = match (&spec.data_source, &spec.data_source_ref) {
        (Some(of), _) => (of.api_group.as_deref(), of.kind.as_str(), &of.name),
        (None, Some(of)) => {
            let own = claim.metadata.namespace.as_deref();
            let other = of.namespace.as_deref().filter(|there| !there.is_empty());
            if other.is_some() && other != own {
                return Err(
                    "spec.dataSourceRef.namespace: sources of other namespaces are not taken; copy it within its namespace"
                        .into(),
                );
            }
            (of.api_group.as_deref(), of.kind.as_str(), &of.name)
        }
        (None, None) => return Ok(Origin::Nothing),
    };
    match (group.unwrap_or_default(), kind) {
        (_, "VolumeSnapshot" | "PersistentVolumeClaim") if name.is_empty() => {
            Err("spec.dataSource.name is missing".into())
        }
        (SNAPSHOT_GROUP, "VolumeSnapshot") => Ok(Origin::Snapshot(name.clone())),
        ("", "PersistentVolumeClaim") => Ok(Origin::Claim(name.clone())),
        (group, "VolumeSnapshot") => Err(format!(
            "spec.dataSource.apiGroup: is {group:?}; a VolumeSnapshot is of {SNAPSHOT_GROUP}"
        )),
        (_, kind) => Ok(Origin::Other(kind.to_owned())),
    }
}

/// Whether a claim can be copied into another.
///
/// # Errors
/// Why not, or not yet.
pub(super) fn from_claim(
    claim: &PersistentVolumeClaim,
    source: &PersistentVolumeClaim,
    volume: Option<&PersistentVolume>,
    driver: &str,
    key: &str,
) -> Result<Found, String> {
    let name = text(source.metadata.name.as_ref());
    let unbound =
        || format!("its source, the claim {name}, is not bound to a volume of this driver");
    let phase = source
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if phase != Some("Bound") {
        return Err(format!("its source, the claim {name}, is not Bound"));
    }
    if source.metadata.deletion_timestamp.is_some() {
        return Err(format!("its source, the claim {name}, is being deleted"));
    }
    let (wanted, has) = (requested(claim), requested(source));
    if wanted < has {
        return Err(format!(
            "spec.resources.requests.storage: {wanted} bytes are less than the {has} of its source, the claim {name}"
        ));
    }
    let spec = volume
        .and_then(|volume| volume.spec.as_ref())
        .ok_or_else(unbound)?;
    let csi = spec
        .csi
        .as_ref()
        .filter(|csi| csi.driver == driver)
        .ok_or_else(unbound)?;
    let bound = spec.claim_ref.as_ref();
    if bound.is_none_or(|bound| bound.uid != source.metadata.uid) {
        return Err(unbound());
    }
    let own = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_mode.as_ref());
    if is_block(own) != is_block(spec.volume_mode.as_ref()) {
        return Err(format!(
            "spec.volumeMode is not the one of its source, the claim {name}"
        ));
    }
    Ok(Found {
        handle: csi.volume_handle.clone(),
        snapshot: false,
        node: volume
            .and_then(|volume| node_of(volume, key))
            .map(str::to_owned),
    })
}

/// Whether a claim can be made from a snapshot. `content`: the one that the snapshot is bound to.
///
/// # Errors
/// Why not, or not yet.
pub(super) fn from_snapshot(
    claim: &PersistentVolumeClaim,
    snapshot: &VolumeSnapshot,
    content: Option<&VolumeSnapshotContent>,
    driver: &str,
) -> Result<Found, String> {
    let name = text(snapshot.metadata.name.as_ref());
    if snapshot.metadata.deletion_timestamp.is_some() {
        return Err(format!("its source, the snapshot {name}, is being deleted"));
    }
    let unready = || format!("its source, the snapshot {name}, is not ready");
    let status = snapshot.status.as_ref().ok_or_else(unready)?;
    let content = content.ok_or_else(unready)?;
    let meta = &snapshot.metadata;
    let of = &content.spec.volume_snapshot_ref;
    let same = of.uid == text(meta.uid.as_ref())
        && of.namespace == text(meta.namespace.as_ref())
        && of.name == name;
    if !same {
        return Err(format!(
            "its source, the snapshot {name}, is bound to the content of another"
        ));
    }
    if content.spec.driver != driver {
        return Err(format!(
            "its source, the snapshot {name}, is of the driver {:?}, the claim's class of {driver:?}",
            content.spec.driver
        ));
    }
    if status.ready_to_use != Some(true) {
        return Err(unready());
    }
    let handle = content
        .status
        .as_ref()
        .and_then(|status| status.snapshot_handle.clone());
    let handle = handle.ok_or_else(unready)?;
    let (wanted, has) = (
        requested(claim),
        status.restore_size.as_ref().and_then(bytes),
    );
    if has.is_some_and(|has| wanted < has) {
        return Err(format!(
            "spec.resources.requests.storage: {wanted} bytes are less than the {} of its source, the snapshot {name}",
            has.unwrap_or_default()
        ));
    }
    let own = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_mode.as_ref());
    let before = content.spec.source_volume_mode.as_ref();
    let allowed = annotation(&content.metadata, MODE_CHANGE) == Some("true");
    if before.is_some() && own.is_some() && before != own && !allowed {
        return Err(format!(
            "spec.volumeMode is not the one of the snapshot {name}; the annotation {MODE_CHANGE} of its VolumeSnapshotContent would allow that"
        ));
    }
    Ok(Found {
        handle,
        snapshot: true,
        node: label(&content.metadata, MANAGED_BY).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::cluster::plan::tests::claim;
    use serde_json::{Value, json};

    fn read<K: serde::de::DeserializeOwned>(value: &Value) -> K {
        serde_json::from_value(value.clone()).unwrap()
    }

    /// A value with one field changed.
    fn with(value: &Value, pointer: &str, new: Value) -> Value {
        let mut value = value.clone();
        *value.pointer_mut(pointer).unwrap() = new;
        value
    }

    #[test]
    fn a_source_is_read_by_either_field() {
        let of = |fields: Value| {
            let mut claim = claim("b", None);
            for (field, value) in fields.as_object().unwrap() {
                claim["spec"][field] = value.clone();
            }
            origin(&read(&claim))
        };
        let snapshot = json!({"apiGroup": SNAPSHOT_GROUP, "kind": "VolumeSnapshot", "name": "s"});
        let volume = json!({"kind": "PersistentVolumeClaim", "name": "a"});
        let other = json!({"apiGroup": "x.io", "kind": "Backup", "name": "a"});
        assert_eq!(of(json!({})), Ok(Origin::Nothing));
        assert_eq!(
            of(json!({"dataSource": snapshot, "dataSourceRef": snapshot})),
            Ok(Origin::Snapshot("s".into()))
        );
        assert_eq!(
            of(json!({"dataSourceRef": snapshot})),
            Ok(Origin::Snapshot("s".into()))
        );
        assert_eq!(
            of(json!({"dataSource": volume})),
            Ok(Origin::Claim("a".into()))
        );
        assert_eq!(
            of(json!({"dataSourceRef": other})),
            Ok(Origin::Other("Backup".into()))
        );
        let elsewhere = json!({"kind": "PersistentVolumeClaim", "name": "a", "namespace": "x"});
        assert!(
            of(json!({"dataSourceRef": elsewhere}))
                .unwrap_err()
                .contains("namespace")
        );
        let wrong = json!({"apiGroup": "x.io", "kind": "VolumeSnapshot", "name": "s"});
        assert!(
            of(json!({"dataSource": wrong}))
                .unwrap_err()
                .contains("apiGroup")
        );
    }

    #[test]
    fn a_claim_is_copied_only_when_it_can_be() {
        let source = with(&claim("a", None), "/status/phase", json!("Bound"));
        let volume = json!({
            "spec": {
                "csi": {"driver": "d", "volumeHandle": "h"}, "claimRef": {"uid": "uid-a"}, "volumeMode": "Filesystem",
                "nodeAffinity": {"required": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "t/node", "operator": "In", "values": ["n3"]}]}
                ]}}
            }
        });
        let copy = claim("b", None);
        let found = |copy: &Value, source: &Value, volume: &Value| {
            from_claim(
                &read(copy),
                &read(source),
                Some(&read(volume)),
                "d",
                "t/node",
            )
        };
        let expected = Found {
            handle: "h".into(),
            snapshot: false,
            node: Some("n3".into()),
        };
        assert_eq!(found(&copy, &source, &volume), Ok(expected));
        let leaving = {
            let mut source = source.clone();
            source["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            source
        };
        for (copy, source, volume, why) in [
            (
                &copy,
                &with(&source, "/status/phase", json!("Pending")),
                &volume,
                "not Bound",
            ),
            (&copy, &leaving, &volume, "deleted"),
            (
                &with(&copy, "/spec/resources/requests/storage", json!("1Mi")),
                &source,
                &volume,
                "less than",
            ),
            (
                &copy,
                &source,
                &with(&volume, "/spec/csi/driver", json!("x")),
                "this driver",
            ),
            (
                &copy,
                &source,
                &with(&volume, "/spec/claimRef/uid", json!("x")),
                "not bound",
            ),
            (
                &with(&copy, "/spec/volumeMode", json!("Block")),
                &source,
                &volume,
                "volumeMode",
            ),
        ] {
            let refused = found(copy, source, volume).unwrap_err();
            assert!(refused.contains(why), "{refused} {why}");
        }
    }

    #[test]
    fn a_snapshot_is_restored_only_when_it_can_be() {
        let restored = claim("b", None);
        let snapshot = json!({
            "metadata": {"name": "s", "namespace": "shop", "uid": "u"},
            "status": {"readyToUse": true, "restoreSize": "1Gi", "boundVolumeSnapshotContentName": "c"}
        });
        let content = json!({
            "metadata": {"name": "c", "labels": {MANAGED_BY: "n3"}, "annotations": {}},
            "spec": {"driver": "d", "sourceVolumeMode": "Filesystem", "volumeSnapshotRef": {"name": "s", "namespace": "shop", "uid": "u"}},
            "status": {"snapshotHandle": "h"}
        });
        let found = |restored: &Value, snapshot: &Value, content: &Value| {
            from_snapshot(&read(restored), &read(snapshot), Some(&read(content)), "d")
        };
        let expected = Found {
            handle: "h".into(),
            snapshot: true,
            node: Some("n3".into()),
        };
        assert_eq!(found(&restored, &snapshot, &content), Ok(expected.clone()));
        let block = with(&restored, "/spec/volumeMode", json!("Block"));
        let allowed = with(
            &content,
            "/metadata/annotations",
            json!({MODE_CHANGE: "true"}),
        );
        assert_eq!(found(&block, &snapshot, &allowed), Ok(expected));
        for (restored, snapshot, content, why) in [
            (
                &restored,
                &with(&snapshot, "/status/readyToUse", json!(false)),
                &content,
                "not ready",
            ),
            (
                &restored,
                &with(&snapshot, "/metadata/uid", json!("x")),
                &content,
                "another",
            ),
            (
                &restored,
                &snapshot,
                &with(&content, "/spec/driver", json!("x")),
                "driver",
            ),
            (
                &restored,
                &snapshot,
                &with(&content, "/status", json!({})),
                "not ready",
            ),
            (
                &with(&restored, "/spec/resources/requests/storage", json!("1Mi")),
                &snapshot,
                &content,
                "less than",
            ),
            (&block, &snapshot, &content, "volumeMode"),
        ] {
            let refused = found(restored, snapshot, content).unwrap_err();
            assert!(refused.contains(why), "{refused} {why}");
        }
        assert!(from_snapshot(&read(&restored), &read(&snapshot), None, "d").is_err());
    }
}
