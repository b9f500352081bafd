//! Keeps every resource as it should be: looks at the node when something changes, compares with what was there, and tells
//! the kubelet through each resource's plugin. One task owns all of it, so that a change is told whole.

use super::{
    cdi,
    config::watched::Configured,
    found::{Findings, Found},
    health::{Checks, Verdict},
    host::{Host, watch::Changes},
    inventory::{Health, Item, Offer, items, merge},
    kept::{Keep, Kept},
    name::ResourceName,
    options::{DeviceConfig, Registration},
    plan::{By, Finder, Plan, Rule, Serve},
    plugin::{self, Plugin},
    pods::PodResources,
    registration::{self, Served, Standing, Way},
    slot::{Shown, ShownResource},
};
use crate::{metrics::DeviceCounts, parts::Shutdown};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// What no event tells is seen after so long.
const LOOK: Duration = Duration::from_secs(30);
/// How long after the machine's start drivers may take to find what was there before it.
const SETTLE: Duration = Duration::from_secs(60);
/// Between two comparisons with what the kubelet knows.
const COMPARE: Duration = Duration::from_secs(15);

/// Everything that the part is made of.
pub(super) struct Keeper {
    host: Arc<Host>,
    keep: Keep,
    kept: Kept,
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
}

/// One resource while it is served.
struct Resource {
    offers: watch::Sender<Arc<Offer>>,
    until: Arc<watch::Sender<()>>,
    standing: watch::Receiver<Standing>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    findings: Findings,
    /// When the example's devices are made anew.
    renewal: Option<Instant>,
}

