//! Every map: its size and who writes it. All are pinned by name, so that they outlive the agent.
//! A row that programs read is replaced whole, never changed in place, and freed only when no
//! program can see it any more (that is what `BPF_F_NO_PREALLOC` gives): a packet is judged by one
//! consistent row. Rows of the LRU maps are the programs' own: they are changed in place by single
//! words, and under pressure the kernel may give one to another key while it is read.
#![expect(unsafe_code, reason = "access to map memory")]

use crate::{address::Ip, service::Search, transport::Tuple};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, lpm_trie::Key},
    macros::btf_map,
};
use cni_ebpf_common::{
    addr::Addr,
    announcement::{Announcement, AnnouncementKey, MAX_ANNOUNCEMENTS},
    endpoint::{
        Endpoint, EndpointAddr, EndpointAddrKey, EndpointKey, MAX_ENDPOINT_ADDRS, MAX_ENDPOINTS,
    },
    flow::{
        ENDPOINT_FLOWS, EndpointFlows, Flow, FlowKey, FragmentKey, FragmentPorts, MAX_FLOWS,
        MAX_FRAGMENTS,
    },
    node::{MAX_NODES, Node},
    service::{
        Affinity, AffinityKey, Backend, BackendKey, CHUNK, Chunk, ChunkKey, Frontend, FrontendKey,
        List, MAX_AFFINITY, MAX_BACKENDS, MAX_CHUNKS, MAX_FRONTENDS, slot,
    },
    socket::{MAX_SOCKET_BACKENDS, MAX_SOCKETS, SocketKey, SocketPeer, SocketSettings},
    verdict::{Counter, DropKey, DropReason, MAX_COUNTERS, MAX_DROPS, Path},
};
use core::{mem::offset_of, ptr};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// Local pods by host-side interface; the agent writes.
#[btf_map(name = "endpoints")]
static ENDPOINTS: HashMap<EndpointKey, Endpoint, { MAX_ENDPOINTS as usize }, ON_DEMAND> =
    HashMap::new();

/// Local pods by address; the agent writes.
#[btf_map(name = "endpoint_addrs")]
static ENDPOINT_ADDRS: HashMap<
    EndpointAddrKey,
    EndpointAddr,
    { MAX_ENDPOINT_ADDRS as usize },
    ON_DEMAND,
> = HashMap::new();

/// podCIDRs of all nodes; the agent writes.
#[btf_map(name = "nodes")]
static NODES: LpmTrie<Addr, Node, { MAX_NODES as usize }> = LpmTrie::new();

/// Drops by interface and reason; the programs add rows, the agent removes those of interfaces
/// that are gone. Rows are made on demand: one for each CPU would be large on a large machine.
#[btf_map(name = "drops")]
static DROPS: PerCpuHashMap<DropKey, Counter, { MAX_DROPS as usize }, ON_DEMAND> =
    PerCpuHashMap::new();

/// Drops by reason; the programs write.
#[btf_map(name = "drop_totals")]
static DROP_TOTALS: PerCpuArray<Counter, { MAX_COUNTERS as usize }> = PerCpuArray::new();

/// Packets by the way they took; the programs write.
#[btf_map(name = "paths")]
static PATHS: PerCpuArray<Counter, { MAX_COUNTERS as usize }> = PerCpuArray::new();

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

/// What was decided for a flow; the programs write, the agent removes.
#[btf_map(name = "flows")]
static FLOWS: LruHashMap<FlowKey, Flow, { MAX_FLOWS as usize }> = LruHashMap::new();

/// Which endpoints have flows at all, so that the others' packets pay no look-up in `flows`; the
/// programs write.
#[btf_map(name = "endpoint_flows")]
static ENDPOINTS_FLOWS: Array<EndpointFlows, { ENDPOINT_FLOWS as usize }> = Array::new();

/// Ports of packets in fragments; the programs write.
#[btf_map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts, { MAX_FRAGMENTS as usize }> =
    LruHashMap::new();

