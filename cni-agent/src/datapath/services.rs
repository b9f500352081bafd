//! Writes the tables of Services. A frontend's backends are lists of their own numbers: a new list is
//! written first, then the frontend's row, then the old list goes, so that a program finds a whole list
//! at any time.

use super::{
    DatapathError,
    lists::{Backends, Lists},
    maps::{all, gone, typed, write},
    ranges::{Ranges, SourceRanges},
    rows,
};
use crate::{
    model::Protocol,
    service::{Frontend, WhenEmpty},
};
use aya::{
    Ebpf,
    maps::{HashMap as Rows, MapData},
};
use cni_ebpf_common::{
    flow::{SCTP, TCP, UDP},
    service::{Backend, Frontend as Row, FrontendKey, List, MAX_FRONTENDS},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

const FRONTENDS: &str = "frontends";

/// What a call of `sync_services` did. An address counts as a frontend of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicesChange {
    pub added: usize,
    pub changed: usize,
    pub removed: usize,
    /// Somebody may still be bound to a backend that is gone: `Datapath::sweep_flows` frees them.
    pub unswept: bool,
    /// Frontends that found no room: packets to them are left to the host's stack.
    pub refused: Vec<Frontend>,
}

/// A frontend as the maps hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    affinity_secs: u32,
    flags: u32,
    ranges: Option<Arc<Ranges>>,
    internal: Backends,
    external: Backends,
}

impl Entry {
    /// Of both lists; one may be in both.
    fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.internal.iter().chain(self.external.iter())
    }
}

/// The maps of Services, and what was written to them.
pub(super) struct Services {
    frontends: Rows<MapData, FrontendKey, Row>,
    lists: Lists,
    ranges: SourceRanges,
    /// What the maps hold; read back after a start or a failure: a change of one frontend shall not cost
    /// a reading of all.
    written: Option<BTreeMap<FrontendKey, Entry>>,
    /// What the rows were written from, to tell by the allocation what is as it was.
    known: HashMap<FrontendKey, Arc<Frontend>>,
    /// Backends went since flows were swept last; also over a call that failed.
    pub(super) unswept: bool,
}

