//! Path: the earliest hook on the uplink (XDP). Drops what cannot be legitimate before the kernel
//! spends memory on it; everything else goes on to `from_uplink`.

use crate::{
    maps,
    packet::{self, Parsed},
};
use aya_ebpf::{bindings::xdp_action::XDP_PASS, programs::XdpContext};
use cni_ebpf_common::verdict::DropReason;

/// Judges one frame.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub(crate) fn handle(ctx: &XdpContext) -> Result<u32, DropReason> {
    let Parsed::Ip(packet) = packet::parse_xdp(ctx)? else {
        return Ok(XDP_PASS);
    };
    if maps::endpoint_addr(packet.src).is_some() {
        return Err(DropReason::SpoofedFromOutside);
    }
    Ok(XDP_PASS)
}
