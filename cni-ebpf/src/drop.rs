//! The only way to drop: count, report, return.

use crate::{maps, packet, trace};
use aya_ebpf::{
    bindings::{TC_ACT_SHOT, xdp_action::XDP_DROP},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::debug;
use cni_ebpf_common::{trace::StepKind, verdict::DropReason};

/// Counts and drops.
#[inline(always)]
pub(crate) fn packet(ctx: &TcContext, reason: DropReason) -> i32 {
    count(ctx, reason);
    TC_ACT_SHOT
}

/// Counts a packet that the kernel's stack will refuse with an ICMP error.
#[inline(always)]
pub(crate) fn count(ctx: &TcContext, reason: DropReason) {
    let ifindex = packet::ifindex(ctx);
    let (bytes, packets) = packet::size(ctx);
    maps::count_drop(ifindex, reason, bytes, packets);
    maps::tell(ctx, reason as u32);
    trace::step(StepKind::Dropped, reason as u32, 0);
    debug!(
        ctx,
        "interface {}: dropped, reason {}, {} bytes", ifindex, reason as u32, bytes
    );
}

/// Counts and drops in XDP.
#[inline(always)]
pub(crate) fn xdp(ctx: &XdpContext, reason: DropReason) -> u32 {
    let ifindex = packet::xdp_ifindex(ctx);
    let bytes = u64::from(packet::frame_len(ctx));
    maps::count_drop(ifindex, reason, bytes, 1);
    debug!(
        ctx,
        "interface {}: dropped early, reason {}, {} bytes", ifindex, reason as u32, bytes
    );
    XDP_DROP
}
