//! Looks at devices whose configuration says how, from time to time and beside each other, and says when one's health has
//! changed.

use super::{
    damping::{Damping, Limits, Seen},
    host::{Host, health::Probe},
    inventory::{Health, Item, Offer},
    name::ResourceName,
    plan::HealthRule,
};
use futures_util::{StreamExt as _, stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Notify, mpsc, watch},
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
    /// A round has ended: another may be due.
    ended: Arc<Notify>,
    of: BTreeMap<ResourceName, Check>,
}

#[derive(Debug, Default)]
struct Check {
    due: Arc<Mutex<Due>>,
    /// By which the last round looked.
    rule: Option<HealthRule>,
    watches: Watches,
}

/// By the items' keys.
type Watches = Arc<Mutex<BTreeMap<String, Watch>>>;

/// One item.
#[derive(Clone, Debug, Default)]
struct Watch {
    probe: Probe,
    /// None: nobody was told of it before.
    damping: Option<Damping>,
    /// Somebody looked at it since it is there.
    is_looked_at: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Due {
    #[default]
    Now,
    At(Instant),
    UnderWay,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of an item that the kubelet was told of so.
fn as_told(item: &Item) -> Damping {
    match &item.health {
        Health::Unhealthy { reason, since } => Damping::ill(reason.clone(), *since),
        Health::Healthy | Health::Gone { .. } => Damping::new(now()),
    }
}

impl Check {
    /// Forgets how those were that are gone: one that comes back is another until it is looked at. True: there are some
    /// that nobody has looked at.
    fn notice(&self, items: &[Item]) -> bool {
        let mut watches = lock(&self.watches);
        let mut is_news = false;
        for item in items {
            match watches.get_mut(&item.key) {
                Some(watch) if item.is_gone() => {
                    watch.damping = None;
                    watch.is_looked_at = false;
                }
                Some(watch) => is_news |= !watch.is_looked_at,
                None => is_news |= !item.is_gone(),
            }
        }
        is_news
    }
}

impl Checks {
    pub(super) fn new(host: Arc<Host>, verdicts: mpsc::Sender<Verdict>) -> Self {
        Self {
            host,
            verdicts,
            ended: Arc::default(),
            of: BTreeMap::new(),
        }
    }

    /// Takes items that somebody may have already, by what the kubelet was told of them: one failed look is no illness of
    /// theirs.
    pub(super) fn know(&mut self, offer: &Offer) {
        if !offer.rule.health.has_look() {
            return;
        }
        let check = self.of.entry(offer.rule.name.clone()).or_default();
        let mut watches = lock(&check.watches);
        for item in offer.items.iter().filter(|item| !item.is_gone()) {
            let watch = watches.entry(item.key.clone()).or_default();
            watch.damping.get_or_insert_with(|| as_told(item));
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

    /// Returns when a round has ended.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Starts those that are due: all by another rule, and those that nobody has looked at yet, at once.
    pub(super) fn start<'a>(
        &mut self,
        resources: impl Iterator<Item = (&'a ResourceName, &'a watch::Sender<Arc<Offer>>)>,
    ) {
        let offers: BTreeMap<_, _> = resources
            .map(|(name, offers)| (name.clone(), offers.borrow().clone()))
            .filter(|(_, offer)| offer.rule.health.has_look())
            .collect();
        self.of.retain(|name, _| offers.contains_key(name));
        for (name, offer) in offers {
            let check = self.of.entry(name.clone()).or_default();
            let is_news = check.notice(&offer.items);
            let is_other_rule = check.rule.as_ref() != Some(&offer.rule.health);
            let mut due = lock(&check.due);
            // A round of what is new leaves the others' time as it is.
            let others = match *due {
                Due::UnderWay => continue,
                Due::At(at) if at > Instant::now() && !is_other_rule => Some(at),
                Due::At(_) | Due::Now => None,
            };
            if others.is_some() && !is_news {
                continue;
            }
            *due = Due::UnderWay;
            check.rule = Some(offer.rule.health.clone());
            let round = Round {
                host: self.host.clone(),
                verdicts: self.verdicts.clone(),
                offer,
                others,
                due: check.due.clone(),
                ended: self.ended.clone(),
                watches: check.watches.clone(),
            };
            tokio::spawn(round.run());
        }
    }
}

/// One look at each device of a resource.
struct Round {
    host: Arc<Host>,
    verdicts: mpsc::Sender<Verdict>,
    offer: Arc<Offer>,
    /// When those are due that were looked at before; none: now.
    others: Option<Instant>,
    due: Arc<Mutex<Due>>,
    ended: Arc<Notify>,
    watches: Watches,
}

impl Round {
    async fn run(self) {
        let rule = &self.offer.rule.health;
        let items: Vec<&Item> = {
            let keys: BTreeSet<&str> = self.offer.items.iter().map(|item| &*item.key).collect();
            let mut watches = lock(&self.watches);
            watches.retain(|key, _| keys.contains(&**key));
            let is_new = |item: &Item| {
                let watch = watches.get(&item.key);
                watch.is_none_or(|watch| !watch.is_looked_at)
            };
            let items = self.offer.items.iter().filter(|item| !item.is_gone());
            items
                .filter(|item| self.others.is_none() || is_new(item))
                .collect()
        };
        stream::iter(items)
            .for_each_concurrent(BESIDE, |item| self.look(rule, item))
            .await;
        let next = self.others.unwrap_or_else(|| Instant::now() + rule.every);
        *lock(&self.due) = Due::At(next);
        self.ended.notify_one();
    }

    async fn look(&self, rule: &HealthRule, item: &Item) {
        let key = item.key.clone();
        let probe = lock(&self.watches)
            .entry(key.clone())
            .or_default()
            .probe
            .clone();
        let seen = probe
            .look(&self.host, rule, &item.files, &item.fields)
            .await;
        let problem = {
            let mut watches = lock(&self.watches);
            let watch = watches.entry(key.clone()).or_default();
            watch.is_looked_at = true;
            // Presence is told by the look at the node; what was counted until now is of what was there.
            if matches!(seen, Seen::Gone(_)) {
                watch.damping = Some(as_told(item));
                return;
            }
            let limits = Limits {
                failures: rule.failures,
                successes: rule.successes,
            };
            let damping = match watch.damping.take() {
                None => Damping::first(seen, now()),
                Some(mut damping) => {
                    damping.see(seen, limits, now());
                    damping
                }
            };
            let problem = damping.reason().map(str::to_owned);
            watch.damping = Some(damping);
            problem
        };
        // Whatever else changed it: what is told is what the looks say.
        if problem.is_some() == item.health.reason().is_some() {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{
        host::fake::Tree,
        plan::Program,
        template::Template,
        tests::{PATIENCE, item, rule, unhealthy},
    };
    use std::{fs, path::Path, time::Duration};
    use tokio::time::timeout;

    const SECOND: Duration = Duration::from_secs(1);

    /// A device is ill while a file is there.
    struct Bench {
        _tree: Tree,
        folder: tempfile::TempDir,
        checks: Checks,
        verdicts: mpsc::Receiver<Verdict>,
        offers: watch::Sender<Arc<Offer>>,
    }

    impl Bench {
        fn new(every: Duration, failures: u32, items: Vec<Item>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let offer = Offer::new(Arc::new(looked(folder.path(), every, failures)), items);
            let tree = Tree::new();
            let (sender, verdicts) = mpsc::channel(64);
            Self {
                checks: Checks::new(Arc::new(tree.host()), sender),
                _tree: tree,
                folder,
                verdicts,
                offers: watch::Sender::new(Arc::new(offer)),
            }
        }

        fn is_ill(&self, key: &str) {
            fs::write(self.folder.path().join(key), "").unwrap();
        }

        fn offer(&self, items: Vec<Item>) {
            let rule = self.offers.borrow().rule.clone();
            self.offers.send_replace(Arc::new(Offer::new(rule, items)));
        }

        /// Looks as far as it is due, to the end; what is told.
        async fn look(&mut self) -> Vec<(String, bool)> {
            let name = self.offers.borrow().rule.name.clone();
            self.checks.start(std::iter::once((&name, &self.offers)));
            let is_under_way = self.checks.next().is_none();
            if is_under_way {
                let ended = timeout(PATIENCE, self.checks.ended()).await;
                ended.expect("the round ends");
            }
            let mut told = Vec::new();
            while let Ok(verdict) = self.verdicts.try_recv() {
                told.push((verdict.key, verdict.problem.is_none()));
            }
            told
        }

        /// All are due again.
        fn time_passes(&self) {
            for check in self.checks.of.values() {
                *lock(&check.due) = Due::Now;
            }
        }
    }

    fn looked(folder: &Path, every: Duration, failures: u32) -> super::super::plan::Rule {
        let mut rule = rule("a.io/serial");
        let script = format!("test ! -e {}/\"$1\"", folder.display());
        rule.health.command = Some(Program {
            path: "/bin/sh".into(),
            arguments: ["-c", &script, "sh", "{name}"]
                .map(|text| Template::parse(text).unwrap())
                .into(),
            deadline: PATIENCE,
        });
        rule.health.every = every;
        rule.health.failures = failures;
        rule
    }

    fn named(key: &str) -> Item {
        Item {
            fields: [("name".to_owned(), key.to_owned())].into(),
            ..item(key)
        }
    }

    fn with(key: &str, health: Health) -> Item {
        Item {
            health,
            ..named(key)
        }
    }

    #[tokio::test]
    async fn one_that_comes_back_and_is_still_broken_is_told_so_again() {
        let mut bench = Bench::new(3600 * SECOND, 2, vec![named("a")]);
        bench.is_ill("a");
        assert_eq!(bench.look().await, [("a".to_owned(), false)]);
        // Nothing is told twice.
        bench.offer(vec![with("a", unhealthy("broken"))]);
        bench.time_passes();
        assert_eq!(bench.look().await, []);
        bench.offer(vec![with("a", Health::Gone { since: 1 })]);
        assert_eq!(bench.look().await, []);
        bench.offer(vec![named("a")]);
        assert_eq!(bench.look().await, [("a".to_owned(), false)]);
        // It was away for so short a time that nobody looked meanwhile.
        bench.offer(vec![named("a")]);
        bench.time_passes();
        assert_eq!(bench.look().await, [("a".to_owned(), false)]);
    }

    #[tokio::test]
    async fn one_failed_look_at_what_was_told_before_is_no_illness() {
        let mut bench = Bench::new(
            3600 * SECOND,
            2,
            vec![named("a"), with("b", unhealthy("b"))],
        );
        let kept = bench.offers.borrow().clone();
        bench.checks.know(&kept);
        bench.is_ill("a");
        assert_eq!(bench.look().await, [("b".to_owned(), true)]);
        bench.offer(vec![named("a"), named("b")]);
        bench.time_passes();
        assert_eq!(bench.look().await, [("a".to_owned(), false)]);
    }

    #[tokio::test]
    async fn what_is_new_and_what_has_another_rule_is_looked_at_at_once() {
        let mut bench = Bench::new(3600 * SECOND, 2, vec![named("a")]);
        assert_eq!(bench.look().await, []);
        let due = bench.checks.next();
        // Only the new one, which nobody has yet: the other was well a moment ago.
        bench.is_ill("a");
        bench.is_ill("b");
        bench.offer(vec![named("a"), named("b")]);
        assert_eq!(bench.look().await, [("b".to_owned(), false)]);
        assert_eq!(bench.checks.next(), due);
        let other = looked(bench.folder.path(), 1800 * SECOND, 1);
        let items = vec![named("a"), with("b", unhealthy("b"))];
        bench
            .offers
            .send_replace(Arc::new(Offer::new(Arc::new(other), items)));
        assert_eq!(bench.look().await, [("a".to_owned(), false)]);
        assert!(bench.checks.next() < due);
    }
}
