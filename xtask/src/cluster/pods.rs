//! Pods and Services that smoke and trials look at: agnhost's web servers, which tell their names.

use super::{
    objects::AGNHOST,
    place::{Cluster, until},
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::Duration;

/// How long `kubectl` may wait for pods.
const LIMIT: &str = "--timeout=120s";
/// How long a Service may take until it leads to its pods, and other small things until they are so.
pub(super) const SETTLE: Duration = Duration::from_secs(30);
/// Where a pod's web server listens.
pub(super) const PORT: u16 = 8080;

/// Removes a namespace of Kubernetes with all that is in it.
///
/// # Errors
/// When it is not gone in time.
pub(super) fn remove(cluster: &Cluster, space: &str) -> Result<()> {
    let words = ["delete", "namespace", space, "--ignore-not-found", LIMIT];
    cluster.ask(&words).map(|_| ())
}

/// Makes a namespace of Kubernetes in which pods may run.
///
/// # Errors
/// When the API server refuses.
pub(super) fn make(cluster: &Cluster, space: &str) -> Result<()> {
    let name = json!({ "name": space });
    cluster.apply(&[json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": name })])?;
    until(SETTLE, "the namespace's service account is there", || {
        let words = ["get", "serviceaccount", "default", "-n", space];
        Ok(cluster.ask(&words).ok())
    })
    .map(|_| ())
}

/// Makes the namespace with Services and pods, and waits until the pods are ready.
///
/// # Errors
/// When the API server refuses, or a pod does not get ready in time.
pub(super) fn start(
    cluster: &Cluster,
    space: &str,
    services: &[Value],
    pods: &[Value],
) -> Result<()> {
    make(cluster, space)?;
    cluster.apply(&[services, pods].concat())?;
    ready(cluster, space)
}

/// Waits until all pods of a namespace are ready.
///
/// # Errors
/// When one is not in time.
pub(super) fn ready(cluster: &Cluster, space: &str) -> Result<()> {
    let ready = ["wait", "--for=condition=Ready", "pod", "--all", LIMIT];
    cluster
        .ask(&[&ready[..], &["-n", space]].concat())
        .context("the pods do not get ready")
        .map(|_| ())
}

/// A field of a pod, by its JSONPath; empty when it has none.
///
/// # Errors
/// When there is no such pod.
pub(super) fn field(cluster: &Cluster, space: &str, pod: &str, path: &str) -> Result<String> {
    let form = format!("jsonpath={{{path}}}");
    cluster.ask(&["get", "pod", pod, "-n", space, "-o", &form])
}

/// A pod's address.
///
/// # Errors
/// When there is no such pod.
pub(super) fn address(cluster: &Cluster, space: &str, pod: &str) -> Result<String> {
    field(cluster, space, pod, ".status.podIP")
}

/// A Service's ClusterIP.
///
/// # Errors
/// When there is no such Service.
pub(super) fn cluster_ip(cluster: &Cluster, space: &str, name: &str) -> Result<String> {
    let field = "jsonpath={.spec.clusterIP}";
    cluster.ask(&["get", "service", name, "-n", space, "-o", field])
}

/// Runs a program in a pod and returns what it printed.
///
/// # Errors
/// When it fails.
pub(super) fn exec(cluster: &Cluster, space: &str, pod: &str, words: &[&str]) -> Result<String> {
    let exec = ["exec", "-n", space, pod, "--"];
    cluster.ask(&[&exec[..], words].concat())
}

/// A Service of the pod of the same name.
pub(super) fn service(space: &str, name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": space },
        "spec": { "selector": { "app": name }, "ports": [{ "port": 80, "targetPort": PORT }] } })
}

/// A pod with a web server, on that node.
pub(super) fn web(space: &str, name: &str, node: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": space, "labels": { "app": name } },
        "spec": with_node(server(), node) })
}

/// What a web server's pod consists of.
pub(super) fn server() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "agnhost",
            "image": AGNHOST,
            "args": ["netexec"],
            "readinessProbe": { "httpGet": { "path": "/healthz", "port": PORT }, "periodSeconds": 1 },
        }],
    })
}

/// Puts a pod on a node, past the scheduler.
pub(super) fn with_node(mut spec: Value, node: &str) -> Value {
    spec["nodeName"] = node.into();
    spec
}
