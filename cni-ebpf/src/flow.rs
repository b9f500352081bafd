//! What is remembered of flows: answers of backends get the frontend's address back, and what came
//! by the host's stack is answered by it.

use crate::{
    icmp_error, kernel, maps,
    maps::{FlowRow, FlowWords},
    packet::Packet,
    rewrite,
    service::Search,
    transport,
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    flow::{Flow, REFRESH_NS, idle_ns, is_answer, is_by_stack},
    verdict::DropReason,
};

/// What a subprogram made of a packet: its result has to fit a register.
pub(crate) const UNTOUCHED: u32 = 0;
pub(crate) const TRANSLATED: u32 = 1;
const FAULT: u32 = 0x100;

/// A result as a number.
#[inline(always)]
pub(crate) fn pack(result: Result<u32, DropReason>) -> u32 {
    match result {
        Ok(done) => done,
        Err(reason) => FAULT + reason as u32,
    }
}

/// The number as whether the packet was translated.
///
/// # Errors
/// The reason that was packed.
#[inline(always)]
pub(crate) fn unpack(packed: u32) -> Result<bool, DropReason> {
    if packed < FAULT {
        return Ok(packed == TRANSLATED);
    }
    // Cannot fail; without this the compiler would trust it, and the verifier would not.
    Err(DropReason::try_from(packed - FAULT).unwrap_or(DropReason::Redirect))
}

/// The number as what was done.
///
/// # Errors
/// The reason that was packed.
#[inline(always)]
pub(crate) fn unpack_code(packed: u32) -> Result<u32, DropReason> {
    if packed < FAULT {
        return Ok(packed);
    }
    // As above.
    Err(DropReason::try_from(packed - FAULT).unwrap_or(DropReason::Redirect))
}

/// Gives an answer to a local client the frontend's address and port as its source.
///
/// # Errors
/// The kernel refused.
#[inline(always)]
pub(crate) fn answer(ctx: &TcContext, packet: &mut Packet, id: u32) -> Result<bool, DropReason> {
    if maps::endpoint_flows(id).client == 0 {
        return Ok(false);
    }
    let search = maps::scratch()?;
    search.packet = *packet;
    let packed = answer_known(ctx, search);
    *packet = search.packet;
    unpack(packed)
}

#[inline(never)]
fn answer_known(ctx: &TcContext, search: &mut Search) -> u32 {
    pack(try_answer(ctx, search))
}

#[inline(always)]
fn try_answer(ctx: &TcContext, search: &mut Search) -> Result<u32, DropReason> {
    if !transport::find(ctx, search)? {
        let done = icmp_error::answer(ctx, search, icmp_error::OF_POD);
        if done == icmp_error::ADDRESSED {
            rewrite::endpoints(ctx, search)?;
            return Ok(TRANSLATED);
        }
        return unpack(done).map(u32::from);
    }
    // A fragment without a first one may as well be of a flow that is not translated.
    if !transport::complete(search) {
        return Ok(UNTOUCHED);
    }
    let Some(row) = maps::flow(&search.tuple) else {
        return Ok(UNTOUCHED);
    };
    let flow = row.get();
    if !flow.is(Flow::ANSWER) {
        return Ok(UNTOUCHED);
    }
    let (protocol, accepts) = (search.transport.protocol as u8, search.transport.accepts());
    let (closing, seen, now) = (flow.closing != 0, flow.seen_ns, kernel::now_ns());
    if !is_answer(protocol, closing, accepts, seen, now) {
        maps::forget_flow(&search.tuple);
        return Ok(UNTOUCHED);
    }
    touch(row, &flow, search.transport.ends(), now);
    search.change = flow.to(protocol);
    transport::remember_fragment(search);
    rewrite::endpoints(ctx, search)?;
    Ok(TRANSLATED)
}

/// Writes down that a packet of the flow was seen, and whether it ends it.
#[inline(always)]
pub(crate) fn touch(row: FlowRow, flow: &FlowWords, ends: bool, now: u64) {
    if idle_ns(flow.seen_ns, now) >= REFRESH_NS {
        row.set_seen(now);
    }
    if ends && flow.closing == 0 {
        row.set_closing();
    }
}

/// Whether an endpoint's packet answers what came by the host's stack.
///
/// # Errors
/// [`DropReason::Malformed`].
#[inline(always)]
pub(crate) fn came_by_stack(
    ctx: &TcContext,
    packet: &mut Packet,
    id: u32,
) -> Result<bool, DropReason> {
    if maps::endpoint_flows(id).by_stack == 0 {
        return Ok(false);
    }
    let search = maps::scratch()?;
    search.packet = *packet;
    let packed = came_by_stack_known(ctx, search);
    *packet = search.packet;
    unpack(packed)
}

