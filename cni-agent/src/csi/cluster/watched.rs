//! Everything that is watched: of each kind what concerns this node.

use super::{
    Site, following, modifies,
    plan::{self, Seen},
    reclaim,
    snapshot_api::{self, VolumeSnapshotContent},
    watch::{self, Kept},
};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::{StorageClass, VolumeAttachment},
};
use kube::{Api, runtime::watcher::Config};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{sync::Notify, task::JoinSet};

/// What is watched.
pub(super) struct Watched {
    pub(super) claims: Arc<Kept<PersistentVolumeClaim>>,
    pub(super) volumes: Arc<Kept<PersistentVolume>>,
    pub(super) classes: Arc<Kept<StorageClass>>,
    attachments: Arc<Kept<VolumeAttachment>>,
    contents: Arc<Kept<VolumeSnapshotContent>>,
    /// Pods wait until their volumes are attached.
    attaches: Arc<AtomicBool>,
    modifies: bool,
}

impl Watched {
    /// What was seen, once everything that has to be known was; else the kinds that were not.
    pub(super) fn seen(&self) -> Result<Seen, Vec<&'static str>> {
        let kinds = [
            ("PersistentVolumeClaim", self.claims.is_listed()),
            ("PersistentVolume", self.volumes.is_listed()),
            ("StorageClass", self.classes.is_listed()),
            ("VolumeAttachment", self.attachments.is_listed()),
        ];
        let unlisted = kinds.into_iter().filter(|(_, is_listed)| !is_listed);
        let unlisted: Vec<_> = unlisted.map(|(kind, _)| kind).collect();
        if !unlisted.is_empty() {
            return Err(unlisted);
        }
        let attaches = self.attaches.load(Ordering::Relaxed);
        Ok(Seen {
            claims: self.claims.all(),
            volumes: self.volumes.all(),
            classes: self.classes.all(),
            attachments: attaches.then(|| self.attachments.all()),
            contents: self.contents.all(),
            unwritten: BTreeMap::new(),
            modifies: self.modifies,
        })
    }
}

/// Begins to watch everything.
pub(super) async fn begin(site: &Arc<Site>, changed: &Arc<Notify>) -> (Watched, JoinSet<()>) {
    let watched = Watched {
        claims: Kept::new(changed.clone()),
        volumes: Kept::new(changed.clone()),
        classes: Kept::new(changed.clone()),
        attachments: Kept::new(changed.clone()),
        contents: Kept::new(changed.clone()),
        attaches: Arc::default(),
        modifies: modifies(site).await,
    };
    let mut watching = JoinSet::new();
    let own = site.own().clone();
    let labels: Vec<_> = own
        .topology
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let here = Config::default().labels(&labels.join(","));
    let is_own = move |volume: &PersistentVolume| reclaim::is_own(volume, &own);
    let volumes = Api::all(site.client.clone());
    watching.spawn(watch::watch(volumes, here, is_own, watched.volumes.clone()));
    let own = site.own().clone();
    let is_own = move |class: &StorageClass| class.provisioner == own.driver;
    let classes = Api::all(site.client.clone());
    watching.spawn(watch::watch(
        classes,
        Config::default(),
        is_own,
        watched.classes.clone(),
    ));
    let (own, kept, volumes) = (
        site.own().clone(),
        watched.claims.clone(),
        watched.volumes.clone(),
    );
    let claims = Api::all(site.client.clone());
    watching.spawn(async move {
        // Which claims are this node's, its volumes tell.
        volumes.listed().await;
        let concerns =
            |claim: &PersistentVolumeClaim| plan::concerns(claim, &own, |name| volumes.has(name));
        watch::watch(claims, Config::default(), concerns, kept).await;
    });
    let (client, kept) = (site.client.clone(), watched.contents.clone());
    let labelled =
        Config::default().labels(&format!("{}={}", snapshot_api::MANAGED_BY, site.own().node));
    watching.spawn(async move {
        watch::defined(&client, snapshot_api::CONTENTS).await;
        watch::watch(Api::all(client), labelled, |_| true, kept).await;
    });
    watching.spawn(following::attachments(
        site.clone(),
        watched.attachments.clone(),
        watched.attaches.clone(),
    ));
    (watched, watching)
}
