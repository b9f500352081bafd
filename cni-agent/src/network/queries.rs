//! Answers to what people ask about the network.

use super::{Network, desired::own_node, kernel::Kernel};
use crate::{
    cni::CniError,
    query::{EndpointRow, IpamRow, NodeRow},
};

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

    /// What keeps the node from serving, with the remedy, as STATUS tells it; none when it serves. That
    /// its addresses are in use is no fault of the node, and not told here: see [`Self::exhausted`].
    pub async fn obstacle(&self) -> Option<CniError> {
        let unserved = self.view().unserved;
        if let Err(error) = self.serving() {
            return Some(CniError::not_available(&error.to_string()));
        }
        if let Some(first) = unserved.first() {
            let reason = format!("programs, maps or masquerade are not as they should be: {first}");
            return Some(CniError::limited(&reason));
        }
        let writable = self.book.writable().await;
        let error = writable.err()?;
        Some(CniError::not_available(&error.to_string()))
    }

    /// That no address is left for another pod, with the remedy; none while there are some.
    pub fn exhausted(&self) -> Option<String> {
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
