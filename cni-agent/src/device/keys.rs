//! PURE: who is called what. A device has its key as long as it is there, whoever comes and goes: the kubelet may have
//! given it to a container by that. One that comes back has the key that it had, and a newcomer takes none that is
//! another's.

use super::{found::Site, inventory::Item};
use std::collections::{BTreeMap, BTreeSet};

/// A device that is there now; its item's key is the one that it would have were it new and nobody else known.
pub(super) struct Present {
    pub(super) item: Item,
    /// A key that is its own alone, for where another has that one.
    pub(super) otherwise: Option<String>,
    /// Whether it was there before.
    pub(super) is_known: bool,
}

/// Gives each its key. `is_there` tells whether what was at a place is still that one.
pub(super) fn settle(now: &mut [Present], before: &[Item], is_there: &dyn Fn(&Site) -> bool) {
    let known = Known::new(before);
    let mut keys: Vec<Option<usize>> = vec![None; now.len()];
    // Where a key was taken from, by its number among those before.
    let mut taken: BTreeSet<usize> = BTreeSet::new();
    for (key, present) in keys.iter_mut().zip(&*now) {
        *key = known.same(&present.item, &taken);
        taken.extend(*key);
    }
    let sites = sites_of_names(now.iter().map(|present| &present.item));
    for is_elsewhere in [false, true] {
        for (key, present) in keys.iter_mut().zip(&*now) {
            if key.is_none() {
                let item = &present.item;
                let is_one = sites[item.name()].len() < 2;
                *key = known.returned(item, is_elsewhere.then_some(is_one), &taken, is_there);
                taken.extend(*key);
            }
        }
    }
    let mut used: BTreeSet<String> = BTreeSet::new();
    for (key, present) in keys.iter().zip(&mut *now) {
        if let Some(before) = key.and_then(|key| before.get(key)) {
            present.item.call(before.key.clone());
            present.is_known = true;
            used.insert(before.key.clone());
        }
    }
    let crowded = crowded(now);
    for (present, is_crowded) in now.iter_mut().zip(crowded) {
        if present.is_known {
            continue;
        }
        let name = present.item.name().to_owned();
        let wanted = present.item.key.clone();
        // A site tells nobody apart from who is there as well.
        let is_one = |key: &String| !(is_crowded && site(&present.item) == Some(key.as_str()));
        let otherwise = present.otherwise.clone().filter(is_one);
        let numbered = (1_usize..).map(|number| format!("{name}:{number}"));
        let is_free =
            |key: &String| !used.contains(key) && !known.is_anothers(key, &name, &taken, is_there);
        let mut keys = [wanted].into_iter().chain(otherwise).chain(numbered);
        let key = keys.find(is_free).unwrap_or_default();
        used.insert(key.clone());
        present.item.call(key);
    }
}

/// Those of before, by what finds them again.
struct Known<'a> {
    all: &'a [Item],
    by_site: BTreeMap<&'a Site, Vec<usize>>,
    by_name: BTreeMap<&'a str, Vec<usize>>,
    by_key: BTreeMap<&'a str, usize>,
    sites: BTreeMap<&'a str, BTreeSet<Option<&'a str>>>,
}

impl<'a> Known<'a> {
    fn new(all: &'a [Item]) -> Self {
        let mut by_site: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        let mut by_name: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (number, item) in all.iter().enumerate() {
            by_name.entry(item.name()).or_default().push(number);
            for site in item.sites.iter().filter(|site| site.instance.is_some()) {
                by_site.entry(site).or_default().push(number);
            }
        }
        Self {
            all,
            by_site,
            by_name,
            by_key: (0..).zip(all).map(|(n, item)| (&*item.key, n)).collect(),
            sites: sites_of_names(all.iter()),
        }
    }

    /// The one that this has been all the time; of several, into which it was divided before, the one of its name.
    fn same(&self, item: &Item, taken: &BTreeSet<usize>) -> Option<usize> {
        let all = item.sites.iter().filter_map(|site| self.by_site.get(site));
        let free = all.flatten().filter(|number| !taken.contains(number));
        free.copied()
            .min_by_key(|number| (self.all[*number].name() != item.name(), *number))
    }

    /// The one that this was before it went: at its place, or elsewhere (with whether it is the only one of its name),
    /// where nothing else is called alike.
    fn returned(
        &self,
        item: &Item,
        elsewhere: Option<bool>,
        taken: &BTreeSet<usize>,
        is_there: &dyn Fn(&Site) -> bool,
    ) -> Option<usize> {
        let name = item.name();
        let is_clear = match elsewhere {
            None => true,
            Some(is_one) => is_one && self.is_one(name),
        };
        let is_its = |number: &&usize| {
            let known = &self.all[**number];
            !taken.contains(number)
                && (elsewhere.is_some() || item.is_at_site_of(known))
                && !known.sites.iter().any(is_there)
        };
        let all = self.by_name.get(name).filter(|_| is_clear)?;
        all.iter().find(is_its).copied()
    }

    /// Whether what had this name was in one place only.
    fn is_one(&self, name: &str) -> bool {
        self.sites.get(name).is_none_or(|sites| sites.len() < 2)
    }

    /// Whether a newcomer can't have a key: several have its name, or who has the key is still there, found or not.
    fn is_anothers(
        &self,
        key: &str,
        name: &str,
        taken: &BTreeSet<usize>,
        is_there: &dyn Fn(&Site) -> bool,
    ) -> bool {
        let Some(number) = self.by_key.get(key) else {
            return false;
        };
        let known = &self.all[*number];
        let is_shared = known.name() == name && !self.is_one(name);
        is_shared || (!taken.contains(number) && known.sites.iter().any(is_there))
    }
}

/// Where an item is; of one with several sites the first.
fn site(item: &Item) -> Option<&str> {
    item.sites.first().map(|site| &*site.name)
}

/// The sites where something of a name is.
fn sites_of_names<'a>(
    items: impl Iterator<Item = &'a Item>,
) -> BTreeMap<&'a str, BTreeSet<Option<&'a str>>> {
    let mut sites: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for item in items {
        sites.entry(item.name()).or_default().insert(site(item));
    }
    sites
}

/// Of each whether another has its name and its place: no place tells these apart.
fn crowded(now: &[Present]) -> Vec<bool> {
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for Present { item, .. } in now {
        *counts.entry((item.name(), site(item))).or_default() += 1;
    }
    now.iter()
        .map(|Present { item, .. }| counts[&(item.name(), site(item))] > 1)
        .collect()
}

#[cfg(test)]
mod tests;
