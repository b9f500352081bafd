//! PURE: on which nodes the volumes of a class may be.

use k8s_openapi::api::storage::v1::StorageClass;
use std::collections::BTreeMap;

/// What a node is known by: its labels, and those of the driver.
pub(super) type Place = BTreeMap<String, String>;

/// Whether a class allows volumes on a node.
pub(super) fn allows(class: &StorageClass, place: &Place) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let has =
        |key: &str, values: &[String]| place.get(key).is_some_and(|value| values.contains(value));
    terms.is_empty()
        || terms.iter().any(|term| {
            let mut all = term.match_label_expressions.iter().flatten();
            all.all(|one| has(&one.key, &one.values))
        })
}

/// Why there are no volumes of a class on a node, for people.
pub(super) fn refusal(class: &StorageClass, node: &str) -> String {
    format!(
        "the StorageClass {} allows no volumes on node {node} (allowedTopologies)",
        class.metadata.name.as_deref().unwrap_or_default()
    )
}
