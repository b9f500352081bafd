//! Services: frontends, lists of backends, whom clients keep, and what is announced.
#![expect(unsafe_code, reason = "access to map memory")]

use super::ON_DEMAND;
use crate::{address::Ip, transport::Tuple};
use aya_ebpf::{
    btf_maps::{HashMap, LruHashMap},
    macros::btf_map,
};
use cni_ebpf_common::{
    announcement::{Announcement, AnnouncementKey, MAX_ANNOUNCEMENTS},
    service::{
        Affinity, AffinityKey, Backend, BackendKey, CHUNK, Chunk, ChunkKey, Frontend, FrontendKey,
        List, MAX_AFFINITY, MAX_BACKENDS, MAX_CHUNKS, MAX_FRONTENDS,
    },
};
use core::{mem::offset_of, ptr};

/// Addresses and ports of Services; the agent writes.
#[btf_map(name = "frontends")]
static FRONTENDS: HashMap<FrontendKey, Frontend, { MAX_FRONTENDS as usize }, ON_DEMAND> =
    HashMap::new();

/// Who answers for them; the agent writes.
#[btf_map(name = "backends")]
static BACKENDS: HashMap<BackendKey, Backend, { MAX_BACKENDS as usize }, ON_DEMAND> =
    HashMap::new();

/// Which of a list's backends a flow gets; the agent writes.
#[btf_map(name = "maglev")]
static MAGLEV: HashMap<ChunkKey, Chunk, { MAX_CHUNKS as usize }, ON_DEMAND> = HashMap::new();

/// Backends that clients keep; the programs write, the agent removes.
#[btf_map(name = "affinity")]
static AFFINITY: LruHashMap<AffinityKey, Affinity, { MAX_AFFINITY as usize }> = LruHashMap::new();

/// Addresses of Services that this node answers for; the agent writes.
#[btf_map(name = "announcements")]
static ANNOUNCEMENTS: HashMap<
    AnnouncementKey,
    Announcement,
    { MAX_ANNOUNCEMENTS as usize },
    ON_DEMAND,
> = HashMap::new();

/// The frontend of an address, a port as it lies in memory and a protocol.
#[inline(always)]
pub(crate) fn frontend(ip: Ip, port: u16, protocol: u8) -> Option<Frontend> {
    /// `FrontendKey` in words, for the same reason as in `endpoint_addr`.
    #[repr(C, packed(4))]
    struct Words {
        addr: [u64; 2],
        rest: u32,
    }
    const { assert!(size_of::<Words>() == size_of::<FrontendKey>()) };
    let [high, low] = port.to_ne_bytes();
    let words = Words {
        addr: ip.words(),
        rest: u32::from_ne_bytes([high, low, protocol, 0]),
    };
    // SAFETY: the same fields at the same offsets.
    let key = unsafe { &*ptr::from_ref(&words).cast::<FrontendKey>() };
    // SAFETY: as in `endpoint`.
    unsafe { FRONTENDS.get(key) }.copied()
}

/// Until when an uplink answers for an address, and at which MAC.
#[inline(always)]
pub(crate) fn announcement(ip: Ip, ifindex: u32) -> Option<Announcement> {
    /// `AnnouncementKey` in words, for the same reason as in `endpoint_addr`.
    #[repr(C, packed(4))]
    struct Words {
        addr: [u64; 2],
        ifindex: u32,
    }
    const { assert!(size_of::<Words>() == size_of::<AnnouncementKey>()) };
    let words = Words {
        addr: ip.words(),
        ifindex,
    };
    // SAFETY: the same fields at the same offsets.
    let key = unsafe { &*ptr::from_ref(&words).cast::<AnnouncementKey>() };
    // SAFETY: as in `endpoint`.
    unsafe { ANNOUNCEMENTS.get(key) }.copied()
}

/// The backend of a list, which has some, for a flow's number: its address, and its port as it lies in
/// memory. None when the list was replaced meanwhile.
#[inline(always)]
pub(crate) fn backend(list: &List, number: u32) -> Option<(Ip, u16)> {
    const { assert!(offset_of!(Backend, addr) == 0) };
    let first = if list.table == 0 {
        number
    } else {
        let place = number % list.table;
        let key = ChunkKey {
            list: list.number,
            chunk: place / CHUNK,
        };
        // SAFETY: as in `endpoint`.
        let chunk = unsafe { MAGLEV.get(key) }?;
        chunk.slots.get((place % CHUNK) as usize).copied()?.into()
    };
    let key = BackendKey {
        list: list.number,
        slot: first % list.count,
    };
    // SAFETY: as in `endpoint`.
    let row = unsafe { BACKENDS.get(key) }?;
    // SAFETY: as in `own_address`.
    let words = unsafe { ptr::from_ref(row).cast::<[u64; 2]>().read() };
    Some((Ip::from_words(words), row.port_be))
}

/// `AffinityKey` in words, for the same reason as in `endpoint_addr`.
#[repr(C, packed(4))]
pub(crate) struct Client {
    client: [u64; 2],
    frontend: [u64; 2],
    rest: u32,
}

/// A client of the frontend that it sends to.
#[inline(always)]
pub(crate) fn client(tuple: &Tuple, port: u16, protocol: u8) -> Client {
    let [high, low] = port.to_ne_bytes();
    Client {
        client: tuple.src.words(),
        frontend: tuple.dst.words(),
        rest: u32::from_ne_bytes([high, low, protocol, 0]),
    }
}

impl Client {
    #[inline(always)]
    fn key(&self) -> &AffinityKey {
        const { assert!(size_of::<Client>() == size_of::<AffinityKey>()) };
        // SAFETY: the same fields at the same offsets, and less alignment.
        unsafe { &*ptr::from_ref(self).cast::<AffinityKey>() }
    }
}

/// `Affinity` in words, as rows lie in memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    /// When the client last began a flow, nanoseconds.
    pub(crate) seen_ns: u64,
    pub(crate) addr: Ip,
    /// As it lies in memory.
    pub(crate) port: u16,
    pub(crate) pad: [u16; 3],
}

const _: () = assert!(
    size_of::<Kept>() == size_of::<Affinity>()
        && offset_of!(Kept, addr) == offset_of!(Affinity, backend)
        && offset_of!(Kept, port) == offset_of!(Affinity, backend) + 16
);

/// The backend that a client keeps.
#[inline(always)]
pub(crate) fn kept_backend(client: &Client) -> Option<Kept> {
    let row = AFFINITY.get_ptr(client.key())?;
    // SAFETY: as in `FlowRow::get`; the same fields at the same offsets.
    Some(unsafe { row.cast::<Kept>().read() })
}

/// Remembers the backend that a client keeps.
#[inline(always)]
pub(crate) fn keep_backend(client: &Client, backend: &Kept) {
    // SAFETY: the same fields at the same offsets (see above).
    let row = unsafe { &*ptr::from_ref(backend).cast::<Affinity>() };
    // Without it the next flow chooses.
    let _no_memory = AFFINITY.insert(client.key(), row, 0);
}
