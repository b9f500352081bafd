//! Pod: what names and selects it, where it runs, and its addresses.

use super::{FieldError, names, one_of_each_family};
use crate::model::Pod;
use k8s_openapi::api::core::v1;
use std::net::IpAddr;

/// Converts a Pod. One that is not scheduled or has no address yet is fine.
///
/// # Errors
/// Every field that can't be used.
pub fn pod(object: &v1::Pod) -> Result<Pod, Vec<FieldError>> {
    let mut errors = Vec::new();
    let (name, namespace) = names(&object.metadata, &mut errors);
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
    one_of_each_family(written, "a pod", errors)
}
