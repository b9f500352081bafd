//! Services: a packet of a local pod to a frontend gets a backend as its destination. Nothing is
//! told to the host's connection tracking, which sees the packet only if the backend is no pod.

use crate::{
    flow::{TRANSLATED, UNTOUCHED, pack, touch, unpack},
    kernel,
    maps::{self, FlowWords, Kept},
    packet::Packet,
    rewrite, trace,
    transport::{self, Transport, Tuple, destination_port, port_pair, source_port},
};
use aya_ebpf::programs::TcContext;
use cni_ebpf_common::{
    flow::{self, Flow},
    outside::{self, OutsideSettings},
    service::{Frontend, MOST_ATTEMPTS},
    trace::StepKind,
    verdict::DropReason,
};

/// Translates a packet of a local pod whose destination is no pod. Whether it did: else the packet
/// is the host's stack's.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub(crate) fn translate(ctx: &TcContext, packet: &mut Packet, id: u32) -> Result<bool, DropReason> {
    let search = maps::scratch()?;
    search.packet = *packet;
    let packed = translate_here(ctx, search, id);
    *packet = search.packet;
    unpack(packed)
}

#[inline(never)]
fn translate_here(ctx: &TcContext, search: &mut Search, id: u32) -> u32 {
    pack(try_translate(ctx, search, id))
}

/// A packet, its connection, and the search for what becomes of both; in [`maps::scratch`], since
/// the stacks of subprograms lie on top of each other: 512 bytes for all. What is read back from a
/// map the verifier takes for any value: callers take the packet back from here, so that it walks a
/// subprogram and what follows once for all packets.
#[repr(C)]
pub(crate) struct Search {
    pub(crate) packet: Packet,
    pub(crate) transport: Transport,
    /// The packet's addresses and ports.
    pub(crate) tuple: Tuple,
    /// What it gets instead.
    pub(crate) change: Tuple,
    pub(crate) now: u64,
    /// The answers' addresses and ports.
    other: Tuple,
    pub(crate) row: FlowWords,
    kept: Kept,
    hash: u32,
    /// Bits of [`Search`].
    pub(crate) side: u32,
    /// Of what comes from outside: the uplink. Of its answers: by which they leave.
    pub(crate) ifindex: u32,
    /// What becomes of a packet from or to the outside.
    pub(crate) done: u32,
    /// What policies say of it that is news to who listens; 0: nothing.
    pub(crate) told: u32,
    pad: u32,
}

impl Search {
    /// It came by an uplink, from outside of the node.
    pub(crate) const UPLINK: u32 = 1;
    /// The flow is another node's to translate: [`Flow::DIRECT`].
    pub(crate) const DIRECT: u32 = 2;

    #[inline(always)]
    pub(crate) fn is(&self, bit: u32) -> bool {
        self.side & bit != 0
    }
}

#[inline(always)]
fn try_translate(ctx: &TcContext, search: &mut Search, id: u32) -> Result<u32, DropReason> {
    if !transport::find(ctx, search)? {
        return Ok(UNTOUCHED);
    }
    if !transport::complete(search) {
        return if maps::frontend(search.packet.dst, 0, 0).is_some() {
            Err(DropReason::FragmentUnknown)
        } else {
            Ok(UNTOUCHED)
        };
    }
    search.now = kernel::now_ns();
    search.side = 0;
    let mut step = UNKNOWN;
    if maps::endpoint_flows(id).client != 0 {
        step = follow(search);
    }
    if step == UNKNOWN {
        step = choose(search);
    }
    match found(step)? {
        KNOWN => {}
        CHOSEN => maps::mark_client(id),
        _ => {
            // An address that isn't all a Service's, such as a node's: later fragments to its other ports
            // are told by their first one.
            if search.transport.is_fragment() && maps::frontend(search.tuple.dst, 0, 0).is_some() {
                transport::remember_fragment(search);
            }
            return Ok(UNTOUCHED);
        }
    }
    transport::remember_fragment(search);
    trace::step(StepKind::Balanced, step, id);
    rewrite::endpoints(ctx, search)?;
    Ok(TRANSLATED)
}

/// What a search ended with: `UNKNOWN`, `KNOWN` or `CHOSEN`.
///
/// # Errors
/// Why the packet is dropped.
#[inline(always)]
pub(crate) fn found(step: u32) -> Result<u32, DropReason> {
    match step {
        CLASH | CHANGED => Err(DropReason::TranslationClash),
        NO_MEMORY => Err(DropReason::Redirect),
        NONE_HERE => Err(DropReason::NoLocalBackend),
        OUT_OF_RANGE => Err(DropReason::SourceRange),
        step => Ok(step),
    }
}

