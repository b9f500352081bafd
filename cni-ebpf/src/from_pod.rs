//! Path: a packet leaving a local pod (tcx ingress of the pod's host-side interface). First
//! whether the pod may send it, then where it goes.

use crate::{
    address::{Ip, Mac},
    deliver, drop, flow, forward, maps, neighbor, outside,
    packet::{self, Addressed, Packet, Parsed},
    policy, service, trace,
    upper::{self, Upper},
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    endpoint::Endpoint,
    node::Node,
    trace::StepKind,
    verdict::{DropReason, Path},
};

/// Judges and sends on one packet.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub(crate) fn handle(ctx: &TcContext) -> Result<i32, DropReason> {
    let endpoint = maps::endpoint(packet::ifindex(ctx)).ok_or(DropReason::UnknownEndpoint)?;
    let ethernet = packet::head::<{ packet::ETH_LEN }>(ctx).ok_or(DropReason::Malformed)?;
    if ethernet.mac::<6>() != Mac::from_bytes(endpoint.mac) {
        return Err(DropReason::SourceMac);
    }
    let packet = match packet::parse(ctx)? {
        Parsed::Ip(packet) => packet,
        Parsed::Arp => return neighbor::answer_arp(ctx, endpoint),
        Parsed::Other => return Err(DropReason::EtherType),
    };
    let upper = upper::find(ctx, &packet)?;
    if let Some(verdict) = neighbor::icmpv6(ctx, &packet, upper, endpoint)? {
        return Ok(verdict);
    }
    refuse_server(ctx, &packet, upper)?;
    check_addresses(ctx, &packet, endpoint)?;
    route(ctx, packet, endpoint)
}

/// A pod must not hand out addresses to others.
#[inline(always)]
fn refuse_server(ctx: &TcContext, packet: &Packet, upper: Option<Upper>) -> Result<(), DropReason> {
    const UDP: u8 = 17;
    let Some(Upper { protocol: UDP, at }) = upper else {
        return Ok(());
    };
    let ports = u32::from_be(upper::load::<u32>(ctx, packet, at)?);
    let server = if packet.v4 {
        67 << 16 | 68
    } else {
        547 << 16 | 546
    };
    if ports == server {
        Err(DropReason::DhcpServer)
    } else {
        Ok(())
    }
}

#[inline(always)]
fn check_addresses(
    ctx: &TcContext,
    packet: &Packet,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    let own = maps::own_address(endpoint, packet.v4);
    // "No address" is all zeros in the map, as is IPv6's unspecified address.
    let honest = packet.src == own && own != Ip::UNSPECIFIED;
    if packet.dst.is_group() && (honest || packet.src.is_of_start_up()) {
        return Err(DropReason::Multicast);
    }
    if !honest {
        return Err(DropReason::SourceAddress);
    }
    // With `route_localnet`, which kube-proxy sets, the kernel would let it reach the node's own
    // services.
    if packet.dst.is_loopback() {
        return Err(DropReason::Loopback);
    }
    match packet::addressed(ctx) {
        Addressed::Host => Ok(()),
        Addressed::Group => Err(DropReason::Multicast),
        Addressed::Other => Err(DropReason::DestinationMac),
    }
}

#[inline(always)]
fn route(ctx: &TcContext, mut packet: Packet, endpoint: &Endpoint) -> Result<i32, DropReason> {
    let own = maps::own_address(endpoint, packet.v4);
    if let Some(verdict) = outside::answer(ctx, &mut packet, endpoint.id)? {
        return Ok(verdict);
    }
    let mut local = maps::endpoint_addr(packet.dst);
    let mut node = None;
    if local.is_none() {
        node = maps::node(packet.dst);
        // A Service's address is in no podCIDR.
        if node.is_none() && service::translate(ctx, &mut packet, endpoint.id)? {
            local = maps::endpoint_addr(packet.dst);
            if local.is_none() {
                node = maps::node(packet.dst);
            }
        }
    }
    // A pod that is its own backend is nobody else.
    let itself = packet.dst == own;
    if !itself {
        policy::check(ctx, &mut packet, endpoint.id, policy::EGRESS)?;
    }
    // What is for no pod goes there anyway.
    if flow::came_by_stack(ctx, &mut packet, endpoint.id)? {
        trace::step(StepKind::ByStack, 0, endpoint.id);
        return Ok(forward::to_stack(ctx));
    }
    if let Some(local) = local {
        if !itself {
            policy::check(ctx, &mut packet, local.id, policy::INGRESS)?;
        }
        return deliver::to_endpoint(ctx, &mut packet, local, Path::PodToPod);
    }
    match node {
        Some(node) if node.flags & Node::LOCAL == 0 => forward::to_node(ctx, &packet, node),
        Some(_) => {
            drop::count(ctx, DropReason::NoEndpoint);
            Ok(forward::PASS)
        }
        None => Ok(forward::to_stack(ctx)),
    }
}
