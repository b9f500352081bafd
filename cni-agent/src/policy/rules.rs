//! The rules that select a pod, with their peers by number: what a class is.

use super::{Direction, PortSet, peers::Identity};
use crate::model::{NamedPort, PortChoice, Ports, Protocol};
use std::collections::BTreeSet;

/// A rule in terms of a generation's peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Allow {
    /// None: everybody.
    pub(super) peers: Option<Vec<u32>>,
    /// None: everything.
    pub(super) ports: Option<Vec<Ports>>,
}

/// All rules for a pod. Pods with the same are of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Class {
    /// None: no policy is about what comes.
    pub(super) ingress: Option<Vec<Allow>>,
    pub(super) egress: Option<Vec<Allow>>,
    /// Ports of the pod that rules for what comes name.
    pub(super) ports: Vec<NamedPort>,
}

impl Class {
    pub(super) fn rules(&self, direction: Direction) -> Option<&[Allow]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// What is allowed with an identity. None: no rule means just this one, so that it is what everybody may.
    pub(super) fn with(&self, direction: Direction, identity: &Identity) -> Option<PortSet> {
        let rules = self.rules(direction)?;
        let meant = |allow: &&Allow| {
            let peers = allow.peers.as_deref();
            peers.is_some_and(|peers| peers.iter().any(|peer| identity.is(*peer)))
        };
        let named = rules.iter().any(|allow| allow.names_ports());
        let by_name = direction == Direction::Egress && named && !identity.ports.is_empty();
        if !by_name && !rules.iter().any(|allow| meant(&allow)) {
            return None;
        }
        let ports = match direction {
            Direction::Ingress => &self.ports,
            Direction::Egress => &identity.ports,
        };
        let mut set = PortSet::default();
        for allow in rules.iter().filter(|a| a.peers.is_none() || meant(a)) {
            allow.add_to(&mut set, ports);
        }
        Some(set)
    }

    /// What is allowed with who is nobody's peer.
    pub(super) fn with_anybody(&self, direction: Direction) -> PortSet {
        let mut set = PortSet::default();
        let ports: &[NamedPort] = match direction {
            Direction::Ingress => &self.ports,
            // Who is no pod of ours has no names.
            Direction::Egress => &[],
        };
        let rules = self.rules(direction).unwrap_or_default();
        for allow in rules.iter().filter(|allow| allow.peers.is_none()) {
            allow.add_to(&mut set, ports);
        }
        set
    }
}

impl Allow {
    fn names_ports(&self) -> bool {
        names(self.ports.as_deref()).next().is_some()
    }

    fn add_to(&self, set: &mut PortSet, named: &[NamedPort]) {
        let Some(ports) = &self.ports else {
            *set = PortSet::all();
            return;
        };
        for entry in ports {
            match &entry.port {
                // Port 0 is none, and nobody means it.
                PortChoice::All => set.add(entry.protocol, 0, u16::MAX),
                PortChoice::Range(first, last) => set.add(entry.protocol, *first, *last),
                PortChoice::Named(name) => {
                    let same = |p: &&NamedPort| p.name == *name && p.protocol == entry.protocol;
                    for port in named.iter().filter(same) {
                        set.add(port.protocol, port.port, port.port);
                    }
                }
            }
        }
    }
}

/// The names that ports of a rule have.
pub(super) fn names(ports: Option<&[Ports]>) -> impl Iterator<Item = (&str, Protocol)> {
    let ports = ports.unwrap_or_default().iter();
    ports.filter_map(|entry| match &entry.port {
        PortChoice::Named(name) => Some((name.as_str(), entry.protocol)),
        _ => None,
    })
}

/// Those of a pod's ports that are named by somebody.
pub(super) fn named_of(
    ports: &[NamedPort],
    names: &BTreeSet<(String, Protocol)>,
) -> Vec<NamedPort> {
    let wanted = |port: &&NamedPort| names.contains(&(port.name.clone(), port.protocol));
    ports.iter().filter(wanted).cloned().collect()
}
