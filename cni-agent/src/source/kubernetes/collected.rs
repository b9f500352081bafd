//! PURE: the models of all watched objects, and the cluster that follows from them.

use super::{own::OwnNode, read::SeenNode};
use crate::{
    model::{ClusterPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service},
    source::{Severity, SourceProblem, convert::FieldError, merge::Taken, policy_api},
    state::{Cluster, Objects},
};
use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

/// Problems kept: a thousand broken objects are told by the first of them too.
const MOST_PROBLEMS: usize = 50;

/// So many labels are kept before it is looked which of them nobody has any more.
const FEW_LABELS: usize = 1024;

type Labels = Arc<BTreeMap<String, String>>;

/// What names an object within its kind; the namespace is empty for a Node.
pub(super) type Key = (String, String);

/// What a change did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// What is published differs.
    pub(super) changed: bool,
}

/// Which kind, by the order of the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum KindName {
    Node,
    Pod,
    Service,
    EndpointSlice,
    Namespace,
    NetworkPolicy,
    ClusterNetworkPolicy,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
}

impl KindName {
    pub(super) const ALL: [Self; 9] = [
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::Namespace,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::AdminNetworkPolicy,
        Self::BaselineAdminNetworkPolicy,
    ];

    /// As Kubernetes writes it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Namespace => "Namespace",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
        }
    }
}

/// Where the models of a kind are kept.
pub(super) trait Keep: super::read::Kind {
    const KIND: KindName;

    /// Enters the model, or takes the object out. Returns whether that changed anything.
    fn put(collected: &mut Collected, key: &Key, model: Option<Self::Model>) -> bool;

    /// Takes everything out that is not named.
    fn keep_only(collected: &mut Collected, seen: &BTreeSet<Key>) -> bool;
}

#[derive(Debug, Default)]
pub(super) struct Collected {
    node_name: String,
    /// As they are written; what contradicts is taken out only in the cluster.
    nodes: Objects<String, Node>,
    pods: Objects<Key, Pod>,
    /// This node's alone, which are all that is published without policies: a snapshot that shared the map of
    /// all would have it copied at the next pod's change.
    own_pods: Objects<Key, Pod>,
    /// Labels of pods, each once.
    labels: HashSet<Labels>,
    most_labels: usize,
    services: Objects<Key, Service>,
    slices: Objects<Key, EndpointSlice>,
    namespaces: Objects<String, Namespace>,
    policies: Objects<Key, NetworkPolicy>,
    /// By kind and name.
    cluster_policies: Objects<Key, ClusterPolicy>,
    pub(super) own: Option<Arc<OwnNode>>,
    /// Kinds that were listed whole once.
    listed: BTreeSet<KindName>,
    broken: BTreeMap<(KindName, Key), Vec<FieldError>>,
    contradictions: Vec<SourceProblem>,
    /// The nodes of the cluster made last, and what they were made of.
    made: Option<(Objects<String, Node>, Objects<String, Node>)>,
}

