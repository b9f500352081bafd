//! What others made: links, routes and firewall chains, read and (links, routes) removed one by one for
//! a node that changes its network. Which of them is whose is not decided here. All calls block.

use super::{
    NetlinkError,
    message::{delete_link, family, without_counters},
    socket::{Request, RouteSocket, Socket},
    table::{self, RouteFilter},
};
use ipnetwork::IpNetwork;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    nftables::{ChainMessage, NfTablesMessage},
};
use rtnetlink::{
    packet_core::NlasIterator,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{LinkAttribute, LinkFlags, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
    sys::protocols::NETLINK_NETFILTER,
};
use std::{collections::BTreeMap, net::IpAddr};

/// A link of any kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub ifindex: u32,
    pub up: bool,
    /// Its other end is in another namespace, which lives: a veth ends with the namespace of its peer.
    pub peer_lives: bool,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRoute {
    pub cidr: IpNetwork,
    pub protocol: u8,
    pub blackhole: bool,
    pub ifindex: Option<u32>,
    pub gateway: Option<IpAddr>,
    pub metric: u32,
}

/// All links, by number.
///
/// # Errors
/// When the kernel does not answer.
pub fn links() -> Result<BTreeMap<u32, Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![without_counters()];
    let request = Request {
        message: RouteNetlinkMessage::GetLink(message),
        flags: 0,
        action: "list the links".into(),
    };
    let replies = RouteSocket::route()?.dump(request)?;
    let links = replies.into_iter().filter_map(|reply| match reply {
        RouteNetlinkMessage::NewLink(link) => Some(seen(&link)),
        _ => None,
    });
    Ok(links.map(|link| (link.ifindex, link)).collect())
}

fn seen(message: &LinkMessage) -> Link {
    let mut link = Link {
        ifindex: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::LinkNetNsId(_) => link.peer_lives = true,
            _ => {}
        }
    }
    link
}

/// A chain of nftables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// As `nft` names it: `ip`, `ip6`, `inet`. Empty for others.
    pub family: &'static str,
    pub table: String,
    pub name: String,
}

/// Removes a link, if it still has this name: numbers are given again.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_link(ifindex: u32, name: &str) -> Result<(), NetlinkError> {
    if links()?.get(&ifindex).is_none_or(|link| link.name != name) {
        return Ok(());
    }
    RouteSocket::route()?
        .one(delete_link(ifindex, name))
        .map(drop)
}

/// Routes of the main table of both families that are not ours.
///
/// # Errors
/// When the kernel does not answer.
pub fn routes() -> Result<Vec<ForeignRoute>, NetlinkError> {
    let mut socket = RouteSocket::route()?;
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let routes = table::routes(&mut socket, family, RouteFilter::default())?;
        let others = routes.into_iter().filter(|route| !route.ours);
        found.extend(others.map(|route| ForeignRoute {
            cidr: route.cidr,
            protocol: route.protocol.into(),
            blackhole: route.kind == RouteType::BlackHole,
            ifindex: route.ifindex,
            gateway: route.gateway,
            metric: route.metric,
        }));
    }
    Ok(found)
}

/// Removes a route; one that went with its link is fine.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_route(route: &ForeignRoute) -> Result<(), NetlinkError> {
    let address = |ip| match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.cidr.ip());
    message.header.destination_prefix_length = route.cidr.prefix();
    message.header.protocol = RouteProtocol::from(route.protocol);
    // Any scope.
    message.header.scope = RouteScope::NoWhere;
    message.header.kind = if route.blackhole {
        RouteType::BlackHole
    } else {
        RouteType::Unicast
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(254));
    attributes.push(RouteAttribute::Destination(address(route.cidr.network())));
    attributes.push(RouteAttribute::Priority(route.metric));
    attributes.extend(route.ifindex.map(RouteAttribute::Oif));
    attributes.extend(route.gateway.map(|ip| RouteAttribute::Gateway(address(ip))));
    let request = Request {
        message: RouteNetlinkMessage::DelRoute(message),
        flags: 0,
        action: format!("remove route {}", route.cidr),
    };
    match RouteSocket::route()?.one(request) {
        Err(e) if matches!(e.errno(), Some(libc::ESRCH | libc::ENODEV)) => Ok(()),
        done => done.map(drop),
    }
}

/// Chains of nftables, which `iptables-nft` writes, too. Names are read by hand: others'
/// chains may be of kinds that the message crate can't read.
///
/// # Errors
/// When the kernel does not answer. One without nftables has none.
pub fn chains() -> Result<Vec<Chain>, NetlinkError> {
    let question = NfTablesMessage::GetChain(ChainMessage {
        attributes: Vec::new(),
    });
    let request = Request {
        message: NetfilterMessage::new(
            NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0),
            question,
        ),
        flags: 0,
        action: "list the chains of nftables".into(),
    };
    let mut socket = Socket::<NetfilterMessage>::open(NETLINK_NETFILTER)?;
    let found = socket.dump_with(request, |part, _| Ok(chain(part.payload())));
    match found {
        Err(e) if matches!(e.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => Ok(Vec::new()),
        found => Ok(found?.into_iter().flatten().collect()),
    }
}

fn chain(message: &[u8]) -> Option<Chain> {
    const NFGENMSG: usize = 4;
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    // nfgenmsg begins with it: NFPROTO_* of linux/netfilter.h.
    let family = match message.first()? {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => "",
    };
    let (mut table, mut name) = (None, None);
    for attribute in NlasIterator::new(message.get(NFGENMSG..)?) {
        let attribute = attribute.ok()?;
        let text = || {
            let text = String::from_utf8_lossy(attribute.value());
            text.trim_end_matches('\0').to_owned()
        };
        match attribute.kind() {
            TABLE => table = Some(text()),
            NAME => name = Some(text()),
            _ => {}
        }
    }
    Some(Chain {
        family,
        table: table?,
        name: name?,
    })
}
