//! Makes both links with all that belongs to them, the host's end down.
//!
//! Three `send`s: the pair (answered with both numbers), settings and neighbours of the host's end, and
//! everything of the sandbox. The kernel takes neighbours on a device that is down and, on a device
//! that is up without carrier, addresses and routes too; so the sandbox's end is set up at once (no
//! carrier: its peer is down) and gets all it needs, while the host's routes wait for `up`.

use super::{
    Ipv6Settings, LOOPBACK, LinkIds, LinkPlan, NO_GROUP, Seen, UNFINISHED_GROUP, everywhere,
    further,
    remove::{find, gone_is_fine, reap_now},
};
use crate::netlink::{
    NetlinkError,
    message::{
        Route, RouteRequest, Target, add_address, delete_link, get_link_at, set_link,
        set_neighbour, single,
    },
    socket::{Request, RouteSocket},
};
use rtnetlink::{
    packet_core::{DefaultNla, NLA_F_NESTED, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        address::AddressScope,
        link::{
            AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth,
            LinkAttribute, LinkInfo, LinkMessage,
        },
    },
};
use std::{
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

/// The pair with its peer in `netns`, and what the host's end said of IPv6 at its birth.
pub(super) fn pair(
    host: &mut RouteSocket,
    plan: &LinkPlan,
    netns: BorrowedFd<'_>,
) -> Result<(LinkIds, Option<Ipv6Settings>), NetlinkError> {
    match make_pair(host, plan, netns) {
        Err(error) if error.errno() == Some(libc::EEXIST) => {
            make_room(host, plan)?;
            make_pair(host, plan, netns).map_err(|error| match error.errno() {
                Some(libc::EEXIST) => NetlinkError::Exists {
                    ifname: plan.ifname.clone(),
                },
                _ => error,
            })
        }
        result => result,
    }
}

/// One of the two names is taken: finds out which, and ends a former link of this attachment that
/// only waits to be deleted.
fn make_room(host: &mut RouteSocket, plan: &LinkPlan) -> Result<(), NetlinkError> {
    match find(host, &plan.host_ifname)? {
        // The sandbox's name may be that of another attachment that only waits to be deleted.
        None if reap_now(host)? > 0 => Ok(()),
        None => Err(NetlinkError::Exists {
            ifname: plan.ifname.clone(),
        }),
        // An unfinished one is of an agent that was killed: operations on one attachment don't run at
        // the same time.
        Some(link)
            if link.is_dying() && link.alias == plan.alias
                || link.is_dying_unfinished()
                || link.is_unfinished() =>
        {
            let gone = host.one(delete_link(link.ifindex, &plan.host_ifname));
            gone_is_fine(gone).map(drop)
        }
        Some(link) => Err(NetlinkError::HostExists {
            host_ifname: plan.host_ifname.clone(),
            alias: link.alias,
        }),
    }
}

fn make_pair(
    host: &mut RouteSocket,
    plan: &LinkPlan,
    netns: BorrowedFd<'_>,
) -> Result<(LinkIds, Option<Ipv6Settings>), NetlinkError> {
    let replies = host.one(new_pair(plan, netns))?;
    let made = replies.into_iter().find_map(|reply| match reply {
        RouteNetlinkMessage::NewLink(link) => {
            let seen = Seen::from(link);
            let pod_ifindex = seen.peer_ifindex?;
            Some((
                LinkIds {
                    host_ifindex: seen.ifindex,
                    pod_ifindex,
                },
                seen.ipv6,
            ))
        }
        _ => None,
    });
    made.ok_or_else(|| NetlinkError::Answer {
        object: format!("new link {}", plan.host_ifname),
        fault: "its numbers are missing (Linux 6.6 or newer needed)".into(),
    })
}

/// What a veth uses unless it is told otherwise. Left to itself the kernel makes one queue of each kind
/// for each processor, with all that /sys shows of it, and takes them down again at once.
const ONE_QUEUE: [LinkAttribute; 2] =
    [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];

fn new_pair(plan: &LinkPlan, netns: BorrowedFd<'_>) -> RouteRequest {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(plan.ifname.clone()),
        LinkAttribute::Address(plan.mac.0.to_vec()),
        LinkAttribute::Mtu(plan.mtu),
        LinkAttribute::NetNsFd(netns.as_raw_fd()),
    ];
    peer.attributes.extend(ONE_QUEUE);
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(plan.host_ifname.clone()),
        LinkAttribute::Address(plan.host_mac.0.to_vec()),
        LinkAttribute::Mtu(plan.mtu),
        // Ours from the first moment; the alias can only follow.
        LinkAttribute::Group(UNFINISHED_GROUP),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    message.attributes.extend(ONE_QUEUE);
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        // ECHO: the answer is the new link itself, which saves asking for the numbers.
        flags: NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO,
        action: format!(
            "make link {} with {} in the sandbox",
            plan.host_ifname, plan.ifname
        ),
    }
}

