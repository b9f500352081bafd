//! Bounds-checked access to a packet's headers. The only place of raw packet pointers: what it
//! hands out is checked against the packet's end here and once more by the verifier, which also
//! refuses a [`Head`] that was taken before the packet's memory may have moved.
#![expect(
    unsafe_code,
    reason = "the one place that reads and writes packet memory"
)]

use crate::{
    address::{Ip, Mac},
    kernel,
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::bpf_xdp_get_buff_len,
    programs::{TcContext, XdpContext},
};
use cni_ebpf_common::verdict::DropReason;
use core::mem::size_of;

/// Length of an Ethernet header; VLAN tags are not part of it (the kernel has taken them off).
pub(crate) const ETH_LEN: usize = 14;
const IPV4_LEN: usize = ETH_LEN + 20;
const IPV6_LEN: usize = ETH_LEN + 40;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;

/// A packet reduced to what decides about it.
pub(crate) enum Parsed {
    /// IPv4 or IPv6.
    Ip(Packet),
    /// ARP; its own header is not looked at yet.
    Arp,
    /// Any other protocol, or a frame with a VLAN tag.
    Other,
}

/// The IP header, the same for both families.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    /// Source address.
    pub(crate) src: Ip,
    /// Destination address.
    pub(crate) dst: Ip,
    /// Whether the header is IPv4's.
    pub(crate) v4: bool,
    /// IPv4 protocol, or the type of the header after IPv6's.
    pub(crate) next: u8,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// Bytes from the start of the frame to the end of the fixed header and of IPv4's options.
    pub(crate) payload_at: u32,
    /// Bytes from the start of the frame to the end of the IP packet (padding may follow).
    pub(crate) end: u32,
    /// IPv4: neither a whole packet nor a first fragment, so there is no upper header in it.
    pub(crate) later_fragment: bool,
    /// IPv4: a fragment, the first one or a later one.
    pub(crate) fragment: bool,
}

impl Packet {
    /// Bytes of IP: header and payload.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        self.end - ETH_LEN as u32
    }

    /// Whether it is IPv4 with options. The kernel's stack knows how to treat them.
    #[inline(always)]
    pub(crate) fn has_options(&self) -> bool {
        self.v4 && self.payload_at != IPV4_LEN as u32
    }
}

/// Integers that headers are made of: any bits are a value.
pub(crate) trait Field: Copy {}
impl Field for u8 {}
impl Field for u16 {}
impl Field for u32 {}
impl Field for u64 {}

/// The first `N` bytes of a frame, proven to be there.
#[derive(Clone, Copy)]
pub(crate) struct Head<const N: usize>(*mut u8);

impl<const N: usize> Head<N> {
    /// The field at offset `AT`, as it lies in memory.
    #[inline(always)]
    pub(crate) fn get<T: Field, const AT: usize>(self) -> T {
        const { assert!(AT + size_of::<T>() <= N) };
        // SAFETY: N bytes from the pointer were compared with the packet's end when this value was
        // made, and the field lies within them. Fields of headers are aligned to their size when
        // the IP header is to 4, as on every architecture the kernel asks for aligned access.
        unsafe { self.0.add(AT).cast::<T>().read() }
    }

    /// Writes the field at offset `AT`.
    #[inline(always)]
    pub(crate) fn set<T: Field, const AT: usize>(self, value: T) {
        const { assert!(AT + size_of::<T>() <= N) };
        // SAFETY: as in `get`; the verifier lets only those programs write that may.
        unsafe { self.0.add(AT).cast::<T>().write(value) }
    }

    /// The Ethernet address at offset `AT`.
    #[inline(always)]
    pub(crate) fn mac<const AT: usize>(self) -> Mac {
        const { assert!(AT + 6 <= N) };
        // SAFETY: as in `get`.
        let word = |i: usize| unsafe { self.0.add(AT).cast::<u16>().add(i).read() };
        Mac::from_words([word(0), word(1), word(2)])
    }

