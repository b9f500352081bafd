//! What any network of a cluster has to do, looked at from inside and outside: pods and Services on two
//! nodes, exec, logs and DNS. `cargo xtask cluster smoke` runs it against whatever is up.

use super::{
    objects::AGNHOST,
    place::{Cluster, until},
    plan::{API_SERVICE, Cni, Member, Plan},
};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{process::Command, time::Duration};

/// Everything of it is in this namespace of Kubernetes.
const SPACE: &str = "fairlead-smoke";
const LIMIT: &str = "--timeout=120s";
/// How long a Service may take until it leads to its pods.
const SETTLE: Duration = Duration::from_secs(30);
const NODE_PORT: u16 = 30080;

/// What was looked at, and what came of it.
struct Check {
    what: String,
    outcome: Result<()>,
}

/// Runs every check, prints each, and removes what it made.
///
/// # Errors
/// When the cluster has less than two nodes, pods do not start, or a check fails.
pub(crate) fn run(cluster: &Cluster) -> Result<()> {
    let plan = cluster.plan()?;
    ensure!(plan.nodes >= 2, "the cluster has one node; smoke needs two");
    remove(cluster, SPACE)?;
    start_pods(cluster, SPACE, &["client", "near", "far", "alone"])?;
    let checks = checks(cluster, &plan)?;
    let mut failed = 0;
    for check in &checks {
        match &check.outcome {
            Ok(()) => println!("ok      {}", check.what),
            Err(error) => {
                failed += 1;
                println!("FAILED  {}: {error:#}", check.what);
            }
        }
    }
    ensure!(
        failed == 0,
        "{failed} of {} checks failed; the pods stay: cargo xtask cluster kubectl get pods -n {SPACE}",
        checks.len()
    );
    remove(cluster, SPACE)?;
    println!("all {} checks passed", checks.len());
    Ok(())
}

/// Removes a namespace of Kubernetes with all that is in it.
pub(super) fn remove(cluster: &Cluster, space: &str) -> Result<()> {
    let words = ["delete", "namespace", space, "--ignore-not-found", LIMIT];
    cluster.ask(&words).map(|_| ())
}

/// Makes the namespace with Services and waits until these pods are ready: `far` on the second node, the
/// others on the first.
pub(super) fn start_pods(cluster: &Cluster, space: &str, names: &[&str]) -> Result<()> {
    cluster.apply(&objects(space))?;
    until(SETTLE, "the namespace's service account is there", || {
        let words = ["get", "serviceaccount", "default", "-n", space];
        Ok(cluster.ask(&words).ok())
    })?;
    let on = |name: &&str| pod(space, name, if *name == "far" { "n2" } else { "n1" });
    cluster.apply(&names.iter().map(on).collect::<Vec<_>>())?;
    let ready = ["wait", "--for=condition=Ready", "pod", "--all", LIMIT];
    cluster
        .ask(&[&ready[..], &["-n", space]].concat())
        .context("the pods do not get ready")
        .map(|_| ())
}

/// A pod's address.
pub(super) fn address(cluster: &Cluster, space: &str, pod: &str) -> Result<String> {
    let field = "jsonpath={.status.podIP}";
    cluster.ask(&["get", "pod", pod, "-n", space, "-o", field])
}

/// A Service's ClusterIP.
pub(super) fn service(cluster: &Cluster, space: &str, name: &str) -> Result<String> {
    let field = "jsonpath={.spec.clusterIP}";
    cluster.ask(&["get", "service", name, "-n", space, "-o", field])
}