/// Backends that clients keep; the programs write, the agent removes.
#[btf_map(name = "affinity")]
static AFFINITY: LruHashMap<AffinityKey, Affinity, { MAX_AFFINITY as usize }> = LruHashMap::new();

/// Whose sockets are served; the agent writes.
#[btf_map(name = "socket_settings")]
static SOCKET_SETTINGS: Array<SocketSettings, 1> = Array::new();

/// Frontends that sockets mean; the programs write.
#[btf_map(name = "sockets")]
static SOCKETS: LruHashMap<SocketKey, SocketPeer, { MAX_SOCKETS as usize }> = LruHashMap::new();

/// Backends of sockets that send datagrams; the programs write, the agent removes.
#[btf_map(name = "socket_backends")]
static SOCKET_BACKENDS: LruHashMap<SocketKey, SocketPeer, { MAX_SOCKET_BACKENDS as usize }> =
    LruHashMap::new();

/// Addresses of Services that this node answers for; the agent writes.
#[btf_map(name = "announcements")]
static ANNOUNCEMENTS: HashMap<
    AnnouncementKey,
    Announcement,
    { MAX_ANNOUNCEMENTS as usize },
    ON_DEMAND,
> = HashMap::new();

/// Room of the programs.
#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<Search, 1> = PerCpuArray::new();

/// The pod behind a host-side interface.
#[inline(always)]
pub(crate) fn endpoint(ifindex: u32) -> Option<&'static Endpoint> {
    // SAFETY: rows are never changed in place and outlive the program's run (see above).
    unsafe { ENDPOINTS.get(EndpointKey { ifindex }) }
}

/// The address that the pod may use in a family; "none" is all zeros, like IPv6's unspecified one.
#[inline(always)]
pub(crate) fn own_address(endpoint: &Endpoint, v4: bool) -> Ip {
    const { assert!(offset_of!(Endpoint, ipv4) == 0 && offset_of!(Endpoint, ipv6) == 16) };
    let words = ptr::from_ref(endpoint).cast::<[u64; 2]>();
    // SAFETY: both addresses lie within the row, and the kernel aligns rows of hash maps to 8
    // (byte arrays alone would be read byte by byte).
    Ip::from_words(unsafe { words.add(usize::from(!v4)).read() })
}

/// The local pod that has an address.
#[inline(always)]
pub(crate) fn endpoint_addr(ip: Ip) -> Option<&'static EndpointAddr> {
    const { assert!(size_of::<EndpointAddrKey>() == size_of::<Ip>()) };
    // SAFETY: both are the same 16 bytes; an array of bytes would be written byte by byte.
    let key = unsafe { &*ptr::from_ref(&ip).cast::<EndpointAddrKey>() };
    // SAFETY: as in `endpoint`.
    unsafe { ENDPOINT_ADDRS.get(key) }
}

/// The node whose podCIDR holds an address.
#[inline(always)]
pub(crate) fn node(ip: Ip) -> Option<&'static Node> {
    /// `Key<Addr>` in words, for the same reason as in `endpoint_addr`.
    #[repr(C, packed(4))]
    struct Words {
        prefix_len: u32,
        addr: [u64; 2],
    }
    const { assert!(size_of::<Words>() == size_of::<Key<Addr>>()) };
    let words = Words {
        prefix_len: u128::BITS,
        addr: ip.words(),
    };
    // SAFETY: the same fields at the same offsets.
    NODES.get(unsafe { &*ptr::from_ref(&words).cast::<Key<Addr>>() })
}

/// Adds to the counters of a drop.
#[inline(always)]
pub(crate) fn count_drop(ifindex: u32, reason: DropReason, bytes: u64, packets: u64) {
    add(DROP_TOTALS.get_ptr_mut(reason as u32), bytes, packets);
    let key = DropKey {
        ifindex,
        reason: reason as u32,
    };
    let row = DROPS.get_ptr_mut(key).or_else(|| {
        // Full: then `drop_totals` alone counts. Another CPU may have been faster: just as well.
        let _full_or_there = DROPS.insert(
            key,
            Counter {
                packets: 0,
                bytes: 0,
            },
            BPF_NOEXIST,
        );
        DROPS.get_ptr_mut(key)
    });
    add(row, bytes, packets);
}

