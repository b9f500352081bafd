//! Last step of a packet that leaves the node's pods: to another node or to the kernel's stack.

use crate::{address::Ip, kernel, maps, packet, packet::Packet, rewrite};
use aya_ebpf::{bindings::TC_ACT_UNSPEC, programs::TcContext};
use aya_log_ebpf::trace;
use cni_ebpf_common::{
    node::Node,
    verdict::{DropReason, Path},
};

/// On to the next program of the hook, then to the kernel's stack.
pub(crate) const PASS: i32 = TC_ACT_UNSPEC;

/// Sends a pod's packet to the node that has the destination. What a router must answer (an
/// expired TTL, a packet larger than the way) or interpret (IPv4 options) goes to the kernel's
/// stack, which has a route for every podCIDR.
///
/// # Errors
/// [`DropReason::Redirect`]: the kernel refused.
#[inline(always)]
pub(crate) fn to_node(ctx: &TcContext, packet: &Packet, node: &Node) -> Result<i32, DropReason> {
    if packet.ttl <= 1 || packet.has_options() || !fits(ctx, packet, node) {
        return Ok(to_stack(ctx));
    }
    rewrite::decrement_ttl(ctx, packet)?;
    let (bytes, packets) = packet::size(ctx);
    maps::count_path(Path::PodToNode, bytes, packets);
    kernel::redirect_neighbor(node.ifindex, Ip::from_addr(&node.next_hop))
}

/// Leaves a pod's packet to the kernel: the host itself, the world, ICMP errors.
#[inline(always)]
pub(crate) fn to_stack(ctx: &TcContext) -> i32 {
    let (bytes, packets) = packet::size(ctx);
    maps::count_path(Path::PodToStack, bytes, packets);
    trace!(
        ctx,
        "interface {}: to the stack, {} bytes",
        packet::ifindex(ctx),
        bytes
    );
    PASS
}

/// Whether the packet, or each segment of a large buffer, fits the way to the node.
#[inline(always)]
fn fits(ctx: &TcContext, packet: &Packet, node: &Node) -> bool {
    let segment = packet::segment_size(ctx);
    if segment == 0 {
        return packet.len() <= node.mtu;
    }
    // The least that a segment's headers take; the kernel knows the rest, such as options and
    // tunnels inside of the pod, but only the device's MTU.
    let ip = if packet.v4 { 20 } else { 40 };
    segment + ip + 8 <= node.mtu && kernel::segments_fit(ctx, node.ifindex)
}
