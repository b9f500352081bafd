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
mod packet;
mod rewrite;
mod service;
mod to_pod;
mod transport;
mod upper;
mod xdp_uplink;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// tcx ingress of a pod's host-side interface. Kernel 6.6.
#[classifier]
pub(crate) fn from_pod(ctx: TcContext) -> i32 {
    from_pod::handle(&ctx).unwrap_or_else(|reason| drop::packet(&ctx, reason))
}

/// tcx egress of a pod's host-side interface. Kernel 6.6.
#[classifier]
pub(crate) fn to_pod(ctx: TcContext) -> i32 {
    to_pod::handle(&ctx).unwrap_or_else(|reason| drop::packet(&ctx, reason))
}

/// tcx ingress of the uplink. Kernel 6.6.
#[classifier]
pub(crate) fn from_uplink(ctx: TcContext) -> i32 {
    from_uplink::handle(&ctx).unwrap_or_else(|reason| drop::packet(&ctx, reason))
}

/// XDP on the uplink; takes frames of several buffers. Kernel 5.18.
#[xdp(frags)]
pub(crate) fn xdp_uplink(ctx: XdpContext) -> u32 {
    xdp_uplink::handle(&ctx).unwrap_or_else(|reason| drop::xdp(&ctx, reason))
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
