//! Writes the tables of Services. A frontend's backends are a list of their own number: the new
//! list is written first, then the frontend's row, then the old list goes, so that a program finds
//! a whole list at any time.

use super::{
    DatapathError,
    maps::{all, gone, typed, write},
    rows,
};
use crate::{model::Protocol, service::Frontend};
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use cni_ebpf_common::{
    flow::{SCTP, TCP, UDP},
    service::{Backend, BackendKey, Frontend as Row, FrontendKey, MAX_BACKENDS, MAX_FRONTENDS},
};
use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

const FRONTENDS: &str = "frontends";
const BACKENDS: &str = "backends";

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
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    affinity_secs: u32,
    backends: Vec<Backend>,
}

type Table = BTreeMap<FrontendKey, Entry>;

/// The maps of Services, and what was written to them.
pub(super) struct Services {
    frontends: HashMap<MapData, FrontendKey, Row>,
    backends: HashMap<MapData, BackendKey, Backend>,
    /// What the maps hold, with the number of each list; read back after a start or a failure: a
    /// change of one frontend shall not cost a reading of all.
    written: Option<BTreeMap<FrontendKey, (u32, Entry)>>,
    /// Number of the next list.
    next: u32,
    /// Backends went since flows were swept last; also over a call that failed.
    pub(super) unswept: bool,
}

