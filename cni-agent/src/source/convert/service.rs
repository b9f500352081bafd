//! Service: its addresses and ports.

use super::{FieldError, names, one_of_each_family, port, protocol};
use crate::model::{Service, ServicePort};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1;
use std::net::IpAddr;

/// `sessionAffinityConfig.clientIP.timeoutSeconds` when it is left out: Kubernetes' own.
const AFFINITY_SECS: u32 = 10_800;

/// Label of Services that another proxy serves; kube-proxy leaves them alone, too.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// Converts a Service. Headless ones, those of type ExternalName and those of another proxy have no
/// address.
///
/// # Errors
/// Every field that can't be used.
pub fn service(object: &v1::Service) -> Result<Service, Vec<FieldError>> {
    let mut errors = Vec::new();
    let (name, namespace) = names(&object.metadata, &mut errors);
    let empty = v1::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let mut cluster_ips = cluster_ips(spec, &mut errors);
    let labels = object.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY)) {
        cluster_ips.clear();
    }
    let ports = ports(spec, &mut errors);
    let affinity_secs = affinity(spec, &mut errors);
    let mut external_ips = external_ips(spec, &mut errors);
    let mut load_balancer_ips = load_balancer_ips(object, &mut errors);
    let source_ranges = source_ranges(spec, &mut errors);
    // Without a ClusterIP of its family an address leads nowhere.
    for addresses in [&mut external_ips, &mut load_balancer_ips] {
        addresses.retain(|ip| cluster_ips.iter().any(|own| own.is_ipv4() == ip.is_ipv4()));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Service {
        namespace,
        name,
        cluster_ips,
        ports,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        affinity_secs,
        external_ips,
        load_balancer_ips,
        source_ranges,
    })
}

fn cluster_ips(spec: &v1::ServiceSpec, errors: &mut Vec<FieldError>) -> Vec<IpAddr> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let list = spec.cluster_ips.as_deref().unwrap_or_default();
    let single = spec.cluster_ip.as_deref();
    let written: Vec<(String, &str)> = match (list, single) {
        ([], Some(single)) => vec![("spec.clusterIP".to_owned(), single)],
        _ => (list.iter().enumerate())
            .map(|(n, ip)| (format!("spec.clusterIPs[{n}]"), ip.as_str()))
            .collect(),
    };
    // Without an address, and not given one yet.
    let given = written
        .into_iter()
        .filter(|(_, text)| !matches!(*text, "None" | ""));
    one_of_each_family(given, "a Service", errors)
}

fn external_ips(spec: &v1::ServiceSpec, errors: &mut Vec<FieldError>) -> Vec<IpAddr> {
    let written = spec.external_ips.iter().flatten().enumerate();
    let read = written.map(|(n, text)| ip(format!("spec.externalIPs[{n}]"), text));
    good(read, errors)
}

fn load_balancer_ips(object: &v1::Service, errors: &mut Vec<FieldError>) -> Vec<IpAddr> {
    let status = object.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let written = balancer.and_then(|balancer| balancer.ingress.as_deref());
    let read = (written.unwrap_or_default().iter().enumerate())
        .filter(|(_, entry)| entry.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|(n, entry)| Some((n, entry.ip.as_deref()?)))
        .map(|(n, text)| ip(format!("status.loadBalancer.ingress[{n}].ip"), text));
    good(read, errors)
}

fn source_ranges(spec: &v1::ServiceSpec, errors: &mut Vec<FieldError>) -> Vec<IpNetwork> {
    let written = spec
        .load_balancer_source_ranges
        .iter()
        .flatten()
        .enumerate();
    let read = written.map(|(n, text)| {
        // The API has always taken blanks around it.
        text.trim().parse::<IpNetwork>().map_err(|_| {
            let message = format!("{text:?} is no range; write one like 10.0.0.0/8");
            FieldError::new(format!("spec.loadBalancerSourceRanges[{n}]"), message)
        })
    });
    good(read, errors)
}

fn ip(field: String, text: &str) -> Result<IpAddr, FieldError> {
    text.parse().map_err(|_| {
        let message = format!("{text:?} is not an IP address; write one like 192.0.2.1");
        FieldError::new(field, message)
    })
}

/// What could be read; the rest are errors.
fn good<T>(
    read: impl Iterator<Item = Result<T, FieldError>>,
    errors: &mut Vec<FieldError>,
) -> Vec<T> {
    read.filter_map(|result| result.map_err(|error| errors.push(error)).ok())
        .collect()
}

fn ports(spec: &v1::ServiceSpec, errors: &mut Vec<FieldError>) -> Vec<ServicePort> {
    let mut found: Vec<ServicePort> = Vec::new();
    for (n, entry) in spec.ports.iter().flatten().enumerate() {
        let number = port(&format!("spec.ports[{n}].port"), entry.port);
        let protocol = protocol(
            &format!("spec.ports[{n}].protocol"),
            entry.protocol.as_deref(),
        );
        // 0: none is given yet.
        let node_port = (entry.node_port.filter(|number| *number != 0))
            .map(|number| port(&format!("spec.ports[{n}].nodePort"), number))
            .transpose();
        match (number, protocol, node_port) {
            (Ok(port), Ok(protocol), Ok(node_port)) => {
                let name = entry.name.clone().unwrap_or_default();
                if found
                    .iter()
                    .any(|p| (p.port, p.protocol) == (port, protocol))
                {
                    let message = format!(
                        "{port} is there twice for one protocol; remove one of the entries"
                    );
                    errors.push(FieldError::new(format!("spec.ports[{n}].port"), message));
                    continue;
                }
                found.push(ServicePort {
                    name,
                    protocol,
                    port,
                    node_port,
                });
            }
            (number, protocol, node_port) => {
                let faults = [number.err(), protocol.err(), node_port.err()];
                errors.extend(faults.into_iter().flatten());
            }
        }
    }
    found
}

fn affinity(spec: &v1::ServiceSpec, errors: &mut Vec<FieldError>) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let Some(secs) = config
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client| client.timeout_seconds)
    else {
        return Some(AFFINITY_SECS);
    };
    match u32::try_from(secs) {
        Ok(secs @ 1..=86_400) => Some(secs),
        _ => {
            let message = format!("{secs} is not between 1 and 86400; write seconds of that range");
            errors.push(FieldError::new(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                message,
            ));
            None
        }
    }
}