impl Collected {
    pub(super) fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            most_labels: FEW_LABELS,
            ..Self::default()
        }
    }

    /// An object is there with this content. One that can't be used keeps what it had.
    pub(super) fn apply<K: Keep>(
        &mut self,
        key: &Key,
        model: Result<Option<K::Model>, Vec<FieldError>>,
    ) -> Effect {
        match model {
            Ok(model) => {
                self.broken.remove(&(K::KIND, key.clone()));
                let changed = K::put(self, key, model);
                Effect { changed }
            }
            Err(errors) => {
                if self.broken.get(&(K::KIND, key.clone())) != Some(&errors) {
                    let first = errors.first().map(ToString::to_string);
                    tracing::warn!(
                        kind = K::KIND.as_str(),
                        namespace = key.0,
                        name = key.1,
                        fault = first,
                        "an object can't be used; what it said before stays in force"
                    );
                }
                self.broken.insert((K::KIND, key.clone()), errors);
                Effect::default()
            }
        }
    }

    /// The same labels as other pods have, if any has them.
    fn shared_labels(&mut self, labels: Labels) -> Labels {
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        // What nobody has any more goes when there is twice as much as after the last time.
        if self.labels.len() >= self.most_labels {
            self.labels.retain(|labels| Arc::strong_count(labels) > 1);
            self.most_labels = (2 * self.labels.len()).max(FEW_LABELS);
        }
        self.labels.insert(labels.clone());
        labels
    }

    /// The object is no more.
    pub(super) fn delete<K: Keep>(&mut self, key: &Key) -> Effect {
        self.broken.remove(&(K::KIND, key.clone()));
        let changed = K::put(self, key, None);
        Effect { changed }
    }

    /// The kind was listed whole: what was not `seen` is no more.
    pub(super) fn listed<K: Keep>(&mut self, seen: &BTreeSet<Key>) -> Effect {
        self.broken
            .retain(|(kind, key), _| *kind != K::KIND || seen.contains(key));
        let changed = K::keep_only(self, seen);
        // The first whole list of the last kind makes the first snapshot.
        let changed = self.listed.insert(K::KIND) || changed;
        Effect { changed }
    }

    /// Nobody may list the kind: what is known of it is all there is.
    pub(super) fn assume_listed<K: Keep>(&mut self) -> Effect {
        let changed = self.listed.insert(K::KIND);
        Effect { changed }
    }

    /// Whether every kind was listed whole.
    pub(super) fn is_whole(&self) -> bool {
        self.listed.len() == KindName::ALL.len()
    }

    /// The cluster (without revision). `before` is in force: who has a podCIDR or an address there keeps
    /// it against a newcomer.
    pub(super) fn cluster(&mut self, before: &Cluster) -> Cluster {
        let nodes = match &self.made {
            Some((of, made)) if of.is_copy_of(&self.nodes) => made.clone(),
            _ => self.settle(&before.nodes),
        };
        self.made = Some((self.nodes.clone(), nodes.clone()));
        Cluster {
            revision: 0,
            nodes,
            pods: if self.has_policies() {
                self.pods.clone()
            } else {
                self.own_pods.clone()
            },
            services: self.services.clone(),
            slices: self.slices.clone(),
            namespaces: self.namespaces.clone(),
            policies: self.policies.clone(),
            cluster_policies: self.cluster_policies.clone(),
            ..Cluster::default()
        }
    }

    fn has_policies(&self) -> bool {
        !(self.policies.is_empty() && self.cluster_policies.is_empty())
    }

    fn settle(&mut self, before: &Objects<String, Node>) -> Objects<String, Node> {
        let mut taken = Taken::default();
        for node in self.nodes.values() {
            if let Some(before) = before.get(&node.name) {
                taken.keep(node, before);
            }
        }
        let mut settled = self.nodes.clone();
        let mut contradictions = Vec::new();
        for node in self.nodes.values() {
            let kept = taken.claim(node, |field, message| {
                contradictions.push(problem(
                    KindName::Node,
                    &(String::new(), node.name.clone()),
                    field,
                    message,
                ));
            });
            if kept != *node {
                settled.insert(node.name.clone(), kept);
            }
        }
        for new in (contradictions.iter()).filter(|p| !self.contradictions.contains(p)) {
            tracing::warn!(problem = %new, "two Nodes contradict each other");
        }
        self.contradictions = contradictions;
        settled
    }

    /// What is not in force, the first of it.
    pub(super) fn problems(&self) -> Vec<SourceProblem> {
        let broken = self.broken.iter().flat_map(|((kind, key), errors)| {
            errors.iter().map(|error| {
                let message = format!(
                    "{}; until then what it said before stays in force",
                    error.message
                );
                problem(*kind, key, &error.field, message)
            })
        });
        let unmet = self.cluster_policies.values().flat_map(|policy| {
            policy.unmet.iter().map(|unmet| SourceProblem {
                severity: Severity::Warning,
                ..SourceProblem::of_file(&format!("{} {}", policy.kind, policy.name), unmet.clone())
            })
        });
        let all = self.contradictions.len()
            + self.broken.values().map(Vec::len).sum::<usize>()
            + unmet.clone().count();
        let problems = self
            .contradictions
            .iter()
            .cloned()
            .chain(broken)
            .chain(unmet);
        let mut problems: Vec<_> = problems.take(MOST_PROBLEMS).collect();
        if all > problems.len() {
            let message = format!("and {} more; mend these first", all - problems.len());
            problems.push(SourceProblem::of_file("API server", message));
        }
        problems
    }

    /// Why this node goes without a podCIDR or an address that its Node names.
    pub(super) fn own_contradictions(&self) -> Vec<String> {
        let key = (String::new(), self.node_name.clone());
        let own = place(KindName::Node, &key);
        let own = self.contradictions.iter().filter(|p| p.file == own);
        own.map(|problem| problem.message.clone()).collect()
    }
}

fn problem(kind: KindName, key: &Key, field: &str, message: String) -> SourceProblem {
    SourceProblem {
        field: Some(field.to_owned()).filter(|field| !field.is_empty()),
        ..SourceProblem::of_file(&place(kind, key), message)
    }
}

fn place(kind: KindName, (namespace, name): &Key) -> String {
    let slash = if namespace.is_empty() { "" } else { "/" };
    format!("{} {namespace}{slash}{name}", kind.as_str())
}

/// Enters what differs from what is there.
fn put<K: Ord + Clone, V: PartialEq>(
    objects: &mut Objects<K, V>,
    key: K,
    model: Option<V>,
) -> bool {
    match model {
        None => objects.remove(&key).is_some(),
        Some(model) if objects.get(&key) == Some(&model) => false,
        Some(model) => {
            objects.insert(key, model);
            true
        }
    }
}

