//! What comes to Services from outside: settings, source ranges.
#![expect(unsafe_code, reason = "access to map memory")]

use crate::address::Ip;
use aya_ebpf::{
    btf_maps::{Array, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use cni_ebpf_common::outside::{MAX_RANGES, OutsideFlows, OutsideSettings, RANGES_BITS, RangeKey};
use core::{mem::offset_of, ptr};

/// What is taken, and from which address others are asked; the agent writes.
#[btf_map(name = "outside_settings")]
static OUTSIDE_SETTINGS: Array<OutsideSettings, 1> = Array::new();

/// Whether packets of the host may be answers; the programs write.
#[btf_map(name = "outside_flows")]
static OUTSIDE_FLOWS: Array<OutsideFlows, 1> = Array::new();

/// Clients of load balancers that restrict them; the agent writes.
#[btf_map(name = "source_ranges")]
static SOURCE_RANGES: LpmTrie<RangeKey, u32, { MAX_RANGES as usize }> = LpmTrie::new();

/// `OutsideSettings` in words, for the same reason as in `endpoint_addr`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Outside {
    pub(crate) v4: Ip,
    pub(crate) v6: Ip,
    /// Bits of [`OutsideSettings`].
    pub(crate) flags: u32,
    pub(crate) first_port: u16,
    pub(crate) ports: u16,
}

const _: () = assert!(
    size_of::<Outside>() == size_of::<OutsideSettings>()
        && offset_of!(Outside, v6) == offset_of!(OutsideSettings, ipv6)
        && offset_of!(Outside, flags) == offset_of!(OutsideSettings, flags)
        && offset_of!(Outside, first_port) == offset_of!(OutsideSettings, first_port)
);

impl Outside {
    /// Whether a bit of [`OutsideSettings`] is set.
    #[inline(always)]
    pub(crate) const fn is(&self, bit: u32) -> bool {
        self.flags & bit != 0
    }

    /// The node's address in a family.
    #[inline(always)]
    pub(crate) const fn own(&self, v4: bool) -> Ip {
        if v4 { self.v4 } else { self.v6 }
    }
}

/// The settings; none are all zeros.
#[inline(always)]
pub(crate) fn outside() -> Option<Outside> {
    // SAFETY: as in `FlowRow::get`; the same fields at the same offsets. The agent may replace it
    // meanwhile: addresses and ports of a node stay what they are, flags are one word.
    OUTSIDE_SETTINGS
        .get_ptr(0)
        .map(|row| unsafe { row.cast::<Outside>().read() })
}

/// Whether the host itself has been a backend of clients outside.
#[inline(always)]
pub(crate) fn host_is_backend() -> bool {
    OUTSIDE_FLOWS.get(0).is_some_and(|flows| flows.host != 0)
}

/// From now on the host's packets are looked up in `flows`.
#[inline(always)]
pub(crate) fn mark_host() {
    if let Some(row) = OUTSIDE_FLOWS.get_ptr_mut(0) {
        // SAFETY: as in `mark_client`.
        unsafe { (*row).host = 1 };
    }
}

/// Whether a client is in a set of source ranges.
#[inline(always)]
pub(crate) fn in_ranges(ranges: u32, client: Ip) -> bool {
    /// `Key<RangeKey>` in words, for the same reason as in `endpoint_addr`.
    #[repr(C, packed(4))]
    struct Words {
        prefix_len: u32,
        ranges_be: u32,
        client: [u64; 2],
    }
    const { assert!(size_of::<Words>() == size_of::<Key<RangeKey>>()) };
    let words = Words {
        prefix_len: RANGES_BITS + u128::BITS,
        ranges_be: ranges.to_be(),
        client: client.words(),
    };
    // SAFETY: the same fields at the same offsets.
    let key = unsafe { &*ptr::from_ref(&words).cast::<Key<RangeKey>>() };
    SOURCE_RANGES.get(key).is_some()
}
