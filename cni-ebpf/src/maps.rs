//! Every map: its size and who writes it. All are pinned by name, so that they outlive the agent.
//! A row that programs read is replaced whole, never changed in place, and freed only when no
//! program can see it any more (that is what `BPF_F_NO_PREALLOC` gives): a packet is judged by one
//! consistent row.
#![expect(unsafe_code, reason = "access to map memory")]

use crate::address::Ip;
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
    verdict::{Counter, DropKey, DropReason, MAX_DROPS, Path},
};

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
static DROP_TOTALS: PerCpuArray<Counter, { DropReason::LEN as usize }> = PerCpuArray::new();

/// Packets by the way they took; the programs write.
#[btf_map(name = "paths")]
static PATHS: PerCpuArray<Counter, { Path::LEN as usize }> = PerCpuArray::new();

/// The pod behind a host-side interface.
#[inline(always)]
pub fn endpoint(ifindex: u32) -> Option<&'static Endpoint> {
    // SAFETY: rows are never changed in place and outlive the program's run (see above).
    unsafe { ENDPOINTS.get(EndpointKey { ifindex }) }
}

/// The local pod that has an address.
#[inline(always)]
pub fn endpoint_addr(ip: Ip) -> Option<&'static EndpointAddr> {
    // SAFETY: as in `endpoint`.
    unsafe { ENDPOINT_ADDRS.get(EndpointAddrKey { addr: ip.to_addr() }) }
}

/// The node whose podCIDR holds an address.
#[inline(always)]
pub fn node(ip: Ip) -> Option<&'static Node> {
    NODES.get(&Key::new(u128::BITS, ip.to_addr()))
}

/// Adds to the counters of a drop.
#[inline(always)]
pub fn count_drop(ifindex: u32, reason: DropReason, bytes: u64, packets: u64) {
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
pub fn count_path(path: Path, bytes: u64, packets: u64) {
    add(PATHS.get_ptr_mut(path as u32), bytes, packets);
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
