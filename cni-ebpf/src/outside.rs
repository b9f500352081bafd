//! Services for clients outside of the node: what comes by an uplink gets a backend, and answers leave
//! by it as the Service's. A local pod, or the host, hears the client's own address; a backend elsewhere
//! the node's, so that its answer comes back here.

use crate::{
    address::Ip,
    deliver,
    flow::{TRANSLATED, UNTOUCHED, pack, touch, unpack_code},
    forward, icmp_error, kernel, maps,
    packet::{self, Packet, Parsed},
    policy, rewrite,
    service::{self, CHOSEN, KNOWN, Search, UNKNOWN},
    trace, transport,
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    flow::{Flow, UDP, is_answer},
    node::Node,
    outside::OutsideSettings,
    trace::StepKind,
    verdict::{DropReason, Path},
};

/// The packet is an answer, and goes on to its client.
const TO_CLIENT: u32 = 2;
/// The packet goes on as it is, to the node of the backend in `search.change`.
const TO_NODE: u32 = 3;

/// Sends on a packet from the uplink to a Service, or an answer of a backend elsewhere. None: it is
/// neither, or belongs to the host's stack as it is now.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub(crate) fn arrive(ctx: &TcContext, packet: &mut Packet) -> Result<Option<i32>, DropReason> {
    let any = OutsideSettings::TAKE | OutsideSettings::FOLLOW;
    let is_on = maps::outside().is_some_and(|settings| settings.is(any));
    if !is_on || packet.has_options() {
        return Ok(None);
    }
    let search = maps::scratch()?;
    search.packet = *packet;
    search.ifindex = packet::ifindex(ctx);
    let packed = arrive_here(ctx, search);
    *packet = search.packet;
    let (leaves_by, backend) = (search.ifindex, search.change.dst);
    match unpack_code(packed)? {
        TO_CLIENT => to_client(ctx, packet, leaves_by).map(Some),
        TRANSLATED => to_backend(ctx, packet),
        TO_NODE => to_node_of(ctx, packet, backend),
        _ => Ok(None),
    }
}

#[inline(always)]
fn to_backend(ctx: &TcContext, packet: &mut Packet) -> Result<Option<i32>, DropReason> {
    if let Some(local) = maps::endpoint_addr(packet.dst) {
        policy::check(ctx, packet, local.id, policy::INGRESS)?;
        return deliver::translated(ctx, packet, local).map(Some);
    }
    if maps::outside().is_some_and(|node| node.own(packet.v4) == packet.dst) {
        return Ok(None);
    }
    spend_hop(ctx, packet)?;
    let (bytes, packets) = packet::size(ctx);
    maps::count_path(Path::ServiceToNode, bytes, packets);
    match maps::node(packet.dst) {
        Some(node) => kernel::redirect_neighbor(node.ifindex, Ip::from_addr(&node.next_hop)),
        None => kernel::redirect_route(packet::ifindex(ctx)),
    }
    .map(Some)
}

/// The backend's node answers the client itself (direct server return). Its programs find the same backend.
#[inline(always)]
fn to_node_of(ctx: &TcContext, packet: &Packet, backend: Ip) -> Result<Option<i32>, DropReason> {
    // Gone since the flow began, or here by now: nobody knows of the connection any more.
    let Some(node) = maps::node(backend).filter(|node| node.flags & Node::LOCAL == 0) else {
        return Err(DropReason::NoEndpoint);
    };
    spend_hop(ctx, packet)?;
    let (bytes, packets) = packet::size(ctx);
    maps::count_path(Path::ServiceToNode, bytes, packets);
    kernel::redirect_neighbor(node.ifindex, Ip::from_addr(&node.next_hop)).map(Some)
}

#[inline(always)]
fn to_client(ctx: &TcContext, packet: &Packet, ifindex: u32) -> Result<i32, DropReason> {
    spend_hop(ctx, packet)?;
    let (bytes, packets) = packet::size(ctx);
    maps::count_path(Path::ServiceToClient, bytes, packets);
    kernel::redirect_route(ifindex)
}

#[inline(always)]
fn spend_hop(ctx: &TcContext, packet: &Packet) -> Result<(), DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::HopLimit);
    }
    rewrite::decrement_ttl(ctx, packet)
}

#[inline(never)]
fn arrive_here(ctx: &TcContext, search: &mut Search) -> u32 {
    pack(try_arrive(ctx, search))
}

#[inline(always)]
fn try_arrive(ctx: &TcContext, search: &mut Search) -> Result<u32, DropReason> {
    search.done = UNTOUCHED;
    if !transport::find(ctx, search)? {
        error(ctx, search)?;
    } else if transport::complete(search) {
        judge(search)?;
    } else if is_services_own(&search.packet) {
        return Err(DropReason::FragmentUnknown);
    }
    apply(ctx, search)
}

/// Whether an address is a Service's and not the node's, where most of what comes is for the host.
#[inline(always)]
fn is_services_own(packet: &Packet) -> bool {
    let is_node = maps::outside().is_some_and(|node| node.own(packet.v4) == packet.dst);
    !is_node && maps::frontend(packet.dst, 0, 0).is_some()
}

