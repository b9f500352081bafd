//! The cluster's nodes: which podCIDR lies behind which node.

use crate::addr::Addr;

/// Key of the longest-prefix map `nodes`; an IPv4 prefix is longer by
/// [`crate::addr::V4_PREFIX_BITS`]. The layout is that of `struct bpf_lpm_trie_key`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeKey {
    pub prefix_len: u32,
    pub addr: Addr,
}

/// Value of `nodes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The node's address, next hop of its podCIDR; same family as the key.
    pub next_hop: Addr,
    /// Uplink towards it.
    pub ifindex: u32,
    /// Largest packet (bytes of IP) that the uplink takes.
    pub mtu: u32,
    /// Bits of [`Node`]: `LOCAL`.
    pub flags: u32,
}

impl Node {
    /// The podCIDR is this node's own: no other node has the address.
    pub const LOCAL: u32 = 1;
}

/// Most podCIDRs of all nodes, both families (5,000 nodes × 2, with room). When the map is full,
/// the further nodes are reached by the kernel's routes and the agent's status says so.
pub const MAX_NODES: u32 = 16_384;

const _: () = assert!(size_of::<NodeKey>() == 20);
const _: () = assert!(size_of::<Node>() == 28 && align_of::<Node>() == 4);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod promises plain bytes")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays only, sizes asserted: no padding, any bits valid.
    unsafe impl aya::Pod for super::NodeKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Node {}
}
