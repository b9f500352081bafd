//! Reads the kernel's tables of addresses, neighbours and routes into plain values. Filters are
//! applied by the kernel.

use super::{
    NetlinkError,
    message::{PROTOCOL, Route, Target},
    socket::{Request, RouteSocket},
};
use crate::model::Mac;
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType, RouteVia,
    },
    rule::{RuleAttribute, RuleMessage},
};
use std::{fmt, net::IpAddr};

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeenAddress {
    pub(super) ifindex: u32,
    pub(super) prefix: IpNetwork,
}

/// A neighbour of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenNeighbour {
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
    pub(super) mac: Option<Mac>,
    pub(super) permanent: bool,
}

impl fmt::Display for SeenNeighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mac {
            Some(mac) => write!(f, "{mac}")?,
            None => write!(f, "unresolved")?,
        }
        write!(
            f,
            " {}",
            if self.permanent {
                "permanent"
            } else {
                "not permanent"
            }
        )
    }
}

/// A route, ours or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenRoute {
    pub(super) cidr: IpNetwork,
    pub(super) ours: bool,
    pub(super) kind: RouteType,
    pub(super) protocol: RouteProtocol,
    pub(super) ifindex: Option<u32>,
    pub(super) gateway: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    pub(super) metric: u32,
}

impl SeenRoute {
    /// Whether this is that route of ours.
    pub(super) fn is(&self, route: &Route) -> bool {
        self.ours && self.as_route().as_ref() == Some(route)
    }

    /// As we would have made it; none when it is of a kind that we do not make.
    pub(super) fn as_route(&self) -> Option<Route> {
        let target = match (self.kind, self.ifindex, self.gateway) {
            (RouteType::Unreachable, _, _) => Target::Unreachable,
            (RouteType::Unicast, Some(ifindex), Some(gateway)) => Target::Via {
                ifindex,
                gateway,
                source: self.source,
            },
            (RouteType::Unicast, Some(ifindex), None) => Target::Link { ifindex },
            _ => return None,
        };
        Some(Route {
            cidr: self.cidr,
            target,
        })
    }
}

impl fmt::Display for SeenRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != RouteType::Unicast {
            write!(f, "{} ", format!("{:?}", self.kind).to_lowercase())?;
        }
        write!(f, "{}", self.cidr)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(ifindex) = self.ifindex {
            write!(f, " on link number {ifindex}")?;
        }
        if let Some(source) = self.source {
            write!(f, " from {source}")?;
        }
        write!(f, " proto {}", u8::from(self.protocol))
    }
}

/// Addresses of one interface, or of all.
pub(super) fn addresses(
    socket: &mut RouteSocket,
    ifindex: Option<u32>,
) -> Result<Vec<SeenAddress>, NetlinkError> {
    let mut message = AddressMessage::default();
    message.header.index = ifindex.unwrap_or(0);
    let request = Request {
        message: RouteNetlinkMessage::GetAddress(message),
        flags: 0,
        action: "list the addresses".into(),
    };
    let replies = socket.dump(request)?;
    Ok(replies
        .into_iter()
        .filter_map(|reply| match reply {
            RouteNetlinkMessage::NewAddress(message) => seen_address(&message),
            _ => None,
        })
        .collect())
}

/// The interface's own address: IFA_LOCAL, which IPv6 leaves out unless there is a peer.
pub(super) fn seen_address(message: &AddressMessage) -> Option<SeenAddress> {
    let mut own = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => own = Some(*address),
            AddressAttribute::Address(address) => own = own.or(Some(*address)),
            _ => {}
        }
    }
    let prefix = IpNetwork::new(own?, message.header.prefix_len).ok()?;
    Some(SeenAddress {
        ifindex: message.header.index,
        prefix,
    })
}

/// Neighbours of both families on one interface, or on all.
pub(super) fn neighbours(
    socket: &mut RouteSocket,
    ifindex: Option<u32>,
) -> Result<Vec<SeenNeighbour>, NetlinkError> {
    let mut message = NeighbourMessage::default();
    message
        .attributes
        .extend(ifindex.map(NeighbourAttribute::IfIndex));
    let request = Request {
        message: RouteNetlinkMessage::GetNeighbour(message),
        flags: 0,
        action: "list the neighbours".into(),
    };
    let replies = socket.dump(request)?;
    Ok(replies
        .into_iter()
        .filter_map(|reply| match reply {
            RouteNetlinkMessage::NewNeighbour(message) => seen_neighbour(message),
            _ => None,
        })
        .collect())
}

