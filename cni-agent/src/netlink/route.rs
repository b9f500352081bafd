//! The node's routes to the pods of other nodes, and the refusal of addresses that no pod here has.
//! The datapath carries most packets past these; they serve the host's own traffic, what the datapath
//! hands to the kernel, and the errors (unreachable, too big) that the kernel answers with.

use super::{
    NetlinkError, Refusal, RouteConflict, blocking,
    message::{Route, RouteRequest, Target},
    socket::{Request, RouteSocket},
    table::{self, RouteFilter, SeenRoute},
};
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::{collections::BTreeMap, net::IpAddr};

/// The way to the pods of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRoute {
    /// The node's podCIDR.
    pub cidr: IpNetwork,
    /// The next hop: the node's address. IPv4 prefixes may go by an IPv6 address.
    pub via: IpAddr,
    /// Number of the uplink.
    pub ifindex: u32,
    /// Source address of what this node itself sends there.
    pub src: Option<IpAddr>,
}

/// What a synchronisation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteChanges {
    pub added: usize,
    pub replaced: usize,
    pub removed: usize,
}

/// Makes the main table hold exactly these routes of ours. Additions and replacements (each in one
/// step, without a gap) come before removals. Routes of others and those to local pods (ours too,
/// but without next hop) are not touched. Running it twice changes nothing.
///
/// # Errors
/// `Routes` when a prefix is routed by somebody else or the kernel refused a request; all other
/// routes are in place then.
pub async fn sync_node_routes(
    desired: &[NodeRoute],
    unreachable: &[IpNetwork],
) -> Result<RouteChanges, NetlinkError> {
    let wanted = wanted(desired, unreachable);
    blocking("routes", move || sync(&mut RouteSocket::route()?, &wanted)).await
}

/// How many routes of ours the main table has, those to local pods included.
///
/// # Errors
/// `Refused` or `Socket` when the kernel does not answer.
pub async fn count_own() -> Result<usize, NetlinkError> {
    blocking("routes", || {
        let mut socket = RouteSocket::route()?;
        let mut count = 0;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let routes = table::routes(&mut socket, family, RouteFilter::default())?;
            count += routes.iter().filter(|route| route.ours).count();
        }
        Ok(count)
    })
    .await
}

/// One route for each prefix; the first one given counts.
fn wanted(desired: &[NodeRoute], unreachable: &[IpNetwork]) -> BTreeMap<IpNetwork, Route> {
    let mut wanted = BTreeMap::new();
    let nowhere = unreachable.iter().map(|cidr| (*cidr, Target::Unreachable));
    let nodes = desired.iter().map(|node| {
        let target = Target::Via {
            ifindex: node.ifindex,
            gateway: node.via,
            source: node.src,
        };
        (node.cidr, target)
    });
    for (cidr, target) in nowhere.chain(nodes) {
        // Without host bits, as the kernel keeps prefixes.
        let cidr = IpNetwork::new(cidr.network(), cidr.prefix()).unwrap_or(cidr);
        wanted.entry(cidr).or_insert(Route { cidr, target });
    }
    wanted
}

fn sync(
    socket: &mut RouteSocket,
    wanted: &BTreeMap<IpNetwork, Route>,
) -> Result<RouteChanges, NetlinkError> {
    let mut actual = table::routes(socket, AddressFamily::Inet, RouteFilter::default())?;
    actual.extend(table::routes(
        socket,
        AddressFamily::Inet6,
        RouteFilter::default(),
    )?);
    let plan = diff(wanted, &actual);

    let adding = plan.additions.len();
    let replacing = plan.replacements.len();
    let mut requests: Vec<RouteRequest> = plan.additions.iter().map(Route::add).collect();
    requests.extend(plan.replacements.iter().map(Route::replace));
    requests.extend(plan.removals.iter().map(remove));
    let mut changes = RouteChanges {
        added: adding,
        replaced: replacing,
        removed: plan.removals.len(),
    };
    let mut refused = plan.impossible;
    for (place, refusal) in socket.send(requests)?.refusals {
        let removal = place >= adding + replacing;
        match place {
            place if place < adding => changes.added -= 1,
            place if place < adding + replacing => changes.replaced -= 1,
            _ => changes.removed -= 1,
        }
        // Routes vanish by themselves with their uplink.
        if !(removal && matches!(refusal.errno, libc::ESRCH | libc::ENODEV)) {
            refused.push(refusal);
        }
    }
    if refused.is_empty() && plan.conflicts.is_empty() {
        Ok(changes)
    } else {
        Err(NetlinkError::Routes {
            conflicts: plan.conflicts,
            refused,
        })
    }
}

