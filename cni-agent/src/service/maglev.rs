//! PURE: Maglev's table (Eisenbud and others, NSDI 2016): which backend a flow goes to, by its hash.
//!
//! What it guarantees: the backends' shares differ by one slot at most; the table depends on the set
//! of backends alone, so that all nodes make the same one, and a backend that comes back finds its
//! slots again. What it does not: when a backend goes, a few slots of the others move, too; the more slots
//! there are to a backend, the fewer (measured by a test). A change of the size moves nearly all.

use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};

/// Slots to a backend, at least: shares then differ by 1 % at most.
const SLOTS_PER_BACKEND: usize = 100;

/// The greatest prime below each power of two: a table grows when the number of backends doubles, not
/// each time that it changes. Beyond 1,310 backends each has fewer slots: a list shall not take more than
/// a quarter of a mebibyte.
const SIZES: [usize; 10] = [
    251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 131_071,
];

/// Most backends that a slot's number can tell apart.
pub const MOST: usize = u16::MAX as usize + 1;

/// Slots of a table of so many backends; 0 for one or none, which need no table.
pub fn size(backends: usize) -> usize {
    if backends < 2 {
        return 0;
    }
    let wanted = SLOTS_PER_BACKEND * backends.min(MOST);
    let fits = SIZES.iter().find(|size| **size >= wanted);
    fits.or(SIZES.last()).copied().unwrap_or(0)
}

/// For each slot the place of its backend in `backends`, of [`size`] slots; empty for one backend or
/// none. Those after the first [`MOST`] get no slot.
pub fn table(backends: &[SocketAddr]) -> Vec<u16> {
    table_of(backends, size(backends.len()))
}

/// As [`table`], with a size of the caller's choice, a prime greater than the number of backends: who
/// keeps the size of a table that shrinks moves few flows.
pub fn table_of(backends: &[SocketAddr], size: usize) -> Vec<u16> {
    let size_u32 = u32::try_from(size).unwrap_or(u32::MAX);
    let mut walks: Vec<Walk> = (0..=u16::MAX)
        .zip(backends)
        .map(|(index, backend)| Walk::new(index, *backend, size_u32))
        .collect();
    if walks.len() < 2 || size <= walks.len() {
        return Vec::new();
    }
    // They take turns in this order, whatever the caller's is.
    walks.sort_unstable_by_key(|walk| backends[usize::from(walk.index)]);
    let mut slots: Vec<Option<u16>> = vec![None; size];
    let mut free = size;
    while free > 0 {
        for walk in walks.iter_mut().take(free) {
            // A walk meets each slot once, because the size is a prime.
            while let Some(slot) = slots.get_mut(walk.at as usize) {
                walk.step(size_u32);
                if slot.is_none() {
                    *slot = Some(walk.index);
                    free -= 1;
                    break;
                }
            }
        }
    }
    slots.into_iter().flatten().collect()
}

/// A backend's way through the slots, by which it takes the free ones.
struct Walk {
    index: u16,
    at: u32,
    skip: u32,
}

impl Walk {
    fn new(index: u16, backend: SocketAddr, size: u32) -> Self {
        let (a, b) = hashes(backend);
        Self {
            index,
            at: below(a, size),
            skip: below(b, size.saturating_sub(1)) + 1,
        }
    }

    fn step(&mut self, size: u32) {
        let next = u64::from(self.at) + u64::from(self.skip);
        self.at = below(next, size);
    }
}

fn below(value: u64, end: u32) -> u32 {
    u32::try_from(value % u64::from(end.max(1))).unwrap_or(0)
}

/// Two numbers that have nothing to do with each other, and stay the same over versions and machines.
fn hashes(backend: SocketAddr) -> (u64, u64) {
    let address = match backend.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut hash = Sha256::new();
    hash.update(address.octets());
    hash.update(backend.port().to_be_bytes());
    let digest = hash.finalize();
    let mut words = digest.chunks_exact(8).map(|word| {
        word.iter()
            .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
    });
    (words.next().unwrap_or(0), words.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backend(n: u32) -> SocketAddr {
        let [_, b, c, d] = n.to_be_bytes();
        SocketAddr::from(([10, b, c, d], 8080))
    }

    fn slots(backends: &[SocketAddr]) -> Vec<SocketAddr> {
        let slots = table(backends).into_iter();
        slots.map(|index| backends[usize::from(index)]).collect()
    }

    #[test]
    fn one_backend_needs_no_table_and_a_table_has_a_hundred_slots_for_each() {
        assert!(table(&[]).is_empty() && table(&[backend(1)]).is_empty());
        for n in [2, 3, 10, 81, 82, 1_000, MOST] {
            let size = size(n);
            let wanted = (100 * n).min(131_071);
            assert!(size >= wanted, "{n} backends have {size} slots");
            assert!(
                (2..=size.isqrt()).all(|d| !size.is_multiple_of(d)),
                "{size} is no prime"
            );
        }
        assert_eq!(table(&[backend(1), backend(2)]).len(), 251);
    }

    #[test]
    fn too_many_backends_for_a_size_get_no_table_instead_of_an_endless_search() {
        let three = [1, 2, 3].map(backend);
        assert!(table_of(&three, 3).is_empty() && table_of(&three, 0).is_empty());
        assert_eq!(table_of(&three, 5).len(), 5);
    }

    /// Both ways, as a backend that comes back finds its slots again.
    #[test]
    fn of_a_hundred_backends_one_that_goes_moves_few_slots_of_the_others() {
        let all: Vec<SocketAddr> = (0..100).map(backend).collect();
        let full = slots(&all);
        let mut worst = 0.0f64;
        for gone in 0..all.len() {
            let mut rest = all.clone();
            let gone = rest.remove(gone);
            let without = slots(&rest);
            let others = full.iter().zip(&without).filter(|(a, _)| **a != gone);
            let moved = others.clone().filter(|(a, b)| a != b).count();
            let share = 100.0 * moved as f64 / others.count() as f64;
            worst = worst.max(share);
            rest.insert(0, gone);
            assert_eq!(slots(&rest), full);
        }
        println!("at most {worst:.2} % of the others' slots moved");
        assert!(worst < 2.0, "{worst} %");
    }

    proptest! {
        #[test]
        fn shares_are_fair_and_the_order_of_backends_means_nothing(
            (set, shuffled) in proptest::collection::btree_set(0u32..1 << 24, 2..120)
                .prop_flat_map(|set| {
                    let list: Vec<_> = set.iter().copied().map(backend).collect();
                    (Just(list.clone()), Just(list).prop_shuffle())
                })
        ) {
            let found = slots(&set);
            prop_assert_eq!(&found, &slots(&shuffled));
            let fair = size(set.len()) / set.len();
            for backend in &set {
                let share = found.iter().filter(|slot| *slot == backend).count();
                prop_assert!(share == fair || share == fair + 1, "{share} of {fair}");
            }
        }
    }
}
