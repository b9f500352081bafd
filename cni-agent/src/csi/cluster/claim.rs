//! PURE: what there is to do for a claim, what the driver is asked for by it, and the PersistentVolume that answers it;
//! as external-provisioner with --node-deployment.

use super::{
    Own,
    quantity::{bytes, quantity},
    topology,
    words::{
        BLOCK, DELETION_SECRET, PROVISIONED_BY, STORAGE, VOLUME_FINALIZER, bound, provisioner,
        selected, text, volume_name,
    },
};
use k8s_openapi::{
    api::{
        core::v1::{
            CSIPersistentVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
            ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
            PersistentVolumeSpec, VolumeNodeAffinity,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use node_api::csi::{
    CapacityRange, CreateVolumeRequest, Topology, TopologyRequirement, Volume, VolumeCapability,
    volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode},
};
use std::collections::{BTreeMap, HashMap};

/// Parameters with it are for the sidecars, not for the driver.
const PREFIX: &str = "csi.storage.k8s.io/";
const FS_TYPE: &str = "csi.storage.k8s.io/fstype";
/// The rest of them, after the prefix: names of secrets, of which this driver needs none.
const SECRETS: [&str; 16] = [
    "secret-name",
    "secret-namespace",
    "provisioner-secret-name",
    "provisioner-secret-namespace",
    "controller-publish-secret-name",
    "controller-publish-secret-namespace",
    "node-stage-secret-name",
    "node-stage-secret-namespace",
    "node-publish-secret-name",
    "node-publish-secret-namespace",
    "controller-expand-secret-name",
    "controller-expand-secret-namespace",
    "node-expand-secret-name",
    "node-expand-secret-namespace",
    "controller-modify-secret-name",
    "controller-modify-secret-namespace",
];

/// What there is to do for a claim that has no volume yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nobody waits for a node to be chosen: the first that writes its name into the claim makes the volume.
    Take,
    /// This node was chosen.
    Provision,
}

/// What there is to do, if anything. `made`: its PersistentVolume is there.
pub(super) fn step(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    made: bool,
    own: &Own,
) -> Option<Step> {
    let ours = provisioner(claim) == Some(&own.driver) && class.provisioner == own.driver;
    if !ours || made || bound(claim).is_some() {
        return None;
    }
    match selected(claim) {
        Some(node) => (node == own.node).then_some(Step::Provision),
        None => {
            let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
            (!waits && topology::allows(class, &own.place())).then_some(Step::Take)
        }
    }
}

/// How many bytes a claim asks for.
pub(super) fn requested(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let storage = requests.and_then(|requests| requests.get(STORAGE));
    storage.and_then(bytes).unwrap_or(0)
}

pub(super) fn is_block(mode: Option<&String>) -> bool {
    mode.is_some_and(|mode| mode == BLOCK)
}

/// The way of the driver's interface to say how a volume is accessed.
///
/// # Errors
/// No such combination.
pub(super) fn access_mode(modes: &[String]) -> Result<Mode, String> {
    let has = |mode: &str| modes.iter().any(|one| one == mode);
    let others = modes.iter().any(|mode| mode != "ReadWriteOncePod");
    match () {
        () if has("ReadWriteOncePod") && others => {
            Err("ReadWriteOncePod can't be combined with other access modes".into())
        }
        () if has("ReadWriteOncePod") => Ok(Mode::SingleNodeSingleWriter),
        () if has("ReadWriteMany") => Ok(Mode::MultiNodeMultiWriter),
        () if has("ReadOnlyMany") && has("ReadWriteOnce") => {
            Err("ReadOnlyMany can't be combined with ReadWriteOnce".into())
        }
        () if has("ReadOnlyMany") => Ok(Mode::MultiNodeReaderOnly),
        () if has("ReadWriteOnce") => Ok(Mode::SingleNodeMultiWriter),
        () => Err(format!("accessModes: {modes:?} are not known")),
    }
}

/// A capability of a volume with a file system, or of a raw one.
pub(super) fn capability(
    mode: Mode,
    block: bool,
    fs_type: &str,
    mount_flags: &[String],
) -> VolumeCapability {
    let access_type = match block {
        true => AccessType::Block(BlockVolume {}),
        false => AccessType::Mount(MountVolume {
            fs_type: fs_type.to_owned(),
            mount_flags: mount_flags.to_vec(),
            volume_mount_group: String::new(),
        }),
    };
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(access_type),
    }
}

