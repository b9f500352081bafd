//! What a router changes in a packet.

use crate::{
    address::{self, Mac},
    flow::{TRANSLATED, pack, unpack},
    kernel,
    packet::{self, Packet},
    service::Search,
    trace,
    transport::{Transport, Tuple},
    upper,
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    endpoint::EndpointAddr,
    flow::{SCTP, TCP, UDP, crc32c_changed},
    verdict::DropReason,
};

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

/// Gives a packet the addresses of its family and the ports that were found for it; a later fragment
/// has only addresses. Keeps every checksum right that was right: in the headers, the one that is
/// still to be computed by a device, and the one that a device has computed.
///
/// # Errors
/// As [`decrement_ttl`].
#[inline(always)]
pub(crate) fn endpoints(ctx: &TcContext, search: &mut Search) -> Result<(), DropReason> {
    unpack(exchange(ctx, search)).map(|_| ())
}

#[inline(never)]
fn exchange(ctx: &TcContext, search: &mut Search) -> u32 {
    let Search {
        packet,
        transport,
        change,
        ..
    } = search;
    pack(try_exchange(ctx, packet, transport, change).map(|()| TRANSLATED))
}

#[inline(always)]
fn try_exchange(
    ctx: &TcContext,
    packet: &mut Packet,
    transport: &Transport,
    wanted: &Tuple,
) -> Result<(), DropReason> {
    let (src, dst, ports) = (wanted.src, wanted.dst, wanted.ports);
    let change = address::sum_change([packet.src, packet.dst], [src, dst]);
    if transport.at != 0 {
        match transport.protocol as u8 {
            protocol @ (TCP | UDP) => {
                let optional = protocol == UDP;
                let at = transport.at + if optional { 6 } else { 16 };
                kernel::correct_addresses(ctx, at, change, optional)?;
                kernel::correct_word(ctx, at, (transport.ports, ports), optional)?;
            }
            SCTP => correct_sctp(ctx, packet, transport, ports)?,
            _ => {}
        }
        kernel::store_balanced(ctx, transport.at, &ports)?;
    }
    if packet.v4 {
        kernel::correct_header(ctx, 24, change)?;
        kernel::store_balanced(ctx, 26, &[src.v4(), dst.v4()])?;
    } else {
        // The header has no checksum to make this good, so a device's is told of it here, as it was
        // of the upper header's checksum above.
        let ([a, b], [c, d]) = (src.words(), dst.words());
        kernel::store_counted(ctx, 22, &[a, b, c, d])?;
    }
    (packet.src, packet.dst) = (src, dst);
    trace::rewritten(wanted);
    Ok(())
}

/// SCTP's checksum covers its own bytes only. One of 0 is still to be computed.
#[inline(always)]
fn correct_sctp(
    ctx: &TcContext,
    packet: &Packet,
    transport: &Transport,
    ports: u32,
) -> Result<(), DropReason> {
    let delta = (transport.ports ^ ports).to_le();
    if delta == 0 {
        return Ok(());
    }
    let crc = u32::from_le(upper::load::<u32>(ctx, packet, transport.at + 8)?);
    // Of a fragment nobody here knows what follows; no SCTP is sent in fragments (RFC 9260 §6.9).
    if crc == 0 || transport.is_fragment() {
        return Ok(());
    }
    let trailing = packet.end - transport.at - 4;
    let crc = crc_changed(crc, delta, trailing);
    kernel::store_balanced(ctx, transport.at + 8, &crc.to_le())
}

/// Apart, so that the verifier walks it once.
#[inline(never)]
fn crc_changed(crc: u32, delta: u32, trailing: u32) -> u32 {
    crc32c_changed(crc, delta, trailing)
}
