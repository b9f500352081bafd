//! PURE: from the cluster as it should be to what this node's kernel should hold.

use crate::{model::Node, service::Frontend, state::Cluster};
use ipnetwork::IpNetwork;
use serde::{Serialize, Serializer};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// A device towards the other nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Uplink {
    pub name: String,
    pub ifindex: u32,
    /// Bytes of IP per packet.
    pub mtu: u32,
    /// The node's own addresses on it.
    pub addresses: Vec<IpAddr>,
}

/// What the machine is connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub uplinks: Vec<Uplink>,
    /// Addresses of other nodes that are neighbours, with the number of the interface.
    pub neighbours: BTreeMap<IpAddr, u32>,
}

/// Another node's podCIDR and the way there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteCidr {
    pub node: String,
    pub cidr: IpNetwork,
    /// The other node's address in the same family.
    pub next_hop: IpAddr,
    /// Uplink towards it.
    pub ifindex: u32,
    pub mtu: u32,
    /// This node's address, which the kernel's own packets to that podCIDR carry.
    pub source: IpAddr,
}

/// What is masqueraded: from `pod_cidrs` to anything but `inside`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Masquerade {
    pub pod_cidrs: Vec<IpNetwork>,
    /// podCIDRs and addresses of all nodes.
    pub inside: Vec<IpNetwork>,
}

/// What the kernel of this node should hold beside the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    pub uplinks: Vec<Uplink>,
    /// This node's addresses.
    pub addresses: Vec<IpAddr>,
    /// This node's podCIDRs.
    pub local: Vec<IpNetwork>,
    pub remote: Vec<RemoteCidr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<Masquerade>,
    /// MTU of pods made from now on.
    pub pod_mtu: u32,
    /// Services and who answers their clients.
    #[serde(serialize_with = "shared")]
    pub frontends: Vec<Arc<Frontend>>,
}

fn shared<S: Serializer>(frontends: &[Arc<Frontend>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(frontends.iter().map(AsRef::as_ref))
}

/// Why the node can't serve yet, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    #[error(
        "no Node object named {0:?}: register the node (kubelet) or add it to the manifests, or start the agent with the name of one that is there"
    )]
    NoNode(String),
    #[error(
        "Node {0:?} has no podCIDR: run kube-controller-manager with --allocate-node-cidrs, or set spec.podCIDRs, for example [\"100.11.1.0/24\"]"
    )]
    NoPodCidr(String),
    #[error("Node {0:?} has no address: set status.addresses with an entry of type InternalIP")]
    NoAddress(String),
    #[error(
        "no interface of this machine holds an address of Node {name:?} ({addresses}): correct status.addresses or name the interface by --uplink"
    )]
    NoUplink { name: String, addresses: String },
}

/// The Node object of this node, if it has what is needed.
///
/// # Errors
/// Says what is missing and where to put it.
pub fn own_node<'a>(cluster: &'a Cluster, name: &str) -> Result<&'a Node, NotReady> {
    let node = cluster
        .nodes
        .get(name)
        .ok_or_else(|| NotReady::NoNode(name.to_owned()))?;
    if node.pod_cidrs.is_empty() {
        return Err(NotReady::NoPodCidr(name.to_owned()));
    }
    if node.addresses.is_empty() {
        return Err(NotReady::NoAddress(name.to_owned()));
    }
    Ok(node)
}

/// Addresses of other nodes, of which the kernel is to tell whether they are neighbours.
pub fn next_hops(cluster: &Cluster, own: &Node) -> Vec<IpAddr> {
    let mut hops: Vec<IpAddr> = others(cluster, own)
        .filter_map(|(node, cidr)| next_hop(node, cidr))
        .collect();
    hops.sort();
    hops.dedup();
    hops
}

