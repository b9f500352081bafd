//! The rules that select a pod, with their peers by number: what a class is.

use super::{Direction, PortSet, peers::Identity};
use crate::model::{Action, NamedPort, PortChoice, Ports, Protocol};
use std::collections::BTreeSet;

/// A rule in terms of a generation's peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Allow {
    /// None: everybody.
    pub(super) peers: Option<Vec<u32>>,
    /// None: everything.
    pub(super) ports: Option<Vec<Ports>>,
}

/// A rule that says more than what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Judged {
    pub(super) action: Action,
    pub(super) of: Allow,
}

/// All rules for one direction, tier by tier.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Side {
    /// In the order in which they are asked.
    pub(super) admin: Vec<Judged>,
    /// Of NetworkPolicies. None: none is about it.
    pub(super) rules: Option<Vec<Allow>>,
    /// Empty where NetworkPolicies decide.
    pub(super) baseline: Vec<Judged>,
}

/// All rules for a pod. Pods with the same are of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Class {
    pub(super) ingress: Side,
    pub(super) egress: Side,
    /// Ports of the pod that rules for what comes name.
    pub(super) ports: Vec<NamedPort>,
}

impl Class {
    pub(super) fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// What is allowed with an identity. None: no rule means just this one, so that it is what everybody may.
    pub(super) fn with(&self, direction: Direction, identity: &Identity) -> Option<PortSet> {
        let side = self.side(direction);
        if side.is_open() {
            return None;
        }
        if identity.own && direction == Direction::Ingress {
            return Some(PortSet::all());
        }
        let by_name = direction == Direction::Egress
            && !identity.ports.is_empty()
            && side.all().any(Allow::names_ports);
        if !by_name && !identity.own && !side.all().any(|allow| allow.means(identity)) {
            return None;
        }
        let ports = match direction {
            Direction::Ingress => &self.ports,
            Direction::Egress => &identity.ports,
        };
        Some(side.allowed(identity, ports))
    }

    /// What is allowed with who is nobody's peer.
    pub(super) fn with_anybody(&self, direction: Direction) -> PortSet {
        let ports: &[NamedPort] = match direction {
            Direction::Ingress => &self.ports,
            // Who is no pod of ours has no names.
            Direction::Egress => &[],
        };
        let side = self.side(direction);
        side.allowed(&Identity::default(), ports)
    }
}

impl Side {
    /// Nothing at all.
    pub(super) fn denied() -> Self {
        let everything = Allow {
            peers: None,
            ports: None,
        };
        Self {
            admin: vec![Judged {
                action: Action::Deny,
                of: everything,
            }],
            ..Self::default()
        }
    }

    /// Whether no rule is about it.
    pub(super) fn is_open(&self) -> bool {
        self.rules.is_none() && self.admin.is_empty() && self.baseline.is_empty()
    }

    /// Whether policies of the cluster are about it.
    pub(super) fn is_judged(&self) -> bool {
        !(self.admin.is_empty() && self.baseline.is_empty())
    }

    fn all(&self) -> impl Iterator<Item = &Allow> {
        let judged = self.admin.iter().chain(&self.baseline);
        let judged = judged.map(|judged| &judged.of);
        judged.chain(self.rules.iter().flatten())
    }

    /// Each tier decides about what is open when it is asked, and leaves the rest to the next.
    fn allowed(&self, identity: &Identity, named: &[NamedPort]) -> PortSet {
        let (mut allowed, open) = judge(&self.admin, PortSet::all(), identity, named);
        let Some(rules) = &self.rules else {
            let (accepted, rest) = judge(&self.baseline, open, identity, named);
            allowed.unite(&accepted);
            allowed.unite(&rest);
            return allowed;
        };
        if identity.own {
            // NetworkPolicies don't come between a node and its pods.
            allowed.unite(&open);
            return allowed;
        }
        let mut set = PortSet::default();
        for allow in rules.iter().filter(|allow| allow.is_about(identity)) {
            allow.add_to(&mut set, named);
        }
        if self.admin.is_empty() {
            return set;
        }
        allowed.unite(&set.common(&open));
        allowed
    }
}

/// What the rules of a tier accept of what is open, and what they leave to the next.
fn judge(
    rules: &[Judged],
    mut open: PortSet,
    identity: &Identity,
    named: &[NamedPort],
) -> (PortSet, PortSet) {
    let (mut accepted, mut passed) = (PortSet::default(), PortSet::default());
    for judged in rules.iter().filter(|judged| judged.of.is_about(identity)) {
        let mut meant = PortSet::default();
        judged.of.add_to(&mut meant, named);
        let meant = meant.common(&open);
        open = open.without(&meant);
        match judged.action {
            Action::Accept => accepted.unite(&meant),
            Action::Deny => {}
            Action::Pass => passed.unite(&meant),
        }
    }
    open.unite(&passed);
    (accepted, open)
}

impl Allow {
    /// Whether it means this peer and not everybody.
    fn means(&self, identity: &Identity) -> bool {
        let peers = self.peers.as_deref();
        peers.is_some_and(|peers| peers.iter().any(|peer| identity.is(*peer)))
    }

    pub(super) fn is_about(&self, identity: &Identity) -> bool {
        self.peers.is_none() || self.means(identity)
    }

    fn names_ports(&self) -> bool {
        names(self.ports.as_deref()).next().is_some()
    }

    pub(super) fn add_to(&self, set: &mut PortSet, named: &[NamedPort]) {
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