impl Keeper {
    /// With what is kept on the disk.
    pub(super) fn new(
        config: &DeviceConfig,
        host: Host,
        counts: DeviceCounts,
        folder: watch::Receiver<u64>,
        shown: watch::Sender<Arc<Shown>>,
    ) -> Self {
        let keep = Keep::new(&config.state_dir);
        let mut kept = keep.read();
        let boot = super::kept::boot();
        let expected =
            (kept.boot != boot && !kept.resources.is_empty()).then(|| Instant::now() + SETTLE);
        kept.boot = boot;
        let (verdicts, checked) = mpsc::channel(64);
        let host = Arc::new(host);
        Self {
            checks: Checks::new(host.clone(), verdicts),
            host,
            keep,
            kept,
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
        }
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
            self.show();
        }
        for (_, resource) in std::mem::take(&mut self.resources) {
            resource.end(false).await;
        }
    }

    /// Has the resources be those of the plan. What is the same goes on.
    async fn take(&mut self, configured: &Configured) {
        self.problems = configured
            .problems
            .iter()
            .map(ToString::to_string)
            .collect();
        let plan: &Plan = &configured.plan;
        let served = |rule: &Rule| rule.serve == Serve::DevicePlugin;
        let is_wanted = |name: &ResourceName| plan.resources.get(name).is_some_and(served);
        let gone: Vec<ResourceName> = self
            .resources
            .keys()
            .filter(|name| !is_wanted(name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(resource) = self.resources.remove(&name) {
                tracing::info!(resource = %name, "a resource is taken away");
                // The kubelet is told that none is left, or it would count them on.
                resource.end(true).await;
                self.counts.forget(name.as_str());
            }
        }
        for (name, rule) in plan.resources.iter().filter(|(_, rule)| served(rule)) {
            let rule = Arc::new(rule.clone());
            match self.resources.get_mut(name) {
                Some(resource) => resource.change(rule),
                None => {
                    tracing::info!(resource = %name, from = rule.origin, "a resource is served");
                    let known = self.kept.resources.get(name).cloned().unwrap_or_default();
                    let resource = self.begin(Offer::new(rule, known));
                    self.resources.insert(name.clone(), resource);
                }
            }
        }
        self.kept.resources.retain(|name, _| is_wanted(name));
        self.renew(Instant::now()).await;
    }

    fn begin(&self, offer: Offer) -> Resource {
        let (stop, stopped) = Shutdown::new();
        let until = Arc::new(watch::Sender::new(()));
        let standing = watch::Sender::new(Standing::default());
        let is_random = random(&offer.rule).is_some();
        let offers = watch::Sender::new(Arc::new(offer));
        let served = Served {
            way: self.way.clone(),
            plugin: Plugin {
                offers: offers.subscribe(),
                host: self.host.clone(),
                counts: self.counts.clone(),
                streams: watch::Sender::new(0),
                until: until.subscribe(),
            },
            until: until.clone(),
            standing: standing.clone(),
            changes: self.folder.clone(),
            counts: self.counts.clone(),
        };
        Resource {
            offers,
            until,
            standing: standing.subscribe(),
            stop,
            task: tokio::spawn(registration::run(served, stopped)),
            findings: Findings::default(),
            renewal: is_random.then(Instant::now),
        }
    }

    /// Looks at the node for all resources.
    async fn look(&mut self, changes: &mut Changes) {
        let rules: Vec<Arc<Rule>> = self
            .resources
            .values()
            .filter(|of| of.renewal.is_none())
            .map(|of| of.offers.borrow().rule.clone())
            .collect();
        let host = self.host.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let finders: Vec<Finder> = rules.iter().flat_map(|rule| rule.find.clone()).collect();
            let folders = host.folders(&finders);
            let look = |rule: Arc<Rule>| {
                let mut findings = host.find(&rule.find);
                let found = std::mem::take(&mut findings.found);
                let exists = |path: &Path| host.exists(path);
                let (items, problems) = items(&rule, found, &exists);
                findings.problems.extend(problems);
                (rule.name.clone(), findings, items)
            };
            (folders, rules.into_iter().map(look).collect::<Vec<_>>())
        });
        let (folders, found) = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                tracing::error!(%error, "the look at the node's devices ended badly");
                return;
            }
        };
        self.watched = changes.refresh(&folders);
        let is_expected = self.expected.is_some();
        let at = now();
        let mut changed = Vec::new();
        for (name, findings, items) in found {
            let Some(resource) = self.resources.get_mut(&name) else {
                continue;
            };
            changed.extend(resource.found(findings, items, at, is_expected));
        }
        self.publish(changed).await;
    }

    /// Tells the kubelet of changed resources, after what a runtime and a later start need is on the disk.
    async fn publish(&mut self, changed: Vec<Offer>) {
        if changed.is_empty() {
            return;
        }
        for offer in &changed {
            if random(&offer.rule).is_none() {
                let items = offer.items.clone();
                self.kept.resources.insert(offer.rule.name.clone(), items);
            }
        }
        let mut all: BTreeMap<ResourceName, Arc<Offer>> = self
            .resources
            .iter()
            .map(|(name, of)| (name.clone(), of.offers.borrow().clone()))
            .collect();
        for offer in changed {
            all.insert(offer.rule.name.clone(), Arc::new(offer));
        }
        let (keep, kept, folder) = (self.keep.clone(), self.kept.clone(), self.cdi_dir.clone());
        let specs = cdi::files(all.values().map(|offer| &**offer));
        let written =
            tokio::task::spawn_blocking(move || (keep.write(&kept), cdi::write(&folder, &specs)));
        match written.await {
            Ok((kept, specs)) => {
                if let Err(error) = kept {
                    tracing::warn!(%error, "the inventory of devices can't be kept");
                }
                if let Err(error) = specs {
                    tracing::error!(%error, folder = %self.cdi_dir.display(), "CDI specifications can't be written");
                }
            }
            Err(error) => tracing::error!(%error, "writing the inventory ended badly"),
        }
        for (name, offer) in all {
            if let Some(resource) = self.resources.get(&name) {
                resource.offers.send_if_modified(|current| {
                    let differs = **current != *offer;
                    if differs {
                        tell(current, &offer);
                        current.clone_from(&offer);
                    }
                    differs
                });
            }
        }
    }

    /// Takes what a look at one device's health said.
    async fn judge(&mut self, verdict: &Verdict) {
        let Some(resource) = self.resources.get(&verdict.resource) else {
            return;
        };
        let mut offer = Offer::clone(&resource.offers.borrow());
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
                changed.extend(resource.renew(at));
            }
        }
        self.publish(changed).await;
    }

    /// Whether the kubelet knows the devices that it was told of. Where it has a resource and knows nothing of its
    /// devices, it is told anew.
    async fn compare(&mut self) {
        let taken = |of: &Resource| *of.standing.borrow() == Standing::Taken;
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

    /// What people are shown from now on.
    fn show(&self) {
        let resources = self.resources.iter().map(|(name, of)| {
            let shown = ShownResource {
                offer: of.offers.borrow().clone(),
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

impl Resource {
    /// Goes on by another rule.
    fn change(&mut self, rule: Arc<Rule>) {
        let before = self.offers.borrow().clone();
        if *before.rule == *rule {
            return;
        }
        tracing::info!(resource = %rule.name, "a resource has another configuration");
        self.renewal = random(&rule).map(|_| Instant::now());
        let offer = Offer::new(rule, before.items.clone());
        let anew = plugin::options(&offer) != plugin::options(&before);
        self.offers.send_replace(Arc::new(offer));
        if anew {
            // The kubelet asks what a plugin can when it takes it.
            self.until.send_replace(());
        }
    }

    /// Takes what a look found; what changed by it.
    fn found(
        &mut self,
        findings: Findings,
        now: Vec<Item>,
        at: u64,
        is_expected: bool,
    ) -> Option<Offer> {
        let before = self.offers.borrow().clone();
        let rule = before.rule.clone();
        if findings.problems != self.findings.problems {
            for problem in &findings.problems {
                tracing::warn!(resource = %rule.name, problem, "devices");
            }
        }
        self.findings = findings;
        let mut merged = merge(&before.items, now, at, rule.health.forget.as_secs());
        if is_expected {
            // Its driver may come to it yet.
            for item in &mut merged {
                let was = before.items.iter().find(|one| one.key == item.key);
                if let (Health::Gone { .. }, Some(was)) = (&item.health, was) {
                    item.health.clone_from(&was.health);
                }
            }
        }
        let offer = Offer::new(rule, merged);
        (offer != *before).then_some(offer)
    }

    /// The example's devices: some, with names that nobody has seen; those before are given still to who asks late.
    fn renew(&mut self, at: Instant) -> Option<Offer> {
        let before = self.offers.borrow().clone();
        let rule = before.rule.clone();
        let (least, most, every) = random(&rule)?;
        self.renewal = Some(at + every);
        let spread = u64::from(most.saturating_sub(least)) + 1;
        let chance = u64::from_str_radix(&plugin::random(), 16).unwrap_or_default();
        let count = u64::from(least) + chance % spread;
        let found = (0..count).map(|_| {
            let key = plugin::random();
            Found {
                fields: [("name".to_owned(), key.clone())].into(),
                key,
                ..Found::default()
            }
        });
        let (items, _) = items(&rule, found.collect(), &|_| true);
        let mut offer = Offer::new(rule, items);
        offer.passing.clone_from(&before.items);
        Some(offer)
    }

    /// Ends its plugin; `is_planned`: the resource is not to be any more.
    async fn end(self, is_planned: bool) {
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

/// Of the example: how many, and for how long.
fn random(rule: &Rule) -> Option<(u32, u32, Duration)> {
    match rule.find.first().map(|finder| &finder.by) {
        Some(By::Random { least, most, every }) => Some((*least, *most, *every)),
        _ => None,
    }
}

/// How the kubelet is told.
pub(super) fn way(config: &DeviceConfig) -> Way {
    let kubelet = &config.kubelet_dir;
    match config.registration {
        Registration::Register => Way::Register {
            folder: kubelet.join("device-plugins"),
        },
        Registration::Watcher => Way::Watcher {
            registry: kubelet.join("plugins_registry"),
            folder: kubelet.join("plugins/fairlead-devices"),
        },
    }
}

/// Says what became of devices.
fn tell(before: &Offer, now: &Offer) {
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
            }
        }
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
