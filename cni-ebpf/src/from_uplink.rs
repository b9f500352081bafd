//! Path: a packet arriving from the network (tcx ingress of the uplink). What another node's pods
//! send to a local pod goes straight into it; all else is the kernel's. What comes from elsewhere
//! may belong to a connection that the kernel follows (masqueraded answers, clients outside, whose
//! answers leave by the kernel's stack): it must see both directions, and `to_pod` judges it there.

use crate::{
    address::Ip,
    announce, deliver, forward, maps, outside,
    packet::{self, Addressed, Parsed},
    policy,
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    endpoint::EndpointAddr,
    node::Node,
    verdict::{DropReason, Path},
};

/// Judges and sends on one packet.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub(crate) fn handle(ctx: &TcContext) -> Result<i32, DropReason> {
    // Frames for other stations are seen while somebody captures; the stack ignores them.
    match packet::addressed(ctx) {
        Addressed::Host => {}
        Addressed::Group => return announce::answer(ctx),
        Addressed::Other => return Ok(forward::PASS),
    }
    if packet::lacks_ethernet(ctx) {
        let Some((src, dst)) = packet::addresses_without_ethernet(ctx) else {
            return Ok(forward::PASS);
        };
        if receiver(src, dst)?.is_none() {
            return Ok(forward::PASS);
        }
        packet::restore_ethernet(ctx)?;
    }
    let Parsed::Ip(mut packet) = packet::parse(ctx)? else {
        return announce::answer(ctx);
    };
    match receiver(packet.src, packet.dst)? {
        Some(local) => {
            policy::check(ctx, &mut packet, local.id, policy::INGRESS)?;
            deliver::to_endpoint(ctx, &mut packet, local, Path::UplinkToPod)
        }
        None => {
            // A neighbour asks the one it knows whether it is still there.
            if announce::may_ask(&packet)
                && let Some(answered) = announce::solicitation(ctx, &packet)?
            {
                return Ok(answered);
            }
            Ok(outside::arrive(ctx, &mut packet)?.unwrap_or(forward::PASS))
        }
    }
}

/// The local pod that another node's pod sends to; `None` for what is the kernel's.
///
/// # Errors
/// [`DropReason::SpoofedFromOutside`], whomever it is for: the host trusts its pods' addresses too.
#[inline(always)]
fn receiver(src: Ip, dst: Ip) -> Result<Option<&'static EndpointAddr>, DropReason> {
    if maps::endpoint_addr(src).is_some() {
        return Err(DropReason::SpoofedFromOutside);
    }
    // The dearer look-up only for what is for a pod.
    let Some(local) = maps::endpoint_addr(dst) else {
        return Ok(None);
    };
    let of_another_node = maps::node(src).is_some_and(|node| node.flags & Node::LOCAL == 0);
    Ok(of_another_node.then_some(local))
}
