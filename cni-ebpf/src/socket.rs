//! Services for sockets: a socket gets its backend when it connects, or for each of its datagrams
//! when it isn't connected. Its packets are then no frontend's any more, and the programs of
//! interfaces leave them alone. The process goes on seeing the frontend as its peer.

use crate::{
    address::Ip,
    kernel,
    maps::{self, Kept, Talk},
    socket_context::{ALLOW, Call, random},
    transport::Tuple,
};
use cni_ebpf_common::{
    flow::{self, TCP, UDP},
    service::{Frontend, REFUSING_PORT},
    socket::{self, SocketSettings},
};

const ECONNREFUSED: i32 = 111;
/// Between a frontend's row and its list the agent may have changed both: the next look sees the
/// new ones.
const LOOKS: u32 = 2;

/// What a socket's destination is.
enum Meant {
    /// No frontend, or one that is left to others.
    Other,
    /// A frontend that nobody answers for.
    NoBackend,
    Backend(Ip, u16),
}

/// A socket connects: TCP of pods and, where they are served, TCP and UDP of the node's processes.
#[inline(always)]
pub(crate) fn connect<const V4: bool>(call: Call<'_, V4>) -> i32 {
    let protocol = call.protocol();
    if protocol != TCP.into() && protocol != UDP.into() {
        return ALLOW;
    }
    let settings = maps::socket_settings();
    let netns = call.netns();
    let is_served = if netns == settings.host_netns {
        settings.serve & SocketSettings::HOST != 0
    } else {
        settings.serve & SocketSettings::PODS != 0 && protocol == TCP.into()
    };
    if !is_served {
        return ALLOW;
    }
    let frontend = call.peer();
    let number = if protocol == TCP.into() {
        random()
    } else {
        socket::hash(call.cookie())
    };
    match meant(frontend, protocol as u8, netns, number) {
        Meant::Other => ALLOW,
        Meant::NoBackend => call.fail(ECONNREFUSED),
        Meant::Backend(ip, port) => {
            let talk = Talk::new(call.cookie(), ip, port);
            maps::remember_socket_frontend(&talk, frontend);
            call.set_peer((ip, port));
            ALLOW
        }
    }
}

/// A socket sends a datagram to an address that it names. Those of pods are translated as packets.
#[inline(always)]
pub(crate) fn sendmsg<const V4: bool>(call: Call<'_, V4>) -> i32 {
    let settings = maps::socket_settings();
    let netns = call.netns();
    if netns != settings.host_netns || call.protocol() != UDP.into() {
        return ALLOW;
    }
    let cookie = call.cookie();
    let frontend = call.peer();
    let sends = Talk::new(cookie, frontend.0, frontend.1);
    let backend = if let Some(kept) = maps::socket_backend(&sends) {
        kept
    } else {
        if settings.serve & SocketSettings::HOST == 0 {
            return ALLOW;
        }
        match meant(frontend, UDP, netns, socket::hash(cookie)) {
            Meant::Other => return ALLOW,
            Meant::NoBackend => return call.fail(ECONNREFUSED),
            Meant::Backend(ip, port) => {
                maps::remember_socket_backend(&sends, (ip, port));
                (ip, port)
            }
        }
    };
    // Looked at for each datagram, so that it is forgotten no sooner than the row above.
    let hears = Talk::new(cookie, backend.0, backend.1);
    if maps::socket_frontend(&hears) != Some(frontend) {
        maps::remember_socket_frontend(&hears, frontend);
    }
    call.set_peer(backend);
    ALLOW
}

/// A socket has received a datagram and is told from whom. Pods' come from the frontend already.
#[inline(always)]
pub(crate) fn recvmsg<const V4: bool>(call: Call<'_, V4>) -> i32 {
    if call.netns() == maps::socket_settings().host_netns {
        name_frontend(call);
    }
    ALLOW
}

/// A process asks whom its socket is connected to.
#[inline(always)]
pub(crate) fn getpeername<const V4: bool>(call: Call<'_, V4>) -> i32 {
    name_frontend(call);
    ALLOW
}

/// Puts the frontend in the place of its backend.
#[inline(always)]
fn name_frontend<const V4: bool>(call: Call<'_, V4>) {
    let (ip, port) = call.peer();
    if let Some(frontend) = maps::socket_frontend(&Talk::new(call.cookie(), ip, port)) {
        call.set_peer(frontend);
    }
}

/// Looks a destination up, and chooses a backend by a number.
#[inline(always)]
fn meant((named, port): (Ip, u16), protocol: u8, netns: u64, number: u32) -> Meant {
    let ip = if named.is_loopback() {
        own_of_loopback(named, netns)
    } else {
        named
    };
    let mut look = 0;
    while look < LOOKS {
        let Some(frontend) = maps::frontend(ip, port, protocol) else {
            return Meant::Other;
        };
        // The address itself has a row without backends, too, under port 0, which nobody talks to.
        if frontend.internal.count == 0 {
            return Meant::NoBackend;
        }
        if frontend.ranges != 0 && !may_ask(&frontend, ip, netns) {
            return Meant::Other;
        }
        let chosen = if frontend.affinity_secs == 0 {
            choose(&frontend, number)
        } else {
            let client = Ip::from_addr(&socket::client(netns));
            let flow = Tuple::new(client, ip, 0, protocol);
            choose_for_client(&frontend, &maps::client(&flow, port, protocol), number)
        };
        if let Some((ip, port)) = chosen {
            return if port == REFUSING_PORT {
                Meant::NoBackend
            } else {
                Meant::Backend(ip, port)
            };
        }
        look += 1;
    }
    Meant::Other
}

/// A NodePort by the node's loopback address is the one of the node's own.
#[inline(always)]
fn own_of_loopback(named: Ip, netns: u64) -> Ip {
    match maps::outside() {
        Some(node) if netns == maps::socket_settings().host_netns => node.own(named.is_v4()),
        _ => named,
    }
}

/// Whether source ranges let a process of the node in. A pod's address is told by its packets alone.
#[inline(always)]
fn may_ask(frontend: &Frontend, ip: Ip, netns: u64) -> bool {
    netns == maps::socket_settings().host_netns
        && maps::outside()
            .is_some_and(|node| maps::in_ranges(frontend.ranges, node.own(ip.is_v4())))
}

/// The backend of a frontend that a number stands for; none when the list is the frontend's no more.
#[inline(always)]
fn choose(frontend: &Frontend, number: u32) -> Option<(Ip, u16)> {
    maps::backend(&frontend.internal, number)
}

/// The backend that a client keeps, else one as above, which it keeps from now on.
#[inline(always)]
fn choose_for_client(frontend: &Frontend, client: &maps::Client, number: u32) -> Option<(Ip, u16)> {
    let now = kernel::now_ns();
    let kept = maps::kept_backend(client)
        .filter(|row| flow::keeps_affinity(frontend.affinity_secs, row.seen_ns, now))
        .map(|row| (row.addr, row.port));
    let (ip, port) = kept.or_else(|| choose(frontend, number))?;
    let row = Kept {
        seen_ns: now,
        addr: ip,
        port,
        pad: [0; 3],
    };
    maps::keep_backend(client, &row);
    Some((ip, port))
}
