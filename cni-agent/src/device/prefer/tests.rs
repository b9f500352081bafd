//! Which devices are preferred.

use super::*;
use crate::device::{
    plan::Rule,
    tests::{item, rule},
};
use proptest::prelude::*;
use std::sync::Arc;

/// Devices with the NUMA node and the PCI root of each.
fn offer(prefer: Prefer, count: u32, places: &[(u32, &str)]) -> Offer {
    let items = places.iter().enumerate().map(|(n, (numa, root))| Item {
        numa: vec![*numa],
        fields: [("pciRoot".to_owned(), (*root).to_owned())].into(),
        ..item(&format!("d{n}"))
    });
    let rule = Rule {
        prefer,
        count,
        ..rule("a.io/x")
    };
    Offer::new(Arc::new(rule), items.collect())
}

fn chosen(offer: &Offer, without: &[&str], must: &[&str], size: usize) -> Vec<String> {
    let id = |id: &&str| DeviceId::from(*id);
    let without: Vec<DeviceId> = without.iter().map(id).collect();
    let must: Vec<DeviceId> = must.iter().map(id).collect();
    let available: Vec<DeviceId> = offer
        .devices
        .keys()
        .filter(|id| !without.contains(id))
        .cloned()
        .collect();
    let mut ids: Vec<String> = choose(offer, &available, &must, size)
        .iter()
        .map(ToString::to_string)
        .collect();
    ids.sort();
    ids
}

#[test]
fn near_takes_the_smallest_place_that_holds_all() {
    let places = [(0, "a"), (0, "a"), (0, "b"), (1, "c"), (1, "c")];
    let offer = offer(Prefer::Near, 1, &places);
    assert_eq!(chosen(&offer, &[], &[], 2), ["d3", "d4"]);
    assert_eq!(chosen(&offer, &[], &[], 3), ["d0", "d1", "d2"]);
    // Of one node, below one root.
    assert_eq!(chosen(&offer, &["d3"], &[], 2), ["d0", "d1"]);
    // None holds four: the largest first.
    let four = chosen(&offer, &[], &[], 4);
    assert!(
        ["d0", "d1", "d2"]
            .iter()
            .all(|id| four.contains(&(*id).to_owned())),
        "{four:?}"
    );
}

#[test]
fn near_stays_with_what_must_be_in_it() {
    let places = [(0, "a"), (0, "b"), (1, "c"), (1, "c"), (1, "d")];
    let offer = offer(Prefer::Near, 1, &places);
    assert_eq!(chosen(&offer, &[], &["d1"], 2), ["d0", "d1"]);
    assert_eq!(chosen(&offer, &[], &["d4"], 2), ["d2", "d4"]);
    assert_eq!(chosen(&offer, &[], &["d2"], 2), ["d2", "d3"]);
}

#[test]
fn pack_fills_what_is_used_and_spread_takes_what_is_not() {
    let places = [(0, "a"), (0, "a"), (0, "a")];
    let without = ["d1-0", "d1-1", "d2-0"];
    let packing = offer(Prefer::Pack, 4, &places);
    assert_eq!(chosen(&packing, &without, &[], 2), ["d1-2", "d1-3"]);
    assert_eq!(chosen(&packing, &without, &[], 3), ["d1-2", "d1-3", "d2-1"]);
    let spreading = offer(Prefer::Spread, 4, &places);
    assert_eq!(chosen(&spreading, &without, &[], 1), ["d0-0"]);
    assert_eq!(
        chosen(&spreading, &without, &[], 3),
        ["d0-0", "d1-2", "d2-1"]
    );
    assert_eq!(chosen(&spreading, &without, &["d0-0"], 2), ["d0-0", "d2-1"]);
}

proptest! {
    #[test]
    fn an_answer_is_of_the_available_has_what_it_must_and_the_size(
        prefer in prop::sample::select(vec![Prefer::Near, Prefer::Pack, Prefer::Spread, Prefer::Any]),
        places in prop::collection::vec((0_u32..3, prop::sample::select(vec!["a", "b", "c"])), 1..12),
        count in 1_u32..4,
        taken in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        wanted in 1_usize..12,
        musts in 0_usize..4,
    ) {
        let offer = offer(prefer, count, &places);
        let all: Vec<DeviceId> = offer.devices.keys().cloned().collect();
        let without: Vec<DeviceId> = taken.iter().map(|index| index.get(&all).clone()).collect();
        let available: Vec<DeviceId> = all.iter().filter(|id| !without.contains(id)).cloned().collect();
        let size = wanted.min(available.len());
        let must: Vec<DeviceId> = available.iter().take(musts.min(size)).cloned().collect();
        let chosen = choose(&offer, &available, &must, size);
        prop_assert_eq!(chosen.len(), size);
        prop_assert!(must.iter().all(|id| chosen.contains(id)));
        prop_assert!(chosen.iter().all(|id| available.contains(id)));
        let once: BTreeSet<&DeviceId> = chosen.iter().collect();
        prop_assert_eq!(once.len(), size);
    }

    /// If all fit on one NUMA node, they are on one.
    #[test]
    fn what_fits_on_one_node_is_on_one_node(
        places in prop::collection::vec((0_u32..3, prop::sample::select(vec!["a", "b"])), 1..10),
        wanted in 1_usize..6,
    ) {
        let offer = offer(Prefer::Near, 1, &places);
        let all: Vec<DeviceId> = offer.devices.keys().cloned().collect();
        let size = wanted.min(all.len());
        let numa = |id: &DeviceId| offer.item(id).unwrap().numa[0];
        let used: BTreeSet<u32> = choose(&offer, &all, &[], size).iter().map(numa).collect();
        let fits = (0..3).any(|node| all.iter().filter(|id| numa(id) == node).count() >= size);
        if fits {
            prop_assert_eq!(used.len(), 1);
        }
    }
}
