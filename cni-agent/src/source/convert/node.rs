//! Node: its addresses, its podCIDRs and its zone.

use super::{FieldError, address, name};
use crate::model::Node;
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1;
use std::net::IpAddr;

/// Label that says in which zone a node is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Converts a Node. One that has no podCIDR or no address yet is fine: a controller may add them.
///
/// # Errors
/// Every field that can't be used.
pub fn node(object: &v1::Node) -> Result<Node, Vec<FieldError>> {
    let mut errors = Vec::new();
    let name = name(&object.metadata).unwrap_or_else(|e| {
        errors.push(e);
        String::new()
    });
    let pod_cidrs = pod_cidrs(object, &mut errors);
    let addresses = internal_ips(object, &mut errors);
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let zone = labels.get(ZONE);
    if errors.is_empty() {
        Ok(Node {
            name,
            further_addresses: further_addresses(object, &addresses),
            addresses,
            pod_cidrs,
            zone: zone.filter(|zone| !zone.is_empty()).cloned(),
            labels,
        })
    } else {
        Err(errors)
    }
}

fn pod_cidrs(object: &v1::Node, errors: &mut Vec<FieldError>) -> Vec<IpNetwork> {
    let spec = object.spec.as_ref();
    let list = spec
        .and_then(|spec| spec.pod_cidrs.as_deref())
        .unwrap_or_default();
    let single = spec
        .and_then(|spec| spec.pod_cidr.as_deref())
        .filter(|cidr| !cidr.is_empty());
    let mut found: Vec<IpNetwork> = Vec::new();
    let written: Vec<(String, &str)> = match (list, single) {
        ([], Some(single)) => vec![("spec.podCIDR".to_owned(), single)],
        ([first, ..], Some(single)) if first != single => {
            let message = format!(
                "{single} differs from spec.podCIDRs[0], which is {first}; remove spec.podCIDR or write the same"
            );
            errors.push(FieldError::new("spec.podCIDR", message));
            Vec::new()
        }
        _ => (list.iter().enumerate())
            .map(|(n, cidr)| (format!("spec.podCIDRs[{n}]"), cidr.as_str()))
            .collect(),
    };
    for (field, text) in written {
        match pod_cidr(&field, text) {
            Err(error) => errors.push(error),
            Ok(cidr) => match found.iter().find(|other| other.is_ipv4() == cidr.is_ipv4()) {
                Some(other) => {
                    let message = format!(
                        "{cidr} is of the same family as {other}; a node has at most one IPv4 and one IPv6 podCIDR, remove one"
                    );
                    errors.push(FieldError::new(field, message));
                }
                None => found.push(cidr),
            },
        }
    }
    found
}

fn pod_cidr(field: &str, text: &str) -> Result<IpNetwork, FieldError> {
    let fault = |message: String| Err(FieldError::new(field, message));
    // The parser also takes a bare address and a netmask, which Kubernetes does not.
    let length = text.split_once('/').map(|(_, length)| length);
    let digits = length.is_some_and(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_digit()));
    let Some(cidr) = text.parse::<IpNetwork>().ok().filter(|_| digits) else {
        return fault(format!(
            "{text:?} is not a prefix; write one like 100.11.1.0/24 or fd00:11:1::/64"
        ));
    };
    if cidr.ip() != cidr.network() {
        let net = cidr.network();
        return fault(format!(
            "{cidr} has host bits set; write {net}/{}",
            cidr.prefix()
        ));
    }
    let special = match cidr {
        IpNetwork::V4(net) => {
            let ip = net.ip();
            ip.is_unspecified() || ip.is_loopback() || ip.is_link_local() || ip.octets()[0] >= 224
        }
        IpNetwork::V6(net) => {
            let ip = net.ip();
            ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip.to_ipv4_mapped().is_some()
        }
    };
    if special {
        return fault(format!(
            "{cidr} is a range that pods can't have (unspecified, loopback, link-local, multicast or reserved); write a private range like 100.11.1.0/24 or fd00:11:1::/64"
        ));
    }
    Ok(cidr)
}

/// All that are none of these. What is no address is none.
fn further_addresses(object: &v1::Node, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let list = object.status.iter().flat_map(|status| &status.addresses);
    let further = list
        .flatten()
        .filter(|entry| entry.type_ == "InternalIP" || entry.type_ == "ExternalIP");
    let further = further.filter_map(|entry| address("", &entry.address).ok());
    let mut further: Vec<IpAddr> = further.filter(|a| !addresses.contains(a)).collect();
    further.sort_unstable();
    further.dedup();
    further
}

/// The first InternalIP of each family, which is the one Kubernetes uses too.
fn internal_ips(object: &v1::Node, errors: &mut Vec<FieldError>) -> Vec<IpAddr> {
    let status = object.status.as_ref();
    let list = status
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    let mut found: Vec<IpAddr> = Vec::new();
    for (n, entry) in list
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.type_ == "InternalIP")
    {
        match address(&format!("status.addresses[{n}].address"), &entry.address) {
            Err(error) => errors.push(error),
            Ok(address) => {
                if !found
                    .iter()
                    .any(|other| other.is_ipv4() == address.is_ipv4())
                {
                    found.push(address);
                }
            }
        }
    }
    found
}