impl Services {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            frontends: typed(ebpf, FRONTENDS)?,
            lists: Lists::take(ebpf)?,
            ranges: SourceRanges::take(ebpf)?,
            written: None,
            known: HashMap::new(),
            unswept: false,
        })
    }

    /// Makes the maps hold these frontends and no others. One that is the same allocation as at the last
    /// call costs two look-ups.
    pub(super) fn sync<F: Clone + Into<Arc<Frontend>>>(
        &mut self,
        desired: &[F],
    ) -> Result<ServicesChange, DatapathError> {
        let mut known = std::mem::take(&mut self.known);
        let mut written = match self.written.take() {
            Some(written) => written,
            None => {
                known.clear();
                self.read()?
            }
        };
        let mut change = ServicesChange::default();
        let mut seen = HashSet::with_capacity(written.len());
        let mut waiting = Vec::new();
        for frontend in desired {
            let frontend: Arc<Frontend> = frontend.clone().into();
            if !is_served(&frontend) {
                continue;
            }
            let key = key_of(&frontend);
            let address = address_of(key);
            if seen.insert(address) && !written.contains_key(&address) {
                let itself = Entry::default();
                match self.write(address, &itself, &mut written) {
                    Ok(_) => change.added += 1,
                    Err(DatapathError::MapFull { .. }) => waiting.push((address, itself, None)),
                    Err(other) => return Err(other),
                }
            }
            seen.insert(key);
            if known
                .get(&key)
                .is_some_and(|old| Arc::ptr_eq(old, &frontend))
            {
                continue;
            }
            let entry = entry_of(&frontend);
            let before = written.get(&key);
            if before.is_some_and(|old| *old == entry) {
                known.insert(key, frontend);
                continue;
            }
            if let Some(old) = before {
                self.unswept |= binds(key, old, Some(&entry));
            }
            match self.write(key, &entry, &mut written) {
                Ok(true) => change.changed += 1,
                Ok(false) => change.added += 1,
                Err(DatapathError::MapFull { .. }) => {
                    known.remove(&key);
                    waiting.push((key, entry, Some(frontend)));
                    continue;
                }
                Err(other) => return Err(other),
            }
            known.insert(key, frontend);
        }
        // All that was seen is there, but for what waits: where the numbers are the same nothing is over.
        if written.len() != seen.len() || !waiting.is_empty() {
            let gone: Vec<_> = written
                .keys()
                .filter(|key| !seen.contains(*key))
                .copied()
                .collect();
            for key in gone {
                if let Some(old) = written.get(&key) {
                    self.unswept |= binds(key, old, None);
                }
                self.remove(key, &mut written)?;
                known.remove(&key);
                change.removed += 1;
            }
        }
        for (key, entry, frontend) in waiting {
            match self.write(key, &entry, &mut written) {
                Ok(true) => change.changed += 1,
                Ok(false) => change.added += 1,
                Err(DatapathError::MapFull { .. }) => {
                    // Backends that are no more would be worse than the host's stack.
                    if let Some(old) = written.get(&key) {
                        self.unswept |= binds(key, old, None);
                        self.remove(key, &mut written)?;
                        change.removed += 1;
                    }
                    let refused = frontend.map(|frontend| Frontend::clone(&frontend));
                    change.refused.extend(refused);
                }
                Err(other) => return Err(other),
            }
        }
        change.unswept = self.unswept;
        self.written = Some(written);
        self.known = known;
        Ok(change)
    }

    /// Whether a frontend has a backend, as they were written last; so it is while that is not known.
    pub(super) fn has(&self, frontend: &FrontendKey, backend: &Backend) -> bool {
        self.written.as_ref().is_none_or(|written| {
            let entry = written.get(frontend);
            entry.is_some_and(|entry| entry.backends().any(|b| b == backend))
        })
    }

    /// Frontends with their backends, as they were written last.
    pub(super) fn present(&self) -> Option<BTreeMap<FrontendKey, BTreeSet<Backend>>> {
        let written = self.written.as_ref()?.iter();
        let backends = written.map(|(key, entry)| (*key, entry.backends().copied().collect()));
        Some(backends.collect())
    }

    /// Writes a frontend; whether it was there before. Without room nothing changes.
    fn write(
        &mut self,
        key: FrontendKey,
        entry: &Entry,
        written: &mut BTreeMap<FrontendKey, Entry>,
    ) -> Result<bool, DatapathError> {
        let row = self.hold(entry)?;
        let result = self.frontends.insert(key, row, 0);
        if let Err(fault) = write(result, FRONTENDS, MAX_FRONTENDS) {
            self.release(entry)?;
            return Err(fault);
        }
        let before = written.insert(key, entry.clone());
        if let Some(old) = &before {
            self.release(old)?;
        }
        Ok(before.is_some())
    }

    /// A row with what it leads to. Without room nothing changes.
    fn hold(&mut self, entry: &Entry) -> Result<Row, DatapathError> {
        let internal = self.lists.hold(&entry.internal)?;
        let external = match self.lists.hold(&entry.external) {
            Ok(external) => external,
            Err(fault) => {
                self.lists.release(&entry.internal)?;
                return Err(fault);
            }
        };
        let ranges = match self.ranges.hold(entry.ranges.as_deref()) {
            Ok(ranges) => ranges,
            Err(fault) => {
                self.lists.release(&entry.internal)?;
                self.lists.release(&entry.external)?;
                return Err(fault);
            }
        };
        Ok(Row {
            internal,
            external,
            affinity_secs: entry.affinity_secs,
            flags: entry.flags,
            ranges,
        })
    }

    fn release(&mut self, entry: &Entry) -> Result<(), DatapathError> {
        self.lists.release(&entry.internal)?;
        self.lists.release(&entry.external)?;
        self.ranges.release(entry.ranges.as_deref())
    }

    fn remove(
        &mut self,
        key: FrontendKey,
        written: &mut BTreeMap<FrontendKey, Entry>,
    ) -> Result<(), DatapathError> {
        gone(self.frontends.remove(&key), FRONTENDS)?;
        if let Some(old) = written.remove(&key) {
            self.release(&old)?;
        }
        Ok(())
    }

    /// What an agent before this one wrote. Frontends whose list is not whole are as if they had other
    /// backends.
    fn read(&mut self) -> Result<BTreeMap<FrontendKey, Entry>, DatapathError> {
        let rows = all(self.frontends.iter(), FRONTENDS)?;
        let values: Vec<Row> = rows.iter().map(|(_, row)| *row).collect();
        let lists = self.lists.read(&values)?;
        let numbers: Vec<u32> = values.iter().map(|row| row.ranges).collect();
        let ranges = self.ranges.read(&numbers)?;
        let ranges: BTreeMap<u32, Arc<Ranges>> =
            ranges.into_iter().map(|(n, r)| (n, Arc::new(r))).collect();
        let list = |list: List| lists.get(&list.number).cloned().unwrap_or_default();
        let entry = |row: Row| Entry {
            affinity_secs: row.affinity_secs,
            flags: row.flags,
            ranges: ranges.get(&row.ranges).cloned(),
            internal: list(row.internal),
            external: list(row.external),
        };
        Ok(rows
            .into_iter()
            .map(|(key, row)| (key, entry(row)))
            .collect())
    }
}

