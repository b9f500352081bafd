//! Which connection a packet belongs to: its ports, also those of a later fragment, which has none.

use crate::{
    address::Ip,
    flow::{TRANSLATED, UNTOUCHED, pack, unpack},
    maps,
    packet::{self, Packet},
    service::Search,
    upper::{self, Extension, Upper},
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    flow::{self, SCTP, TCP, UDP},
    verdict::DropReason,
};

/// A packet of a protocol with ports.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Transport {
    pub(crate) protocol: u32,
    /// Offset of its header, 0 in a later fragment.
    pub(crate) at: u32,
    /// Source and destination port as they lie in memory; 0 in a later fragment.
    pub(crate) ports: u32,
    /// The packet's identification, when it is a fragment.
    id: u32,
    /// Bits of [`Transport`].
    flags: u32,
    pad: u32,
}

impl Transport {
    /// Begins a connection: TCP's SYN without ACK, SCTP's INIT.
    const BEGINS: u32 = 1;
    /// Ends one: TCP's FIN or RST, SCTP's ABORT or SHUTDOWN COMPLETE.
    const ENDS: u32 = 2;
    /// A fragment.
    const FRAGMENT: u32 = 4;
    /// Accepts one: TCP's SYN with ACK, SCTP's INIT ACK.
    const ACCEPTS: u32 = 8;

    /// Protocols without ports begin and end nothing.
    #[inline(always)]
    pub(crate) fn forget_flags(&mut self) {
        self.flags &= Self::FRAGMENT;
    }

    /// Whether it begins a connection.
    #[inline(always)]
    pub(crate) fn begins(&self) -> bool {
        self.flags & Self::BEGINS != 0
    }

    /// Whether it accepts one.
    #[inline(always)]
    pub(crate) fn accepts(&self) -> bool {
        self.flags & Self::ACCEPTS != 0
    }

    /// Whether it ends one.
    #[inline(always)]
    pub(crate) fn ends(&self) -> bool {
        self.flags & Self::ENDS != 0
    }

    /// Whether it is a fragment.
    #[inline(always)]
    pub(crate) fn is_fragment(&self) -> bool {
        self.flags & Self::FRAGMENT != 0
    }
}

/// Whether a packet may begin a connection: a quick look, [`find`] tells.
#[inline(always)]
pub(crate) fn may_begin(ctx: &TcContext, packet: &Packet) -> bool {
    let byte = |at| packet::load::<u8>(ctx, packet.payload_at + at);
    match packet.next {
        TCP => byte(13).is_some_and(|bits| bits & 0x12 == 0x02),
        SCTP => byte(12) == Some(1),
        UDP => false,
        // Behind headers of IPv6.
        _ => !packet.v4,
    }
}

/// Finds the connection's header of a packet; `false` for protocols without ports.
///
/// # Errors
/// [`DropReason::Malformed`]: it leaves the packet.
#[inline(always)]
pub(crate) fn find(ctx: &TcContext, search: &mut Search) -> Result<bool, DropReason> {
    unpack(find_into(ctx, search))
}

#[inline(never)]
fn find_into(ctx: &TcContext, search: &mut Search) -> u32 {
    pack(try_find(ctx, search))
}

#[inline(always)]
fn try_find(ctx: &TcContext, search: &mut Search) -> Result<u32, DropReason> {
    let packet = &search.packet;
    let mut later = packet.later_fragment;
    search.transport.protocol = packet.next.into();
    search.transport.at = packet.payload_at;
    search.transport.flags = 0;
    if packet.v4 {
        if packet.fragment {
            search.transport.flags = Transport::FRAGMENT;
            search.transport.id = upper::load::<u16>(ctx, packet, 18)?.into();
        }
    } else if !has_ports(packet.next) {
        let mut walked = 0;
        loop {
            match step(ctx, search) {
                NEXT if walked < upper::MOST_EXTENSIONS => walked += 1,
                UPPER => break,
                LATER => {
                    later = true;
                    break;
                }
                _ => return Err(DropReason::Malformed),
            }
        }
    }
    let Search {
        packet,
        transport: found,
        ..
    } = search;
    if !has_ports(found.protocol as u8) {
        return Ok(UNTOUCHED);
    }
    if later {
        (found.at, found.ports) = (0, 0);
        return Ok(TRANSLATED);
    }
    found.ports = upper::load::<u32>(ctx, packet, found.at)?;
    match found.protocol as u8 {
        TCP => {
            let bits = upper::load::<u8>(ctx, packet, found.at + 13)?;
            if bits & 0x12 == 0x02 {
                found.flags |= Transport::BEGINS;
            }
            if bits & 0x12 == 0x12 {
                found.flags |= Transport::ACCEPTS;
            }
            if bits & 0x05 != 0 {
                found.flags |= Transport::ENDS;
            }
        }
        SCTP => match upper::load::<u8>(ctx, packet, found.at + 12)? {
            1 => found.flags |= Transport::BEGINS,
            2 => found.flags |= Transport::ACCEPTS,
            6 | 14 => found.flags |= Transport::ENDS,
            _ => {}
        },
        _ => {}
    }
    Ok(TRANSLATED)
}

