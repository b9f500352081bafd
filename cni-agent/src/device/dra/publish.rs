//! RIM: keeps this node's slices in the API server as they should be. They are watched, so that what somebody else changes is
//! mended: the kubelet deletes all at its start, and those of a driver that was away for half a minute.

use super::{
    PACE,
    diff::{self, Slices, Write},
    fault::{self, Fault, code},
    slices::{self, DRIVER, Looked, Support},
};
use crate::node::within;
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::{
    api::{
        core::v1::Node,
        resource::v1::{ResourcePool, ResourceSlice},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
    runtime::{
        WatchStreamExt as _,
        watcher::{Config, Event, watcher},
    },
};
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Longest pause after a write that failed.
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// Without a fault for so long, a watch that was begun again is taken for whole: it says nothing until something changes.
const CALM: Duration = Duration::from_secs(10);

/// So often an API server that doesn't keep everything is asked whether it does: of several, each has its own version.
const ASK_AGAIN: Duration = Duration::from_secs(3600);

/// What the slices are made of, and who is told about them.
pub(super) struct Publisher {
    node: String,
    slices: Api<ResourceSlice>,
    nodes: Api<Node>,
    offers: watch::Receiver<Looked>,
    /// What the API server keeps, as far as it was asked.
    support: watch::Sender<Support>,
    /// Why they can't be published; none: they are, or nothing has come of it yet.
    fault: watch::Sender<Option<String>>,
    /// As the API server has them, once they were listed.
    seen: Option<Slices>,
    /// The list that comes.
    listing: Slices,
    /// When the API server was asked what it keeps; none: it may be another now.
    probed: Option<Instant>,
    generation: i64,
    problems: Vec<String>,
}

impl Publisher {
    pub(super) fn new(
        client: Client,
        node: &str,
        offers: watch::Receiver<Looked>,
        support: watch::Sender<Support>,
        fault: watch::Sender<Option<String>>,
    ) -> Self {
        Self {
            node: node.to_owned(),
            slices: Api::all(client.clone()),
            nodes: Api::all(client),
            offers,
            support,
            fault,
            seen: None,
            listing: Slices::new(),
            probed: None,
            generation: 0,
            problems: Vec::new(),
        }
    }

    /// Keeps them until nobody offers devices any more.
    pub(super) async fn run(mut self) {
        let own = format!("spec.nodeName={},spec.driver={DRIVER}", self.node);
        let config = Config::default().fields(&own).any_semantic();
        let stream = watcher(self.slices.clone(), config).default_backoff();
        pin_mut!(stream);
        let mut pause = PACE;
        let mut free = Instant::now();
        let mut due = Some(free);
        loop {
            let next = due.into_iter().chain(self.asks_again()).min();
            let next = next.filter(|_| self.seen.is_some());
            tokio::select! {
                event = stream.next() => match event {
                    Some(Ok(event)) => {
                        if matches!(event, Event::InitDone) {
                            // Whatever was in the way, it answers again.
                            (due, pause) = (None, PACE);
                        }
                        if self.take(event) {
                            due = due.or(Some(free));
                        }
                    }
                    Some(Err(error)) => {
                        self.fail(fault::of_watch(&error));
                        // It may come again as another, of another version.
                        self.probed = None;
                        due = due.or(Some(Instant::now() + CALM));
                    }
                    None => return,
                },
                changed = self.offers.changed() => match changed {
                    Ok(()) => due = due.or(Some(free)),
                    Err(_gone) => return,
                },
                () = sleep_until(next.unwrap_or(free)), if next.is_some() => {
                    let done = self.round().await;
                    free = Instant::now() + PACE;
                    due = match done {
                        Ok(is_done) => {
                            pause = PACE;
                            self.well();
                            (!is_done).then_some(free)
                        }
                        Err(error) => {
                            self.fail(fault::of_write(&error));
                            let again = Instant::now() + pause;
                            pause = (pause * 2).min(LAST_PAUSE);
                            Some(again)
                        }
                    };
                }
            }
        }
    }

    /// When it is asked again what it keeps.
    fn asks_again(&self) -> Option<Instant> {
        let is_whole = *self.support.borrow() == Support::ALL;
        self.probed.filter(|_| !is_whole).map(|at| at + ASK_AGAIN)
    }

    /// Takes news; whether they may need a write.
    fn take(&mut self, event: Event<ResourceSlice>) -> bool {
        let name = |slice: &ResourceSlice| slice.metadata.name.clone().unwrap_or_default();
        match event {
            Event::Init => {
                self.listing = Slices::new();
                self.probed = None;
                false
            }
            Event::InitApply(slice) => {
                self.listing.insert(name(&slice), slice);
                false
            }
            Event::InitDone => {
                self.seen = Some(std::mem::take(&mut self.listing));
                true
            }
            Event::Apply(slice) => {
                let seen = self.seen.get_or_insert_default();
                let is_news = !is_older(&slice, seen.get(&name(&slice)));
                if is_news {
                    seen.insert(name(&slice), slice);
                }
                is_news
            }
            Event::Delete(slice) => {
                let seen = self.seen.get_or_insert_default();
                let is_news = !is_older(&slice, seen.get(&name(&slice)));
                is_news && seen.remove(&name(&slice)).is_some()
            }
        }
    }

    /// Writes what differs; whether nothing is left to do.
    async fn round(&mut self) -> Result<bool, kube::Error> {
        let Some(offers) = self.offers.borrow_and_update().clone() else {
            // What an agent before this one told stays until it is known to be otherwise.
            return Ok(true);
        };
        let is_due = |at: Instant| at <= Instant::now();
        if self.asks_again().is_some_and(is_due) {
            self.probed = None;
        }
        if self.probed.is_none() && slices::depends_on_support(&offers) {
            self.probe().await?;
        }
        let support = *self.support.borrow();
        let (wanted, problems) = slices::slices(&offers, support);
        if problems != self.problems {
            for problem in &problems {
                tracing::warn!(problem, "devices for claims");
            }
            self.problems = problems;
        }
        let seen = self.seen.get_or_insert_default();
        // It grows on also when all of them go now.
        self.generation = self.generation.max(diff::newest(&self.node, seen));
        let writes = diff::plan(&self.node, self.generation, seen, &wanted);
        let owner = match writes.iter().any(|write| matches!(write, Write::Create(_))) {
            true => Some(self.owner().await?),
            false => None,
        };
        for write in writes {
            self.write(write, owner.as_ref()).await?;
        }
        // What it dropped after all is told in another way.
        Ok(*self.support.borrow() == support)
    }

    async fn write(
        &mut self,
        write: Write,
        owner: Option<&OwnerReference>,
    ) -> Result<(), kube::Error> {
        let params = PostParams::default();
        let (sent, stored) = match write {
            Write::Delete(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                let only = DeleteParams::default().preconditions(Preconditions {
                    uid: slice.metadata.uid.clone(),
                    resource_version: None,
                });
                match within(self.slices.delete(&name, &only)).await {
                    Err(error) if code(&error) != Some(404) => return Err(error),
                    _ => tracing::info!(slice = name, "a slice of devices is deleted"),
                }
                self.seen.get_or_insert_default().remove(&name);
                return Ok(());
            }
            Write::Create(mut slice) => {
                // It goes with the node.
                slice.metadata.owner_references = owner.map(|owner| vec![owner.clone()]);
                let stored = within(self.slices.create(&params, &slice)).await?;
                (slice, stored)
            }
            Write::Replace(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                let stored = within(self.slices.replace(&name, &params, &slice)).await?;
                (slice, stored)
            }
        };
        let pool = &stored.spec.pool;
        let name = stored.metadata.name.clone().unwrap_or_default();
        tracing::info!(
            slice = name,
            devices = stored.spec.devices.as_ref().map_or(0, Vec::len),
            generation = pool.generation,
            "a slice of devices is published"
        );
        self.generation = self.generation.max(pool.generation);
        let kept = kept(&sent, &stored);
        self.support.send_if_modified(|support| {
            let now = Support {
                taints: support.taints && kept.taints,
                shares: support.shares && kept.shares,
            };
            std::mem::replace(support, now) != now
        });
        self.seen.get_or_insert_default().insert(name, stored);
        Ok(())
    }

    /// The node's object, which the slices go with.
    async fn owner(&self) -> Result<OwnerReference, kube::Error> {
        let node = within(self.nodes.get(&self.node)).await?;
        Ok(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        })
    }

    /// Asks what the API server keeps, by a write that it doesn't carry out.
    async fn probe(&mut self) -> Result<(), kube::Error> {
        let pool = ResourcePool {
            name: self.node.clone(),
            generation: 0,
            resource_slice_count: 1,
        };
        let probe = ResourceSlice {
            metadata: ObjectMeta {
                generate_name: Some("fairlead-probe-".to_owned()),
                ..ObjectMeta::default()
            },
            spec: diff::spec(&self.node, pool, vec![slices::probe()]),
        };
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let support = match within(self.slices.create(&params, &probe)).await {
            Ok(kept) => {
                let device = kept.spec.devices.into_iter().flatten().next();
                device.map_or(Support::NONE, |device| Support::of(&device))
            }
            // It takes none of it, or no such question.
            Err(error) if matches!(code(&error), Some(400 | 422)) => {
                tracing::warn!(%error, "the API server can't be asked what it keeps of devices");
                Support::NONE
            }
            Err(error) => return Err(error),
        };
        if !support.taints {
            tracing::info!(
                "the API server has no taints of devices (DRADeviceTaints, Kubernetes 1.36): those that are not healthy are not told of"
            );
        }
        if !support.shares {
            tracing::info!(
                "the API server has no devices for several claims (DRAConsumableCapacity, Kubernetes 1.36): each share is a device by itself"
            );
        }
        self.probed = Some(Instant::now());
        self.support.send_replace(support);
        Ok(())
    }

    fn fail(&self, fault: Fault) {
        let Fault { text, is_quiet } = fault;
        if is_quiet {
            tracing::debug!(reason = text, "slices of devices were changed meanwhile");
            return;
        }
        if self.fault.send_replace(Some(text.clone())) != Some(text.clone()) {
            tracing::warn!(
                reason = text,
                "devices can't be told to the scheduler for now; it is tried again"
            );
        }
    }

    fn well(&self) {
        if self.fault.send_replace(None).is_some() {
            tracing::info!("the scheduler is told of devices again");
        }
    }
}

/// What was kept of what was sent. What wasn't sent is not dropped.
fn kept(sent: &ResourceSlice, stored: &ResourceSlice) -> Support {
    let any = |slice: &ResourceSlice, is: fn(Support) -> bool| {
        let mut devices = slice.spec.devices.iter().flatten();
        devices.any(|device| is(Support::of(device)))
    };
    let is_kept = |is: fn(Support) -> bool| !any(sent, is) || any(stored, is);
    Support {
        taints: is_kept(|of| of.taints),
        shares: is_kept(|of| of.shares),
    }
}

/// Whether a slice is from before what is known: news of an own write come after its answer.
fn is_older(slice: &ResourceSlice, known: Option<&ResourceSlice>) -> bool {
    let version = |slice: &ResourceSlice| -> Option<u64> {
        slice.metadata.resource_version.as_ref()?.parse().ok()
    };
    match (version(slice), known.and_then(version)) {
        (Some(new), Some(known)) => new < known,
        _ => false,
    }
}
