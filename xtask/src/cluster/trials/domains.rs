//! A policy that names a domain, with the cluster's own DNS: who has the name is reached, nobody else; and who has
//! it next is, too.

use super::{
    super::{conformance, place::Cluster, place::until, pods},
    LIMIT, SPACE,
};
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::Instant;

const KIND: &str = "clusternetworkpolicy";
const POLICY: &str = "fairlead-trials-domains";
/// Pods that have the name, and that have none.
const NAMED: &str = "named";
const OTHER: &str = "unnamed";

pub(super) fn run(cluster: &Cluster) -> Result<String> {
    conformance::serve_kinds(cluster)?;
    let seen = named(cluster);
    cluster.ask(&["delete", KIND, POLICY, "--ignore-not-found"])?;
    seen
}

fn named(cluster: &Cluster) -> Result<String> {
    let mut service = pods::service(SPACE, NAMED);
    // Its name has its pods' own addresses.
    service["spec"]["clusterIP"] = "None".into();
    let servers = [NAMED, OTHER].map(|name| pods::web(SPACE, name, "n2"));
    cluster.apply(&[&[service], &servers[..]].concat())?;
    pods::ready(cluster, SPACE)?;
    let name = format!("{NAMED}.{SPACE}.svc.cluster.local");
    let space = |name: &str| json!({ "matchLabels": { "kubernetes.io/metadata.name": name } });
    let pod = json!({ "matchLabels": { "app": "client" } });
    let everybody = json!([{ "networks": ["0.0.0.0/0"] }, { "networks": ["::/0"] }]);
    let policy = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": { "name": POLICY },
        "spec": {
            "tier": "Admin",
            "priority": 1,
            "subject": { "pods": { "namespaceSelector": space(SPACE), "podSelector": pod } },
            "egress": [
                { "action": "Accept", "to": [{ "namespaces": space("kube-system") }] },
                { "action": "Accept", "to": [{ "domainNames": [name] }] },
                { "action": "Deny", "to": everybody },
            ],
        },
    });
    let since = Instant::now();
    cluster.apply(&[policy])?;
    let other = format!("{}:8080", pods::address(cluster, SPACE, OTHER)?);
    until(LIMIT, "who has no name is out of reach", || {
        Ok((!reaches(cluster, &other)).then_some(()))
    })?;
    let named = format!("{name}:8080");
    until(LIMIT, "who has the name is reached", || {
        Ok(reaches(cluster, &named).then_some(()))
    })?;
    let first = since.elapsed();
    let before = pods::address(cluster, SPACE, NAMED)?;
    cluster.ask(&["delete", "pod", NAMED, "-n", SPACE, "--wait"])?;
    cluster.apply(&[pods::web(SPACE, NAMED, "n2")])?;
    pods::ready(cluster, SPACE)?;
    let since = Instant::now();
    until(LIMIT, "who has the name now is reached", || {
        Ok(reaches(cluster, &named).then_some(()))
    })?;
    let next = since.elapsed();
    let after = pods::address(cluster, SPACE, NAMED)?;
    ensure!(before != after, "the new pod has the old one's address");
    ensure!(!reaches(cluster, &other), "who has no name is in reach");
    Ok(format!(
        "who has a name reached {:.1} s after its policy was written, who has it next {:.1} s after it was ready; nobody else",
        first.as_secs_f64(),
        next.as_secs_f64()
    ))
}

fn reaches(cluster: &Cluster, place: &str) -> bool {
    let words = ["/agnhost", "connect", place, "--timeout=2s"];
    pods::exec(cluster, SPACE, "client", &words).is_ok()
}
