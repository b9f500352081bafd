//! PURE: what the scheduler is told of this node's room: one CSIStorageCapacity for each StorageClass.

use super::{
    Own,
    quantity::{bytes, quantity},
    words::text,
};
use k8s_openapi::{
    api::storage::v1::{CSIStorageCapacity, StorageClass},
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
    },
};
use std::collections::{BTreeMap, BTreeSet};

const DRIVER: &str = "csi.storage.k8s.io/drivername";
const MANAGED_BY: &str = "csi.storage.k8s.io/managed-by";
/// Longest value of a label.
const LONGEST: usize = 63;
/// A difference that the scheduler need not know; room that others take from the same disk changes all the time.
const SMALL: i64 = 16 << 20;

/// Where objects are, if nothing else is known.
pub(super) const NAMESPACE: &str = "kube-system";

/// Where this node's objects are: where was said; else the namespace of the agent's pod, or the one that its kubeconfig
/// names. `client`: what the client has by itself, which is `default` for a kubeconfig that names none.
pub(super) fn namespace(said: Option<&str>, client: &str, by_kubeconfig: bool) -> String {
    let is_named = !by_kubeconfig || client != "default";
    said.unwrap_or(match is_named {
        true => client,
        false => NAMESPACE,
    })
    .to_owned()
}

/// What the driver tells of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) bytes: i64,
    /// The largest volume.
    pub(super) largest: Option<i64>,
}

/// Something to write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Create(CSIStorageCapacity),
    Replace(CSIStorageCapacity),
    /// By name.
    Delete(String),
}

/// Labels of this node's objects: those that external-provisioner has on this node, so that whoever of both runs goes on
/// with what the other has left.
pub(super) fn labels(own: &Own) -> BTreeMap<String, String> {
    [
        (DRIVER.to_owned(), own.driver.clone()),
        (MANAGED_BY.to_owned(), managed_by(&own.node)),
    ]
    .into()
}

fn managed_by(node: &str) -> String {
    const BASE: &str = "external-provisioner";
    let name = format!("{BASE}-{node}");
    if name.len() <= LONGEST {
        return name;
    }
    match (LONGEST - 10).checked_sub(node.len()) {
        Some(most @ 1..) => format!("{}-{}-{node}", &BASE[..most], fnv(BASE)),
        _ => format!("{BASE}-{}", fnv(&name)),
    }
}

/// FNV-1a of 32 bits, in hexadecimal.
fn fnv(text: &str) -> String {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    format!("{:08x}", text.bytes().fold(2_166_136_261, step))
}

/// Whether the scheduler asks for the room of a class: it does where it chooses the node first.
pub(super) fn is_told(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// What there is to write so that what is there tells of the room by class. `exact`: also small differences.
pub(super) fn changes(
    there: &[CSIStorageCapacity],
    rooms: &BTreeMap<String, Room>,
    own: &Own,
    exact: bool,
) -> Vec<Change> {
    let topology = LabelSelector {
        match_labels: Some(own.topology.clone()),
        match_expressions: None,
    };
    let mut changes = Vec::new();
    let mut told = BTreeSet::new();
    for object in there {
        let class = object.storage_class_name.as_str();
        let room = rooms
            .get(class)
            .filter(|_| object.node_topology.as_ref() == Some(&topology));
        let Some(room) = room.filter(|_| told.insert(class)) else {
            changes.push(Change::Delete(
                text(object.metadata.name.as_ref()).to_owned(),
            ));
            continue;
        };
        let owned = is_owned(object, own);
        if owned && (is_near(object, room, exact)) {
            continue;
        }
        let mut object = object.clone();
        (object.capacity, object.maximum_volume_size) = amounts(room);
        if !owned {
            object
                .metadata
                .owner_references
                .get_or_insert_default()
                .extend(owner(own));
        }
        changes.push(Change::Replace(object));
    }
    for (class, room) in rooms
        .iter()
        .filter(|(class, _)| !told.contains(class.as_str()))
    {
        let (capacity, maximum_volume_size) = amounts(room);
        changes.push(Change::Create(CSIStorageCapacity {
            capacity,
            maximum_volume_size,
            metadata: ObjectMeta {
                generate_name: Some("csisc-".to_owned()),
                labels: Some(labels(own)),
                owner_references: owner(own).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            node_topology: Some(topology.clone()),
            storage_class_name: class.clone(),
        }));
    }
    changes
}

fn amounts(room: &Room) -> (Option<Quantity>, Option<Quantity>) {
    (Some(quantity(room.bytes)), room.largest.map(quantity))
}

/// The node: with it goes what is told of its room.
fn owner(own: &Own) -> Option<OwnerReference> {
    own.node_uid.clone().map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: own.node.clone(),
        uid,
        ..OwnerReference::default()
    })
}

fn is_owned(object: &CSIStorageCapacity, own: &Own) -> bool {
    let mut owners = object.metadata.owner_references.iter().flatten();
    own.node_uid
        .as_ref()
        .is_none_or(|uid| owners.any(|owner| owner.uid == *uid))
}