/// Adds to the counters of a way.
#[inline(always)]
pub(crate) fn count_path(path: Path, bytes: u64, packets: u64) {
    add(PATHS.get_ptr_mut(path as u32), bytes, packets);
}

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
pub(crate) fn backend(list: &List, number: u32, attempt: u32) -> Option<(Ip, u16)> {
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
        slot: slot(first, attempt, list.count),
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

/// As a key of `flows`.
#[inline(always)]
fn flow_key(tuple: &Tuple) -> &FlowKey {
    const { assert!(size_of::<Tuple>() == size_of::<FlowKey>()) };
    // SAFETY: the same fields at the same offsets, and less alignment.
    unsafe { &*ptr::from_ref(tuple).cast::<FlowKey>() }
}

/// As a key of `fragments`, with the identification in place of the ports.
#[inline(always)]
fn fragment_key(tuple: &Tuple) -> &FragmentKey {
    const { assert!(size_of::<Tuple>() == size_of::<FragmentKey>()) };
    // SAFETY: as above.
    unsafe { &*ptr::from_ref(tuple).cast::<FragmentKey>() }
}

/// The remembered flow, to read and to change by single words.
#[inline(always)]
pub(crate) fn flow(tuple: &Tuple) -> Option<FlowRow> {
    FLOWS
        .get_ptr_mut(flow_key(tuple))
        .map(|row| FlowRow(row.cast()))
}

/// `Flow` in words, as rows lie in memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct FlowWords {
    pub(crate) seen_ns: u64,
    pub(crate) src: Ip,
    pub(crate) dst: Ip,
    /// As they lie in memory, source first.
    pub(crate) ports: u32,
    pub(crate) flags: u16,
    pub(crate) closing: u8,
    pub(crate) by_stack: u8,
    pub(crate) ifindex: u32,
    pub(crate) pad: u32,
}

const _: () = assert!(
    size_of::<FlowWords>() == size_of::<Flow>()
        && offset_of!(FlowWords, src) == offset_of!(Flow, src)
        && offset_of!(FlowWords, ports) == offset_of!(Flow, sport_be)
        && offset_of!(FlowWords, flags) == offset_of!(Flow, flags)
        && offset_of!(FlowWords, closing) == offset_of!(Flow, closing)
        && offset_of!(FlowWords, by_stack) == offset_of!(Flow, by_stack)
);

impl FlowWords {
    /// Of packets that get the addresses and ports of `to`.
    #[inline(always)]
    pub(crate) const fn new(to: &Tuple, flags: u16, now_ns: u64) -> Self {
        Self {
            seen_ns: now_ns,
            src: to.src,
            dst: to.dst,
            ports: to.ports,
            flags,
            closing: 0,
            by_stack: 0,
            ifindex: 0,
            pad: 0,
        }
    }

    /// What packets of this protocol get.
    #[inline(always)]
    pub(crate) const fn to(&self, protocol: u8) -> Tuple {
        Tuple::new(self.src, self.dst, self.ports, protocol)
    }

    /// Whether a bit of [`Flow`] is set.
    #[inline(always)]
    pub(crate) fn is(&self, bit: u16) -> bool {
        self.flags & bit != 0
    }
}

/// Remembers a flow in place of what was known of it.
///
/// # Errors
/// [`DropReason::Redirect`]: the kernel has no memory.
#[inline(always)]
pub(crate) fn remember_flow(tuple: &Tuple, flow: &FlowWords) -> Result<(), DropReason> {
    // SAFETY: the same fields at the same offsets (see above).
    let flow = unsafe { &*ptr::from_ref(flow).cast::<Flow>() };
    FLOWS
        .insert(flow_key(tuple), flow, 0)
        .map_err(|_| DropReason::Redirect)
}

