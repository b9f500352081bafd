//! Requests to rtnetlink, built from plain values.

use super::{ROUTE_PROTOCOL, socket::Request};
use crate::model::Mac;
use ipnetwork::IpNetwork;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{
            AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
        },
        link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
            RouteType, RouteVia,
        },
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use std::net::IpAddr;

pub(super) type RouteRequest = Request<RouteNetlinkMessage>;

/// Our mark on routes.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(ROUTE_PROTOCOL);

pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The prefix that holds one address only.
pub(super) fn single(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

/// Makes answers about links a fraction as long.
pub(super) fn without_counters() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// A question for one link by name.
pub(super) fn get_link(ifname: &str) -> RouteRequest {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(ifname.to_owned()));
    Request {
        message: RouteNetlinkMessage::GetLink(message),
        flags: 0,
        action: format!("tell about link {ifname}"),
    }
}

/// A question for one link by number.
pub(super) fn get_link_at(ifindex: u32) -> RouteRequest {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes.push(without_counters());
    Request {
        message: RouteNetlinkMessage::GetLink(message),
        flags: 0,
        action: format!("tell about link number {ifindex}"),
    }
}

/// A change of an existing link: up (`Some(true)`), down or as it is, and attributes.
pub(super) fn set_link(
    ifindex: u32,
    up: Option<bool>,
    attributes: Vec<LinkAttribute>,
    action: String,
) -> RouteRequest {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    if let Some(up) = up {
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up {
            LinkFlags::Up
        } else {
            LinkFlags::empty()
        };
    }
    message.attributes = attributes;
    Request {
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
        action,
    }
}

pub(super) fn delete_link(ifindex: u32, ifname: &str) -> RouteRequest {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    Request {
        message: RouteNetlinkMessage::DelLink(message),
        flags: 0,
        action: format!("delete link {ifname}"),
    }
}

/// An address that nobody else has, so that no duplicate detection (a second of waiting, packets
/// that the datapath drops) is due.
pub(super) fn add_address(
    ifindex: u32,
    prefix: IpNetwork,
    scope: AddressScope,
    ifname: &str,
) -> RouteRequest {
    let mut message = AddressMessage::default();
    message.header.family = family(prefix.ip());
    message.header.prefix_len = prefix.prefix();
    message.header.scope = scope;
    message.header.index = ifindex;
    message
        .attributes
        .push(AddressAttribute::Local(prefix.ip()));
    message
        .attributes
        .push(AddressAttribute::Address(prefix.ip()));
    if prefix.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    Request {
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        action: format!("add address {prefix} to {ifname}"),
    }
}

/// A neighbour that is never asked for nor forgotten.
pub(super) fn set_neighbour(ifindex: u32, address: IpAddr, mac: Mac, ifname: &str) -> RouteRequest {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message
        .attributes
        .push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        }));
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    Request {
        message: RouteNetlinkMessage::NewNeighbour(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        action: format!("add neighbour {address} at {mac} to {ifname}"),
    }
}

/// Priority of our rules: after the local table's (0), before the main one's (32766).
const RULE_PRIORITY: u32 = 1024;

/// A rule that lets what comes from an address look into `table` first.
pub(super) fn add_source_rule(address: IpAddr, table: u32, ifname: &str) -> RouteRequest {
    let mut message = RuleMessage::default();
    message.header.family = family(address);
    message.header.src_len = single(address).prefix();
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Source(address),
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::Table(table),
        RuleAttribute::Protocol(PROTOCOL),
    ];
    Request {
        message: RouteNetlinkMessage::NewRule(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        action: format!("add rule from {address} to table {table} for {ifname}"),
    }
}

/// A route of ours in the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) cidr: IpNetwork,
    pub(super) target: Target,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Neighbours on the link itself.
    Link { ifindex: u32 },
    /// Through a next hop, from a preferred source address.
    Via {
        ifindex: u32,
        gateway: IpAddr,
        source: Option<IpAddr>,
    },
    /// Nowhere: the sender is told so.
    Unreachable,
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.target {
            Target::Link { ifindex } => write!(f, "{} on link number {ifindex}", self.cidr),
            Target::Via {
                ifindex,
                gateway,
                source,
            } => {
                write!(f, "{} via {gateway} on link number {ifindex}", self.cidr)?;
                source.map_or(Ok(()), |source| write!(f, " from {source}"))
            }
            Target::Unreachable => write!(f, "unreachable {}", self.cidr),
        }
    }
}

impl Route {
    pub(super) fn message(&self) -> RouteMessage {
        let address = self.cidr.network();
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = self.cidr.prefix();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = PROTOCOL;
        message.header.kind = RouteType::Unicast;
        if self.cidr.prefix() > 0 {
            message
                .attributes
                .push(RouteAttribute::Destination(RouteAddress::from(address)));
        }
        match self.target {
            Target::Link { ifindex } => {
                message.header.scope = RouteScope::Link;
                message.attributes.push(RouteAttribute::Oif(ifindex));
            }
            Target::Via {
                ifindex,
                gateway,
                source,
            } => {
                message.header.scope = RouteScope::Universe;
                message.attributes.push(RouteAttribute::Oif(ifindex));
                message.attributes.push(match gateway {
                    // An IPv4 prefix behind a node that has an IPv6 address only.
                    IpAddr::V6(gateway) if self.cidr.is_ipv4() => {
                        RouteAttribute::Via(RouteVia::Inet6(gateway))
                    }
                    gateway => RouteAttribute::Gateway(RouteAddress::from(gateway)),
                });
                if let Some(source) = source {
                    message
                        .attributes
                        .push(RouteAttribute::PrefSource(source.into()));
                }
            }
            Target::Unreachable => {
                message.header.scope = RouteScope::Universe;
                message.header.kind = RouteType::Unreachable;
            }
        }
        message
    }

    pub(super) fn add(&self) -> RouteRequest {
        self.request(NLM_F_CREATE | NLM_F_EXCL, "add route")
    }

    /// With a metric, so that several interfaces can have a route for the same prefix.
    pub(super) fn add_beside(&self, metric: u32) -> RouteRequest {
        let mut request = self.add();
        if let RouteNetlinkMessage::NewRoute(message) = &mut request.message {
            message.attributes.push(RouteAttribute::Priority(metric));
        }
        request
    }

    /// In a table other than the main one.
    pub(super) fn add_in(&self, table: u32) -> RouteRequest {
        let mut request = self.add();
        if let RouteNetlinkMessage::NewRoute(message) = &mut request.message {
            // The attribute counts where the header's eight bits are too few.
            message.header.table = RouteHeader::RT_TABLE_UNSPEC;
            message.attributes.push(RouteAttribute::Table(table));
        }
        request
    }

    pub(super) fn replace(&self) -> RouteRequest {
        self.request(NLM_F_CREATE | NLM_F_REPLACE, "replace route")
    }

    fn request(&self, flags: u16, verb: &str) -> RouteRequest {
        Request {
            message: RouteNetlinkMessage::NewRoute(self.message()),
            flags,
            action: format!("{verb} {self}"),
        }
    }
}