/// Steps of a search: a subprogram's result has to fit a register.
pub(crate) const UNKNOWN: u32 = 0;
/// The flow keeps its backend.
pub(crate) const KNOWN: u32 = 1;
/// The flow has a backend now.
pub(crate) const CHOSEN: u32 = 2;
/// The client's port is free nowhere.
const CLASH: u32 = 3;
/// The kernel could not remember it.
const NO_MEMORY: u32 = 4;
/// The list is not the frontend's any more; at the last attempt as good as no backend that is free.
const CHANGED: u32 = 5;
/// Backends are elsewhere, and a policy forbids them.
const NONE_HERE: u32 = 6;
/// The Service is not for this client.
const OUT_OF_RANGE: u32 = 7;

/// What a known flow does with its packet: `UNKNOWN` when it has to choose.
#[inline(never)]
pub(crate) fn follow(search: &mut Search) -> u32 {
    let protocol = search.transport.protocol as u8;
    let (begins, ends) = (search.transport.begins(), search.transport.ends());
    let Some(row) = maps::flow(&search.tuple) else {
        return UNKNOWN;
    };
    let flow = row.get();
    search.change = flow.to(protocol);
    // A pod answers itself.
    if flow.is(Flow::ANSWER) && flow.is(Flow::HAIRPIN) {
        touch(row, &flow, ends, search.now);
        return KNOWN;
    }
    if !flow.is(Flow::TO_BACKEND) {
        return UNKNOWN;
    }
    if flow.is(Flow::DIRECT) {
        if !flow::keeps_backend(protocol, begins, flow.seen_ns, search.now) {
            maps::forget_flow(&search.tuple);
            return UNKNOWN;
        }
        touch(row, &flow, ends, search.now);
        search.side |= Search::DIRECT;
        return KNOWN;
    }
    // Looked after once a second: the answers' row must not be forgotten before this one, and
    // a server that only sends keeps the flow alive, too.
    if flow::idle_ns(flow.seen_ns, search.now) >= flow::REFRESH_NS || begins || ends {
        search.other = search.change.reversed();
        let Some(answers) = maps::flow(&search.other) else {
            maps::forget_flow(&search.tuple);
            return UNKNOWN;
        };
        let answer = answers.get();
        let seen_ns = if answer.seen_ns > flow.seen_ns {
            answer.seen_ns
        } else {
            flow.seen_ns
        };
        let own = is_of(&answer, &search.tuple);
        if !own || !flow::keeps_backend(protocol, begins, seen_ns, search.now) {
            // It chooses anew; what is the answers' row of this flow goes with it.
            if own {
                maps::forget_flow(&search.other);
            }
            maps::forget_flow(&search.tuple);
            return UNKNOWN;
        }
        answers.set_seen(search.now);
        if ends {
            answers.set_closing();
        }
    }
    touch(row, &flow, ends, search.now);
    KNOWN
}

/// Whether a row of answers belongs to this flow.
#[inline(always)]
fn is_of(row: &FlowWords, tuple: &Tuple) -> bool {
    let there = tuple.reversed();
    row.is(Flow::ANSWER) && (row.src, row.dst, row.ports) == (there.src, there.dst, there.ports)
}

/// Chooses a backend where the client's port is free. `UNKNOWN`: there is no such frontend.
#[inline(always)]
pub(crate) fn choose(search: &mut Search) -> u32 {
    search.hash = search.tuple.hash();
    let mut attempt = 0;
    let mut step = UNKNOWN;
    while attempt < MOST_ATTEMPTS {
        step = take(search, attempt);
        if step != CLASH && step != CHANGED {
            return step;
        }
        attempt += 1;
    }
    step
}

