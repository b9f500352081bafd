//! Answers to a pod's questions for its gateway (ARP and neighbour discovery), in the kernel's
//! hook: no host interface needs the gateway's address, and no other question gets anywhere.

use crate::{
    address::{Ip, Mac},
    kernel, maps,
    packet::{self, Packet},
    upper::{self, Upper},
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    addr::{GATEWAY_V4, GATEWAY_V6},
    endpoint::Endpoint,
    verdict::{DropReason, Path},
};

const ICMPV6: u8 = 58;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Frame with a neighbour advertisement and its one option.
const ADVERTISEMENT_LEN: usize = 86;

/// Answers an ARP request for the gateway.
///
/// # Errors
/// Any other ARP is dropped; a request may not come from another's address either.
#[inline(always)]
pub(crate) fn answer_arp(ctx: &TcContext, endpoint: &Endpoint) -> Result<i32, DropReason> {
    let head = packet::head::<42>(ctx).ok_or(DropReason::Malformed)?;
    let ethernet_ipv4 = head.get::<u16, 14>() == 1u16.to_be()
        && head.get::<u16, 16>() == 0x0800u16.to_be()
        && head.get::<u16, 18>() == 0x0604u16.to_be();
    let gateway = u32::from_ne_bytes(GATEWAY_V4);
    let request = head.get::<u16, 20>() == 1u16.to_be();
    if !ethernet_ipv4 || !request || head.get::<u32, 38>() != gateway {
        return Err(DropReason::Neighbor);
    }
    let pod_mac = Mac::from_bytes(endpoint.mac);
    if head.mac::<22>() != pod_mac {
        return Err(DropReason::SourceMac);
    }
    // Not aligned to 4 in this header.
    let (high, low) = (head.get::<u16, 28>(), head.get::<u16, 30>());
    let [a, b, c, d] = [
        high.to_ne_bytes()[0],
        high.to_ne_bytes()[1],
        low.to_ne_bytes()[0],
        low.to_ne_bytes()[1],
    ];
    let sender = u32::from_ne_bytes([a, b, c, d]);
    if Ip::from_v4(sender) != Ip::from_addr(&endpoint.ipv4) {
        return Err(DropReason::SourceAddress);
    }
    let host_mac = Mac::from_bytes(endpoint.host_mac);
    head.set_mac::<0>(pod_mac);
    head.set_mac::<6>(host_mac);
    head.set::<u16, 20>(2u16.to_be());
    head.set_mac::<22>(host_mac);
    let [a, b, c, d] = GATEWAY_V4;
    head.set::<u16, 28>(u16::from_ne_bytes([a, b]));
    head.set::<u16, 30>(u16::from_ne_bytes([c, d]));
    head.set_mac::<32>(pod_mac);
    head.set::<u32, 38>(sender);
    send_back(ctx)
}

/// Answers a neighbour solicitation for the gateway; `None` when the packet is none of neighbour
/// discovery's.
///
/// # Errors
/// What only a router or another pod's kernel may say is dropped.
#[inline(always)]
pub(crate) fn icmpv6(
    ctx: &TcContext,
    packet: &Packet,
    upper: Option<Upper>,
    endpoint: &Endpoint,
) -> Result<Option<i32>, DropReason> {
    let Some(Upper {
        protocol: ICMPV6,
        at,
    }) = upper
    else {
        return Ok(None);
    };
    if packet.v4 {
        return Ok(None);
    }
    match upper::load::<u8>(ctx, packet, at)? {
        ROUTER_ADVERTISEMENT | REDIRECT => Err(DropReason::RouterAdvertisement),
        NEIGHBOR_ADVERTISEMENT => Err(DropReason::Neighbor),
        // Behind an extension header it is not an honest question (RFC 6980).
        NEIGHBOR_SOLICITATION if at != packet.payload_at => Err(DropReason::Neighbor),
        NEIGHBOR_SOLICITATION => answer_solicitation(ctx, packet, endpoint).map(Some),
        _ => Ok(None),
    }
}

