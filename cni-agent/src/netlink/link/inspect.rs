//! Compares what the kernel has with what the plan says, for CHECK and for adoption at start.

use super::{LOOPBACK, LinkPlan, Seen, create::pod_routes, further, remove::find, up::host_routes};
use crate::{
    model::Mac,
    netlink::{
        NetlinkError,
        message::{Route, family, get_link_at, single},
        netns::{self, OwnThread},
        socket::RouteSocket,
        table::{self, RouteFilter, SeenAddress, SeenNeighbour, SeenRoute},
    },
};
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::RouteNetlinkMessage;
use std::{
    fmt,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
};

/// Something that is not as the plan says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What is looked at, as in "route 10.1.0.5/32 of fl0123456789ab on the node".
    pub object: String,
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: expected {}, found {}",
            self.object, self.expected, self.found
        )
    }
}

/// All differences between the kernel and `plan`, the node's side first, always in the same order.
/// What others added (routes, addresses) is no difference.
///
/// # Errors
/// When the kernel cannot be asked; a missing link is a difference, not an error.
pub async fn inspect(
    plan: &LinkPlan,
    netns: BorrowedFd<'_>,
) -> Result<Vec<Difference>, NetlinkError> {
    plan.check()?;
    netns::check_pod(netns)?;
    let netns = netns::duplicate(netns)?;
    let plan = plan.clone();
    netns::on_own_thread("fl-inspect", move |thread| {
        compare(&plan, netns.as_fd(), thread)
    })
    .await
}

fn compare(
    plan: &LinkPlan,
    netns: BorrowedFd<'_>,
    thread: &OwnThread,
) -> Result<Vec<Difference>, NetlinkError> {
    let mut report = Report {
        side: "on the node",
        differences: Vec::new(),
    };
    let mut host = RouteSocket::route()?;
    let host_end = find(&mut host, &plan.host_ifname)?;
    match &host_end {
        None => report.missing(&format!("link {}", plan.host_ifname)),
        Some(link) => {
            report.value(&plan.host_ifname, "alias", &plan.alias, &link.alias);
            report.link(&plan.host_ifname, plan.host_mac, plan.mtu, link);
            let side = Side::read(&mut host, plan, link.ifindex)?;
            for route in host_routes(plan, link.ifindex) {
                report.route(&plan.host_ifname, &route, &side.routes);
            }
            for address in plan.addresses.iter() {
                report.neighbour(&plan.host_ifname, address, plan.mac, &side.neighbours);
            }
        }
    }

    thread.enter(netns)?;
    report.side = "in the sandbox";
    let mut pod = RouteSocket::route()?;
    let loopback = match pod.one(get_link_at(LOOPBACK))?.into_iter().next() {
        Some(RouteNetlinkMessage::NewLink(link)) => Seen::from(link),
        _ => Seen::default(),
    };
    report.value("lo", "state", up(true), up(loopback.up));
    match find(&mut pod, &plan.ifname)? {
        None => report.missing(&format!("link {}", plan.ifname)),
        Some(link) => {
            if let Some(host_end) = &host_end {
                let is_pair = link.peer_ifindex == Some(host_end.ifindex)
                    && host_end.peer_ifindex == Some(link.ifindex);
                let found = if is_pair {
                    plan.host_ifname.as_str()
                } else {
                    "another link"
                };
                report.value(&plan.ifname, "other end", &plan.host_ifname, found);
            }
            report.link(&plan.ifname, plan.mac, plan.mtu, &link);
            let side = Side::read(&mut pod, plan, link.ifindex)?;
            let addresses = table::addresses(&mut pod, Some(link.ifindex))?;
            for address in plan.addresses.iter() {
                report.address(&plan.ifname, single(address), &addresses);
            }
            if plan.addresses.v6.is_some() {
                report.address(&plan.ifname, plan.link_local(), &addresses);
            }
            for gateway in plan.gateways() {
                for route in pod_routes(gateway, link.ifindex) {
                    report.route(&plan.ifname, &route, &side.routes);
                }
                report.neighbour(&plan.ifname, gateway, plan.host_mac, &side.neighbours);
            }
            for (object, expected) in further::missing(&mut pod, plan, link.ifindex)? {
                report.add(format!("{object} {}", report.side), expected, "none");
            }
        }
    }
    Ok(report.differences)
}