fn checks(cluster: &Cluster, plan: &Plan) -> Result<Vec<Check>> {
    let service = |name: &str| service(cluster, SPACE, name);
    let (near, far) = (
        address(cluster, SPACE, "near")?,
        address(cluster, SPACE, "far")?,
    );
    let mut checks = Vec::new();
    let mut check = |what: &str, outcome: Result<()>| {
        checks.push(Check {
            what: what.to_owned(),
            outcome,
        });
    };
    let from = |pod: &str, words: &[&str]| {
        let exec = ["exec", "-n", SPACE, pod, "--"];
        cluster.ask(&[&exec[..], words].concat())
    };
    // What agnhost tells of itself: the name of the pod that answers.
    let get = |pod: &str, target: &str, expected: &str| -> Result<()> {
        let url = format!("http://{target}/hostname");
        let answer = from(pod, &["curl", "-fsS", "-m", "5", &url])?;
        ensure!(
            answer.trim() == expected,
            "{answer:?} instead of {expected}"
        );
        Ok(())
    };
    // A Service is there some time after its pods are: only that is waited for.
    let settled = |pod: &str, target: &str, expected: &str| -> Result<()> {
        let mut last = Ok(());
        let found = until(SETTLE, "the Service leads to its pod", || {
            last = get(pod, target, expected);
            Ok(last.is_ok().then_some(()))
        });
        last.and(found)
    };
    let ping = |pod: &str, bytes: &str, target: &str| {
        from(pod, &["ping", "-c", "2", "-W", "5", "-s", bytes, target]).map(|_| ())
    };

    check("exec", from("client", &["true"]).map(|_| ()));
    check("logs", logs(cluster));
    check("pod to pod on its node, ping", ping("client", "56", &near));
    check(
        "pod to pod on its node, HTTP",
        get("client", &format!("{near}:8080"), "near"),
    );
    check(
        "pod to pod on another node, ping",
        ping("client", "56", &far),
    );
    check(
        "pod to pod on another node, 1300 bytes",
        ping("client", "1300", &far),
    );
    check(
        "pod to pod on another node, HTTP",
        get("client", &format!("{far}:8080"), "far"),
    );
    let node = Member::Node(1).name();
    check(
        "node to its pod, HTTP",
        http_from_node(cluster, &node, &near, "near"),
    );
    if !has_services(plan) {
        println!("Services are left out: nothing serves them (--kube-proxy)");
        return Ok(checks);
    }
    check(
        "pod to ClusterIP, backend on its node",
        settled("client", &service("near")?, "near"),
    );
    check(
        "pod to ClusterIP, backend on another node",
        settled("client", &service("far")?, "far"),
    );
    check(
        "pod to ClusterIP, itself as backend",
        settled("alone", &service("alone")?, "alone"),
    );
    let api = format!("https://{API_SERVICE}/healthz");
    let words = ["curl", "-ksS", "-m", "5", &api];
    let answer = from("client", &words).and_then(|text| {
        ensure!(
            text.contains("ok") || text.contains("Unauthorized"),
            "{text:?}"
        );
        Ok(())
    });
    check("pod to the API server's ClusterIP", answer);
    for (number, member) in plan.nodes().take(2).enumerate() {
        let at = format!("{}:{NODE_PORT}", member.v4());
        let whose = ["its own node", "another node"][number];
        check(
            &format!("pod to NodePort of {whose}"),
            settled("client", &at, "far"),
        );
        let url = format!("http://{at}/hostname");
        let curl = ["-fsS", "-m", "5", &url];
        let outside = |mut command: Command| expect(command.args(curl), "far");
        let inside = cluster.in_node(&Member::Node(1).name(), "curl")?;
        check(
            &format!("node n1 to NodePort of {}", member.name()),
            outside(inside),
        );
        let beyond = cluster.inside(Member::Underlay, "curl");
        check(
            &format!("outside to NodePort of {}", member.name()),
            outside(beyond),
        );
    }
    if plan.dns {
        check("DNS in the namespace", settled("client", "far", "far"));
        let full = format!("near.{SPACE}.svc.cluster.local");
        check("DNS by the full name", settled("client", &full, "near"));
    } else {
        println!("DNS is left out: the cluster has none (--dns)");
    }
    Ok(checks)
}

/// kube-proxy does, and so does our agent.
fn has_services(plan: &Plan) -> bool {
    plan.kube_proxy || plan.cni == Cni::Fairlead
}

fn logs(cluster: &Cluster) -> Result<()> {
    let text = cluster.ask(&["logs", "-n", SPACE, "far"])?;
    ensure!(text.contains("HTTP server"), "agnhost's log is {text:?}");
    Ok(())
}

fn http_from_node(cluster: &Cluster, node: &str, address: &str, expected: &str) -> Result<()> {
    let url = format!("http://{address}:8080/hostname");
    let mut curl = cluster.in_node(node, "curl")?;
    expect(curl.args(["-fsS", "-m", "5", &url]), expected)
}

fn expect(command: &mut Command, expected: &str) -> Result<()> {
    let answer = workspace::output(command)?;
    ensure!(
        answer.trim() == expected,
        "{answer:?} instead of {expected}"
    );
    Ok(())
}

fn objects(space: &str) -> Vec<Value> {
    let service = |name: &str, kind: &str, port: Value| {
        json!({ "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": name, "namespace": space },
            "spec": { "type": kind, "selector": { "app": name.trim_end_matches("-node") }, "ports": [port] } })
    };
    let port = || json!({ "port": 80, "targetPort": 8080 });
    let mut node_port = port();
    if space == SPACE {
        // Asked for by its number.
        node_port["nodePort"] = NODE_PORT.into();
    }
    vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": space } }),
        service("near", "ClusterIP", port()),
        service("far", "ClusterIP", port()),
        service("alone", "ClusterIP", port()),
        service("far-node", "NodePort", node_port),
    ]
}

fn pod(space: &str, name: &str, node: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": space, "labels": { "app": name } },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "agnhost",
                "image": AGNHOST,
                "args": ["netexec"],
                "readinessProbe": { "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 1 },
            }],
        } })
}
