//! Lists of backends and their tables for choosing. Frontends with the same backends share one list: a
//! Service with a ClusterIP, a NodePort and an external address has one, not three.

use super::{
    DatapathError,
    maps::{all, gone, typed, write},
    rows,
};
use crate::service::maglev;
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use cni_ebpf_common::service::{
    Backend, BackendKey, CHUNK, Chunk, ChunkKey, Frontend as Row, List, MAX_BACKENDS, MAX_CHUNKS,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

const BACKENDS: &str = "backends";
const MAGLEV: &str = "maglev";

/// Backends by slot.
pub(super) type Backends = Arc<[Backend]>;

/// The maps of lists, and what they hold.
pub(super) struct Lists {
    backends: HashMap<MapData, BackendKey, Backend>,
    chunks: HashMap<MapData, ChunkKey, Chunk>,
    /// Lists by what they hold, with how many frontends' rows have them.
    held: BTreeMap<Backends, (List, usize)>,
    /// Number of the next list.
    next: u32,
}

impl Lists {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            backends: typed(ebpf, BACKENDS)?,
            chunks: typed(ebpf, MAGLEV)?,
            held: BTreeMap::new(),
            next: 1,
        })
    }

    /// The list of these backends, for one more row; written if there is none. Without room nothing
    /// changes.
    pub(super) fn hold(&mut self, backends: &Backends) -> Result<List, DatapathError> {
        if backends.is_empty() {
            return Ok(List::default());
        }
        if let Some((list, rows)) = self.held.get_mut(backends) {
            *rows += 1;
            return Ok(*list);
        }
        let list = self.write(backends)?;
        self.held.insert(backends.clone(), (list, 1));
        Ok(list)
    }

    /// One row less has the list; it goes with the last one.
    pub(super) fn release(&mut self, backends: &Backends) -> Result<(), DatapathError> {
        let Some((list, rows)) = self.held.get_mut(backends) else {
            return Ok(());
        };
        *rows = rows.saturating_sub(1);
        if *rows > 0 {
            return Ok(());
        }
        let list = *list;
        self.held.remove(backends);
        self.remove(&list)
    }

    fn write(&mut self, backends: &[Backend]) -> Result<List, DatapathError> {
        let number = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        let mut list = List {
            number,
            ..List::default()
        };
        for (slot, backend) in (0u32..).zip(backends) {
            let key = BackendKey { list: number, slot };
            let result = self.backends.insert(key, backend, 0);
            if let Err(fault) = write(result, BACKENDS, MAX_BACKENDS) {
                self.remove(&list)?;
                return Err(fault);
            }
            list.count = slot + 1;
        }
        let places: Vec<SocketAddr> = backends.iter().map(place_of).collect();
        let table = maglev::table(&places);
        for (chunk, slots) in (0u32..).zip(table.chunks(CHUNK as usize)) {
            let mut row = Chunk {
                slots: [0; CHUNK as usize],
            };
            row.slots[..slots.len()].copy_from_slice(slots);
            let key = ChunkKey {
                list: number,
                chunk,
            };
            match write(self.chunks.insert(key, row, 0), MAGLEV, MAX_CHUNKS) {
                Ok(()) => list.table += u32::try_from(slots.len()).unwrap_or(CHUNK),
                Err(DatapathError::MapFull { .. }) => {
                    // Flows are spread without it, only that more of them move when a backend goes.
                    self.remove_table(&list)?;
                    list.table = 0;
                    break;
                }
                Err(fault) => {
                    self.remove(&list)?;
                    return Err(fault);
                }
            }
        }
        Ok(list)
    }

    fn remove(&mut self, list: &List) -> Result<(), DatapathError> {
        for slot in 0..list.count {
            let key = BackendKey {
                list: list.number,
                slot,
            };
            gone(self.backends.remove(&key), BACKENDS)?;
        }
        self.remove_table(list)
    }

    fn remove_table(&mut self, list: &List) -> Result<(), DatapathError> {
        for chunk in 0..list.table.div_ceil(CHUNK) {
            let key = ChunkKey {
                list: list.number,
                chunk,
            };
            gone(self.chunks.remove(&key), MAGLEV)?;
        }
        Ok(())
    }

    /// What an agent before this one wrote, by number. Lists that it had not finished, or that no row has,
    /// are removed.
    pub(super) fn read(&mut self, rows: &[Row]) -> Result<BTreeMap<u32, Backends>, DatapathError> {
        let mut slots: BTreeMap<u32, BTreeMap<u32, Backend>> = BTreeMap::new();
        for (key, backend) in all(self.backends.iter(), BACKENDS)? {
            slots.entry(key.list).or_default().insert(key.slot, backend);
        }
        let mut chunks: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for key in self.chunks.keys() {
            let key = all(std::iter::once(key.map(|key| (key, ()))), MAGLEV)?;
            for (ChunkKey { list, chunk }, ()) in key {
                chunks.entry(list).or_default().insert(chunk);
            }
        }
        let named: BTreeSet<List> = rows
            .iter()
            .flat_map(|row| [row.internal, row.external])
            .filter(|list| list.count > 0)
            .collect();
        let mut uses: BTreeMap<u32, usize> = BTreeMap::new();
        for list in rows.iter().flat_map(|row| [row.internal, row.external]) {
            *uses.entry(list.number).or_default() += 1;
        }
        let numbers = named.iter().map(|list| list.number);
        let greatest = numbers
            .chain(slots.keys().chain(chunks.keys()).copied())
            .max();
        self.next = greatest.unwrap_or(0).wrapping_add(1).max(1);
        self.held.clear();
        let mut whole = BTreeMap::new();
        for list in named {
            let there = slots.get(&list.number).map_or(0, BTreeMap::len);
            let parts = chunks.get(&list.number).map_or(0, BTreeSet::len);
            if there != list.count as usize || parts != list.table.div_ceil(CHUNK) as usize {
                continue;
            }
            let backends = slots
                .get(&list.number)
                .into_iter()
                .flat_map(BTreeMap::values);
            let backends: Backends = backends.copied().collect();
            let uses = uses.get(&list.number).copied().unwrap_or(0);
            // Two lists of one content: the rows of the other are as if they had other backends.
            if self.held.contains_key(&backends) {
                continue;
            }
            self.held.insert(backends.clone(), (list, uses));
            whole.insert(list.number, backends);
        }
        for (list, slots) in slots.iter().filter(|(list, _)| !whole.contains_key(list)) {
            for slot in slots.keys() {
                let key = BackendKey {
                    list: *list,
                    slot: *slot,
                };
                gone(self.backends.remove(&key), BACKENDS)?;
            }
        }
        for (list, chunks) in chunks.iter().filter(|(list, _)| !whole.contains_key(list)) {
            for chunk in chunks {
                let key = ChunkKey {
                    list: *list,
                    chunk: *chunk,
                };
                gone(self.chunks.remove(&key), MAGLEV)?;
            }
        }
        Ok(whole)
    }
}

fn place_of(backend: &Backend) -> SocketAddr {
    SocketAddr::new(rows::ip_of(&backend.addr), u16::from_be(backend.port_be))
}
