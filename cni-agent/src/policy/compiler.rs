//! From a cluster to the tables of one node, with work only for what changed.

use super::{
    Direction, EndpointPolicy, PortSet, Start, Tables, Verdict, VerdictKey,
    peers::{Identity, Peers},
    rules::{Allow, Class, Judged, Side, named_of, names},
    select::{Selected, all_addresses, judgements, meaning, rules, select},
};
use crate::{
    model::{ClusterPolicy, Namespace, NetworkPolicy, Node, Peer, Pod, Protocol, Rule, Tier},
    state::{Cluster, Objects},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// Namespace and name.
type Key = (String, String);

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// Its endpoint's number.
    pub endpoint: u32,
    pub namespace: String,
    pub name: String,
    /// Its endpoint's. Its status has them only a moment after it has started, and it may send at once.
    pub addresses: Vec<IpAddr>,
}

/// Whose identities are to be found anew.
enum Moved {
    Pods { changed: BTreeSet<Key>, nodes: bool },
    All { nodes: bool },
}

/// Remembers what it compiled last. But for the numbers, which are used once, its tables depend on what it
/// was given last alone.
#[derive(Debug)]
pub struct Compiler {
    node: String,
    next: Start,
    pods: Objects<Key, Pod>,
    namespaces: Objects<String, Namespace>,
    policies: Objects<Key, NetworkPolicy>,
    cluster_policies: Objects<Key, ClusterPolicy>,
    nodes: Objects<String, Node>,
    domains: Objects<String, BTreeSet<IpAddr>>,
    locals: Vec<LocalPod>,
    /// The node's addresses.
    own: Vec<IpAddr>,
    peers: Peers,
    /// Names of ports that rules for what goes have, and that rules for what comes have.
    named: [BTreeSet<(String, Protocol)>; 2],
    identities: HashMap<Identity, u32>,
    next_identity: u32,
    /// By pod: its addresses with their identities.
    of_pod: HashMap<Key, Vec<(IpAddr, u32)>>,
    /// Of nodes that are peers.
    of_nodes: Vec<(IpAddr, u32)>,
    /// The peers that addresses are by their names.
    by_domain: HashMap<IpAddr, Vec<u32>>,
    /// Of addresses with such names.
    of_domains: Vec<(IpAddr, u32)>,
    classes: BTreeMap<Class, u32>,
    sets: HashMap<Arc<PortSet>, u32>,
    tables: Arc<Tables>,
}

impl Compiler {
    /// For the node of that name; its numbers begin there.
    pub fn new(node: &str, start: Start) -> Self {
        Self {
            node: node.to_owned(),
            own: Vec::new(),
            next: start,
            pods: Objects::default(),
            namespaces: Objects::default(),
            policies: Objects::default(),
            cluster_policies: Objects::default(),
            nodes: Objects::default(),
            domains: Objects::default(),
            locals: Vec::new(),
            peers: Peers::default(),
            named: [const { BTreeSet::new() }; 2],
            identities: HashMap::new(),
            next_identity: 1,
            of_pod: HashMap::new(),
            of_nodes: Vec::new(),
            by_domain: HashMap::new(),
            of_domains: Vec::new(),
            classes: BTreeMap::new(),
            sets: HashMap::new(),
            tables: Arc::default(),
        }
    }