    /// Writes the Ethernet address at offset `AT`.
    #[inline(always)]
    pub(crate) fn set_mac<const AT: usize>(self, mac: Mac) {
        const { assert!(AT + 6 <= N) };
        let words = mac.words();
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: as in `get`.
            unsafe { self.0.add(AT).cast::<u16>().add(i).write(word) };
        }
    }

    /// The IPv6 address at offset `AT`.
    #[inline(always)]
    pub(crate) fn ipv6<const AT: usize>(self) -> Ip {
        const { assert!(AT + 16 <= N) };
        // SAFETY: as in `get`; IPv6 addresses of the headers read here are aligned to 8.
        let word = |i: usize| unsafe { self.0.add(AT).cast::<u64>().add(i).read() };
        Ip::from_words([word(0), word(1)])
    }

    /// Writes the IPv6 address at offset `AT`.
    #[inline(always)]
    pub(crate) fn set_ipv6<const AT: usize>(self, ip: Ip) {
        const { assert!(AT + 16 <= N) };
        for (i, word) in ip.words().into_iter().enumerate() {
            // SAFETY: as in `ipv6`.
            unsafe { self.0.add(AT).cast::<u64>().add(i).write(word) };
        }
    }
}

/// What the kernel knows of a packet besides its bytes.
#[inline(always)]
fn skb(ctx: &TcContext) -> &__sk_buff {
    // SAFETY: the kernel passes a context that is valid as long as the program runs; each access
    // becomes one load that the verifier rewrites.
    unsafe { &*ctx.skb.skb }
}

/// The interface whose hook this is.
#[inline(always)]
pub(crate) fn ifindex(ctx: &TcContext) -> u32 {
    skb(ctx).ifindex
}

/// The interface by which the machine received the packet; 0 for one of its own.
#[inline(always)]
pub(crate) fn ingress_ifindex(ctx: &TcContext) -> u32 {
    skb(ctx).ingress_ifindex
}

/// Bytes and packets this buffer stands for on a wire: one large buffer is many segments.
#[inline(always)]
pub(crate) fn size(ctx: &TcContext) -> (u64, u64) {
    let segments = skb(ctx).gso_segs;
    (
        u64::from(ctx.len()),
        if segments == 0 {
            1
        } else {
            u64::from(segments)
        },
    )
}

/// Payload of each segment of a large buffer, 0 for an ordinary packet.
#[inline(always)]
pub(crate) fn segment_size(ctx: &TcContext) -> u32 {
    skb(ctx).gso_size
}

/// To whom the frame was addressed, seen from the receiving interface.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addressed {
    /// To the interface.
    Host,
    /// To several stations.
    Group,
    /// To another station.
    Other,
}

/// Reads the kernel's comparison of the destination MAC with the interface's.
#[inline(always)]
pub(crate) fn addressed(ctx: &TcContext) -> Addressed {
    match skb(ctx).pkt_type {
        0 => Addressed::Host,      // PACKET_HOST
        1 | 2 => Addressed::Group, // PACKET_BROADCAST, PACKET_MULTICAST
        _ => Addressed::Other,
    }
}

/// The first `N` bytes, made readable and writable in place if they are not yet; `None` when the
/// packet is shorter.
#[inline(always)]
pub(crate) fn head<const N: usize>(ctx: &TcContext) -> Option<Head<N>> {
    let start = ctx.data();
    if start + N <= ctx.data_end() {
        return Some(Head(start as *mut u8));
    }
    if (ctx.len() as usize) < N || ctx.pull_data(N as u32).is_err() {
        return None;
    }
    let start = ctx.data();
    (start + N <= ctx.data_end()).then_some(Head(start as *mut u8))
}

