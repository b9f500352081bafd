//! Sets of ports.

use crate::model::Protocol;

/// What may be used of what two pods can send each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSet {
    /// Protocols without ports, and what nobody knows.
    pub others: bool,
    /// By [`Protocol`]: ranges from first to last, in order, with a port between each two.
    ranges: [Vec<(u16, u16)>; 3],
}

impl PortSet {
    /// Everything.
    pub fn all() -> Self {
        Self {
            others: true,
            ranges: [const { (0, u16::MAX) }; 3].map(|range| vec![range]),
        }
    }

    /// Whether it holds everything.
    pub fn is_all(&self) -> bool {
        self.others && self.ranges.iter().all(|ranges| *ranges == [(0, u16::MAX)])
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        !self.others && self.ranges.iter().all(Vec::is_empty)
    }

    /// Of a protocol, from first to last, in order.
    pub fn ranges(&self, protocol: Protocol) -> &[(u16, u16)] {
        &self.ranges[protocol as usize]
    }

    /// Whether a port is in it.
    pub fn has(&self, protocol: Protocol, port: u16) -> bool {
        let mut ranges = self.ranges(protocol).iter();
        ranges.any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// Adds the ports from `first` to `last`.
    pub fn add(&mut self, protocol: Protocol, first: u16, last: u16) {
        let ranges = &mut self.ranges[protocol as usize];
        let (mut first, mut last) = (first, last);
        // What touches it becomes one with it.
        ranges.retain(|(from, to)| {
            let apart =
                u32::from(*to) + 1 < u32::from(first) || u32::from(last) + 1 < u32::from(*from);
            if !apart {
                (first, last) = (first.min(*from), last.max(*to));
            }
            apart
        });
        let at = ranges.partition_point(|(from, _)| *from < first);
        ranges.insert(at, (first, last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_the_ports_that_were_added_and_stay_apart(
            added in proptest::collection::vec((0..300u16, 0..40u16), 0..12)
        ) {
            let mut set = PortSet::default();
            for (first, more) in &added {
                set.add(Protocol::Udp, *first, first + more);
            }
            for port in 0..400u16 {
                let plain = added.iter().any(|(first, more)| (*first..=first + more).contains(&port));
                prop_assert_eq!(set.has(Protocol::Udp, port), plain);
            }
            let ranges = set.ranges(Protocol::Udp);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{:?}", ranges);
            prop_assert!(set.ranges(Protocol::Tcp).is_empty());
        }
    }

    #[test]
    fn the_ends_of_all_ports_are_in_reach() {
        let mut set = PortSet::default();
        set.add(Protocol::Tcp, 1, 65_534);
        set.add(Protocol::Tcp, 65_535, 65_535);
        set.add(Protocol::Tcp, 0, 0);
        assert_eq!(set.ranges(Protocol::Tcp), [(0, 65_535)]);
        assert!(!set.is_all() && PortSet::all().is_all() && PortSet::default().is_empty());
    }
}
