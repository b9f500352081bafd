//! ClusterNetworkPolicy, and the older AdminNetworkPolicy and BaselineAdminNetworkPolicy: one model. What the
//! API tells an implementation to do with what it doesn't understand is done here (fail closed).

use super::{
    FieldError, name,
    network_policy::{network, selector},
    port, protocol,
};
use crate::{
    model::{
        Action, ClusterPolicy, DomainPattern, Judgement, Peer, PortChoice, Ports, Protocol, Rule,
        Selector, Tier,
    },
    source::policy_api::{self as api, Policy},
};

/// Of the one BaselineAdminNetworkPolicy: after all others of its tier.
const LAST: i32 = 1001;

/// Converts a policy of the cluster.
///
/// # Errors
/// Every field that can't be used.
pub fn cluster_policy<P: Policy>(object: &P) -> Result<ClusterPolicy, Vec<FieldError>> {
    let mut read = Reader {
        older: P::KIND != "ClusterNetworkPolicy",
        errors: Vec::new(),
        unmet: Vec::new(),
    };
    let name = name(object.metadata()).unwrap_or_else(|error| {
        read.errors.push(error);
        String::new()
    });
    let spec = object.spec();
    let (tier, priority) = read.place(P::KIND, spec);
    let subject = read.pods(&spec.subject, "spec.subject");
    if spec.subject.namespaces.is_none() && spec.subject.pods.is_none() {
        let message =
            "selects nobody; write namespaces or pods ({} below either means all of them)";
        read.fault("spec.subject", message.to_owned());
    }
    let ingress = read.rules(&spec.ingress, "spec.ingress", Side::From);
    let egress = read.rules(&spec.egress, "spec.egress", Side::To);
    if !read.errors.is_empty() {
        return Err(read.errors);
    }
    let (namespaces, pods) = subject.unwrap_or_default();
    Ok(ClusterPolicy {
        kind: P::KIND.to_owned(),
        name,
        tier,
        priority,
        namespaces,
        pods,
        ingress,
        egress,
        unmet: read.unmet,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    From,
    To,
}

struct Reader {
    /// It is no ClusterNetworkPolicy.
    older: bool,
    errors: Vec<FieldError>,
    unmet: Vec<String>,
}

impl Reader {
    fn fault(&mut self, field: impl Into<String>, message: String) {
        self.errors.push(FieldError::new(field, message));
    }

    fn place(&mut self, kind: &str, spec: &api::Spec) -> (Tier, i32) {
        let tier = match (kind, spec.tier.as_deref()) {
            ("AdminNetworkPolicy", _) => Tier::Admin,
            ("BaselineAdminNetworkPolicy", _) => return (Tier::Baseline, LAST),
            (_, Some("Admin")) => Tier::Admin,
            (_, Some("Baseline")) => Tier::Baseline,
            (_, Some(other)) => {
                let message = format!("{other:?} is not known; write Admin or Baseline");
                self.fault("spec.tier", message);
                Tier::Admin
            }
            (_, None) => {
                self.fault("spec.tier", "is missing; write Admin or Baseline".into());
                Tier::Admin
            }
        };
        match spec.priority {
            Some(priority @ 0..=1000) => return (tier, priority),
            Some(other) => {
                let message = format!("{other} is none; write a number from 0 to 1000");
                self.fault("spec.priority", message);
            }
            None => {
                let message = "is missing; write a number from 0, which is asked first, to 1000";
                self.fault("spec.priority", message.into());
            }
        }
        (tier, 0)
    }

    /// Selectors of namespaces and of pods in them. None: neither is written.
    fn pods(&mut self, selected: &api::Selected, at: &str) -> Option<(Selector, Selector)> {
        match (&selected.namespaces, &selected.pods) {
            (Some(_), Some(_)) => {
                let message = "has namespaces and pods; write one of them";
                self.fault(at, message.to_owned());
                None
            }
            (Some(namespaces), None) => {
                let at = format!("{at}.namespaces");
                Some((
                    selector(namespaces, &at, &mut self.errors),
                    Selector::default(),
                ))
            }
            (None, Some(pods)) => {
                let at = format!("{at}.pods");
                let errors = &mut self.errors;
                Some((
                    selector(
                        &pods.namespace_selector,
                        &format!("{at}.namespaceSelector"),
                        errors,
                    ),
                    selector(&pods.pod_selector, &format!("{at}.podSelector"), errors),
                ))
            }
            (None, None) => None,
        }
    }

    fn rules(&mut self, rules: &[api::Rule], at: &str, side: Side) -> Vec<Judgement> {
        let rules = rules.iter().enumerate();
        rules
            .filter_map(|(n, rule)| self.rule(rule, &format!("{at}[{n}]"), side))
            .collect()
    }

    /// None: it is faulty.
    fn rule(&mut self, rule: &api::Rule, at: &str, side: Side) -> Option<Judgement> {
        let action = match (rule.action.as_str(), self.older) {
            ("Accept", false) | ("Allow", true) => Action::Accept,
            ("Deny", _) => Action::Deny,
            ("Pass", _) => Action::Pass,
            (other, older) => {
                let accept = if older { "Allow" } else { "Accept" };
                let message = format!("{other:?} is not known; write {accept}, Deny or Pass");
                self.fault(format!("{at}.action"), message);
                return None;
            }
        };
        let (written, field, other) = match side {
            Side::From => (&rule.from, "from", &rule.to),
            Side::To => (&rule.to, "to", &rule.from),
        };
        let peers = written.as_deref().unwrap_or_default();
        if peers.is_empty() || other.is_some() {
            let message = format!("needs its peers in {field}; write at least one there");
            self.fault(format!("{at}.{field}"), message);
            return None;
        }
        let mut unknown = false;
        let mut meant = Vec::new();
        for (n, peer) in peers.iter().enumerate() {
            let at = format!("{at}.{field}[{n}]");
            match self.peer(peer, &at, side) {
                Some(peers) if peer.domain_names.is_some() && action != Action::Accept => {
                    // The API has them in Accept rules only: what isn't known to be meant must not pass.
                    unknown = true;
                    drop(peers);
                }
                Some(peers) => meant.extend(peers),
                None => unknown = true,
            }
        }
        let ports = self.ports(rule, at);
        let (name, rule) = (
            rule.name.clone().unwrap_or_default(),
            Rule {
                peers: Some(meant),
                ports: ports.as_ref().and_then(Clone::clone),
            },
        );
        if !unknown && ports.is_some() {
            return Some(Judgement { name, action, rule });
        }
        // As the API asks of who doesn't know all of its fields.
        let instead = match action {
            Action::Accept => "the rule means nothing",
            Action::Deny | Action::Pass => "the rule denies everything",
        };
        self.unmet.push(format!(
            "{at}: has a peer or a protocol of a kind that this version doesn't know; {instead}"
        ));
        let nobody = Rule {
            peers: Some(Vec::new()),
            ports: None,
        };
        // It keeps its place, so that people find the others at theirs.
        let (action, rule) = match action {
            Action::Accept => (Action::Accept, nobody),
            Action::Deny | Action::Pass => (Action::Deny, Rule::default()),
        };
        Some(Judgement { name, action, rule })
    }

    /// None: nothing of it is known.
    fn peer(&mut self, peer: &api::Peer, at: &str, side: Side) -> Option<Vec<Peer>> {
        let of_pods = api::Selected {
            namespaces: peer.namespaces.clone(),
            pods: peer.pods.clone(),
        };
        let fields = [
            peer.namespaces.is_some(),
            peer.pods.is_some(),
            peer.nodes.is_some(),
            peer.networks.is_some(),
            peer.domain_names.is_some(),
        ];
        if fields.into_iter().filter(|is| *is).count() > 1 {
            self.fault(at, "has several fields; write an entry for each".into());
            return Some(Vec::new());
        }
        if side == Side::From && fields[2..].contains(&true) {
            let message = "only namespaces and pods can be where something comes from";
            self.fault(at, format!("{message}; write one of them"));
            return Some(Vec::new());
        }
        if let Some((namespaces, pods)) = self.pods(&of_pods, at) {
            return Some(vec![Peer::Pods {
                namespaces: Some(namespaces),
                pods,
            }]);
        }
        if let Some(nodes) = &peer.nodes {
            let nodes = selector(nodes, &format!("{at}.nodes"), &mut self.errors);
            return Some(vec![Peer::Nodes(nodes)]);
        }
        if let Some(names) = &peer.domain_names {
            return Some(self.domains(names, at));
        }
        let networks = peer.networks.as_ref()?.iter().enumerate();
        let blocks = networks.filter_map(|(n, text)| {
            let cidr = network(text, &format!("{at}.networks[{n}]"), &mut self.errors)?;
            let except = Vec::new();
            Some(Peer::Block { cidr, except })
        });
        Some(blocks.collect())
    }

    fn domains(&mut self, names: &[String], at: &str) -> Vec<Peer> {
        let mut peers = Vec::new();
        for (n, text) in names.iter().enumerate() {
            let at = format!("{at}.domainNames[{n}]");
            let Some(pattern) = DomainPattern::parse(text) else {
                let message = format!("{text:?} is no domain name; write one like example.com");
                self.fault(at, message);
                continue;
            };
            if pattern.exact().is_none() {
                self.unmet.push(format!(
                    "{at}: names below {text} are allowed as far as policies name them one by one; name those that are needed, or write networks beside it"
                ));
            }
            peers.push(Peer::Domain(pattern));
        }
        peers
    }

    /// None: some of it is not known. Some(None): everything.
    fn ports(&mut self, rule: &api::Rule, at: &str) -> Option<Option<Vec<Ports>>> {
        let misplaced = match self.older {
            true => (rule.protocols.is_some(), "protocols", "ports"),
            false => (rule.ports.is_some(), "ports", "protocols"),
        };
        if let (true, here, there) = misplaced {
            let message = format!("is no field of this kind; write {there}");
            self.fault(format!("{at}.{here}"), message);
        }
        let mut all = Vec::new();
        let mut known = true;
        for (n, entry) in rule.protocols.iter().flatten().enumerate() {
            let at = format!("{at}.protocols[{n}]");
            match self.of_protocols(entry, &at) {
                Some(ports) => all.extend(ports),
                None => known = false,
            }
        }
        for (n, entry) in rule.ports.iter().flatten().enumerate() {
            let at = format!("{at}.ports[{n}]");
            match self.of_ports(entry, &at) {
                Some(ports) => all.extend(ports),
                None => known = false,
            }
        }
        let written = rule.protocols.is_some() || rule.ports.is_some();
        known.then(|| written.then_some(all).filter(|all| !all.is_empty()))
    }

    fn of_protocols(&mut self, entry: &api::Protocol, at: &str) -> Option<Vec<Ports>> {
        if let Some(name) = &entry.destination_named_port {
            return Some(named(name));
        }
        let (protocol, asked, field) = match entry {
            api::Protocol { tcp: Some(tcp), .. } => (Protocol::Tcp, tcp, "tcp"),
            api::Protocol { udp: Some(udp), .. } => (Protocol::Udp, udp, "udp"),
            api::Protocol {
                sctp: Some(sctp), ..
            } => (Protocol::Sctp, sctp, "sctp"),
            _ => return None,
        };
        let at = format!("{at}.{field}.destinationPort");
        let port = match &asked.destination_port {
            None => PortChoice::All,
            Some(api::Destination {
                number: Some(number),
                range: None,
            }) => self.range(&format!("{at}.number"), *number, *number),
            Some(api::Destination {
                number: None,
                range: Some(range),
            }) => self.range(&format!("{at}.range"), range.start, range.end),
            Some(_) => return None,
        };
        Some(vec![Ports { protocol, port }])
    }

    fn of_ports(&mut self, entry: &api::Port, at: &str) -> Option<Vec<Ports>> {
        if let Some(name) = &entry.named_port {
            return Some(named(name));
        }
        let (text, first, last, field) = match (&entry.port_number, &entry.port_range) {
            (Some(one), None) => (&one.protocol, one.port, one.port, "portNumber"),
            (None, Some(range)) => (&range.protocol, range.start, range.end, "portRange"),
            _ => return None,
        };
        let at = format!("{at}.{field}");
        let port = self.range(&at, first, last);
        match protocol(&format!("{at}.protocol"), text.as_deref()) {
            Ok(protocol) => Some(vec![Ports { protocol, port }]),
            Err(error) => {
                self.errors.push(error);
                Some(Vec::new())
            }
        }
    }

    fn range(&mut self, at: &str, first: i32, last: i32) -> PortChoice {
        match (port(at, first), port(at, last)) {
            (Ok(first), Ok(last)) if first <= last => PortChoice::Range(first, last),
            (Ok(first), Ok(last)) => {
                let message = format!("begins at {first} and ends at {last}; exchange them");
                self.fault(at, message);
                PortChoice::All
            }
            (Err(error), _) | (_, Err(error)) => {
                self.errors.push(error);
                PortChoice::All
            }
        }
    }
}

/// Whatever protocol the pod that is connected to gives that name.
fn named(name: &str) -> Vec<Ports> {
    let ports = Protocol::ALL.map(|protocol| Ports {
        protocol,
        port: PortChoice::Named(name.to_owned()),
    });
    ports.into()
}
