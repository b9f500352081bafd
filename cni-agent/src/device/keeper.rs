//! Keeps every resource as it should be: looks at the node when something changes, compares with what was there, and tells
//! the kubelet through each resource's plugin. One task owns all of it, so that a change is told whole.

use super::{
    cdi,
    config::watched::Configured,
    dra::{Looked, Offers},
    found::Findings,
    health::{Checks, Verdict},
    host::{Host, program::Turns, watch::Changes},
    inventory::{Health, Offer, Witness, items},
    kept::Keep,
    name::ResourceName,
    options::{DeviceConfig, Registration},
    plan::{Finder, Plan, Rule, Serve},
    plugin::Plugin,
    pods::PodResources,
    record::Record,
    registration::{self, Served, Standing, Way},
    resource::{Resource, Sight, known, made_up_of, random},
    slot::{Shown, ShownResource},
    tell::{News, Teller},
};
use crate::{metrics::DeviceCounts, parts::Shutdown};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// What no event tells is seen after so long.
const LOOK: Duration = Duration::from_secs(30);
/// How long after the machine's start drivers may take to find what was there before it.
const SETTLE: Duration = Duration::from_secs(60);
/// Between two comparisons with what the kubelet knows.
const COMPARE: Duration = Duration::from_secs(5);

/// Everything that the part is made of.
pub(super) struct Keeper {
    host: Arc<Host>,
    record: Record,
    /// What was there before the machine's start is expected until then.
    expected: Option<Instant>,
    resources: BTreeMap<ResourceName, Resource>,
    way: Way,
    cdi_dir: PathBuf,
    pods: PodResources,
    counts: DeviceCounts,
    folder: watch::Receiver<u64>,
    checks: Checks,
    checked: mpsc::Receiver<Verdict>,
    problems: Vec<String>,
    /// What is not seen at once.
    watched: Vec<String>,
    shown: watch::Sender<Arc<Shown>>,
    /// What claims may have.
    claimable: watch::Sender<Looked>,
    teller: Teller,
    /// How far that is with the kubelet.
    claims: watch::Receiver<Standing>,
}

impl Keeper {
    /// With what is kept on the disk.
    pub(super) fn new(
        config: &DeviceConfig,
        host: Host,
        counts: DeviceCounts,
        folder: watch::Receiver<u64>,
        shown: watch::Sender<Arc<Shown>>,
        teller: Teller,
    ) -> Self {
        let keep = Keep::new(&config.state_dir);
        let mut kept = keep.read();
        let is_first = kept.begin(super::kept::boot());
        let expected = (is_first && !kept.resources.is_empty()).then(|| Instant::now() + SETTLE);
        let (verdicts, checked) = mpsc::channel(64);
        let host = Arc::new(host);
        Self {
            checks: Checks::new(host.clone(), verdicts),
            host,
            record: Record::open(keep, kept),
            expected,
            resources: BTreeMap::new(),
            way: way(config),
            cdi_dir: config.cdi_dir.clone(),
            pods: PodResources::new(&config.kubelet_dir),
            counts,
            folder,
            checked,
            problems: Vec::new(),
            watched: Vec::new(),
            shown,
            claimable: watch::Sender::default(),
            teller,
            claims: watch::Sender::new(Standing::default()).subscribe(),
        }
    }

    /// The same with who serves resources to claims.
    pub(super) fn with_claims(
        self,
        claimable: watch::Sender<Looked>,
        claims: watch::Receiver<Standing>,
    ) -> Self {
        Self {
            claimable,
            claims,
            ..self
        }
    }

    /// The node that it looks at.
    pub(super) fn host(&self) -> Arc<Host> {
        self.host.clone()
    }

