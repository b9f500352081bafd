//! PURE: Kubernetes objects to the model, one file per kind. All faults of an object are reported
//! together, each with its field and remedy.

mod cluster_policy;
#[cfg(test)]
mod cluster_policy_tests;
mod endpoint_slice;
mod network_policy;
mod node;
mod pod;
#[cfg(test)]
mod policy_tests;
mod service;
#[cfg(test)]
mod tests;

pub use cluster_policy::cluster_policy;
pub use endpoint_slice::endpoint_slice;
pub use network_policy::{NAME_LABEL, namespace, network_policy};
pub use node::node;
pub use pod::pod;
pub use service::service;

use crate::model::Protocol;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::{fmt, net::IpAddr};

/// A field that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path like `spec.podCIDRs[0]`.
    pub field: String,
    /// What is wrong and what to write.
    pub message: String,
}

impl FieldError {
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// `metadata.name`, a DNS subdomain as Kubernetes demands of every kind used here.
///
/// # Errors
/// If it is missing or no such name.
pub fn name(metadata: &ObjectMeta) -> Result<String, FieldError> {
    let field = "metadata.name";
    let Some(name) = metadata.name.as_deref().filter(|name| !name.is_empty()) else {
        return Err(FieldError::new(field, "is missing; give the object a name"));
    };
    check_name(field, name, 253)?;
    Ok(name.to_owned())
}

/// `metadata.namespace`, `default` if it is left out.
///
/// # Errors
/// If it is no DNS label.
pub fn namespace_of(metadata: &ObjectMeta) -> Result<String, FieldError> {
    let namespace = metadata
        .namespace
        .as_deref()
        .filter(|n| !n.is_empty())
        .unwrap_or("default");
    check_name("metadata.namespace", namespace, 63)?;
    Ok(namespace.to_owned())
}

/// Name and namespace of an object; what is wrong with either joins the other faults.
fn names(metadata: &ObjectMeta, errors: &mut Vec<FieldError>) -> (String, String) {
    let mut text = |result: Result<String, FieldError>| {
        result.unwrap_or_else(|e| {
            errors.push(e);
            String::new()
        })
    };
    (text(name(metadata)), text(namespace_of(metadata)))
}

/// Addresses of an object, each with its field, of which `whose` has at most one of each family.
fn one_of_each_family<'a>(
    written: impl IntoIterator<Item = (String, &'a str)>,
    whose: &str,
    errors: &mut Vec<FieldError>,
) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for (field, text) in written {
        match address(&field, text) {
            Err(error) => errors.push(error),
            Ok(ip) => match found.iter().find(|other| other.is_ipv4() == ip.is_ipv4()) {
                Some(other) => {
                    let message = format!(
                        "{ip} is of the same family as {other}; {whose} has at most one address of each, remove one"
                    );
                    errors.push(FieldError::new(field, message));
                }
                None => found.push(ip),
            },
        }
    }
    found
}

fn check_name(field: &str, name: &str, longest: usize) -> Result<(), FieldError> {
    if name.len() > longest {
        let message = format!(
            "has {} characters; shorten it to at most {longest}",
            name.len()
        );
        return Err(FieldError::new(field, message));
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.iter().all(|b| inner(*b))
            && matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if *a != b'-' && *z != b'-')
    };
    let dots = longest > 63;
    let good = if dots {
        name.split('.').all(label)
    } else {
        label(name)
    };
    if good {
        return Ok(());
    }
    let dots = if dots { ", '.'" } else { "" };
    Err(FieldError::new(
        field,
        format!(
            "{name:?} is not a Kubernetes name; use lower-case letters, digits{dots} and '-', beginning and ending with a letter or digit"
        ),
    ))
}

/// An address that one machine can have.
fn address(field: &str, text: &str) -> Result<IpAddr, FieldError> {
    let address: IpAddr = text.parse().map_err(|_| {
        FieldError::new(
            field,
            format!("{text:?} is not an IP address; write one like 192.0.2.10 or 2001:db8::10"),
        )
    })?;
    let fault = match address {
        IpAddr::V4(a) if a.is_unspecified() => "the unspecified address",
        IpAddr::V4(a) if a.is_loopback() => "a loopback address",
        IpAddr::V4(a) if a.is_multicast() || a.is_broadcast() => "a multicast or broadcast address",
        IpAddr::V6(a) if a.is_unspecified() => "the unspecified address",
        IpAddr::V6(a) if a.is_loopback() => "a loopback address",
        IpAddr::V6(a) if a.is_multicast() => "a multicast address",
        IpAddr::V6(a) if a.is_unicast_link_local() => "a link-local address",
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => "an IPv4 address in IPv6 form",
        _ => return Ok(address),
    };
    let message = format!("{address} is {fault}; write an address that other nodes can reach");
    Err(FieldError::new(field, message))
}

/// A port's number.
fn port(field: &str, number: i32) -> Result<u16, FieldError> {
    match u16::try_from(number) {
        Ok(port @ 1..) => Ok(port),
        _ => {
            let message = format!("{number} is not a port; write a number from 1 to 65535");
            Err(FieldError::new(field, message))
        }
    }
}

/// A port's protocol, TCP if it is left out.
fn protocol(field: &str, text: Option<&str>) -> Result<Protocol, FieldError> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => {
            let message = format!("{other:?} is not known; write TCP, UDP or SCTP");
            Err(FieldError::new(field, message))
        }
    }
}
