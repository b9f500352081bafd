//! Tables for the edges, and a comparison with a reading of the rules that is too slow to ship.

use super::*;
use proptest::prelude::*;
use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

fn pod(n: u32) -> AttachmentId {
    AttachmentId::new(&format!("pod{n}"), "eth0").unwrap()
}

fn prefix(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pools(prefixes: &[&str]) -> Pools {
    let mut pools = Pools::new(Duration::from_secs(60));
    pools
        .set_prefixes(&prefixes.iter().map(|p| prefix(p)).collect::<Vec<_>>())
        .unwrap();
    pools
}

fn all(pools: &mut Pools) -> Vec<IpAddr> {
    let mut got = Vec::new();
    while let Ok(given) = pools.allocate(&pod(got.len() as u32), &[], 0) {
        got.extend(given.addresses.iter());
    }
    got
}

#[test]
fn special_addresses_are_never_given() {
    let check = |net: &str, first: &str, last: &str, count: usize| {
        let got = all(&mut pools(&[net]));
        assert_eq!(
            (got[0], *got.last().unwrap(), got.len()),
            (ip(first), ip(last), count),
            "{net}"
        );
    };
    check("100.11.1.0/24", "100.11.1.1", "100.11.1.254", 254);
    check("100.11.1.128/25", "100.11.1.129", "100.11.1.254", 126);
    check("10.0.0.0/30", "10.0.0.1", "10.0.0.2", 2);
    check("10.0.0.0/31", "10.0.0.0", "10.0.0.1", 2);
    check("10.0.0.7/32", "10.0.0.7", "10.0.0.7", 1);
    check("255.255.255.0/24", "255.255.255.1", "255.255.255.254", 254);
    check("fd00:1::/120", "fd00:1::1", "fd00:1::ff", 255);
    check("fd00:1::/127", "fd00:1::", "fd00:1::1", 2);
    check("fd00:1::5/128", "fd00:1::5", "fd00:1::5", 1);
}

#[test]
fn a_slash_64_costs_what_is_in_use() {
    let mut pools = pools(&["fd00:11:1::/64"]);
    let given = pools.allocate(&pod(1), &[], 0).unwrap();
    assert_eq!(given.addresses.v6, Some("fd00:11:1::1".parse().unwrap()));
    assert_eq!(pools.usage(0)[0].total, u64::MAX.into());
    let far = ip("fd00:11:1::ffff:ffff:ffff:ffff");
    pools.allocate(&pod(2), &[far], 0).unwrap();
    assert_eq!(pools.owner(far), Some(&pod(2)));
}

#[test]
fn the_whole_ipv6_space_does_not_overflow() {
    let mut pools = pools(&["::/0"]);
    let last = ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    pools.allocate(&pod(1), &[last], 0).unwrap();
    assert_eq!(pools.usage(0)[0].used, 1);
}

#[test]
fn errors_say_what_to_do() {
    let mut none = Pools::new(Duration::ZERO);
    let text = none.allocate(&pod(1), &[], 0).unwrap_err().to_string();
    assert!(text.contains("spec.podCIDRs"), "{text}");

    let mut pools = pools(&["10.0.0.0/30", "fd00::/126"]);
    let check = |pools: &mut Pools, wanted: &[&str], parts: &[&str]| {
        let wanted: Vec<_> = wanted.iter().map(|a| ip(a)).collect();
        let text = pools.allocate(&pod(9), &wanted, 0).unwrap_err().to_string();
        for part in parts {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    };
    check(
        &mut pools,
        &["10.0.1.1"],
        &["10.0.1.1", "10.0.0.0/30, fd00::/126"],
    );
    check(&mut pools, &["10.0.0.0"], &["network, broadcast"]);
    check(&mut pools, &["10.0.0.3"], &["network, broadcast"]);
    check(&mut pools, &["fd00::"], &["subnet-router"]);
    check(&mut pools, &["10.0.0.1", "10.0.0.2"], &["both requested"]);
    pools
        .allocate(&pod(1), &[ip("10.0.0.2"), ip("10.0.0.2")], 0)
        .unwrap();
    check(
        &mut pools,
        &["10.0.0.2"],
        &["10.0.0.2 is in use by pod1/eth0"],
    );
    pools.allocate(&pod(2), &[], 0).unwrap();
    check(
        &mut pools,
        &[],
        &["2 of 2 addresses of podCIDR 10.0.0.0/30 are in use"],
    );
    for (bad, part) in [
        (vec!["10.0.0.1/24"], "10.0.0.0/24 is meant"),
        (vec!["10.0.0.0/24", "10.1.0.0/24"], "same family"),
    ] {
        let bad: Vec<_> = bad.into_iter().map(prefix).collect();
        let text = pools.set_prefixes(&bad).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(
        pools.prefixes().count(),
        2,
        "a refused change changes nothing"
    );
}

#[test]
fn a_full_family_leaves_the_other_untouched() {
    let mut pools = pools(&["10.0.0.0/24", "fd00::/127"]);
    pools.allocate(&pod(1), &[], 0).unwrap();
    pools.allocate(&pod(2), &[], 0).unwrap();
    let before = pools.usage(0);
    assert!(matches!(
        pools.allocate(&pod(3), &[], 0),
        Err(IpamError::Exhausted { .. })
    ));
    assert_eq!(pools.usage(0), before);
}

#[test]
fn reuse_waits_for_the_whole_prefix_and_warns_while_cooling() {
    let mut pools = pools(&["10.0.0.0/29"]);
    let got = all(&mut pools);
    pools.release(
        got[3],
        Released {
            sequence: 1,
            at: 100,
        },
    );
    pools.release(
        got[0],
        Released {
            sequence: 2,
            at: 130,
        },
    );
    pools.release(
        got[0],
        Released {
            sequence: 3,
            at: 999,
        },
    );
    assert_eq!(
        pools.usage(165)[0].cooling,
        1,
        "a second release changes nothing"
    );
    let first = pools.allocate(&pod(50), &[], 165).unwrap();
    assert_eq!(
        (first.addresses.iter().next(), first.cooling),
        (Some(got[3]), vec![])
    );
    let second = pools.allocate(&pod(51), &[], 165).unwrap();
    assert_eq!(
        (second.addresses.iter().next(), second.cooling),
        (Some(got[0]), vec![got[0]])
    );
}

#[test]
fn a_changed_prefix_keeps_living_pods_and_forgets_the_released() {
    let mut pools = pools(&["10.0.0.0/24", "fd00::/64"]);
    for n in 0..3 {
        pools.allocate(&pod(n), &[], 0).unwrap();
    }
    pools.release(ip("10.0.0.1"), Released { sequence: 1, at: 0 });
    pools.release(ip("fd00::1"), Released { sequence: 2, at: 0 });
    let forgotten = pools.set_prefixes(&[prefix("10.0.1.0/24")]).unwrap();
    assert_eq!(
        forgotten,
        [ip("10.0.0.1")],
        "the IPv6 one waits for a prefix"
    );
    assert_eq!(pools.owner(ip("10.0.0.2")), Some(&pod(1)));
    assert_eq!(pools.usage(0)[0].used, 0);
    let given = pools.allocate(&pod(7), &[], 0).unwrap();
    assert_eq!(given.addresses.v4, Some(Ipv4Addr::new(10, 0, 1, 1)));
    assert!(
        pools
            .release(ip("10.0.0.2"), Released { sequence: 3, at: 0 })
            .is_empty()
    );
    assert_eq!(pools.owner(ip("10.0.0.2")), None);
    pools
        .set_prefixes(&[prefix("10.0.0.0/24"), prefix("fd00::/64")])
        .unwrap();
    assert_eq!(
        pools.owner(ip("10.0.0.3")),
        Some(&pod(2)),
        "a stray comes home"
    );
    let given = pools.allocate(&pod(8), &[], 0).unwrap();
    let expected = vec![ip("10.0.0.1"), ip("fd00::4")];
    assert_eq!(
        given.addresses.iter().collect::<Vec<_>>(),
        expected,
        "fd00::1 still rests"
    );
}

#[test]
fn released_addresses_are_remembered_up_to_a_limit_then_oldest_forgotten() {
    let mut pool = Pool::new(prefix("fd00::/64")).unwrap();
    let mut forgotten = Vec::new();
    for n in 1..=(MAX_RELEASED as u64 + 2) {
        let choice = pool.choose(None, 0, 0).unwrap();
        pool.take(choice, &pod(0));
        forgotten.extend(pool.release(choice.address, Released { sequence: n, at: n }));
    }
    assert_eq!(forgotten, [ip("fd00::1"), ip("fd00::2")]);
}

/// The rules, read plainly: every address of the prefix in a list, each with its state.
struct Oracle {
    unused: Vec<IpAddr>,
    released: Vec<IpAddr>,
    used: BTreeMap<IpAddr, AttachmentId>,
}

impl Oracle {
    fn allocate(&mut self, owner: &AttachmentId, wanted: Option<IpAddr>) -> Option<IpAddr> {
        let address = match wanted {
            Some(wanted) => [&self.unused, &self.released]
                .into_iter()
                .flatten()
                .find(|a| **a == wanted),
            None => self.unused.first().or(self.released.first()),
        };
        let address = *address?;
        self.unused.retain(|a| *a != address);
        self.released.retain(|a| *a != address);
        self.used.insert(address, owner.clone());
        Some(address)
    }

    fn release(&mut self, address: IpAddr) {
        if self.used.remove(&address).is_some() {
            self.released.push(address);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Allocate,
    AllocateWanted(u8),
    Release(u8),
    /// Everything is rebuilt from what the store would hold.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Allocate),
        2 => (0..40u8).prop_map(Step::AllocateWanted),
        4 => (0..40u8).prop_map(Step::Release),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_the_oracle_on_any_history(steps in steps(), v6: bool) {
        let net = if v6 { prefix("fd00:7::/123") } else { prefix("10.9.8.0/27") };
        let at = |n: u8| net.iter().nth(n.into());
        let special = |a: &IpAddr| *a == net.network() || (!v6 && *a == net.broadcast());
        let mut oracle = Oracle {
            unused: net.iter().filter(|a| !special(a)).collect(),
            released: Vec::new(),
            used: BTreeMap::new(),
        };
        let total = oracle.unused.len();
        let mut pools = Pools::new(Duration::from_secs(5));
        pools.set_prefixes(&[net]).unwrap();
        let mut rows = BTreeMap::new();
        for (n, step) in steps.into_iter().enumerate() {
            let owner = pod(n as u32);
            let now = n as u64;
            match step {
                Step::Allocate | Step::AllocateWanted(_) => {
                    let wanted = match step { Step::AllocateWanted(n) => at(n), _ => None };
                    let wanted: Vec<_> = wanted.into_iter().collect();
                    let got = pools.allocate(&owner, &wanted, now);
                    let expected = oracle.allocate(&owner, wanted.first().copied());
                    prop_assert_eq!(got.as_ref().ok().and_then(|g| g.addresses.iter().next()), expected);
                    match got {
                        Ok(given) => rows.retain(|a, _| !given.addresses.iter().any(|g| g == *a)),
                        Err(IpamError::Exhausted { used, .. }) => prop_assert_eq!(used, total as u128),
                        Err(_) => prop_assert!(!wanted.is_empty()),
                    }
                }
                Step::Release(n) => if let Some(address) = at(n) {
                    let released = Released { sequence: now, at: now };
                    if pools.owner(address).is_some() {
                        rows.insert(address, released);
                    }
                    prop_assert!(pools.release(address, released).is_empty());
                    oracle.release(address);
                },
                Step::Restart => {
                    pools = Pools::new(Duration::from_secs(5));
                    pools.restore(oracle.used.clone(), rows.clone());
                    prop_assert!(pools.set_prefixes(&[net]).unwrap().is_empty());
                }
            }
            for (address, owner) in &oracle.used {
                prop_assert_eq!(pools.owner(*address), Some(owner));
            }
            prop_assert_eq!(pools.usage(now)[0].used as usize, oracle.used.len());
        }
    }

    #[test]
    fn both_families_are_given_together_or_not_at_all(
        v4 in 26..=32u8, v6 in 122..=128u8, releases in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut pools = Pools::new(Duration::ZERO);
        let nets = [format!("10.0.0.0/{v4}"), format!("fd00::/{v6}")].map(|n| prefix(&n));
        pools.set_prefixes(&nets).unwrap();
        let mut held: Vec<Allocation> = Vec::new();
        let mut sequence = 0;
        for index in releases.into_iter().map(Some).chain([None]) {
            while let Ok(given) = pools.allocate(&pod(0), &[], 0) {
                prop_assert_eq!(given.addresses.iter().count(), 2);
                for other in &held {
                    prop_assert_ne!(other.addresses.v4, given.addresses.v4);
                    prop_assert_ne!(other.addresses.v6, given.addresses.v6);
                }
                held.push(given);
            }
            let used: Vec<_> = pools.usage(0).iter().map(|u| u.used as usize).collect();
            prop_assert_eq!(used, vec![held.len(); 2]);
            if let Some(index) = index {
                let gone = held.swap_remove(index.index(held.len()));
                for address in gone.addresses.iter() {
                    sequence += 1;
                    pools.release(address, Released { sequence, at: 0 });
                }
            }
        }
    }
}
