//! PURE: the objects of all files to one cluster. Where two contradict each other, what is in force
//! stays so: a new Node takes no traffic from one that has it. Otherwise a fixed order decides, so
//! that nodes that read the same folder come to the same cluster.

use super::{
    convert::NAME_LABEL,
    document::Found,
    object::{Object, ObjectKey},
    problem::{Severity, SourceProblem},
};
use crate::{
    model::{Namespace, Node, Pod},
    state::Cluster,
};
use ipnetwork::IpNetwork;
use std::{collections::BTreeMap, net::IpAddr};

/// The cluster (revision 0) and what contradicts in it. `before` is in force now; `files` come in the
/// order of their paths.
pub(super) fn merge<'a>(
    before: &Cluster,
    files: impl Iterator<Item = (&'a str, &'a [Found])>,
) -> (Cluster, Vec<SourceProblem>) {
    let mut problems = Vec::new();
    let mut first: BTreeMap<&ObjectKey, (&str, &Found)> = BTreeMap::new();
    for (file, found) in files.flat_map(|(file, found)| found.iter().map(move |f| (file, f))) {
        if let Some((kept_file, kept)) = first.get(&found.key) {
            let message = format!(
                "{} is also in {kept_file}, document {} (line {}), which is in force; remove one of them",
                found.key, kept.document, kept.line
            );
            problems.push(at(file, found, "metadata.name", message));
        } else {
            first.insert(&found.key, (file, found));
        }
    }
    let mut cluster = Cluster::default();
    let mut taken = Taken::default();
    for (_, found) in first.values() {
        if let Object::Node(node) = &found.object
            && let Some(before) = before.nodes.get(&node.name)
        {
            taken.keep(node, before);
        }
    }
    // In the order of the keys, that is, nodes by name.
    for (file, found) in first.into_values() {
        match &found.object {
            Object::Node(node) => {
                let node = taken.claim(node, |field, message| {
                    problems.push(at(file, found, field, message));
                });
                cluster.nodes.insert(node.name.clone(), node);
            }
            Object::Pod(pod) => {
                let Pod {
                    namespace, name, ..
                } = pod;
                cluster
                    .pods
                    .insert((namespace.clone(), name.clone()), pod.clone());
            }
            Object::Service(service) => {
                let key = (service.namespace.clone(), service.name.clone());
                cluster.services.insert(key, service.clone());
            }
            Object::Slice(slice) => {
                let key = (slice.namespace.clone(), slice.name.clone());
                cluster.slices.insert(key, slice.clone());
            }
            Object::Namespace(namespace) => {
                cluster
                    .namespaces
                    .insert(namespace.name.clone(), namespace.clone());
            }
            Object::Policy(policy) => {
                let key = (policy.namespace.clone(), policy.name.clone());
                cluster.policies.insert(key, policy.clone());
            }
            Object::ClusterPolicy(policy) => {
                for unmet in &policy.unmet {
                    let (field, message) = unmet.split_once(": ").unwrap_or(("", unmet));
                    problems.push(SourceProblem {
                        severity: Severity::Warning,
                        ..at(file, found, field, message.to_owned())
                    });
                }
                let key = (policy.kind.clone(), policy.name.clone());
                cluster.cluster_policies.insert(key, policy.clone());
            }
            Object::Unused => {}
        }
    }
    // A namespace that nobody has written a manifest for has no labels but its name.
    for (namespace, _) in cluster.pods.keys() {
        if !cluster.namespaces.contains_key(namespace) {
            let name = namespace.clone();
            let labels = [(NAME_LABEL.to_owned(), name.clone())].into();
            cluster
                .namespaces
                .insert(name.clone(), Namespace { name, labels });
        }
    }
    (cluster, problems)
}

fn at(file: &str, found: &Found, field: &str, message: String) -> SourceProblem {
    SourceProblem {
        document: Some(found.document),
        line: Some(found.line),
        field: Some(field.to_owned()),
        ..SourceProblem::of_file(file, message)
    }
}

/// What nodes have, with the name of the one that has it.
#[derive(Default)]
pub(super) struct Taken {
    /// By first address: prefixes that don't overlap are in the same order by their last.
    cidrs: BTreeMap<IpAddr, (IpNetwork, Owner)>,
    addresses: BTreeMap<IpAddr, Owner>,
}

#[derive(Clone)]
struct Owner {
    node: String,
    /// Has had it before the files were read again.
    in_force: bool,
}

impl Owner {
    /// Why it keeps what it has.
    fn why(&self) -> &'static str {
        if self.in_force {
            "in force before"
        } else {
            "first by name"
        }
    }
}

impl Taken {
    /// Enters what the node has in force and still wants.
    pub(super) fn keep(&mut self, node: &Node, before: &Node) {
        let owner = Owner {
            node: node.name.clone(),
            in_force: true,
        };
        for &cidr in node
            .pod_cidrs
            .iter()
            .filter(|c| before.pod_cidrs.contains(c))
        {
            self.cidrs.insert(cidr.network(), (cidr, owner.clone()));
        }
        for &address in node
            .addresses
            .iter()
            .filter(|a| before.addresses.contains(a))
        {
            self.addresses.insert(address, owner.clone());
        }
    }

    /// The node without what another one has.
    pub(super) fn claim(&mut self, node: &Node, mut report: impl FnMut(&str, String)) -> Node {
        let mut kept = Node {
            pod_cidrs: Vec::new(),
            addresses: Vec::new(),
            ..node.clone()
        };
        let owner = Owner {
            node: node.name.clone(),
            in_force: false,
        };
        for &cidr in &node.pod_cidrs {
            match self.overlapping(cidr) {
                Some((own, by)) if by.node == node.name && *own == cidr => {
                    kept.pod_cidrs.push(cidr);
                }
                Some((other, by)) => report(
                    "spec.podCIDRs",
                    format!(
                        "{cidr} of node {} overlaps {other} of node {}, which keeps it ({}); give one of them another podCIDR",
                        node.name,
                        by.node,
                        by.why()
                    ),
                ),
                None => {
                    self.cidrs.insert(cidr.network(), (cidr, owner.clone()));
                    kept.pod_cidrs.push(cidr);
                }
            }
        }
        for &address in &node.addresses {
            match self.addresses.get(&address) {
                Some(by) if by.node == node.name => kept.addresses.push(address),
                Some(by) => report(
                    "status.addresses",
                    format!(
                        "{address} of node {} is node {}'s too, which keeps it ({}); correct one of them",
                        node.name,
                        by.node,
                        by.why()
                    ),
                ),
                None => {
                    self.addresses.insert(address, owner.clone());
                    kept.addresses.push(address);
                }
            }
        }
        kept
    }

    /// Only the neighbours in order can overlap: the last that begins at or before this prefix, and
    /// the first that begins inside of it.
    fn overlapping(&self, cidr: IpNetwork) -> Option<&(IpNetwork, Owner)> {
        let before = self
            .cidrs
            .range(..=cidr.network())
            .next_back()
            .map(|(_, taken)| taken);
        let inside = self
            .cidrs
            .range(cidr.network()..=cidr.broadcast())
            .next()
            .map(|(_, t)| t);
        before
            .filter(|(other, _)| {
                other.is_ipv4() == cidr.is_ipv4() && other.contains(cidr.network())
            })
            .or(inside)
    }
}
