//! Addresses of Services that this node answers for on its uplinks' links (ARP, neighbour discovery).
//! An agent renews each row while it may; with no agent the node falls silent by itself.

use crate::{
    address::{Ip, Mac},
    forward, kernel, maps,
    neighbor::{
        self, ARP_LEN, Advertisement, ICMPV6, NEIGHBOR_SOLICITATION, OVERRIDE, SOLICITATION_LEN,
        SOLICITED,
    },
    packet::{self, Packet, Parsed},
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::verdict::{DropReason, Path};

/// `ff02::1`, all nodes of a link, and its MAC.
const ALL_NODES: Ip = Ip::from_addr(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Answers a question for an announced address; all else is the kernel's.
///
/// # Errors
/// [`DropReason::Redirect`]: the kernel had no memory.
#[inline(always)]
pub(crate) fn answer(ctx: &TcContext) -> Result<i32, DropReason> {
    let answered = match packet::parse(ctx) {
        Ok(Parsed::Arp) => arp(ctx)?,
        Ok(Parsed::Ip(packet)) if may_ask(&packet) => solicitation(ctx, &packet)?,
        _ => None,
    };
    Ok(answered.unwrap_or(forward::PASS))
}

/// Whether it may be a neighbour solicitation.
#[inline(always)]
pub(crate) fn may_ask(packet: &Packet) -> bool {
    !packet.v4 && packet.next == ICMPV6
}

#[inline(always)]
fn arp(ctx: &TcContext) -> Result<Option<i32>, DropReason> {
    let Some(head) = packet::head::<ARP_LEN>(ctx) else {
        return Ok(None);
    };
    if !neighbor::is_arp_request(head) {
        return Ok(None);
    }
    let target = Ip::from_v4(head.get::<u32, 38>());
    let Some(mac) = announced(ctx, target) else {
        return Ok(None);
    };
    neighbor::reply_arp(head, mac);
    send_back(ctx).map(Some)
}

/// Answers a neighbour solicitation for an announced address.
///
/// # Errors
/// As [`answer`].
#[inline(always)]
pub(crate) fn solicitation(ctx: &TcContext, packet: &Packet) -> Result<Option<i32>, DropReason> {
    let Some(head) = packet::head::<SOLICITATION_LEN>(ctx) else {
        return Ok(None);
    };
    // Code 0, and not from beyond a router (RFC 4861 §7.1.1).
    let honest = head.get::<u8, 54>() == NEIGHBOR_SOLICITATION
        && head.get::<u8, 55>() == 0
        && packet.ttl == 255
        && packet.end as usize >= SOLICITATION_LEN;
    if !honest {
        return Ok(None);
    }
    let target = head.ipv6::<62>();
    let Some(mac) = announced(ctx, target) else {
        return Ok(None);
    };
    // One without an address asks whether this one is taken: all have to know that it is.
    let nobody = packet.src == Ip::UNSPECIFIED;
    let advertisement = Advertisement {
        target,
        to: if nobody { ALL_NODES } else { packet.src },
        to_mac: if nobody {
            Mac::from_bytes(ALL_NODES_MAC)
        } else {
            head.mac::<6>()
        },
        mac,
        flags: if nobody {
            OVERRIDE
        } else {
            SOLICITED | OVERRIDE
        },
    };
    advertisement.write(ctx)?;
    send_back(ctx).map(Some)
}

/// The MAC at which this node has an address now.
#[inline(always)]
fn announced(ctx: &TcContext, address: Ip) -> Option<Mac> {
    let row = maps::announcement(address, packet::ifindex(ctx))?;
    (kernel::now_ns() < row.until_ns).then(|| Mac::from_bytes(row.mac))
}

#[inline(always)]
fn send_back(ctx: &TcContext) -> Result<i32, DropReason> {
    let (bytes, packets) = packet::size(ctx);
    maps::count_path(Path::Answered, bytes, packets);
    kernel::redirect_out(packet::ifindex(ctx))
}
