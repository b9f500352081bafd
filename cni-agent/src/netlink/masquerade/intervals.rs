//! Prefixes as the disjoint intervals that the kernel's interval sets want.

use super::ruleset::Family;
use ipnetwork::IpNetwork;

/// Addresses from the first to the last, both included, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) first: u128,
    pub(super) last: u128,
}

/// The addresses of one family in any of `prefixes`: sorted, overlapping and adjacent ones joined.
pub(super) fn intervals<'a>(
    prefixes: impl IntoIterator<Item = &'a IpNetwork>,
    family: Family,
) -> Vec<Interval> {
    let mut all: Vec<Interval> = prefixes
        .into_iter()
        .filter_map(|prefix| match (prefix, family) {
            (IpNetwork::V4(prefix), Family::V4) => Some(Interval {
                first: u32::from(prefix.network()).into(),
                last: u32::from(prefix.broadcast()).into(),
            }),
            (IpNetwork::V6(prefix), Family::V6) => Some(Interval {
                first: prefix.network().into(),
                last: prefix.broadcast().into(),
            }),
            _ => None,
        })
        .collect();
    all.sort_unstable_by_key(|interval| interval.first);
    let mut joined: Vec<Interval> = Vec::with_capacity(all.len());
    for interval in all {
        match joined.last_mut() {
            Some(before) if before.last.saturating_add(1) >= interval.first => {
                before.last = before.last.max(interval.last);
            }
            _ => joined.push(interval),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn check(prefixes: &[&str], expected: &[(&str, &str)]) {
        let prefixes: Vec<IpNetwork> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
        let number = |text: &str| u128::from(u32::from(text.parse::<Ipv4Addr>().unwrap()));
        let expected: Vec<_> = expected
            .iter()
            .map(|(first, last)| Interval {
                first: number(first),
                last: number(last),
            })
            .collect();
        assert_eq!(intervals(&prefixes, Family::V4), expected);
    }

    #[test]
    fn prefixes_become_disjoint_intervals() {
        check(&[], &[]);
        check(
            &["10.0.0.0/8", "10.1.0.0/16"],
            &[("10.0.0.0", "10.255.255.255")],
        );
        check(
            &["10.1.0.0/24", "10.0.255.0/24"],
            &[("10.0.255.0", "10.1.0.255")],
        );
        check(
            &["192.0.2.7/32", "10.0.0.9/24", "fd00::/8", "192.0.2.7/32"],
            &[("10.0.0.0", "10.0.0.255"), ("192.0.2.7", "192.0.2.7")],
        );
        check(
            &["0.0.0.0/0", "10.0.0.0/8"],
            &[("0.0.0.0", "255.255.255.255")],
        );
    }

    #[test]
    fn all_of_ipv6_is_one_interval() {
        let all = ["::/0".parse().unwrap(), "ff00::/8".parse().unwrap()];
        assert_eq!(
            intervals(&all, Family::V6),
            [Interval {
                first: 0,
                last: u128::MAX
            }]
        );
    }
}
