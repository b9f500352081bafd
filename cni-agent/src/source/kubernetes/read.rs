//! PURE: an object of the API server to the model, as it is read from the wire. Only the fields that
//! are used are looked at: what is odd elsewhere in an object, or newer than this agent, costs nothing.

use super::own::{OwnNode, Taint};
use crate::{
    model::{ClusterPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service},
    source::{
        convert::{self, FieldError},
        object::understand,
        policy_api::{self, Policy},
    },
};
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Resource;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use std::{borrow::Cow, marker::PhantomData};

/// A kind that is watched.
pub(super) trait Kind:
    Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static
{
    /// For people, in the plural.
    const NAMES: &'static str;
    type Model: Clone + std::fmt::Debug + Send + Sync + 'static;
    /// Whether a cluster may not have this kind: its definition is installed by who wants it.
    const OPTIONAL: bool = false;
    /// Versions with the same fields, for clusters that don't have the kind's own.
    const OLDER: &'static [&'static str] = &[];

    /// None for an object that says nothing to a node's network.
    fn convert(object: &Value) -> Result<Option<Self::Model>, Vec<FieldError>>;
}

/// A Node and, of use only if it is this node's, what is written to it.
#[derive(Clone, Debug)]
pub(super) struct SeenNode {
    pub(super) node: Node,
    pub(super) own: OwnNode,
}

impl Kind for core::Node {
    const NAMES: &'static str = "Nodes";
    type Model = SeenNode;

    fn convert(object: &Value) -> Result<Option<SeenNode>, Vec<FieldError>> {
        let used = parts(
            object,
            &[
                ("metadata", &["name", "labels"]),
                ("spec", &["podCIDR", "podCIDRs"]),
                ("status", &["addresses"]),
            ],
        );
        let node = convert::node(&understand(&used, "Node")?)?;
        let own = own_node(object, &node);
        Ok(Some(SeenNode { node, own }))
    }
}

/// By hand, because a taint or condition that can't be read must not cost the Node's addresses.
fn own_node(object: &Value, node: &Node) -> OwnNode {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let annotations = object["metadata"]["annotations"].as_object();
    OwnNode {
        name: node.name.clone(),
        uid: text(&object["metadata"]["uid"]),
        resource_version: text(&object["metadata"]["resourceVersion"]),
        annotations: annotations
            .into_iter()
            .flatten()
            .filter(|(name, _)| name.starts_with("fairlead.dev/"))
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        taints: list(&object["spec"]["taints"])
            .into_iter()
            .map(Taint)
            .collect(),
        network_unavailable: list(&object["status"]["conditions"])
            .iter()
            .find(|condition| condition["type"] == "NetworkUnavailable")
            .map(|condition| text(&condition["status"])),
        has_pod_cidr: !node.pod_cidrs.is_empty(),
    }
}

impl Kind for core::Pod {
    const NAMES: &'static str = "Pods";
    type Model = Pod;

    fn convert(object: &Value) -> Result<Option<Pod>, Vec<FieldError>> {
        let mut used = parts(
            object,
            &[
                ("metadata", &["name", "namespace", "uid", "labels"]),
                ("spec", &["nodeName", "hostNetwork"]),
                ("status", &["podIP", "podIPs", "phase"]),
            ],
        );
        for field in ["containers", "initContainers"] {
            used["spec"][field] = containers(&object["spec"][field]);
        }
        convert::pod(&understand(&used, "Pod")?).map(Some)
    }
}

/// What policies may name of containers.
fn containers(list: &Value) -> Value {
    let ports = |container: &Value| -> Value {
        let ports = container["ports"].as_array().into_iter().flatten();
        ports
            .map(|port| part(port, &["name", "containerPort", "protocol"]))
            .collect()
    };
    let containers = list.as_array().into_iter().flatten();
    containers
        .map(|container| {
            json!({
                "name": "",
                "restartPolicy": container["restartPolicy"],
                "ports": ports(container),
            })
        })
        .collect()
}

impl Kind for core::Service {
    const NAMES: &'static str = "Services";
    type Model = Service;

    fn convert(object: &Value) -> Result<Option<Service>, Vec<FieldError>> {
        let used = parts(
            object,
            &[
                ("metadata", &["name", "namespace", "labels"]),
                (
                    "spec",
                    &[
                        "type",
                        "clusterIP",
                        "clusterIPs",
                        "ports",
                        "internalTrafficPolicy",
                        "sessionAffinity",
                        "sessionAffinityConfig",
                        "externalIPs",
                        "externalTrafficPolicy",
                        "loadBalancerSourceRanges",
                        "loadBalancerClass",
                        "allocateLoadBalancerNodePorts",
                        "healthCheckNodePort",
                        "trafficDistribution",
                        "publishNotReadyAddresses",
                    ],
                ),
                ("status", &["loadBalancer"]),
            ],
        );
        convert::service(&understand(&used, "Service")?).map(Some)
    }
}