fn keep_only<K: Ord + Clone, V>(objects: &mut Objects<K, V>, seen: impl Fn(&K) -> bool) -> bool {
    let before = objects.len();
    objects.retain(|key, _| seen(key));
    objects.len() != before
}

impl Keep for core::Node {
    const KIND: KindName = KindName::Node;

    fn put(collected: &mut Collected, key: &Key, model: Option<SeenNode>) -> bool {
        let (node, own) = match model {
            Some(SeenNode { node, own }) => (Some(node), Some(own)),
            None => (None, None),
        };
        // The publisher hands it on, so a change of it is news.
        let own_changed = key.1 == collected.node_name && collected.own.as_deref() != own.as_ref();
        if own_changed {
            collected.own = own.map(Arc::new);
        }
        put(&mut collected.nodes, key.1.clone(), node) || own_changed
    }

    fn keep_only(collected: &mut Collected, seen: &BTreeSet<Key>) -> bool {
        // A Node's namespace is empty.
        let names: BTreeSet<&str> = seen.iter().map(|key| key.1.as_str()).collect();
        if !names.contains(collected.node_name.as_str()) {
            collected.own = None;
        }
        keep_only(&mut collected.nodes, |name| names.contains(name.as_str()))
    }
}

impl Keep for core::Namespace {
    const KIND: KindName = KindName::Namespace;

    fn put(collected: &mut Collected, key: &Key, model: Option<Namespace>) -> bool {
        put(&mut collected.namespaces, key.1.clone(), model)
    }

    fn keep_only(collected: &mut Collected, seen: &BTreeSet<Key>) -> bool {
        let names: BTreeSet<&str> = seen.iter().map(|key| key.1.as_str()).collect();
        keep_only(&mut collected.namespaces, |name| {
            names.contains(name.as_str())
        })
    }
}

macro_rules! keep {
    ($kind:ty, $name:expr, $field:ident) => {
        impl Keep for $kind {
            const KIND: KindName = $name;

            fn put(collected: &mut Collected, key: &Key, model: Option<Self::Model>) -> bool {
                put(&mut collected.$field, key.clone(), model)
            }

            fn keep_only(collected: &mut Collected, seen: &BTreeSet<Key>) -> bool {
                keep_only(&mut collected.$field, |key| seen.contains(key))
            }
        }
    };
}

impl Keep for core::Pod {
    const KIND: KindName = KindName::Pod;

    fn put(collected: &mut Collected, key: &Key, model: Option<Pod>) -> bool {
        let before = collected.pods.get(key);
        let here = |pod: &Pod| pod.node.as_ref() == Some(&collected.node_name);
        let of_this_node = before.into_iter().chain(&model).any(here);
        let model = model.map(|mut pod| {
            // Of others' pods nobody asks for it.
            if !of_this_node {
                pod.uid = None;
            }
            pod.labels = collected.shared_labels(pod.labels);
            pod
        });
        if of_this_node {
            let own = model
                .clone()
                .filter(|pod| pod.node.as_ref() == Some(&collected.node_name));
            put(&mut collected.own_pods, key.clone(), own);
        }
        // Others' pods are news to policies alone.
        put(&mut collected.pods, key.clone(), model) && (of_this_node || collected.has_policies())
    }

    fn keep_only(collected: &mut Collected, seen: &BTreeSet<Key>) -> bool {
        keep_only(&mut collected.own_pods, |key| seen.contains(key));
        keep_only(&mut collected.pods, |key| seen.contains(key))
    }
}

keep!(core::Service, KindName::Service, services);
keep!(discovery::EndpointSlice, KindName::EndpointSlice, slices);
keep!(networking::NetworkPolicy, KindName::NetworkPolicy, policies);

macro_rules! keep_cluster_policy {
    ($kind:ident) => {
        impl Keep for policy_api::$kind {
            const KIND: KindName = KindName::$kind;

            fn put(collected: &mut Collected, key: &Key, model: Option<ClusterPolicy>) -> bool {
                let key = (Self::KIND.as_str().to_owned(), key.1.clone());
                for unmet in model.iter().flat_map(|policy| &policy.unmet) {
                    tracing::warn!(
                        kind = key.0,
                        name = key.1,
                        unmet,
                        "a policy is not met whole"
                    );
                }
                put(&mut collected.cluster_policies, key, model)
            }

            fn keep_only(collected: &mut Collected, seen: &BTreeSet<Key>) -> bool {
                keep_only(&mut collected.cluster_policies, |(kind, name)| {
                    kind != Self::KIND.as_str() || seen.contains(&(String::new(), name.clone()))
                })
            }
        }
    };
}

keep_cluster_policy!(ClusterNetworkPolicy);
keep_cluster_policy!(AdminNetworkPolicy);
keep_cluster_policy!(BaselineAdminNetworkPolicy);
