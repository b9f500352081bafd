//! Where files have the same bytes, and where they may differ, without reading any: two files that share a block have the
//! same bytes there, and the file system says where their blocks lie.

use super::kernel::Extent;
use std::ops::Range;

/// What is at a place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Zeros,
    /// This place of the disk.
    At(u64),
    Unknown,
}

impl Content {
    fn of(extent: &Extent, at: u64) -> Self {
        match extent.flags {
            flags if flags & Extent::VAGUE != 0 => Self::Unknown,
            flags if flags & Extent::UNWRITTEN != 0 => Self::Zeros,
            _ => Self::At(extent.physical + (at - extent.logical)),
        }
    }
}

/// PURE: what is at a place, and up to where the same extent or hole goes.
fn content(extents: &[Extent], at: u64, end: u64) -> (Content, u64) {
    let next = extents.partition_point(|extent| extent.logical + extent.length <= at);
    match extents.get(next) {
        Some(extent) if extent.logical <= at => (
            Content::of(extent, at),
            (extent.logical + extent.length).min(end),
        ),
        Some(extent) => (Content::Zeros, extent.logical.min(end)),
        None => (Content::Zeros, end),
    }
}

/// PURE: where `target` may differ from `base`, in order, from an offset on.
pub(super) fn changed(base: &[Extent], target: &[Extent], from: u64, end: u64) -> Vec<Range<u64>> {
    let differs = |one: Content, other: Content| {
        one != other || one == Content::Unknown || other == Content::Unknown
    };
    let mut all: Vec<Range<u64>> = Vec::new();
    let mut at = from;
    while at < end {
        let (one, until_one) = content(base, at, end);
        let (other, until_other) = content(target, at, end);
        let until = until_one.min(until_other);
        if differs(one, other) {
            match all.last_mut() {
                Some(last) if last.end == at => last.end = until,
                _ => all.push(at..until),
            }
        }
        at = until;
    }
    all
}

/// PURE: what is in use, in order, from an offset on.
pub(super) fn allocated(extents: &[Extent], from: u64, end: u64) -> Vec<Range<u64>> {
    changed(&[], extents, from, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn extent(logical: u64, length: u64, physical: u64, flags: u32) -> Extent {
        Extent {
            logical,
            physical,
            length,
            flags,
        }
    }

    fn pairs(ranges: &[Range<u64>]) -> Vec<(u64, u64)> {
        ranges
            .iter()
            .map(|of| (of.start, of.end - of.start))
            .collect()
    }

    #[test]
    fn what_is_shared_is_the_same_and_everything_else_may_differ() {
        let base = [
            extent(0, 8, 100, 0),
            extent(8, 8, 300, 0),
            extent(32, 8, 500, 0),
        ];
        let target = [
            extent(0, 4, 100, 0),
            extent(4, 4, 900, 0),
            extent(8, 8, 300, 0),
            extent(16, 8, 700, Extent::UNWRITTEN),
            extent(24, 4, 800, 0x4),
        ];
        let stretches = changed(&base, &target, 0, 48);
        assert_eq!(
            pairs(&stretches),
            [(4, 4), (24, 4), (32, 8)],
            "a hole where data was differs, too"
        );
        assert_eq!(
            pairs(&changed(&base, &target, 6, 48)),
            [(6, 2), (24, 4), (32, 8)]
        );
        assert_eq!(pairs(&allocated(&target, 0, 48)), [(0, 16), (24, 4)]);
        assert!(changed(&base, &base, 0, 48).is_empty());
    }

    /// Blocks of a file in terms of the disk's; 0: a hole.
    fn extents_of(blocks: &[u8]) -> Vec<Extent> {
        let blocks = blocks.iter().enumerate().filter(|(_, place)| **place != 0);
        blocks
            .map(|(at, place)| extent(at as u64, 1, u64::from(*place) * 10, 0))
            .collect()
    }

    proptest! {
        /// Writing the target's bytes of each stretch over the base makes the target.
        #[test]
        fn the_base_with_what_changed_is_the_target(
            base in vec(0..6u8, 1..40),
            target in vec(0..6u8, 40),
            from in 0..40u64,
        ) {
            let mut base = base;
            base.resize(40, 0);
            let stretches = changed(&extents_of(&base), &extents_of(&target), from, 40);
            let mut made = base.clone();
            let mut last = None;
            for of in &stretches {
                prop_assert!(of.start < of.end && last.is_none_or(|last| last < of.start));
                last = Some(of.end);
                let range = of.start as usize..of.end as usize;
                prop_assert!(range.clone().all(|at| base[at] != target[at]), "nothing that is the same");
                made[range.clone()].copy_from_slice(&target[range]);
            }
            prop_assert_eq!(&made[from as usize..], &target[from as usize..]);
        }
    }
}
