//! Service: its addresses, its ports and who may use them.

use super::{FieldError, address, names, one_of_each_family, port, protocol};
use crate::model::{Ingress, Service, ServicePort, ServiceType};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1;
use std::net::IpAddr;

/// `sessionAffinityConfig.clientIP.timeoutSeconds` when it is left out: Kubernetes' own.
const AFFINITY_SECS: u32 = 10_800;

/// Label of Services that another proxy serves; kube-proxy leaves them alone, too.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// Annotation with the addresses that a Service asks for, separated by commas: one of each family is
/// enough.
const WANTED: &str = "fairlead.dev/load-balancer-ips";

/// Converts a Service. Headless ones, those of type ExternalName and those of another proxy have no
/// address. What a controller or the administrator of a load balancer wrote wrong (`status`, source
/// ranges) costs that entry only, and is told as a fault of the model.
///
/// # Errors
/// Every other field that can't be used.
pub fn service(object: &v1::Service) -> Result<Service, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut faults = Vec::new();
    let (name, namespace) = names(&object.metadata, &mut errors);
    let empty = v1::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let service_type = service_type(spec, &mut errors);
    let cluster_ips = cluster_ips(spec, &mut errors);
    let ports = ports(spec, &mut errors);
    let external_ips = external_ips(spec, &mut faults);
    let health_check_port = health_check_port(spec, &mut errors);
    let affinity_secs = affinity(spec, &mut errors);
    let (source_ranges, source_ranges_faulty) = source_ranges(spec, &mut faults);
    let ingress = ingress(object, &mut faults);
    let wanted_ips = wanted_ips(object, spec, &mut faults);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut service = Service {
        namespace,
        name,
        service_type,
        cluster_ips,
        ports,
        external_ips,
        ingress,
        wanted_ips,
        source_ranges,
        source_ranges_faulty,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        health_check_port,
        affinity_secs,
        traffic_distribution: spec.traffic_distribution.clone(),
        publish_not_ready: spec.publish_not_ready_addresses == Some(true),
        load_balancer_class: spec.load_balancer_class.clone(),
        without_node_ports: spec.allocate_load_balancer_node_ports == Some(false),
        faults: faults.iter().map(ToString::to_string).collect(),
    };
    let labels = object.metadata.labels.as_ref();
    let of_another = labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY));
    if of_another || service_type == ServiceType::ExternalName {
        service.cluster_ips.clear();
        service.external_ips.clear();
        service.ingress.clear();
        service.wanted_ips.clear();
        service.health_check_port = None;
        service.faults.clear();
        for port in &mut service.ports {
            port.node_port = None;
        }
    }
    Ok(service)
}

fn service_type(spec: &v1::ServiceSpec, errors: &mut Vec<FieldError>) -> ServiceType {
    match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => ServiceType::ExternalName,
        Some(other) => {
            let message = format!(
                "{other:?} is not known; write ClusterIP, NodePort, LoadBalancer or ExternalName"
            );
            errors.push(FieldError::new("spec.type", message));
            ServiceType::ClusterIp
        }
    }
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
                let field = format!("spec.ports[{n}].nodePort");
                let node_port = optional_port(&field, entry.node_port, errors);
                let twice = |p: &ServicePort| p.node_port == node_port && p.protocol == protocol;
                if node_port.is_some() && found.iter().any(twice) {
                    let message =
                        "is there twice for one protocol; give one of the entries another";
                    errors.push(FieldError::new(field, message));
                    continue;
                }
                found.push(ServicePort {
                    name,
                    protocol,
                    port,
                    node_port,
                });
            }
            (number, protocol) => {
                errors.extend(number.err().into_iter().chain(protocol.err()));
            }
        }
    }
    found
}

/// A port that may be left out, also by a zero.
fn optional_port(field: &str, number: Option<i32>, errors: &mut Vec<FieldError>) -> Option<u16> {
    let found = port(field, number.filter(|number| *number != 0)?);
    found.map_err(|error| errors.push(error)).ok()
}

