//! Packets that are followed. Not pinned: these maps live as long as their object is attached.
#![expect(
    unsafe_code,
    reason = "access to map memory, and a helper that writes to it"
)]

use crate::{address::Ip, kernel, packet, transport::Tuple};
use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_hdr_start_off::BPF_HDR_START_NET,
    btf_maps::{Array, HashMap, PerCpuArray, RingBuf},
    helpers::generated::bpf_skb_load_bytes_relative,
    macros::btf_map,
    programs::TcContext,
};
use cni_ebpf_common::{
    addr::Addr,
    trace::{MAX_TRACE_ENDS, Step, StepKind, TRACES_BYTES, TraceSettings, Walk, is_meant},
};
use core::ptr;

/// Which packets are meant; the agent writes.
#[btf_map(name = "trace_settings")]
static SETTINGS: Array<TraceSettings, 1> = Array::new();

/// Addresses of the talk's ends; the agent writes.
#[btf_map(name = "trace_ends")]
static ENDS: HashMap<Addr, u32, { MAX_TRACE_ENDS as usize }> = HashMap::new();

/// The packet that is followed now; the programs write.
#[btf_map(name = "trace_walk")]
static WALK: PerCpuArray<Walk, 1> = PerCpuArray::new();

/// Walks that were not told, because nobody had read the others; the programs write.
#[btf_map(name = "trace_lost")]
static LOST: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Walks that have ended; the programs write, the agent reads.
#[btf_map(name = "traces")]
static TRACES: RingBuf<Walk, { TRACES_BYTES as usize }> = RingBuf::new();

/// In place of a count of steps: no packet is followed.
const NONE: u32 = u32::MAX;
/// The least of a packet that has addresses.
const HEAD_LEAST: u32 = 20;

#[inline(always)]
fn end_bits(ip: Ip) -> u32 {
    const { assert!(size_of::<Addr>() == size_of::<Ip>()) };
    // SAFETY: both are the same 16 bytes.
    let key = unsafe { &*ptr::from_ref(&ip).cast::<Addr>() };
    // SAFETY: rows are replaced whole, and one of another address is at worst another trace's.
    unsafe { ENDS.get(key) }.copied().unwrap_or(0)
}

/// Copies bytes of the network header.
#[inline(always)]
fn load(ctx: &TcContext, at: u32, to: *mut u8, size: u32) -> bool {
    // SAFETY: callers give as many bytes as they have.
    let done = unsafe {
        bpf_skb_load_bytes_relative(ctx.as_ptr(), at, to.cast(), size, BPF_HDR_START_NET)
    };
    done == 0
}

/// Source and destination, wherever the packet starts.
#[inline(always)]
fn addresses(ctx: &TcContext) -> Option<(Ip, Ip)> {
    let mut version = 0u8;
    if !load(ctx, 0, &raw mut version, 1) {
        return None;
    }
    match version >> 4 {
        4 => {
            let mut both = [0u32; 2];
            load(ctx, 12, (&raw mut both).cast(), 8)
                .then_some((Ip::from_v4(both[0]), Ip::from_v4(both[1])))
        }
        6 => {
            let mut both = [Ip::UNSPECIFIED; 2];
            load(ctx, 8, (&raw mut both).cast(), 32).then_some((both[0], both[1]))
        }
        _ => None,
    }
}

/// Follows the packet, if it is meant.
#[inline(never)]
pub(crate) fn begin_walk(ctx: &TcContext, program: u32) -> u32 {
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own copy; programs of tcx don't interrupt each other (see `scratch`).
    unsafe { (*walk).count = NONE };
    let Some((src, dst)) = addresses(ctx) else {
        return 0;
    };
    let both = SETTINGS.get(0).is_some_and(|settings| settings.both != 0);
    if !is_meant(both, end_bits(src), end_bits(dst)) {
        return 0;
    }
    let (length, _) = packet::size(ctx);
    // SAFETY: as above; the helper writes no more than the size that it is given, which fits `head`.
    unsafe {
        (*walk).time_ns = kernel::now_ns();
        (*walk).ifindex = packet::ifindex(ctx);
        (*walk).program = program;
        (*walk).length = length as u32;
        (*walk).captured = 0;
        let head = ptr::addr_of_mut!((*walk).head);
        // Headers are whole words: a short packet's are copied to the last one.
        let mut size = Walk::HEAD as u32;
        while size >= HEAD_LEAST {
            if load(ctx, 0, head.cast(), size) {
                (*walk).captured = size;
                break;
            }
            size -= 4;
        }
        (*walk).count = 0;
    }
    1
}

/// The next step's place; none: no packet is followed, or there is no room.
#[inline(always)]
fn next() -> Option<*mut Step> {
    let walk = WALK.get_ptr_mut(0)?;
    // SAFETY: as in `begin_walk`; the place lies within the row.
    unsafe {
        let at = (*walk).count;
        if at == NONE {
            return None;
        }
        (*walk).count = at + 1;
        let at = at as usize;
        if at >= Walk::STEPS {
            return None;
        }
        Some(ptr::addr_of_mut!((*walk).steps).cast::<Step>().add(at))
    }
}

/// Adds a step.
#[inline(never)]
pub(crate) fn add_step(kind: u32, value: u32, endpoint: u32) -> u32 {
    let Some(step) = next() else {
        return 0;
    };
    // SAFETY: as in `next`.
    unsafe {
        (*step).kind = kind;
        (*step).value = value;
        (*step).endpoint = endpoint;
    }
    1
}

/// Adds that the packet got other addresses and ports.
#[inline(never)]
pub(crate) fn add_rewritten(to: &Tuple) -> u32 {
    let Some(step) = next() else {
        return 0;
    };
    let [a, b, c, d] = to.ports.to_ne_bytes();
    // SAFETY: as in `next`; addresses lie aligned to 8 in a step, and are the same 16 bytes.
    unsafe {
        (*step).kind = StepKind::Rewritten as u32;
        (*step).value = 0;
        (*step).endpoint = 0;
        (*step).sport_be = u16::from_ne_bytes([a, b]);
        (*step).dport_be = u16::from_ne_bytes([c, d]);
        ptr::addr_of_mut!((*step).src).cast::<Ip>().write(to.src);
        ptr::addr_of_mut!((*step).dst).cast::<Ip>().write(to.dst);
    }
    1
}

/// Tells of the packet, if one was followed.
#[inline(never)]
pub(crate) fn end_walk(action: i32) -> u32 {
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: as in `begin_walk`.
    unsafe {
        if (*walk).count == NONE {
            return 0;
        }
        (*walk).action = action;
        if TRACES.output(&*walk, 0).is_err()
            && let Some(lost) = LOST.get_ptr_mut(0)
        {
            *lost += 1;
        }
        (*walk).count = NONE;
    }
    1
}
