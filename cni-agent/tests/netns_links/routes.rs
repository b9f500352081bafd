//! Routes to other nodes, the uplink, and the settings of a router.

use super::node::Netns;
use cni_agent::netlink::{
    NetlinkError,
    route::{NodeRoute, RouteChanges, sync_node_routes},
    sysctl,
    uplink::{Change, changes, find_uplink_named, find_uplinks},
    way::on_link,
};
use std::{net::IpAddr, time::Duration};

/// A node with an uplink to a switch-less neighbour; its addresses are 192.0.2.1 and 2001:db8::1.
fn node_with_uplink() -> (Netns, Netns) {
    let (node, other) = (Netns::new("node"), Netns::new("other"));
    let device = "ip link set lo up; ip link set up0 up mtu 1450;";
    node.sh(&format!(
        "ip link add up0 type veth peer name up0 netns {}; {device} \
         ip address add 192.0.2.1/24 dev up0; ip address add 2001:db8::1/64 dev up0 nodad",
        other.name()
    ));
    other.sh(&format!(
        "{device} ip address add 192.0.2.2/24 dev up0; ip address add 2001:db8::2/64 dev up0 nodad"
    ));
    (node, other)
}

async fn routes_by(uplink: u32, count: u16, next_hop: u8) -> Vec<NodeRoute> {
    let mut routes = Vec::new();
    for number in 0..count {
        let [high, low] = number.to_be_bytes();
        routes.push(NodeRoute {
            cidr: format!("10.{high}.{low}.0/24").parse().unwrap(),
            via: [192, 0, 2, next_hop].into(),
            ifindex: uplink,
            src: Some([192, 0, 2, 1].into()),
        });
        routes.push(NodeRoute {
            cidr: format!("fd00:{number:x}::/64").parse().unwrap(),
            via: format!("2001:db8::{next_hop}").parse().unwrap(),
            ifindex: uplink,
            src: Some("2001:db8::1".parse().unwrap()),
        });
    }
    routes
}

async fn uplink_number() -> u32 {
    find_uplink_named("up0").await.unwrap().ifindex
}

#[test]
#[ignore = "needs root"]
fn routes_follow_the_desired_state_and_nothing_else_moves() {
    let (node, _other) = node_with_uplink();
    node.sh(
        "ip route add 198.51.100.0/24 via 192.0.2.9; ip link add fl0 type veth peer name x0; \
             ip link set fl0 up; ip link set x0 up; ip route add 10.200.0.5/32 dev fl0 scope link proto 157",
    );
    let own = [
        "10.200.0.0/24".parse().unwrap(),
        "fd00:200::/64".parse().unwrap(),
    ];
    node.run(async || {
        let uplink = uplink_number().await;
        let three = routes_by(uplink, 3, 2).await;
        let changes = sync_node_routes(&three, &own).await.unwrap();
        assert_eq!(
            changes,
            RouteChanges {
                added: 8,
                replaced: 0,
                removed: 0
            }
        );
        let table = node.sh("ip route; ip -6 route");
        for expected in [
            "10.0.1.0/24 via 192.0.2.2 dev up0 proto 157 src 192.0.2.1",
            "unreachable 10.200.0.0/24 proto 157",
            "fd00:1::/64 via 2001:db8::2 dev up0 proto 157 src 2001:db8::1",
            "unreachable fd00:200::/64 dev lo proto 157",
            "198.51.100.0/24 via 192.0.2.9",
            "10.200.0.5 dev fl0 proto 157 scope link",
        ] {
            assert!(table.contains(expected), "{expected} in {table}");
        }
        assert_eq!(
            sync_node_routes(&three, &own).await.unwrap(),
            RouteChanges::default()
        );

        // A node moved, another left.
        let mut two = routes_by(uplink, 2, 2).await;
        two[0].via = [192, 0, 2, 3].into();
        two[1].via = "2001:db8::3".parse().unwrap();
        let changes = sync_node_routes(&two, &own).await.unwrap();
        assert_eq!(
            changes,
            RouteChanges {
                added: 0,
                replaced: 2,
                removed: 2
            }
        );
        assert_eq!(
            sync_node_routes(&two, &own).await.unwrap(),
            RouteChanges::default()
        );

        // The own podCIDR and another node's change places.
        let swapped = [
            NodeRoute {
                cidr: own[0],
                ..two[0]
            },
            NodeRoute {
                cidr: own[1],
                ..two[1]
            },
        ];
        let own_now = [two[0].cidr, two[1].cidr];
        let changes = sync_node_routes(&swapped, &own_now).await.unwrap();
        assert_eq!(
            (changes.added, changes.replaced, changes.removed),
            (0, 4, 2)
        );
        assert_eq!(
            sync_node_routes(&swapped, &own_now).await.unwrap(),
            RouteChanges::default()
        );

        assert_eq!(sync_node_routes(&[], &[]).await.unwrap().removed, 4);
        let left = node.sh("ip route show proto 157; ip -6 route show proto 157");
        assert_eq!(left.trim(), "10.200.0.5 dev fl0 scope link");
    });
    node.sh("ip route get 198.51.100.1 | grep 192.0.2.9");
}