impl Services {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            frontends: typed(ebpf, FRONTENDS)?,
            backends: typed(ebpf, BACKENDS)?,
            written: None,
            next: 1,
            unswept: false,
        })
    }

    /// Makes the maps hold these frontends and no others.
    pub(super) fn sync<F: Borrow<Frontend>>(
        &mut self,
        desired: &[F],
    ) -> Result<ServicesChange, DatapathError> {
        let desired: Vec<&Frontend> = desired.iter().map(Borrow::borrow).collect();
        let mut written = match self.written.take() {
            Some(written) => written,
            None => self.read()?,
        };
        let wanted = table(&desired);
        let mut change = ServicesChange::default();
        let gone_keys: Vec<_> = written
            .keys()
            .filter(|key| !wanted.contains_key(*key))
            .copied()
            .collect();
        let mut waiting = Vec::new();
        for (key, entry) in &wanted {
            let before = written.get(key);
            if before.is_some_and(|(_, old)| old == entry) {
                continue;
            }
            if let Some((_, old)) = before {
                self.unswept |= binds(*key, old, Some(entry));
            }
            match self.write(*key, entry, &mut written) {
                Ok(true) => change.changed += 1,
                Ok(false) => change.added += 1,
                Err(DatapathError::MapFull { .. }) => waiting.push((*key, entry)),
                Err(other) => return Err(other),
            }
        }
        for key in gone_keys {
            if let Some((_, old)) = written.get(&key) {
                self.unswept |= binds(key, old, None);
            }
            self.remove(key, &mut written)?;
            change.removed += 1;
        }
        for (key, entry) in waiting {
            match self.write(key, entry, &mut written) {
                Ok(true) => change.changed += 1,
                Ok(false) => change.added += 1,
                Err(DatapathError::MapFull { .. }) => {
                    // Backends that are no more would be worse than the host's stack.
                    if let Some((_, old)) = written.get(&key) {
                        self.unswept |= binds(key, old, None);
                        self.remove(key, &mut written)?;
                        change.removed += 1;
                    }
                    let mut all = desired.iter().copied();
                    let refused = all.find(|f| key_of(f) == key);
                    change.refused.extend(refused.cloned());
                }
                Err(other) => return Err(other),
            }
        }
        change.unswept = self.unswept;
        self.written = Some(written);
        Ok(change)
    }

    /// Whether a frontend has a backend, as they were written last; so it is while that is not known.
    pub(super) fn has(&self, frontend: &FrontendKey, backend: &Backend) -> bool {
        self.written.as_ref().is_none_or(|written| {
            let entry = written.get(frontend);
            entry.is_some_and(|(_, entry)| entry.backends.contains(backend))
        })
    }

    /// Frontends with their backends, as they were written last.
    pub(super) fn present(&self) -> Option<BTreeMap<FrontendKey, BTreeSet<Backend>>> {
        let written = self.written.as_ref()?.iter();
        let backends = written.map(|(key, (_, entry))| {
            let backends = entry.backends.iter().copied().collect();
            (*key, backends)
        });
        Some(backends.collect())
    }

    /// Writes a frontend; whether it was there before. Without room nothing changes.
    fn write(
        &mut self,
        key: FrontendKey,
        entry: &Entry,
        written: &mut BTreeMap<FrontendKey, (u32, Entry)>,
    ) -> Result<bool, DatapathError> {
        let before = written.get(&key).map(|(list, old)| (*list, old.clone()));
        let list = match &before {
            Some((list, old)) if old.backends == entry.backends => *list,
            _ => self.write_list(&entry.backends)?,
        };
        let row = Row {
            list,
            count: u32::try_from(entry.backends.len()).unwrap_or(u32::MAX),
            affinity_secs: entry.affinity_secs,
        };
        let result = self.frontends.insert(key, row, 0);
        if let Err(fault) = write(result, FRONTENDS, MAX_FRONTENDS) {
            if before.as_ref().is_none_or(|(old, _)| *old != list) {
                self.remove_list(list, entry.backends.len())?;
            }
            return Err(fault);
        }
        written.insert(key, (list, entry.clone()));
        match before {
            Some((old_list, old)) => {
                if old_list != list {
                    self.remove_list(old_list, old.backends.len())?;
                }
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The number of a new list.
    fn write_list(&mut self, backends: &[Backend]) -> Result<u32, DatapathError> {
        let list = self.next;
        for (slot, backend) in (0u32..).zip(backends) {
            let result = self.backends.insert(BackendKey { list, slot }, backend, 0);
            if let Err(fault) = write(result, BACKENDS, MAX_BACKENDS) {
                self.remove_list(list, slot as usize)?;
                return Err(fault);
            }
        }
        self.next = self.next.wrapping_add(1).max(1);
        Ok(list)
    }

    fn remove_list(&mut self, list: u32, count: usize) -> Result<(), DatapathError> {
        for slot in (0u32..).take(count) {
            gone(self.backends.remove(&BackendKey { list, slot }), BACKENDS)?;
        }
        Ok(())
    }

    fn remove(
        &mut self,
        key: FrontendKey,
        written: &mut BTreeMap<FrontendKey, (u32, Entry)>,
    ) -> Result<(), DatapathError> {
        gone(self.frontends.remove(&key), FRONTENDS)?;
        if let Some((list, old)) = written.remove(&key) {
            self.remove_list(list, old.backends.len())?;
        }
        Ok(())
    }

    /// What an agent before this one wrote. Lists that it had not finished are removed, frontends
    /// whose list has a gap are as if they had other backends.
    fn read(&mut self) -> Result<BTreeMap<FrontendKey, (u32, Entry)>, DatapathError> {
        let rows = all(self.frontends.iter(), FRONTENDS)?;
        let mut lists: BTreeMap<u32, BTreeMap<u32, Backend>> = BTreeMap::new();
        for (key, backend) in all(self.backends.iter(), BACKENDS)? {
            lists.entry(key.list).or_default().insert(key.slot, backend);
        }
        let greatest = rows
            .iter()
            .map(|(_, row)| row.list)
            .chain(lists.keys().copied());
        self.next = greatest.max().unwrap_or(0).wrapping_add(1).max(1);
        let whole: BTreeSet<u32> = rows
            .iter()
            .filter(|(_, row)| {
                let slots = lists.get(&row.list).map_or(0, BTreeMap::len);
                slots == row.count as usize
            })
            .map(|(_, row)| row.list)
            .collect();
        for (list, slots) in lists.iter().filter(|(list, _)| !whole.contains(list)) {
            for slot in slots.keys() {
                let key = BackendKey {
                    list: *list,
                    slot: *slot,
                };
                gone(self.backends.remove(&key), BACKENDS)?;
            }
        }
        let entry = |row: Row| Entry {
            affinity_secs: row.affinity_secs,
            backends: lists
                .get(&row.list)
                .filter(|_| whole.contains(&row.list))
                .map_or_else(Vec::new, |slots| slots.values().copied().collect()),
        };
        Ok(rows
            .into_iter()
            .map(|(key, row)| (key, (row.list, entry(row))))
            .collect())
    }
}

/// Whether somebody may still be bound to a backend that the frontend has no more: flows of UDP, clients
/// by affinity.
fn binds(key: FrontendKey, old: &Entry, new: Option<&Entry>) -> bool {
    let stays = |backend: &Backend| new.is_some_and(|new| new.backends.contains(backend));
    (key.protocol == UDP || old.affinity_secs != 0) && !old.backends.iter().all(stays)
}

/// Frontends with backends as rows, and a row for each of their addresses: it tells a later
/// fragment to a Service from one to anywhere else.
fn table(frontends: &[&Frontend]) -> Table {
    let mut table = Table::new();
    let served = |f: &&&Frontend| !f.internal.is_empty();
    for frontend in frontends.iter().filter(served) {
        let key = key_of(frontend);
        let address = FrontendKey {
            port_be: 0,
            protocol: 0,
            ..key
        };
        table.entry(address).or_insert(Entry {
            affinity_secs: 0,
            backends: Vec::new(),
        });
        let entry = Entry {
            affinity_secs: frontend.affinity_secs,
            backends: frontend.internal.iter().map(backend_of).collect(),
        };
        table.insert(key, entry);
    }
    table
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
