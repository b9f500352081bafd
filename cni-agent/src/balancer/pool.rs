//! PURE: which Service of the type LoadBalancer gets which address of the pool.
//!
//! An address stays where it is as long as it may: a client knows it. So first those keep theirs that
//! have one of the pool, then those that ask for a certain one get it, then the others the lowest that
//! is free.

use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Addresses from the first to the last, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

impl Range {
    /// Whether the address is one of it.
    pub fn holds(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last
    }

    /// Its family.
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// Its addresses, lowest first.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, last) = (number(self.first), number(self.last));
        let v4 = self.first.is_ipv4();
        (first..=last).map(move |n| address(n, v4))
    }
}

impl FromStr for Range {
    type Err = String;

    /// A prefix (`192.0.2.16/28`: all of it), two addresses (`192.0.2.16-192.0.2.31`), or one.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?}: write a prefix such as 192.0.2.16/28, a range such as 192.0.2.16-192.0.2.31, or an address"
            )
        };
        let parse = |text: &str| text.trim().parse::<IpAddr>().map_err(|_unreadable| wrong());
        let (first, last) = if let Some((first, last)) = text.split_once('-') {
            (parse(first)?, parse(last)?)
        } else if text.contains('/') {
            let prefix: IpNetwork = text.trim().parse().map_err(|_unreadable| wrong())?;
            if prefix.ip() != prefix.network() {
                return Err(format!(
                    "{text:?}: the prefix is {}/{}",
                    prefix.network(),
                    prefix.prefix()
                ));
            }
            (prefix.network(), prefix.broadcast())
        } else {
            (parse(text)?, parse(text)?)
        };
        if first.is_ipv4() != last.is_ipv4() {
            return Err(format!("{text:?}: both addresses have to be of one family"));
        }
        if first > last {
            return Err(format!("{text:?}: the first address is above the last"));
        }
        for end in [first, last] {
            if end.is_loopback() || end.is_multicast() || end.is_unspecified() {
                return Err(format!(
                    "{text:?}: {end} is no address of one host on a link"
                ));
            }
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    if v4 {
        // A range of IPv4 was made of 32 bits.
        Ipv4Addr::from(number as u32).into()
    } else {
        Ipv6Addr::from(number).into()
    }
}

/// A Service that wants addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Namespace and name.
    pub service: (String, String),
    /// Families it is to have an address of: for each, whether it is IPv4.
    pub families: BTreeSet<bool>,
    /// Those of `status.loadBalancer.ingress`.
    pub current: Vec<IpAddr>,
    /// Those that it asks for; empty: any.
    pub wanted: Vec<IpAddr>,
}

/// What a Service gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub service: (String, String),
    /// IPv4 first, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Why it has none of a family it is to have, for people.
    pub problem: Option<String>,
}