fn is_near(object: &CSIStorageCapacity, room: &Room, exact: bool) -> bool {
    let near = |told: Option<&Quantity>, is: Option<i64>| match (told.and_then(bytes), is) {
        (Some(told), Some(is)) => {
            let differs = told.abs_diff(is);
            // What doesn't fit any more is told at once.
            differs == 0 || !exact && is > 0 && differs < SMALL.max(told / 64).unsigned_abs()
        }
        (told, is) => told == is,
    };
    near(object.capacity.as_ref(), Some(room.bytes))
        && near(object.maximum_volume_size.as_ref(), room.largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::cluster::plan::tests::own;

    const GIB: i64 = 1 << 30;

    #[test]
    fn objects_are_where_was_said_or_with_the_agent() {
        for (said, client, by_kubeconfig, expected) in [
            (Some("shop"), "fairlead", false, "shop"),
            (Some("default"), "x", true, "default"),
            (None, "fairlead", false, "fairlead"),
            (None, "default", false, "default"),
            (None, "storage", true, "storage"),
            (None, "default", true, NAMESPACE),
        ] {
            let found = namespace(said, client, by_kubeconfig);
            assert_eq!(found, expected, "{said:?} {client} {by_kubeconfig}");
        }
    }

    fn rooms(all: &[(&str, i64)]) -> BTreeMap<String, Room> {
        let room = |bytes| Room {
            bytes,
            largest: Some(bytes),
        };
        all.iter()
            .map(|(class, bytes)| ((*class).to_owned(), room(*bytes)))
            .collect()
    }

    /// What is there after the changes.
    fn applied(
        mut there: Vec<CSIStorageCapacity>,
        changes: Vec<Change>,
    ) -> Vec<CSIStorageCapacity> {
        for change in changes {
            match change {
                Change::Create(mut object) => {
                    object.metadata.name = Some(format!("csisc-{}", there.len()));
                    there.push(object);
                }
                Change::Replace(object) => {
                    there.retain(|one| one.metadata.name != object.metadata.name);
                    there.push(object);
                }
                Change::Delete(name) => {
                    there.retain(|one| one.metadata.name.as_ref() != Some(&name))
                }
            }
        }
        there
    }

    #[test]
    fn there_is_one_object_for_each_class_and_none_for_others() {
        let own = own("n1");
        let there = applied(
            Vec::new(),
            changes(&[], &rooms(&[("a", GIB), ("b", GIB)]), &own, true),
        );
        assert_eq!(there.len(), 2);
        assert!(changes(&there, &rooms(&[("a", GIB), ("b", GIB)]), &own, true).is_empty());
        let there = applied(
            there.clone(),
            changes(&there, &rooms(&[("b", GIB)]), &own, true),
        );
        assert_eq!(there.len(), 1);
        // Somebody has doubled it, and another is of an older topology.
        let mut twice = there[0].clone();
        twice.metadata.name = Some("twice".into());
        let mut older = there[0].clone();
        older.metadata.name = Some("older".into());
        older.node_topology = Some(LabelSelector::default());
        let all = [older, there[0].clone(), twice];
        let deleted = changes(&all, &rooms(&[("b", GIB)]), &own, true);
        assert_eq!(
            deleted,
            [
                Change::Delete("older".into()),
                Change::Delete("twice".into())
            ]
        );
    }

    #[test]
    fn what_differs_little_is_not_told_unless_something_was_done() {
        let own = own("n1");
        let there = applied(
            Vec::new(),
            changes(&[], &rooms(&[("a", 100 * GIB)]), &own, true),
        );
        for (bytes, exact, told) in [
            (100 * GIB - 1, false, false),
            (100 * GIB - 1, true, true),
            (99 * GIB, false, false),
            (98 * GIB, false, true),
            (102 * GIB, false, true),
            (0, false, true),
        ] {
            let found = changes(&there, &rooms(&[("a", bytes)]), &own, exact);
            assert_eq!(!found.is_empty(), told, "{bytes} {exact}");
        }
        let full = applied(Vec::new(), changes(&[], &rooms(&[("a", 1)]), &own, true));
        assert_eq!(
            changes(&full, &rooms(&[("a", 0)]), &own, false).len(),
            1,
            "there is none left"
        );
    }

    #[test]
    fn objects_go_with_their_node_also_those_that_a_sidecar_has_made() {
        let own = own("n1");
        let mut there = applied(Vec::new(), changes(&[], &rooms(&[("a", GIB)]), &own, true));
        let pod = OwnerReference {
            uid: "pod".into(),
            ..OwnerReference::default()
        };
        there[0].metadata.owner_references = Some(vec![pod]);
        let there = applied(
            there.clone(),
            changes(&there, &rooms(&[("a", GIB)]), &own, false),
        );
        let owners = there[0].metadata.owner_references.as_ref().unwrap();
        let owners: Vec<&str> = owners.iter().map(|owner| owner.uid.as_str()).collect();
        assert_eq!(owners, ["pod", "uid-n1"]);
    }

    #[test]
    fn the_label_is_the_one_that_external_provisioner_has() {
        assert_eq!(managed_by("n1"), "external-provisioner-n1");
        let long = "a".repeat(50);
        assert_eq!(
            managed_by(&long),
            format!("ext-{}-{long}", fnv("external-provisioner"))
        );
        let longest = "a".repeat(253);
        let found = managed_by(&longest);
        assert!(
            found.len() <= LONGEST && found.starts_with("external-provisioner-"),
            "{found}"
        );
        assert_ne!(found, managed_by(&"b".repeat(253)));
        assert_eq!(fnv("hello"), "4f9f2cab");
    }
}