    /// Keeps all until `shutdown`.
    pub(super) async fn run(
        mut self,
        mut configured: watch::Receiver<Arc<Configured>>,
        mut changes: Changes,
        mut shutdown: Shutdown,
    ) {
        let first = configured.borrow_and_update().clone();
        self.take(&first).await;
        let mut look = Instant::now();
        let mut compare = Instant::now() + COMPARE;
        loop {
            if look <= Instant::now() {
                self.look(&mut changes).await;
                look = Instant::now() + LOOK;
                self.checks
                    .start(self.resources.iter().map(|(name, of)| (name, &of.offers)));
            }
            self.show();
            self.offer_to_claims();
            let renewals = self.resources.values().filter_map(|of| of.renewal);
            let next = renewals
                .chain(self.expected)
                .chain(self.checks.next())
                .chain([look, compare])
                .min()
                .unwrap_or(look);
            tokio::select! {
                () = shutdown.requested() => break,
                Ok(()) = configured.changed() => {
                    let now = configured.borrow_and_update().clone();
                    self.take(&now).await;
                    look = Instant::now();
                }
                () = changes.changed() => look = Instant::now(),
                Some(verdict) = self.checked.recv() => self.judge(&verdict).await,
                () = self.checks.ended() => {
                    self.checks.start(self.resources.iter().map(|(name, of)| (name, &of.offers)));
                }
                () = sleep_until(next) => {
                    let now = Instant::now();
                    if self.expected.is_some_and(|end| end <= now) {
                        self.expected = None;
                        look = now;
                    }
                    self.renew(now).await;
                    self.checks.start(self.resources.iter().map(|(name, of)| (name, &of.offers)));
                    if compare <= now {
                        self.compare().await;
                        compare = Instant::now() + COMPARE;
                    }
                }
            }
        }
        for (_, resource) in std::mem::take(&mut self.resources) {
            resource.end(false).await;
        }
        self.record.end().await;
    }

