//! Path: a packet from the host's stack to a pod (tcx egress of the pod's host-side interface):
//! the kubelet's probes, answers from outside, ICMP errors. What other pods send does not come
//! this way.

use crate::{
    address::Ip,
    flow, forward, maps, neighbor,
    packet::{self, Parsed},
    policy,
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::verdict::{DropReason, Path};

/// Whether a packet with a local pod's source came by another interface than that pod's. By the
/// pod's own, legitimate packets do come: options, an expiring TTL, addresses that the kernel
/// translates. What the host itself makes came by none; it may speak for a pod (transparent proxies).
#[inline(always)]
fn comes_from_elsewhere(ctx: &TcContext, src: Ip) -> bool {
    let ingress = packet::ingress_ifindex(ctx);
    ingress != 0 && maps::endpoint_addr(src).is_some_and(|of| of.ifindex != ingress)
}

/// Judges one packet.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub(crate) fn handle(ctx: &TcContext) -> Result<i32, DropReason> {
    let endpoint = maps::endpoint(packet::ifindex(ctx)).ok_or(DropReason::UnknownEndpoint)?;
    let mut packet = match packet::parse(ctx)? {
        Parsed::Ip(packet) => packet,
        // Both sides have permanent neighbours.
        Parsed::Arp => return Err(DropReason::Neighbor),
        Parsed::Other => return Err(DropReason::EtherType),
    };
    let own = maps::own_address(endpoint, packet.v4);
    if packet.dst != own || own == Ip::UNSPECIFIED {
        return Err(DropReason::NotForEndpoint);
    }
    // What answers would go to the pod's own loopback.
    if packet.src.is_loopback() {
        return Err(DropReason::Loopback);
    }
    if comes_from_elsewhere(ctx, packet.src) {
        return Err(DropReason::SpoofedFromOutside);
    }
    neighbor::refuse_router(ctx, &packet)?;
    let of_node = packet::ingress_ifindex(ctx) == 0;
    let side = policy::INGRESS | if of_node { policy::OF_NODE } else { 0 };
    policy::check(ctx, &mut packet, endpoint.id, side)?;
    // An answer that the stack carried is no new flow of its own.
    if !flow::answer(ctx, &mut packet, endpoint.id)? {
        flow::remember_stack(ctx, &packet, endpoint.id)?;
    }
    let (bytes, packets) = packet::size(ctx);
    maps::count_path(Path::StackToPod, bytes, packets);
    Ok(forward::PASS)
}