/// Parameters of a class that are for the driver.
///
/// # Errors
/// One that is reserved and unknown.
pub(super) fn parameters(
    of: Option<&BTreeMap<String, String>>,
) -> Result<HashMap<String, String>, String> {
    let mut own = HashMap::new();
    for (key, value) in of.into_iter().flatten() {
        match key.strip_prefix(PREFIX) {
            None => {
                own.insert(key.clone(), value.clone());
            }
            Some(rest) if key == FS_TYPE || SECRETS.contains(&rest) => {}
            Some(_) => {
                return Err(format!(
                    "parameters: {key:?} begins with the reserved {PREFIX} and is not known"
                ));
            }
        }
    }
    Ok(own)
}

/// The file system that a class names; empty if it leaves it open.
fn fs_type(class: &StorageClass) -> Result<&str, String> {
    let all = class.parameters.iter().flatten();
    let mut named = all.filter(|(key, _)| key.eq_ignore_ascii_case("fstype") || *key == FS_TYPE);
    let first = named.next();
    match named.next() {
        None => Ok(first.map_or("", |(_, value)| value)),
        Some(_) => Err(format!(
            "parameters: both fsType and {FS_TYPE} are given; give one"
        )),
    }
}

/// What the driver is asked for.
///
/// # Errors
/// Why the claim can't be asked for, naming its field or the class's.
pub(super) fn request(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    own: &Own,
) -> Result<CreateVolumeRequest, String> {
    let none = PersistentVolumeClaimSpec::default();
    let spec = claim.spec.as_ref().unwrap_or(&none);
    if spec.selector.is_some() {
        return Err(
            "spec.selector is not supported for volumes that are made; leave it out".into(),
        );
    }
    let block = is_block(spec.volume_mode.as_ref());
    let fs_type = fs_type(class)?;
    let flags = class.mount_options.as_deref().unwrap_or_default();
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let capabilities = modes.iter().map(|mode| {
        let mode = access_mode(std::slice::from_ref(mode))?;
        Ok(capability(mode, block, fs_type, flags))
    });
    let volume_capabilities = capabilities.collect::<Result<Vec<_>, String>>()?;
    let mut parameters = parameters(class.parameters.as_ref())?;
    let name = volume_name(claim);
    for (key, value) in [
        ("pvc/name", text(claim.metadata.name.as_ref())),
        ("pvc/namespace", text(claim.metadata.namespace.as_ref())),
        ("pv/name", &name),
    ] {
        parameters.insert(format!("{PREFIX}{key}"), value.to_owned());
    }
    let here = Topology {
        segments: own.topology.clone().into_iter().collect(),
    };
    Ok(CreateVolumeRequest {
        name,
        capacity_range: Some(CapacityRange {
            required_bytes: requested(claim),
            limit_bytes: 0,
        }),
        volume_capabilities,
        parameters,
        accessibility_requirements: Some(TopologyRequirement {
            requisite: vec![here.clone()],
            preferred: vec![here],
        }),
        ..CreateVolumeRequest::default()
    })
}

/// The PersistentVolume of a claim whose volume was made.
///
/// # Errors
/// As [`request`].
pub(super) fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    made: &Volume,
    own: &Own,
) -> Result<PersistentVolume, String> {
    let spec = claim.spec.clone().unwrap_or_default();
    let meta = &claim.metadata;
    let block = is_block(spec.volume_mode.as_ref());
    let capacity = match made.capacity_bytes {
        0 => requested(claim),
        bytes => bytes,
    };
    let provisioned = [(PROVISIONED_BY, own.driver.as_str())];
    let annotations = provisioned
        .into_iter()
        .chain(DELETION_SECRET.map(|key| (key, "")));
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let attributes = made.volume_context.clone().into_iter().collect();
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume_name(claim)),
            annotations: Some(annotations.collect()),
            labels: Some(own.topology.clone()),
            finalizers: Some(vec![VOLUME_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some([(STORAGE.to_owned(), quantity(capacity))].into()),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("PersistentVolumeClaim".into()),
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
                ..ObjectReference::default()
            }),
            csi: Some(CSIPersistentVolumeSource {
                driver: own.driver.clone(),
                volume_handle: made.volume_id.clone(),
                fs_type: match (block, fs_type(class)?) {
                    (true, _) | (_, "") => None,
                    (false, named) => Some(named.to_owned()),
                },
                volume_attributes: Some(attributes).filter(|of: &BTreeMap<_, _>| !of.is_empty()),
                ..CSIPersistentVolumeSource::default()
            }),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(affinity(&made.accessible_topology)),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: class.metadata.name.clone(),
            volume_attributes_class_name: spec
                .volume_attributes_class_name
                .filter(|name| !name.is_empty()),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

