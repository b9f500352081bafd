//! The devices that join this node to the others, and news of them.

use super::{
    NetlinkError, ROUTE_PROTOCOL, blocking,
    link::HOST_IFNAME_PREFIX,
    message::{get_link, get_link_at},
    socket::{RECEIVE_BYTES, Request, RouteSocket, decode_notifications},
    table,
};
use crate::model::Mac;
use futures_util::FutureExt;
use ipnetwork::IpNetwork;
use rtnetlink::{
    MulticastGroup,
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkFlags, LinkMessage},
        route::RouteMessage,
    },
    sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_ROUTE},
};
use std::net::IpAddr;

/// As many changes are told at once; the rest by the next call.
const MAX_CHANGES: usize = 256;

/// A device that holds addresses of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    pub ifindex: u32,
    pub mtu: u32,
    /// None on devices without Ethernet addresses (tunnels).
    pub mac: Option<Mac>,
    pub up: bool,
    /// All addresses of the device with their prefix lengths.
    pub addresses: Vec<IpNetwork>,
}

/// The devices that hold these addresses of the node, by number. A node may have its IPv4 and IPv6
/// address on different devices.
///
/// # Errors
/// `NoUplink` when no device holds any of them.
pub async fn find_uplinks(node_addresses: &[IpAddr]) -> Result<Vec<Uplink>, NetlinkError> {
    let wanted = node_addresses.to_vec();
    blocking("find the uplink", move || {
        let mut socket = RouteSocket::route()?;
        let seen = table::addresses(&mut socket, None)?;
        let mut numbers: Vec<u32> = seen
            .iter()
            .filter(|address| wanted.contains(&address.prefix.ip()))
            .map(|address| address.ifindex)
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.is_empty() {
            let addresses: Vec<_> = wanted.iter().map(IpAddr::to_string).collect();
            return Err(NetlinkError::NoUplink {
                addresses: addresses.join(", "),
            });
        }
        numbers
            .into_iter()
            .map(|ifindex| look(&mut socket, get_link_at(ifindex)))
            .collect()
    })
    .await
}

/// The device of that name (`--uplink`).
///
/// # Errors
/// `NoLink` when there is none.
pub async fn find_uplink_named(ifname: &str) -> Result<Uplink, NetlinkError> {
    let ifname = ifname.to_owned();
    blocking("find the uplink", move || {
        look(&mut RouteSocket::route()?, get_link(&ifname)).map_err(|error| match error.errno() {
            Some(libc::ENODEV) => NetlinkError::NoLink { ifname },
            _ => error,
        })
    })
    .await
}

fn look(
    socket: &mut RouteSocket,
    request: Request<RouteNetlinkMessage>,
) -> Result<Uplink, NetlinkError> {
    let object = request.action.clone();
    let reply = socket.one(request)?.into_iter().next();
    let Some(RouteNetlinkMessage::NewLink(link)) = reply else {
        return Err(NetlinkError::Answer {
            object,
            fault: "there was none".into(),
        });
    };
    let ifindex = link.header.index;
    let seen = table::addresses(socket, Some(ifindex))?;
    let mut uplink = Uplink {
        name: name(&link).unwrap_or_default().to_owned(),
        ifindex,
        mtu: 0,
        mac: None,
        up: link.header.flags.contains(LinkFlags::Up),
        addresses: seen.into_iter().map(|address| address.prefix).collect(),
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => uplink.mtu = mtu,
            LinkAttribute::Address(bytes) => uplink.mac = <[u8; 6]>::try_from(bytes).ok().map(Mac),
            _ => {}
        }
    }
    Ok(uplink)
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
}

/// Something changed that may concern the uplink. Look again with [`find_uplinks`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link came, went, or changed (MTU, state, MAC, name).
    Link { ifindex: u32, name: String },
    /// An address came or went.
    Address {
        ifindex: u32,
        address: Option<IpNetwork>,
    },
    /// A route that is not ours came or went, as the node's default route.
    Route { cidr: IpNetwork },
    /// Something happened that cannot be told (too much at once, for example): look at everything.
    Lost,
}

/// A subscription to changes in the namespace of this process. Changes that Fairlead makes itself
/// (its links, its routes) are left out.
pub struct Changes {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// Subscribes from now on; must be called within the runtime. Subscribe first, then look, and no
/// change is missed.
///
/// # Errors
/// `Socket` when the kernel does not take the subscription.
pub fn changes() -> Result<Changes, NetlinkError> {
    let fault = |source| NetlinkError::Socket {
        what: "watch",
        source,
    };
    let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(fault)?;
    // A socket without a number is passed over when the kernel tells its news.
    socket.socket_mut().bind_auto().map_err(fault)?;
    for group in [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ] {
        socket
            .socket_mut()
            .add_membership(group as u32)
            .map_err(fault)?;
    }
    Ok(Changes {
        socket,
        buffer: Vec::with_capacity(RECEIVE_BYTES),
    })
}

impl Changes {
    /// Waits for the next changes; a change that repeats is told once. May be cancelled without
    /// loss.
    ///
    /// # Errors
    /// `Socket` when the socket fails; subscribe anew then.
    pub async fn next(&mut self) -> Result<Vec<Change>, NetlinkError> {
        let mut changes = Vec::new();
        while changes.is_empty() {
            self.receive().await.map(|found| add(&mut changes, found))?;
            // What is queued already comes with it, so that one look answers many changes.
            while changes.len() < MAX_CHANGES
                && let Some(more) = self.receive().now_or_never()
            {
                more.map(|found| add(&mut changes, found))?;
            }
        }
        Ok(changes)
    }

    async fn receive(&mut self) -> Result<Vec<Change>, NetlinkError> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer).await {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                return Ok(vec![Change::Lost]);
            }
            Err(source) => {
                return Err(NetlinkError::Socket {
                    what: "watch",
                    source,
                });
            }
        }
        // News that this version cannot read still are news.
        Ok(match decode_notifications(&self.buffer) {
            Ok(messages) => messages.into_iter().filter_map(foreign_change).collect(),
            Err(_) => vec![Change::Lost],
        })
    }
}

fn add(changes: &mut Vec<Change>, found: Vec<Change>) {
    for change in found {
        if !changes.contains(&change) {
            changes.push(change);
        }
    }
}

fn foreign_change(message: RouteNetlinkMessage) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            let name = name(&link).unwrap_or_default().to_owned();
            let ours = name.strip_prefix(HOST_IFNAME_PREFIX).is_some_and(|digits| {
                digits.len() == 12 && digits.bytes().all(|b| b.is_ascii_hexdigit())
            });
            (!ours).then_some(Change::Link {
                ifindex: link.header.index,
                name,
            })
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            let prefix = table::seen_address(&address).map(|seen| seen.prefix);
            Some(Change::Address {
                ifindex: address.header.index,
                address: prefix,
            })
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            foreign_route(&route)
        }
        _ => None,
    }
}

fn foreign_route(route: &RouteMessage) -> Option<Change> {
    if u8::from(route.header.protocol) == ROUTE_PROTOCOL {
        return None;
    }
    // Other tables (local, policy) do not decide about the uplink.
    table::seen_route(route).map(|seen| Change::Route { cidr: seen.cidr })
}
