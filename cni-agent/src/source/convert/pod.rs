//! Pod: what names and selects it, where it runs, and its addresses.

use super::{FieldError, names, one_of_each_family, port, protocol};
use crate::model::{NamedPort, Pod};
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
        labels: object.metadata.labels.clone().unwrap_or_default().into(),
        node: spec
            .and_then(|spec| spec.node_name.clone())
            .filter(|node| !node.is_empty()),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
        ips: if has_ended(object) { Vec::new() } else { ips },
        ports: spec.map(ports).unwrap_or_default(),
    })
}

/// Its addresses are free to be given away.
fn has_ended(object: &v1::Pod) -> bool {
    let status = object.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Those that have names, of containers that run for the pod's life. What can't be one, names nothing.
fn ports(spec: &v1::PodSpec) -> Vec<NamedPort> {
    let beside = spec.init_containers.iter().flatten();
    let beside = beside.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(beside);
    let mut ports: Vec<NamedPort> = containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|entry| {
            Some(NamedPort {
                name: entry.name.clone().filter(|name| !name.is_empty())?,
                protocol: protocol("protocol", entry.protocol.as_deref()).ok()?,
                port: port("containerPort", entry.container_port).ok()?,
            })
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
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
