//! What a cluster is made of: pure decisions, no effects.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, net::Ipv4Addr};

/// All pods' addresses; each node gets a /24.
pub(super) const PODS: &str = "100.11.0.0/16";
/// The same of IPv6; each node gets a /64.
pub(super) const PODS6: &str = "fd00:11::/48";
/// ClusterIPs.
pub(super) const SERVICES: &str = "10.96.0.0/16";
/// The same of IPv6.
pub(super) const SERVICES6: &str = "fd00:96::/112";
/// ClusterIP of the API server: the first address of [`SERVICES`].
pub(super) const API_SERVICE: &str = "10.96.0.1";
/// ClusterIP of cluster DNS.
pub(super) const DNS_SERVICE: &str = "10.96.0.10";
/// The underlay's first three bytes and IPv6 prefix.
const UNDERLAY: [u8; 3] = [172, 31, 250];
const UNDERLAY6: &str = "fd00:172:31:250";

/// What connects the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cni {
    /// This project's: the image that `cargo xtask image` packs, by deploy/fairlead.yaml.
    Fairlead,
    /// The reference plugin `bridge`, with a route to each node: what results are compared with.
    Reference,
    /// Nothing: nodes stay NotReady until you apply something.
    None,
}

/// The most nodes of a cluster: their addresses on the underlay follow each other.
const MOST: u8 = 20;

/// A cluster as it is asked for, and as nodes join and leave.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// How many nodes.
    #[arg(long, value_name = "N", default_value = "2", value_parser = count)]
    pub(super) nodes: Numbers,
    /// What connects the pods.
    #[arg(long, value_enum, default_value_t = Cni::Fairlead)]
    pub(super) cni: Cni,
    /// kube-proxy on every node (nftables).
    #[arg(long)]
    pub(super) kube_proxy: bool,
    /// CoreDNS as cluster DNS.
    #[arg(long)]
    pub(super) dns: bool,
    /// Pods and Services with both families.
    #[arg(long)]
    pub(super) ipv6: bool,
}

impl Plan {
    /// `n1`, `n2` and so on, with their numbers.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Member> {
        self.nodes.iter().copied().map(Member::Node)
    }

    /// The first number that no node has.
    pub(super) fn next(&self) -> Option<Member> {
        let free = (1..=MOST).find(|number| !self.nodes.contains(number));
        free.map(Member::Node)
    }

    /// The node of that name.
    pub(super) fn node(&self, name: &str) -> Option<Member> {
        self.nodes().find(|node| node.name() == name)
    }

    pub(super) fn pods(&self) -> String {
        both(self.ipv6, PODS, PODS6)
    }

    pub(super) fn services(&self) -> String {
        both(self.ipv6, SERVICES, SERVICES6)
    }
}

/// Numbers of nodes, from 1.
pub(super) type Numbers = BTreeSet<u8>;

/// The numbers of that many nodes.
fn count(text: &str) -> Result<Numbers, String> {
    let wanted = text.parse().ok().filter(|n| (1..=MOST).contains(n));
    wanted
        .map(first)
        .ok_or(format!("{text:?} is no number from 1 to {MOST}"))
}

/// The first numbers.
pub(super) fn first(nodes: u8) -> Numbers {
    (1..=nodes).collect()
}

fn both(ipv6: bool, v4: &str, v6: &str) -> String {
    match ipv6 {
        true => format!("{v4},{v6}"),
        false => v4.to_owned(),
    }
}

/// Who has a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// The bridge between the others, also what is outside the cluster.
    Underlay,
    /// API server, etcd, controller manager, scheduler.
    ControlPlane,
    /// By its number, from 1.
    Node(u8),
}

impl Member {
    /// Part of the namespace's name, and the node's name in Kubernetes.
    pub(super) fn name(self) -> String {
        match self {
            Self::Underlay => "underlay".to_owned(),
            Self::ControlPlane => "control".to_owned(),
            Self::Node(number) => format!("n{number}"),
        }
    }

    /// Its address on the underlay.
    pub(super) fn v4(self) -> Ipv4Addr {
        let [a, b, c] = UNDERLAY;
        Ipv4Addr::new(a, b, c, self.host())
    }

    /// Its IPv6 address on the underlay.
    pub(super) fn v6(self) -> String {
        format!("{UNDERLAY6}::{}", self.host())
    }

    fn host(self) -> u8 {
        match self {
            Self::Underlay => 1,
            Self::ControlPlane => 10,
            Self::Node(number) => 10 + number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_a_cluster_have_addresses_of_their_own() {
        let plan = Plan {
            nodes: first(MOST),
            cni: Cni::None,
            kube_proxy: false,
            dns: false,
            ipv6: false,
        };
        let mut all: Vec<_> = plan.nodes().map(Member::v4).collect();
        all.extend([Member::Underlay.v4(), Member::ControlPlane.v4()]);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 22);
        assert_eq!(Member::Node(2).name(), "n2");
    }

    #[test]
    fn the_second_family_is_added_to_the_first() {
        let mut plan = Plan {
            nodes: first(1),
            cni: Cni::None,
            kube_proxy: false,
            dns: false,
            ipv6: true,
        };
        assert_eq!(plan.pods(), "100.11.0.0/16,fd00:11::/48");
        plan.ipv6 = false;
        assert_eq!(plan.services(), "10.96.0.0/16");
    }

    #[test]
    fn a_node_that_joins_takes_the_first_free_number() {
        let mut plan = Plan {
            nodes: count("3").unwrap(),
            cni: Cni::None,
            kube_proxy: false,
            dns: false,
            ipv6: false,
        };
        assert_eq!(plan.next(), Some(Member::Node(4)));
        plan.nodes.remove(&2);
        assert_eq!(plan.next(), Some(Member::Node(2)));
        assert_eq!(plan.node("n3"), Some(Member::Node(3)));
        assert_eq!(plan.node("n2"), None);
        plan.nodes = first(MOST);
        assert_eq!(plan.next(), None);
        assert!(count("0").is_err() && count("21").is_err() && count("x").is_err());
    }
}
