//! NetworkPolicy and Namespace. What the API leaves open by leaving a field out is settled here.

use super::{FieldError, name, names, protocol};
use crate::model::{
    Namespace, NetworkPolicy, Operator, Peer, PortChoice, Ports, Requirement, Rule, Selector,
};
use ipnetwork::IpNetwork;
use k8s_openapi::{
    api::{core::v1 as core, networking::v1},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use std::collections::BTreeSet;

/// Every namespace has it.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Converts a Namespace.
///
/// # Errors
/// If its name can't be used.
pub fn namespace(object: &core::Namespace) -> Result<Namespace, Vec<FieldError>> {
    let name = name(&object.metadata).map_err(|error| vec![error])?;
    let mut labels = object.metadata.labels.clone().unwrap_or_default();
    // As the API server does, whatever is written.
    labels.insert(NAME_LABEL.to_owned(), name.clone());
    Ok(Namespace { name, labels })
}

/// Converts a NetworkPolicy.
///
/// # Errors
/// Every field that can't be used.
pub fn network_policy(object: &v1::NetworkPolicy) -> Result<NetworkPolicy, Vec<FieldError>> {
    let mut errors = Vec::new();
    let (name, namespace) = names(&object.metadata, &mut errors);
    let spec = object.spec.clone().unwrap_or_default();
    let pods = (spec.pod_selector.as_ref())
        .map(|pods| selector(pods, "spec.podSelector", &mut errors))
        .unwrap_or_default();
    let (into, out_of) = directions(&spec, &mut errors);
    let ingress = spec.ingress.unwrap_or_default();
    let ingress = ingress.iter().enumerate().map(|(n, entry)| {
        let at = format!("spec.ingress[{n}]");
        rule(
            (&at, "from"),
            entry.from.as_deref(),
            entry.ports.as_deref(),
            &mut errors,
        )
    });
    let ingress: Vec<Rule> = ingress.collect();
    let egress = spec.egress.unwrap_or_default();
    let egress = egress.iter().enumerate().map(|(n, entry)| {
        let at = format!("spec.egress[{n}]");
        rule(
            (&at, "to"),
            entry.to.as_deref(),
            entry.ports.as_deref(),
            &mut errors,
        )
    });
    let egress: Vec<Rule> = egress.collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(NetworkPolicy {
        namespace,
        name,
        pods,
        ingress: into.then_some(ingress),
        egress: out_of.then_some(egress),
    })
}

/// Which directions it is about. Left out, it is about what comes, and about what goes if it has rules
/// for that.
fn directions(spec: &v1::NetworkPolicySpec, errors: &mut Vec<FieldError>) -> (bool, bool) {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if types.is_empty() {
        let out_of = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        return (true, out_of);
    }
    for (n, text) in types.iter().enumerate() {
        if text != "Ingress" && text != "Egress" {
            let message = format!("{text:?} is not known; write Ingress or Egress");
            errors.push(FieldError::new(format!("spec.policyTypes[{n}]"), message));
        }
    }
    let has = |wanted: &str| types.iter().any(|text| text == wanted);
    (has("Ingress"), has("Egress"))
}

fn rule(
    (at, side): (&str, &str),
    peers: Option<&[v1::NetworkPolicyPeer]>,
    ports: Option<&[v1::NetworkPolicyPort]>,
    errors: &mut Vec<FieldError>,
) -> Rule {
    let peers = peers.filter(|peers| !peers.is_empty()).map(|peers| {
        let peers = peers.iter().enumerate();
        let peers =
            peers.filter_map(|(n, entry)| peer(entry, &format!("{at}.{side}[{n}]"), errors));
        peers.collect()
    });
    let ports = ports.filter(|ports| !ports.is_empty()).map(|ports| {
        let entries = ports.iter().enumerate();
        let ports =
            entries.filter_map(|(n, entry)| port(entry, &format!("{at}.ports[{n}]"), errors));
        ports.collect()
    });
    Rule { peers, ports }
}

fn peer(entry: &v1::NetworkPolicyPeer, at: &str, errors: &mut Vec<FieldError>) -> Option<Peer> {
    match (
        &entry.ip_block,
        &entry.namespace_selector,
        &entry.pod_selector,
    ) {
        (Some(block), None, None) => {
            let cidr = network(&block.cidr, &format!("{at}.ipBlock.cidr"), errors)?;
            let except = block.except.iter().flatten().enumerate();
            let except = except.filter_map(|(n, text)| {
                let field = format!("{at}.ipBlock.except[{n}]");
                let part = network(text, &field, errors)?;
                let inside = part.is_ipv4() == cidr.is_ipv4()
                    && part.prefix() >= cidr.prefix()
                    && cidr.contains(part.network());
                if !inside {
                    let message = format!(
                        "{part} is no part of {cidr}; remove it, or write one of its parts"
                    );
                    errors.push(FieldError::new(field, message));
                }
                inside.then_some(part)
            });
            let mut except: Vec<IpNetwork> = except.collect();
            except.sort_unstable();
            except.dedup();
            Some(Peer::Block { cidr, except })
        }
        (Some(_), _, _) => {
            let message = "can't stand beside a selector; write two entries";
            errors.push(FieldError::new(format!("{at}.ipBlock"), message));
            None
        }
        (None, None, None) => {
            let message = "selects nobody; write podSelector, namespaceSelector or ipBlock";
            errors.push(FieldError::new(at, message));
            None
        }
        (None, namespaces, pods) => Some(Peer::Pods {
            namespaces: (namespaces.as_ref())
                .map(|s| selector(s, &format!("{at}.namespaceSelector"), errors)),
            pods: (pods.as_ref())
                .map(|s| selector(s, &format!("{at}.podSelector"), errors))
                .unwrap_or_default(),
        }),
    }
}

pub(super) fn network(text: &str, field: &str, errors: &mut Vec<FieldError>) -> Option<IpNetwork> {
    let parsed = text
        .parse::<IpNetwork>()
        .ok()
        .filter(|_| text.contains('/'));
    match parsed.and_then(|net| IpNetwork::new(net.network(), net.prefix()).ok()) {
        Some(network) => Some(network),
        None => {
            let message =
                format!("{text:?} is no prefix; write one like 192.0.2.0/24 or 2001:db8::/64");
            errors.push(FieldError::new(field, message));
            None
        }
    }
}

fn port(entry: &v1::NetworkPolicyPort, at: &str, errors: &mut Vec<FieldError>) -> Option<Ports> {
    let mut fault = |field: &str, message: String| {
        errors.push(FieldError::new(format!("{at}.{field}"), message));
        None
    };
    let number = |value: i32| u16::try_from(value).ok().filter(|port| *port > 0);
    let choice = match (&entry.port, entry.end_port) {
        (None, None) => PortChoice::All,
        (None, Some(_)) => {
            return fault(
                "endPort",
                "needs port beside it: write the first port there".into(),
            );
        }
        (Some(IntOrString::Int(first)), last) => {
            let Some(first) = number(*first) else {
                return fault(
                    "port",
                    format!("{first} is not a port; write a number from 1 to 65535"),
                );
            };
            match last {
                None => PortChoice::Range(first, first),
                Some(last) => match number(last).filter(|last| *last >= first) {
                    Some(last) => PortChoice::Range(first, last),
                    None => {
                        return fault(
                            "endPort",
                            format!(
                                "{last} is no port from {first} to 65535; write the last port of the range"
                            ),
                        );
                    }
                },
            }
        }
        (Some(IntOrString::String(_)), Some(_)) => {
            return fault(
                "endPort",
                "can't follow a port's name; write port as a number".into(),
            );
        }
        (Some(IntOrString::String(name)), None) if name.is_empty() => {
            return fault("port", "is empty; write a number or a port's name".into());
        }
        (Some(IntOrString::String(name)), None) => PortChoice::Named(name.clone()),
    };
    match protocol(&format!("{at}.protocol"), entry.protocol.as_deref()) {
        Ok(protocol) => Some(Ports {
            protocol,
            port: choice,
        }),
        Err(error) => {
            errors.push(error);
            None
        }
    }
}

pub(super) fn selector(
    written: &LabelSelector,
    at: &str,
    errors: &mut Vec<FieldError>,
) -> Selector {
    let mut all: Vec<Requirement> = (written.match_labels.iter().flatten())
        .map(|(key, value)| Requirement {
            key: key.clone(),
            is: Operator::In(BTreeSet::from([value.clone()])),
        })
        .collect();
    for (n, expression) in written.match_expressions.iter().flatten().enumerate() {
        let at = format!("{at}.matchExpressions[{n}]");
        let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
        let has = !values.is_empty();
        let is = match expression.operator.as_str() {
            "In" if has => Operator::In(values),
            "NotIn" if has => Operator::NotIn(values),
            "Exists" if !has => Operator::Exists,
            "DoesNotExist" if !has => Operator::DoesNotExist,
            "In" | "NotIn" => {
                let message = format!("{} needs at least one value; write it", expression.operator);
                errors.push(FieldError::new(format!("{at}.values"), message));
                continue;
            }
            "Exists" | "DoesNotExist" => {
                let message = format!("{} takes no values; remove them", expression.operator);
                errors.push(FieldError::new(format!("{at}.values"), message));
                continue;
            }
            other => {
                let message =
                    format!("{other:?} is not known; write In, NotIn, Exists or DoesNotExist");
                errors.push(FieldError::new(format!("{at}.operator"), message));
                continue;
            }
        };
        let key = expression.key.clone();
        all.push(Requirement { key, is });
    }
    // Equal selectors are to be one.
    all.sort_unstable();
    all.dedup();
    Selector(all)
}
