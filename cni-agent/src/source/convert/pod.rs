//! Pod: what names and selects it, where it runs, and its addresses.

use super::{FieldError, address, name, namespace};
use crate::model::Pod;
use k8s_openapi::api::core::v1;
use std::net::IpAddr;

/// Converts a Pod. One that is not scheduled or has no address yet is fine.
///
/// # Errors
/// Every field that can't be used.
pub fn pod(object: &v1::Pod) -> Result<Pod, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut text = |result: Result<String, FieldError>| {
        result.unwrap_or_else(|e| {
            errors.push(e);
            String::new()
        })
    };
    let (name, namespace) = (
        text(name(&object.metadata)),
        text(namespace(&object.metadata)),
    );
    let spec = object.spec.as_ref();
    let ips = ips(object, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Pod {
        namespace,
        name,
        uid: object.metadata.uid.clone(),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        node: spec
            .and_then(|spec| spec.node_name.clone())
            .filter(|node| !node.is_empty()),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
        ips,
    })
}

fn ips(object: &v1::Pod, errors: &mut Vec<FieldError>) -> Vec<IpAddr> {
    let status = object.status.as_ref();
    let list = status
        .and_then(|status| status.pod_ips.as_deref())
        .unwrap_or_default();
    let single = status
        .and_then(|status| status.pod_ip.as_deref())
        .filter(|ip| !ip.is_empty());
    let written: Vec<(String, &str)> = match (list, single) {
        ([], Some(single)) => vec![("status.podIP".to_owned(), single)],
        _ => (list.iter().enumerate())
            .map(|(n, entry)| (format!("status.podIPs[{n}].ip"), entry.ip.as_str()))
            .collect(),
    };
    let mut found: Vec<IpAddr> = Vec::new();
    for (field, text) in written {
        match address(&field, text) {
            Err(error) => errors.push(error),
            Ok(ip) => match found.iter().find(|other| other.is_ipv4() == ip.is_ipv4()) {
                Some(other) => {
                    let message = format!(
                        "{ip} is of the same family as {other}; a pod has at most one address of each, remove one"
                    );
                    errors.push(FieldError::new(field, message));
                }
                None => found.push(ip),
            },
        }
    }
    found
}