#[test]
#[ignore = "needs root"]
fn ipv4_pods_behind_a_node_with_ipv6_only_are_reached() {
    let (node, other) = node_with_uplink();
    other.sh("ip address add 10.7.0.1/32 dev lo; ip route add 192.0.2.1/32 dev up0");
    node.run(async || {
        let route = NodeRoute {
            cidr: "10.7.0.0/24".parse().unwrap(),
            via: "2001:db8::2".parse().unwrap(),
            ifindex: uplink_number().await,
            src: None,
        };
        assert_eq!(sync_node_routes(&[route], &[]).await.unwrap().added, 1);
        assert_eq!(
            sync_node_routes(&[route], &[]).await.unwrap(),
            RouteChanges::default()
        );
    });
    // The first packets wait until the uplink's link-local address has passed duplicate detection.
    node.sh("ping -c 12 -i 0.25 -W 2 10.7.0.1");
}

#[test]
#[ignore = "needs root"]
fn conflicts_and_refusals_are_named_and_the_rest_applied() {
    let (node, _other) = node_with_uplink();
    node.sh("ip route add 10.0.1.0/24 via 192.0.2.9 proto static metric 50");
    node.run(async || {
        let uplink = uplink_number().await;
        let mut routes = routes_by(uplink, 3, 2).await;
        routes[4].via = [203, 0, 113, 1].into();
        let error = sync_node_routes(&routes, &[]).await.unwrap_err();
        let text = error.to_string();
        let NetlinkError::Routes { conflicts, refused } = error else {
            panic!("{text}")
        };
        assert_eq!(conflicts.len(), 1);
        assert_eq!(conflicts[0].cidr.to_string(), "10.0.1.0/24");
        assert_eq!(refused.len(), 1);
        assert!(
            refused[0].action.contains("10.0.2.0/24 via 203.0.113.1"),
            "{text}"
        );
        assert!(refused[0].reason.is_some(), "{text}");
        let ours = node.sh("ip route show proto 157; ip -6 route show proto 157");
        assert_eq!(ours.lines().count(), 4, "{ours}");
        let foreign = node.sh("ip route show 10.0.1.0/24");
        assert!(
            foreign.contains("192.0.2.9") && foreign.lines().count() == 1,
            "{foreign}"
        );
    });
}

#[test]
#[ignore = "needs root"]
fn the_routes_of_a_thousand_nodes_are_written_once() {
    let (node, _other) = node_with_uplink();
    node.run(async || {
        let uplink = uplink_number().await;
        let routes = routes_by(uplink, 1000, 2).await;
        let moved = routes_by(uplink, 1000, 3).await;
        for (what, desired, work) in [
            ("add", &routes[..], 2000),
            ("look", &routes, 0),
            ("replace", &moved, 2000),
            ("remove", &[], 2000),
        ] {
            let done = sync_node_routes(desired, &[]).await.unwrap();
            assert_eq!(done.added + done.replaced + done.removed, work, "{what}");
        }
    });
}

#[test]
#[ignore = "needs root"]
fn the_uplink_is_found_by_the_nodes_addresses() {
    let (node, _other) = node_with_uplink();
    node.run(async || {
        let addresses = ["2001:db8::1".parse().unwrap(), [192, 0, 2, 1].into()];
        let found = find_uplinks(&addresses).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), found[0].mtu, found[0].up),
            ("up0", 1450, true)
        );
        assert!(
            found[0]
                .addresses
                .contains(&"192.0.2.1/24".parse().unwrap())
        );
        assert!(found[0].mac.is_some());
        assert_eq!(find_uplink_named("up0").await.unwrap(), found[0]);
        let error = find_uplinks(&[[192, 0, 2, 77].into()]).await.unwrap_err();
        assert!(error.to_string().contains("192.0.2.77"), "{error}");
        assert!(matches!(
            find_uplink_named("none").await,
            Err(NetlinkError::NoLink { .. })
        ));
    });
}

