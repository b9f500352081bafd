//! Keeps every resource as it should be: looks at the node when something changes, compares with what was there, and tells
//! the kubelet through each resource's plugin. One task owns all of it, so that a change is told whole.

use super::{
    announce::Announcer,
    cdi,
    config::watched::Configured,
    dra::Looked,
    health::{Checks, Verdict},
    host::{Host, watch::Changes},
    inventory::Offer,
    kept::Keep,
    look::Looker,
    name::ResourceName,
    options::DeviceConfig,
    plan::{Plan, Rule, Serve},
    pods::PodResources,
    record::Record,
    registration::{Standing, Way},
    resource::{Resource, Serving, known, made_up_of, random},
    slot::Shown,
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
    time::{Instant, sleep_until, timeout},
};

/// What no event tells is seen after so long.
const LOOK: Duration = Duration::from_secs(30);
/// How long after the machine's start drivers may take to find what was there before it.
const SETTLE: Duration = Duration::from_secs(60);
/// Between two comparisons with what the kubelet knows.
const COMPARE: Duration = Duration::from_secs(5);

/// So long the kubelet may think about what it knows.
const PATIENCE: Duration = Duration::from_secs(2);

/// Everything that the part is made of.
pub(super) struct Keeper {
    host: Arc<Host>,
    record: Record,
    /// What was there before the machine's start is expected until then.
    expected: Option<Instant>,
    resources: BTreeMap<ResourceName, Resource>,
    serving: Serving,
    cdi_dir: PathBuf,
    pods: PodResources,
    checks: Checks,
    checked: mpsc::Receiver<Verdict>,
    problems: Vec<String>,
    looker: Looker,
    /// Where changes are seen.
    folders: BTreeSet<PathBuf>,
    /// What is not seen at once.
    watched: Vec<String>,
    /// Of what the kubelet knew nothing when it was last asked.
    suspects: BTreeSet<ResourceName>,
    announcer: Announcer,
    teller: Teller,
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
            serving: Serving {
                way: Way::of(config),
                host: host.clone(),
                counts,
                folder,
                claims: watch::Sender::new(Standing::default()).subscribe(),
            },
            host,
            record: Record::open(keep, kept),
            expected,
            resources: BTreeMap::new(),
            cdi_dir: config.cdi_dir.clone(),
            pods: PodResources::new(&config.kubelet_dir),
            checked,
            problems: Vec::new(),
            looker: Looker::default(),
            folders: BTreeSet::new(),
            watched: Vec::new(),
            suspects: BTreeSet::new(),
            announcer: Announcer {
                shown,
                claimable: watch::Sender::default(),
            },
            teller,
        }
    }

    /// The same with who serves resources to claims.
    pub(super) fn with_claims(
        mut self,
        claimable: watch::Sender<Looked>,
        claims: watch::Receiver<Standing>,
    ) -> Self {
        self.serving.claims = claims;
        self.announcer.claimable = claimable;
        self
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
                let is_news = self.look(&mut changes).await;
                // What came into a folder before it was watched, nobody tells.
                look = Instant::now() + if is_news { Duration::ZERO } else { LOOK };
                self.checks
                    .start(self.resources.iter().map(|(name, of)| (name, &of.offers)));
            }
            let (problems, watched) = (&self.problems, &self.watched);
            self.announcer.show(&self.resources, problems, watched);
            self.announcer.offer_to_claims(&self.resources);
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
                self.serving.counts.forget(name.as_str());
            }
        }
        let (mut next, mut unseen) = (Vec::new(), Vec::new());
        for (name, rule) in &plan.resources {
            let rule = Arc::new(rule.clone());
            let served = self.resources.get(name);
            let items = match served.map(|of| of.offers.borrow().items.clone()) {
                None => self.record.known(name).filter(|items| !items.is_empty()),
                served => served,
            };
            match items {
                Some(items) => next.push(known(rule, items)),
                None => unseen.push(rule),
            }
        }
        self.describe(&next).await;
        for offer in next {
            match self.resources.get_mut(&offer.rule.name) {
                Some(resource) => {
                    if resource.change(offer.rule) {
                        self.checks.know(&resource.offers.borrow());
                    }
                }
                None => {
                    self.checks.know(&offer);
                    self.begin(offer);
                }
            }
        }
        // What is taken away goes from the disk too.
        self.record.retain(is_wanted);
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
                let looked = self.looker.look(self.host.clone(), unseen.collect()).await;
                looked.unwrap_or_default().1
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
        let resource = Resource::begin(offer, &self.serving);
        self.resources.insert(name, resource);
    }

    /// Looks at the node for all resources; whether changes are seen in other places from now on.
    async fn look(&mut self, changes: &mut Changes) -> bool {
        let offers: Vec<Arc<Offer>> = self
            .resources
            .values()
            .filter(|of| of.renewal.is_none())
            .map(|of| of.offers.borrow().clone())
            .collect();
        let Some((folders, found)) = self.looker.look(self.host.clone(), offers).await else {
            self.watched = self.looker.problem().into_iter().collect();
            return false;
        };
        self.watched = changes.refresh(&folders);
        let is_news = folders != self.folders;
        self.folders = folders;
        let is_expected = self.expected.is_some();
        let at = now();
        let mut changed = Vec::new();
        for sight in found {
            if let Some(resource) = self.resources.get_mut(&sight.name) {
                changed.extend(resource.found(sight, at, is_expected));
            }
        }
        match changed.is_empty() {
            // Somebody may have emptied the folder, or it could not be written before.
            true => self.describe(&[]).await,
            false => self.publish(changed).await,
        }
        is_news
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
        let resource = self.resources.get(&verdict.resource);
        let changed = resource.and_then(|resource| resource.judged(verdict, now()));
        self.publish(changed.into_iter().collect()).await;
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
    /// devices, twice in a row, it is told anew: once may be before it has read what it was told.
    async fn compare(&mut self) {
        let before = std::mem::take(&mut self.suspects);
        let asked = self.resources.iter();
        let asked: Vec<ResourceName> = asked
            .filter(|(_, resource)| resource.is_taken() && resource.has_healthy())
            .map(|(name, _)| name.clone())
            .collect();
        if asked.is_empty() {
            return;
        }
        let known = timeout(PATIENCE, self.pods.allocatable()).await;
        let known = match known.unwrap_or_else(|_| Err("it doesn't answer".to_owned())) {
            Ok(known) => known,
            Err(why) => {
                tracing::debug!(why, "what the kubelet knows of devices can't be compared");
                return;
            }
        };
        let is_known =
            |name: &ResourceName| known.get(name.as_str()).is_some_and(|ids| !ids.is_empty());
        self.suspects = asked.into_iter().filter(|name| !is_known(name)).collect();
        for name in self.suspects.intersection(&before) {
            if let Some(resource) = self.resources.get(name).filter(|of| of.is_taken()) {
                tracing::warn!(
                    resource = %name,
                    "the kubelet listens and knows none of the devices: it is told anew"
                );
                self.serving.counts.mended(name.as_str());
                resource.until.send_replace(());
            }
        }
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests;
