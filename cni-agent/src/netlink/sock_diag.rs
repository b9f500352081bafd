//! Connected UDP sockets of this namespace, and their end: `sock_diag(7)`, `SOCK_DESTROY`. A process that
//! only receives would wait for ever for a backend that is gone; so it gets an error, and connects anew.

use super::{
    NetlinkError, blocking,
    socket::{Request, Socket},
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use rtnetlink::{packet_core::NLM_F_ACK, sys::protocols::NETLINK_SOCK_DIAG};
use std::net::SocketAddr;

/// Requests of one `send`.
const BATCH: usize = 64;

/// A connected socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    family: u8,
    id: SocketId,
}

impl Connected {
    /// The kernel's number of the socket, never used again.
    pub fn cookie(&self) -> u64 {
        // Two words of 32 bits, the lower one first, each as the machine has it.
        let [a, b, c, d, e, f, g, h] = self.id.cookie;
        let low = u32::from_ne_bytes([a, b, c, d]);
        let high = u32::from_ne_bytes([e, f, g, h]);
        u64::from(high) << 32 | u64::from(low)
    }

    /// Whom it is connected to. An IPv6 socket may be to an IPv4-mapped address.
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.id.destination_address, self.id.destination_port)
    }
}

/// All connected UDP sockets of the namespace of this process.
///
/// # Errors
/// `Refused` or `Socket` when the kernel does not answer.
pub async fn connected_udp() -> Result<Vec<Connected>, NetlinkError> {
    blocking("sock_diag", list).await
}

/// Ends sockets: whoever waits on one, or uses it next, gets ECONNABORTED. One that is gone is fine.
///
/// # Errors
/// `Refused` when the kernel can't (CONFIG_INET_DIAG_DESTROY), `Socket` when it does not answer.
pub async fn end(sockets: Vec<Connected>) -> Result<(), NetlinkError> {
    blocking("sock_diag", move || destroy(&sockets)).await
}

fn list() -> Result<Vec<Connected>, NetlinkError> {
    let mut socket = Socket::<SockDiagMessage>::open(NETLINK_SOCK_DIAG)?;
    let mut found = Vec::new();
    for (family, id) in [
        (AF_INET, SocketId::new_v4()),
        (AF_INET6, SocketId::new_v6()),
    ] {
        let asked = Request {
            message: request(family, id),
            flags: 0,
            action: "list UDP sockets".to_owned(),
        };
        for answer in socket.dump(asked)? {
            if let SockDiagMessage::InetResponse(response) = answer {
                let id = response.header.socket_id;
                found.push(Connected { family, id });
            }
        }
    }
    Ok(found)
}

fn destroy(sockets: &[Connected]) -> Result<(), NetlinkError> {
    let mut socket = Socket::<SockDiagDestroy>::open(NETLINK_SOCK_DIAG)?;
    for batch in sockets.chunks(BATCH) {
        let requests = batch.iter().map(|one| Request {
            message: SockDiagDestroy::new(request(one.family, one.id.clone())),
            flags: NLM_F_ACK,
            action: format!("end the UDP socket to {}", one.peer()),
        });
        let refusals = socket.send(requests.collect())?.refusals.into_iter();
        let mut refusals = refusals.filter(|(_, refusal)| refusal.errno != libc::ENOENT);
        if let Some((_, refusal)) = refusals.next() {
            return Err(NetlinkError::Refused(refusal));
        }
    }
    Ok(())
}

fn request(family: u8, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::ESTABLISHED,
        socket_id,
    })
}
