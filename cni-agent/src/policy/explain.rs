//! Why a pod may talk with somebody, or not: rule by rule, with the compiler's own selectors and sets.

use super::{
    Direction, LocalPod, PortSet,
    peers::{Identity, Peers},
    rules::Allow,
    select::{Selected, all_addresses, judgements, meaning, rules, select},
};
use crate::{
    model::{Action, NamedPort, Protocol, Rule, Tier},
    state::Cluster,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

/// What is asked about: a port that is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Port {
    Of(Protocol, u16),
    /// A protocol without ports, ICMP above all.
    None,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(protocol, port) => write!(f, "{port}/{}", protocol.as_str()),
            Self::None => f.write_str("ICMP"),
        }
    }
}

/// What policies say about a pod and a peer in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub allowed: bool,
    /// What is not allowed passes all the same: the pod's namespace only has it watched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    pub because: Because,
    /// All rules about the pod in the order in which they are asked, also those after the one that decides.
    pub rules: Vec<AskedRule>,
}

/// What decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// The rule that says so.
    Rule,
    /// NetworkPolicies select the pod, and none of their rules lets this through.
    NoRule,
    /// No policy means this.
    NoPolicy,
    /// Between a node and its own pods NetworkPolicies don't count.
    OwnNode,
    /// Policies may be about the pod, whose labels or whose namespace nobody has told of yet.
    NotKnown,
}

/// A rule, and what of it fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskedRule {
    /// `NetworkPolicy shop/web`.
    pub object: String,
    /// Where in it: `spec.ingress[0]`. Empty where the object has no rule for this direction.
    pub rule: String,
    /// The rule's own name, where it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where it is written, as `file:line`, where it comes from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// `Admin`, `NetworkPolicy` or `Baseline`.
    pub tier: String,
    pub action: Action,
    /// Whether it means the peer.
    pub peer: bool,
    /// Whether it means the port.
    pub port: bool,
    pub decides: bool,
}

/// Explains what policies say to a pod of the node about a peer. `port`: of the end that is connected to.
pub fn explain(
    cluster: &Cluster,
    node: &str,
    local: &LocalPod,
    direction: Direction,
    peer: IpAddr,
    port: Port,
) -> Explanation {
    let locals = [local.clone()];
    let all = select(cluster, &locals);
    let [selected] = all.as_slice() else {
        return Explanation::of(false, Because::NotKnown);
    };
    let unknown = !cluster.pods.contains_key(&local.key()) || selected.denied;
    let own = cluster.nodes.get(node);
    let of_own = own.is_some_and(|own| all_addresses(own).any(|address| address == peer));
    if of_own && direction == Direction::Ingress {
        return Explanation::of(true, Because::OwnNode);
    }
    let isolated = match direction {
        Direction::Ingress => selected.ingress.is_some(),
        Direction::Egress => selected.egress.is_some(),
    };
    if unknown && (selected.denied || isolated) {
        let own = of_own && !selected.denied;
        return match own {
            true => Explanation::of(true, Because::OwnNode),
            false => Explanation {
                audit: selected.audit,
                ..Explanation::of(false, Because::NotKnown)
            },
        };
    }
    Asked::new(cluster, selected, direction, peer, of_own, port).judged(isolated)
}

/// Pods (namespace/name) that each policy is about, by its kind, namespace and name.
pub fn selected_by(
    cluster: &Cluster,
    locals: &[LocalPod],
) -> BTreeMap<(String, String, String), Vec<String>> {
    let mut pods: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for selected in select(cluster, locals) {
        let both = selected.ingress.iter().chain(&selected.egress).flatten();
        let own = both.map(|policy| ("NetworkPolicy", &policy.namespace, &policy.name));
        let none = String::new();
        let of_cluster = selected.cluster.iter();
        let of_cluster = of_cluster.map(|policy| (policy.kind.as_str(), &none, &policy.name));
        let policies: BTreeSet<_> = own.chain(of_cluster).collect();
        for (kind, namespace, name) in policies {
            let key = (kind.to_owned(), namespace.clone(), name.clone());
            let pod = format!("{}/{}", selected.pod.namespace, selected.pod.name);
            pods.entry(key).or_default().push(pod);
        }
    }
    pods
}

impl Explanation {
    const fn of(allowed: bool, because: Because) -> Self {
        Self {
            allowed,
            audit: false,
            because,
            rules: Vec::new(),
        }
    }
}

struct Asked<'a> {
    selected: &'a Selected<'a>,
    direction: Direction,
    peers: Peers,
    identity: Identity,
    /// Of the pod that is connected to.
    named: Vec<NamedPort>,
    port: Port,
}