/// Distributes the pool's addresses, each to one Service. The order of the claims is the order of who
/// comes first where two want the same. `others` are in use otherwise, with by whom, and given to nobody.
pub fn distribute(
    pool: &[Range],
    others: &BTreeMap<IpAddr, String>,
    claims: &[Claim],
) -> Vec<Grant> {
    let mut taken: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut grants: Vec<BTreeMap<bool, IpAddr>> = vec![BTreeMap::new(); claims.len()];
    let mut problems: Vec<Vec<String>> = vec![Vec::new(); claims.len()];
    let inside = |address: IpAddr| pool.iter().any(|range| range.holds(address));
    // What is there stays, unless the Service asks for another one.
    for (i, claim) in claims.iter().enumerate() {
        for address in &claim.current {
            let v4 = address.is_ipv4();
            let asked = claim.wanted.iter().any(|w| w.is_ipv4() == v4);
            let good = claim.families.contains(&v4)
                && inside(*address)
                && !taken.contains_key(address)
                && !grants[i].contains_key(&v4)
                && (!asked || claim.wanted.contains(address));
            if good {
                taken.insert(*address, i);
                grants[i].insert(v4, *address);
            }
        }
    }
    for (i, claim) in claims.iter().enumerate() {
        for address in &claim.wanted {
            let v4 = address.is_ipv4();
            // One of those it asks for is enough.
            if grants[i].contains_key(&v4) {
                continue;
            }
            let fault = if !claim.families.contains(&v4) {
                Some("is of a family that spec.ipFamilies doesn't have".to_owned())
            } else if !inside(*address) {
                Some(format!("is not in the pool ({})", list(pool)))
            } else if let Some(by) = others.get(address) {
                Some(format!("is {by}'s"))
            } else {
                taken.get(address).map(|other| {
                    let (namespace, name) = &claims[*other].service;
                    format!("is the Service {namespace}/{name}'s")
                })
            };
            match fault {
                Some(fault) => problems[i].push(format!("the wanted address {address} {fault}")),
                None => {
                    taken.insert(*address, i);
                    grants[i].insert(v4, *address);
                }
            }
        }
    }
    for (i, claim) in claims.iter().enumerate() {
        for v4 in &claim.families {
            let asked = claim.wanted.iter().any(|w| w.is_ipv4() == *v4);
            if asked || grants[i].contains_key(v4) {
                continue;
            }
            let family = pool.iter().filter(|range| range.first.is_ipv4() == *v4);
            match family
                .flat_map(Range::addresses)
                .find(|a| !taken.contains_key(a) && !others.contains_key(a))
            {
                Some(free) => {
                    taken.insert(free, i);
                    grants[i].insert(*v4, free);
                }
                None => problems[i].push(format!(
                    "the pool ({}) has no free IPv{} address: add a range to --load-balancer-pool",
                    list(pool),
                    if *v4 { 4 } else { 6 }
                )),
            }
        }
    }
    let rows = claims.iter().zip(grants).zip(problems);
    rows.map(|((claim, granted), problems)| Grant {
        service: claim.service.clone(),
        // `false` sorts before `true`: IPv6 is first in the map.
        addresses: granted.into_values().rev().collect(),
        problem: (!problems.is_empty()).then(|| problems.join("; ")),
    })
    .collect()
}

