//! PURE: Calico's GlobalNetworkPolicies and NetworkPolicies as ClusterNetworkPolicies: what can be said is
//! converted, what can't be is named. A policy of which a part has no counterpart is left out whole: half of an
//! ordered list of rules means something else.

mod selector;
#[cfg(test)]
mod tests;
mod wire;

use selector::{All, Is, Term, label_selector};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::cmp::Ordering;
use wire::{Entity, Metadata, Rule, Spec};

/// What came of a set of policies.
#[derive(Clone, Debug, Default)]
pub struct Converted {
    /// ClusterNetworkPolicies.
    pub objects: Vec<Value>,
    /// What was left out, and what is weaker than before: object and reason.
    pub problems: Vec<(String, String)>,
}

/// Rules of one ClusterNetworkPolicy, peers of one rule.
const MOST: usize = 25;
/// The last priority.
const LAST: usize = 1000;
const NAME: &str = "kubernetes.io/metadata.name";

/// Converts the objects of some manifests; those of other kinds are passed over.
pub fn convert(objects: &[Value]) -> Converted {
    let mut converted = Converted::default();
    let mut policies: Vec<Policy> = Vec::new();
    for object in flat(objects) {
        let version = object["apiVersion"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        let ours = version.contains("projectcalico.org/");
        if ours && matches!(kind, "GlobalNetworkPolicy" | "NetworkPolicy") {
            match Policy::read(kind, object) {
                Ok(policy) => policies.push(policy),
                Err(problem) => converted.problems.push(problem),
            }
        }
    }
    policies.sort_by(|a, b| a.place().partial_cmp(&b.place()).unwrap_or(Ordering::Equal));
    let step = (LAST / policies.len().max(1)).clamp(1, 10);
    for (number, policy) in policies.iter().enumerate() {
        let priority = (number + 1) * step;
        if priority > LAST {
            let problem = format!(
                "is the {}th in order, and there are {LAST} priorities",
                number + 1
            );
            converted.problems.push((policy.title(), problem));
            continue;
        }
        match policy.convert(priority) {
            Ok((objects, weaker)) => {
                converted.objects.extend(objects);
                let problems = weaker.into_iter().map(|problem| (policy.title(), problem));
                converted.problems.extend(problems);
            }
            Err(problems) => {
                let problems = problems.into_iter();
                let problems =
                    problems.map(|problem| (policy.title(), format!("left out: {problem}")));
                converted.problems.extend(problems);
            }
        }
    }
    converted
}

/// Lists opened.
fn flat(objects: &[Value]) -> Vec<&Value> {
    let mut all = Vec::new();
    for object in objects {
        match object["items"].as_array() {
            Some(items) => all.extend(flat(items)),
            None => all.push(object),
        }
    }
    all
}

struct Policy {
    kind: &'static str,
    metadata: Metadata,
    spec: Spec,
}

/// What of a policy has no counterpart.
type Problems = Vec<String>;

impl Policy {
    fn read(kind: &str, object: &Value) -> Result<Self, (String, String)> {
        let metadata = Metadata::deserialize(&object["metadata"]).unwrap_or_default();
        let title = format!("{kind} {}", metadata.name);
        let spec: Spec = serde_path_to_error::deserialize(&object["spec"]).map_err(|error| {
            (
                title,
                format!("left out: spec.{}: {}", error.path(), error.inner()),
            )
        })?;
        let kind = if kind == "NetworkPolicy" {
            "NetworkPolicy"
        } else {
            "GlobalNetworkPolicy"
        };
        Ok(Self {
            kind,
            metadata,
            spec,
        })
    }

    fn title(&self) -> String {
        let namespace = self
            .metadata
            .namespace
            .as_ref()
            .map_or_else(String::new, |n| format!("{n}/"));
        format!("{} {namespace}{}", self.kind, self.metadata.name)
    }

    /// Policies without an order come last; of one order, by name.
    fn place(&self) -> (f64, &str) {
        (
            self.spec.order.unwrap_or(f64::INFINITY),
            &self.metadata.name,
        )
    }

    fn is_default_tier(&self) -> bool {
        self.spec
            .tier
            .as_deref()
            .is_none_or(|tier| tier == "default")
    }

    /// The objects, and what is weaker in them than it was.
    fn convert(&self, priority: usize) -> Result<(Vec<Value>, Problems), Problems> {
        let mut problems = Problems::new();
        let mut weaker = Problems::new();
        for field in self.spec.rest.keys() {
            problems.push(format!("spec.{field} has no counterpart"));
        }
        let subjects = self.subjects().unwrap_or_else(|problem| {
            problems.push(problem);
            Vec::new()
        });
        let directions = self.directions();
        let mut sides = Vec::new();
        for (side, rules) in [
            ("ingress", &self.spec.ingress),
            ("egress", &self.spec.egress),
        ] {
            let mut converted = Vec::new();
            for (n, rule) in rules.iter().enumerate() {
                let mut asked = Asked {
                    at: format!("spec.{side}[{n}]"),
                    side,
                    own: self.metadata.namespace.as_deref(),
                    problems: &mut problems,
                    weaker: &mut weaker,
                };
                converted.extend(asked.rule(rule));
            }
            if converted.len() > MOST {
                problems.push(format!(
                    "spec.{side} has {} rules, and one policy takes {MOST}: split it",
                    converted.len()
                ));
            }
            sides.push((side, converted));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut objects = Vec::new();
        let tier = |admin| if admin { "Admin" } else { "Baseline" };
        let mut rest = Vec::new();
        for (side, converted) in &mut sides {
            if !directions.contains(side) {
                converted.clear();
                continue;
            }
            // What no rule means is denied: at once, or in Calico's default tier after Kubernetes' own policies.
            let deny = denial(side);
            if side == &"ingress" {
                weaker.push("what comes from outside of the cluster and no rule means was denied, and isn't: write a NetworkPolicy in the namespaces that need it".into());
            }
            match self.is_default_tier() {
                true => rest.push((*side, deny)),
                false => converted.push(deny),
            }
        }
        for (n, subject) in subjects.iter().enumerate() {
            let name = self.name(n, subjects.len());
            let object = |name: String, admin: bool, rules: &[(&str, Vec<Value>)]| {
                let mut spec = Map::new();
                spec.insert("tier".into(), tier(admin).into());
                spec.insert("priority".into(), priority.into());
                spec.insert("subject".into(), subject.clone());
                for (side, rules) in rules.iter().filter(|(_, rules)| !rules.is_empty()) {
                    spec.insert((*side).to_owned(), rules.clone().into());
                }
                json!({ "apiVersion": "policy.networking.k8s.io/v1beta1", "kind": "ClusterNetworkPolicy",
                    "metadata": { "name": name }, "spec": spec })
            };
            if sides.iter().any(|(_, rules)| !rules.is_empty()) {
                objects.push(object(name.clone(), true, &sides));
            }
            if !rest.is_empty() {
                let rest: Vec<_> = rest
                    .iter()
                    .map(|(side, rule)| (*side, vec![rule.clone()]))
                    .collect();
                objects.push(object(format!("{name}-rest"), false, &rest));
            }
        }
        Ok((objects, weaker))
    }

    fn name(&self, number: usize, of: usize) -> String {
        let own = self
            .metadata
            .name
            .trim_start_matches("default.")
            .to_lowercase();
        let namespace = self
            .metadata
            .namespace
            .as_ref()
            .map_or_else(String::new, |n| format!("{n}-"));
        match of {
            1 => format!("{namespace}{own}"),
            _ => format!("{namespace}{own}-{}", number + 1),
        }
    }

    fn directions(&self) -> Vec<&'static str> {
        let has = |name: &str| self.spec.types.iter().any(|written| written == name);
        let written = !self.spec.types.is_empty();
        let (into, out_of) = (&self.spec.ingress, &self.spec.egress);
        // Left out, they follow from the rules.
        let ingress = if written {
            has("Ingress")
        } else {
            !into.is_empty() || out_of.is_empty()
        };
        let egress = if written {
            has("Egress")
        } else {
            !out_of.is_empty()
        };
        let both = [("ingress", ingress), ("egress", egress)];
        both.into_iter()
            .filter(|(_, is)| *is)
            .map(|(side, _)| side)
            .collect()
    }

    fn subjects(&self) -> Result<Vec<Value>, String> {
        let pods = pods(self.spec.selector.as_deref(), "spec.selector")?;
        let namespaces = namespaces(
            self.spec.namespace_selector.as_deref(),
            self.metadata.namespace.as_deref(),
            "spec.namespaceSelector",
        )?;
        Ok(selected(&namespaces, &pods)
            .into_iter()
            .map(|pods| json!({ "pods": pods }))
            .collect())
    }
}

/// Selectors of pods.
fn pods(text: Option<&str>, at: &str) -> Result<Vec<All>, String> {
    selector::read(text.unwrap_or("all()")).map_err(|error| format!("{at}: {error}"))
}

/// Selectors of namespaces; `own`: of the policy, where it has one and selects no others.
fn namespaces(text: Option<&str>, own: Option<&str>, at: &str) -> Result<Vec<All>, String> {
    if let (None, Some(own)) = (text, own) {
        let (key, is) = (NAME.to_owned(), Is::In(vec![own.to_owned()]));
        return Ok(vec![vec![Term { key, is }]]);
    }
    let mut any = pods(text, at)?;
    for term in any.iter_mut().flatten() {
        if term.key == "projectcalico.org/name" {
            NAME.clone_into(&mut term.key);
        }
    }
    Ok(any)
}

/// Each pair of a selector of namespaces and one of pods, as a `NamespacedPod`.
fn selected(namespaces: &[All], pods: &[All]) -> Vec<Value> {
    let pairs = namespaces
        .iter()
        .flat_map(|of| pods.iter().map(move |pods| (of, pods)));
    pairs
        .map(|(of, pods)| {
            // Calico gives pods their namespace as a label.
            let is_namespace = |term: &&Term| term.key == "projectcalico.org/namespace";
            let moved = pods.iter().filter(is_namespace).cloned().map(|mut term| {
                NAME.clone_into(&mut term.key);
                term
            });
            let of: All = of.iter().cloned().chain(moved).collect();
            let own: All = pods
                .iter()
                .filter(|term| !is_namespace(term))
                .cloned()
                .collect();
            json!({ "namespaceSelector": label_selector(&of), "podSelector": label_selector(&own) })
        })
        .collect()
}

/// Everything that nothing else means.
fn denial(side: &str) -> Value {
    match side {
        "ingress" => json!({ "name": "rest", "action": "Deny", "from": [{ "namespaces": {} }] }),
        _ => {
            json!({ "name": "rest", "action": "Deny", "to": [{ "networks": ["0.0.0.0/0", "::/0"] }] })
        }
    }
}

/// A rule that is being converted.
struct Asked<'a> {
    at: String,
    side: &'static str,
    /// The policy's namespace.
    own: Option<&'a str>,
    problems: &'a mut Problems,
    weaker: &'a mut Problems,
}

