//! Volumes whose PersistentVolume could not be written, so that none is left over: each is remembered. While its claim is this
//! node's, it is found again by its name; when that is gone, or has another volume, it is deleted. Not before: it may be
//! older than this try, and have data.

use super::{
    Site,
    failure::Failure,
    plan::Objects,
    provisioning::{FAILED, SUCCEEDED},
    words::{csi, handle, text},
};
use crate::node::within;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Resource,
    api::{ListParams, PostParams},
    runtime::events::EventType,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard, PoisonError},
};

/// By name: what was made, and perhaps not written.
pub(super) type Unwritten = BTreeMap<String, Arc<PersistentVolume>>;

/// Whether the API server has refused to write something: it will again.
fn is_refusal(error: &kube::Error) -> bool {
    // Late, overtaken, and too many are no answer about what was sent.
    let unsure = [408, 409, 429];
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && !unsure.contains(&status.code))
}

impl Site {
    pub(super) fn unwritten(&self) -> MutexGuard<'_, Unwritten> {
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the PersistentVolume of a volume that was made for a claim.
    pub(super) async fn write(
        &self,
        claim: &PersistentVolumeClaim,
        volume: PersistentVolume,
    ) -> Result<(), Failure> {
        let volumes = self.volumes();
        let name = text(volume.metadata.name.as_ref()).to_owned();
        let volume = Arc::new(volume);
        self.unwritten().insert(name.clone(), volume.clone());
        match within(volumes.create(&PostParams::default(), &volume)).await {
            Ok(_) => {
                self.unwritten().remove(&name);
                let note = format!("made volume {name}");
                self.tell(&claim.object_ref(&()), EventType::Normal, SUCCEEDED, note)
                    .await;
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let there = within(volumes.get_opt(&name)).await?;
                let there =
                    there.ok_or_else(|| Failure::quiet("a PersistentVolume of its name went"))?;
                if is_same(&there, &volume) {
                    // By an agent that was ended before it heard of it.
                    self.unwritten().remove(&name);
                    return Ok(());
                }
                Err(Failure::hopeless(
                    FAILED,
                    format!(
                        "the PersistentVolume {name} is there with another volume, {:?}; delete it, if that is nobody's",
                        handle(&there)
                    ),
                ))
            }
            Err(error) if is_refusal(&error) => Err(Failure::hopeless(
                FAILED,
                format!("the PersistentVolume is refused: {error}"),
            )),
            Err(error) => Err(Failure::told(
                FAILED,
                format!("the PersistentVolume: {error}"),
            )),
        }
    }

    /// Deletes a volume that nobody will ask for any more, if it was not written after all.
    pub(super) async fn discard(&self, volume: &PersistentVolume) -> Result<(), Failure> {
        // Also one that somebody has written by hand, with a name of their own.
        let volumes = self.volumes();
        let listed = within(volumes.list(&ListParams::default())).await?;
        if !listed.items.iter().any(|one| is_same(one, volume)) {
            self.delete_volume(volume, FAILED).await?;
        }
        self.unwritten().remove(text(volume.metadata.name.as_ref()));
        Ok(())
    }

    /// Forgets those that are written: from then on what becomes of them is said there.
    pub(super) fn written(&self, seen: &Objects<PersistentVolume>) {
        let is_there = |name: &String, volume: &PersistentVolume| {
            let there = seen.get(&(String::new(), name.clone()));
            there.is_some_and(|there| is_same(there, volume))
        };
        self.unwritten()
            .retain(|name, volume| !is_there(name, volume));
    }
}

/// Whether two are of one volume of a driver.
fn is_same(one: &PersistentVolume, other: &PersistentVolume) -> bool {
    let driver = |of: &PersistentVolume| csi(of).map(|csi| csi.driver.clone());
    driver(one) == driver(other) && handle(one) == handle(other)
}