fn list(pool: &[Range]) -> String {
    let ranges: Vec<String> = pool.iter().map(ToString::to_string).collect();
    ranges.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(texts: &[&str]) -> Vec<Range> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn claim(name: &str, current: &[&str], wanted: &[&str]) -> Claim {
        Claim {
            service: ("default".into(), name.into()),
            families: BTreeSet::from([true]),
            current: ips(current),
            wanted: ips(wanted),
        }
    }

    fn granted(pool: &[Range], claims: &[Claim]) -> Vec<Vec<IpAddr>> {
        let grants = distribute(pool, &BTreeMap::new(), claims);
        grants.into_iter().map(|grant| grant.addresses).collect()
    }

    #[test]
    fn ranges_are_read_and_faults_told_with_what_to_write() {
        let range: Range = "192.0.2.16/30".parse().unwrap();
        assert_eq!(range.to_string(), "192.0.2.16-192.0.2.19");
        assert_eq!(
            "2001:db8::7".parse::<Range>().unwrap().to_string(),
            "2001:db8::7"
        );
        for (text, told) in [
            ("192.0.2.17/30", "192.0.2.16/30"),
            ("192.0.2.9-192.0.2.1", "above the last"),
            ("192.0.2.9-::1", "one family"),
            ("127.0.0.1", "no address of one host"),
            ("224.0.0.0/4", "no address of one host"),
            ("pool", "192.0.2.16/28"),
        ] {
            let fault = text.parse::<Range>().unwrap_err();
            assert!(fault.contains(told) && fault.contains(text), "{fault}");
        }
    }

    #[test]
    fn who_has_an_address_keeps_it_and_others_get_the_lowest_that_is_free() {
        let pool = pool(&["192.0.2.1-192.0.2.3"]);
        let claims = [
            claim("a", &[], &[]),
            claim("b", &["192.0.2.1"], &[]),
            claim("c", &[], &["192.0.2.2"]),
        ];
        let expected = [
            ips(&["192.0.2.3"]),
            ips(&["192.0.2.1"]),
            ips(&["192.0.2.2"]),
        ];
        assert_eq!(granted(&pool, &claims), expected);
    }

    #[test]
    fn an_address_outside_of_the_pool_is_replaced() {
        let pool = pool(&["192.0.2.1"]);
        let claims = [claim("a", &["198.51.100.7"], &[])];
        assert_eq!(granted(&pool, &claims), [ips(&["192.0.2.1"])]);
    }

    #[test]
    fn what_is_in_use_otherwise_is_given_to_nobody_and_taken_from_nobody() {
        let pool = pool(&["192.0.2.1-192.0.2.3"]);
        let node = "node n1".to_owned();
        let others = ips(&["192.0.2.1", "192.0.2.2"]).into_iter();
        let others: BTreeMap<_, _> = others.map(|ip| (ip, node.clone())).collect();
        let claims = [
            claim("a", &[], &[]),
            claim("b", &["192.0.2.1"], &[]),
            claim("c", &[], &["192.0.2.2"]),
        ];
        let grants = distribute(&pool, &others, &claims);
        assert_eq!(grants[0].addresses, ips(&["192.0.2.3"]));
        assert_eq!(grants[1].addresses, ips(&["192.0.2.1"]));
        assert!(grants[2].addresses.is_empty());
        let told = grants[2].problem.as_deref().unwrap();
        assert!(told.contains("is node n1's"), "{told}");
    }

    #[test]
    fn who_gets_none_is_told_why() {
        let pool = pool(&["192.0.2.1"]);
        let claims = [
            claim("a", &["192.0.2.1"], &[]),
            claim("b", &[], &[]),
            claim("c", &[], &["192.0.2.1"]),
            claim("d", &[], &["192.0.2.9"]),
            claim("e", &[], &["2001:db8::1"]),
        ];
        let grants = distribute(&pool, &BTreeMap::new(), &claims);
        let told: Vec<_> = grants
            .iter()
            .map(|grant| grant.problem.as_deref())
            .collect();
        assert_eq!(told[0], None);
        for (i, part) in [
            (1, "no free IPv4 address"),
            (2, "the Service default/a's"),
            (3, "not in the pool (192.0.2.1)"),
            (4, "spec.ipFamilies"),
        ] {
            assert!(told[i].is_some_and(|text| text.contains(part)), "{told:?}");
        }
    }

    #[test]
    fn a_service_of_both_families_gets_one_of_each() {
        let pool = pool(&["2001:db8::1-2001:db8::2", "192.0.2.1"]);
        let both = Claim {
            families: BTreeSet::from([true, false]),
            ..claim("a", &[], &[])
        };
        assert_eq!(
            granted(&pool, &[both]),
            [ips(&["192.0.2.1", "2001:db8::1"])]
        );
    }

    proptest! {
        /// Whatever is claimed: no address twice, none from elsewhere, none taken from who has it, and
        /// what was granted once is granted again.
        #[test]
        fn an_address_is_one_services_and_stays(
            claims in proptest::collection::vec(
                (proptest::collection::vec(0u8..9, 0..3), proptest::collection::vec(0u8..9, 0..2)), 0..8)
        ) {
            let pool = pool(&["192.0.2.1-192.0.2.6"]);
            let text = |n: &u8| format!("192.0.2.{n}").parse::<IpAddr>().unwrap();
            let mut claims: Vec<Claim> = claims.iter().enumerate().map(|(i, (current, wanted))| Claim {
                current: current.iter().map(text).collect(),
                wanted: wanted.iter().map(text).collect(),
                ..claim(&i.to_string(), &[], &[])
            }).collect();
            let first = granted(&pool, &claims);
            let all: Vec<IpAddr> = first.iter().flatten().copied().collect();
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
            prop_assert!(all.iter().all(|a| pool[0].holds(*a)));
            for (claim, got) in claims.iter().zip(&first) {
                prop_assert!(claim.wanted.is_empty() || got.iter().all(|a| claim.wanted.contains(a)));
            }
            for (claim, got) in claims.iter_mut().zip(&first) {
                claim.current = got.clone();
            }
            prop_assert_eq!(granted(&pool, &claims), first);
        }
    }
}