impl Asked<'_> {
    fn problem(&mut self, field: &str, message: &str) {
        let dot = if field.is_empty() { "" } else { "." };
        self.problems
            .push(format!("{}{dot}{field}: {message}", self.at));
    }

    fn rule(&mut self, rule: &Rule) -> Option<Value> {
        let before = self.problems.len();
        let action = match rule.action.as_str() {
            "Allow" => "Accept",
            "Deny" => "Deny",
            "Pass" => "Pass",
            "Log" => {
                self.weaker.push(format!(
                    "{}: nothing is logged; `fairlead flows` shows what is dropped",
                    self.at
                ));
                return None;
            }
            other => {
                self.problem("action", &format!("{other:?} is not known"));
                return None;
            }
        };
        let rests = [
            ("", &rule.rest),
            ("source.", &rule.source.rest),
            ("destination.", &rule.destination.rest),
        ];
        for (place, rest) in rests {
            for field in rest.keys() {
                self.problem(&format!("{place}{field}"), "has no counterpart; a rule before this one that passes what it excludes may do");
            }
        }
        let (peer, peer_at, other, other_at) = match self.side {
            "ingress" => (&rule.source, "source", &rule.destination, "destination"),
            _ => (&rule.destination, "destination", &rule.source, "source"),
        };
        if !other.is_anybody() {
            self.problem(
                other_at,
                "who the rule is for is said by the policy's selector alone",
            );
        }
        if rule.source.ports.is_some() {
            self.problem("source.ports", "has no counterpart");
        }
        let peers = self.peers(peer, peer_at, action);
        let protocols = self.protocols(rule.protocol.as_ref(), rule.destination.ports.as_deref());
        if self.problems.len() > before {
            return None;
        }
        let mut converted = Map::new();
        converted.insert("action".into(), action.into());
        converted.insert(
            if self.side == "ingress" { "from" } else { "to" }.into(),
            peers.into(),
        );
        if !protocols.is_empty() {
            converted.insert("protocols".into(), protocols.into());
        }
        Some(converted.into())
    }

    fn peers(&mut self, peer: &Entity, at: &str, action: &str) -> Vec<Value> {
        let mut peers = Vec::new();
        if peer.is_anybody() {
            if self.side == "egress" {
                return vec![json!({ "networks": ["0.0.0.0/0", "::/0"] })];
            }
            if action == "Deny" {
                self.weaker.push(format!("{}: from outside of the cluster it is not denied: ClusterNetworkPolicy has pods alone for what comes", self.at));
            }
            return vec![json!({ "namespaces": {} })];
        }
        if let Some(nets) = &peer.nets {
            if self.side == "ingress" {
                self.problem(&format!("{at}.nets"), "ClusterNetworkPolicy has no networks for what comes; write a NetworkPolicy with ipBlock");
            }
            if peer.selector.is_some() || peer.namespace_selector.is_some() {
                self.problem(
                    at,
                    "has nets and a selector, which must both hold; there is no such peer",
                );
            }
            peers.extend(nets.chunks(MOST).map(|nets| json!({ "networks": nets })));
        } else {
            let of = namespaces(
                peer.namespace_selector.as_deref(),
                self.own,
                &format!("{}.{at}.namespaceSelector", self.at),
            );
            let own = pods(
                peer.selector.as_deref(),
                &format!("{}.{at}.selector", self.at),
            );
            match (of, own) {
                (Ok(of), Ok(own)) => {
                    peers.extend(
                        selected(&of, &own)
                            .into_iter()
                            .map(|pods| json!({ "pods": pods })),
                    );
                }
                (Err(problem), _) | (_, Err(problem)) => self.problems.push(problem),
            }
        }
        if peers.len() > MOST {
            self.problem(
                at,
                &format!(
                    "needs {} peers, and a rule takes {MOST}: split it",
                    peers.len()
                ),
            );
        }
        peers
    }

    fn protocols(&mut self, protocol: Option<&Value>, ports: Option<&[Value]>) -> Vec<Value> {
        let name = match protocol {
            None => {
                if ports.is_some() {
                    self.problem("destination.ports", "needs a protocol beside it");
                }
                return Vec::new();
            }
            Some(Value::String(text)) => text.to_lowercase(),
            Some(other) => other.to_string(),
        };
        let name = match name.as_str() {
            "tcp" | "6" => "tcp",
            "udp" | "17" => "udp",
            "sctp" | "132" => "sctp",
            other => {
                self.problem(
                    "protocol",
                    &format!("{other} has no counterpart; tcp, udp and sctp have"),
                );
                return Vec::new();
            }
        };
        let of = |port: Value| json!({ name: { "destinationPort": port } });
        let Some(ports) = ports.filter(|ports| !ports.is_empty()) else {
            return vec![json!({ name: {} })];
        };
        let mut all = Vec::new();
        for port in ports {
            let text = match port {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let range = text
                .split_once(':')
                .map(|(first, last)| (first.parse::<u16>(), last.parse::<u16>()));
            all.push(match (range, text.parse::<u16>()) {
                (Some((Ok(first), Ok(last))), _) if first < last => {
                    of(json!({ "range": { "start": first, "end": last } }))
                }
                (None, Ok(port @ 1..)) => of(json!({ "number": port })),
                (None, Err(_)) => {
                    self.weaker.push(format!(
                        "{}: the port's name {text:?} is taken for every protocol",
                        self.at
                    ));
                    json!({ "destinationNamedPort": text })
                }
                _ => {
                    self.problem("destination.ports", &format!("{text:?} is no port"));
                    continue;
                }
            });
        }
        all
    }
}
