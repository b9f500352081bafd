//! ICMP errors about translated packets: their sender has sent others, and its kernel would find no
//! socket for what the error quotes. The quoted packet gets back what it had, and the error's own
//! addresses what answers get (RFC 5508 §4.2).

use crate::{
    address::{self, Ip},
    flow::{TRANSLATED, UNTOUCHED, pack},
    kernel, maps,
    packet::Packet,
    service::Search,
    transport::Tuple,
    upper,
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    flow::{Flow, TCP, UDP, is_answer},
    verdict::DropReason,
};

const ICMP: u32 = 1;
const ICMPV6: u32 = 58;
/// Bytes of an error's header, before the packet that it quotes.
const HEADER: u32 = 8;

/// What is in `search.change` is still to be done: here the stack has no room for it.
pub(crate) const ADDRESSED: u32 = 2;

/// Untouched: the flow is another node's, that of `search.change`'s destination.
pub(crate) const ELSEWHERE: u32 = 3;
/// Of a client in a local pod.
pub(crate) const OF_POD: u32 = 0;
/// Of a flow that came by an uplink, to either end.
pub(crate) const OF_OUTSIDE: u32 = 1;

/// Translates an error about a flow of a kind. Its headers have been walked. The flow's row is in
/// `search.row` afterwards.
#[inline(never)]
pub(crate) fn answer(ctx: &TcContext, search: &mut Search, of: u32) -> u32 {
    pack(try_answer(ctx, search, of))
}

#[inline(always)]
fn try_answer(ctx: &TcContext, search: &mut Search, of: u32) -> Result<u32, DropReason> {
    let (v4, at) = (search.packet.v4, search.transport.at);
    // Errors are small; of one in fragments each would have to be kept.
    if search.transport.is_fragment() || !is_error(ctx, search) {
        return Ok(UNTOUCHED);
    }
    let quoted = at + HEADER;
    let upper_at = quoted + if v4 { 20 } else { 40 };
    if quote(ctx, search, quoted, upper_at).is_none() {
        // Cut short, of another protocol, or not the client's.
        return Ok(UNTOUCHED);
    }
    let Some(row) = maps::flow(&search.tuple) else {
        return Ok(UNTOUCHED);
    };
    search.row = row.get();
    let (row, protocol) = (&search.row, search.tuple.protocol());
    if of == OF_OUTSIDE && row.is(Flow::DIRECT) {
        search.change = row.to(protocol);
        return Ok(ELSEWHERE);
    }
    let fits = if of == OF_POD {
        row.is(Flow::ANSWER) && !row.is(Flow::HAIRPIN | Flow::OUTSIDE)
    } else {
        row.is(Flow::OUTSIDE)
    };
    if !fits {
        return Ok(UNTOUCHED);
    }
    if !is_answer(protocol, false, false, row.seen_ns, kernel::now_ns()) {
        return Ok(UNTOUCHED);
    }
    // The row tells of packets the other way.
    let (src, dst) = (search.tuple.dst, search.tuple.src);
    let (new_src, new_dst) = (row.dst, row.src);
    let old = search.tuple.ports.rotate_left(16);
    let new = row.ports.rotate_left(16);
    let addresses = address::sum_change([src, dst], [new_src, new_dst]);
    let ports = address::word_change(old, new);
    // What the quoted packet's own checksums make good, the error's doesn't have to.
    let both = address::add_changes(addresses, ports);
    let covered = correct_quoted(ctx, &search.packet, upper_at, protocol, both)?;
    let change = match (v4, covered) {
        (true, true) => !addresses,
        (true, false) => ports,
        (false, true) => 0,
        (false, false) => both,
    };
    kernel::correct_header(ctx, at + 2, change)?;
    if v4 {
        kernel::correct_header(ctx, quoted + 10, addresses)?;
        kernel::store_balanced(ctx, quoted + 12, &[new_src.v4(), new_dst.v4()])?;
    } else {
        let ([a, b], [c, d]) = (new_src.words(), new_dst.words());
        kernel::store_balanced(ctx, quoted + 8, &[a, b, c, d])?;
    }
    kernel::store_balanced(ctx, upper_at, &new)?;
    // Who sent the quoted packet hears of it; its receiver may speak itself.
    let from = search.packet.src;
    let new_from = if from == dst { new_dst } else { from };
    if new_from == from && new_src == src {
        return Ok(TRANSLATED);
    }
    if !v4 {
        let outer = address::sum_change([from, src], [new_from, new_src]);
        kernel::correct_addresses(ctx, at + 2, outer, false)?;
    }
    (search.change.src, search.change.dst) = (new_from, new_src);
    // Its addresses alone: there are no ports.
    search.transport.at = 0;
    Ok(ADDRESSED)
}

