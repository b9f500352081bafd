//! The peers that rules name, and who is which of them.

use crate::{
    model::{DomainPattern, NamedPort, Namespace, Node, Pod, Selector},
    state::Objects,
};
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

/// A peer of a rule, in terms of the cluster: two rules that mean the same share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Meaning {
    Pods {
        of: Namespaces,
        pods: Selector,
    },
    Nodes(Selector),
    Block {
        cidr: IpNetwork,
        except: Vec<IpNetwork>,
    },
    Domain(DomainPattern),
}

/// Whose pods: a namespace is a type of its own, no label that somebody could set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Namespaces {
    One(String),
    Selected(Selector),
}

/// What an address is to the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    /// Bits by the peers' numbers, without zeros at the end.
    peers: Vec<u64>,
    /// Ports of the pod that rules for what goes name.
    pub(super) ports: Vec<NamedPort>,
    /// It is this node, from which everything may come.
    pub(super) own: bool,
}

impl Identity {
    /// Of a pod with these ports, so far nobody's peer.
    pub(super) fn with_ports(ports: Vec<NamedPort>) -> Self {
        Self {
            ports,
            ..Self::default()
        }
    }

    /// This node's.
    pub(super) fn own() -> Self {
        Self {
            own: true,
            ..Self::default()
        }
    }

    pub(super) fn is(&self, peer: u32) -> bool {
        let word = self.peers.get(peer as usize / 64);
        word.is_some_and(|word| word >> (peer % 64) & 1 != 0)
    }

    pub(super) fn add(&mut self, peer: u32) {
        let at = peer as usize / 64;
        if self.peers.len() <= at {
            self.peers.resize(at + 1, 0);
        }
        self.peers[at] |= 1 << (peer % 64);
    }

    /// Nobody's peer, and nothing named.
    pub(super) fn is_anybody(&self) -> bool {
        self.peers.is_empty() && self.ports.is_empty() && !self.own
    }
}

/// All peers by number, and how to find those of an address.
#[derive(Debug, Default)]
pub(super) struct Peers {
    numbers: BTreeMap<Meaning, u32>,
    /// Peers that mean pods, by the one namespace that they mean.
    of_one: HashMap<String, Vec<(u32, Selector)>>,
    of_selected: Vec<(u32, Selector, Selector)>,
    of_nodes: Vec<(u32, Selector)>,
    blocks: Vec<(u32, IpNetwork, Vec<IpNetwork>)>,
    domains: Vec<(u32, DomainPattern)>,
}

impl Peers {
    /// Numbers in the order of the set.
    pub(super) fn new(meanings: &BTreeSet<Meaning>) -> Self {
        let mut peers = Self::default();
        for (number, meaning) in (0..).zip(meanings) {
            peers.numbers.insert(meaning.clone(), number);
            match meaning.clone() {
                Meaning::Pods {
                    of: Namespaces::One(name),
                    pods,
                } => {
                    peers.of_one.entry(name).or_default().push((number, pods));
                }
                Meaning::Pods {
                    of: Namespaces::Selected(of),
                    pods,
                } => {
                    peers.of_selected.push((number, of, pods));
                }
                Meaning::Nodes(selector) => peers.of_nodes.push((number, selector)),
                Meaning::Block { cidr, except } => peers.blocks.push((number, cidr, except)),
                Meaning::Domain(pattern) => peers.domains.push((number, pattern)),
            }
        }
        peers
    }

    /// Whether these are its peers.
    pub(super) fn are(&self, meanings: &BTreeSet<Meaning>) -> bool {
        self.numbers.len() == meanings.len() && self.numbers.keys().eq(meanings)
    }

    pub(super) fn number(&self, meaning: &Meaning) -> Option<u32> {
        self.numbers.get(meaning).copied()
    }

    /// Adds the peers that a pod is, wherever it is reached.
    pub(super) fn of_pod(&self, pod: &Pod, namespace: Option<&Namespace>, identity: &mut Identity) {
        for (number, selector) in self.of_one.get(&pod.namespace).into_iter().flatten() {
            if selector.selects(&pod.labels) {
                identity.add(*number);
            }
        }
        // One that is not known has no labels that anybody could mean.
        let Some(namespace) = namespace else { return };
        for (number, of, selector) in &self.of_selected {
            if of.selects(&namespace.labels) && selector.selects(&pod.labels) {
                identity.add(*number);
            }
        }
    }

    /// Whether any of them means nodes.
    pub(super) fn mean_nodes(&self) -> bool {
        !self.of_nodes.is_empty()
    }

    /// Adds the peers that a node is; whether it is any.
    pub(super) fn of_node(&self, node: &Node, identity: &mut Identity) -> bool {
        let peers = self.of_nodes.iter();
        let mut peers = peers
            .filter(|(_, selector)| selector.selects(&node.labels))
            .peekable();
        let is_any = peers.peek().is_some();
        peers.for_each(|(number, _)| identity.add(*number));
        is_any
    }

    /// Adds the blocks that an address is in.
    pub(super) fn of_address(&self, address: IpAddr, identity: &mut Identity) {
        for (number, cidr, except) in &self.blocks {
            if cidr.contains(address) && !except.iter().any(|part| part.contains(address)) {
                identity.add(*number);
            }
        }
    }

    /// Whether any of them means names.
    pub(super) fn mean_domains(&self) -> bool {
        !self.domains.is_empty()
    }

    /// The peers that addresses are by the names that they have.
    pub(super) fn by_domain(
        &self,
        domains: &Objects<String, BTreeSet<IpAddr>>,
    ) -> HashMap<IpAddr, Vec<u32>> {
        let mut by_domain: HashMap<IpAddr, Vec<u32>> = HashMap::new();
        for (number, pattern) in &self.domains {
            let meant = domains.iter().filter(|(name, _)| pattern.means(name));
            for address in meant.flat_map(|(_, addresses)| addresses.iter()) {
                by_domain.entry(*address).or_default().push(*number);
            }
        }
        by_domain
    }

    /// Prefixes in which, outside of longer ones among them, all addresses are in the same blocks.
    pub(super) fn prefixes(&self) -> BTreeMap<IpNetwork, Identity> {
        let mut prefixes = BTreeMap::new();
        for (_, cidr, except) in &self.blocks {
            for prefix in except.iter().chain([cidr]) {
                // As good as any of those in no longer prefix: each block's ends are prefixes here.
                prefixes.entry(*prefix).or_insert_with(|| {
                    let mut identity = Identity::default();
                    self.of_prefix(*prefix, &mut identity);
                    identity
                });
            }
        }
        prefixes
    }

    fn of_prefix(&self, prefix: IpNetwork, identity: &mut Identity) {
        let holds = |outer: &IpNetwork| {
            outer.is_ipv4() == prefix.is_ipv4()
                && outer.prefix() <= prefix.prefix()
                && outer.contains(prefix.network())
        };
        for (number, cidr, except) in &self.blocks {
            if holds(cidr) && !except.iter().any(holds) {
                identity.add(*number);
            }
        }
    }
}
