//! Path: a packet arriving from the network (tcx ingress of the uplink). What is for a local pod
//! goes straight into it; all else is the kernel's.

use crate::{
    deliver, forward, maps,
    packet::{self, Addressed, Parsed},
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::verdict::{DropReason, Path};

/// Judges and sends on one packet.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn handle(ctx: &TcContext) -> Result<i32, DropReason> {
    // Frames for other stations are seen while somebody captures; the stack ignores them.
    if packet::addressed(ctx) != Addressed::Host {
        return Ok(forward::PASS);
    }
    if packet::lacks_ethernet(ctx) {
        let to = packet::destination_without_ethernet(ctx);
        if to.and_then(maps::endpoint_addr).is_none() {
            return Ok(forward::PASS);
        }
        packet::restore_ethernet(ctx)?;
    }
    let Parsed::Ip(packet) = packet::parse(ctx)? else {
        return Ok(forward::PASS);
    };
    let Some(local) = maps::endpoint_addr(packet.dst) else {
        return Ok(forward::PASS);
    };
    if maps::endpoint_addr(packet.src).is_some() {
        return Err(DropReason::SpoofedFromOutside);
    }
    deliver::to_endpoint(ctx, &packet, local, Path::UplinkToPod)
}