fn remove(route: &Route) -> RouteRequest {
    Request {
        message: RouteNetlinkMessage::DelRoute(route.message()),
        flags: 0,
        action: format!("remove route {route}"),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    additions: Vec<Route>,
    replacements: Vec<Route>,
    removals: Vec<Route>,
    conflicts: Vec<RouteConflict>,
    impossible: Vec<Refusal>,
}

fn diff(wanted: &BTreeMap<IpNetwork, Route>, actual: &[SeenRoute]) -> Plan {
    let mut plan = Plan::default();
    let mut ours: BTreeMap<IpNetwork, Vec<Route>> = BTreeMap::new();
    let mut others: BTreeMap<IpNetwork, &SeenRoute> = BTreeMap::new();
    for seen in actual {
        match seen.as_route() {
            Some(route) if seen.ours => ours.entry(seen.cidr).or_default().push(route),
            _ => {
                others.entry(seen.cidr).or_insert(seen);
            }
        }
    }
    for (cidr, route) in wanted {
        if let Some(found) = others.get(cidr) {
            let found = found.to_string();
            plan.conflicts.push(RouteConflict { cidr: *cidr, found });
        } else if let Target::Via {
            gateway: IpAddr::V4(gateway),
            ..
        } = route.target
            && cidr.is_ipv6()
        {
            plan.impossible.push(Refusal {
                action: format!("add route {cidr} via {gateway}"),
                errno: libc::EAFNOSUPPORT,
                reason: Some("IPv6 needs an IPv6 next hop; give that node an IPv6 address".into()),
            });
        } else {
            match ours.get(cidr).map_or(&[][..], Vec::as_slice) {
                [] => plan.additions.push(*route),
                held if held.contains(route) => {}
                _ => plan.replacements.push(*route),
            }
        }
    }
    for (cidr, held) in &ours {
        let keep = wanted.get(cidr);
        // A replacement takes the place of the first of several routes for a prefix.
        let replaced = keep.is_some_and(|route| plan.replacements.contains(route));
        let stale = held
            .iter()
            .filter(|route| !matches!(route.target, Target::Link { .. }) && Some(*route) != keep)
            .skip(usize::from(replaced));
        plan.removals.extend(stale);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::{RouteProtocol, RouteType};

    fn seen(cidr: &str, protocol: u8, gateway: Option<&str>) -> SeenRoute {
        SeenRoute {
            cidr: cidr.parse().unwrap(),
            ours: protocol == 157,
            kind: RouteType::Unicast,
            protocol: RouteProtocol::from(protocol),
            ifindex: Some(7),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            source: None,
            metric: 0,
        }
    }

    fn node(cidr: &str, via: &str) -> NodeRoute {
        NodeRoute {
            cidr: cidr.parse().unwrap(),
            via: via.parse().unwrap(),
            ifindex: 7,
            src: None,
        }
    }

    fn texts(routes: &[Route]) -> Vec<String> {
        routes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_differences_are_applied() {
        let actual = [
            seen("10.1.0.0/24", 157, Some("192.0.2.1")),
            seen("10.2.0.0/24", 157, Some("192.0.2.9")),
            seen("10.3.0.0/24", 157, Some("192.0.2.3")),
            seen("10.9.0.5/32", 157, None),
            seen("0.0.0.0/0", 3, Some("192.0.2.254")),
        ];
        let nodes = [
            node("10.1.0.0/24", "192.0.2.1"),
            node("10.2.0.0/24", "192.0.2.2"),
            node("fd00:4::/64", "2001:db8::4"),
        ];
        let plan = diff(&wanted(&nodes, &["10.9.0.0/24".parse().unwrap()]), &actual);
        assert_eq!(
            texts(&plan.additions),
            [
                "unreachable 10.9.0.0/24",
                "fd00:4::/64 via 2001:db8::4 on link number 7"
            ]
        );
        assert_eq!(
            texts(&plan.replacements),
            ["10.2.0.0/24 via 192.0.2.2 on link number 7"]
        );
        assert_eq!(
            texts(&plan.removals),
            ["10.3.0.0/24 via 192.0.2.3 on link number 7"]
        );
        assert!(plan.conflicts.is_empty() && plan.impossible.is_empty());
    }

    #[test]
    fn a_foreign_route_for_the_prefix_is_a_conflict() {
        let actual = [seen("10.1.0.0/24", 4, Some("192.0.2.7"))];
        let plan = diff(&wanted(&[node("10.1.0.0/24", "192.0.2.1")], &[]), &actual);
        assert_eq!(plan.conflicts.len(), 1);
        assert_eq!(
            plan.conflicts[0].to_string(),
            "10.1.0.0/24 (10.1.0.0/24 via 192.0.2.7 on link number 7 proto 4)"
        );
        assert!(plan.additions.is_empty() && plan.removals.is_empty());
    }

    #[test]
    fn ipv4_may_go_by_ipv6_but_not_the_other_way() {
        let nodes = [
            node("10.1.0.0/24", "2001:db8::1"),
            node("fd00:1::/64", "192.0.2.1"),
        ];
        let plan = diff(&wanted(&nodes, &[]), &[]);
        assert_eq!(plan.additions.len(), 1);
        assert_eq!(plan.impossible.len(), 1);
    }

    #[test]
    fn host_bits_do_not_make_another_prefix() {
        let plan = diff(
            &wanted(&[node("10.1.0.7/24", "192.0.2.1")], &[]),
            &[seen("10.1.0.0/24", 157, Some("192.0.2.1"))],
        );
        assert_eq!(plan, Plan::default());
    }
}
