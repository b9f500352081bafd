//! Where files have the same bytes, and where they may differ, without reading any: two files that share a block have the
//! same bytes there, and the file system says where their blocks lie.

use super::kernel::Extent;
use std::{io, iter::Peekable, ops::Range};

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

/// Extents in order, walked along.
struct Walk<I: Iterator<Item = io::Result<Extent>>> {
    extents: Peekable<I>,
}

impl<I: Iterator<Item = io::Result<Extent>>> Walk<I> {
    /// What is at a place behind the last one, and up to where the same extent or hole goes.
    fn content(&mut self, at: u64, end: u64) -> io::Result<(Content, u64)> {
        let is_before = |extent: &io::Result<Extent>| {
            let extent = extent.as_ref();
            extent.is_ok_and(|extent| extent.logical + extent.length <= at)
        };
        while self.extents.next_if(is_before).is_some() {}
        if let Some(failed) = self.extents.next_if(Result::is_err) {
            failed?;
        }
        Ok(match self.extents.peek() {
            Some(Ok(extent)) if extent.logical <= at => (
                Content::of(extent, at),
                (extent.logical + extent.length).min(end),
            ),
            Some(Ok(extent)) => (Content::Zeros, extent.logical.min(end)),
            _ => (Content::Zeros, end),
        })
    }
}

/// Tells where `target` may differ from `base`, in order, from an offset on.
pub(super) fn each_change(
    base: impl Iterator<Item = io::Result<Extent>>,
    target: impl Iterator<Item = io::Result<Extent>>,
    places: Range<u64>,
    mut tell: impl FnMut(Range<u64>) -> io::Result<()>,
) -> io::Result<()> {
    let differs = |one: Content, other: Content| {
        one != other || one == Content::Unknown || other == Content::Unknown
    };
    let mut base = Walk {
        extents: base.peekable(),
    };
    let mut target = Walk {
        extents: target.peekable(),
    };
    let mut last: Option<Range<u64>> = None;
    let (mut at, end) = (places.start, places.end);
    while at < end {
        let (one, until_one) = base.content(at, end)?;
        let (other, until_other) = target.content(at, end)?;
        let until = until_one.min(until_other);
        if differs(one, other) {
            match &mut last {
                Some(last) if last.end == at => last.end = until,
                last => {
                    if let Some(whole) = last.replace(at..until) {
                        tell(whole)?;
                    }
                }
            }
        }
        at = until;
    }
    last.map_or(Ok(()), tell)
}

/// The same, all at once.
pub(super) fn changed(
    base: impl Iterator<Item = io::Result<Extent>>,
    target: impl Iterator<Item = io::Result<Extent>>,
    places: Range<u64>,
) -> io::Result<Vec<Range<u64>>> {
    let mut all = Vec::new();
    each_change(base, target, places, |change| {
        all.push(change);
        Ok(())
    })?;
    Ok(all)
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

    fn differ(base: &[Extent], target: &[Extent], places: Range<u64>) -> Vec<Range<u64>> {
        let (base, target) = (base.iter().copied(), target.iter().copied());
        changed(base.map(Ok), target.map(Ok), places).unwrap()
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
        let stretches = differ(&base, &target, 0..48);
        assert_eq!(
            pairs(&stretches),
            [(4, 4), (24, 4), (32, 8)],
            "a hole where data was differs, too"
        );
        assert_eq!(
            pairs(&differ(&base, &target, 6..48)),
            [(6, 2), (24, 4), (32, 8)]
        );
        assert_eq!(pairs(&differ(&[], &target, 0..48)), [(0, 16), (24, 4)]);
        assert!(differ(&base, &base, 0..48).is_empty());
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
            let stretches = differ(&extents_of(&base), &extents_of(&target), from..40);
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
