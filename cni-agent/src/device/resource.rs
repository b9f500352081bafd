//! One resource while it is served: what changes it, and what the kubelet is told then.

use super::{
    found::{Findings, Found},
    health::Verdict,
    host::{Host, program::Turns},
    inventory::{Health, Item, Offer, Witness, id_of, items, merge},
    look::Sight,
    plan::{By, Rule, Serve},
    plugin::{self, Plugin},
    registration::{self, Served, Standing, Way},
    tell::{News, Teller},
};
use crate::{metrics::DeviceCounts, parts::Shutdown};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

/// What every resource is served with.
pub(super) struct Serving {
    pub(super) way: Way,
    pub(super) host: Arc<Host>,
    pub(super) counts: DeviceCounts,
    /// Counts on when something in the kubelet's folder changed.
    pub(super) folder: watch::Receiver<u64>,
    /// How far what serves claims is with the kubelet.
    pub(super) claims: watch::Receiver<Standing>,
}

/// One resource while it is served.
pub(super) struct Resource {
    pub(super) offers: watch::Sender<Arc<Offer>>,
    pub(super) until: Arc<watch::Sender<()>>,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) task: JoinHandle<()>,
    pub(super) findings: Findings,
    /// When the example's devices are made anew.
    pub(super) renewal: Option<Instant>,
}

impl Resource {
    /// Begins to serve it.
    pub(super) fn begin(offer: Offer, with: &Serving) -> Self {
        tracing::info!(resource = %offer.rule.name, from = offer.rule.origin, devices = offer.devices.len(), "a resource is served");
        let (stop, stopped) = Shutdown::new();
        let until = Arc::new(watch::Sender::new(()));
        let standing = watch::Sender::new(Standing::default());
        let is_random = random(&offer.rule).is_some();
        let is_claimed = offer.rule.serve == Serve::Dra;
        let offers = watch::Sender::new(Arc::new(offer));
        let served = Served {
            way: with.way.clone(),
            plugin: Plugin {
                offers: offers.subscribe(),
                host: with.host.clone(),
                counts: with.counts.clone(),
                streams: watch::Sender::new(0),
                until: until.subscribe(),
                turns: Turns::default(),
            },
            until: until.clone(),
            standing: standing.clone(),
            changes: with.folder.clone(),
            counts: with.counts.clone(),
        };
        let (standing, task) = match is_claimed {
            // One driver has all of them.
            true => (with.claims.clone(), tokio::spawn(std::future::ready(()))),
            false => (
                standing.subscribe(),
                tokio::spawn(registration::run(served, stopped)),
            ),
        };
        Self {
            offers,
            until,
            standing,
            stop,
            task,
            findings: Findings::default(),
            renewal: is_random.then(Instant::now),
        }
    }

    /// Whether the kubelet has it from a plugin of ours.
    pub(super) fn is_taken(&self) -> bool {
        let is_claimed = self.offers.borrow().rule.serve == Serve::Dra;
        !is_claimed && *self.standing.borrow() == Standing::Taken
    }

    /// Whether there is something to give.
    pub(super) fn has_healthy(&self) -> bool {
        let offer = self.offers.borrow();
        let mut items = offer.devices.values().map(|place| &offer.items[place.item]);
        items.any(Item::is_healthy)
    }

    /// Tells the kubelet what there is from now on.
    pub(super) fn offer(&self, offer: Offer, teller: &Teller) {
        self.offers.send_if_modified(|current| {
            let differs = **current != offer;
            if differs {
                tell(current, &offer, teller);
                *current = Arc::new(offer);
            }
            differs
        });
    }

    /// Goes on by another rule. False: it is the same.
    pub(super) fn change(&mut self, rule: Arc<Rule>) -> bool {
        let before = self.offers.borrow().clone();
        if *before.rule == *rule {
            return false;
        }
        tracing::info!(resource = %rule.name, "a resource has another configuration");
        self.renewal = random(&rule).map(|_| Instant::now());
        let offer = known(rule, before.items.clone());
        let anew = plugin::options(&offer) != plugin::options(&before);
        self.offers.send_replace(Arc::new(offer));
        if anew {
            // The kubelet asks what a plugin can when it takes it.
            self.until.send_replace(());
        }
        true
    }

