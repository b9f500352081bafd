//! The programs' counters, summed over CPUs.

use super::{
    DatapathError,
    maps::{self, Maps},
};
use aya::maps::{MapData, MapError, PerCpuArray, PerCpuValues};
use cni_ebpf_common::verdict::{Counter, DropReason, Path};
use std::collections::BTreeMap;

const DROPS: &str = "drops";

/// Drops of one reason on one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropRow {
    /// An endpoint's host-side interface, or an uplink.
    pub ifindex: u32,
    pub reason: DropReason,
    pub packets: u64,
    pub bytes: u64,
}

impl Maps {
    /// Drops by interface and reason, in this order.
    pub(super) fn drops(&self) -> Result<Vec<DropRow>, DatapathError> {
        // A program may add a row during the walk, and a row can then come twice.
        let mut rows = BTreeMap::new();
        for (key, values) in maps::all(self.drops.iter(), DROPS)? {
            // An unknown number was written by a newer agent's programs: its totals stay there.
            if let Ok(reason) = DropReason::try_from(key.reason) {
                rows.insert((key.ifindex, reason), sum(&values));
            }
        }
        let row = |((ifindex, reason), counter): ((u32, DropReason), Counter)| DropRow {
            ifindex,
            reason,
            packets: counter.packets,
            bytes: counter.bytes,
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Drops by reason since the maps were made, also of interfaces that are gone.
    pub(super) fn drop_totals(&self) -> Result<Vec<(DropReason, Counter)>, DatapathError> {
        let read = |r: &DropReason| Ok((*r, slot(&self.drop_totals, "drop_totals", *r as u32)?));
        DropReason::ALL.iter().map(read).collect()
    }

    /// Packets by the way they took.
    pub(super) fn paths(&self) -> Result<Vec<(Path, Counter)>, DatapathError> {
        let read = |p: &Path| Ok((*p, slot(&self.paths, "paths", *p as u32)?));
        Path::ALL.iter().map(read).collect()
    }

    /// Removes the rows of an interface that is gone: its number will be another's.
    pub(super) fn forget_drops(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.retain_drops(|row| row != ifindex)
    }

    /// Removes the counters of interfaces that are not to be kept.
    pub(super) fn retain_drops(&mut self, keep: impl Fn(u32) -> bool) -> Result<(), DatapathError> {
        let keys: Result<Vec<_>, MapError> = self.drops.keys().collect();
        let keys = keys.map_err(|source| DatapathError::Map {
            action: "list",
            map: DROPS,
            source,
        })?;
        for key in keys.iter().filter(|key| !keep(key.ifindex)) {
            maps::gone(self.drops.remove(key), DROPS)?;
        }
        Ok(())
    }
}

fn slot(
    array: &PerCpuArray<MapData, Counter>,
    map: &'static str,
    index: u32,
) -> Result<Counter, DatapathError> {
    let values = array.get(&index, 0).map_err(|source| DatapathError::Map {
        action: "read",
        map,
        source,
    })?;
    Ok(sum(&values))
}

fn sum(values: &PerCpuValues<Counter>) -> Counter {
    values.iter().fold(Counter::default(), |sum, one| Counter {
        packets: sum.packets.wrapping_add(one.packets),
        bytes: sum.bytes.wrapping_add(one.bytes),
    })
}
