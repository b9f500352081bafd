//! Policies: what is asked of an endpoint, who a peer is, what is allowed, and connections that were.
#![expect(unsafe_code, reason = "access to map memory")]

use super::ON_DEMAND;
use crate::address::Ip;
use aya_ebpf::{
    btf_maps::{Array, HashMap, HashOfMaps, LpmTrie, LruHashMap, lpm_trie::Key},
    macros::btf_map,
};
use cni_ebpf_common::{
    endpoint::MAX_ENDPOINTS,
    policy::{
        BlockKey, CHUNK_PORTS, CONNECTIONS, Connection, ConnectionKey, EndpointPolicy, MAX_BLOCKS,
        MAX_PEERS, MAX_PORT_CHUNKS, MAX_VERDICTS, Peer, PeerKey, PolicySettings, PortsChunk,
        PortsKey, SCOPE_BITS, Verdict, VerdictKey, scope, word_of,
    },
};
use core::ptr;

/// Whether packets are judged, and since when by what; the agent writes.
#[btf_map(name = "policy_settings")]
static SETTINGS: Array<PolicySettings, 1> = Array::new();

/// What is asked of endpoints, by their numbers; the agent writes.
#[btf_map(name = "endpoint_policies")]
static ENDPOINT_POLICIES: HashMap<u32, EndpointPolicy, { MAX_ENDPOINTS as usize }, ON_DEMAND> =
    HashMap::new();

/// Addresses that rules know one by one; the agent writes.
#[btf_map(name = "peers")]
static PEERS: HashMap<PeerKey, Peer, { MAX_PEERS as usize }, ON_DEMAND> = HashMap::new();

/// Addresses that rules know by prefixes; the agent writes.
#[btf_map(name = "peer_blocks")]
static PEER_BLOCKS: LpmTrie<BlockKey, Peer, { MAX_BLOCKS as usize }> = LpmTrie::new();

/// What is allowed; the agent writes.
#[btf_map(name = "verdicts")]
static VERDICTS: HashMap<VerdictKey, Verdict, { MAX_VERDICTS as usize }, ON_DEMAND> =
    HashMap::new();

/// Ports of verdicts; the agent writes.
#[btf_map(name = "port_sets")]
static PORT_SETS: HashMap<PortsKey, PortsChunk, { MAX_PORT_CHUNKS as usize }, ON_DEMAND> =
    HashMap::new();

type OfEndpoint = LruHashMap<ConnectionKey, Connection, { CONNECTIONS as usize }>;

/// Connections of endpoints, a map for each, so that none forgets another's; the programs write the rows,
/// the agent makes the maps.
#[btf_map(name = "connections")]
static CONNECTIONS_OF: HashOfMaps<u32, OfEndpoint, { MAX_ENDPOINTS as usize }> = HashOfMaps::new();

/// The settings; none are all zeros.
#[inline(always)]
pub(crate) fn policy_settings() -> PolicySettings {
    SETTINGS.get(0).copied().unwrap_or_default()
}

/// What is asked of an endpoint; none: nobody has said it yet.
#[inline(always)]
pub(crate) fn endpoint_policy(id: u32) -> Option<EndpointPolicy> {
    // SAFETY: as in `endpoint`.
    unsafe { ENDPOINT_POLICIES.get(id) }.copied()
}

/// Who an address is to the rules of a generation.
#[inline(always)]
pub(crate) fn identity(generation: u32, ip: Ip) -> u32 {
    /// `PeerKey` in words, for the same reason as in `endpoint_addr`.
    #[repr(C, packed(4))]
    struct Words {
        generation: u32,
        addr: [u64; 2],
    }
    /// `Key<BlockKey>`, likewise.
    #[repr(C, packed(4))]
    struct Block {
        prefix_len: u32,
        scope_be: u32,
        addr: [u64; 2],
    }
    const {
        assert!(size_of::<Words>() == size_of::<PeerKey>());
        assert!(size_of::<Block>() == size_of::<Key<BlockKey>>());
    };
    let words = Words {
        generation,
        addr: ip.words(),
    };
    // SAFETY: the same fields at the same offsets.
    let key = unsafe { &*ptr::from_ref(&words).cast::<PeerKey>() };
    // SAFETY: as in `endpoint`.
    if let Some(peer) = unsafe { PEERS.get(key) } {
        return peer.identity;
    }
    let block = Block {
        prefix_len: SCOPE_BITS + u128::BITS,
        scope_be: scope(generation, ip.is_v4()).to_be(),
        addr: ip.words(),
    };
    // SAFETY: the same fields at the same offsets.
    let key = unsafe { &*ptr::from_ref(&block).cast::<Key<BlockKey>>() };
    PEER_BLOCKS
        .get(key)
        .map_or(Peer::ANYBODY, |peer| peer.identity)
}