/// The same for XDP, which can't pull: `None` also when the first buffer is shorter.
#[inline(always)]
fn xdp_head<const N: usize>(ctx: &XdpContext) -> Option<Head<N>> {
    let start = ctx.data();
    (start + N <= ctx.data_end()).then_some(Head(start as *mut u8))
}

/// Copies a field from any place of the packet, also where it is not in the first buffer.
#[inline(always)]
pub(crate) fn load<T: Field>(ctx: &TcContext, at: u32) -> Option<T> {
    ctx.load(at as usize).ok()
}

/// Whether the packet starts with its IP header instead of Ethernet's.
///
/// Generic XDP copies a packet that has little room in front, as nearly all have, and the copy
/// forgets the length of the Ethernet header (seen with Linux 6.18): programs of the same
/// interface's tcx hook then see the IP header first. Asked of every packet of an uplink, so the
/// common answer costs one comparison: a MAC seldom begins like an IP header.
#[inline(always)]
pub(crate) fn lacks_ethernet(ctx: &TcContext) -> bool {
    let Some(start) = head::<16>(ctx) else {
        return false;
    };
    if !matches!(start.get::<u8, 0>() >> 4, 4 | 6) {
        return false;
    }
    let (high, low) = (start.get::<u64, 0>(), start.get::<u64, 8>());
    kernel::network_header(ctx) == Some([high, low])
}

/// Source and destination of a packet that [`lacks_ethernet`].
#[inline(always)]
pub(crate) fn addresses_without_ethernet(ctx: &TcContext) -> Option<(Ip, Ip)> {
    let v4 = |at| load::<u32>(ctx, at).map(Ip::from_v4);
    let v6 = |at| {
        let (high, low) = (load::<u64>(ctx, at)?, load::<u64>(ctx, at + 8)?);
        Some(Ip::from_words([high, low]))
    };
    match u16::from_be(skb(ctx).protocol as u16) {
        ETH_P_IP => Some((v4(12)?, v4(16)?)),
        ETH_P_IPV6 => Some((v6(8)?, v6(24)?)),
        _ => None,
    }
}

/// Gives a packet that [`lacks_ethernet`] an Ethernet header again; its addresses are zeros.
///
/// # Errors
/// [`DropReason::Redirect`]: the kernel had no memory.
#[inline(always)]
pub(crate) fn restore_ethernet(ctx: &TcContext) -> Result<(), DropReason> {
    let kind = skb(ctx).protocol as u16;
    kernel::add_header(ctx, ETH_LEN as u32)?;
    let ethernet = head::<ETH_LEN>(ctx).ok_or(DropReason::Redirect)?;
    ethernet.set::<u16, 12>(kind);
    Ok(())
}

/// Parses Ethernet and IP.
///
/// # Errors
/// [`DropReason::Malformed`]: cut short, or lengths that contradict each other.
#[inline(always)]
pub(crate) fn parse(ctx: &TcContext) -> Result<Parsed, DropReason> {
    let ethernet = head::<ETH_LEN>(ctx).ok_or(DropReason::Malformed)?;
    if skb(ctx).vlan_present != 0 {
        return Ok(Parsed::Other);
    }
    let len = Length {
        frame: ctx.len(),
        segmented: segment_size(ctx) != 0,
    };
    match u16::from_be(ethernet.get::<u16, 12>()) {
        ETH_P_IP => ipv4(head(ctx).ok_or(DropReason::Malformed)?, len).map(Parsed::Ip),
        ETH_P_IPV6 => ipv6(head(ctx).ok_or(DropReason::Malformed)?, len).map(Parsed::Ip),
        ETH_P_ARP => Ok(Parsed::Arp),
        _ => Ok(Parsed::Other),
    }
}

