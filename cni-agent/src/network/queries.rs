//! Answers to what people ask about the network.

use super::{Network, desired::own_node, kernel::Kernel};
use crate::query::{EndpointRow, IpamRow, NodeRow};

impl<K: Kernel> Network<K> {
    /// Every endpoint, by number.
    pub fn endpoint_rows(&self) -> Vec<EndpointRow> {
        let mut rows = self.book.list();
        rows.sort_by_key(|e| e.id);
        rows.into_iter().map(EndpointRow::from).collect()
    }

    /// Every node of the cluster, by name, with the uplink towards it.
    pub fn node_rows(&self) -> Vec<NodeRow> {
        let cluster = self.cluster.borrow().clone();
        let desired = self.view().desired;
        let own = own_node(&cluster, &self.config.node_name).ok();
        let uplink_to = |name: &str| {
            let desired = desired.as_ref()?;
            let remote = desired.remote.iter().find(|r| r.node == name)?;
            let uplink = desired
                .uplinks
                .iter()
                .find(|u| u.ifindex == remote.ifindex)?;
            Some(uplink.name.clone())
        };
        let rows = cluster.nodes.values().map(|node| NodeRow {
            name: node.name.clone(),
            local: own.is_some_and(|own| own.name == node.name),
            addresses: node.addresses.clone(),
            pod_cidrs: node.pod_cidrs.clone(),
            uplink: uplink_to(&node.name),
        });
        rows.collect()
    }

    /// What keeps ADD from succeeding now, with the remedy; none when it would.
    pub fn obstacle(&self) -> Option<String> {
        if let Err(error) = self.serving() {
            return Some(error.to_string());
        }
        let rows = self.ipam_rows();
        let full = rows.iter().find(|pool| pool.used == pool.total)?;
        Some(format!(
            "all {} addresses of podCIDR {} are in use: end pods, or give the node a larger podCIDR",
            full.total, full.prefix
        ))
    }

    /// Use of each podCIDR of this node.
    pub fn ipam_rows(&self) -> Vec<IpamRow> {
        let usage = self.book.usage().into_iter();
        let rows = usage.map(|pool| IpamRow {
            prefix: pool.prefix,
            total: pool.total,
            used: pool.used,
            cooling: pool.cooling,
        });
        rows.collect()
    }
}
