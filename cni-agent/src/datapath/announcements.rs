//! Writes the addresses of Services that this node answers for on its uplinks' links. Each row ends by
//! itself, so that a node whose agent is gone falls silent.

use super::{
    DatapathError,
    maps::{all, gone, typed, write},
    rows,
};
use crate::model::Mac;
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use cni_ebpf_common::announcement::{Announcement, AnnouncementKey, MAX_ANNOUNCEMENTS};
use rustix::time::{ClockId, clock_gettime};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

const ANNOUNCEMENTS: &str = "announcements";

/// An address that is answered for on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announced {
    pub address: IpAddr,
    /// The uplink.
    pub ifindex: u32,
    /// The uplink's.
    pub mac: Mac,
}

/// The map.
pub(super) struct Announcements(HashMap<MapData, AnnouncementKey, Announcement>);

impl Announcements {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        typed(ebpf, ANNOUNCEMENTS).map(Self)
    }

    /// Makes the map hold these rows and no others, each for so long from now on.
    pub(super) fn sync(
        &mut self,
        desired: &[Announced],
        lasts: Duration,
    ) -> Result<(), DatapathError> {
        let until_ns = now_ns().saturating_add(u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX));
        let wanted: BTreeMap<_, _> = desired.iter().map(|one| row(one, until_ns)).collect();
        // First what goes: another node may answer for it by now.
        for (key, _) in all(self.0.iter(), ANNOUNCEMENTS)? {
            if !wanted.contains_key(&key) {
                gone(self.0.remove(&key), ANNOUNCEMENTS)?;
            }
        }
        let mut failed = None;
        for (key, row) in wanted {
            let written = self.0.insert(key, row, 0);
            // One without room must not silence those that have some.
            if let Err(error) = write(written, ANNOUNCEMENTS, MAX_ANNOUNCEMENTS) {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What is answered for now, in order.
    pub(super) fn list(&self) -> Result<Vec<Announced>, DatapathError> {
        let now = now_ns();
        let rows = all(self.0.iter(), ANNOUNCEMENTS)?.into_iter();
        let living = rows.filter(|(_, row)| now < row.until_ns);
        let mut living: Vec<_> = living
            .map(|(key, row)| Announced {
                address: rows::ip_of(&key.addr),
                ifindex: key.ifindex,
                mac: Mac(row.mac),
            })
            .collect();
        living.sort();
        Ok(living)
    }
}

fn row(announced: &Announced, until_ns: u64) -> (AnnouncementKey, Announcement) {
    let key = AnnouncementKey {
        addr: rows::addr_of(announced.address),
        ifindex: announced.ifindex,
    };
    let row = Announcement {
        until_ns,
        mac: announced.mac.0,
        pad: [0; 2],
    };
    (key, row)
}

/// By the clock of the programs.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let nanos = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanos).unwrap_or_default()
}
