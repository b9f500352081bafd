//! PURE: the objects of all files to one cluster. Where two contradict each other, a fixed order
//! decides, so that every node that reads the same folder comes to the same cluster.

use super::{
    document::Found,
    object::{Object, ObjectKey},
    problem::{Severity, SourceProblem},
};
use crate::{
    model::{Node, Pod},
    state::Cluster,
};
use ipnetwork::IpNetwork;
use std::{collections::BTreeMap, net::IpAddr};

/// The cluster (revision 0) and what contradicts in it. `files` come in the order of their paths.
pub(super) fn merge<'a>(
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
    let mut without_effect: BTreeMap<(&str, &str), usize> = BTreeMap::new();
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
            // A Namespace alone promises nothing.
            Object::Later if found.key.kind == "Namespace" => {}
            Object::Later => *without_effect.entry((file, found.key.kind)).or_default() += 1,
        }
    }
    for ((file, kind), count) in without_effect {
        let message = format!(
            "holds {count} of kind {kind}: valid, but without effect in this version of Fairlead; nothing to do unless you rely on it"
        );
        let severity = Severity::Warning;
        problems.push(SourceProblem {
            severity,
            ..SourceProblem::of_file(file, message)
        });
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

/// What the nodes before have, with the name of the one that has it.
#[derive(Default)]
struct Taken {
    /// By first address: prefixes that don't overlap are in the same order by their last.
    cidrs: BTreeMap<IpAddr, (IpNetwork, String)>,
    addresses: BTreeMap<IpAddr, String>,
}

impl Taken {
    /// The node without what a node before it has.
    fn claim(&mut self, node: &Node, mut report: impl FnMut(&str, String)) -> Node {
        let mut kept = Node {
            pod_cidrs: Vec::new(),
            addresses: Vec::new(),
            ..node.clone()
        };
        for &cidr in &node.pod_cidrs {
            match self.overlapping(cidr) {
                Some((other, by)) => report(
                    "spec.podCIDRs",
                    format!(
                        "{cidr} of node {} overlaps {other} of node {by}, which keeps it (first by name); give one of them another podCIDR",
                        node.name
                    ),
                ),
                None => {
                    self.cidrs.insert(cidr.network(), (cidr, node.name.clone()));
                    kept.pod_cidrs.push(cidr);
                }
            }
        }
        for &address in &node.addresses {
            match self.addresses.get(&address) {
                Some(by) => report(
                    "status.addresses",
                    format!(
                        "{address} of node {} is node {by}'s too, which keeps it (first by name); correct one of them",
                        node.name
                    ),
                ),
                None => {
                    self.addresses.insert(address, node.name.clone());
                    kept.addresses.push(address);
                }
            }
        }
        kept
    }

    /// Only the neighbours in order can overlap: the last that begins at or before this prefix, and
    /// the first that begins inside of it.
    fn overlapping(&self, cidr: IpNetwork) -> Option<&(IpNetwork, String)> {
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