#[inline(never)]
fn came_by_stack_known(ctx: &TcContext, search: &mut Search) -> u32 {
    pack(try_came_by_stack(ctx, search))
}

#[inline(always)]
fn try_came_by_stack(ctx: &TcContext, search: &mut Search) -> Result<u32, DropReason> {
    if !transport::find(ctx, search)? || !transport::complete(search) {
        return Ok(UNTOUCHED);
    }
    let Some(row) = maps::flow(&search.tuple) else {
        return Ok(UNTOUCHED);
    };
    let flow = row.get();
    let (protocol, now) = (search.transport.protocol as u8, kernel::now_ns());
    if flow.by_stack == 0 || !is_by_stack(protocol, flow.seen_ns, now) {
        return Ok(UNTOUCHED);
    }
    transport::remember_fragment(search);
    Ok(TRANSLATED)
}

/// A connection that begins by the short cut is answered by it, whatever was remembered of a former
/// one with the same ports: conntrack may still have that one, and would translate the answer.
///
/// # Errors
/// [`DropReason::Malformed`].
#[inline(always)]
pub(crate) fn begins_directly(
    ctx: &TcContext,
    packet: &mut Packet,
    id: u32,
) -> Result<(), DropReason> {
    if maps::endpoint_flows(id).by_stack == 0 || !transport::may_begin(ctx, packet) {
        return Ok(());
    }
    let search = maps::scratch()?;
    search.packet = *packet;
    let packed = forget_stack(ctx, search);
    *packet = search.packet;
    unpack(packed).map(|_| ())
}

#[inline(never)]
fn forget_stack(ctx: &TcContext, search: &mut Search) -> u32 {
    pack(try_forget_stack(ctx, search))
}

#[inline(always)]
fn try_forget_stack(ctx: &TcContext, search: &mut Search) -> Result<u32, DropReason> {
    if !transport::find(ctx, search)? || !search.transport.begins() {
        return Ok(UNTOUCHED);
    }
    if !transport::complete(search) {
        return Ok(UNTOUCHED);
    }
    search.tuple = search.tuple.reversed();
    let Some(row) = maps::flow(&search.tuple) else {
        return Ok(UNTOUCHED);
    };
    let flow = row.get();
    if flow.is(Flow::ANSWER | Flow::TO_BACKEND) {
        row.set_by_stack(false);
    } else {
        maps::forget_flow(&search.tuple);
    }
    Ok(UNTOUCHED)
}

/// Remembers that a pod's packet to this endpoint came by the host's stack.
///
/// # Errors
/// [`DropReason::Malformed`].
#[inline(always)]
pub(crate) fn remember_stack(ctx: &TcContext, packet: &Packet, id: u32) -> Result<(), DropReason> {
    // The stack carries packets with options of connections whose others take the short cut.
    if packet.has_options() {
        return Ok(());
    }
    let of_pod = maps::endpoint_addr(packet.src).is_some() || maps::node(packet.src).is_some();
    if !of_pod {
        return Ok(());
    }
    let search = maps::scratch()?;
    search.packet = *packet;
    unpack(remember_stack_of_pod(ctx, search, id)).map(|_| ())
}

#[inline(never)]
fn remember_stack_of_pod(ctx: &TcContext, search: &mut Search, id: u32) -> u32 {
    pack(try_remember_stack(ctx, search, id))
}

#[inline(always)]
fn try_remember_stack(ctx: &TcContext, search: &mut Search, id: u32) -> Result<u32, DropReason> {
    // The first fragment speaks for the later ones.
    if !transport::find(ctx, search)? || search.transport.at == 0 {
        return Ok(UNTOUCHED);
    }
    if !transport::complete(search) {
        return Ok(UNTOUCHED);
    }
    search.tuple = search.tuple.reversed();
    let now = kernel::now_ns();
    if let Some(row) = maps::flow(&search.tuple) {
        let flow = row.get();
        if flow.by_stack == 0 {
            row.set_by_stack(true);
        }
        if idle_ns(flow.seen_ns, now) >= REFRESH_NS {
            row.set_seen(now);
        }
    } else {
        search.row = FlowWords::new(&search.tuple, 0, now);
        search.row.by_stack = 1;
        maps::remember_flow(&search.tuple, &search.row)?;
    }
    maps::mark_by_stack(id);
    Ok(UNTOUCHED)
}