fn affinity(topologies: &[Topology]) -> VolumeNodeAffinity {
    let terms = topologies.iter().map(|topology| {
        let sorted: BTreeMap<_, _> = topology.segments.iter().collect();
        let expressions = sorted
            .into_iter()
            .map(|(key, value)| NodeSelectorRequirement {
                key: key.clone(),
                operator: "In".into(),
                values: Some(vec![value.clone()]),
            });
        NodeSelectorTerm {
            match_expressions: Some(expressions.collect()),
            match_fields: None,
        }
    });
    VolumeNodeAffinity {
        required: Some(NodeSelector {
            node_selector_terms: terms.collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::cluster::plan::tests::{claim, class, own};
    use serde_json::{Value, json};

    fn asked(changes: &[(&str, Value)], of_class: Value) -> Result<CreateVolumeRequest, String> {
        let mut claim = claim("a", Some("n1"));
        for (field, value) in changes {
            claim["spec"][field] = value.clone();
        }
        let mut class = class("late", "WaitForFirstConsumer");
        for (field, value) in of_class.as_object().unwrap() {
            class[field] = value.clone();
        }
        let read: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        request(&read, &serde_json::from_value(class).unwrap(), &own("n1"))
    }

    #[test]
    fn the_driver_is_asked_as_a_sidecar_would() {
        let of_class = json!({
            "mountOptions": ["noatime"],
            "parameters": {"csi.storage.k8s.io/fstype": "xfs", "thin": "true", "csi.storage.k8s.io/node-stage-secret-name": "x"}
        });
        let found = asked(&[("accessModes", json!(["ReadWriteOncePod"]))], of_class).unwrap();
        assert_eq!(found.capacity_range.unwrap().required_bytes, 1 << 30);
        let flags = ["noatime".to_owned()];
        let expected = capability(Mode::SingleNodeSingleWriter, false, "xfs", &flags);
        assert_eq!(found.volume_capabilities, [expected]);
        let keys: std::collections::BTreeSet<_> =
            found.parameters.keys().map(String::as_str).collect();
        let names = ["pv/name", "pvc/name", "pvc/namespace"].map(|key| format!("{PREFIX}{key}"));
        assert_eq!(
            keys,
            names.iter().map(String::as_str).chain(["thin"]).collect()
        );
        let here = &found.accessibility_requirements.unwrap().requisite[0].segments;
        assert_eq!(here["t/node"], "n1");
        let block = asked(&[("volumeMode", json!("Block"))], json!({})).unwrap();
        let expected = capability(Mode::SingleNodeMultiWriter, true, "", &[]);
        assert_eq!(block.volume_capabilities, [expected]);
    }

    #[test]
    fn what_can_t_be_asked_for_names_its_field() {
        for (changes, of_class, why) in [
            (
                vec![("selector", json!({"matchLabels": {"a": "b"}}))],
                json!({}),
                "spec.selector",
            ),
            (
                vec![("accessModes", json!(["Sideways"]))],
                json!({}),
                "accessModes",
            ),
            (
                vec![],
                json!({"parameters": {"csi.storage.k8s.io/unheard-of": "x"}}),
                "unheard-of",
            ),
            (
                vec![],
                json!({"parameters": {"csi.storage.k8s.io/fstype": "xfs", "fsType": "ext4"}}),
                "fsType",
            ),
        ] {
            let refused = asked(&changes, of_class).err().unwrap();
            assert!(refused.contains(why), "{refused}");
        }
        let modes = |all: &[&str]| {
            access_mode(
                &all.iter()
                    .map(|mode| (*mode).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert!(modes(&["ReadWriteOncePod", "ReadWriteOnce"]).is_err());
        assert!(modes(&["ReadOnlyMany", "ReadWriteOnce"]).is_err());
        assert_eq!(
            modes(&["ReadWriteOnce", "ReadWriteMany"]),
            Ok(Mode::MultiNodeMultiWriter)
        );
        assert_eq!(modes(&["ReadOnlyMany"]), Ok(Mode::MultiNodeReaderOnly));
    }
}