#[test]
#[ignore = "needs root"]
fn changes_of_the_uplink_are_told_and_our_own_are_not() {
    let (node, _other) = node_with_uplink();
    node.run(async || {
        let mut news = changes().unwrap();
        let ifindex = uplink_number().await;
        let mut expect = async |command: &str, wanted: Change| {
            node.sh(command);
            let search = async { while !news.next().await.unwrap().contains(&wanted) {} };
            let found = tokio::time::timeout(Duration::from_secs(5), search).await;
            assert!(found.is_ok(), "{command}: {wanted:?}");
        };
        expect(
            "ip link set up0 mtu 1400",
            Change::Link {
                ifindex,
                name: "up0".into(),
            },
        )
        .await;
        let address = Some("192.0.2.8/24".parse().unwrap());
        expect(
            "ip address add 192.0.2.8/24 dev up0",
            Change::Address { ifindex, address },
        )
        .await;
        let cidr = "0.0.0.0/0".parse().unwrap();
        expect("ip route add default via 192.0.2.2", Change::Route { cidr }).await;

        // What we do ourselves is no news; a foreign change afterwards is the first to be told.
        let mut news = changes().unwrap();
        sync_node_routes(&routes_by(ifindex, 3, 2).await, &[])
            .await
            .unwrap();
        node.sh("ip link add fl0123456789ab type veth peer name fl0123456789cd");
        node.sh("ip link set up0 mtu 1300");
        let first = news.next().await.unwrap();
        assert_eq!(
            first,
            [Change::Link {
                ifindex,
                name: "up0".into()
            }]
        );
    });
}

#[test]
#[ignore = "needs root"]
fn a_node_becomes_a_router_and_keeps_its_own_default_route() {
    let (node, other) = node_with_uplink();
    // The default route of a further interface is not the uplink's affair, but lost all the same.
    for ifname in ["side0", "quiet0", "fl0123456789ab"] {
        node.sh(&format!(
            "ip link add {ifname} type veth peer name {ifname} netns {}",
            other.name()
        ));
    }
    for (key, value) in [
        ("ipv4/ip_forward", 0),
        ("ipv6/conf/all/forwarding", 0),
        ("ipv6/conf/up0/accept_ra", 1),
        ("ipv6/conf/side0/accept_ra", 1),
        ("ipv6/conf/quiet0/accept_ra", 0),
        ("ipv6/conf/fl0123456789ab/accept_ra", 1),
    ] {
        node.set(key, value);
    }
    node.sh("ip -6 route add default via 2001:db8::fe dev up0 proto ra metric 100 expires 900");
    node.run(async || {
        let uplinks = ["up0".to_owned()];
        let done = sysctl::prepare_host(&uplinks).unwrap();
        let changes: Vec<_> = done
            .iter()
            .map(|change| {
                (
                    change.name.as_str(),
                    change.from.as_str(),
                    change.to.as_str(),
                )
            })
            .collect();
        // Before forwarding: the kernel forgets advertised default routes at that moment.
        assert_eq!(
            changes,
            [
                ("net/ipv4/ip_forward", "0", "1"),
                ("net/ipv6/conf/up0/accept_ra", "1", "2"),
                ("net/ipv6/conf/side0/accept_ra", "1", "2"),
                ("net/ipv6/conf/all/forwarding", "0", "1"),
            ]
        );
        assert_eq!(sysctl::prepare_host(&uplinks).unwrap(), []);
        assert!(sysctl::prepare_host(&["none".to_owned()]).is_err());
        // A router already: what it listens to is its own affair.
        for ifname in ["up0", "side0"] {
            node.set(&format!("ipv6/conf/{ifname}/accept_ra"), 1);
        }
        assert_eq!(sysctl::prepare_host(&uplinks).unwrap(), []);
    });
    let forwarding =
        "cat /proc/sys/net/ipv4/conf/up0/forwarding /proc/sys/net/ipv6/conf/up0/forwarding";
    assert_eq!(node.sh(forwarding), "1\n1\n");
}

#[test]
#[ignore = "needs root"]
fn neighbours_are_told_from_what_lies_behind_a_router() {
    let (node, _far) = node_with_uplink();
    let uplink = node.run(async || uplink_number().await);
    node.sh(
        "ip route add default via 192.0.2.254; ip route add unreachable 203.0.113.0/24; \
             ip route add 198.51.100.7 dev up0; ip -6 route add default via 2001:db8::ff",
    );
    let addresses = [
        "192.0.2.2",    // in the interface's prefix
        "198.51.100.7", // by a route of its own, as a cloud has it
        "198.51.100.8", // behind the gateway
        "203.0.113.1",  // nowhere
        "2001:db8::7",  // in the prefix
        "2001:db9::7",  // behind the gateway
    ]
    .map(|text| text.parse::<IpAddr>().unwrap());
    let found = node.run(async || on_link(addresses.to_vec()).await.unwrap());
    let expected: Vec<_> = [0, 1, 4].map(|place| (addresses[place], uplink)).to_vec();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
}
