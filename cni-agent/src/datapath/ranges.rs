//! Source ranges of load balancers, in sets: frontends with the same ranges share one number.

use super::{
    DatapathError,
    maps::{all, gone, typed, write},
    rows,
};
use aya::{
    Ebpf,
    maps::{LpmTrie, MapData, lpm_trie::Key},
};
use cni_ebpf_common::outside::{MAX_RANGES, RANGES_BITS, RangeKey};
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

const SOURCE_RANGES: &str = "source_ranges";
/// Bits before an IPv4 address in the key of both families.
const MAPPED: u8 = 96;

/// Ranges in order, each once.
pub(super) type Ranges = BTreeSet<IpNetwork>;

/// The map, and what it holds.
pub(super) struct SourceRanges {
    map: LpmTrie<MapData, RangeKey, u32>,
    /// Numbers by ranges, with how many frontends' rows have them.
    held: BTreeMap<Ranges, (u32, usize)>,
    /// The next number; 0 stands for "everybody".
    next: u32,
}

impl SourceRanges {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            map: typed(ebpf, SOURCE_RANGES)?,
            held: BTreeMap::new(),
            next: 1,
        })
    }

    /// The number of these ranges, for one more row; written if there is none. Without room nothing
    /// changes.
    pub(super) fn hold(&mut self, ranges: Option<&Ranges>) -> Result<u32, DatapathError> {
        let Some(ranges) = ranges else {
            return Ok(0);
        };
        if let Some((number, rows)) = self.held.get_mut(ranges) {
            *rows += 1;
            return Ok(*number);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        for range in ranges {
            let result = self.map.insert(&key(number, range), 1, 0);
            if let Err(fault) = write(result, SOURCE_RANGES, MAX_RANGES) {
                self.remove(number, ranges)?;
                return Err(fault);
            }
        }
        self.held.insert(ranges.clone(), (number, 1));
        Ok(number)
    }

    /// One row less has the ranges; they go with the last one.
    pub(super) fn release(&mut self, ranges: Option<&Ranges>) -> Result<(), DatapathError> {
        let Some(ranges) = ranges else {
            return Ok(());
        };
        let Some((number, rows)) = self.held.get_mut(ranges) else {
            return Ok(());
        };
        *rows = rows.saturating_sub(1);
        if *rows > 0 {
            return Ok(());
        }
        let number = *number;
        self.held.remove(ranges);
        self.remove(number, ranges)
    }

    fn remove(&mut self, number: u32, ranges: &Ranges) -> Result<(), DatapathError> {
        for range in ranges {
            gone(self.map.remove(&key(number, range)), SOURCE_RANGES)?;
        }
        Ok(())
    }

    /// What an agent before this one wrote, by number; `used` are the numbers of the frontends' rows. Ranges
    /// that no row has are removed.
    pub(super) fn read(&mut self, used: &[u32]) -> Result<BTreeMap<u32, Ranges>, DatapathError> {
        let mut uses: BTreeMap<u32, usize> = BTreeMap::new();
        for number in used.iter().filter(|number| **number != 0) {
            *uses.entry(*number).or_default() += 1;
        }
        let mut found: BTreeMap<u32, Ranges> = uses.keys().map(|n| (*n, Ranges::new())).collect();
        let mut strays = Vec::new();
        for (key, _) in all(self.map.iter(), SOURCE_RANGES)? {
            let data = key.data();
            let number = u32::from_be(data.ranges_be);
            match (found.get_mut(&number), range_of(&key)) {
                (Some(ranges), Some(range)) => {
                    ranges.insert(range);
                }
                _ => strays.push(key),
            }
        }
        for key in strays {
            gone(self.map.remove(&key), SOURCE_RANGES)?;
        }
        let greatest = found.keys().next_back().copied().unwrap_or(0);
        self.next = greatest.wrapping_add(1).max(1);
        self.held.clear();
        let mut whole = BTreeMap::new();
        for (number, ranges) in found {
            // Two numbers of one content: the rows of the other are as if they had other ranges.
            if self.held.contains_key(&ranges) {
                self.remove(number, &ranges)?;
                continue;
            }
            let rows = uses.get(&number).copied().unwrap_or(0);
            self.held.insert(ranges.clone(), (number, rows));
            whole.insert(number, ranges);
        }
        Ok(whole)
    }
}

fn key(number: u32, range: &IpNetwork) -> Key<RangeKey> {
    let prefix = match range {
        IpNetwork::V4(range) => range.prefix() + MAPPED,
        IpNetwork::V6(range) => range.prefix(),
    };
    let data = RangeKey {
        ranges_be: number.to_be(),
        client: rows::addr_of(range.network()),
    };
    Key::new(RANGES_BITS + u32::from(prefix), data)
}

fn range_of(key: &Key<RangeKey>) -> Option<IpNetwork> {
    let prefix = u8::try_from(key.prefix_len().checked_sub(RANGES_BITS)?).ok()?;
    let data = key.data();
    match rows::ip_of(&data.client) {
        IpAddr::V4(ip) => IpNetwork::new(ip.into(), prefix.checked_sub(MAPPED)?).ok(),
        IpAddr::V6(ip) => IpNetwork::new(ip.into(), prefix).ok(),
    }
}
