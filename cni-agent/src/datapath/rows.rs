//! PURE: model values as rows of the maps, and the difference of two sets of rows.

use crate::model;
use cni_ebpf_common::{
    addr::{self, Addr},
    endpoint::{Endpoint, EndpointAddr, EndpointAddrKey, EndpointKey},
    node::{Node, NodeKey},
};
use ipnetwork::IpNetwork;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A podCIDR of the cluster and how to get there: one row of `nodes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRoute {
    /// The prefix; bits behind its length are ignored.
    pub cidr: IpNetwork,
    pub via: Via,
}

/// Where a podCIDR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Here: an address of it without an endpoint is nowhere.
    Local,
    /// At another node.
    Node {
        /// Its address; the neighbour to send to.
        next_hop: IpAddr,
        /// Index of the uplink.
        ifindex: u32,
        /// Bytes of IP that the uplink takes.
        mtu: u32,
    },
}

/// All rows of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRows {
    pub key: EndpointKey,
    pub row: Endpoint,
    pub addrs: Vec<(EndpointAddrKey, EndpointAddr)>,
}

/// The rows of an endpoint whose host-side interface has this index.
pub fn endpoint_rows(endpoint: &model::Endpoint, ifindex: u32) -> EndpointRows {
    let (mac, host_mac, id) = (endpoint.mac.0, endpoint.host_mac.0, endpoint.id);
    let none = [0; 16];
    EndpointRows {
        key: EndpointKey { ifindex },
        row: Endpoint {
            ipv4: endpoint.addresses.v4.map_or(none, |a| addr_of(a.into())),
            ipv6: endpoint.addresses.v6.map_or(none, |a| addr_of(a.into())),
            id,
            mac,
            host_mac,
        },
        addrs: endpoint
            .addresses
            .iter()
            .map(|ip| {
                let key = EndpointAddrKey { addr: addr_of(ip) };
                (
                    key,
                    EndpointAddr {
                        ifindex,
                        id,
                        mac,
                        host_mac,
                    },
                )
            })
            .collect(),
    }
}

/// The row of a podCIDR.
pub(super) fn node_row(route: &NodeRoute) -> (NodeKey, Node) {
    let (bits, net) = match route.cidr {
        IpNetwork::V4(n) => (
            addr::V4_PREFIX_BITS + u32::from(n.prefix()),
            n.network().into(),
        ),
        IpNetwork::V6(n) => (u32::from(n.prefix()), IpAddr::V6(n.network())),
    };
    let key = NodeKey {
        prefix_len: bits,
        addr: addr_of(net),
    };
    let node = match route.via {
        Via::Local => Node {
            next_hop: [0; 16],
            ifindex: 0,
            mtu: 0,
            flags: Node::LOCAL,
        },
        Via::Node {
            next_hop,
            ifindex,
            mtu,
        } => Node {
            next_hop: addr_of(next_hop),
            ifindex,
            mtu,
            flags: 0,
        },
    };
    (key, node)
}

/// The podCIDR of a row; `None` for a key that no podCIDR makes.
pub(super) fn node_route(key: &NodeKey, node: &Node) -> Option<NodeRoute> {
    let cidr = match ip_of(&key.addr) {
        IpAddr::V4(ip) => {
            let bits = key.prefix_len.checked_sub(addr::V4_PREFIX_BITS)?;
            IpNetwork::new(ip.into(), u8::try_from(bits).ok()?).ok()?
        }
        IpAddr::V6(ip) => IpNetwork::new(ip.into(), u8::try_from(key.prefix_len).ok()?).ok()?,
    };
    let via = if node.flags & Node::LOCAL != 0 {
        Via::Local
    } else {
        Via::Node {
            next_hop: ip_of(&node.next_hop),
            ifindex: node.ifindex,
            mtu: node.mtu,
        }
    };
    Some(NodeRoute { cidr, via })
}

/// What turns the actual rows of `nodes` into the desired ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NodesDiff {
    pub(super) add: Vec<(NodeKey, Node)>,
    pub(super) change: Vec<(NodeKey, Node)>,
    pub(super) remove: Vec<NodeKey>,
}

/// Compares; the order within each part is that of the arguments.
pub(super) fn diff_nodes(actual: &[(NodeKey, Node)], desired: &[(NodeKey, Node)]) -> NodesDiff {
    let there: HashMap<_, _> = actual.iter().copied().collect();
    let wanted: HashMap<_, _> = desired.iter().copied().collect();
    let mut diff = NodesDiff::default();
    for (key, node) in desired {
        match there.get(key) {
            None => diff.add.push((*key, *node)),
            Some(old) if old != node => diff.change.push((*key, *node)),
            Some(_) => {}
        }
    }
    diff.remove = actual
        .iter()
        .map(|(key, _)| *key)
        .filter(|k| !wanted.contains_key(k))
        .collect();
    diff
}

/// The map form of an address.
pub(super) fn addr_of(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(ip) => addr::from_v4(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The address of a map form.
pub fn ip_of(addr: &Addr) -> IpAddr {
    if addr::is_v4(addr) {
        Ipv4Addr::from(addr::v4(addr)).into()
    } else {
        Ipv6Addr::from(*addr).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Addresses, AttachmentId, Mac};
    use proptest::prelude::*;

    fn endpoint(v4: Option<&str>, v6: Option<&str>) -> model::Endpoint {
        model::Endpoint {
            attachment: AttachmentId::new("c1", "eth0").unwrap(),
            id: 7,
            network: "net".into(),
            pod: None,
            addresses: Addresses {
                v4: v4.map(|a| a.parse().unwrap()),
                v6: v6.map(|a| a.parse().unwrap()),
            },
            mac: Mac([2, 0, 0, 0, 0, 1]),
            host_mac: Mac([2, 0, 0, 0, 0, 2]),
            host_ifname: "fl0".into(),
            mtu: 1500,
            sandbox: String::new(),
            created_at: 0,
            wired: false,
        }
    }

    #[test]
    fn an_endpoint_has_a_row_and_one_for_each_address() {
        let both = endpoint_rows(&endpoint(Some("100.11.1.2"), Some("fd00::2")), 9);
        assert_eq!(both.key.ifindex, 9);
        assert_eq!(
            ip_of(&both.row.ipv4),
            "100.11.1.2".parse::<IpAddr>().unwrap()
        );
        assert_eq!(ip_of(&both.row.ipv6), "fd00::2".parse::<IpAddr>().unwrap());
        assert_eq!(both.addrs.len(), 2);
        assert!(
            both.addrs
                .iter()
                .all(|(_, row)| row.ifindex == 9 && row.id == 7)
        );
        let v6 = endpoint_rows(&endpoint(None, Some("fd00::2")), 9);
        assert_eq!(v6.row.ipv4, [0; 16]);
        assert_eq!(v6.addrs.len(), 1);
    }

    fn node(next_hop: &str) -> Via {
        Via::Node {
            next_hop: next_hop.parse().unwrap(),
            ifindex: 2,
            mtu: 1500,
        }
    }

    #[test]
    fn an_ipv4_prefix_is_longer_by_96_bits() {
        let route = NodeRoute {
            cidr: "100.11.2.7/24".parse().unwrap(),
            via: node("10.0.0.2"),
        };
        let (key, row) = node_row(&route);
        assert_eq!(key.prefix_len, 120);
        assert_eq!(ip_of(&key.addr), "100.11.2.0".parse::<IpAddr>().unwrap());
        assert_eq!(ip_of(&row.next_hop), "10.0.0.2".parse::<IpAddr>().unwrap());
        let back = node_route(&key, &row).unwrap();
        assert_eq!(
            back,
            NodeRoute {
                cidr: "100.11.2.0/24".parse().unwrap(),
                ..route
            }
        );
        let local = NodeRoute {
            cidr: "fd00:1::/64".parse().unwrap(),
            via: Via::Local,
        };
        let (key, row) = node_row(&local);
        assert_eq!((key.prefix_len, row.flags), (64, Node::LOCAL));
        assert_eq!(node_route(&key, &row), Some(local));
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_desired_rows(
            actual in proptest::collection::btree_map(0u8..20, 0u32..3, 0..20),
            desired in proptest::collection::btree_map(0u8..20, 0u32..3, 0..20),
        ) {
            let rows = |m: &std::collections::BTreeMap<u8, u32>| -> Vec<(NodeKey, Node)> {
                m.iter().map(|(net, ifindex)| node_row(&NodeRoute {
                    cidr: format!("10.{net}.0.0/16").parse().unwrap(),
                    via: Via::Node { next_hop: "10.0.0.1".parse().unwrap(), ifindex: *ifindex, mtu: 1500 },
                })).collect()
            };
            let (actual, desired) = (rows(&actual), rows(&desired));
            let diff = diff_nodes(&actual, &desired);
            let mut map: HashMap<_, _> = actual.iter().copied().collect();
            for (key, node) in diff.add.iter().chain(&diff.change) { map.insert(*key, *node); }
            for key in &diff.remove { prop_assert!(map.remove(key).is_some()); }
            prop_assert_eq!(map, desired.iter().copied().collect());
            prop_assert_eq!(diff_nodes(&desired, &desired), NodesDiff::default());
        }
    }
}
