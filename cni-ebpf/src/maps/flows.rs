//! Flows and packets in fragments: the programs' own rows.
#![expect(unsafe_code, reason = "access to map memory")]

use crate::{address::Ip, transport::Tuple};
use aya_ebpf::{
    btf_maps::{Array, LruHashMap},
    macros::btf_map,
};
use cni_ebpf_common::{
    flow::{
        ENDPOINT_FLOWS, EndpointFlows, Flow, FlowKey, FragmentKey, FragmentPorts, MAX_FLOWS,
        MAX_FRAGMENTS,
    },
    verdict::DropReason,
};
use core::{mem::offset_of, ptr};

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
        .map_err(|_| DropReason::Redirect)?;
    // Of a full map the kernel frees rows that no look-up has touched, the newest ones too when all others
    // are touched: without this the second row of a connection costs its first one.
    let _touched = FLOWS.get_ptr(flow_key(tuple));
    Ok(())
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

/// From now on packets of this endpoint may be answers to clients outside.
#[inline(always)]
pub(crate) fn mark_outside(id: u32) {
    if let Some(row) = ENDPOINTS_FLOWS.get_ptr_mut(id % ENDPOINT_FLOWS) {
        // SAFETY: as in `mark_client`.
        unsafe { (*row).outside = 1 };
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
