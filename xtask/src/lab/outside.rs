//! A host that is no node, behind a router on the nodes' underlay.

use super::{Lab, NetNs, UPLINK};
use anyhow::{Result, bail};
use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The host outside and the router's address towards it, in networks for documentation.
const V4: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 1)];
const V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1),
];
/// The router's addresses on the underlay.
const GATEWAY: [&str; 2] = ["172.31.250.1", "fd00:172:31:250::1"];

/// The host outside.
pub(crate) struct Outside {
    pub(crate) ns: NetNs,
}

impl Outside {
    /// Makes the host, and a router of the bridge between the nodes, which becomes their default
    /// gateway. It knows no podCIDR: what comes from a pod's own address is never answered.
    ///
    /// # Errors
    /// When the nodes are not joined by a bridge; those of `ip` and the sysctls.
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        let ([router], [first, ..]) = (lab.between.as_slice(), lab.nodes.as_slice()) else {
            bail!("a host outside needs nodes that a bridge joins")
        };
        let name = format!("{}-outside", first.lab);
        let ns = NetNs::new(&lab.session, &name)?.without_dad()?;
        router.sysctl(&[
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])?;
        let ([v4, near4], [v6, near6], [gateway4, gateway6]) = (V4, V6, GATEWAY);
        router.ip(&format!(
            "addr add {gateway4}/24 dev br0\n\
             addr add {gateway6}/64 dev br0 nodad\n\
             link add out type veth peer name eth0 netns {}\n\
             addr add {near4}/24 dev out\n\
             addr add {near6}/64 dev out nodad\n\
             link set out up\n",
            ns.name()
        ))?;
        ns.ip(&format!(
            "addr add {v4}/24 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via {near4}\n\
             route add default via {near6}\n"
        ))?;
        for node in &lab.nodes {
            node.ns.ip(&format!(
                "route replace default via {gateway4} dev {UPLINK}\n\
                 route replace default via {gateway6} dev {UPLINK}\n"
            ))?;
        }
        Ok(Self { ns })
    }

    /// Its address of the family wanted.
    pub(crate) fn addr(&self, v6: bool) -> IpAddr {
        if v6 { V6[0].into() } else { V4[0].into() }
    }

    /// Tells the router the way to the pods, as a network's administrator might.
    ///
    /// # Errors
    /// Those of `ip`.
    pub(crate) fn route_pods(&self, lab: &Lab) -> Result<()> {
        let mut routes = String::new();
        for node in &lab.nodes {
            writeln!(routes, "route add {} via {}", node.pod_cidr4(), node.v4())?;
            writeln!(routes, "route add {} via {}", node.pod_cidr6(), node.v6())?;
        }
        lab.between.iter().try_for_each(|router| router.ip(&routes))
    }
}