    /// The tables of a cluster for these pods of the node; the same allocation while nothing changed. They
    /// still hold the verdicts between what was and what is now, which packets need while the change is
    /// written; once it is, [`Self::settle`] gives the tables without.
    pub fn update(&mut self, cluster: &Cluster, locals: &[LocalPod]) -> Arc<Tables> {
        let policies = !(self.policies.is_copy_of(&cluster.policies)
            && self.cluster_policies.is_copy_of(&cluster.cluster_policies));
        let nodes = self.peers.mean_nodes() && !self.nodes.is_copy_of(&cluster.nodes);
        let domains = self.peers.mean_domains() && !self.domains.is_copy_of(&cluster.domains);
        let namespaces = !self.namespaces.is_copy_of(&cluster.namespaces);
        let pods = !self.pods.is_copy_of(&cluster.pods);
        let own = cluster.nodes.get(&self.node);
        let own: Vec<IpAddr> = own.map(all_addresses).into_iter().flatten().collect();
        let first = self.tables.generation == 0;
        if !(policies
            || namespaces
            || pods
            || nodes
            || domains
            || self.locals != locals
            || self.own != own
            || first)
        {
            return self.tables.clone();
        }
        let changed = cluster.pods.differing(&self.pods).into_iter();
        let mut changed: BTreeSet<Key> = changed.cloned().collect();
        let moved = |these: &[LocalPod], those: &[LocalPod]| -> Vec<Key> {
            let moved = these.iter().filter(|local| !those.contains(local));
            moved.map(LocalPod::key).collect()
        };
        changed.extend(moved(&self.locals, locals));
        changed.extend(moved(locals, &self.locals));
        self.pods = cluster.pods.clone();
        self.namespaces = cluster.namespaces.clone();
        self.policies = cluster.policies.clone();
        locals.clone_into(&mut self.locals);
        self.cluster_policies = cluster.cluster_policies.clone();
        self.nodes = cluster.nodes.clone();
        self.domains = cluster.domains.clone();
        self.own = own;

        let selected = select(cluster, locals);
        let fresh = self.renew_peers(&selected);
        if fresh || domains {
            changed.extend(self.renew_domains());
        }
        // They are placed by their names, too.
        let nodes = nodes || domains;
        let moved = match namespaces {
            true => Moved::All { nodes },
            false => Moved::Pods { changed, nodes },
        };
        let mut tables = self.compile(&selected, fresh, moved);
        if !fresh && self.would_mix(&tables) {
            tables = self.compile(&selected, true, Moved::All { nodes: true });
        }
        if tables != *self.tables {
            self.tables = Arc::new(tables);
        }
        self.tables.clone()
    }