/// Takes a backend if the client's port is free there, at later attempts another port, and remembers both
/// directions. What a backend elsewhere gets from outside has the node's address, so that the answer comes
/// back here.
#[inline(never)]
fn take(search: &mut Search, attempt: u32) -> u32 {
    let protocol = search.transport.protocol as u8;
    let port = destination_port(search.tuple.ports);
    let Some(frontend) = maps::frontend(search.tuple.dst, port, protocol) else {
        return UNKNOWN;
    };
    if frontend.ranges != 0 && !maps::in_ranges(frontend.ranges, search.tuple.src) {
        return OUT_OF_RANGE;
    }
    let (list, drops) = if search.is(Search::UPLINK) {
        (frontend.external, Frontend::EXTERNAL_DROP)
    } else {
        (frontend.internal, Frontend::INTERNAL_DROP)
    };
    if list.count == 0 {
        return if frontend.flags & drops != 0 {
            NONE_HERE
        } else {
            UNKNOWN
        };
    }
    let mut kept = None;
    if frontend.affinity_secs != 0 {
        let client = maps::client(&search.tuple, port, protocol);
        kept = maps::kept_backend(&client)
            .filter(|row| flow::keeps_affinity(frontend.affinity_secs, row.seen_ns, search.now))
            .map(|row| (row.addr, row.port));
    }
    // Between the frontend and its list the agent may have changed both: the next attempt sees the
    // new ones.
    let Some((addr, backend_port)) = kept.or_else(|| maps::backend(&list, search.hash)) else {
        return CHANGED;
    };
    let Some(node) = maps::outside() else {
        return UNKNOWN;
    };
    let own = node.own(search.packet.v4);
    let uplink = search.is(Search::UPLINK);
    let local = if uplink {
        maps::endpoint_addr(addr).map(|local| local.id)
    } else {
        None
    };
    if node.is(OutsideSettings::DIRECT)
        && frontend.flags & Frontend::SAME_EVERYWHERE != 0
        && uplink
        && local.is_none()
        && maps::node(addr).is_some()
    {
        let ports = port_pair(source_port(search.tuple.ports), backend_port);
        search.change = Tuple::new(search.tuple.src, addr, ports, protocol);
        let flags = Flow::TO_BACKEND | Flow::OUTSIDE | Flow::DIRECT;
        search.row = FlowWords::new(&search.change, flags, search.now);
        search.side |= Search::DIRECT;
        return match maps::remember_flow(&search.tuple, &search.row) {
            Ok(()) => CHOSEN,
            Err(_) => NO_MEMORY,
        };
    }
    // A pod that is its own backend hears the frontend: the answer shall not stay in the pod.
    let itself = !uplink && addr == search.tuple.src;
    let elsewhere = uplink && local.is_none() && addr != own;
    let src = if itself {
        search.tuple.dst
    } else if elsewhere {
        own
    } else {
        search.tuple.src
    };
    let client_port = if attempt == 0 && !elsewhere {
        source_port(search.tuple.ports)
    } else {
        let (first, ports) = if uplink {
            (node.first_port, node.ports)
        } else {
            (outside::POD_FIRST_PORT, outside::POD_PORTS)
        };
        outside::source_port(first, ports, search.hash, attempt).to_be()
    };
    let ports = port_pair(client_port, backend_port);
    search.change = Tuple::new(src, addr, ports, protocol);
    search.other = search.change.reversed();
    if let Some(row) = maps::flow(&search.other) {
        let row = row.get();
        let own = is_of(&row, &search.tuple);
        if !own
            && !flow::is_free(
                protocol,
                row.flags,
                row.closing != 0,
                row.seen_ns,
                search.now,
                attempt + 1 == MOST_ATTEMPTS,
            )
        {
            return CLASH;
        }
    }
    let kind = if uplink {
        Flow::OUTSIDE
    } else if itself {
        Flow::HAIRPIN
    } else {
        0
    };
    search.row = FlowWords::new(&search.tuple.reversed(), Flow::ANSWER | kind, search.now);
    search.row.ifindex = if uplink { search.ifindex } else { 0 };
    if maps::remember_flow(&search.other, &search.row).is_err() {
        return NO_MEMORY;
    }
    search.row = FlowWords::new(&search.change, Flow::TO_BACKEND | kind, search.now);
    if maps::remember_flow(&search.tuple, &search.row).is_err() {
        return NO_MEMORY;
    }
    if frontend.affinity_secs != 0 {
        search.kept = Kept {
            seen_ns: search.now,
            addr,
            port: backend_port,
            pad: [0; 3],
        };
        let client = maps::client(&search.tuple, port, protocol);
        maps::keep_backend(&client, &search.kept);
    }
    if let Some(id) = local {
        maps::mark_outside(id);
    } else if uplink && !elsewhere {
        maps::mark_host();
    }
    CHOSEN
}
