//! Judges packets of local pods by policies: after Services are translated, so that both ends are who they
//! are. A connection is judged when it begins, and again after each change of the rules; its answers pass
//! because it may be. Fail-closed: what is not known to be allowed to an isolated pod is dropped.

use crate::{
    address::Ip,
    flow::{TRANSLATED, UNTOUCHED, pack, unpack},
    icmp_error, kernel,
    maps::{self, Ends},
    packet::{self, Packet},
    service::Search,
    trace,
    transport::{self, Tuple, destination_port, port_pair, source_port},
    upper,
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    event::Event,
    flow::{REFRESH_NS, TCP, idle_ns},
    policy::{Connection, EndpointPolicy, Peer, PolicySettings, Says, has_port, is_live, says},
    verdict::{DropReason, Path},
};

/// What goes from the endpoint, and what comes to it.
pub(crate) const EGRESS: u32 = EndpointPolicy::EGRESS;
pub(crate) const INGRESS: u32 = EndpointPolicy::INGRESS;
/// With a direction: it is this node's own.
pub(crate) const OF_NODE: u32 = 4;
/// With a direction: only what is remembered counts.
const KNOWN_ONLY: u32 = 8;

/// Drops a packet of an endpoint that its policies don't allow. `side`: a direction.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub(crate) fn check(
    ctx: &TcContext,
    packet: &mut Packet,
    id: u32,
    side: u32,
) -> Result<(), DropReason> {
    judged(ctx, packet, id, side).map(|_| ())
}

/// Whether a packet that goes from an endpoint belongs to a connection that is remembered and allowed, or
/// the endpoint may send whatever it wants.
///
/// # Errors
/// It is remembered and not allowed any more.
#[inline(always)]
pub(crate) fn is_answer(ctx: &TcContext, packet: &mut Packet, id: u32) -> Result<bool, DropReason> {
    judged(ctx, packet, id, EGRESS | KNOWN_ONLY)
}

#[inline(always)]
fn judged(ctx: &TcContext, packet: &mut Packet, id: u32, side: u32) -> Result<bool, DropReason> {
    if maps::policy_settings().flags & PolicySettings::ENFORCE == 0 {
        return Ok(true);
    }
    let policy = maps::endpoint_policy(id).ok_or(DropReason::PolicyUnknown)?;
    // Its beginnings and ends are enough of what nobody asks about.
    if policy.flags == 0 && is_midway(ctx, packet) {
        trace::judged(id, side, policy.flags, 0, TRANSLATED);
        return Ok(true);
    }
    let search = maps::scratch()?;
    search.packet = *packet;
    search.side = side;
    search.told = 0;
    let packed = judge(ctx, search, id);
    *packet = search.packet;
    // Here, where the stack has room for it.
    tell(ctx, search.told);
    trace::judged(id, side, policy.flags, search.told, packed);
    unpack(packed)
}

/// Tells of a packet, if there is something to tell. What policies only watch is counted, too. Apart, so that
/// the verifier walks what follows once.
#[inline(never)]
fn tell(ctx: &TcContext, what: u32) -> u32 {
    if what == 0 {
        return 0;
    }
    if what & Event::AUDITED != 0 {
        let (bytes, packets) = packet::size(ctx);
        maps::count_path(Path::Audited, bytes, packets);
    }
    maps::tell(ctx, what);
    0
}

/// Whether it is a segment of TCP that neither begins nor ends anything.
#[inline(always)]
fn is_midway(ctx: &TcContext, packet: &Packet) -> bool {
    packet.next == TCP
        && !packet.fragment
        && packet::load::<u8>(ctx, packet.payload_at + 13).is_some_and(|bits| bits & 0x07 == 0)
}

#[inline(never)]
fn judge(ctx: &TcContext, search: &mut Search, id: u32) -> u32 {
    pack(try_judge(ctx, search, id))
}

