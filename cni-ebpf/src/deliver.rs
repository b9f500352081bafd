//! Last step to a local pod: straight into its namespace.

use crate::{flow, forward, kernel, maps, packet, packet::Packet, rewrite};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    endpoint::EndpointAddr,
    verdict::{DropReason, Path},
};

/// Hands the packet to the pod. What a router must answer (an expired TTL) or interpret (IPv4
/// options) goes to the kernel's stack, which knows the way to the pod as well. A backend's answer
/// gets its frontend's address back here, whichever way it came.
///
/// # Errors
/// [`DropReason::Redirect`]: the kernel refused.
#[inline(always)]
pub(crate) fn to_endpoint(
    ctx: &TcContext,
    packet: &mut Packet,
    to: &EndpointAddr,
    path: Path,
) -> Result<i32, DropReason> {
    if packet.ttl <= 1 || packet.has_options() {
        return Ok(match path {
            Path::PodToPod => forward::to_stack(ctx),
            _ => forward::PASS,
        });
    }
    flow::begins_directly(ctx, packet, to.id)?;
    flow::answer(ctx, packet, to.id)?;
    hand_over(ctx, packet, to, path)
}

/// The same for a packet that has just been translated: it is no answer, and no direct connection.
///
/// # Errors
/// As [`to_endpoint`].
#[inline(always)]
pub(crate) fn translated(
    ctx: &TcContext,
    packet: &Packet,
    to: &EndpointAddr,
) -> Result<i32, DropReason> {
    if packet.ttl <= 1 {
        return Ok(forward::PASS);
    }
    hand_over(ctx, packet, to, Path::UplinkToPod)
}

#[inline(always)]
fn hand_over(
    ctx: &TcContext,
    packet: &Packet,
    to: &EndpointAddr,
    path: Path,
) -> Result<i32, DropReason> {
    rewrite::decrement_ttl(ctx, packet)?;
    rewrite::macs(ctx, to)?;
    let (bytes, packets) = packet::size(ctx);
    maps::count_path(path, bytes, packets);
    kernel::redirect_peer(to.ifindex)
}
