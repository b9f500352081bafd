//! Finds the upper-layer header behind IPv6's extension headers.

use crate::packet::{self, Packet};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::verdict::DropReason;

/// Extension headers that are walked; honest packets have one or two.
pub(crate) const MOST_EXTENSIONS: usize = 6;

/// An upper-layer header.
#[derive(Clone, Copy)]
pub(crate) struct Upper {
    /// Protocol number.
    pub(crate) protocol: u8,
    /// Offset from the start of the frame.
    pub(crate) at: u32,
}

/// The upper-layer header, `None` in a later fragment.
///
/// # Errors
/// [`DropReason::Malformed`]: the chain of headers leaves the packet or is longer than any honest
/// one (RFC 7112 wants it whole in the first fragment), so nobody could say what it carries.
#[inline(always)]
pub(crate) fn find(ctx: &TcContext, packet: &Packet) -> Result<Option<Upper>, DropReason> {
    if packet.v4 {
        let upper = Upper {
            protocol: packet.next,
            at: packet.payload_at,
        };
        return Ok((!packet.later_fragment).then_some(upper));
    }
    let mut upper = Upper {
        protocol: packet.next,
        at: packet.payload_at,
    };
    for _ in 0..MOST_EXTENSIONS {
        upper = match extension(ctx, packet, upper)? {
            Extension::None => return Ok(Some(upper)),
            Extension::Fragment { later: true, .. } => return Ok(None),
            Extension::Header(next) | Extension::Fragment { next, .. } => next,
        };
    }
    Err(DropReason::Malformed)
}

/// What a header of IPv6 is.
pub(crate) enum Extension {
    /// The upper-layer header, or one that ends the chain.
    None,
    /// An extension header, and what follows it.
    Header(Upper),
    /// A fragment header; behind a later one there are no headers.
    Fragment { next: Upper, later: bool },
}

/// Reads one header of an IPv6 packet.
///
/// # Errors
/// [`DropReason::Malformed`]: it leaves the packet.
#[inline(always)]
pub(crate) fn extension(
    ctx: &TcContext,
    packet: &Packet,
    header: Upper,
) -> Result<Extension, DropReason> {
    let unit = match header.protocol {
        // Hop-by-hop, routing, destination options, mobility, host identity, shim6.
        0 | 43 | 60 | 135 | 139 | 140 => 8,
        // Authentication counts in words.
        51 => 4,
        // Fragment: fixed length, holds the offset where others hold options.
        44 => 0,
        _ => return Ok(Extension::None),
    };
    let [next, len] = load::<u16>(ctx, packet, header.at)?.to_ne_bytes();
    let follows = |bytes: u32| Upper {
        protocol: next,
        at: header.at + bytes,
    };
    match unit {
        0 => {
            let word = load::<u16>(ctx, packet, header.at + 2)?;
            Ok(Extension::Fragment {
                next: follows(8),
                later: u16::from_be(word) & 0xfff8 != 0,
            })
        }
        4 => Ok(Extension::Header(follows((u32::from(len) + 2) * 4))),
        _ => Ok(Extension::Header(follows((u32::from(len) + 1) * 8))),
    }
}

/// Copies a field of the packet; what follows the IP packet in its frame (padding) is none of it.
///
/// # Errors
/// [`DropReason::Malformed`]: the packet ends before.
#[inline(always)]
pub(crate) fn load<T: packet::Field>(
    ctx: &TcContext,
    packet: &Packet,
    at: u32,
) -> Result<T, DropReason> {
    if at + size_of::<T>() as u32 > packet.end {
        return Err(DropReason::Malformed);
    }
    packet::load(ctx, at).ok_or(DropReason::Malformed)
}