    /// Takes what a look found; what changed by it.
    pub(super) fn found(&mut self, sight: Sight, at: u64, is_expected: bool) -> Option<Offer> {
        let Sight {
            findings,
            items: now,
            ..
        } = sight;
        let before = self.offers.borrow().clone();
        let rule = before.rule.clone();
        if findings.problems != self.findings.problems {
            for problem in &findings.problems {
                tracing::warn!(resource = %rule.name, problem, "devices");
            }
        }
        self.findings = findings;
        let mut merged = merge(&before.items, now, at, &rule);
        // The kubelet asks again for claims, and not for what it gave by a device plugin.
        if is_expected && rule.serve == Serve::DevicePlugin {
            let is_anothers = files_of_present(&merged);
            // Its driver may come to it yet.
            let waits = |item: &Item| {
                !item
                    .files
                    .iter()
                    .any(|file| is_anothers.contains(&file.path))
            };
            for item in merged.iter_mut().filter(|item| waits(item)) {
                let was = before.items.iter().find(|one| one.key == item.key);
                if let (Health::Gone { .. }, Some(was)) = (&item.health, was) {
                    item.health.clone_from(&was.health);
                }
            }
        }
        let offer = Offer::new(rule, merged);
        (offer != *before).then_some(offer)
    }

    /// Takes what a look at one device's health said; what changed by it.
    pub(super) fn judged(&self, verdict: &Verdict, at: u64) -> Option<Offer> {
        let mut offer = Offer::clone(&self.offers.borrow());
        if !offer.rule.health.has_look() {
            // The look began by another rule.
            return None;
        }
        let mut items = offer.items.iter_mut();
        let item = items.find(|item| item.key == verdict.key)?;
        let health = match (&verdict.problem, &item.health) {
            // Presence is the look's to say.
            (_, Health::Gone { .. }) => return None,
            (None, _) => Health::Healthy,
            (Some(reason), Health::Unhealthy { since, .. }) => Health::Unhealthy {
                reason: reason.clone(),
                since: *since,
            },
            (Some(reason), Health::Healthy) => Health::Unhealthy {
                reason: reason.clone(),
                since: at,
            },
        };
        let is_news = item.health != health;
        item.health = health;
        is_news.then_some(offer)
    }

    /// Others in place of the example's devices.
    pub(super) fn renew(&mut self, at: Instant) -> Offer {
        let (offer, due) = made_up_of(&self.offers.borrow(), at);
        self.renewal = Some(due);
        offer
    }

    /// Ends its plugin; `is_planned`: the resource is not to be any more.
    pub(super) async fn end(self, is_planned: bool) {
        if is_planned {
            let rule = self.offers.borrow().rule.clone();
            self.offers
                .send_replace(Arc::new(Offer::new(rule, Vec::new())));
        }
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a resource's plugin ended badly");
        }
    }
}

/// Files that something has which is there: a name that was another's before the machine's start may be among them.
fn files_of_present(items: &[Item]) -> BTreeSet<PathBuf> {
    let present = items.iter().filter(|item| !item.is_gone());
    let files = present.flat_map(|item| &item.files);
    files.map(|file| file.path.clone()).collect()
}

/// What is known of a resource, by the rule that it has now: nobody is ill where nobody looks, for nobody would say that it
/// is well again.
pub(super) fn known(rule: Arc<Rule>, mut items: Vec<Item>) -> Offer {
    if !rule.health.has_look() {
        for item in &mut items {
            if matches!(item.health, Health::Unhealthy { .. }) {
                item.health = Health::Healthy;
            }
        }
    }
    Offer::new(rule, items)
}

/// The example's devices, and until when: some, with names that nobody has seen; those before are given still to who asks
/// late.
pub(super) fn made_up_of(before: &Offer, at: Instant) -> (Offer, Instant) {
    let rule = before.rule.clone();
    let (least, most, every) = random(&rule).unwrap_or_default();
    let spread = u64::from(most.saturating_sub(least)) + 1;
    let chance = u64::from_str_radix(&plugin::random(), 16).unwrap_or_default();
    let count = u64::from(least) + chance % spread;
    let found = (0..count).map(|_| {
        let key = plugin::random();
        Found {
            fields: [("name".to_owned(), key.clone())].into(),
            name: key.clone(),
            key,
            ..Found::default()
        }
    });
    // They are no devices of the node.
    let node = Witness {
        exists: &|_| true,
        is_there: &|_| false,
    };
    let (items, _) = items(&rule, found.collect(), &[], &node);
    let mut offer = Offer::new(rule, items);
    offer.passing.clone_from(&before.items);
    (offer, at + every)
}