impl<'a> Asked<'a> {
    fn new(
        cluster: &Cluster,
        selected: &'a Selected<'a>,
        direction: Direction,
        peer: IpAddr,
        of_own: bool,
        port: Port,
    ) -> Self {
        let meanings: BTreeSet<_> = selected
            .rules()
            .flat_map(|(_, namespace, rule)| {
                let peers = rule.peers.iter().flatten();
                peers.map(move |peer| meaning(peer, namespace))
            })
            .collect();
        let peers = Peers::new(&meanings);
        let mut identity = match of_own {
            true => Identity::own(),
            false => Identity::default(),
        };
        // Of two pods with one address the compiler takes the last, too.
        let has = |ips: &[IpAddr]| ips.contains(&peer);
        let pod = cluster.pods.values().filter(|pod| !pod.host_network);
        let pod = pod.filter(|pod| has(&pod.ips)).last().filter(|_| !of_own);
        let mut named = Vec::new();
        if let Some(pod) = pod {
            peers.of_pod(pod, cluster.namespaces.get(&pod.namespace), &mut identity);
            named.clone_from(&pod.ports);
        } else {
            let mut nodes = cluster.nodes.values();
            if let Some(node) = nodes.find(|node| all_addresses(node).any(|a| a == peer)) {
                peers.of_node(node, &mut identity);
            }
        }
        peers.of_address(peer, &mut identity);
        let by_domain = peers.by_domain(&cluster.domains);
        let by_name = by_domain.get(&peer).into_iter().flatten();
        by_name.for_each(|number| identity.add(*number));
        if direction == Direction::Ingress {
            named = selected.ports.to_vec();
        }
        Self {
            selected,
            direction,
            peers,
            identity,
            named,
            port,
        }
    }

    fn judged(&self, isolated: bool) -> Explanation {
        let mut rules = self.of_tier(Tier::Admin);
        let mut decided = self.decide(&mut rules);
        if decided.is_none_or(|action| action == Action::Pass) {
            // A rule that passes decides nothing yet.
            let mut further = match isolated {
                true => self.of_policies(),
                false => self.of_tier(Tier::Baseline),
            };
            decided = match isolated && self.identity.own {
                true => None,
                false => self.decide(&mut further),
            };
            rules.append(&mut further);
        }
        let (allowed, because) = match decided {
            Some(Action::Accept) => (true, Because::Rule),
            Some(Action::Deny) => (false, Because::Rule),
            Some(Action::Pass) | None if !isolated => (true, Because::NoPolicy),
            _ if self.identity.own => (true, Because::OwnNode),
            _ => (false, Because::NoRule),
        };
        Explanation {
            allowed,
            audit: self.selected.audit,
            because,
            rules,
        }
    }

    /// Marks the first that means it.
    fn decide(&self, rules: &mut [AskedRule]) -> Option<Action> {
        let first = rules.iter_mut().find(|rule| rule.peer && rule.port)?;
        first.decides = true;
        Some(first.action)
    }

    fn of_tier(&self, tier: Tier) -> Vec<AskedRule> {
        let policies = self.selected.cluster.iter();
        let policies = policies.filter(|policy| policy.tier == tier);
        let mut all = Vec::new();
        for policy in policies {
            for (n, judgement) in judgements(policy, self.direction).iter().enumerate() {
                let (peer, port) = self.fits(&judgement.rule, "");
                all.push(AskedRule {
                    object: format!("{} {}", policy.kind, policy.name),
                    rule: format!("spec.{}[{n}]", self.direction.as_str()),
                    name: judgement.name.clone(),
                    place: None,
                    tier: format!("{tier:?}"),
                    action: judgement.action,
                    peer,
                    port,
                    decides: false,
                });
            }
        }
        all
    }

    fn of_policies(&self) -> Vec<AskedRule> {
        let policies = match self.direction {
            Direction::Ingress => &self.selected.ingress,
            Direction::Egress => &self.selected.egress,
        };
        let mut all = Vec::new();
        for policy in policies.iter().flatten() {
            let asked = |rule: String, (peer, port)| AskedRule {
                object: format!("NetworkPolicy {}/{}", policy.namespace, policy.name),
                rule,
                name: String::new(),
                place: None,
                tier: "NetworkPolicy".into(),
                action: Action::Accept,
                peer,
                port,
                decides: false,
            };
            let before = all.len();
            for (n, rule) in rules(policy, self.direction).enumerate() {
                let fits = self.fits(rule, &policy.namespace);
                all.push(asked(
                    format!("spec.{}[{n}]", self.direction.as_str()),
                    fits,
                ));
            }
            if all.len() == before {
                all.push(asked(String::new(), (false, false)));
            }
        }
        all
    }

    /// Whether a rule means the peer, and whether it means the port.
    fn fits(&self, rule: &Rule, namespace: &str) -> (bool, bool) {
        let numbers = rule.peers.as_ref().map(|peers| {
            let numbers = peers.iter();
            let numbers = numbers.filter_map(|peer| self.peers.number(&meaning(peer, namespace)));
            numbers.collect()
        });
        let allow = Allow {
            peers: numbers,
            ports: rule.ports.clone(),
        };
        let mut set = PortSet::default();
        allow.add_to(&mut set, &self.named);
        let port = match self.port {
            Port::Of(protocol, port) => set.has(protocol, port),
            Port::None => set.others,
        };
        (allow.is_about(&self.identity), port)
    }
}