/// What the kernel takes only for an existing link. By its number, not by name in the same `send` as
/// its birth: were that refused, the name would be somebody else's link.
fn host_settings(plan: &LinkPlan, ifindex: u32) -> RouteRequest {
    let mut families = vec![AfSpecUnspec::Inet(vec![inet_settings(&[
        // Packets from the pod to the host's neighbours and back are routed.
        (libc_devconf::FORWARDING, 1),
        // The kernel takes the greater of "all" and this. 2 (loose) makes it independent of a
        // distribution's strict "all": the datapath checks sources by the pod, which is stronger,
        // and a strict check would drop replies of pods whose route is being replaced.
        (libc_devconf::RP_FILTER, 2),
        // The datapath answers ARP for the gateway; the host must not answer for anything.
        (libc_devconf::PROXY_ARP, 0),
        // A pod must not change the host's routes, nor is there another router to tell it of.
        (libc_devconf::ACCEPT_REDIRECTS, 0),
        (libc_devconf::SEND_REDIRECTS, 0),
    ])])];
    if plan.has_ipv6() {
        families.push(no_generated_addresses());
    }
    let attributes = vec![
        LinkAttribute::Group(NO_GROUP),
        LinkAttribute::IfAlias(plan.alias.clone()),
        LinkAttribute::AfSpecUnspec(families),
    ];
    set_link(
        ifindex,
        None,
        attributes,
        format!("set alias and settings of link {}", plan.host_ifname),
    )
}

/// Without addresses of its own making the link says nothing by itself.
fn no_generated_addresses() -> AfSpecUnspec {
    AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])
}

/// Numbers of settings in IFLA_INET_CONF (linux/ip.h), which `libc` does not have.
mod libc_devconf {
    pub(super) const FORWARDING: u16 = 1;
    pub(super) const PROXY_ARP: u16 = 3;
    pub(super) const ACCEPT_REDIRECTS: u16 = 4;
    pub(super) const SEND_REDIRECTS: u16 = 6;
    pub(super) const RP_FILTER: u16 = 8;
}

/// Settings of /proc/sys/net/ipv4/conf in the message itself. Raw, because the typed form leaves
/// out zeros.
fn inet_settings(settings: &[(u16, u32)]) -> AfSpecInet {
    const IFLA_INET_CONF: u16 = 1;
    let mut bytes = Vec::with_capacity(settings.len() * 8);
    for (setting, value) in settings {
        bytes.extend_from_slice(&8u16.to_ne_bytes());
        bytes.extend_from_slice(&setting.to_ne_bytes());
        bytes.extend_from_slice(&value.to_ne_bytes());
    }
    AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, bytes))
}

/// The host's end while it is down: alias, settings (also those that only /proc takes), neighbours.
pub(super) fn furnish_host(
    host: &mut RouteSocket,
    plan: &LinkPlan,
    ids: LinkIds,
    ipv6: Option<Ipv6Settings>,
) -> Result<(), NetlinkError> {
    if plan.addresses.v6.is_some() {
        // A node with IPv6 switched off by default still serves pods that have it.
        Ipv6Settings::adjust(ipv6, &plan.host_ifname)?;
    }
    let mut requests = vec![host_settings(plan, ids.host_ifindex)];
    let neighbour = |address| set_neighbour(ids.host_ifindex, address, plan.mac, &plan.host_ifname);
    requests.extend(plan.addresses.iter().map(neighbour));
    host.send(requests)?.complete().map(drop)
}

/// The sandbox's side, run inside it.
pub(super) fn furnish_pod(plan: &LinkPlan, ids: LinkIds) -> Result<(), NetlinkError> {
    let mut pod = RouteSocket::route()?;
    if plan.addresses.v6.is_some() {
        // Some runtimes switch IPv6 off in sandboxes, but this one gets an address.
        let replies = pod.one(get_link_at(ids.pod_ifindex))?;
        let ipv6 = replies.into_iter().find_map(|reply| match reply {
            RouteNetlinkMessage::NewLink(link) => Seen::from(link).ipv6,
            _ => None,
        });
        Ipv6Settings::adjust(ipv6, &plan.ifname)?;
    }
    let (ifname, ifindex) = (&plan.ifname, ids.pod_ifindex);
    let mut requests = vec![set_link(
        LOOPBACK,
        Some(true),
        Vec::new(),
        "set lo up in the sandbox".into(),
    )];
    if plan.has_ipv6() {
        let quiet = vec![LinkAttribute::AfSpecUnspec(vec![no_generated_addresses()])];
        requests.push(set_link(
            ifindex,
            None,
            quiet,
            format!("quieten {ifname} in the sandbox"),
        ));
    }
    requests.push(set_link(
        ifindex,
        Some(true),
        Vec::new(),
        format!("set {ifname} up in the sandbox"),
    ));
    for address in plan.addresses.iter() {
        if matches!(address, IpAddr::V6(_)) {
            requests.push(add_address(
                ifindex,
                plan.link_local(),
                AddressScope::Link,
                ifname,
            ));
        }
        requests.push(add_address(
            ifindex,
            single(address),
            AddressScope::Universe,
            ifname,
        ));
    }
    for gateway in plan.gateways() {
        requests.push(set_neighbour(ifindex, gateway, plan.host_mac, ifname));
        requests
            .extend(pod_routes(gateway, ifindex).map(|route| route.add_beside(METRIC + ifindex)));
    }
    // The first interface of an empty sandbox has this number; the question is saved there.
    if ifindex != LOOPBACK + 1 {
        for (address, gateway) in further::addresses(&mut pod, plan, ifindex)? {
            requests.extend(further::requests(address, gateway, ifindex, ifname));
        }
    }
    pod.send(requests)?.complete().map(drop)
}

/// Metric of a pod's routes, plus the interface's number: the first interface's routes are taken, and
/// a second one's (Multus) find room beside them. The base is IPv6's default.
pub(super) const METRIC: u32 = 1024;

/// The gateway is on the link, and everything is behind it.
pub(super) fn pod_routes(gateway: IpAddr, ifindex: u32) -> [Route; 2] {
    [
        Route {
            cidr: single(gateway),
            target: Target::Link { ifindex },
        },
        Route {
            cidr: everywhere(gateway),
            target: Target::Via {
                ifindex,
                gateway,
                source: None,
            },
        },
    ]
}