fn up(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

/// What both sides have.
struct Side {
    routes: Vec<SeenRoute>,
    neighbours: Vec<SeenNeighbour>,
}

impl Side {
    fn read(socket: &mut RouteSocket, plan: &LinkPlan, ifindex: u32) -> Result<Side, NetlinkError> {
        let mut routes = Vec::new();
        for address in plan.addresses.iter() {
            let filter = RouteFilter {
                ifindex: Some(ifindex),
                table: None,
            };
            routes.extend(table::routes(socket, family(address), filter)?);
        }
        Ok(Side {
            routes,
            neighbours: table::neighbours(socket, Some(ifindex))?,
        })
    }
}

struct Report {
    side: &'static str,
    differences: Vec<Difference>,
}

impl Report {
    fn add(&mut self, object: String, expected: impl ToString, found: impl ToString) {
        let (expected, found) = (expected.to_string(), found.to_string());
        self.differences.push(Difference {
            object,
            expected,
            found,
        });
    }

    fn missing(&mut self, object: &str) {
        self.add(format!("{object} {}", self.side), "present", "none");
    }

    fn value(&mut self, ifname: &str, what: &str, expected: &str, found: &str) {
        if expected != found {
            self.add(format!("{what} of {ifname} {}", self.side), expected, found);
        }
    }

    fn link(&mut self, ifname: &str, mac: Mac, mtu: u32, link: &Seen) {
        let found = match <[u8; 6]>::try_from(link.mac.as_slice()) {
            Ok(found) => Mac(found).to_string(),
            Err(_) => "none".to_owned(),
        };
        self.value(ifname, "MAC", &mac.to_string(), &found);
        self.value(ifname, "MTU", &mtu.to_string(), &link.mtu.to_string());
        self.value(ifname, "state", up(true), up(link.up));
        if link.up {
            let carrier = |there| if there { "there" } else { "missing" };
            self.value(
                ifname,
                "carrier",
                carrier(true),
                carrier(link.is_operational()),
            );
        }
    }

    fn address(&mut self, ifname: &str, prefix: IpNetwork, seen: &[SeenAddress]) {
        if seen.iter().any(|address| address.prefix == prefix) {
            return;
        }
        let same = seen
            .iter()
            .find(|address| address.prefix.ip() == prefix.ip());
        let found = same.map_or("none".to_owned(), |address| address.prefix.to_string());
        self.add(
            format!("address {} of {ifname} {}", prefix.ip(), self.side),
            prefix,
            found,
        );
    }

    fn route(&mut self, ifname: &str, route: &Route, seen: &[SeenRoute]) {
        if seen.iter().any(|found| found.is(route)) {
            return;
        }
        let same = seen.iter().find(|found| found.cidr == route.cidr);
        let found = same.map_or("none".to_owned(), ToString::to_string);
        let object = format!("route {} of {ifname} {}", route.cidr, self.side);
        self.add(
            object,
            format!("{route} proto {}", crate::netlink::ROUTE_PROTOCOL),
            found,
        );
    }

    fn neighbour(&mut self, ifname: &str, address: IpAddr, mac: Mac, seen: &[SeenNeighbour]) {
        let found = seen.iter().find(|neighbour| neighbour.address == address);
        if found.is_some_and(|neighbour| neighbour.mac == Some(mac) && neighbour.permanent) {
            return;
        }
        let found = found.map_or("none".to_owned(), ToString::to_string);
        let object = format!("neighbour {address} of {ifname} {}", self.side);
        self.add(object, format!("{mac} permanent"), found);
    }
}