    /// Has the resources be those of the plan. What is the same goes on.
    async fn take(&mut self, configured: &Configured) {
        let problems: Vec<String> = configured
            .problems
            .iter()
            .map(ToString::to_string)
            .collect();
        if !problems.is_empty() && problems != self.problems {
            self.teller.tell(News::Faulty(problems.clone()));
        }
        self.problems = problems;
        let plan: &Plan = &configured.plan;
        let is_wanted = |name: &ResourceName| plan.resources.contains_key(name);
        // One that is served in the other way is another.
        let goes_on = |name: &ResourceName, of: &Resource| {
            let rule = plan.resources.get(name);
            rule.is_some_and(|rule| rule.serve == of.offers.borrow().rule.serve)
        };
        let gone: Vec<ResourceName> = self
            .resources
            .iter()
            .filter(|(name, of)| !goes_on(name, of))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(resource) = self.resources.remove(&name) {
                tracing::info!(resource = %name, "a resource is taken away");
                // The kubelet is told that none is left, or it would count them on.
                resource.end(true).await;
                self.counts.forget(name.as_str());
            }
        }
        let mut unseen = Vec::new();
        for (name, rule) in &plan.resources {
            let rule = Arc::new(rule.clone());
            if let Some(resource) = self.resources.get_mut(name) {
                if resource.change(rule) {
                    self.checks.know(&resource.offers.borrow());
                }
                continue;
            }
            match self.record.known(name) {
                Some(items) if !items.is_empty() => {
                    let offer = known(rule, items);
                    self.checks.know(&offer);
                    self.begin(offer);
                }
                _ => unseen.push(rule),
            }
        }
        // What is taken away goes from the disk too.
        self.record.retain(is_wanted);
        if unseen.is_empty() {
            self.describe(&[]).await;
        }
        self.look_first(unseen).await;
        self.renew(Instant::now()).await;
    }

    /// Begins to serve resources of which nothing is known: the kubelet is told of what there is, and never first of
    /// nothing.
    async fn look_first(&mut self, rules: Vec<Arc<Rule>>) {
        if rules.is_empty() {
            return;
        }
        let (made_up, looked_for): (Vec<_>, Vec<_>) =
            rules.into_iter().partition(|rule| random(rule).is_some());
        let found = match looked_for.is_empty() {
            true => Vec::new(),
            false => {
                let unseen = looked_for.iter();
                let unseen = unseen.map(|rule| Arc::new(Offer::new(rule.clone(), Vec::new())));
                self.find(unseen.collect()).await.unwrap_or_default().1
            }
        };
        let offers: Vec<Offer> = looked_for
            .into_iter()
            .map(|rule| {
                let sight = found.iter().find(|sight| sight.name == rule.name);
                Offer::new(
                    rule,
                    sight.map_or_else(Vec::new, |sight| sight.items.clone()),
                )
            })
            .collect();
        self.describe(&offers).await;
        self.record.note(offers.iter());
        for offer in offers {
            self.begin(offer);
        }
        for rule in made_up {
            let (offer, due) = made_up_of(&Offer::new(rule, Vec::new()), Instant::now());
            let name = offer.rule.name.clone();
            self.begin(offer);
            if let Some(resource) = self.resources.get_mut(&name) {
                resource.renewal = Some(due);
            }
        }
    }

    fn begin(&mut self, offer: Offer) {
        let name = offer.rule.name.clone();
        tracing::info!(resource = %name, from = offer.rule.origin, devices = offer.devices.len(), "a resource is served");
        let (stop, stopped) = Shutdown::new();
        let until = Arc::new(watch::Sender::new(()));
        let standing = watch::Sender::new(Standing::default());
        let is_random = random(&offer.rule).is_some();
        let is_claimed = offer.rule.serve == Serve::Dra;
        let offers = watch::Sender::new(Arc::new(offer));
        let served = Served {
            way: self.way.clone(),
            plugin: Plugin {
                offers: offers.subscribe(),
                host: self.host.clone(),
                counts: self.counts.clone(),
                streams: watch::Sender::new(0),
                until: until.subscribe(),
                turns: Turns::default(),
            },
            until: until.clone(),
            standing: standing.clone(),
            changes: self.folder.clone(),
            counts: self.counts.clone(),
        };
        let (standing, task) = match is_claimed {
            // One driver has all of them.
            true => (self.claims.clone(), tokio::spawn(std::future::ready(()))),
            false => (
                standing.subscribe(),
                tokio::spawn(registration::run(served, stopped)),
            ),
        };
        let resource = Resource {
            offers,
            until,
            standing,
            stop,
            task,
            findings: Findings::default(),
            renewal: is_random.then(Instant::now),
        };
        self.resources.insert(name, resource);
    }

    /// What the node has of these resources, and where changes of it are seen.
    async fn find(&self, offers: Vec<Arc<Offer>>) -> Option<(BTreeSet<PathBuf>, Vec<Sight>)> {
        let host = self.host.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let finders = offers.iter().flat_map(|offer| offer.rule.find.clone());
            let finders: Vec<Finder> = finders.collect();
            let folders = host.folders(&finders);
            let node = Witness {
                exists: &|path| host.exists(path),
                is_there: &|site| host.is_there(site),
            };
            let look = |offer: Arc<Offer>| {
                let rule = &offer.rule;
                let mut findings = host.find(&rule.find);
                let found = std::mem::take(&mut findings.found);
                let (items, problems) = items(rule, found, &offer.items, &node);
                findings.problems.extend(problems);
                let name = rule.name.clone();
                Sight {
                    name,
                    findings,
                    items,
                }
            };
            (folders, offers.into_iter().map(look).collect())
        });
        let failed =
            |error: &_| tracing::error!(%error, "the look at the node's devices ended badly");
        looked.await.inspect_err(failed).ok()
    }

    /// Looks at the node for all resources.
    async fn look(&mut self, changes: &mut Changes) {
        let offers: Vec<Arc<Offer>> = self
            .resources
            .values()
            .filter(|of| of.renewal.is_none())
            .map(|of| of.offers.borrow().clone())
            .collect();
        let Some((folders, found)) = self.find(offers).await else {
            return;
        };
        self.watched = changes.refresh(&folders);
        let is_expected = self.expected.is_some();
        let at = now();
        let mut changed = Vec::new();
        for sight in found {
            if let Some(resource) = self.resources.get_mut(&sight.name) {
                changed.extend(resource.found(sight, at, is_expected));
            }
        }
        self.publish(changed).await;
    }

    /// Tells the kubelet of changed resources, after what a runtime needs to give their devices is there. What only a later
    /// start needs comes last.
    async fn publish(&mut self, changed: Vec<Offer>) {
        if changed.is_empty() {
            return;
        }
        self.describe(&changed).await;
        let is_kept = |offer: &&Offer| random(&offer.rule).is_none();
        for offer in &changed {
            if let Some(resource) = self.resources.get(&offer.rule.name) {
                resource.offer(offer.clone(), &self.teller);
            }
        }
        self.record.note(changed.iter().filter(is_kept));
    }

    /// Has the CDI folder describe the devices, with what is to be told next.
    async fn describe(&self, next: &[Offer]) {
        let is_next = |name: &ResourceName| next.iter().any(|offer| offer.rule.name == *name);
        let others = self.resources.iter().filter(|(name, _)| !is_next(name));
        let others: Vec<Arc<Offer>> = others.map(|(_, of)| of.offers.borrow().clone()).collect();
        // A claim has a specification of its own.
        let all = others.iter().map(AsRef::as_ref).chain(next);
        let specs = cdi::files(all.filter(|offer| offer.rule.serve != Serve::Dra));
        let folder = self.cdi_dir.clone();
        let written = tokio::task::spawn_blocking(move || cdi::write(&folder, &specs));
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, folder = %self.cdi_dir.display(), "CDI specifications can't be written");
            }
            Err(error) => tracing::error!(%error, "writing CDI specifications ended badly"),
        }
    }

    /// Takes what a look at one device's health said.
    async fn judge(&mut self, verdict: &Verdict) {
        let Some(resource) = self.resources.get(&verdict.resource) else {
            return;
        };
        let mut offer = Offer::clone(&resource.offers.borrow());
        if !offer.rule.health.has_look() {
            // The look began by another rule.
            return;
        }
        let Some(item) = offer.items.iter_mut().find(|item| item.key == verdict.key) else {
            return;
        };
        let health = match (&verdict.problem, &item.health) {
            // Presence is the look's to say.
            (_, Health::Gone { .. }) => return,
            (None, _) => Health::Healthy,
            (Some(reason), Health::Unhealthy { since, .. }) => Health::Unhealthy {
                reason: reason.clone(),
                since: *since,
            },
            (Some(reason), Health::Healthy) => Health::Unhealthy {
                reason: reason.clone(),
                since: now(),
            },
        };
        if item.health != health {
            item.health = health;
            self.publish(vec![offer]).await;
        }
    }

    /// Makes the example's devices anew, where it is time.
    async fn renew(&mut self, at: Instant) {
        let mut changed = Vec::new();
        for resource in self.resources.values_mut() {
            if resource.renewal.is_some_and(|due| due <= at) {
                changed.push(resource.renew(at));
            }
        }
        self.publish(changed).await;
    }

    /// Whether the kubelet knows the devices that it was told of. Where it has a resource and knows nothing of its
    /// devices, it is told anew.
    async fn compare(&mut self) {
        let taken = |of: &Resource| {
            let is_claimed = of.offers.borrow().rule.serve == Serve::Dra;
            !is_claimed && *of.standing.borrow() == Standing::Taken
        };
        if !self.resources.values().any(taken) {
            return;
        }
        let known = match self.pods.allocatable().await {
            Ok(known) => known,
            Err(why) => {
                tracing::debug!(why, "what the kubelet knows of devices can't be compared");
                return;
            }
        };
        for (name, resource) in &self.resources {
            let offer = resource.offers.borrow().clone();
            let healthy = offer.devices.values().any(|place| {
                let item = offer.items.get(place.item);
                item.is_some_and(|item| item.is_healthy())
            });
            let is_known = known.get(name.as_str()).is_some_and(|ids| !ids.is_empty());
            if taken(resource) && healthy && !is_known {
                tracing::warn!(
                    resource = %name,
                    "the kubelet listens and knows none of the devices: it is told anew"
                );
                self.counts.mended(name.as_str());
                resource.until.send_replace(());
            }
        }
    }

    /// What claims may have from now on.
    fn offer_to_claims(&self) {
        let offers = self.resources.iter().map(|(name, of)| {
            let offer = of.offers.borrow().clone();
            (name.clone(), offer)
        });
        let claimable: Offers = offers
            .filter(|(_, offer)| offer.rule.serve == Serve::Dra)
            .collect();
        self.claimable.send_if_modified(|told| {
            let is_news = told.as_ref().is_none_or(|told| !same(told, &claimable));
            if is_news {
                *told = Some(Arc::new(claimable));
            }
            is_news
        });
    }

    /// What people are shown from now on.
    fn show(&self) {
        let resources = self.resources.iter().map(|(name, of)| {
            let shown = ShownResource {
                offers: of.offers.subscribe(),
                findings: of.findings.clone(),
                standing: of.standing.clone(),
            };
            (name.clone(), shown)
        });
        self.shown.send_replace(Arc::new(Shown {
            resources: resources.collect(),
            problems: self.problems.clone(),
            warnings: self.watched.clone(),
        }));
    }
}

/// Whether nothing of it was made anew.
fn same(one: &Offers, other: &Offers) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|((name, one), (of, other))| name == of && Arc::ptr_eq(one, other))
}

/// Takes sockets away that an agent left in the kubelet's registry and that this one doesn't make anew.
pub(super) fn sweep(config: &DeviceConfig, plan: &Plan) {
    let rules = plan.resources.values().filter(|rule| {
        rule.serve == Serve::DevicePlugin && config.registration == Registration::Watcher
    });
    let wanted = rules.map(|rule| rule.name.socket()).collect();
    registration::sweep(&registry(config), &wanted);
}

/// The kubelet's registry of plugins.
fn registry(config: &DeviceConfig) -> PathBuf {
    config.kubelet_dir.join("plugins_registry")
}

/// How the kubelet is told.
pub(super) fn way(config: &DeviceConfig) -> Way {
    let kubelet = &config.kubelet_dir;
    match config.registration {
        Registration::Register => Way::Register {
            folder: kubelet.join("device-plugins"),
        },
        Registration::Watcher => Way::Watcher {
            registry: registry(config),
            folder: kubelet.join("plugins/fairlead-devices"),
        },
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests;
