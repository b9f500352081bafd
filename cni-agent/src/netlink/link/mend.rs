//! Puts the node's side of living endpoints back: routes and neighbours that somebody flushed, or that
//! the kernel dropped when a link was set down and up again.

use super::{LinkPlan, list::list_now, up::host_routes};
use crate::netlink::{
    NetlinkError, blocking,
    message::{RouteRequest, set_neighbour},
    socket::RouteSocket,
    table::{self, RouteFilter},
};
use rtnetlink::packet_route::AddressFamily;
use std::collections::{HashMap, HashSet};

/// Adds what is missing on the node's side of those endpoints whose link is up; what is there, whoever
/// made it, stays. Returns how many routes and neighbours were missing.
///
/// # Errors
/// When the kernel can't be asked, or the first request that it did not take.
pub async fn mend(plans: Vec<LinkPlan>) -> Result<usize, NetlinkError> {
    blocking("endpoints", move || mend_now(&plans)).await
}

fn mend_now(plans: &[LinkPlan]) -> Result<usize, NetlinkError> {
    let mut socket = RouteSocket::route()?;
    let links: HashMap<String, u32> = list_now(&mut socket)?
        .into_iter()
        .filter(|link| link.up && !link.dying)
        .map(|link| (link.name, link.ifindex))
        .collect();
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        routes.extend(table::routes(&mut socket, family, RouteFilter::default())?);
    }
    let routed: HashSet<_> = routes.iter().map(|route| route.cidr).collect();
    let neighbours: HashSet<_> = table::neighbours(&mut socket, None)?
        .into_iter()
        .filter(|neighbour| neighbour.permanent)
        .map(|neighbour| (neighbour.ifindex, neighbour.address, neighbour.mac))
        .collect();

    let mut missing: Vec<RouteRequest> = Vec::new();
    for plan in plans {
        let Some(&ifindex) = links.get(&plan.host_ifname) else {
            continue;
        };
        let absent = host_routes(plan, ifindex).filter(|route| !routed.contains(&route.cidr));
        missing.extend(absent.map(|route| route.add()));
        for address in plan.addresses.iter() {
            if !neighbours.contains(&(ifindex, address, Some(plan.mac))) {
                missing.push(set_neighbour(ifindex, address, plan.mac, &plan.host_ifname));
            }
        }
    }
    let count = missing.len();
    let refused = socket.send(missing)?.refusals;
    // A pod that ended meanwhile took its link along; a route that came meanwhile is as good.
    let gone = [libc::ENODEV, libc::ENETDOWN, libc::ENXIO, libc::EEXIST];
    match refused.into_iter().find(|(_, r)| !gone.contains(&r.errno)) {
        Some((_, refusal)) => Err(NetlinkError::Refused(refusal)),
        None => Ok(count),
    }
}
