//! Events: single packets, told to who listens. Nobody waits for a listener: beyond the budget of a CPU, and
//! without room in the ring, an event is counted as lost.
#![expect(
    unsafe_code,
    reason = "access to map memory, and a helper that writes to it"
)]

use crate::{kernel, packet};
use aya_ebpf::{
    EbpfContext as _,
    btf_maps::{Array, PerCpuArray, RingBuf},
    helpers::generated::bpf_skb_load_bytes,
    macros::btf_map,
    programs::TcContext,
};
use cni_ebpf_common::event::{
    EVENTS_A_SECOND, EVENTS_BYTES, Event, EventBudget, EventSettings, HEAD_SIZES,
};
use core::ptr;

/// Whether somebody listens; the agent writes.
#[btf_map(name = "event_settings")]
static SETTINGS: Array<EventSettings, 1> = Array::new();

/// How much was told; the programs write.
#[btf_map(name = "event_budget")]
static BUDGET: PerCpuArray<EventBudget, 1> = PerCpuArray::new();

/// The events; the programs write, the agent reads.
#[btf_map(name = "events")]
static EVENTS: RingBuf<Event, { EVENTS_BYTES as usize }> = RingBuf::new();

const SECOND: u64 = 1_000_000_000;

/// Tells of a packet, if somebody listens. `what`: as in [`Event`].
#[inline(always)]
pub(crate) fn tell(ctx: &TcContext, what: u32) {
    // Mostly nobody does: one look-up.
    let until = SETTINGS.get(0).map_or(0, |settings| settings.until_ns);
    if until != 0 {
        let _told_or_not = told(ctx, what, until);
    }
}

#[inline(never)]
fn told(ctx: &TcContext, what: u32, until: u64) -> u32 {
    let now = kernel::now_ns();
    if now >= until {
        return 0;
    }
    let Some(budget) = BUDGET.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the map's memory, this CPU's own; a program that interrupts this one may at worst cost a count.
    let budget = unsafe { &mut *budget };
    if budget.second != now / SECOND {
        budget.second = now / SECOND;
        budget.told = 0;
    }
    if budget.told >= EVENTS_A_SECOND {
        budget.lost += 1;
        return 0;
    }
    let Some(mut entry) = EVENTS.reserve(0) else {
        budget.lost += 1;
        return 0;
    };
    budget.told += 1;
    let event: *mut Event = entry.as_mut_ptr();
    let (length, _) = packet::size(ctx);
    // SAFETY: memory of one event, reserved for this one; each field is written once, and it is given on whole.
    unsafe {
        ptr::addr_of_mut!((*event).time_ns).write(now);
        ptr::addr_of_mut!((*event).ifindex).write(packet::ifindex(ctx));
        ptr::addr_of_mut!((*event).what).write(what);
        ptr::addr_of_mut!((*event).length).write(length as u32);
        let head = ptr::addr_of_mut!((*event).head);
        let words = head.cast::<u64>();
        let mut at = 0;
        while at < Event::HEAD / 8 {
            words.add(at).write(0);
            at += 1;
        }
        let mut captured = 0;
        for size in HEAD_SIZES {
            if captured == 0 && bpf_skb_load_bytes(ctx.as_ptr().cast(), 0, head.cast(), size) == 0 {
                captured = size;
            }
        }
        ptr::addr_of_mut!((*event).captured).write(captured);
    }
    entry.submit(0);
    1
}
