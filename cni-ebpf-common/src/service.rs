//! Services: which address and port clients use, and which pods answer.

use crate::addr::Addr;

/// Key of the map `frontends`. Port 0 with protocol 0 is the address itself: whether any of its
/// ports is served.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    pub addr: Addr,
    pub port_be: u16,
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    pub pad: u8,
}

/// Value of `frontends`. A row is replaced whole when its backends change, so that a program sees
/// the old list or the new one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    /// Who answers pods and processes of nodes.
    pub internal: List,
    /// Who answers everybody else; the same list where both are.
    pub external: List,
    /// Seconds that a client keeps its backend after it was last heard; 0: each flow chooses.
    pub affinity_secs: u32,
    /// Bits of [`Frontend`].
    pub flags: u32,
    /// Whose packets are taken: a number in `source_ranges`; 0: everybody's.
    pub ranges: u32,
}

impl Frontend {
    /// Who asks from inside finds nobody, although there are backends elsewhere: not refused.
    pub const INTERNAL_DROP: u32 = 1;
    /// The same from outside.
    pub const EXTERNAL_DROP: u32 = 2;
    /// Every node serves this address by the same external list, so that a backend's node comes to the same
    /// backend for a flow.
    pub const SAME_EVERYWHERE: u32 = 4;
}

/// A list of backends, part of `frontends`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct List {
    /// [`BackendKey::list`]; never used again for other backends while a program may read it.
    pub number: u32,
    /// Backends of the list, in slots from 0.
    pub count: u32,
    /// Size of its table in `maglev`; 0: it has none.
    pub table: u32,
}

/// Key of the map `maglev`: a part of a list's table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkKey {
    pub list: u32,
    /// From 0, [`CHUNK`] places each.
    pub chunk: u32,
}

/// Value of `maglev`: slots of backends, by a flow's number modulo the table's size.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub slots: [u16; CHUNK as usize],
}

/// Places of a table in one row.
pub const CHUNK: u32 = 64;

/// Key of the map `backends`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    pub list: u32,
    pub slot: u32,
}

/// Value of `backends`, and of `affinity` in part.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    pub addr: Addr,
    pub port_be: u16,
    pub pad: u16,
}

/// Key of the LRU map `affinity`: a client of a frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    pub client: Addr,
    pub frontend: FrontendKey,
}

/// Value of `affinity`: the backend that the client keeps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// When a flow of the client was last seen to begin; nanoseconds of the coarse monotonic clock.
    pub seen_ns: u64,
    pub backend: Backend,
    pub pad: u32,
}

/// Most frontends: a port of a Service counts once for each ClusterIP, and so does each ClusterIP
/// itself. What finds no room is left to kube-proxy, and the agent's status says so.
pub const MAX_FRONTENDS: u32 = 131_072;
/// Most backends of all frontends; both lists of a frontend count while one replaces the other.
pub const MAX_BACKENDS: u32 = 262_144;
/// Most parts of all tables; one of ten backends has 16.
/// Rows are made on demand. A list that finds no room goes without a table.
pub const MAX_CHUNKS: u32 = 262_144;
/// Most clients with affinity that are remembered; the least recently seen are forgotten first.
pub const MAX_AFFINITY: u32 = 32_768;

/// Port of a backend that refuses: nobody can listen there (the node's own address, where no endpoint
/// answers).
pub const REFUSING_PORT: u16 = 0;

/// Source ports that a new flow tries while its client's own is taken.
pub const MOST_ATTEMPTS: u32 = 8;

const _: () = assert!(size_of::<FrontendKey>() == 20 && align_of::<FrontendKey>() == 2);
const _: () = assert!(size_of::<Frontend>() == 36 && size_of::<List>() == 12);
const _: () = assert!(size_of::<ChunkKey>() == 8 && size_of::<Chunk>() == 128);
const _: () = assert!(size_of::<BackendKey>() == 8);
const _: () = assert!(size_of::<Backend>() == 20);
const _: () = assert!(size_of::<AffinityKey>() == 36 && size_of::<Affinity>() == 32);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod promises plain bytes")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays only, sizes asserted: no padding, any bits valid.
    unsafe impl aya::Pod for super::FrontendKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Frontend {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::BackendKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ChunkKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Chunk {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Backend {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::AffinityKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Affinity {}
}
