//! PURE: which of the free devices a container should get. A hint: the kubelet asks before it chooses.

use super::{
    inventory::{Item, Offer},
    name::DeviceId,
    plan::Prefer,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// `size` of the `available`, with all of `must`; fewer if there aren't so many.
pub(super) fn choose(
    offer: &Offer,
    available: &[DeviceId],
    must: &[DeviceId],
    size: usize,
) -> Vec<DeviceId> {
    let mut chosen: Vec<DeviceId> = Vec::new();
    for id in must {
        if !chosen.contains(id) {
            chosen.push(id.clone());
        }
    }
    let free: BTreeSet<&DeviceId> = available.iter().filter(|id| !chosen.contains(id)).collect();
    let mut candidates = Candidates::new(offer, &free);
    let first: Vec<usize> = chosen
        .iter()
        .filter_map(|id| Some(offer.devices.get(id)?.item))
        .collect();
    while chosen.len() < size {
        let wanted = size - chosen.len();
        let Some(id) = candidates.next(offer, &first, wanted, &chosen) else {
            break;
        };
        chosen.push(id);
    }
    chosen
}

/// The free shares of each item.
struct Candidates {
    free: BTreeMap<usize, Vec<DeviceId>>,
}

impl Candidates {
    fn new(offer: &Offer, free: &BTreeSet<&DeviceId>) -> Self {
        let mut of: BTreeMap<usize, Vec<DeviceId>> = BTreeMap::new();
        for id in free {
            if let Some(place) = offer.devices.get(*id) {
                of.entry(place.item).or_default().push((*id).clone());
            }
        }
        for ids in of.values_mut() {
            // The first share is taken first.
            ids.sort_by_key(|id| Reverse(offer.devices.get(id).map(|place| place.share)));
        }
        Self { free: of }
    }

    /// The best of what is left, when so many are wanted still.
    fn next(
        &mut self,
        offer: &Offer,
        must: &[usize],
        wanted: usize,
        chosen: &[DeviceId],
    ) -> Option<DeviceId> {
        let mut taken: BTreeMap<usize, usize> = must.iter().map(|item| (*item, 0)).collect();
        for id in chosen {
            if let Some(place) = offer.devices.get(id) {
                *taken.entry(place.item).or_default() += 1;
            }
        }
        let count = offer.rule.count as usize;
        let used = |item: usize| count - self.free.get(&item).map_or(0, Vec::len).min(count);
        let items = self.free.keys().copied();
        let best = match offer.rule.prefer {
            Prefer::Any => items.min(),
            Prefer::Pack => items.min_by_key(|item| {
                let is_ours = taken.contains_key(item);
                (Reverse(is_ours), Reverse(used(*item)), *item)
            }),
            // One that the container has already brings it nothing more.
            Prefer::Spread => items.min_by_key(|item| {
                let ours = taken.get(item).copied().unwrap_or(0);
                (ours, used(*item), *item)
            }),
            Prefer::Near => {
                let rooms = Rooms::new(offer, &self.free);
                items.min_by_key(|item| {
                    let near = rooms.near(offer, *item, &taken, wanted);
                    (near, Reverse(used(*item)), *item)
                })
            }
        }?;
        let ids = self.free.get_mut(&best)?;
        let id = ids.pop();
        if ids.is_empty() {
            self.free.remove(&best);
        }
        id
    }
}

/// Free shares by where they are.
struct Rooms<'a> {
    numa: BTreeMap<&'a [u32], usize>,
    root: BTreeMap<(&'a [u32], Option<&'a String>), usize>,
}

impl<'a> Rooms<'a> {
    fn new(offer: &'a Offer, free: &BTreeMap<usize, Vec<DeviceId>>) -> Self {
        let (mut numa, mut root) = (BTreeMap::new(), BTreeMap::new());
        for (item, ids) in free {
            if let Some(item) = offer.items.get(*item) {
                *numa.entry(&*item.numa).or_default() += ids.len();
                *root.entry((&*item.numa, root_of(item))).or_default() += ids.len();
            }
        }
        Self { numa, root }
    }

    /// How far an item is from those that are chosen; with none chosen, how well the rest would fit around it. Less is
    /// better.
    fn near(
        &self,
        offer: &Offer,
        item: usize,
        taken: &BTreeMap<usize, usize>,
        wanted: usize,
    ) -> [usize; 5] {
        let Some(of) = offer.items.get(item) else {
            return [usize::MAX; 5];
        };
        let far = |differs: &dyn Fn(&Item) -> bool| {
            let chosen = taken.keys().filter_map(|item| offer.items.get(*item));
            chosen.filter(|one| differs(one)).count()
        };
        // The smallest place that holds all of them is best; where none does, the largest.
        let fit = |room: Option<&usize>| match room.copied().unwrap_or(0) {
            room if room >= wanted => room - wanted,
            room => usize::MAX / 2 - room,
        };
        [
            far(&|one| one.numa != of.numa),
            far(&|one| root_of(one) != root_of(of)),
            fit(self.numa.get(&*of.numa)),
            fit(self.root.get(&(&*of.numa, root_of(of)))),
            usize::from(!taken.contains_key(&item)),
        ]
    }
}

fn root_of(item: &Item) -> Option<&String> {
    item.fields.get("pciRoot")
}

#[cfg(test)]
mod tests;
