//! PURE: what is known of names, when to ask again, and how long an address is one of a name.

use super::resolve::Answer;
use crate::state::Objects;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};
use tokio::time::Instant;

/// Addresses of one name; the API asks for at least 100.
const MOST_ADDRESSES: usize = 256;
/// A name is asked for again so long after its answer, at least and at most: within the life of what pods were
/// told, and often enough to see that others get other addresses of many.
const PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];
/// An address is one of its name for so long after its answer's life: pods may have heard of it at its end.
const GRACE: Duration = Duration::from_secs(30);
/// What a start has read is one for so long, in which it is asked for anew.
const AFTER_START: Duration = Duration::from_secs(300);
/// While a name can't be asked for, its addresses stay for so long.
const WITHOUT_ANSWER: Duration = Duration::from_secs(3600);

/// Names and their addresses.
#[derive(Debug, Default)]
pub(super) struct Known {
    names: BTreeMap<String, Name>,
    /// Of names that a start has read and nobody has named yet.
    saved: BTreeMap<String, BTreeSet<IpAddr>>,
    changed: bool,
}

#[derive(Debug)]
struct Name {
    /// With the end of their lives.
    addresses: BTreeMap<IpAddr, Instant>,
    ask: Instant,
    /// Why it could not be asked for, since when.
    fault: Option<(String, Instant)>,
    cut: bool,
}

impl Known {
    /// With what was saved before the start.
    pub(super) fn new(saved: BTreeMap<String, BTreeSet<IpAddr>>) -> Self {
        Self {
            saved,
            ..Self::default()
        }
    }

    /// These names are named, and no others.
    pub(super) fn want(&mut self, names: &BTreeSet<String>, now: Instant) {
        let before = self.names.len();
        self.names.retain(|name, _| names.contains(name));
        self.changed |= self.names.len() != before;
        for name in names {
            if self.names.contains_key(name) {
                continue;
            }
            let addresses = self.saved.remove(name).unwrap_or_default();
            self.changed |= !addresses.is_empty();
            let until = now + AFTER_START;
            let name_of = Name {
                addresses: addresses
                    .into_iter()
                    .map(|address| (address, until))
                    .collect(),
                ask: now,
                fault: None,
                cut: false,
            };
            self.names.insert(name.clone(), name_of);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Names to be asked for now, the most urgent first.
    pub(super) fn due(&self, now: Instant) -> Vec<String> {
        let due = self.names.iter().filter(|(_, of)| of.ask <= now);
        let mut due: Vec<(Instant, &String)> = due.map(|(name, of)| (of.ask, name)).collect();
        due.sort_unstable();
        due.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// When something is to be done next, apart from names whose answers are awaited.
    pub(super) fn next(&self, asked: &BTreeSet<String>) -> Option<Instant> {
        let asks = self.names.iter().filter(|(name, _)| !asked.contains(*name));
        let asks = asks.map(|(_, of)| of.ask);
        let ends = self
            .names
            .values()
            .flat_map(|of| of.addresses.values().copied());
        asks.chain(ends).min()
    }

    /// A name has these addresses, or can't be asked for.
    pub(super) fn told(&mut self, name: &str, answer: Result<Answer, String>, now: Instant) {
        // Nobody names it any more.
        let Some(of) = self.names.get_mut(name) else {
            return;
        };
        let [least, most] = PAUSES;
        match answer {
            Ok(answer) => {
                of.fault = None;
                of.ask = now + (answer.life / 2).clamp(least, most);
                let until = now + answer.life + GRACE;
                of.cut = false;
                for address in answer.addresses {
                    let is_known = of.addresses.contains_key(&address);
                    if !is_known && of.addresses.len() >= MOST_ADDRESSES {
                        of.cut = true;
                        continue;
                    }
                    self.changed |= !is_known;
                    let end = of.addresses.entry(address).or_insert(until);
                    *end = until.max(*end);
                }
            }
            Err(why) => {
                let since = of.fault.as_ref().map_or(now, |(_, since)| *since);
                of.fault = Some((why, since));
                of.ask = now + least;
                // Nobody says that it has others.
                if now.duration_since(since) < WITHOUT_ANSWER {
                    for end in of.addresses.values_mut() {
                        *end = (*end).max(now + GRACE);
                    }
                }
            }
        }
    }

    /// Addresses whose lives are over, for some name.
    pub(super) fn expired(&self, now: Instant) -> BTreeSet<IpAddr> {
        let all = self.names.values().flat_map(|of| &of.addresses);
        let over = all.filter(|(_, end)| **end <= now);
        over.map(|(address, _)| *address).collect()
    }

    /// Forgets them, but for those that are in use: those live on for a while.
    pub(super) fn forget_expired(&mut self, in_use: &BTreeSet<IpAddr>, now: Instant) {
        for of in self.names.values_mut() {
            let before = of.addresses.len();
            of.addresses.retain(|address, end| {
                if *end <= now && in_use.contains(address) {
                    *end = now + GRACE;
                }
                *end > now
            });
            self.changed |= of.addresses.len() != before;
        }
    }

    /// Whether a name has other addresses than when [`Self::take_changed`] was asked last.
    pub(super) const fn changed(&self) -> bool {
        self.changed
    }

    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Every name that has addresses.
    pub(super) fn domains(&self) -> Objects<String, BTreeSet<IpAddr>> {
        self.saved().into_iter().collect()
    }

    /// The same, to be saved.
    pub(super) fn saved(&self) -> BTreeMap<String, BTreeSet<IpAddr>> {
        let some = self.names.iter().filter(|(_, of)| !of.addresses.is_empty());
        some.map(|(name, of)| (name.clone(), of.addresses.keys().copied().collect()))
            .collect()
    }

    /// What is wrong with names, each with its remedy.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, of) in &self.names {
            if let Some((why, _)) = &of.fault {
                let meanwhile = match of.addresses.len() {
                    0 => "nobody gets through by it".to_owned(),
                    known => format!("its {known} known addresses stay allowed"),
                };
                problems.push(format!(
                    "the domain name {name} of a policy can't be resolved: {why}; {meanwhile}; see that the cluster's DNS answers for it"
                ));
            }
            if of.cut {
                problems.push(format!(
                    "the domain name {name} of a policy has more than {MOST_ADDRESSES} addresses: those beyond are not allowed; write networks beside it"
                ));
            }
        }
        problems
    }
}
