//! Watches one kind for ever: lists, watches, and begins again after a fault with a growing pause.

use super::{
    Shared,
    collected::{Effect, Keep, Key, KindName},
    read::{Read, Version},
};
use futures_util::{StreamExt, stream::BoxStream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::ListParams,
    core::{PartialObjectMeta, Status},
    runtime::{
        utils::Backoff,
        wait::await_condition,
        watcher::{self, Config, DefaultBackoff, Event, InitialListStrategy, watcher},
    },
};
use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// Without a fault for this long, a watch that was begun again is taken to be established: the API
/// server says nothing on one until something changes.
const CALM: Duration = Duration::from_secs(10);
/// A server that neither streams the list nor refuses to (Kubernetes before 1.27) is asked the old way
/// after this time.
const SILENT_LIST: Duration = Duration::from_secs(15);
/// A page that does not come by then is asked for anew.
const SILENT_PAGE: Duration = Duration::from_secs(60);
/// A kind that the cluster doesn't have is looked for again after this time, also if nobody tells of it.
const NOT_INSTALLED: Duration = Duration::from_secs(600);
/// Or after this, if what would tell can't be watched.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
const NOT_YET_SERVED: Duration = Duration::from_millis(500);
/// Objects in one page of a list: some megabytes are in memory at a time.
const PAGE: u32 = 250;

pub(super) async fn run<K: Keep>(client: Client, config: Config, shared: Arc<Shared>) {
    let mut kind = Watched::<K> {
        api: Api::all(client.clone()),
        version: 0,
        tried: 0,
        client,
        config: config.page_size(PAGE).timeout(watch_secs()),
        listing: None,
        shared,
    };
    kind.config.initial_list_strategy = InitialListStrategy::StreamingList;
    let mut stream = kind.stream();
    let mut pause = DefaultBackoff::default();
    loop {
        let wait = kind.longest_wait();
        let event = match timeout(wait.unwrap_or(Duration::MAX), stream.next()).await {
            Ok(Some(event)) => event,
            // The stream of a watcher does not end.
            Ok(None) => {
                stream = kind.stream();
                continue;
            }
            Err(_silence) => {
                match (kind.listing.take(), kind.streams()) {
                    (None, _) => {
                        kind.well();
                        continue;
                    }
                    (Some(_), true) => kind.list_the_old_way("it has not sent the list"),
                    (Some(_), false) => kind.fault("the list was asked for and does not come"),
                }
                stream = kind.stream();
                continue;
            }
        };
        match event {
            Ok(event) => {
                let contact = !matches!(event, Event::Init);
                kind.take(event);
                if contact {
                    pause.reset();
                    kind.well();
                }
            }
            Err(error) => {
                if K::OPTIONAL && status(&error).is_some_and(|status| status.code == 404) {
                    kind.listing = None;
                    if !kind.asks_in_another_version() {
                        // What was in force stays while only its server is not ready.
                        if !is_defined::<K>(&kind.client).await {
                            kind.none_of_it();
                        }
                        installed::<K>(&kind.client).await;
                    }
                    stream = kind.stream();
                    continue;
                }
                if kind.streams() && refuses_streaming(&error) {
                    kind.list_the_old_way("it refuses to");
                    stream = kind.stream();
                    continue;
                }
                kind.fault(&reason(&error));
                if K::OPTIONAL && status(&error).is_some_and(|status| status.code == 403) {
                    // A role from before this kind: no reason to serve nobody. The fault is told.
                    kind.go_without();
                }
                sleep(pause.next().unwrap_or(Duration::from_secs(30))).await;
            }
        }
    }
}

/// Whether the cluster has the kind's definition; if that can't be asked, what the server said counts.
async fn is_defined<K: Keep>(client: &Client) -> bool {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let only = ListParams::default().fields(&format!("metadata.name={}", definition::<K>()));
    let listed = definitions.list_metadata(&only).await;
    listed.is_ok_and(|listed| !listed.items.is_empty())
}

/// Name of the kind's definition.
fn definition<K: Keep>() -> String {
    format!("{}.{}", K::plural(&()), K::group(&()))
}

/// Returns when the kind may have been installed: its definition is watched, which costs the API server less
/// than being asked again and again by every node.
async fn installed<K: Keep>(client: &Client) {
    let definitions: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let name = definition::<K>();
    let is_there =
        |definition: Option<&PartialObjectMeta<CustomResourceDefinition>>| definition.is_some();
    // A definition is served a moment after it is there.
    sleep(NOT_YET_SERVED).await;
    let there = timeout(NOT_INSTALLED, await_condition(definitions, &name, is_there));
    if let Ok(Err(_cannot_be_watched)) = there.await {
        sleep(LOOK_AGAIN).await;
    }
}

/// How long a watch is left alone before it is asked for anew, from where it is: a connection that died in
/// silence is noticed by then. Not the same for all, so that the nodes of a cluster don't ask at once.
fn watch_secs() -> u32 {
    let spread = RandomState::new().hash_one(()) % 40;
    100 + u32::try_from(spread).unwrap_or_default()
}