/// What a step over an IPv6 header found: an extension header, the upper one, a later fragment's end
/// of headers, or that it leaves the packet.
const NEXT: u32 = 0;
const UPPER: u32 = 1;
const LATER: u32 = 2;
const FAULT: u32 = 3;

/// One step over IPv6's headers. Apart, and with its place in a map, so that the verifier walks it
/// once and not once for each way that leads to a header.
#[inline(never)]
fn step(ctx: &TcContext, search: &mut Search) -> u32 {
    let Search {
        packet,
        transport: found,
        ..
    } = search;
    let header = Upper {
        protocol: found.protocol as u8,
        at: found.at,
    };
    match upper::extension(ctx, packet, header) {
        Ok(Extension::None) => UPPER,
        Ok(Extension::Header(next)) => {
            (found.protocol, found.at) = (next.protocol.into(), next.at);
            NEXT
        }
        Ok(Extension::Fragment { next, later }) => {
            let Ok(id) = upper::load::<u32>(ctx, packet, header.at + 4) else {
                return FAULT;
            };
            (found.protocol, found.at) = (next.protocol.into(), next.at);
            found.id = id;
            found.flags |= Transport::FRAGMENT;
            if later { LATER } else { NEXT }
        }
        Err(_) => FAULT,
    }
}

#[inline(always)]
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

/// Fills in the packet's addresses and ports: the header's, or those that the first fragment had.
/// `false`: that was not seen.
#[inline(always)]
pub(crate) fn complete(search: &mut Search) -> bool {
    let Search {
        packet,
        transport,
        tuple,
        ..
    } = search;
    let protocol = transport.protocol as u8;
    if transport.at != 0 {
        *tuple = Tuple::new(packet.src, packet.dst, transport.ports, protocol);
        return true;
    }
    *tuple = Tuple::new(packet.src, packet.dst, transport.id, protocol);
    match maps::fragment_ports(tuple) {
        Some(ports) => {
            tuple.ports = ports;
            true
        }
        None => false,
    }
}

/// Remembers the ports of a first fragment whose later ones will be treated alike.
#[inline(always)]
pub(crate) fn remember_fragment(search: &mut Search) {
    let Search {
        transport, tuple, ..
    } = search;
    if transport.is_fragment() && transport.at != 0 {
        tuple.ports = transport.id;
        maps::remember_fragment(tuple, transport.ports);
        tuple.ports = transport.ports;
    }
}

/// `FlowKey` in words: byte arrays would be written byte by byte. A `FragmentKey` has the same
/// layout, with the packet's identification instead of the ports.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Tuple {
    pub(crate) src: Ip,
    pub(crate) dst: Ip,
    /// Source and destination port as they lie in memory.
    pub(crate) ports: u32,
    protocol: u32,
}

impl Tuple {
    /// One direction of a connection.
    #[inline(always)]
    pub(crate) const fn new(src: Ip, dst: Ip, ports: u32, protocol: u8) -> Self {
        Self {
            src,
            dst,
            ports,
            protocol: u32::from_ne_bytes([protocol, 0, 0, 0]),
        }
    }

    /// Protocol number.
    #[inline(always)]
    pub(crate) const fn protocol(&self) -> u8 {
        self.protocol.to_ne_bytes()[0]
    }

    /// The other direction.
    #[inline(always)]
    pub(crate) const fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ports: self.ports.rotate_left(16),
            protocol: self.protocol,
        }
    }

    /// A number for it, the same for each packet.
    #[inline(always)]
    pub(crate) fn hash(self) -> u32 {
        let ([a, b], [c, d]) = (self.src.words(), self.dst.words());
        flow::hash([
            a,
            b,
            c,
            d,
            u64::from(self.ports) << 32 | u64::from(self.protocol),
        ])
    }
}

/// The source port of two, as it lies in memory.
#[inline(always)]
pub(crate) const fn source_port(ports: u32) -> u16 {
    let [a, b, _, _] = ports.to_ne_bytes();
    u16::from_ne_bytes([a, b])
}

/// The destination port of two.
#[inline(always)]
pub(crate) const fn destination_port(ports: u32) -> u16 {
    let [_, _, a, b] = ports.to_ne_bytes();
    u16::from_ne_bytes([a, b])
}

/// Two ports as they lie in memory, source first.
#[inline(always)]
pub(crate) const fn port_pair(source: u16, destination: u16) -> u32 {
    let ([a, b], [c, d]) = (source.to_ne_bytes(), destination.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}
