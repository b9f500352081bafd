//! PURE: words that Kubernetes and its storage sidecars agree on, and small readings of objects by them.

use k8s_openapi::{
    api::core::v1::{
        CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeClaim, VolumeNodeAffinity,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::collections::BTreeMap;

/// Which driver a claim's volume is made by; set by the controller manager when it is time.
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The node of a claim's first pod.
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The driver that made a PersistentVolume: the controller manager then leaves its deletion to it.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// external-provisioner reads the secret of a deletion here; none is needed.
pub(super) const DELETION_SECRET: [&str; 2] = [
    "volume.kubernetes.io/provisioner-deletion-secret-name",
    "volume.kubernetes.io/provisioner-deletion-secret-namespace",
];
/// A PersistentVolume with it stays until its volume is deleted, whoever is deleted first.
pub(super) const VOLUME_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// external-provisioner holds a source by it while it is copied. Copies are made at once here; one that is left is
/// taken away.
pub(super) const CLONE_FINALIZER: &str = "provisioner.storage.kubernetes.io/cloning-protection";
/// What a claim had before its volume grew, for the controller manager.
pub(super) const CAPACITY_BEFORE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

/// The only resource of claims.
pub(super) const STORAGE: &str = "storage";
/// Volume mode of a raw block device.
pub(super) const BLOCK: &str = "Block";

/// What an object is annotated with.
pub(super) fn annotation<'a>(of: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    let annotations = of.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

/// A label of an object.
pub(super) fn label<'a>(of: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    of.labels.as_ref()?.get(key).map(String::as_str)
}

/// Whether an object is held by a finalizer.
pub(super) fn is_held(of: &ObjectMeta, finalizer: &str) -> bool {
    let mut all = of.finalizers.iter().flatten();
    all.any(|one| one == finalizer)
}

/// The finalizers without one.
pub(super) fn without(of: &ObjectMeta, finalizer: &str) -> Vec<String> {
    let all = of.finalizers.iter().flatten();
    all.filter(|one| *one != finalizer).cloned().collect()
}

/// A field of the metadata that every stored object has.
pub(super) fn text(field: Option<&String>) -> &str {
    field.map_or("", String::as_str)
}

/// What a driver knows of a volume.
pub(super) fn csi(volume: &PersistentVolume) -> Option<&CSIPersistentVolumeSource> {
    volume.spec.as_ref()?.csi.as_ref()
}

/// How its driver calls a volume; empty: it is no driver's.
pub(super) fn handle(volume: &PersistentVolume) -> String {
    csi(volume).map_or_else(String::new, |csi| csi.volume_handle.clone())
}

/// Which driver is to make the claim's volume, once it is time.
pub(super) fn provisioner(claim: &PersistentVolumeClaim) -> Option<&str> {
    let is = |key| annotation(&claim.metadata, key);
    is(PROVISIONER).or_else(|| is(PROVISIONER_BETA))
}

/// The node that was chosen for a claim.
pub(super) fn selected(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, SELECTED_NODE).filter(|node| !node.is_empty())
}

/// The volume that a claim is bound to, or wants to be.
pub(super) fn bound(claim: &PersistentVolumeClaim) -> Option<&str> {
    let name = claim.spec.as_ref()?.volume_name.as_deref();
    name.filter(|name| !name.is_empty())
}

/// Name of a claim's PersistentVolume and of its volume in the driver: whoever makes it again finds it.
pub(super) fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", text(claim.metadata.uid.as_ref()))
}

/// Whether only this node has a volume: its affinity names the node's label and nothing else.
pub(super) fn is_here(volume: &PersistentVolume, own: &BTreeMap<String, String>) -> bool {
    let affinity = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref());
    affinity.is_some_and(|affinity| is_meant(affinity, own))
}

fn is_meant(affinity: &VolumeNodeAffinity, own: &BTreeMap<String, String>) -> bool {
    let terms = affinity
        .required
        .as_ref()
        .map_or(&[][..], |of| &of.node_selector_terms);
    let here = |key: &str, operator: &str, values: &[String]| {
        operator == "In" && own.get(key).is_some_and(|value| values == [value.clone()])
    };
    terms.iter().any(|term| {
        let all = term.match_expressions.as_deref().unwrap_or_default();
        let values = |of: &Option<Vec<String>>| of.clone().unwrap_or_default();
        let mut rest = all.iter();
        term.match_fields.as_ref().is_none_or(Vec::is_empty)
            && !all.is_empty()
            && rest.all(|one| here(&one.key, &one.operator, &values(&one.values)))
    })
}

/// The node that has a volume, by the value of the driver's label in its affinity.
pub(super) fn node_of<'a>(volume: &'a PersistentVolume, key: &str) -> Option<&'a str> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required.as_ref()?.node_selector_terms;
    let expressions = terms
        .iter()
        .flat_map(|term| term.match_expressions.iter().flatten());
    let mut named = expressions.filter(|one| one.key == key && one.operator == "In");
    let values = named.next()?.values.as_ref()?;
    values.first().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(terms: Value) -> PersistentVolume {
        let affinity = json!({"required": {"nodeSelectorTerms": terms}});
        serde_json::from_value(json!({"spec": {"nodeAffinity": affinity}})).unwrap()
    }

    #[test]
    fn a_volume_is_here_if_its_affinity_is_this_node_and_no_more() {
        let own = BTreeMap::from([("t/node".to_owned(), "n1".to_owned())]);
        let term = |key: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": "In", "values": values}]});
        for (terms, here) in [
            (json!([term("t/node", &["n1"])]), true),
            (
                json!([term("t/node", &["n2"]), term("t/node", &["n1"])]),
                true,
            ),
            (json!([term("t/node", &["n2"])]), false),
            (json!([term("t/node", &["n1", "n2"])]), false),
            (json!([term("zone", &["n1"])]), false),
            (json!([]), false),
            (json!([{}]), false),
            (
                json!([{"matchExpressions": [{"key": "t/node", "operator": "NotIn", "values": ["n1"]}]}]),
                false,
            ),
        ] {
            assert_eq!(is_here(&volume(terms.clone()), &own), here, "{terms}");
        }
        let none: PersistentVolume = serde_json::from_value(json!({"spec": {}})).unwrap();
        assert!(!is_here(&none, &own));
        assert_eq!(
            node_of(&volume(json!([term("t/node", &["n7"])])), "t/node"),
            Some("n7")
        );
    }
}