/// Of the example: how many, and for how long.
pub(super) fn random(rule: &Rule) -> Option<(u32, u32, Duration)> {
    match rule.find.first().map(|finder| &finder.by) {
        Some(By::Random { least, most, every }) => Some((*least, *most, *every)),
        _ => None,
    }
}

/// Says what became of devices.
fn tell(before: &Offer, now: &Offer, teller: &Teller) {
    if random(&now.rule).is_some() {
        return;
    }
    let known: BTreeMap<&str, &Item> = before.items.iter().map(|item| (&*item.key, item)).collect();
    for item in &now.items {
        let was = known.get(&*item.key).map(|item| item.is_healthy());
        let (resource, device) = (&now.rule.name, &item.key);
        match (was, item.is_healthy()) {
            (Some(was), is) if was == is => {}
            (None, true) => tracing::info!(%resource, device, "a device is there"),
            (_, true) => tracing::info!(%resource, device, "a device is healthy again"),
            (_, false) => {
                let reason = item.reason().unwrap_or_default();
                tracing::warn!(%resource, device, reason, "a device is not healthy");
                let shares = 0..now.rule.count;
                teller.tell(News::Unhealthy {
                    resource: resource.clone(),
                    ids: shares
                        .map(|share| id_of(&now.rule, device, share))
                        .collect(),
                    reason: reason.to_owned(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{
        found::{DeviceFile, FileKind},
        tests::{item, rule, unhealthy},
    };

    #[test]
    fn where_nobody_looks_nobody_is_ill() {
        let items = vec![
            Item {
                health: unhealthy("stuck"),
                ..item("a")
            },
            Item {
                health: Health::Gone { since: 1 },
                ..item("b")
            },
        ];
        let mut looked = rule("a.io/x");
        looked.health.open = true;
        assert_eq!(known(Arc::new(looked), items.clone()).items, items);
        let offer = known(Arc::new(rule("a.io/x")), items.clone());
        assert_eq!(offer.items, [item("a"), items[1].clone()]);
    }

    #[tokio::test]
    async fn what_a_driver_may_come_to_yet_is_expected_unless_its_file_is_anothers_or_claims_are_asked_again()
     {
        let with_file = |key: &str, path: &str| Item {
            files: vec![DeviceFile {
                path: path.into(),
                kind: FileKind::Character,
                major: 188,
                minor: 0,
                group: 0,
            }],
            ..item(key)
        };
        for serve in [Serve::DevicePlugin, Serve::Dra] {
            let rule = Arc::new(Rule {
                serve,
                ..rule("a.io/x")
            });
            let before = ["a", "b", "c"].map(|key| with_file(key, &format!("/dev/{key}")));
            let mut resource = resource(Offer::new(rule.clone(), before.to_vec()));
            // The first file that is there now is the second's, which had the name of the first before.
            let sight = || Sight {
                name: rule.name.clone(),
                findings: Findings::default(),
                items: vec![with_file("b", "/dev/a")],
            };
            let healthy = |offer: Option<Offer>| -> Vec<String> {
                let items = offer.unwrap().items.into_iter();
                items
                    .filter(Item::is_healthy)
                    .map(|item| item.key)
                    .collect()
            };
            let expected = healthy(resource.found(sight(), 5, true));
            match serve {
                Serve::DevicePlugin => assert_eq!(expected, ["b", "c"]),
                Serve::Dra => assert_eq!(expected, ["b"]),
            }
            assert_eq!(healthy(resource.found(sight(), 5, false)), ["b"]);
        }
    }

    /// One that nobody serves.
    fn resource(offer: Offer) -> Resource {
        let offers = watch::Sender::new(Arc::new(offer));
        Resource {
            offers,
            until: Arc::default(),
            standing: watch::Sender::new(Standing::default()).subscribe(),
            stop: watch::Sender::new(false),
            task: tokio::spawn(std::future::ready(())),
            findings: Findings::default(),
            renewal: None,
        }
    }
}
