//! A further interface of a sandbox, as Multus adds them. The first one's default route comes first in
//! the main table, so that answers to what arrived at a further one would leave by the first, where the
//! datapath takes their source for forged. A rule sends them back the way they came, by a table of the
//! interface's own. A sandbox with one interface has no rule: rules make each of its route look-ups dearer.

use super::{LinkPlan, create::METRIC, create::pod_routes};
use crate::netlink::{
    NetlinkError,
    message::{Route, RouteRequest, add_source_rule, family},
    socket::RouteSocket,
    table::{self, RouteFilter, SeenRoute},
};
use std::net::IpAddr;

/// Number of the interface's own table. Interface numbers are never used again in a namespace, so
/// neither is the table of an interface that has gone.
fn table(ifindex: u32) -> u32 {
    METRIC + ifindex
}

/// Addresses of the plan whose family had a default route by an earlier interface, each with its gateway.
pub(super) fn addresses(
    pod: &mut RouteSocket,
    plan: &LinkPlan,
    ifindex: u32,
) -> Result<Vec<(IpAddr, IpAddr)>, NetlinkError> {
    let mut further = Vec::new();
    for (address, gateway) in plan.addresses.iter().zip(plan.gateways()) {
        let routes = table::routes(pod, family(address), RouteFilter::default())?;
        let is_earlier = |route: &SeenRoute| {
            route.cidr.prefix() == 0
                && route.metric < METRIC + ifindex
                && route.ifindex.is_some_and(|other| other < ifindex)
        };
        if routes.iter().any(is_earlier) {
            further.push((address, gateway));
        }
    }
    Ok(further)
}

/// What sends everything from `address` back by this interface.
pub(super) fn requests(
    address: IpAddr,
    gateway: IpAddr,
    ifindex: u32,
    ifname: &str,
) -> Vec<RouteRequest> {
    let table = table(ifindex);
    let routes = pod_routes(gateway, ifindex).map(|route| route.add_in(table));
    // The rule last: no look-up meets an empty table.
    let rule = add_source_rule(address, table, ifname);
    routes.into_iter().chain([rule]).collect()
}

/// What is missing of it, as pairs of object and expectation.
pub(super) fn missing(
    pod: &mut RouteSocket,
    plan: &LinkPlan,
    ifindex: u32,
) -> Result<Vec<(String, String)>, NetlinkError> {
    let own = table(ifindex);
    let mut missing = Vec::new();
    for (address, gateway) in addresses(pod, plan, ifindex)? {
        let filter = RouteFilter {
            ifindex: Some(ifindex),
            table: Some(own),
        };
        let there = table::routes(pod, family(address), filter)?;
        let is_there = |route: &Route| there.iter().any(|seen| seen.is(route));
        for route in pod_routes(gateway, ifindex) {
            if !is_there(&route) {
                let object = format!("route {} in table {own}", route.cidr);
                missing.push((object, route.to_string()));
            }
        }
        if !table::source_rules(pod, family(address))?.contains(&(address, own)) {
            let object = format!("rule from {address} of {}", plan.ifname);
            missing.push((object, format!("look up table {own}")));
        }
    }
    Ok(missing)
}