#[inline(always)]
fn try_judge(ctx: &TcContext, search: &mut Search, id: u32) -> Result<u32, DropReason> {
    let side = search.side & (INGRESS | EGRESS);
    // Before the tables are read: what is allowed by older ones is asked again.
    let epoch = maps::policy_settings().epoch;
    let policy = maps::endpoint_policy(id).ok_or(DropReason::PolicyUnknown)?;
    // Who is only watched may send and get what can't be judged.
    let isolated = policy.flags & side != 0;
    let mut error = false;
    if transport::find(ctx, search)? {
        if !transport::complete(search) {
            return match isolated {
                true => Err(DropReason::FragmentUnknown),
                false => Ok(TRANSLATED),
            };
        }
    } else {
        error = without_ports(ctx, search) == QUOTES;
    }
    let (peer, ports) = if side == EGRESS {
        (search.tuple.dst, search.tuple.ports)
    } else {
        (search.tuple.src, search.tuple.ports.rotate_left(16))
    };
    let protocol = search.tuple.protocol();
    let ends = Ends::new(peer, ports, protocol);
    let now = kernel::now_ns();
    let begins = !error && search.transport.begins();
    if !begins && let Some(row) = maps::connection(id, &ends) {
        let known = row.get();
        if is_live(protocol, known.closing != 0, known.seen_ns, now) {
            let began = if known.flags & Connection::BY_PEER != 0 {
                INGRESS
            } else {
                EGRESS
            };
            if known.epoch != epoch {
                let of_node = known.flags & Connection::OF_NODE != 0;
                if !of_node && !is_allowed(&policy, began, peer, ports, protocol) {
                    if policy.flags & began != 0 {
                        maps::forget_connection(id, &ends);
                        return Err(reason(began));
                    }
                    search.told = Event::AUDITED | reason(began) as u32;
                }
                row.set_epoch(epoch);
            }
            if idle_ns(known.seen_ns, now) >= REFRESH_NS {
                row.set_seen(now);
            }
            if !error && search.transport.ends() && known.closing == 0 {
                row.set_closing();
            }
            transport::remember_fragment(search);
            return Ok(TRANSLATED);
        }
    }
    if search.side & KNOWN_ONLY != 0 {
        return Ok(if isolated { UNTOUCHED } else { TRANSLATED });
    }
    // An error about nothing that is remembered is nobody's.
    if error {
        return match isolated {
            true => Err(reason(side)),
            false => Ok(TRANSLATED),
        };
    }
    let of_node = search.side & OF_NODE != 0;
    if !of_node && !is_allowed(&policy, side, peer, ports, protocol) {
        if isolated {
            return Err(reason(side));
        }
        search.told = Event::AUDITED | reason(side) as u32;
    } else {
        search.told = Event::BEGINS_EGRESS | side & INGRESS;
    }
    let row = Connection {
        seen_ns: now,
        epoch,
        flags: if side == INGRESS {
            Connection::BY_PEER
        } else {
            0
        } | if of_node { Connection::OF_NODE } else { 0 },
        closing: search.transport.ends().into(),
        pad: 0,
    };
    maps::remember_connection(id, &ends, &row);
    transport::remember_fragment(search);
    Ok(TRANSLATED)
}

#[inline(always)]
const fn reason(side: u32) -> DropReason {
    if side == INGRESS {
        DropReason::PolicyIngress
    } else {
        DropReason::PolicyEgress
    }
}

/// Whether rules let a connection begin. `ports`: the endpoint's first.
#[inline(always)]
fn is_allowed(policy: &EndpointPolicy, side: u32, peer: Ip, ports: u32, protocol: u8) -> bool {
    if policy.flags & (side | side << EndpointPolicy::AUDIT_SHIFT) == 0 {
        return true;
    }
    let port = if side == INGRESS {
        source_port(ports)
    } else {
        destination_port(ports)
    };
    looked_up(
        policy.generation,
        policy.class | side << 30,
        peer,
        u16::from_be(port),
        protocol,
    )
}

/// The rows. Apart, so that the verifier walks the ways to it once.
#[inline(always)]
fn looked_up(generation: u32, class_and_side: u32, peer: Ip, port: u16, protocol: u8) -> bool {
    let (class, side) = (class_and_side & 0x3fff_ffff, class_and_side >> 30);
    let identity = maps::identity(generation, peer);
    if identity == Peer::NODE {
        return true;
    }
    let own = maps::verdict(class, identity, side);
    let verdict = own.or_else(|| maps::verdict(class, Peer::ANYBODY, side));
    let Some(verdict) = verdict else {
        return false;
    };
    match says(verdict.flags, protocol) {
        Says::Yes => true,
        Says::No => false,
        Says::Some => has_port(maps::ports_word(verdict.set, protocol, port), port),
    }
}

/// It quotes a packet, whose connection is in `search.tuple` as if this packet were one of it.
const QUOTES: u32 = 1;

/// What a packet of a protocol without ports is known by: an error by what it quotes, an echo by its number.
#[inline(never)]
fn without_ports(ctx: &TcContext, search: &mut Search) -> u32 {
    const ICMP: u32 = 1;
    const ICMPV6: u32 = 58;
    search.transport.forget_flags();
    if icmp_error::quotes(ctx, search) {
        return QUOTES;
    }
    let protocol = search.transport.protocol;
    let mut number = 0;
    if protocol == ICMP || protocol == ICMPV6 {
        let (packet, at) = (&search.packet, search.transport.at);
        let kind = upper::load::<u8>(ctx, packet, at).unwrap_or(0);
        let echo = if protocol == ICMP {
            kind == 8 || kind == 0
        } else {
            kind == 128 || kind == 129
        };
        if echo {
            number = upper::load::<u16>(ctx, packet, at + 4).unwrap_or(0);
        }
    }
    let ports = port_pair(number, number);
    search.tuple = Tuple::new(search.packet.src, search.packet.dst, ports, protocol as u8);
    UNTOUCHED
}