/// Forgets a flow.
#[inline(always)]
pub(crate) fn forget_flow(tuple: &Tuple) {
    let _none_is_as_well = FLOWS.remove(flow_key(tuple));
}

/// A row of `flows`.
#[derive(Clone, Copy)]
pub(crate) struct FlowRow(*mut FlowWords);

impl FlowRow {
    /// What it holds now.
    #[inline(always)]
    pub(crate) fn get(self) -> FlowWords {
        // SAFETY: the map's memory outlives the program's run; any bits are a value.
        unsafe { self.0.read() }
    }

    /// Writes when it was seen.
    #[inline(always)]
    pub(crate) fn set_seen(self, now_ns: u64) {
        // SAFETY: as in `get`; one aligned word.
        unsafe { (*self.0).seen_ns = now_ns };
    }

    /// Writes that one side has ended it.
    #[inline(always)]
    pub(crate) fn set_closing(self) {
        // SAFETY: as in `get`; one byte.
        unsafe { (*self.0).closing = 1 };
    }

    /// Writes whether its other direction comes by the host's stack.
    #[inline(always)]
    pub(crate) fn set_by_stack(self, by_stack: bool) {
        // SAFETY: as in `get`; one byte.
        unsafe { (*self.0).by_stack = by_stack.into() };
    }
}

/// What is known of an endpoint's flows. A look-up in an array of one word: no call.
#[inline(always)]
pub(crate) fn endpoint_flows(id: u32) -> EndpointFlows {
    ENDPOINTS_FLOWS
        .get(id % ENDPOINT_FLOWS)
        .copied()
        .unwrap_or_default()
}

/// From now on packets to this endpoint are looked up in `flows`.
#[inline(always)]
pub(crate) fn mark_client(id: u32) {
    if let Some(row) = ENDPOINTS_FLOWS.get_ptr_mut(id % ENDPOINT_FLOWS) {
        // SAFETY: one aligned word of the map's memory, only ever set to 1.
        unsafe { (*row).client = 1 };
    }
}

/// From now on packets of this endpoint are looked up in `flows`.
#[inline(always)]
pub(crate) fn mark_by_stack(id: u32) {
    if let Some(row) = ENDPOINTS_FLOWS.get_ptr_mut(id % ENDPOINT_FLOWS) {
        // SAFETY: as in `mark_client`.
        unsafe { (*row).by_stack = 1 };
    }
}

/// Ports of a packet in fragments, as they lie in memory.
#[inline(always)]
pub(crate) fn fragment_ports(of: &Tuple) -> Option<u32> {
    const { assert!(size_of::<FragmentPorts>() == 4) };
    // SAFETY: as in `FlowRow::get`; both are the same 4 bytes.
    FRAGMENTS
        .get_ptr(fragment_key(of))
        .map(|row| unsafe { row.cast::<u32>().read_unaligned() })
}

/// Remembers the ports of a first fragment.
#[inline(always)]
pub(crate) fn remember_fragment(of: &Tuple, ports: u32) {
    let [a, b, c, d] = ports.to_ne_bytes();
    let row = FragmentPorts {
        sport_be: u16::from_ne_bytes([a, b]),
        dport_be: u16::from_ne_bytes([c, d]),
    };
    // Without it the later fragments are dropped under their reason.
    let _no_memory = FRAGMENTS.insert(fragment_key(of), row, 0);
}

/// Whose sockets are served.
#[inline(always)]
pub(crate) fn socket_settings() -> SocketSettings {
    SOCKET_SETTINGS.get(0).copied().unwrap_or_default()
}

/// A key or a value of the maps of sockets, in words, for the same reason as in `endpoint_addr`.
#[repr(C)]
struct PeerWords {
    addr: [u64; 2],
    rest: u64,
}

impl PeerWords {
    #[inline(always)]
    fn new(ip: Ip, port: u16) -> Self {
        let [high, low] = port.to_ne_bytes();
        Self {
            addr: ip.words(),
            rest: u64::from_ne_bytes([high, low, 0, 0, 0, 0, 0, 0]),
        }
    }