impl Kind for discovery::EndpointSlice {
    const NAMES: &'static str = "EndpointSlices";
    type Model = EndpointSlice;

    fn convert(object: &Value) -> Result<Option<EndpointSlice>, Vec<FieldError>> {
        let mut used = parts(object, &[("metadata", &["name", "namespace", "labels"])]);
        for field in ["addressType", "ports", "endpoints"] {
            used[field] = object[field].clone();
        }
        convert::endpoint_slice(&understand(&used, "EndpointSlice")?)
    }
}

impl Kind for core::Namespace {
    const NAMES: &'static str = "Namespaces";
    type Model = Namespace;

    fn convert(object: &Value) -> Result<Option<Namespace>, Vec<FieldError>> {
        let used = parts(object, &[("metadata", &["name", "labels"])]);
        convert::namespace(&understand(&used, "Namespace")?).map(Some)
    }
}

impl Kind for networking::NetworkPolicy {
    const NAMES: &'static str = "NetworkPolicies";
    type Model = NetworkPolicy;

    fn convert(object: &Value) -> Result<Option<NetworkPolicy>, Vec<FieldError>> {
        let mut used = parts(object, &[("metadata", &["name", "namespace"])]);
        used["spec"] = object["spec"].clone();
        convert::network_policy(&understand(&used, "NetworkPolicy")?).map(Some)
    }
}

macro_rules! cluster_policy {
    ($kind:ident, $names:literal, $older:expr) => {
        impl Kind for policy_api::$kind {
            const NAMES: &'static str = $names;
            type Model = ClusterPolicy;
            const OPTIONAL: bool = true;
            const OLDER: &'static [&'static str] = $older;

            fn convert(object: &Value) -> Result<Option<ClusterPolicy>, Vec<FieldError>> {
                let mut used = parts(object, &[("metadata", &["name"])]);
                used["spec"] = object["spec"].clone();
                let policy: Self = understand(&used, <Self as Policy>::KIND)?;
                convert::cluster_policy(&policy).map(Some)
            }
        }
    };
}

cluster_policy!(
    ClusterNetworkPolicy,
    "ClusterNetworkPolicies",
    &["v1alpha2"]
);
cluster_policy!(AdminNetworkPolicy, "AdminNetworkPolicies", &[]);
cluster_policy!(
    BaselineAdminNetworkPolicy,
    "BaselineAdminNetworkPolicies",
    &[]
);

/// These fields of these parts of an object.
fn parts(object: &Value, parts: &[(&str, &[&str])]) -> Value {
    parts
        .iter()
        .map(|(name, fields)| ((*name).to_owned(), part(&object[*name], fields)))
        .collect()
}

/// These fields, as far as they are there.
fn part(object: &Value, fields: &[&str]) -> Value {
    let fields = fields.iter();
    let fields = fields.filter_map(|name| Some(((*name).to_owned(), object.get(name)?.clone())));
    fields.collect()
}

/// An object as the watch reads it: what names it, and the model or why there is none. Reading never
/// fails over a field, because a list that holds one odd object must not stop the others.
#[derive(Clone, Debug)]
pub(super) struct Read<K: Kind> {
    /// Name, namespace and resource version only.
    pub(super) metadata: ObjectMeta,
    pub(super) model: Result<Option<K::Model>, Vec<FieldError>>,
    kind: PhantomData<K>,
}

impl<'de, K: Kind> Deserialize<'de> for Read<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        let text = |name: &str| {
            let field = object.get("metadata")?.get(name)?;
            field.as_str().map(ToOwned::to_owned)
        };
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self {
            metadata,
            model: K::convert(&object),
            kind: PhantomData,
        })
    }
}

/// In which a kind is asked for; none: its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Version(pub(super) Option<&'static str>);

impl<K: Kind> Resource for Read<K> {
    type DynamicType = Version;
    type Scope = K::Scope;

    fn kind(_: &Version) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group(_: &Version) -> Cow<'_, str> {
        K::group(&())
    }

    fn version(version: &Version) -> Cow<'_, str> {
        version.0.map_or_else(|| K::version(&()), Cow::from)
    }

    fn plural(_: &Version) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