/// What only a router may say, said to a pod: nobody but the agent gives it addresses and routes.
///
/// # Errors
/// [`DropReason::RouterAdvertisement`].
#[inline(always)]
pub(crate) fn refuse_router(ctx: &TcContext, packet: &Packet) -> Result<(), DropReason> {
    if packet.v4 {
        return Ok(());
    }
    let Some(Upper {
        protocol: ICMPV6,
        at,
    }) = upper::find(ctx, packet)?
    else {
        return Ok(());
    };
    match upper::load::<u8>(ctx, packet, at)? {
        ROUTER_ADVERTISEMENT | REDIRECT => Err(DropReason::RouterAdvertisement),
        _ => Ok(()),
    }
}

#[inline(always)]
fn answer_solicitation(
    ctx: &TcContext,
    packet: &Packet,
    endpoint: &Endpoint,
) -> Result<i32, DropReason> {
    let head = packet::head::<78>(ctx).ok_or(DropReason::Malformed)?;
    if packet.end < 78 {
        return Err(DropReason::Malformed);
    }
    let gateway = Ip::from_addr(&GATEWAY_V6);
    if head.ipv6::<62>() != gateway || head.get::<u8, 55>() != 0 || packet.ttl != 255 {
        return Err(DropReason::Neighbor);
    }
    // The unspecified address asks whether an address is taken: the gateway's never is a pod's.
    if packet.src == Ip::UNSPECIFIED {
        return Err(DropReason::Neighbor);
    }
    if !packet.src.is_link_local() && packet.src != Ip::from_addr(&endpoint.ipv6) {
        return Err(DropReason::SourceAddress);
    }
    kernel::resize(ctx, ADVERTISEMENT_LEN as u32)?;
    let head = packet::head::<ADVERTISEMENT_LEN>(ctx).ok_or(DropReason::Redirect)?;
    let host_mac = Mac::from_bytes(endpoint.host_mac);
    head.set_mac::<0>(Mac::from_bytes(endpoint.mac));
    head.set_mac::<6>(host_mac);
    head.set::<u32, 14>(0x6000_0000u32.to_be());
    head.set::<u16, 18>(32u16.to_be());
    head.set::<u8, 20>(ICMPV6);
    head.set::<u8, 21>(255);
    head.set_ipv6::<22>(gateway);
    head.set_ipv6::<38>(packet.src);
    let kind = u16::from(NEIGHBOR_ADVERTISEMENT) << 8;
    head.set::<u16, 54>(kind.to_be());
    // Router, solicited, override.
    let flags = 0xe000_0000u32;
    head.set::<u16, 58>(((flags >> 16) as u16).to_be());
    head.set::<u16, 60>(0);
    head.set_ipv6::<62>(gateway);
    // Option: target link-layer address, one unit of 8 bytes.
    let option = 0x0201u16;
    head.set::<u16, 78>(option.to_be());
    head.set_mac::<80>(host_mac);
    let sum = gateway.sum() * 2 // source and target
        + packet.src.sum()
        + u64::from(32u16.to_be())
        + u64::from(u16::from(ICMPV6).to_be())
        + u64::from(kind.to_be())
        + u64::from(((flags >> 16) as u16).to_be())
        + u64::from(option.to_be())
        + host_mac.sum();
    head.set::<u16, 56>(!fold(sum));
    send_back(ctx)
}

/// Folds a ones' complement sum of 16 or 32-bit words.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Puts the answer into the namespace that asked; the pod's end takes it as received.
#[inline(always)]
fn send_back(ctx: &TcContext) -> Result<i32, DropReason> {
    kernel::address_to_receiver(ctx)?;
    let (bytes, packets) = packet::size(ctx);
    maps::count_path(Path::Answered, bytes, packets);
    kernel::redirect_peer(packet::ifindex(ctx))
}