/// What is allowed to a class with an identity.
#[inline(always)]
pub(crate) fn verdict(class: u32, identity: u32, direction: u32) -> Option<Verdict> {
    let key = VerdictKey {
        class,
        identity,
        direction,
    };
    // SAFETY: as in `endpoint`.
    unsafe { VERDICTS.get(key) }.copied()
}

/// The word with a port's bit, of the ports of a set; `port` in native order.
#[inline(always)]
pub(crate) fn ports_word(set: u32, protocol: u8, port: u16) -> u64 {
    let key = PortsKey {
        set,
        protocol,
        pad: 0,
        chunk: port / CHUNK_PORTS,
    };
    // SAFETY: as in `endpoint`.
    let chunk = unsafe { PORT_SETS.get(key) };
    chunk
        .and_then(|chunk| chunk.bits.get(word_of(port)).copied())
        .unwrap_or(0)
}

/// `ConnectionKey` in words, for the same reason as in `endpoint_addr`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    peer: [u64; 2],
    /// The endpoint's first, as they lie in memory.
    ports: u32,
    protocol: u32,
}

const _: () = assert!(size_of::<Ends>() == size_of::<ConnectionKey>());

impl Ends {
    #[inline(always)]
    pub(crate) const fn new(peer: Ip, ports: u32, protocol: u8) -> Self {
        Self {
            peer: peer.words(),
            ports,
            protocol: u32::from_ne_bytes([protocol, 0, 0, 0]),
        }
    }

    #[inline(always)]
    fn key(&self) -> &ConnectionKey {
        // SAFETY: the same fields at the same offsets, and less alignment.
        unsafe { &*ptr::from_ref(self).cast::<ConnectionKey>() }
    }
}

/// A row of an endpoint's connections, changed in place by single words.
#[derive(Clone, Copy)]
pub(crate) struct ConnectionRow(*mut Connection);

/// What is remembered of a connection.
#[inline(always)]
pub(crate) fn connection(id: u32, ends: &Ends) -> Option<ConnectionRow> {
    // SAFETY: the programs' own rows (see the module above); maps of maps are freed only when no program
    // can see them any more.
    let rows = unsafe { CONNECTIONS_OF.get(&id) }?;
    rows.get_ptr_mut(ends.key()).map(ConnectionRow)
}

/// Remembers a connection. Without room it is not remembered, and its answers are judged by themselves.
#[inline(always)]
pub(crate) fn remember_connection(id: u32, ends: &Ends, row: &Connection) {
    // SAFETY: as above.
    if let Some(rows) = unsafe { CONNECTIONS_OF.get(&id) } {
        let _no_memory = rows.insert(ends.key(), row, 0);
    }
}

/// Forgets a connection.
#[inline(always)]
pub(crate) fn forget_connection(id: u32, ends: &Ends) {
    // SAFETY: as above.
    if let Some(rows) = unsafe { CONNECTIONS_OF.get(&id) } {
        let _none_is_as_well = rows.remove(ends.key());
    }
}

impl ConnectionRow {
    /// What it holds now.
    #[inline(always)]
    pub(crate) fn get(self) -> Connection {
        // SAFETY: the map's memory outlives the program's run; any bits are a value.
        unsafe { self.0.read() }
    }

    /// Writes when it was seen.
    #[inline(always)]
    pub(crate) fn set_seen(self, now_ns: u64) {
        // SAFETY: as in `get`; one aligned word.
        unsafe { (*self.0).seen_ns = now_ns };
    }

    /// Writes in which epoch it was allowed.
    #[inline(always)]
    pub(crate) fn set_epoch(self, epoch: u32) {
        // SAFETY: as in `get`; one aligned word.
        unsafe { (*self.0).epoch = epoch };
    }

    /// Writes that one side has ended it.
    #[inline(always)]
    pub(crate) fn set_closing(self) {
        // SAFETY: as in `get`; one byte.
        unsafe { (*self.0).closing = 1 };
    }
}
