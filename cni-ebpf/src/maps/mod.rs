//! Every map: its size and who writes it. All are pinned by name, so that they outlive the agent.
//! A row that programs read is replaced whole, never changed in place, and freed only when no
//! program can see it any more (that is what `BPF_F_NO_PREALLOC` gives): a packet is judged by one
//! consistent row. Rows of the LRU maps are the programs' own: they are changed in place by single
//! words, and under pressure the kernel may give one to another key while it is read.
#![expect(unsafe_code, reason = "access to map memory")]

mod events;
mod flows;
mod outside;
mod policy;
mod services;
mod sockets;
#[cfg(feature = "trace")]
mod traces;

pub(crate) use events::*;
pub(crate) use flows::*;
pub(crate) use outside::*;
pub(crate) use policy::*;
pub(crate) use services::*;
pub(crate) use sockets::*;
#[cfg(feature = "trace")]
pub(crate) use traces::*;

use crate::{address::Ip, service::Search, trace};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{HashMap, LpmTrie, PerCpuArray, PerCpuHashMap, lpm_trie::Key},
    macros::btf_map,
};
use cni_ebpf_common::{
    addr::Addr,
    endpoint::{
        Endpoint, EndpointAddr, EndpointAddrKey, EndpointKey, MAX_ENDPOINT_ADDRS, MAX_ENDPOINTS,
    },
    node::{MAX_NODES, Node},
    trace::StepKind,
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
    trace::step(StepKind::Path, path as u32, 0);
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