fn health_check_port(spec: &v1::ServiceSpec, errors: &mut Vec<FieldError>) -> Option<u16> {
    optional_port(
        "spec.healthCheckNodePort",
        spec.health_check_node_port,
        errors,
    )
}

/// One that can't be read is not served, and the rest is.
fn external_ips(spec: &v1::ServiceSpec, faults: &mut Vec<FieldError>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (n, text) in spec.external_ips.iter().flatten().enumerate() {
        match address(&format!("spec.externalIPs[{n}]"), text) {
            Ok(ip) if found.contains(&ip) => {}
            Ok(ip) => found.push(ip),
            Err(error) => faults.push(error),
        }
    }
    found
}

/// The ranges, and whether there are some that can't be read.
fn source_ranges(spec: &v1::ServiceSpec, faults: &mut Vec<FieldError>) -> (Vec<IpNetwork>, bool) {
    let (mut found, mut faulty) = (Vec::new(), false);
    let written = spec.load_balancer_source_ranges.iter().flatten();
    for (n, text) in written.enumerate() {
        let mut fault = |message| {
            let field = format!("spec.loadBalancerSourceRanges[{n}]");
            faults.push(FieldError::new(field, message));
        };
        let trimmed = text.trim();
        // The parser also takes a bare address and a netmask, which Kubernetes does not.
        let length = trimmed.split_once('/').map_or("", |(_, length)| length);
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let range = trimmed.parse::<IpNetwork>().ok().filter(|_| digits);
        match range.and_then(|range| IpNetwork::new(range.network(), range.prefix()).ok()) {
            Some(range) => {
                if trimmed != text {
                    fault(format!(
                        "{text:?} has spaces around it and is read without them; write {trimmed:?}"
                    ));
                }
                if !found.contains(&range) {
                    found.push(range);
                }
            }
            None => {
                faulty = true;
                fault(format!(
                    "{text:?} is not a prefix and lets nobody in; write one like 192.0.2.0/24 or 2001:db8::/64"
                ));
            }
        }
    }
    (found, faulty)
}

fn ingress(object: &v1::Service, faults: &mut Vec<FieldError>) -> Vec<Ingress> {
    let status = object.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let list = balancer.and_then(|balancer| balancer.ingress.as_deref());
    let mut found: Vec<Ingress> = Vec::new();
    for (n, entry) in list.unwrap_or_default().iter().enumerate() {
        // By name only: nothing that a packet could be sent to.
        let Some(text) = entry.ip.as_deref().filter(|ip| !ip.is_empty()) else {
            continue;
        };
        let field = format!("status.loadBalancer.ingress[{n}].ip");
        match address(&field, text) {
            Ok(ip) if found.iter().any(|other| other.ip == ip) => {}
            Ok(ip) => found.push(Ingress {
                ip,
                proxy: !matches!(entry.ip_mode.as_deref(), None | Some("" | "VIP")),
            }),
            Err(error) => faults.push(error),
        }
    }
    found
}

fn wanted_ips(
    object: &v1::Service,
    spec: &v1::ServiceSpec,
    faults: &mut Vec<FieldError>,
) -> Vec<IpAddr> {
    let annotations = object.metadata.annotations.as_ref();
    let written = annotations.and_then(|all| Some((all.get(WANTED)?, WANTED)));
    let field = spec
        .load_balancer_ip
        .as_ref()
        .map(|ip| (ip, "spec.loadBalancerIP"));
    let mut found = Vec::new();
    for (text, field) in written.into_iter().chain(field) {
        let parts = text.split(',').map(str::trim);
        for part in parts.filter(|part| !part.is_empty()) {
            let field = match field {
                WANTED => format!("metadata.annotations[{WANTED}]"),
                field => field.to_owned(),
            };
            match address(&field, part) {
                Ok(ip) if found.contains(&ip) => {}
                Ok(ip) => found.push(ip),
                Err(error) => faults.push(error),
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
