//! The network between the nodes.

use super::{NetNs, Session, node::Node, node::UPLINK};
use anyhow::{Result, ensure};
use std::{fmt::Write, sync::Arc};

/// How the nodes are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Underlay {
    /// Every uplink is a port of one bridge in a namespace of its own: any number of nodes.
    Bridge,
    /// Two nodes whose uplinks are the two ends of one veth pair. The bench takes this, so that
    /// the work of a bridge, equal on all paths, does not hide the difference between them.
    Direct,
    /// Odd and even nodes hang on two routers that are joined by a link of `mtu` bytes, smaller
    /// than the nodes' own, so that only path MTU discovery finds out. To the nodes it looks like
    /// one segment: the routers answer ARP and neighbour solicitations for the far nodes, and
    /// route (TTL, ICMP errors) in between.
    Routers {
        /// MTU of the link between the routers.
        mtu: u32,
    },
}

/// Connects the nodes, gives them their addresses and answers the namespaces in between.
///
/// # Errors
/// Those of `ip`, and when the number of nodes does not fit the kind.
pub(super) fn connect(
    kind: Underlay,
    session: &Arc<Session>,
    lab: &str,
    nodes: &[Node],
) -> Result<Vec<NetNs>> {
    let between = match kind {
        Underlay::Bridge => bridge(session, lab, nodes)?,
        Underlay::Direct => direct(nodes)?,
        Underlay::Routers { mtu } => routers(session, lab, nodes, mtu)?,
    };
    for node in nodes {
        node.ns.ip(&format!(
            "addr add {}/24 dev {UPLINK}\n\
             addr add {}/64 dev {UPLINK} nodad\n\
             link set {UPLINK} up\n",
            node.v4(),
            node.v6()
        ))?;
    }
    Ok(between)
}

fn bridge(session: &Arc<Session>, lab: &str, nodes: &[Node]) -> Result<Vec<NetNs>> {
    let ns = NetNs::new(session, &format!("{lab}-underlay"))?;
    let mut commands = "link add br0 type bridge\nlink set br0 up\n".to_owned();
    for node in nodes {
        let (port, node) = (format!("port{}", node.number), node.ns.name());
        writeln!(
            commands,
            "link add {port} type veth peer name {UPLINK} netns {node}"
        )?;
        writeln!(commands, "link set {port} master br0 up")?;
    }
    ns.ip(&commands)?;
    Ok(vec![ns])
}

fn direct(nodes: &[Node]) -> Result<Vec<NetNs>> {
    let [a, b] = nodes else {
        anyhow::bail!("a direct underlay joins 2 nodes, not {}", nodes.len())
    };
    a.ns.ip(&format!(
        "link add {UPLINK} type veth peer name {UPLINK} netns {}\n",
        b.ns.name()
    ))?;
    Ok(Vec::new())
}

fn routers(session: &Arc<Session>, lab: &str, nodes: &[Node], mtu: u32) -> Result<Vec<NetNs>> {
    ensure!(
        mtu >= 1280,
        "IPv6 needs 1280 bytes, the routers' link has {mtu}"
    );
    let odd = NetNs::new(session, &format!("{lab}-router-odd"))?.without_dad()?;
    let even = NetNs::new(session, &format!("{lab}-router-even"))?.without_dad()?;
    odd.ip(&format!(
        "link add mid mtu {mtu} type veth peer name mid mtu {mtu} netns {}\n",
        even.name()
    ))?;
    for (router, own) in [(&odd, 1u8), (&even, 0u8)] {
        let (me, other) = if own == 1 { (1, 2) } else { (2, 1) };
        let mut commands = format!(
            "addr add 172.31.249.{me}/30 dev mid\n\
             addr add fd00:172:31:249::{me}/64 dev mid nodad\n\
             link set mid up\n"
        );
        // Last, when all ports are there.
        let mut proxies = String::new();
        let mut settings = vec![
            ("net/ipv4/ip_forward".to_owned(), "1"),
            ("net/ipv6/conf/all/forwarding".to_owned(), "1"),
        ];
        for node in nodes {
            let port = format!("port{}", node.number);
            let (v4, v6) = (node.v4(), node.v6());
            let (cidr4, cidr6) = (node.pod_cidr4(), node.pod_cidr6());
            if node.number % 2 == own {
                let node = node.ns.name();
                writeln!(
                    commands,
                    "link add {port} type veth peer name {UPLINK} netns {node}"
                )?;
                writeln!(commands, "link set {port} up")?;
                writeln!(commands, "route add {v4}/32 dev {port}")?;
                writeln!(commands, "route add {v6}/128 dev {port}")?;
                writeln!(commands, "route add {cidr4} via {v4} dev {port} onlink")?;
                writeln!(commands, "route add {cidr6} via {v6} dev {port} onlink")?;
                // The kernel waits a random part of proxy_delay before it answers for others.
                for (name, value) in [
                    ("ipv4/conf/PORT/proxy_arp", "1"),
                    ("ipv6/conf/PORT/proxy_ndp", "1"),
                    ("ipv4/neigh/PORT/proxy_delay", "0"),
                    ("ipv6/neigh/PORT/proxy_delay", "0"),
                ] {
                    settings.push((format!("net/{}", name.replace("PORT", &port)), value));
                }
            } else {
                writeln!(commands, "route add {v4}/32 via 172.31.249.{other}")?;
                writeln!(commands, "route add {v6}/128 via fd00:172:31:249::{other}")?;
                writeln!(commands, "route add {cidr4} via 172.31.249.{other}")?;
                writeln!(commands, "route add {cidr6} via fd00:172:31:249::{other}")?;
                for near in nodes.iter().filter(|near| near.number % 2 == own) {
                    writeln!(proxies, "neigh add proxy {v6} dev port{}", near.number)?;
                }
            }
        }
        router.ip(&(commands + &proxies))?;
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (&**name, *value))
            .collect();
        router.sysctl(&settings)?;
    }
    Ok(vec![odd, even])
}