/// Rewrites the packet as it was decided. What was done is read back from the map: to the verifier all ways
/// that lead here are one.
#[inline(always)]
fn apply(ctx: &TcContext, search: &mut Search) -> Result<u32, DropReason> {
    if search.done == UNTOUCHED || search.done == TO_NODE {
        return Ok(search.done);
    }
    rewrite::endpoints(ctx, search)?;
    Ok(search.done)
}

/// Decides about a packet with ports.
#[inline(always)]
fn judge(search: &mut Search) -> Result<(), DropReason> {
    search.now = kernel::now_ns();
    if answers(search) {
        transport::remember_fragment(search);
        search.done = TO_CLIENT;
        return Ok(());
    }
    search.side = Search::UPLINK;
    let mut step = service::follow(search);
    if step == UNKNOWN {
        let takes = maps::outside().is_some_and(|settings| settings.is(OutsideSettings::TAKE));
        // What began before is another's, such as kube-proxy's.
        let begins = search.transport.protocol == UDP.into() || search.transport.begins();
        if takes && begins {
            step = service::choose(search);
        }
    }
    match service::found(step)? {
        KNOWN | CHOSEN => {
            trace::step(StepKind::Balanced, step, 0);
            transport::remember_fragment(search);
            search.done = if search.is(Search::DIRECT) {
                TO_NODE
            } else {
                TRANSLATED
            };
        }
        _ => {
            // As in `service::translate`.
            if search.transport.is_fragment() && maps::frontend(search.tuple.dst, 0, 0).is_some() {
                transport::remember_fragment(search);
            }
        }
    }
    Ok(())
}

/// An error about a packet of a flow from outside, to the end that sent it.
#[inline(always)]
fn error(ctx: &TcContext, search: &mut Search) -> Result<(), DropReason> {
    let done = icmp_error::answer(ctx, search, icmp_error::OF_OUTSIDE);
    let done = unpack_code(done)?;
    if done == icmp_error::ELSEWHERE {
        search.done = TO_NODE;
    } else if done == icmp_error::ADDRESSED {
        search.ifindex = search.row.ifindex;
        search.done = if search.row.is(Flow::TO_BACKEND) {
            TRANSLATED
        } else {
            TO_CLIENT
        };
    }
    Ok(())
}

/// Whether the packet is a backend's answer to a client outside; then what it gets is in `search`, and
/// by which uplink it leaves.
#[inline(never)]
fn answers(search: &mut Search) -> bool {
    let Some(row) = maps::flow(&search.tuple) else {
        return false;
    };
    let flow = row.get();
    if !flow.is(Flow::ANSWER) || !flow.is(Flow::OUTSIDE) {
        return false;
    }
    let (protocol, accepts) = (search.transport.protocol as u8, search.transport.accepts());
    if !is_answer(
        protocol,
        flow.closing != 0,
        accepts,
        flow.seen_ns,
        search.now,
    ) {
        maps::forget_flow(&search.tuple);
        return false;
    }
    touch(row, &flow, search.transport.ends(), search.now);
    search.change = flow.to(protocol);
    search.ifindex = flow.ifindex;
    true
}

/// Sends a pod's answer to its client outside. None: it is none.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub(crate) fn answer(
    ctx: &TcContext,
    packet: &mut Packet,
    id: u32,
) -> Result<Option<i32>, DropReason> {
    // What a router must answer or interpret goes to the stack as it is.
    if maps::endpoint_flows(id).outside == 0 || packet.ttl <= 1 || packet.has_options() {
        return Ok(None);
    }
    // As it is before it gets the Service's address.
    let allowed = policy::is_answer(ctx, packet, id)?;
    let search = maps::scratch()?;
    search.packet = *packet;
    let packed = answer_here(ctx, search);
    *packet = search.packet;
    let leaves_by = search.ifindex;
    match unpack_code(packed)? {
        TO_CLIENT if !allowed => Err(DropReason::PolicyEgress),
        TO_CLIENT => to_client(ctx, packet, leaves_by).map(Some),
        _ => Ok(None),
    }
}

/// Gives what the host itself answers to a client outside the Service's address, on its way out
/// (tcx egress of the uplink).
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub(crate) fn leave(ctx: &TcContext) -> Result<i32, DropReason> {
    if !maps::host_is_backend() {
        return Ok(forward::PASS);
    }
    let Ok(Parsed::Ip(packet)) = packet::parse(ctx) else {
        return Ok(forward::PASS);
    };
    let search = maps::scratch()?;
    search.packet = packet;
    unpack_code(answer_here(ctx, search))?;
    Ok(forward::PASS)
}

#[inline(never)]
fn answer_here(ctx: &TcContext, search: &mut Search) -> u32 {
    pack(try_answer(ctx, search))
}

#[inline(always)]
fn try_answer(ctx: &TcContext, search: &mut Search) -> Result<u32, DropReason> {
    search.done = UNTOUCHED;
    if !transport::find(ctx, search)? {
        error(ctx, search)?;
    } else if transport::complete(search) {
        // A fragment without a first one may as well be of a flow that is not translated.
        search.now = kernel::now_ns();
        if answers(search) {
            transport::remember_fragment(search);
            search.done = TO_CLIENT;
        }
    }
    apply(ctx, search)
}