    fn compile(&mut self, selected: &[Selected<'_>], fresh: bool, moved: Moved) -> Tables {
        let mut tables = match fresh {
            true => self.begin_generation(),
            false => Tables::clone(&self.tables),
        };
        let (pods, nodes) = match moved {
            Moved::Pods { changed, nodes } if !fresh => (changed, nodes),
            Moved::Pods { nodes, .. } | Moved::All { nodes } => {
                let all = self.of_pod.keys().chain(self.pods.keys());
                (all.cloned().collect(), nodes || fresh)
            }
        };
        self.place_pods(pods.iter());
        if nodes {
            self.place_nodes();
            self.place_domains();
        }
        let mut classes = std::mem::take(&mut self.classes);
        self.renew_classes(selected, &mut classes, &mut tables);
        self.fill_addresses(&mut tables);
        self.fill_verdicts(&classes, &mut tables);
        tables
    }

    /// Whether an endpoint would take its new rules while somebody else is another peer than before. Written one
    /// after the other, both together would say for a moment what neither cluster says: then all addresses
    /// are told anew, by a generation that each endpoint enters with its rules.
    fn would_mix(&self, tables: &Tables) -> bool {
        let before = &self.tables;
        let rules = |policy: &EndpointPolicy| (policy.class, policy.ingress, policy.egress);
        let mut changed = self.locals.iter().filter(|local| {
            let ways = [before, tables].map(|tables| tables.endpoints.get(&local.endpoint));
            matches!(ways, [Some(before), Some(after)] if rules(before) != rules(after))
        });
        let Some(first) = changed.next() else {
            return false;
        };
        let several = changed.next().is_some();
        let known = before.addresses.keys().chain(tables.addresses.keys());
        let mut moved = known
            .filter(|address| before.addresses.get(*address) != tables.addresses.get(*address));
        // A pod's own address is no peer of it.
        moved.any(|address| several || !first.addresses.contains(address))
    }

    /// The tables without what only the last change needed.
    pub fn settle(&mut self) -> Arc<Tables> {
        let classes: HashSet<u32> = self.classes.values().copied().collect();
        let identities = used_identities(&self.tables);
        let needed = |key: &VerdictKey| {
            classes.contains(&key.class)
                && (key.identity == Tables::ANYBODY || identities.contains(&key.identity))
        };
        if self.tables.verdicts.keys().any(|key| !needed(key)) {
            let mut tables = Tables::clone(&self.tables);
            tables.verdicts.retain(|key, _| needed(key));
            self.keep_sets(&mut tables);
            self.tables = Arc::new(tables);
        }
        // Also of who shares an address with another one now, and has it alone later.
        let placed = self.of_pod.values().flatten();
        let placed = placed.chain(&self.of_nodes).chain(&self.of_domains);
        let placed: HashSet<u32> = placed.map(|(_, number)| *number).collect();
        self.identities.retain(|_, number| {
            *number == Tables::ANYBODY || identities.contains(number) || placed.contains(number)
        });
        self.tables.clone()
    }

    /// Takes over the peers that rules name; whether they are others than before.
    fn renew_peers(&mut self, selected: &[Selected<'_>]) -> bool {
        let mut meanings = BTreeSet::new();
        let mut named = [const { BTreeSet::new() }; 2];
        for (side, namespace, rule) in selected.iter().flat_map(Selected::rules) {
            let peers = rule.peers.iter().flatten();
            meanings.extend(peers.map(|peer| meaning(peer, namespace)));
            let names = names(rule.ports.as_deref());
            named[side as usize].extend(names.map(|(name, protocol)| (name.to_owned(), protocol)));
        }
        let egress = Direction::Egress as usize;
        let same = self.peers.are(&meanings) && self.named[egress] == named[egress];
        if !same {
            self.peers = Peers::new(&meanings);
        }
        self.named = named;
        !same || self.tables.generation == 0
    }

    /// Takes over who is a peer by name; the pods of which that may have changed.
    fn renew_domains(&mut self) -> Vec<Key> {
        let by_domain = self.peers.by_domain(&self.domains);
        let before = std::mem::replace(&mut self.by_domain, by_domain);
        if before.is_empty() && self.by_domain.is_empty() {
            return Vec::new();
        }
        let moved = |address: &IpAddr| before.get(address) != self.by_domain.get(address);
        let pods = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.ips.iter().any(moved));
        pods.map(|(key, _)| key.clone()).collect()
    }

    fn begin_generation(&mut self) -> Tables {
        self.identities.clear();
        self.identities.insert(Identity::default(), Tables::ANYBODY);
        self.next_identity = 1;
        self.of_pod.clear();
        self.of_nodes.clear();
        self.of_domains.clear();
        self.classes.clear();
        let generation = self.next.generation;
        self.next.generation += 1;
        let mut tables = Tables {
            generation,
            ..Tables::default()
        };
        for (prefix, identity) in self.peers.prefixes() {
            tables.prefixes.insert(prefix, self.number_of(identity));
        }
        tables
    }

    fn number_of(&mut self, identity: Identity) -> u32 {
        *self.identities.entry(identity).or_insert_with(|| {
            self.next_identity += 1;
            self.next_identity - 1
        })
    }

    /// Finds the identities of these pods' addresses anew.
    fn place_pods<'a>(&mut self, keys: impl Iterator<Item = &'a Key>) {
        let mut local: HashMap<Key, Vec<IpAddr>> = HashMap::new();
        for pod in &self.locals {
            local.entry(pod.key()).or_default().extend(&pod.addresses);
        }
        for key in keys {
            let mut placed = Vec::new();
            if let Some(pod) = self.pods.shared(key).filter(|pod| !pod.host_network) {
                let namespace = self.namespaces.get(&pod.namespace);
                let mut identity = Identity::with_ports(named_of(
                    &pod.ports,
                    &self.named[Direction::Egress as usize],
                ));
                self.peers.of_pod(&pod, namespace, &mut identity);
                let own = local.get(key).into_iter().flatten();
                let own = own.filter(|address| !pod.ips.contains(address));
                for address in pod.ips.iter().chain(own) {
                    let mut identity = identity.clone();
                    self.add_address(*address, &mut identity);
                    if !identity.is_anybody() {
                        placed.push((*address, self.number_of(identity)));
                    }
                }
            }
            if placed.is_empty() {
                self.of_pod.remove(key);
            } else {
                self.of_pod.insert(key.clone(), placed);
            }
        }
    }

