//! PURE: everything that there is to do on this node, by what the cluster has.

use super::{
    Own, attachment,
    claim::{self, requested},
    content, growth, modification, reclaim,
    snapshot_api::VolumeSnapshotContent,
    unwritten::Unwritten,
    words::{
        CAPACITY_BEFORE, CLONE_FINALIZER, annotation, bound, is_held, provisioner, selected, text,
        volume_name,
    },
};
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::{StorageClass, VolumeAttachment},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Objects of a kind by namespace and name.
pub(super) type Objects<K> = BTreeMap<(String, String), Arc<K>>;

/// What concerns this node, as it was seen last.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) claims: Objects<PersistentVolumeClaim>,
    pub(super) volumes: Objects<PersistentVolume>,
    pub(super) classes: Objects<StorageClass>,
    /// None: pods don't wait for attachments of this driver.
    pub(super) attachments: Option<Objects<VolumeAttachment>>,
    pub(super) contents: Objects<VolumeSnapshotContent>,
    /// Volumes that were made, by the name of the PersistentVolume that could not be written.
    pub(super) unwritten: Unwritten,
    /// The driver can change volumes by a VolumeAttributesClass.
    pub(super) modifies: bool,
}

/// Something to do for one object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Task {
    Take(Arc<PersistentVolumeClaim>, Arc<StorageClass>, String),
    Provision(Arc<PersistentVolumeClaim>, Arc<StorageClass>),
    /// A volume was made, and its claim is not this node's any more.
    Discard(Arc<PersistentVolume>),
    /// A finalizer is left that nobody needs.
    Unprotect(Arc<PersistentVolumeClaim>),
    Reclaim(reclaim::Step, Arc<PersistentVolume>),
    /// What its claim had before it grew is not needed any more.
    Forget(Arc<PersistentVolume>),
    Grow(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>),
    Modify(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>),
    Content(content::Step, Arc<VolumeSnapshotContent>),
    Attachment(
        attachment::Step,
        Arc<VolumeAttachment>,
        Option<Arc<PersistentVolume>>,
    ),
}

/// What a task is for: tasks of one key never run at once.
pub(super) type Key = (&'static str, String);

/// Within this time all nodes that could take a claim have tried.
const TAKING_MS: u64 = 5000;
/// The API server has ended by then whatever it was sent.
const WRITTEN: Duration = Duration::from_secs(120);

impl Task {
    /// What is done, in a word.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Take(..) => "take",
            Self::Provision(..) => "provision",
            Self::Discard(_) => "discard",
            Self::Unprotect(_) => "unprotect",
            Self::Reclaim(..) => "reclaim",
            Self::Forget(_) => "forget",
            Self::Grow(..) => "grow",
            Self::Modify(..) => "modify",
            Self::Content(..) => "content",
            Self::Attachment(..) => "attachment",
        }
    }

    pub(super) fn key(&self) -> Key {
        let (what, id) = match self {
            // Of its claim: else the volume could be found by who asks for it again, while it is deleted.
            Self::Discard(volume) => {
                let claim = volume
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.claim_ref.as_ref());
                ("provision", claim.and_then(|claim| claim.uid.as_ref()))
            }
            _ => (self.what(), self.meta().uid.as_ref()),
        };
        (what, text(id).to_owned())
    }

    pub(super) fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Take(claim, ..)
            | Self::Provision(claim, _)
            | Self::Unprotect(claim)
            | Self::Grow(claim, _)
            | Self::Modify(claim, _) => &claim.metadata,
            Self::Discard(volume) | Self::Reclaim(_, volume) | Self::Forget(volume) => {
                &volume.metadata
            }
            Self::Content(_, content) => &content.metadata,
            Self::Attachment(_, attachment, _) => &attachment.metadata,
        }
    }

    /// Of the object: newer when anything of it has changed.
    pub(super) fn version(&self) -> &str {
        text(self.meta().resource_version.as_ref())
    }

    /// What it is done for. What failed is tried again at once only if this has changed.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::Take(claim, ..) | Self::Provision(claim, _) => format!(
                "{} {}",
                selected(claim).unwrap_or_default(),
                self.wish().unwrap_or_default()
            ),
            Self::Discard(_) | Self::Unprotect(_) | Self::Forget(_) => String::new(),
            Self::Reclaim(step, _) => format!("{step:?}"),
            Self::Grow(claim, _) => requested(claim).to_string(),
            Self::Modify(claim, _) => modification::wanted(claim).unwrap_or_default().to_owned(),
            Self::Content(step, _) => format!("{step:?}"),
            Self::Attachment(step, ..) => format!("{step:?}"),
        }
    }

    /// Whether this node is about to take a claim that any node could.
    pub(super) fn is_taking(&self) -> bool {
        matches!(self, Self::Take(..))
    }

    /// What a claim without a volume asks for, whatever node it is on.
    pub(super) fn wish(&self) -> Option<String> {
        let (Self::Take(claim, class, _) | Self::Provision(claim, class)) = self else {
            return None;
        };
        let version = text(class.metadata.resource_version.as_ref());
        Some(format!("{} {version}", requested(claim)))
    }

    /// How long it waits before it is begun: what every node could do, each begins at another time, and in another order
    /// each time.
    pub(super) fn delay(&self) -> Duration {
        let (claim, node) = match self {
            Self::Take(claim, _, node) => (claim, node),
            // Until then the API server may still be writing what was sent.
            Self::Discard(_) => return WRITTEN,
            _ => return Duration::ZERO,
        };
        let uid = text(claim.metadata.uid.as_ref());
        let digest = Sha256::digest(format!("{uid} {} {node}", self.version()));
        let number = digest
            .iter()
            .take(8)
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Duration::from_millis(1 + number % TAKING_MS)
    }
}