struct Watched<K: Keep> {
    client: Client,
    /// In which of its versions the kind is asked for: its own, then the older ones.
    version: usize,
    /// Versions that the server didn't have, one after the other.
    tried: usize,
    api: Api<Read<K>>,
    config: Config,
    /// The objects of the list that is being read.
    listing: Option<BTreeSet<Key>>,
    shared: Arc<Shared>,
}

impl<K: Keep> Watched<K> {
    fn stream(&self) -> BoxStream<'static, watcher::Result<Event<Read<K>>>> {
        watcher(self.api.clone(), self.config.clone()).boxed()
    }

    fn streams(&self) -> bool {
        self.config.initial_list_strategy == InitialListStrategy::StreamingList
    }

    fn list_the_old_way(&mut self, why: &str) {
        tracing::info!(
            kind = K::KIND.as_str(),
            "the API server does not stream lists ({why}): lists are read in pages"
        );
        self.config.initial_list_strategy = InitialListStrategy::ListWatch;
    }

    fn longest_wait(&self) -> Option<Duration> {
        match (&self.listing, self.streams()) {
            (Some(_), true) => Some(SILENT_LIST),
            (Some(_), false) => Some(SILENT_PAGE),
            (None, _) => self.shared.health().is_faulty(K::KIND).then_some(CALM),
        }
    }

    fn take(&mut self, event: Event<Read<K>>) {
        let came = Instant::now();
        if !matches!(event, Event::Init) {
            self.tried = 0;
        }
        let effect = match event {
            Event::Init => {
                self.listing = Some(BTreeSet::new());
                Effect::default()
            }
            Event::InitApply(object) => {
                let key = key(&object);
                let effect = self.shared.collected().apply::<K>(&key, object.model);
                if let Some(listing) = &mut self.listing {
                    listing.insert(key);
                }
                effect
            }
            Event::InitDone => {
                let seen = self.listing.take().unwrap_or_default();
                tracing::debug!(kind = K::NAMES, objects = seen.len(), "listed");
                self.shared.collected().listed::<K>(&seen)
            }
            Event::Apply(object) => {
                let mut collected = self.shared.collected();
                let effect = collected.apply::<K>(&key(&object), object.model);
                self.note(effect, came);
                effect
            }
            Event::Delete(object) => {
                let mut collected = self.shared.collected();
                let effect = collected.delete::<K>(&key(&object));
                self.note(effect, came);
                effect
            }
        };
        if effect.changed {
            self.shared.changed.notify_one();
        }
    }

    /// While what was collected is locked: the next snapshot has the news, and nobody makes it yet.
    fn note(&self, effect: Effect, came: Instant) {
        if effect.changed && K::KIND == KindName::EndpointSlice {
            self.shared.arrivals.arrived(came);
        }
    }

    /// Goes on to the next version; whether there was one that had not been tried since the last answer.
    fn asks_in_another_version(&mut self) -> bool {
        let all = K::OLDER.len() + 1;
        self.version = (self.version + 1) % all;
        let older = self.version.checked_sub(1).and_then(|n| K::OLDER.get(n));
        self.api = Api::all_with(self.client.clone(), &Version(older.copied()));
        self.tried = (self.tried + 1) % all;
        self.tried != 0
    }

    /// Nobody may tell of this kind.
    fn go_without(&self) {
        let effect = self.shared.collected().assume_listed::<K>();
        if effect.changed {
            self.shared.changed.notify_one();
        }
    }

    /// The cluster doesn't have this kind, or not any more.
    fn none_of_it(&mut self) {
        let effect = self.shared.collected().listed::<K>(&BTreeSet::new());
        if effect.changed {
            tracing::debug!(kind = K::NAMES, "not installed in this cluster");
            self.shared.changed.notify_one();
        }
        self.well();
    }

    fn fault(&self, reason: &str) {
        if self.shared.health().fault(K::KIND, reason.to_owned()) {
            tracing::warn!(
                kind = K::KIND.as_str(),
                reason,
                "can't be watched for now; the last known state stays in force"
            );
        }
    }

    fn well(&self) {
        if self.shared.health().well(K::KIND) {
            tracing::info!(kind = K::KIND.as_str(), "is watched again");
        }
    }
}

fn key<K: Keep>(object: &Read<K>) -> Key {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (
        text(&object.metadata.namespace),
        text(&object.metadata.name),
    )
}

/// What the API server answered, if it did.
fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// 400 and 422: the parameter is known, and its feature is off.
fn refuses_streaming(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| matches!(status.code, 400 | 422))
}

/// For people, with a remedy where the answer has none.
fn reason(error: &watcher::Error) -> String {
    match status(error) {
        Some(status) if status.code == 403 => {
            format!("{}; give the agent's role that right", status.message)
        }
        Some(status) => format!("{} ({})", status.message, status.code),
        None => with_sources(error),
    }
}

/// The error with what it came of, which `Display` leaves out.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
