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

    /// As people write it: `80/TCP, 90-99/TCP, UDP, others`; empty for an empty set.
    pub fn words(&self) -> String {
        if self.is_all() {
            return "everything".to_owned();
        }
        let mut words = Vec::new();
        for protocol in Protocol::ALL {
            let name = protocol.as_str();
            for (first, last) in self.ranges(protocol) {
                words.push(match (first, last) {
                    (0, &u16::MAX) => name.to_owned(),
                    (first, last) if first == last => format!("{first}/{name}"),
                    (first, last) => format!("{first}-{last}/{name}"),
                });
            }
        }
        if self.others {
            words.push("ICMP and others".to_owned());
        }
        words.join(", ")
    }

    /// Adds what another one holds.
    pub fn unite(&mut self, other: &Self) {
        self.others |= other.others;
        for protocol in Protocol::ALL {
            for (first, last) in other.ranges(protocol) {
                self.add(protocol, *first, *last);
            }
        }
    }

    /// What both hold.
    pub fn common(&self, other: &Self) -> Self {
        let mut common = Self {
            others: self.others && other.others,
            ..Self::default()
        };
        for protocol in Protocol::ALL {
            for (first, last) in self.ranges(protocol) {
                for (from, to) in other.ranges(protocol) {
                    let (first, last) = (*first.max(from), *last.min(to));
                    if first <= last {
                        common.add(protocol, first, last);
                    }
                }
            }
        }
        common
    }

    /// What it holds and another one doesn't.
    pub fn without(&self, other: &Self) -> Self {
        self.common(&other.complement())
    }

    fn complement(&self) -> Self {
        let mut rest = Self {
            others: !self.others,
            ..Self::default()
        };
        for protocol in Protocol::ALL {
            // The first port that may be of the rest; none behind the last port.
            let mut next = Some(0);
            for (first, last) in self.ranges(protocol) {
                if let Some(from) = next.filter(|from| from < first) {
                    rest.add(protocol, from, first - 1);
                }
                next = last.checked_add(1);
            }
            if let Some(from) = next {
                rest.add(protocol, from, u16::MAX);
            }
        }
        rest
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

    /// At both ends of the ports and in between.
    fn somewhere() -> impl Strategy<Value = PortSet> {
        let range = (prop_oneof![0..60u16, 65_480..=65_535u16], 0..30u16);
        (any::<bool>(), proptest::collection::vec(range, 0..6)).prop_map(|(others, ranges)| {
            let mut set = PortSet {
                others,
                ..PortSet::default()
            };
            for (first, more) in ranges {
                set.add(Protocol::Tcp, first, first.saturating_add(more));
            }
            set
        })
    }

    proptest! {
        #[test]
        fn sets_of_ports_are_sets(a in somewhere(), b in somewhere()) {
            let mut united = a.clone();
            united.unite(&b);
            let (common, without) = (a.common(&b), a.without(&b));
            for port in (0..100u16).chain(65_400..=65_535) {
                let [in_a, in_b] = [&a, &b].map(|set| set.has(Protocol::Tcp, port));
                prop_assert_eq!(united.has(Protocol::Tcp, port), in_a || in_b, "{}", port);
                prop_assert_eq!(common.has(Protocol::Tcp, port), in_a && in_b, "{}", port);
                prop_assert_eq!(without.has(Protocol::Tcp, port), in_a && !in_b, "{}", port);
            }
            prop_assert_eq!(united.others, a.others || b.others);
            prop_assert_eq!(common.others, a.others && b.others);
            prop_assert_eq!(without.others, a.others && !b.others);
            prop_assert!(PortSet::all().without(&PortSet::all()).is_empty());
        }
    }

    #[test]
    fn a_set_is_told_as_people_write_ports() {
        assert_eq!(PortSet::all().words(), "everything");
        assert_eq!(PortSet::default().words(), "");
        let mut set = PortSet::default();
        set.add(Protocol::Tcp, 80, 80);
        set.add(Protocol::Tcp, 90, 99);
        set.add(Protocol::Udp, 0, u16::MAX);
        set.others = true;
        assert_eq!(set.words(), "80/TCP, 90-99/TCP, UDP, ICMP and others");
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