/// All tasks of this node.
pub(super) fn plan(seen: &Seen, own: &Own) -> Vec<Task> {
    let mut tasks = Vec::new();
    for claim in seen.claims.values() {
        let class = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.storage_class_name.clone());
        let class = class.and_then(|name| seen.classes.get(&(String::new(), name)));
        let made = seen
            .volumes
            .contains_key(&(String::new(), volume_name(claim)));
        let step = class.and_then(|class| Some((claim::step(claim, class, made, own)?, class)));
        match step {
            Some((claim::Step::Take, class)) => {
                tasks.push(Task::Take(claim.clone(), class.clone(), own.node.clone()));
            }
            Some((claim::Step::Provision, class)) => {
                tasks.push(Task::Provision(claim.clone(), class.clone()));
            }
            None => {}
        }
        let volume = bound(claim).and_then(|name| seen.volumes.get(&(String::new(), name.into())));
        let Some(volume) = volume else {
            continue;
        };
        if claim.metadata.deletion_timestamp.is_some() && is_held(&claim.metadata, CLONE_FINALIZER)
        {
            tasks.push(Task::Unprotect(claim.clone()));
        }
        if growth::is_wanted(claim, volume) {
            tasks.push(Task::Grow(claim.clone(), volume.clone()));
        }
        if annotation(&volume.metadata, CAPACITY_BEFORE).is_some()
            && growth::is_settled(claim, volume)
        {
            tasks.push(Task::Forget(volume.clone()));
        }
        if seen.modifies && modification::is_wanted(claim, volume) {
            tasks.push(Task::Modify(claim.clone(), volume.clone()));
        }
    }
    let asked_for = |name: &str| {
        let provisions =
            |task: &Task| matches!(task, Task::Provision(claim, _) if volume_name(claim) == name);
        tasks.iter().any(provisions)
    };
    let left = seen.unwritten.iter();
    let left: Vec<_> = left.filter(|(name, _)| !asked_for(name)).collect();
    tasks.extend(
        left.into_iter()
            .map(|(_, volume)| Task::Discard(volume.clone())),
    );
    for volume in seen.volumes.values() {
        let attached = seen.attachments.iter().flat_map(Objects::values);
        let name = text(volume.metadata.name.as_ref());
        let is_attached = attached.into_iter().any(|one| attachment::is_of(one, name));
        if let Some(step) = reclaim::step(volume, is_attached, own) {
            tasks.push(Task::Reclaim(step, volume.clone()));
        }
    }
    for content in seen.contents.values() {
        if let Some(step) = content::step(content, own) {
            tasks.push(Task::Content(step, content.clone()));
        }
    }
    for one in seen.attachments.iter().flat_map(Objects::values) {
        let name = one
            .spec
            .source
            .persistent_volume_name
            .clone()
            .unwrap_or_default();
        let volume = seen.volumes.get(&(String::new(), name));
        if let Some(step) = attachment::step(one, own) {
            tasks.push(Task::Attachment(step, one.clone(), volume.cloned()));
        }
    }
    tasks
}

/// Whether a claim concerns this node. `here`: names of its volumes.
pub(super) fn concerns(
    claim: &PersistentVolumeClaim,
    own: &Own,
    here: impl Fn(&str) -> bool,
) -> bool {
    // Its volume may be news that has not come yet.
    let chosen = match selected(claim) {
        Some(node) => node == own.node,
        None => bound(claim).is_none(),
    };
    provisioner(claim) == Some(&own.driver) && chosen || bound(claim).is_some_and(here)
}

#[cfg(test)]
pub(super) mod tests;
