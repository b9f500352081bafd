//! What any network of a cluster has to do, looked at from inside and outside: pods and Services on two
//! nodes, probes, exec, logs, forwarded ports and DNS. `cargo xtask cluster smoke` runs it against whatever is up.

use super::{
    place::{Cluster, until},
    plan::{API_SERVICE, Cni, DNS_SERVICE, Member, Plan},
    pods::{self, PORT, SETTLE},
};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// Everything of it is in this namespace of Kubernetes.
const SPACE: &str = "fairlead-smoke";
const NODE_PORT: u16 = 30080;
/// Of the pod `far`; the plugin `portmap` leads it there.
const HOST_PORT: u16 = 30090;

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
    ensure!(
        plan.node("n1").is_some() && plan.node("n2").is_some(),
        "smoke needs the nodes n1 and n2; add one: cargo xtask cluster join"
    );
    pods::remove(cluster, SPACE)?;
    pods::start(cluster, SPACE, &services(), &servers())?;
    cluster.apply(&[never_ready()])?;
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
    pods::remove(cluster, SPACE)?;
    println!("all {} checks passed", checks.len());
    Ok(())
}

fn checks(cluster: &Cluster, plan: &Plan) -> Result<Vec<Check>> {
    let service = |name: &str| pods::cluster_ip(cluster, SPACE, name);
    let address = |name: &str| pods::address(cluster, SPACE, name);
    let (near, far) = (address("near")?, address("far")?);
    let mut checks = Vec::new();
    let mut check = |what: &str, outcome: Result<()>| {
        checks.push(Check {
            what: what.to_owned(),
            outcome,
        });
    };
    let from = |pod: &str, words: &[&str]| pods::exec(cluster, SPACE, pod, words);
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
    for pod in ["near", "far"] {
        check(&format!("port-forward to {pod}"), forward(cluster, pod));
    }
    check(
        "probes pass: httpGet, tcpSocket, exec",
        probes_pass(cluster),
    );
    check(
        "a readiness probe fails: the pod runs and is not ready",
        probe_fails(cluster),
    );
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
    let curl = cluster.in_node(&node, "curl")?;
    check(
        "node to its pod, HTTP",
        ask_name(curl, &format!("{near}:{PORT}"), "near"),
    );
    let at = format!("{}:{HOST_PORT}", Member::Node(2).v4());
    check("pod to hostPort of another node", get("client", &at, "far"));
    for node in ["n1", "n2"] {
        let curl = cluster.in_node(node, "curl")?;
        check(
            &format!("node {node} to hostPort of n2"),
            ask_name(curl, &at, "far"),
        );
    }
    let curl = cluster.inside(Member::Underlay, "curl");
    check("outside to hostPort of n2", ask_name(curl, &at, "far"));
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
    for name in ["near", "far"] {
        let at = service(name)?;
        let curl = cluster.in_node("n1", "curl")?;
        check(
            &format!("node n1 to ClusterIP of {name}"),
            ask_name(curl, &at, name),
        );
    }
    let nobody = service("nobody")?;
    let refused = |outcome: Result<String>| -> Result<()> {
        let Err(error) = outcome else {
            anyhow::bail!("somebody answers");
        };
        // curl's exit code 7: it could not connect; a packet that is dropped ends with 28.
        let text = format!("{error:#}");
        ensure!(
            text.contains("(7)") || text.contains("exit code 7"),
            "not refused: {text}"
        );
        Ok(())
    };
    let words = ["curl", "-sS", "-m", "5", &nobody];
    check(
        "a ClusterIP without endpoints refuses a pod",
        refused(from("client", &words)),
    );
    let mut curl = cluster.in_node("n1", "curl")?;
    let outcome = workspace::output(curl.args(&words[1..]));
    check("and the node", refused(outcome));
    for (number, member) in [1, 2].map(Member::Node).into_iter().enumerate() {
        let at = format!("{}:{NODE_PORT}", member.v4());
        let whose = ["its own node", "another node"][number];
        check(
            &format!("pod to NodePort of {whose}"),
            settled("client", &at, "far"),
        );
        let inside = cluster.in_node(&Member::Node(1).name(), "curl")?;
        check(
            &format!("node n1 to NodePort of {}", member.name()),
            ask_name(inside, &at, "far"),
        );
        let beyond = cluster.inside(Member::Underlay, "curl");
        check(
            &format!("outside to NodePort of {}", member.name()),
            ask_name(beyond, &at, "far"),
        );
    }
    if !plan.kube_proxy && plan.cni == Cni::Fairlead {
        let at = format!("127.0.0.1:{NODE_PORT}");
        let curl = cluster.in_node("n1", "curl")?;
        check(
            "node n1 to NodePort of its loopback",
            ask_name(curl, &at, "far"),
        );
    }
    if plan.dns {
        // By UDP from the host's own namespace.
        let name = format!("near.{SPACE}.svc.cluster.local");
        let mut dig = cluster.in_node("n1", "dig")?;
        let at = format!("@{DNS_SERVICE}");
        let answer = workspace::output(dig.args(["+short", "+time=3", "+tries=1", &at, &name]));
        let expected = service("near")?;
        let found = answer.and_then(|text| {
            ensure!(text.trim() == expected, "{text:?} instead of {expected}");
            Ok(())
        });
        check("node n1 asks cluster DNS", found);
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

/// By a port of the control plane's loopback that kubectl chooses.
fn forward(cluster: &Cluster, pod: &str) -> Result<()> {
    let target = format!("pod/{pod}");
    let ports = format!(":{PORT}");
    let mut kubectl = cluster.kubectl()?;
    kubectl.args(["port-forward", "-n", SPACE, &target, &ports]);
    kubectl.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = kubectl.spawn()?;
    let asked = (|| {
        let output = child.stdout.take().context("port-forward's output")?;
        let (mut line, mut output) = (String::new(), BufReader::new(output));
        // It stays open: kubectl writes on.
        output.read_line(&mut line)?;
        // Forwarding from 127.0.0.1:40123 -> 8080
        let at = line.split(' ').nth(2);
        let at = at.with_context(|| format!("port-forward said {line:?}"))?;
        ask_name(cluster.inside(Member::ControlPlane, "curl"), at, pod)
    })();
    child.kill()?;
    child.wait()?;
    asked
}

fn probes_pass(cluster: &Cluster) -> Result<()> {
    let status = |path: &str| pods::field(cluster, SPACE, "probed", path);
    let ready = status(".status.containerStatuses[0].ready")?;
    let restarts = status(".status.containerStatuses[0].restartCount")?;
    ensure!(
        ready == "true" && restarts == "0",
        "ready: {ready}, restarts: {restarts}"
    );
    Ok(())
}

fn probe_fails(cluster: &Cluster) -> Result<()> {
    let failed = "involvedObject.name=never-ready,reason=Unhealthy";
    let words = [
        "get",
        "events",
        "-n",
        SPACE,
        "-o",
        "name",
        "--field-selector",
    ];
    until(SETTLE, "the kubelet has told of the failure", || {
        let events = cluster.ask(&[&words[..], &[failed]].concat())?;
        Ok((!events.is_empty()).then_some(()))
    })?;
    let status = |path: &str| pods::field(cluster, SPACE, "never-ready", path);
    let phase = status(".status.phase")?;
    let ready = status(".status.containerStatuses[0].ready")?;
    ensure!(
        phase == "Running" && ready == "false",
        "phase: {phase}, ready: {ready}"
    );
    Ok(())
}

/// Whether the server there has that name; the command is curl, from somewhere.
fn ask_name(mut curl: Command, at: &str, expected: &str) -> Result<()> {
    let url = format!("http://{at}/hostname");
    let answer = workspace::output(curl.args(["-fsS", "-m", "5", &url]))?;
    ensure!(
        answer.trim() == expected,
        "{answer:?} instead of {expected}"
    );
    Ok(())
}

fn services() -> Vec<Value> {
    let mut node_port = pods::service(SPACE, "far");
    node_port["metadata"]["name"] = "far-node".into();
    node_port["spec"]["type"] = "NodePort".into();
    node_port["spec"]["ports"][0]["nodePort"] = NODE_PORT.into();
    let mut all = ["near", "far", "alone", "nobody"]
        .map(|name| pods::service(SPACE, name))
        .to_vec();
    all.push(node_port);
    all
}

fn servers() -> Vec<Value> {
    let mut far = pods::web(SPACE, "far", "n2");
    far["spec"]["containers"][0]["ports"] =
        json!([{ "containerPort": PORT, "hostPort": HOST_PORT }]);
    let mut probed = pods::web(SPACE, "probed", "n1");
    let container = &mut probed["spec"]["containers"][0];
    container["startupProbe"] = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
    container["livenessProbe"] = json!({ "tcpSocket": { "port": PORT }, "periodSeconds": 1 });
    let mut all = ["client", "near", "alone"]
        .map(|name| pods::web(SPACE, name, "n1"))
        .to_vec();
    all.extend([far, probed]);
    all
}

fn never_ready() -> Value {
    let mut pod = pods::web(SPACE, "never-ready", "n1");
    pod["spec"]["containers"][0]["readinessProbe"] =
        json!({ "tcpSocket": { "port": 1 }, "periodSeconds": 1 });
    pod
}