    /// Finds the identities of the nodes' addresses anew.
    fn place_nodes(&mut self) {
        self.of_nodes.clear();
        if !self.peers.mean_nodes() {
            return;
        }
        for node in self.nodes.clone().values() {
            let mut of_node = Identity::default();
            // Who is none is found by its blocks alone.
            if !self.peers.of_node(node, &mut of_node) {
                continue;
            }
            for address in all_addresses(node) {
                let mut identity = of_node.clone();
                self.add_address(address, &mut identity);
                let number = self.number_of(identity);
                self.of_nodes.push((address, number));
            }
        }
    }

    /// Finds the identities of addresses that have names anew.
    fn place_domains(&mut self) {
        self.of_domains.clear();
        let addresses: Vec<IpAddr> = self.by_domain.keys().copied().collect();
        for address in addresses {
            let mut identity = Identity::default();
            self.add_address(address, &mut identity);
            let number = self.number_of(identity);
            self.of_domains.push((address, number));
        }
    }

    /// Adds the peers that somebody is by an address.
    fn add_address(&self, address: IpAddr, identity: &mut Identity) {
        self.peers.of_address(address, identity);
        let by_name = self.by_domain.get(&address).into_iter().flatten();
        by_name.for_each(|number| identity.add(*number));
    }

    /// Numbers the classes of the local pods. `all` are those that were, and are added to.
    fn renew_classes(
        &mut self,
        selected: &[Selected<'_>],
        all: &mut BTreeMap<Class, u32>,
        tables: &mut Tables,
    ) {
        tables.endpoints.clear();
        for selected in selected {
            let class = self.class(selected);
            let mut number = 0;
            if class != Class::default() {
                number = *all.entry(class.clone()).or_insert_with(|| {
                    self.next.class += 1;
                    self.next.class - 1
                });
            }
            let policy = EndpointPolicy {
                generation: tables.generation,
                class: number,
                ingress: !class.ingress.is_open(),
                egress: !class.egress.is_open(),
                audit: selected.audit && class != Class::default(),
            };
            tables.endpoints.insert(selected.pod.endpoint, policy);
            if number != 0 {
                self.classes.insert(class, number);
            }
        }
    }

    fn class(&self, selected: &Selected<'_>) -> Class {
        let ingress = self.side(selected, Direction::Ingress);
        let ports = match ingress.is_open() {
            false => named_of(selected.ports, &self.named[Direction::Ingress as usize]),
            true => Vec::new(),
        };
        Class {
            egress: self.side(selected, Direction::Egress),
            ingress,
            ports,
        }
    }

    fn side(&self, selected: &Selected<'_>, direction: Direction) -> Side {
        if selected.denied {
            return Side::denied();
        }
        let policies = match direction {
            Direction::Ingress => &selected.ingress,
            Direction::Egress => &selected.egress,
        };
        let rules = policies.as_ref().map(|policies| {
            let rules = policies.iter().flat_map(|policy| {
                rules(policy, direction).map(|rule| self.allow(rule, &policy.namespace))
            });
            let rules: BTreeSet<Allow> = rules.collect();
            rules.into_iter().collect()
        });
        let tier = |tier: Tier| -> Vec<Judged> {
            let policies = selected.cluster.iter().filter(|policy| policy.tier == tier);
            let rules = policies.flat_map(|policy| judgements(policy, direction));
            rules
                .map(|judgement| Judged {
                    action: judgement.action,
                    of: self.allow(&judgement.rule, ""),
                })
                .collect()
        };
        Side {
            admin: tier(Tier::Admin),
            // NetworkPolicies leave nothing to it.
            baseline: match rules {
                Some(_) => Vec::new(),
                None => tier(Tier::Baseline),
            },
            rules,
        }
    }

    fn allow(&self, rule: &Rule, namespace: &str) -> Allow {
        let peers = rule.peers.as_ref();
        Allow {
            peers: peers.map(|peers| self.numbers(peers, namespace)),
            ports: rule.ports.clone(),
        }
    }

    fn numbers(&self, peers: &[Peer], namespace: &str) -> Vec<u32> {
        let numbers = peers.iter();
        let numbers = numbers.filter_map(|peer| self.peers.number(&meaning(peer, namespace)));
        numbers.collect::<BTreeSet<u32>>().into_iter().collect()
    }

    fn fill_addresses(&mut self, tables: &mut Tables) {
        tables.addresses.clear();
        // Who is somebody else, too, has that one's identity, which holds this one.
        tables.addresses.extend(self.of_domains.iter().copied());
        tables.addresses.extend(self.of_nodes.iter().copied());
        // Of two pods with one address, one is about to go.
        let mut keys: Vec<&Key> = self.of_pod.keys().collect();
        keys.sort_unstable();
        for key in keys {
            tables.addresses.extend(self.of_pod[key].iter().copied());
        }
        // Whoever else claims them. Only policies of the cluster may come between a node and its pods: else it
        // is told from all others before anything is looked up.
        let judged = self.classes.keys().any(|class| class.egress.is_judged());
        for address in self.own.clone() {
            let mut number = Tables::NODE;
            if judged {
                let mut identity = Identity::own();
                if let Some(own) = self.nodes.get(&self.node) {
                    self.peers.of_node(own, &mut identity);
                }
                self.add_address(address, &mut identity);
                number = self.number_of(identity);
            }
            tables.addresses.insert(address, number);
        }
    }

    /// `classes` are those that were and those that are: an address has its new identity before the endpoint
    /// has its new class. Not the other way round, since programs read the class first.
    fn fill_verdicts(&mut self, classes: &BTreeMap<Class, u32>, tables: &mut Tables) {
        let used = used_identities(tables);
        // Each of these has its verdicts with each of those.
        let (mut known_classes, mut known_identities) = (HashSet::new(), HashSet::new());
        if self.tables.generation == tables.generation {
            let endpoints = self.tables.endpoints.values();
            known_classes.extend(endpoints.map(|policy| policy.class));
            known_identities = used_identities(&self.tables);
        }
        let identities: Vec<(Identity, u32)> = (self.identities.iter())
            .filter(|(_, number)| used.contains(number))
            .map(|(identity, number)| (identity.clone(), *number))
            .collect();
        for (class, number) in classes {
            for direction in Direction::BOTH {
                if class.side(direction).is_open() {
                    continue;
                }
                let key = |identity| VerdictKey {
                    class: *number,
                    direction,
                    identity,
                };
                let anybody = class.with_anybody(direction);
                if !anybody.is_empty() {
                    let set = self.set_of(anybody);
                    tables
                        .verdicts
                        .insert(key(Tables::ANYBODY), Verdict { set });
                }
                let is_known = known_classes.contains(number);
                for (identity, of) in &identities {
                    if is_known && known_identities.contains(of) {
                        continue;
                    }
                    if let Some(set) = class.with(direction, identity) {
                        let set = self.set_of(set);
                        tables.verdicts.insert(key(*of), Verdict { set });
                    }
                }
            }
        }
        self.keep_sets(tables);
    }

    fn set_of(&mut self, set: PortSet) -> u32 {
        let set = Arc::new(set);
        *self.sets.entry(set).or_insert_with(|| {
            self.next.set += 1;
            self.next.set - 1
        })
    }

    fn keep_sets(&mut self, tables: &mut Tables) {
        let used: HashSet<u32> = tables
            .verdicts
            .values()
            .map(|verdict| verdict.set)
            .collect();
        self.sets.retain(|_, number| used.contains(number));
        tables.sets = self
            .sets
            .iter()
            .map(|(set, number)| (*number, set.clone()))
            .collect();
    }
}

impl LocalPod {
    pub(super) fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }
}

fn used_identities(tables: &Tables) -> HashSet<u32> {
    let addresses = tables.addresses.values();
    addresses.chain(tables.prefixes.values()).copied().collect()
}
