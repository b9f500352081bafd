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
/// What connections go on to is looked at again after this.
const IN_USE: Duration = Duration::from_secs(120);
/// While a name can't be asked for, or nobody has come to it, its addresses stay for so long.
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

impl Name {
    /// When an address is none of the name any more. While nobody has said that the name has others, it is.
    fn end(&self, life: Instant, now: Instant) -> Instant {
        match &self.fault {
            Some((_, since)) => life.max(*since + WITHOUT_ANSWER),
            None if self.ask <= now => life.max(self.ask + WITHOUT_ANSWER),
            None => life,
        }
    }

    fn ends(&self, now: Instant) -> impl Iterator<Item = (IpAddr, Instant)> {
        let addresses = self.addresses.iter();
        addresses.map(move |(address, life)| (*address, self.end(*life, now)))
    }
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

    /// When something is to be done next, apart from names whose answers are awaited. `full`: no others can be asked
    /// for before one of those is there. `looking`: it is being looked which addresses are in use.
    pub(super) fn next(
        &self,
        asked: &BTreeSet<String>,
        full: bool,
        looking: bool,
        now: Instant,
    ) -> Option<Instant> {
        let asks = self
            .names
            .iter()
            .filter(|(name, _)| !full && !asked.contains(*name));
        let asks = asks.map(|(_, of)| of.ask);
        let ends = self.names.values().filter(|_| !looking);
        let ends = ends.flat_map(|of| of.ends(now).map(|(_, end)| end));
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
                if of.fault.is_some() {
                    // It may have had others for long, and pods were told of these until now.
                    for end in of.addresses.values_mut() {
                        *end = (*end).max(now + GRACE);
                    }
                }
                // Of one family nobody has said anything: what is known of it stays, too.
                let since = of.fault.as_ref().map_or(now, |(_, since)| *since);
                of.ask = match answer.missing {
                    None => now + (answer.life / 2).clamp(least, most),
                    Some(_) => now + least,
                };
                of.fault = answer.missing.map(|why| (why, since));
                let until = now + answer.life + GRACE;
                of.cut = false;
                for address in answer.addresses {
                    let address = address.to_canonical();
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
            }
        }
    }

    /// Addresses whose lives are over, for some name.
    pub(super) fn expired(&self, now: Instant) -> BTreeSet<IpAddr> {
        let all = self.names.values().flat_map(|of| of.ends(now));
        let over = all.filter(|(_, end)| *end <= now);
        over.map(|(address, _)| address).collect()
    }

    /// Forgets those of them that are still over, but for those that are in use: these live on for a while.
    pub(super) fn forget(
        &mut self,
        over: &BTreeSet<IpAddr>,
        in_use: &BTreeSet<IpAddr>,
        now: Instant,
    ) {
        for of in self.names.values_mut() {
            let ends: Vec<(IpAddr, Instant)> = of.ends(now).collect();
            for (address, end) in ends {
                if end > now || !over.contains(&address) {
                    continue;
                }
                if in_use.contains(&address) {
                    of.addresses.insert(address, now + IN_USE);
                } else {
                    of.addresses.remove(&address);
                    self.changed = true;
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(addresses: &[&str], secs: u64) -> Answer {
        Answer {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            life: Duration::from_secs(secs),
            missing: None,
        }
    }

    fn named(names: &[&str], now: Instant) -> Known {
        let mut known = Known::default();
        known.want(&names.iter().map(|name| (*name).to_owned()).collect(), now);
        known
    }

    #[test]
    fn names_that_can_t_be_asked_for_yet_wake_nobody() {
        let now = Instant::now();
        let mut known = named(&["a.example.com", "b.example.com"], now);
        let asked = BTreeSet::from(["a.example.com".to_owned()]);
        assert_eq!(
            known.next(&asked, false, false, now),
            Some(now),
            "the other one is due"
        );
        assert_eq!(known.next(&asked, true, false, now), None);
        known.told("a.example.com", Ok(answer(&["192.0.2.1"], 60)), now);
        let (none, end) = (BTreeSet::new(), now + Duration::from_secs(60) + GRACE);
        assert_eq!(
            known.next(&none, true, false, now),
            Some(end),
            "addresses end all the same"
        );
        assert_eq!(
            known.next(&none, true, true, now),
            None,
            "it is being looked at them"
        );
    }

    #[test]
    fn nothing_is_over_before_somebody_has_said_so() {
        let now = Instant::now();
        let after = |secs| now + Duration::from_secs(secs);
        let mut known = named(&["a.example.com"], now);
        known.told("a.example.com", Ok(answer(&["192.0.2.1"], 60)), now);
        // Nobody has come to it: it was to be asked for after half of its life.
        assert!(known.expired(after(600)).is_empty());
        known.told("a.example.com", Err("silence".into()), after(600));
        assert!(known.expired(after(4_000)).is_empty());
        assert!(!known.expired(after(4_201)).is_empty(), "an hour is enough");
        // One family is as good as none for what is known of the other.
        let mut v6 = answer(&["2001:db8::1"], 60);
        v6.missing = Some("A: silence".into());
        known.told("a.example.com", Ok(v6), after(700));
        assert!(known.expired(after(4_000)).is_empty());
        assert_eq!(known.problems().len(), 1);
        known.told(
            "a.example.com",
            Ok(answer(&["2001:db8::1"], 60)),
            after(710),
        );
        assert!(known.problems().is_empty());
        let v6 = || Ok(answer(&["2001:db8::1"], 60));
        known.told("a.example.com", v6(), after(741));
        let over = known.expired(after(741));
        assert_eq!(over, answer(&["192.0.2.1"], 0).addresses);
        let later = after(742);
        known.forget(&over, &over, later);
        assert!(
            known.expired(later).is_empty(),
            "a connection goes on to it"
        );
        let last = later + IN_USE;
        known.told("a.example.com", Ok(answer(&["2001:db8::1"], 60)), last);
        let over = known.expired(last);
        known.forget(&over, &BTreeSet::new(), last);
        assert_eq!(
            known.saved()["a.example.com"],
            answer(&["2001:db8::1"], 0).addresses
        );
    }

    #[test]
    fn an_ipv4_address_is_one_however_it_is_written() {
        let now = Instant::now();
        let mut known = named(&["a.example.com"], now);
        known.told("a.example.com", Ok(answer(&["::ffff:10.1.0.9"], 60)), now);
        assert_eq!(
            known.saved()["a.example.com"],
            answer(&["10.1.0.9"], 0).addresses
        );
    }
}
