//! What a change of policies would change, for this node's pods and their connections.

use super::{
    Linux, blocking, fault,
    policies::{not_found, number},
};
use crate::{
    cni::CniError,
    datapath::ConnectionRow,
    domains,
    model::Protocol,
    network::{Network, kernel::KernelError, policies::local, policy_ends::at},
    policy::{Direction, Flip, LocalPod, Port, Preview},
    query::{CutConnection, PlannedChange, PolicyChange, PolicyPlan},
    state::Cluster,
};

impl Network<Linux> {
    /// What a change of policies would change for the pods of this node and their connections. Nothing is
    /// written.
    ///
    /// # Errors
    /// A policy that is to go isn't there, or the connections can't be read.
    pub async fn plan_policies(&self, change: PolicyChange) -> Result<PolicyPlan, CniError> {
        let before = self.cluster.borrow().clone();
        for (kind, namespace, name) in &change.removed {
            let key = |first: &str| (first.to_owned(), name.clone());
            let is_there = match kind.as_str() {
                "NetworkPolicy" => before.policies.contains_key(&key(namespace)),
                _ => before.cluster_policies.contains_key(&key(kind)),
            };
            if !is_there {
                let slash = if namespace.is_empty() { "" } else { "/" };
                let error = format!(
                    "no {kind} {namespace}{slash}{name}; `fairlead policy list` shows them"
                );
                return Err(not_found("--remove", &error));
            }
        }
        let locals: Vec<LocalPod> = self.book.list().iter().map(local).collect();
        let datapath = self.kernel.datapath.clone();
        let node = self.config.node_name.clone();
        let plan = move || -> Result<PolicyPlan, KernelError> {
            let after = changed(&before, change);
            let mut unresolved = domains::names(&after.cluster_policies);
            unresolved.retain(|name| !after.domains.contains_key(name));
            let preview = Preview::new(&before, &after, &node, &locals);
            let mut plan = PolicyPlan {
                pairs: preview.pairs(),
                changes: preview.flips().iter().map(planned).collect(),
                node,
                cut: Vec::new(),
                cut_count: 0,
                connections: 0,
                unresolved: unresolved.into_iter().collect(),
            };
            for local in &locals {
                let rows = datapath.connections(local.endpoint).map_err(fault)?;
                plan.connections += rows.len();
                for row in rows.iter().filter(|row| !stays(&preview, local, row)) {
                    plan.cut_count += 1;
                    if plan.cut.len() < MOST_CUT {
                        plan.cut.push(cut(&before, local, row));
                    }
                }
            }
            plan.cut.sort();
            Ok(plan)
        };
        let planned = blocking(plan).await;
        planned.map_err(|error| CniError::kernel(&error))
    }
}

/// Connections that are told one by one.
const MOST_CUT: usize = 1000;

fn changed(before: &Cluster, change: PolicyChange) -> Cluster {
    let mut after = before.clone();
    for (kind, namespace, name) in change.removed {
        match kind.as_str() {
            "NetworkPolicy" => {
                after.policies.remove(&(namespace, name));
            }
            _ => {
                after.cluster_policies.remove(&(kind, name));
            }
        }
    }
    for policy in change.policies {
        let key = (policy.namespace.clone(), policy.name.clone());
        after.policies.insert(key, policy);
    }
    for policy in change.cluster_policies {
        let key = (policy.kind.clone(), policy.name.clone());
        after.cluster_policies.insert(key, policy);
    }
    after
}

fn planned(flip: &Flip) -> PlannedChange {
    PlannedChange {
        pod: format!("{}/{}", flip.pod.0, flip.pod.1),
        direction: flip.direction.as_str().to_owned(),
        peers: flip.peers.clone(),
        denied: flip.lost.words(),
        allowed: flip.gained.words(),
    }
}

/// Whether a connection would go on.
fn stays(preview: &Preview, local: &LocalPod, row: &ConnectionRow) -> bool {
    if row.of_node {
        return true;
    }
    let then = preview.then(local.endpoint, began(row), row.peer);
    then.is_none_or(|then| match protocol(row.protocol) {
        Some(protocol) => then.has(protocol, port(row)),
        None => then.others,
    })
}

const fn began(row: &ConnectionRow) -> Direction {
    if row.by_peer {
        Direction::Ingress
    } else {
        Direction::Egress
    }
}

/// Of who is connected to.
const fn port(row: &ConnectionRow) -> u16 {
    if row.by_peer {
        row.own_port
    } else {
        row.peer_port
    }
}

fn cut(cluster: &Cluster, local: &LocalPod, row: &ConnectionRow) -> CutConnection {
    let peer = at(cluster, row.peer);
    let name = match peer.name.as_str() {
        "" => row.peer.to_string(),
        name => format!("{name} ({})", row.peer),
    };
    let asked = protocol(row.protocol).map_or(Port::None, |protocol| Port::Of(protocol, port(row)));
    CutConnection {
        pod: format!("{}/{}", local.namespace, local.name),
        direction: began(row).as_str().to_owned(),
        peer: name,
        port: asked.to_string(),
    }
}

pub(super) fn protocol(number_of: u8) -> Option<Protocol> {
    Protocol::ALL
        .into_iter()
        .find(|protocol| number(*protocol) == number_of)
}
