//! Service: its addresses and ports.

use super::{FieldError, names, one_of_each_family, port, protocol};
use crate::model::{Service, ServicePort};
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

fn ports(spec: &v1::ServiceSpec, errors: &mut Vec<FieldError>) -> Vec<ServicePort> {
    let mut found: Vec<ServicePort> = Vec::new();
    for (n, entry) in spec.ports.iter().flatten().enumerate() {
        let number = port(&format!("spec.ports[{n}].port"), entry.port);
        let protocol = protocol(
            &format!("spec.ports[{n}].protocol"),
            entry.protocol.as_deref(),
        );
        match (number, protocol) {
            (Ok(port), Ok(protocol)) => {
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
                });
            }
            (number, protocol) => {
                errors.extend(number.err().into_iter().chain(protocol.err()));
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
