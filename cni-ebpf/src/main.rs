//! Fairlead's kernel programs: one entry for each hook. Start with [`from_pod`] (a packet leaving
//! a pod) and follow its steps; [`maps`] lists what the agent and the programs share.
#![no_std]
#![no_main]

mod address;
mod announce;
mod deliver;
mod drop;
mod flow;
mod forward;
mod from_pod;
mod from_uplink;
mod icmp_error;
mod kernel;
mod maps;
mod neighbor;
mod outside;
mod packet;
mod policy;
mod rewrite;
mod service;
mod socket;
mod socket_context;
mod to_pod;
mod trace;
mod transport;
mod upper;
mod xdp_uplink;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};
use cni_ebpf_common::{trace::Program, verdict::DropReason};
use socket_context::Call;

/// Runs a tcx program's steps.
#[inline(always)]
fn judged(
    ctx: &TcContext,
    program: Program,
    steps: impl FnOnce(&TcContext) -> Result<i32, DropReason>,
) -> i32 {
    trace::begin(ctx, program);
    let action = steps(ctx).unwrap_or_else(|reason| drop::packet(ctx, reason));
    trace::end(action);
    action
}

/// tcx ingress of a pod's host-side interface. Kernel 6.6.
#[classifier]
pub(crate) fn from_pod(ctx: TcContext) -> i32 {
    judged(&ctx, Program::FromPod, from_pod::handle)
}

/// tcx egress of a pod's host-side interface. Kernel 6.6.
#[classifier]
pub(crate) fn to_pod(ctx: TcContext) -> i32 {
    judged(&ctx, Program::ToPod, to_pod::handle)
}

/// tcx ingress of the uplink. Kernel 6.6.
#[classifier]
pub(crate) fn from_uplink(ctx: TcContext) -> i32 {
    judged(&ctx, Program::FromUplink, from_uplink::handle)
}

/// tcx egress of the uplink. Kernel 6.6.
#[classifier]
pub(crate) fn to_uplink(ctx: TcContext) -> i32 {
    judged(&ctx, Program::ToUplink, outside::leave)
}

/// XDP on the uplink; takes frames of several buffers. Kernel 5.18.
#[xdp(frags)]
pub(crate) fn xdp_uplink(ctx: XdpContext) -> u32 {
    xdp_uplink::handle(&ctx).unwrap_or_else(|reason| drop::xdp(&ctx, reason))
}

/// A socket of the control group connects to an IPv4 address. Kernel 5.18.
#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    socket::connect(Call::<true>::new(&ctx))
}

/// A socket of the control group connects to an IPv6 address. Kernel 5.18.
#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    socket::connect(Call::<false>::new(&ctx))
}

/// A socket of the control group sends a datagram to an IPv4 address. Kernel 5.18.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::sendmsg(Call::<true>::new(&ctx))
}

/// A socket of the control group sends a datagram to an IPv6 address. Kernel 5.18.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    socket::sendmsg(Call::<false>::new(&ctx))
}

/// A socket of the control group has received a datagram from an IPv4 address. Kernel 5.7.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::recvmsg(Call::<true>::new(&ctx))
}

/// A socket of the control group has received a datagram from an IPv6 address. Kernel 5.7.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
    socket::recvmsg(Call::<false>::new(&ctx))
}

/// A process of the control group asks for a socket's IPv4 peer. Kernel 5.8.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    socket::getpeername(Call::<true>::new(&ctx))
}

/// A process of the control group asks for a socket's IPv6 peer. Kernel 5.8.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    socket::getpeername(Call::<false>::new(&ctx))
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here panics: the verifier would refuse an endless loop.
    loop {}
}

/// The kernel lends its redirect helpers only to programs that say this.
#[expect(unsafe_code, reason = "the kernel looks for the section of that name")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