/// Compiles what the kernel should hold. `wanted_mtu` is the operator's choice of the pods' MTU.
///
/// # Errors
/// When no uplink was found. A podCIDR of another node that can't be reached (no address of that
/// family on either side) is left out; [`unreachable`] lists them. So is one behind a router: its
/// packets go by the kernel's routes, whose routers must know the podCIDR. Frontends are compiled by
/// [`crate::service`].
pub fn compile(
    cluster: &Cluster,
    own: &Node,
    surroundings: Surroundings,
    wanted_mtu: Option<u32>,
    masquerade: bool,
) -> Result<Desired, NotReady> {
    let uplinks = &surroundings.uplinks;
    let Some(smallest) = uplinks.iter().map(|u| u.mtu).min() else {
        let addresses = own
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        return Err(NotReady::NoUplink {
            name: own.name.clone(),
            addresses: addresses.join(", "),
        });
    };
    let mut remote: Vec<RemoteCidr> = others(cluster, own)
        .filter_map(|(node, cidr)| way_to(node, cidr, &surroundings))
        .collect();
    remote.sort_by_key(|r| (r.cidr, r.node.clone()));
    let masquerade = masquerade.then(|| Masquerade {
        pod_cidrs: own.pod_cidrs.clone(),
        inside: inside(cluster),
    });
    let pod_mtu = wanted_mtu.unwrap_or(smallest);
    Ok(Desired {
        addresses: own.addresses.clone(),
        uplinks: surroundings.uplinks,
        local: own.pod_cidrs.clone(),
        remote,
        masquerade,
        pod_mtu,
        frontends: Vec::new(),
    })
}

/// podCIDRs of other nodes that have no way there, with the reason, for `fairlead status`.
pub fn unreachable(cluster: &Cluster, own: &Node, surroundings: &Surroundings) -> Vec<String> {
    let has_family = |cidr: &IpNetwork| own_address(*cidr, &surroundings.uplinks).is_some();
    others(cluster, own)
        .filter(|(node, cidr)| next_hop(node, *cidr).is_none() || !has_family(cidr))
        .map(|(node, cidr)| {
            let family = if cidr.is_ipv4() { "IPv4" } else { "IPv6" };
            format!(
                "{cidr} of node {} has no way there: both nodes need an {family} address in status.addresses",
                node.name
            )
        })
        .collect()
}

fn others<'a>(
    cluster: &'a Cluster,
    own: &'a Node,
) -> impl Iterator<Item = (&'a Node, IpNetwork)> + 'a {
    cluster
        .nodes
        .values()
        .filter(|node| node.name != own.name)
        .flat_map(|node| node.pod_cidrs.iter().map(move |cidr| (node, *cidr)))
}

/// The node's address in the family of its podCIDR.
fn next_hop(node: &Node, cidr: IpNetwork) -> Option<IpAddr> {
    let of_family = |a: &&IpAddr| a.is_ipv4() == cidr.is_ipv4();
    node.addresses.iter().find(of_family).copied()
}

/// This node's address in that family.
fn own_address(cidr: IpNetwork, uplinks: &[Uplink]) -> Option<IpAddr> {
    let of_family = |a: &&IpAddr| a.is_ipv4() == cidr.is_ipv4();
    uplinks
        .iter()
        .find_map(|uplink| uplink.addresses.iter().find(of_family).copied())
}

fn way_to(node: &Node, cidr: IpNetwork, surroundings: &Surroundings) -> Option<RemoteCidr> {
    let next_hop = next_hop(node, cidr)?;
    let ifindex = *surroundings.neighbours.get(&next_hop)?;
    let uplinks = &surroundings.uplinks;
    // A neighbour on a device without our programs is reached by the kernel's routes.
    let uplink = uplinks.iter().find(|uplink| uplink.ifindex == ifindex)?;
    let own = own_address(cidr, std::slice::from_ref(uplink));
    Some(RemoteCidr {
        node: node.name.clone(),
        cidr,
        next_hop,
        ifindex,
        mtu: uplink.mtu,
        source: own.or_else(|| own_address(cidr, uplinks))?,
    })
}

/// Prefixes that pods reach with their own address.
fn inside(cluster: &Cluster) -> Vec<IpNetwork> {
    let mut inside: Vec<IpNetwork> = cluster
        .nodes
        .values()
        .flat_map(|node| {
            node.pod_cidrs
                .iter()
                .copied()
                .chain(node.addresses.iter().map(|a| IpNetwork::from(*a)))
        })
        .collect();
    inside.sort();
    inside.dedup();
    inside
}
