//! What Fairlead is compared with, made of the kernel's own parts.

use super::{NetNs, Node, Plugin, Pod, UPLINK};
use anyhow::Result;
use serde_json::{Value, json};
use std::path::Path;

/// MAC of the nodes' ends, so that the pods' permanent neighbour can be written beforehand.
const HOST_MAC: &str = "02:00:00:00:00:01";

/// Lets the kernel forward, and route the podCIDRs of the others, as a cloud's route table or a
/// routing daemon would.
///
/// # Errors
/// Those of `ip` and the sysctls.
pub(crate) fn route_nodes(nodes: &[Node]) -> Result<()> {
    for node in nodes {
        node.ns.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])?;
        for other in nodes.iter().filter(|other| other.number != node.number) {
            let (cidr4, cidr6) = (other.pod_cidr4(), other.pod_cidr6());
            node.ns.ip(&format!(
                "route replace {cidr4} via {} dev {UPLINK}\nroute replace {cidr6} via {} dev {UPLINK}\n",
                other.v4(),
                other.v6()
            ))?;
        }
    }
    Ok(())
}

/// A pod that the kernel's plain routing serves: a veth pair, a route to the pod, the same
/// link-scope gateway as ours, no program and no filter. Its node takes part in [`route_nodes`].
///
/// # Errors
/// Those of the namespace and of `ip`.
pub(crate) fn routed_pod(node: &Node, index: u8) -> Result<Pod> {
    let name = format!("{}r{index}", node.name);
    let ns = NetNs::new(node.ns.session(), &format!("{}-{name}", node.lab))?.without_dad()?;
    let (v4, v6) = node.static_pod_addrs(index)?;
    let mac = format!("02:00:00:00:01:{index:02x}");
    node.ns.ip(&format!(
        "link add {name} address {HOST_MAC} type veth peer name eth0 address {mac} netns {}\n\
         link set {name} up\n",
        ns.name()
    ))?;
    ns.ip(&format!(
        "addr add {v4}/32 dev eth0\n\
         addr add {v6}/128 dev eth0 nodad\n\
         link set eth0 up\n\
         neigh replace 169.254.1.1 lladdr {HOST_MAC} dev eth0 nud permanent\n\
         neigh replace fe80::1 lladdr {HOST_MAC} dev eth0 nud permanent\n\
         route add 169.254.1.1/32 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0\n\
         route add default via fe80::1 dev eth0\n"
    ))?;
    node.ns.ip(&format!(
        "route add {v4}/32 dev {name}\n\
         route add {v6}/128 dev {name}\n\
         neigh replace {v4} lladdr {mac} dev {name} nud permanent\n\
         neigh replace {v6} lladdr {mac} dev {name} nud permanent\n"
    ))?;
    Ok(Pod {
        name,
        ns,
        v4,
        v6,
        result: Value::Null,
    })
}

/// Two namespaces joined by one veth pair: the least that a packet between namespaces costs.
///
/// # Errors
/// Those of the namespaces and of `ip`.
pub(crate) fn veth_pair(node: &Node) -> Result<(Pod, Pod)> {
    let session = node.ns.session();
    let make = |index: u8| -> Result<Pod> {
        let name = format!("{}v{index}", node.name);
        let ns = NetNs::new(session, &format!("{}-{name}", node.lab))?.without_dad()?;
        let (v4, v6) = node.static_pod_addrs(90 + index)?;
        Ok(Pod {
            name,
            ns,
            v4,
            v6,
            result: Value::Null,
        })
    };
    let (a, b) = (make(0)?, make(1)?);
    a.ns.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}\n",
        b.ns.name()
    ))?;
    for pod in [&a, &b] {
        pod.ns.ip(&format!(
            "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n",
            pod.v4, pod.v6
        ))?;
    }
    Ok((a, b))
}

/// The reference plugin `bridge` with `host-local`, whose binaries are in `path`.
pub(crate) fn bridge_plugin(node: &Node, path: &Path) -> Plugin {
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "reference",
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "ipMasq": false,
        "ipam": {
            "type": "host-local",
            "dataDir": node.dir.join("host-local"),
            "ranges": [
                [{ "subnet": node.pod_cidr4() }],
                [{ "subnet": node.pod_cidr6() }],
            ],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        },
    });
    Plugin {
        path: path.to_owned(),
        config,
    }
}