/// The same for XDP. A frame whose first buffer is shorter than its headers is `Other`: later
/// hooks can pull.
///
/// # Errors
/// As [`parse`].
#[inline(always)]
pub(crate) fn parse_xdp(ctx: &XdpContext) -> Result<Parsed, DropReason> {
    let Some(ethernet) = xdp_head::<ETH_LEN>(ctx) else {
        return Err(DropReason::Malformed);
    };
    let kind = u16::from_be(ethernet.get::<u16, 12>());
    if kind != ETH_P_IP && kind != ETH_P_IPV6 {
        return Ok(if kind == ETH_P_ARP {
            Parsed::Arp
        } else {
            Parsed::Other
        });
    }
    // Generic XDP sees buffers before they are segmented.
    let len = Length {
        frame: frame_len(ctx),
        segmented: true,
    };
    let parsed = if kind == ETH_P_IP {
        xdp_head(ctx).map(|head| ipv4(head, len))
    } else {
        xdp_head(ctx).map(|head| ipv6(head, len))
    };
    let needed = if kind == ETH_P_IP { IPV4_LEN } else { IPV6_LEN };
    match parsed {
        Some(result) => result.map(Parsed::Ip),
        None if (len.frame as usize) < needed => Err(DropReason::Malformed),
        None => Ok(Parsed::Other),
    }
}

/// Length of the frame in all its buffers.
#[inline(always)]
pub(crate) fn frame_len(ctx: &XdpContext) -> u32 {
    // SAFETY: the context is the program's own.
    (unsafe { bpf_xdp_get_buff_len(ctx.ctx) }) as u32
}

/// The interface an XDP frame came in by.
#[inline(always)]
pub(crate) fn xdp_ifindex(ctx: &XdpContext) -> u32 {
    ctx.ingress_ifindex() as u32
}

#[derive(Clone, Copy)]
struct Length {
    frame: u32,
    /// May be a buffer of several segments: beyond 64 KiB its IP length field holds 0 (BIG TCP).
    segmented: bool,
}

#[inline(always)]
fn ipv4(head: Head<IPV4_LEN>, len: Length) -> Result<Packet, DropReason> {
    let first = head.get::<u8, 14>();
    let header = u32::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < 20 {
        return Err(DropReason::Malformed);
    }
    let room = len.frame - ETH_LEN as u32;
    let mut total = u32::from(u16::from_be(head.get::<u16, 16>()));
    if total == 0 && len.segmented {
        total = room;
    }
    if total < header || total > room {
        return Err(DropReason::Malformed);
    }
    Ok(Packet {
        src: Ip::from_v4(head.get::<u32, 26>()),
        dst: Ip::from_v4(head.get::<u32, 30>()),
        v4: true,
        next: head.get::<u8, 23>(),
        ttl: head.get::<u8, 22>(),
        payload_at: ETH_LEN as u32 + header,
        end: ETH_LEN as u32 + total,
        later_fragment: u16::from_be(head.get::<u16, 20>()) & 0x1fff != 0,
        fragment: u16::from_be(head.get::<u16, 20>()) & 0x3fff != 0,
    })
}

#[inline(always)]
fn ipv6(head: Head<IPV6_LEN>, len: Length) -> Result<Packet, DropReason> {
    if head.get::<u8, 14>() >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let room = len.frame - IPV6_LEN as u32;
    let mut payload = u32::from(u16::from_be(head.get::<u16, 18>()));
    if payload == 0 && len.segmented {
        payload = room;
    }
    if payload > room {
        return Err(DropReason::Malformed);
    }
    let (src, dst) = (head.ipv6::<22>(), head.ipv6::<38>());
    // An IPv4-mapped address is a key of the IPv4 side of the maps, and never on a wire.
    if src.is_v4() || dst.is_v4() {
        return Err(DropReason::Malformed);
    }
    Ok(Packet {
        src,
        dst,
        v4: false,
        next: head.get::<u8, 20>(),
        ttl: head.get::<u8, 21>(),
        payload_at: IPV6_LEN as u32,
        end: IPV6_LEN as u32 + payload,
        later_fragment: false,
        fragment: false,
    })
}
