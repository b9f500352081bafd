//! EndpointSlice: some endpoints of a Service.

use super::{FieldError, address, names, port, protocol};
use crate::model::{EndpointSlice, Hints, SliceEndpoint, SlicePort};
use k8s_openapi::api::discovery::v1;

/// Of a Service without a ClusterIP, or of one that is to be like that: DNS alone gives its endpoints.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Converts an EndpointSlice. None for one that says nothing to a node's network: of names instead of
/// addresses, of no Service, or for DNS alone.
///
/// # Errors
/// Every field that can't be used.
pub fn endpoint_slice(
    object: &v1::EndpointSlice,
) -> Result<Option<EndpointSlice>, Vec<FieldError>> {
    let v4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        "FQDN" => return Ok(None),
        other => {
            let message = format!("{other:?} is not known; write IPv4, IPv6 or FQDN");
            return Err(vec![FieldError::new("addressType", message)]);
        }
    };
    let labels = object.metadata.labels.as_ref();
    let Some(service) = labels.and_then(|labels| labels.get("kubernetes.io/service-name")) else {
        return Ok(None);
    };
    if labels.is_some_and(|labels| labels.contains_key(HEADLESS)) {
        return Ok(None);
    }
    let mut errors = Vec::new();
    let (name, namespace) = names(&object.metadata, &mut errors);
    let ports = ports(object, &mut errors);
    let mut endpoints = Vec::with_capacity(object.endpoints.len());
    for (n, entry) in object.endpoints.iter().enumerate() {
        match endpoint(n, entry, v4) {
            Ok(found) => endpoints.push(found),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Some(EndpointSlice {
        namespace,
        name,
        service: service.clone(),
        ports,
        endpoints,
    }))
}

fn ports(object: &v1::EndpointSlice, errors: &mut Vec<FieldError>) -> Vec<SlicePort> {
    let mut found = Vec::new();
    for (n, entry) in object.ports.iter().flatten().enumerate() {
        // Without a number it means all ports, which a Service's port can't be mapped to.
        let Some(number) = entry.port else { continue };
        let number = port(&format!("ports[{n}].port"), number);
        let protocol = protocol(&format!("ports[{n}].protocol"), entry.protocol.as_deref());
        match (number, protocol) {
            (Ok(port), Ok(protocol)) => found.push(SlicePort {
                name: entry.name.clone().unwrap_or_default(),
                protocol,
                port,
            }),
            (number, protocol) => errors.extend(number.err().into_iter().chain(protocol.err())),
        }
    }
    found
}

fn endpoint(n: usize, entry: &v1::Endpoint, v4: bool) -> Result<SliceEndpoint, FieldError> {
    let field = format!("endpoints[{n}].addresses[0]");
    let Some(first) = entry.addresses.first() else {
        return Err(FieldError::new(field, "is missing; write one address"));
    };
    let address = address(&field, first)?;
    if address.is_ipv4() != v4 {
        let message = format!(
            "{address} is not of the slice's addressType; write it into a slice of its family"
        );
        return Err(FieldError::new(field, message));
    }
    let conditions = entry.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    Ok(SliceEndpoint {
        address,
        ready,
        serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        node: entry.node_name.clone().filter(|node| !node.is_empty()),
        zone: entry.zone.clone().filter(|zone| !zone.is_empty()),
        hints: hints(entry),
    })
}

fn hints(entry: &v1::Endpoint) -> Option<Box<Hints>> {
    let hints = entry.hints.as_ref()?;
    let (zones, nodes) = (hints.for_zones.iter(), hints.for_nodes.iter());
    let hints = Hints {
        zones: zones.flatten().map(|zone| zone.name.clone()).collect(),
        nodes: nodes.flatten().map(|node| node.name.clone()).collect(),
    };
    (hints != Hints::default()).then(|| Box::new(hints))
}
