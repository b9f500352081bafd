//! Answers to a pod's questions for its gateway (ARP and neighbour discovery), in the kernel's
//! hook: no host interface needs the gateway's address, and no other question gets anywhere.

use crate::{
    address::{Ip, Mac},
    kernel, maps,
    packet::{self, Head, Packet},
    upper::{self, Upper},
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    addr::{GATEWAY_V4, GATEWAY_V6},
    endpoint::Endpoint,
    verdict::{DropReason, Path},
};

pub(crate) const ICMPV6: u8 = 58;
const ROUTER_ADVERTISEMENT: u8 = 134;
pub(crate) const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Frame with an ARP packet for Ethernet and IPv4.
pub(crate) const ARP_LEN: usize = 42;
/// Frame with a neighbour solicitation without options.
pub(crate) const SOLICITATION_LEN: usize = 78;
/// Frame with a neighbour advertisement and its one option.
const ADVERTISEMENT_LEN: usize = 86;

/// Answers an ARP request for the gateway.
///
/// # Errors
/// Any other ARP is dropped; a request may not come from another's address either.
#[inline(always)]
pub(crate) fn answer_arp(ctx: &TcContext, endpoint: &Endpoint) -> Result<i32, DropReason> {
    let head = packet::head::<ARP_LEN>(ctx).ok_or(DropReason::Malformed)?;
    if !is_arp_request(head) || head.get::<u32, 38>() != u32::from_ne_bytes(GATEWAY_V4) {
        return Err(DropReason::Neighbor);
    }
    if head.mac::<22>() != Mac::from_bytes(endpoint.mac) {
        return Err(DropReason::SourceMac);
    }
    if Ip::from_v4(arp_sender(head)) != Ip::from_addr(&endpoint.ipv4) {
        return Err(DropReason::SourceAddress);
    }
    reply_arp(head, Mac::from_bytes(endpoint.host_mac));
    send_back(ctx)
}

/// Whether it asks for the MAC of an IPv4 address (RFC 826).
#[inline(always)]
pub(crate) fn is_arp_request(head: Head<ARP_LEN>) -> bool {
    head.get::<u16, 14>() == 1u16.to_be()
        && head.get::<u16, 16>() == 0x0800u16.to_be()
        && head.get::<u16, 18>() == 0x0604u16.to_be()
        && head.get::<u16, 20>() == 1u16.to_be()
}

/// Who asks, as it lies in memory.
#[inline(always)]
fn arp_sender(head: Head<ARP_LEN>) -> u32 {
    // Not aligned to 4 in this header.
    let [a, b] = head.get::<u16, 28>().to_ne_bytes();
    let [c, d] = head.get::<u16, 30>().to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// Makes the answer of a request: the address that was asked for is at `mac`.
#[inline(always)]
pub(crate) fn reply_arp(head: Head<ARP_LEN>, mac: Mac) {
    let (asker, sender) = (head.mac::<22>(), arp_sender(head));
    let [a, b, c, d] = head.get::<u32, 38>().to_ne_bytes();
    head.set_mac::<0>(asker);
    head.set_mac::<6>(mac);
    head.set::<u16, 20>(2u16.to_be());
    head.set_mac::<22>(mac);
    head.set::<u16, 28>(u16::from_ne_bytes([a, b]));
    head.set::<u16, 30>(u16::from_ne_bytes([c, d]));
    head.set_mac::<32>(asker);
    head.set::<u32, 38>(sender);
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
    let head = packet::head::<SOLICITATION_LEN>(ctx).ok_or(DropReason::Malformed)?;
    if (packet.end as usize) < SOLICITATION_LEN {
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
    let advertisement = Advertisement {
        target: gateway,
        to: packet.src,
        to_mac: Mac::from_bytes(endpoint.mac),
        mac: Mac::from_bytes(endpoint.host_mac),
        flags: ROUTER | SOLICITED | OVERRIDE,
    };
    advertisement.write(ctx)?;
    send_back(ctx)
}

/// Flags of a neighbour advertisement (RFC 4861 §4.4), in the upper half of their word.
pub(crate) const ROUTER: u16 = 0x8000;
pub(crate) const SOLICITED: u16 = 0x4000;
pub(crate) const OVERRIDE: u16 = 0x2000;

/// Says at which MAC an IPv6 address is.
pub(crate) struct Advertisement {
    pub(crate) target: Ip,
    pub(crate) to: Ip,
    pub(crate) to_mac: Mac,
    pub(crate) mac: Mac,
    pub(crate) flags: u16,
}

impl Advertisement {
    /// Writes it in place of the packet.
    ///
    /// # Errors
    /// [`DropReason::Redirect`]: the kernel had no memory.
    #[inline(always)]
    pub(crate) fn write(&self, ctx: &TcContext) -> Result<(), DropReason> {
        let Self {
            target,
            to,
            to_mac,
            mac,
            flags,
        } = *self;
        kernel::resize(ctx, ADVERTISEMENT_LEN as u32)?;
        let head = packet::head::<ADVERTISEMENT_LEN>(ctx).ok_or(DropReason::Redirect)?;
        head.set_mac::<0>(to_mac);
        head.set_mac::<6>(mac);
        head.set::<u32, 14>(0x6000_0000u32.to_be());
        head.set::<u16, 18>(32u16.to_be());
        head.set::<u8, 20>(ICMPV6);
        head.set::<u8, 21>(255);
        head.set_ipv6::<22>(target);
        head.set_ipv6::<38>(to);
        let kind = u16::from(NEIGHBOR_ADVERTISEMENT) << 8;
        head.set::<u16, 54>(kind.to_be());
        head.set::<u16, 58>(flags.to_be());
        head.set::<u16, 60>(0);
        head.set_ipv6::<62>(target);
        // Option: target link-layer address, one unit of 8 bytes.
        let option = 0x0201u16;
        head.set::<u16, 78>(option.to_be());
        head.set_mac::<80>(mac);
        let sum = target.sum() * 2 // source and target
            + to.sum()
            + u64::from(32u16.to_be())
            + u64::from(u16::from(ICMPV6).to_be())
            + u64::from(kind.to_be())
            + u64::from(flags.to_be())
            + u64::from(option.to_be())
            + mac.sum();
        head.set::<u16, 56>(!fold(sum));
        Ok(())
    }
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
