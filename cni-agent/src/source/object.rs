//! The Kubernetes objects that Fairlead takes, converted.

use super::{
    convert::{self, FieldError},
    policy_api,
};
use crate::model::{ClusterPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service};
use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::fmt;

/// What names an object in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectKey {
    pub(super) kind: &'static str,
    /// Empty for kinds without namespaces.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        write!(f, "{} {}{slash}{}", self.kind, self.namespace, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Node(Node),
    Pod(Pod),
    Service(Service),
    Slice(EndpointSlice),
    Namespace(Namespace),
    Policy(NetworkPolicy),
    ClusterPolicy(ClusterPolicy),
    /// An EndpointSlice that is no Service's.
    Unused,
}

/// An object read, and the fields that its kind does not have.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) key: ObjectKey,
    pub(super) object: Object,
    pub(super) unknown_fields: Vec<String>,
}

/// The kinds taken and their versions, of several the newest first.
const KINDS: [(&str, &str); 10] = [
    ("Node", "v1"),
    ("Pod", "v1"),
    ("Namespace", "v1"),
    ("Service", "v1"),
    ("EndpointSlice", "discovery.k8s.io/v1"),
    ("NetworkPolicy", "networking.k8s.io/v1"),
    ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1beta1"),
    ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2"),
    ("AdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1"),
    (
        "BaselineAdminNetworkPolicy",
        "policy.networking.k8s.io/v1alpha1",
    ),
];

/// Kinds of Kubernetes in the groups of ours that mean nothing to a node's network. Others in these
/// groups are taken for misspelt.
const FOREIGN: [&str; 17] = [
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Endpoints",
    "Event",
    "IPAddress",
    "Ingress",
    "IngressClass",
    "LimitRange",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "ServiceAccount",
    "ServiceCIDR",
];

/// What an object is to us.
#[derive(Debug)]
pub(super) enum Reading {
    Ours(Box<Read>),
    /// Valid for all we know, and without effect: told, but no fault.
    Foreign(FieldError),
}

/// Reads one object from its JSON form.
pub(super) fn read(value: Value) -> Result<Reading, Vec<FieldError>> {
    match expected(&value).map_err(|e| vec![e])? {
        Expected::Ours(kind) => read_ours(value, kind).map(|read| Reading::Ours(Box::new(read))),
        Expected::Foreign(kind) => {
            let message = format!(
                "kind {kind} is not used by Fairlead, the rest of the file is; nothing to do, or keep it elsewhere"
            );
            Ok(Reading::Foreign(FieldError::new("kind", message)))
        }
    }
}

enum Expected {
    Ours(&'static str),
    Foreign(String),
}

fn read_ours(value: Value, kind: &'static str) -> Result<Read, Vec<FieldError>> {
    macro_rules! read {
        ($kind:ty, $convert:path, $into:expr) => {{
            let (object, unknown): ($kind, _) = typed(value, kind)?;
            finish(
                $convert(&object).map($into),
                kind,
                &object.metadata,
                unknown,
            )
        }};
    }
    let slice = |slice: Option<EndpointSlice>| slice.map_or(Object::Unused, Object::Slice);
    match kind {
        "Node" => read!(core::Node, convert::node, Object::Node),
        "Pod" => read!(core::Pod, convert::pod, Object::Pod),
        "Namespace" => read!(core::Namespace, convert::namespace, Object::Namespace),
        "Service" => read!(core::Service, convert::service, Object::Service),
        "EndpointSlice" => read!(discovery::EndpointSlice, convert::endpoint_slice, slice),
        "NetworkPolicy" => {
            read!(
                networking::NetworkPolicy,
                convert::network_policy,
                Object::Policy
            )
        }
        "ClusterNetworkPolicy" => {
            read!(
                policy_api::ClusterNetworkPolicy,
                convert::cluster_policy,
                Object::ClusterPolicy
            )
        }
        "AdminNetworkPolicy" => {
            read!(
                policy_api::AdminNetworkPolicy,
                convert::cluster_policy,
                Object::ClusterPolicy
            )
        }
        "BaselineAdminNetworkPolicy" => read!(
            policy_api::BaselineAdminNetworkPolicy,
            convert::cluster_policy,
            Object::ClusterPolicy
        ),
        other => Err(vec![FieldError::new(
            "kind",
            format!("kind {other} is not read"),
        )]),
    }
}

/// The kind, if it is taken in the version written, or nothing that we would take.
fn expected(value: &Value) -> Result<Expected, FieldError> {
    let text = |field: &str, example: &str| match value.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(FieldError::new(
            field,
            format!("{other} is not text; write {example}"),
        )),
        None => Err(FieldError::new(
            field,
            format!("is missing; every Kubernetes object has it, {example} for example"),
        )),
    };
    let kind = text("kind", "kind: Node")?;
    let version = text("apiVersion", "apiVersion: v1")?;
    let group = |version: &str| match version.split_once('/') {
        Some((group, _)) => group.to_owned(),
        None => String::new(),
    };
    let of_our_groups = KINDS
        .iter()
        .any(|(_, taken)| group(taken) == group(&version));
    if !of_our_groups || FOREIGN.contains(&kind.as_str()) {
        return Ok(Expected::Foreign(kind));
    }
    let Some(&(kind, taken)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        let mut kinds: Vec<_> = KINDS.iter().map(|(kind, _)| *kind).collect();
        kinds.dedup();
        let message = format!(
            "kind {kind} is none of Kubernetes, of which Fairlead reads {} and List; correct it, or remove this document from the folder",
            kinds.join(", ")
        );
        return Err(FieldError::new("kind", message));
    };
    if !KINDS.contains(&(kind, version.as_str())) {
        let message = format!(
            "kind {kind} is read in version {taken}, not {version}; write apiVersion: {taken}"
        );
        return Err(FieldError::new("apiVersion", message));
    }
    Ok(Expected::Ours(kind))
}