fn seen_neighbour(message: NeighbourMessage) -> Option<SeenNeighbour> {
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(v4.into())
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(v6.into());
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes).ok().map(Mac);
            }
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    Some(SeenNeighbour {
        ifindex: message.header.ifindex,
        address: address?,
        mac,
        permanent,
    })
}

/// Which routes to read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RouteFilter {
    /// Only those on this interface.
    pub(super) ifindex: Option<u32>,
    /// Those of this table instead of the main one's.
    pub(super) table: Option<u32>,
}

/// Routes of one family in one table; none when there is no such table.
pub(super) fn routes(
    socket: &mut RouteSocket,
    family: AddressFamily,
    filter: RouteFilter,
) -> Result<Vec<SeenRoute>, NetlinkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    let table = filter.table.unwrap_or(MAIN);
    message.attributes.push(RouteAttribute::Table(table));
    message
        .attributes
        .extend(filter.ifindex.map(RouteAttribute::Oif));
    let request = Request {
        message: RouteNetlinkMessage::GetRoute(message),
        flags: 0,
        action: "list the routes".into(),
    };
    let replies = match socket.dump(request) {
        Err(error) if error.errno() == Some(libc::ENOENT) => Vec::new(),
        replies => replies?,
    };
    Ok(replies
        .into_iter()
        .filter_map(|reply| match reply {
            RouteNetlinkMessage::NewRoute(message) => seen_route_in(&message, table),
            _ => None,
        })
        .collect())
}

/// Numbers of the rules' and routes' attributes have 32 bits.
const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// A route in the main table.
pub(super) fn seen_route(message: &RouteMessage) -> Option<SeenRoute> {
    seen_route_in(message, MAIN)
}

fn seen_route_in(message: &RouteMessage, table: u32) -> Option<SeenRoute> {
    let header = &message.header;
    let mut seen = SeenRoute {
        cidr: match header.address_family {
            AddressFamily::Inet => IpNetwork::from(IpAddr::from([0u8; 4])),
            AddressFamily::Inet6 => IpNetwork::from(IpAddr::from([0u8; 16])),
            _ => return None,
        },
        ours: header.protocol == PROTOCOL,
        kind: header.kind,
        protocol: header.protocol,
        ifindex: None,
        gateway: None,
        source: None,
        metric: 0,
    };
    let mut destination = seen.cidr.ip();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => seen.gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => seen.gateway = Some((*address).into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => seen.gateway = Some((*address).into()),
            RouteAttribute::PrefSource(address) => seen.source = ip(address),
            RouteAttribute::Oif(ifindex) => seen.ifindex = Some(*ifindex),
            RouteAttribute::Priority(metric) => seen.metric = *metric,
            // The header has eight bits only; greater tables are told here.
            RouteAttribute::Table(other) if *other != table => return None,
            _ => {}
        }
    }
    seen.cidr = IpNetwork::new(destination, header.destination_prefix_length).ok()?;
    Some(seen)
}

/// Rules of one family that send what comes from a single address to a table.
pub(super) fn source_rules(
    socket: &mut RouteSocket,
    family: AddressFamily,
) -> Result<Vec<(IpAddr, u32)>, NetlinkError> {
    let mut message = RuleMessage::default();
    message.header.family = family;
    let request = Request {
        message: RouteNetlinkMessage::GetRule(message),
        flags: 0,
        action: "list the rules".into(),
    };
    let replies = socket.dump(request)?;
    Ok(replies
        .into_iter()
        .filter_map(|reply| match reply {
            RouteNetlinkMessage::NewRule(message) => source_rule(&message),
            _ => None,
        })
        .collect())
}

fn source_rule(message: &RuleMessage) -> Option<(IpAddr, u32)> {
    let (mut from, mut table) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => from = Some(*address),
            RuleAttribute::Table(number) => table = Some(*number),
            RuleAttribute::Priority(_)
            | RuleAttribute::Protocol(_)
            | RuleAttribute::SuppressPrefixLen(_) => {}
            // Anything else narrows the rule.
            _ => return None,
        }
    }
    let from = from?;
    let is_whole = message.header.src_len == IpNetwork::from(from).prefix();
    is_whole.then_some((from, table?))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
