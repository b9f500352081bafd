//! Objects of one kind as they were seen last. What does not concern this node is let go as it arrives, so that its share
//! of memory does not grow with the cluster.

use super::plan::Objects;
use crate::source::kubernetes::with_sources;
use futures_util::{StreamExt, pin_mut};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Resource,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        wait::await_condition,
        watcher::{Config, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use std::{
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

/// A kind that the cluster doesn't have is looked for again after this time, also if nobody tells of it.
const NOT_INSTALLED: Duration = Duration::from_secs(600);
/// A definition is served a moment after it is there.
const NOT_YET_SERVED: Duration = Duration::from_secs(1);

/// What is kept of a kind.
#[derive(Debug)]
pub(super) struct Kept<K> {
    objects: Mutex<Objects<K>>,
    listed: watch::Sender<bool>,
    changed: Arc<Notify>,
}

impl<K> Kept<K> {
    /// Nothing yet. `changed` is told when there is news.
    pub(super) fn new(changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            objects: Mutex::new(Objects::new()),
            listed: watch::Sender::new(false),
            changed,
        })
    }

    fn objects(&self) -> MutexGuard<'_, Objects<K>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    pub(super) fn all(&self) -> Objects<K> {
        self.objects().clone()
    }

    /// Whether one of the cluster is there by that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.objects()
            .contains_key(&(String::new(), name.to_owned()))
    }

    /// Whether the kind was seen whole.
    pub(super) fn is_listed(&self) -> bool {
        *self.listed.borrow()
    }

    /// Returns when it was.
    pub(super) async fn listed(&self) {
        let mut listed = self.listed.subscribe();
        // It ends with what it is of.
        let _gone = listed.wait_for(|listed| *listed).await.is_err();
    }

    /// There is nothing of this kind to be waited for.
    pub(super) fn none(&self) {
        self.replace(Objects::new());
    }

    /// What was seen of this kind says nothing any more.
    pub(super) fn forget(&self) {
        self.listed.send_replace(false);
        self.objects().clear();
    }

    fn replace(&self, objects: Objects<K>) {
        *self.objects() = objects;
        self.listed.send_replace(true);
        self.changed.notify_one();
    }
}

/// Watches for ever. Kept is what `keeps` says.
pub(super) async fn watch<K>(
    api: Api<K>,
    config: Config,
    keeps: impl Fn(&K) -> bool,
    kept: Arc<Kept<K>>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::kind(&()).into_owned();
    let mut listing = Objects::new();
    let mut faulty = false;
    // From the API server's memory: a node that lists must cost it little.
    let stream = watcher(api, config.any_semantic()).default_backoff();
    pin_mut!(stream);
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                if !faulty {
                    tracing::warn!(
                        kind,
                        reason = with_sources(&error),
                        "can't be watched for now; what was seen last is used"
                    );
                }
                faulty = true;
                continue;
            }
        };
        if faulty && !matches!(event, Event::Init) {
            tracing::info!(kind, "is watched again");
            faulty = false;
        }
        match event {
            Event::Init => listing = Objects::new(),
            Event::InitApply(object) => {
                if keeps(&object) {
                    let (key, object) = entry(object);
                    listing.insert(key, object);
                }
            }
            Event::InitDone => kept.replace(std::mem::take(&mut listing)),
            Event::Apply(object) => {
                let kept_before = match keeps(&object) {
                    true => {
                        let (key, object) = entry(object);
                        kept.objects().insert(key, object);
                        true
                    }
                    false => kept.objects().remove(&entry(object).0).is_some(),
                };
                if kept_before {
                    kept.changed.notify_one();
                }
            }
            Event::Delete(object) => {
                if kept.objects().remove(&entry(object).0).is_some() {
                    kept.changed.notify_one();
                }
            }
        }
    }
}

fn entry<K: Resource>(mut object: K) -> ((String, String), Arc<K>) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    ((text(&meta.namespace), text(&meta.name)), Arc::new(object))
}

/// Returns when a kind is defined in the cluster: its definition is watched, which costs the API server less than being
/// asked again and again by every node.
pub(super) async fn defined(client: &Client, definition: &str) {
    let definitions: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let is_there = |there: Option<&PartialObjectMeta<CustomResourceDefinition>>| there.is_some();
    loop {
        let there = await_condition(definitions.clone(), definition, is_there);
        match timeout(NOT_INSTALLED, there).await {
            Ok(Ok(_)) => return sleep(NOT_YET_SERVED).await,
            Ok(Err(error)) => {
                tracing::debug!(definition, %error, "it can't be seen whether this kind is installed");
                sleep(NOT_INSTALLED / 10).await;
            }
            Err(_late) => {}
        }
    }
}
