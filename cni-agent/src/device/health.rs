//! Looks at devices whose configuration says how, from time to time and beside each other, and says when one's health has
//! changed.

use super::{
    damping::{Damping, Limits, Seen},
    host::{Host, health::Probe},
    inventory::{Item, Offer},
    name::ResourceName,
    plan::HealthRule,
};
use futures_util::{StreamExt as _, stream};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// Devices of one resource that are looked at beside each other.
const BESIDE: usize = 8;

/// What became of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) resource: ResourceName,
    pub(super) key: String,
    /// Why it isn't healthy; none: it is.
    pub(super) problem: Option<String>,
}

/// The looks of all resources.
#[derive(Debug)]
pub(super) struct Checks {
    host: Arc<Host>,
    verdicts: mpsc::Sender<Verdict>,
    of: BTreeMap<ResourceName, Check>,
}

#[derive(Debug, Default)]
struct Check {
    /// None: one is under way.
    due: Arc<Mutex<Due>>,
    dampings: Dampings,
}

/// By the items' keys.
type Dampings = Arc<Mutex<BTreeMap<String, Watch>>>;

/// One item.
#[derive(Clone, Debug, Default)]
struct Watch {
    probe: Probe,
    damping: Option<Damping>,
}

#[derive(Debug, Default)]
enum Due {
    #[default]
    Now,
    At(Instant),
    UnderWay,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether anything but presence is looked at.
fn has_look(rule: &HealthRule) -> bool {
    rule.open || rule.command.is_some()
}

impl Checks {
    pub(super) fn new(host: Arc<Host>, verdicts: mpsc::Sender<Verdict>) -> Self {
        Self {
            host,
            verdicts,
            of: BTreeMap::new(),
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        let due = self
            .of
            .values()
            .filter_map(|check| match *lock(&check.due) {
                Due::Now => Some(Instant::now()),
                Due::At(at) => Some(at),
                Due::UnderWay => None,
            });
        due.min()
    }

    /// Starts those that are due.
    pub(super) fn start<'a>(
        &mut self,
        resources: impl Iterator<Item = (&'a ResourceName, &'a watch::Sender<Arc<Offer>>)>,
    ) {
        let offers: BTreeMap<_, _> = resources
            .map(|(name, offers)| (name.clone(), offers.borrow().clone()))
            .filter(|(_, offer)| has_look(&offer.rule.health))
            .collect();
        self.of.retain(|name, _| offers.contains_key(name));
        for (name, offer) in offers {
            let check = self.of.entry(name.clone()).or_default();
            let is_due = match *lock(&check.due) {
                Due::Now => true,
                Due::At(at) => at <= Instant::now(),
                Due::UnderWay => false,
            };
            if is_due {
                *lock(&check.due) = Due::UnderWay;
                let round = Round {
                    host: self.host.clone(),
                    verdicts: self.verdicts.clone(),
                    offer,
                    due: check.due.clone(),
                    dampings: check.dampings.clone(),
                };
                tokio::spawn(round.run());
            }
        }
    }
}

/// One look at each device of a resource.
struct Round {
    host: Arc<Host>,
    verdicts: mpsc::Sender<Verdict>,
    offer: Arc<Offer>,
    due: Arc<Mutex<Due>>,
    dampings: Dampings,
}

impl Round {
    async fn run(self) {
        let rule = &self.offer.rule.health;
        lock(&self.dampings).retain(|key, _| self.offer.items.iter().any(|item| item.key == *key));
        stream::iter(&self.offer.items)
            .for_each_concurrent(BESIDE, |item| self.look(rule, item))
            .await;
        *lock(&self.due) = Due::At(Instant::now() + rule.every);
    }

    async fn look(&self, rule: &HealthRule, item: &Item) {
        let key = item.key.clone();
        let probe = lock(&self.dampings)
            .entry(key.clone())
            .or_default()
            .probe
            .clone();
        let seen = probe
            .look(&self.host, rule, &item.files, &item.fields)
            .await;
        // Presence is told by the look at the node.
        if matches!(seen, Seen::Gone(_)) {
            return;
        }
        let verdict = {
            let mut dampings = lock(&self.dampings);
            let watch = dampings.entry(key.clone()).or_default();
            let limits = Limits {
                failures: rule.failures,
                successes: rule.successes,
            };
            let (damping, changed) = match watch.damping.take() {
                None => (Damping::first(seen, now()), true),
                Some(mut damping) => {
                    let changed = damping.see(seen, limits, now());
                    (damping, changed)
                }
            };
            let reason = damping.reason().map(str::to_owned);
            watch.damping = Some(damping);
            changed.then_some(reason)
        };
        let Some(problem) = verdict else {
            return;
        };
        let verdict = Verdict {
            resource: self.offer.rule.name.clone(),
            key,
            problem,
        };
        if self.verdicts.send(verdict).await.is_err() {
            tracing::debug!("nobody asks for devices' health any more");
        }
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
