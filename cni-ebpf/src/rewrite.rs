//! What a router changes in a packet.

use crate::{
    address::Mac,
    kernel,
    packet::{self, Packet},
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{endpoint::EndpointAddr, verdict::DropReason};

/// Takes one from TTL or hop limit, which the caller has seen to be above 1.
///
/// # Errors
/// [`DropReason::Redirect`]: the kernel had no memory to make the header writable.
#[inline(always)]
pub(crate) fn decrement_ttl(ctx: &TcContext, packet: &Packet) -> Result<(), DropReason> {
    if !packet.v4 {
        // No checksum of its own, but one of the device may cover the header.
        return kernel::store_byte(ctx, 21, packet.ttl - 1);
    }
    let head = packet::head::<34>(ctx).ok_or(DropReason::Redirect)?;
    head.set::<u8, 22>(packet.ttl - 1);
    // RFC 1624: the TTL is the high byte of its word, so the checksum grows by 0x0100. The sum of
    // both changes is zero, so that a checksum of the device stays right.
    let sum = u32::from(u16::from_be(head.get::<u16, 24>())) + 0x0100;
    let folded = (sum + u32::from(sum >= 0xffff)) as u16;
    head.set::<u16, 24>(folded.to_be());
    Ok(())
}

/// Addresses the frame from the pod's gateway to the pod.
///
/// # Errors
/// As [`decrement_ttl`].
#[inline(always)]
pub(crate) fn macs(ctx: &TcContext, to: &EndpointAddr) -> Result<(), DropReason> {
    let head = packet::head::<{ packet::ETH_LEN }>(ctx).ok_or(DropReason::Redirect)?;
    head.set_mac::<0>(Mac::from_bytes(to.mac));
    head.set_mac::<6>(Mac::from_bytes(to.host_mac));
    Ok(())
}