fn typed<T: DeserializeOwned + Serialize>(
    mut value: Value,
    kind: &str,
) -> Result<(T, Vec<String>), Vec<FieldError>> {
    quantities_as_text(&mut value);
    let object: T = understand(&value, kind)?;
    let mut unknown = Vec::new();
    if let Ok(understood) = serde_json::to_value(&object) {
        collect_unknown(&value, &understood, String::new(), &mut unknown);
    }
    Ok((object, unknown))
}

/// The object of a kind from its JSON form.
pub(super) fn understand<'a, T: Deserialize<'a>>(
    value: &'a Value,
    kind: &str,
) -> Result<T, Vec<FieldError>> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let reason = e.into_inner().to_string();
        let remedy = if reason.ends_with("expected a string") {
            "put it into quotes".to_owned()
        } else if reason.ends_with("expected a sequence") {
            "write a list, with '-' before each item".to_owned()
        } else {
            format!(
                "`kubectl explain {}.{}` shows what it takes",
                kind.to_lowercase(),
                explained(&path)
            )
        };
        vec![FieldError::new(&path, format!("{reason}; {remedy}"))]
    })
}

/// The path without indexes, as `kubectl explain` takes it.
fn explained(path: &str) -> String {
    let after_index = |part: &str| {
        part.split_once(']')
            .map_or(String::new(), |p| p.1.to_owned())
    };
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |path, part| path + &after_index(part))
}

/// Kubernetes takes numbers for quantities (`cpu: 2`), its published types only text.
fn quantities_as_text(value: &mut Value) {
    const OF_QUANTITIES: [&str; 5] = ["limits", "requests", "capacity", "allocatable", "overhead"];
    const QUANTITY: [&str; 2] = ["sizeLimit", "divisor"];
    let as_text = |value: &mut Value| {
        if value.is_number() {
            *value = Value::String(value.to_string());
        }
    };
    match value {
        Value::Array(items) => items.iter_mut().for_each(quantities_as_text),
        Value::Object(fields) => {
            for (name, field) in fields {
                if QUANTITY.contains(&name.as_str()) {
                    as_text(field);
                } else if OF_QUANTITIES.contains(&name.as_str()) {
                    field
                        .as_object_mut()
                        .into_iter()
                        .flat_map(|f| f.values_mut())
                        .for_each(as_text);
                }
                quantities_as_text(field);
            }
        }
        _ => {}
    }
}

/// The fields written that are not among those understood: misspelt, or of a newer Kubernetes.
fn collect_unknown(written: &Value, understood: &Value, path: String, unknown: &mut Vec<String>) {
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => {
            for (name, field) in written.iter().filter(|(_, field)| !field.is_null()) {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{name}");
                match understood.get(name) {
                    Some(known) => collect_unknown(field, known, path, unknown),
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(written), Value::Array(understood)) => {
            for (n, (item, known)) in written.iter().zip(understood).enumerate() {
                collect_unknown(item, known, format!("{path}[{n}]"), unknown);
            }
        }
        _ => {}
    }
}

fn finish(
    converted: Result<Object, Vec<FieldError>>,
    kind: &'static str,
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    unknown_fields: Vec<String>,
) -> Result<Read, Vec<FieldError>> {
    let named = convert::name(metadata);
    let namespace = match kind {
        "Node" | "Namespace" => Ok(String::new()),
        "ClusterNetworkPolicy" | "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy" => {
            Ok(String::new())
        }
        _ => convert::namespace_of(metadata),
    };
    match (converted, named, namespace) {
        (Ok(object), Ok(name), Ok(namespace)) => Ok(Read {
            key: ObjectKey {
                kind,
                namespace,
                name,
            },
            object,
            unknown_fields,
        }),
        // The conversions report a bad name themselves.
        (Err(errors), ..) => Err(errors),
        (_, name, namespace) => Err(name.err().into_iter().chain(namespace.err()).collect()),
    }
}