    #[inline(always)]
    fn peer(&self) -> (Ip, u16) {
        let [high, low, ..] = self.rest.to_ne_bytes();
        (Ip::from_words(self.addr), u16::from_ne_bytes([high, low]))
    }
}

/// A socket and whom it talks to, as a key.
#[repr(C)]
pub(crate) struct Talk {
    cookie: u64,
    peer: PeerWords,
}

impl Talk {
    /// The port is as it lies in memory.
    #[inline(always)]
    pub(crate) fn new(cookie: u64, ip: Ip, port: u16) -> Self {
        let peer = PeerWords::new(ip, port);
        Self { cookie, peer }
    }

    #[inline(always)]
    fn key(&self) -> &SocketKey {
        const { assert!(size_of::<Talk>() == size_of::<SocketKey>()) };
        // SAFETY: the same fields at the same offsets.
        unsafe { &*ptr::from_ref(self).cast::<SocketKey>() }
    }
}

/// The frontend that a socket means by the backend that it reaches.
#[inline(always)]
pub(crate) fn socket_frontend(talk: &Talk) -> Option<(Ip, u16)> {
    const { assert!(size_of::<PeerWords>() == size_of::<SocketPeer>()) };
    let row = SOCKETS.get_ptr(talk.key())?;
    // SAFETY: as in `FlowRow::get`; the same fields at the same offsets.
    Some(unsafe { row.cast::<PeerWords>().read() }.peer())
}

/// Remembers it.
#[inline(always)]
pub(crate) fn remember_socket_frontend(talk: &Talk, frontend: (Ip, u16)) {
    let row = PeerWords::new(frontend.0, frontend.1);
    // SAFETY: as in `socket_frontend`.
    let row = unsafe { &*ptr::from_ref(&row).cast::<SocketPeer>() };
    // Without it the process sees its backend as its peer.
    let _no_memory = SOCKETS.insert(talk.key(), row, 0);
}

/// The backend to which a socket sends what is for a frontend.
#[inline(always)]
pub(crate) fn socket_backend(talk: &Talk) -> Option<(Ip, u16)> {
    let row = SOCKET_BACKENDS.get_ptr(talk.key())?;
    // SAFETY: as in `socket_frontend`.
    Some(unsafe { row.cast::<PeerWords>().read() }.peer())
}

/// Remembers it.
#[inline(always)]
pub(crate) fn remember_socket_backend(talk: &Talk, backend: (Ip, u16)) {
    let row = PeerWords::new(backend.0, backend.1);
    // SAFETY: as in `socket_frontend`.
    let row = unsafe { &*ptr::from_ref(&row).cast::<SocketPeer>() };
    // Without it the next datagram chooses.
    let _no_memory = SOCKET_BACKENDS.insert(talk.key(), row, 0);
}

/// This CPU's room for what subprograms share: their stacks lie on top of each other, 512 bytes for
/// all.
///
/// # Errors
/// None that happens: the verifier wants to see it asked.
#[inline(always)]
pub(crate) fn scratch() -> Result<&'static mut Search, DropReason> {
    let room = SCRATCH.get_ptr_mut(0).ok_or(DropReason::Redirect)?;
    // SAFETY: this CPU's own copy, and no two programs on one CPU have it at a time: tcx programs run
    // with bottom halves off, at ingress (softirq) as at egress (`rcu_read_lock_bh` of
    // `__dev_queue_xmit`), no interrupt sends packets, and a redirect is carried out after its program.
    // XDP doesn't use it. Within a program each use ends before the next begins. Any bits are a value.
    Ok(unsafe { &mut *room })
}

const BPF_NOEXIST: u64 = 1;

#[inline(always)]
fn add(counter: Option<*mut Counter>, bytes: u64, packets: u64) {
    if let Some(counter) = counter {
        // SAFETY: this CPU's own copy; hooks of the network run to their end before another does
        // on the same CPU, and readers only ever see whole integers.
        unsafe {
            (*counter).bytes += bytes;
            (*counter).packets += packets;
        }
    }
}