/// Whether somebody may still be bound to a backend that the frontend has no more: flows of UDP, clients
/// by affinity.
fn binds(key: FrontendKey, old: &Entry, new: Option<&Entry>) -> bool {
    let stays = |backend: &Backend| new.is_some_and(|new| new.backends().any(|b| b == backend));
    (key.protocol == UDP || old.affinity_secs != 0) && !old.backends().all(stays)
}

/// Whether there is something to be told of it: backends, also those that a policy hides.
fn is_served(frontend: &Frontend) -> bool {
    let nobody = frontend.internal.is_empty() && frontend.external.is_empty();
    !nobody || flags(frontend) != 0
}

fn entry_of(frontend: &Frontend) -> Entry {
    Entry {
        affinity_secs: frontend.affinity_secs,
        flags: flags(frontend),
        ranges: ranges(frontend),
        internal: frontend.internal.iter().map(backend_of).collect(),
        external: frontend.external.iter().map(backend_of).collect(),
    }
}

/// The row of a frontend's address: it tells a later fragment to a Service from one to anywhere else.
fn address_of(key: FrontendKey) -> FrontendKey {
    FrontendKey {
        port_be: 0,
        protocol: 0,
        ..key
    }
}

fn flags(frontend: &Frontend) -> u32 {
    let bit = |empty, bit| if empty == WhenEmpty::Drop { bit } else { 0 };
    bit(frontend.internal_empty, Row::INTERNAL_DROP)
        | bit(frontend.external_empty, Row::EXTERNAL_DROP)
        | if frontend.same_everywhere {
            Row::SAME_EVERYWHERE
        } else {
            0
        }
}

fn ranges(frontend: &Frontend) -> Option<Arc<Ranges>> {
    let ranges = frontend.source_ranges.as_ref()?;
    Some(Arc::new(ranges.iter().copied().collect()))
}

fn key_of(frontend: &Frontend) -> FrontendKey {
    FrontendKey {
        addr: rows::addr_of(frontend.address),
        port_be: frontend.port.to_be(),
        protocol: match frontend.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
            Protocol::Sctp => SCTP,
        },
        pad: 0,
    }
}

fn backend_of(backend: &SocketAddr) -> Backend {
    Backend {
        addr: rows::addr_of(backend.ip()),
        port_be: backend.port().to_be(),
        pad: 0,
    }
}