/// Whether it is an error that quotes a packet to who sent it. The key of the quoted packet's answers is in
/// `search.tuple` then.
#[inline(always)]
pub(crate) fn quotes(ctx: &TcContext, search: &mut Search) -> bool {
    let (v4, at) = (search.packet.v4, search.transport.at);
    let quoted = at + HEADER;
    let upper_at = quoted + if v4 { 20 } else { 40 };
    !search.transport.is_fragment()
        && is_error(ctx, search)
        && quote(ctx, search, quoted, upper_at).is_some()
}

/// Whether it tells of a packet: destination unreachable, too big, time exceeded, parameter problem.
#[inline(always)]
fn is_error(ctx: &TcContext, search: &Search) -> bool {
    let Ok(kind) = upper::load::<u8>(ctx, &search.packet, search.transport.at) else {
        return false;
    };
    if search.packet.v4 {
        search.transport.protocol == ICMP && matches!(kind, 3 | 11 | 12)
    } else {
        search.transport.protocol == ICMPV6 && matches!(kind, 1..=4)
    }
}

/// The key of the answers to the quoted packet, whose headers have no options, into `search.tuple`.
#[inline(always)]
fn quote(ctx: &TcContext, search: &mut Search, at: u32, upper_at: u32) -> Option<()> {
    let packet = &search.packet;
    let word = |at| upper::load::<u32>(ctx, packet, at).ok();
    let half = |at| upper::load::<u64>(ctx, packet, at).ok();
    let byte = |at| upper::load::<u8>(ctx, packet, at).ok();
    let (src, dst, protocol) = if packet.v4 {
        let later = upper::load::<u16>(ctx, packet, at + 6).ok()? & 0x1fffu16.to_be() != 0;
        if byte(at)? != 0x45 || later {
            return None;
        }
        let (src, dst) = (Ip::from_v4(word(at + 12)?), Ip::from_v4(word(at + 16)?));
        (src, dst, byte(at + 9)?)
    } else {
        let src = Ip::from_words([half(at + 8)?, half(at + 16)?]);
        let dst = Ip::from_words([half(at + 24)?, half(at + 32)?]);
        (src, dst, byte(at + 6)?)
    };
    let ports = word(upper_at)?;
    if src != packet.dst {
        return None;
    }
    search.tuple = Tuple::new(src, dst, ports, protocol).reversed();
    Some(())
}

/// Corrects the checksum of the quoted TCP or UDP header; whether it has one and the quote reaches it.
#[inline(always)]
fn correct_quoted(
    ctx: &TcContext,
    packet: &Packet,
    upper_at: u32,
    protocol: u8,
    change: u32,
) -> Result<bool, DropReason> {
    let at = upper_at
        + match protocol {
            TCP => 16,
            UDP => 6,
            // SCTP's covers the ports, but a quote holds no whole packet to be checked.
            _ => return Ok(false),
        };
    match upper::load::<u16>(ctx, packet, at) {
        Ok(sum) if protocol == TCP || sum != 0 => {
            kernel::correct_header(ctx, at, change)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}
