//! A Service of the type LoadBalancer gets an address of the pool, and clients outside of the cluster reach it.
//! The node that answers for the address loses its power: another one answers within seconds.

use super::{
    super::{
        members,
        place::Cluster,
        place::until,
        plan::{Member, Plan},
        pods,
    },
    LIMIT, SPACE, rollout,
};
use crate::lab::run as program;
use anyhow::{Context, Result, ensure};
use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How long the address may not answer.
const GAP: Duration = Duration::from_secs(5);
/// How long a client waits for an answer; then it asks again.
const PATIENCE: Duration = Duration::from_millis(100);
const NAMES: [&str; 3] = ["balanced-1", "balanced-2", "balanced-3"];

pub(super) fn run(cluster: &Cluster) -> Result<String> {
    let plan = cluster.plan()?;
    ensure!(
        plan.nodes().count() >= 3,
        "needs three nodes: cargo xtask cluster up --nodes 3"
    );
    grant(cluster)?;
    option(cluster, Some(&pool()))?;
    let mut steps = Vec::new();
    for local in [false, true] {
        steps.push(moved(cluster, &plan, local)?);
    }
    option(cluster, None)?;
    Ok(steps.join("; "))
}

/// Addresses of the underlay that no member has.
fn pool() -> String {
    let [a, b, c, _] = Member::Underlay.v4().octets();
    let at = |host| Ipv4Addr::new(a, b, c, host);
    format!("{}-{}", at(200), at(209))
}

/// Gives the agents the rights that it needs.
fn grant(cluster: &Cluster) -> Result<()> {
    let rights = crate::workspace::root().join("deploy/load-balancer/rights.yaml");
    cluster.ask(&["apply", "-f", &rights.to_string_lossy()])?;
    let path = "/spec/template/spec/containers/0/securityContext/capabilities/add/-";
    let patch = serde_json::json!([{ "op": "add", "path": path, "value": "NET_RAW" }]);
    let words = ["patch", "daemonset", "fairlead", "-n", "kube-system"];
    let patch = ["--type=json", "-p", &patch.to_string()].map(ToOwned::to_owned);
    let patch = patch.iter().map(String::as_str);
    cluster.ask(&words.into_iter().chain(patch).collect::<Vec<_>>())?;
    Ok(())
}

/// Gives the agents the pool, or none.
fn option(cluster: &Cluster, pool: Option<&str>) -> Result<()> {
    let data = serde_json::json!({ "data": { "FAIRLEAD_LOAD_BALANCER_POOL": pool } });
    let words = [
        "patch",
        "configmap",
        "fairlead",
        "-n",
        "kube-system",
        "--type=merge",
        "-p",
    ];
    cluster.ask(&[&words[..], &[&data.to_string()]].concat())?;
    rollout(cluster)
}

/// A Service is made, reached, and reached again after its node is gone.
fn moved(cluster: &Cluster, plan: &Plan, local: bool) -> Result<String> {
    let (name, policy) = match local {
        true => ("balanced-local", "Local"),
        false => ("balanced", "Cluster"),
    };
    let mut service = pods::service(SPACE, name);
    service["spec"]["type"] = "LoadBalancer".into();
    service["spec"]["externalTrafficPolicy"] = policy.into();
    // One on each node: whichever is killed, others serve.
    let nodes: Vec<Member> = plan.nodes().collect();
    let servers = NAMES.iter().zip(&nodes).map(|(pod, node)| {
        let mut web = pods::web(
            SPACE,
            &format!("{pod}-{}", policy.to_lowercase()),
            &node.name(),
        );
        web["metadata"]["labels"] = serde_json::json!({ "app": name });
        web
    });
    let mut all = vec![service];
    all.extend(servers);
    let since = Instant::now();
    cluster.apply(&all)?;
    let address = until(LIMIT, "the Service has an address", || {
        let form = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        let text = cluster.ask(&["get", "service", name, "-n", SPACE, "-o", form])?;
        Ok(text.trim().parse::<Ipv4Addr>().ok())
    })?;
    let given = since.elapsed();
    pods::ready(cluster, SPACE)?;
    let lease = match local {
        true => format!("fairlead-lb.{SPACE}.{name}"),
        false => "fairlead-load-balancer".to_owned(),
    };
    let server = SocketAddr::from((address, 80));
    let netns = PathBuf::from("/run/netns").join(cluster.netns(Member::Underlay));
    until(LIMIT, "the address answers outside of the cluster", || {
        within(&netns, || Ok(connects(server).then_some(())))
    })?;
    let node = holder(cluster, &lease)?;
    let killed = plan
        .node(&node)
        .context("the holder of the Lease is a node")?;
    let pid = std::fs::read_to_string(cluster.node_dir(killed).join("pid"))?;
    // Its kernel lives on in its namespace and would carry packets: a node without power doesn't.
    let underlay = cluster.netns(Member::Underlay);
    let port = format!("to-{node}");
    let cut = || {
        program("ip", &["-n", &underlay, "link", "set", &port, "down"])?;
        cluster.kill(pid.trim())
    };
    let gap = within(&netns, || gap(server, cut))?;
    let heir = holder(cluster, &lease)?;
    ensure!(
        gap <= GAP && heir != node,
        "{address} did not answer for {:.2} s after {node} was killed; {heir} holds the Lease",
        gap.as_secs_f64()
    );
    // Its pods come back with it; the trial doesn't need them.
    members::reboot(cluster, plan, killed)?;
    let ready = format!("node/{node}");
    cluster.ask(&["wait", "--for=condition=Ready", &ready, "--timeout=120s"])?;
    cluster.ask(&["delete", "service", name, "-n", SPACE])?;
    let gone = format!("app={name}");
    cluster.ask(&[
        "delete",
        "pod",
        "-n",
        SPACE,
        "-l",
        &gone,
        "--force",
        "--grace-period=0",
    ])?;
    Ok(format!(
        "{policy}: {address} given after {:.1} s, at {node}; killed, at {heir} and answering after {:.2} s",
        given.as_secs_f64(),
        gap.as_secs_f64()
    ))
}

/// Who holds a Lease of the agents'.
fn holder(cluster: &Cluster, lease: &str) -> Result<String> {
    let form = "jsonpath={.spec.holderIdentity}";
    let holder = cluster.ask(&[
        "get",
        "lease",
        lease,
        "-n",
        "fairlead-load-balancer",
        "-o",
        form,
    ])?;
    Ok(holder.trim().to_owned())
}

/// The longest time without an answer after something was done, of a client that asks again and again.
fn gap(server: SocketAddr, disturb: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut longest, mut answered) = (Duration::ZERO, Instant::now());
            while !ended.load(Ordering::Relaxed) {
                if connects(server) {
                    longest = longest.max(answered.elapsed());
                    answered = Instant::now();
                }
                thread::sleep(Duration::from_millis(5));
            }
            longest.max(answered.elapsed())
        });
        let disturbed = disturb();
        // Twice as long as it may take, so that what is slower is seen.
        thread::sleep(GAP * 2);
        ended.store(true, Ordering::Relaxed);
        let longest = client
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        disturbed.map(|()| longest)
    })
}

fn connects(server: SocketAddr) -> bool {
    TcpStream::connect_timeout(&server, PATIENCE).is_ok()
}

/// Runs on a thread of its own in a network namespace; so do the threads that it starts.
fn within<T: Send>(netns: &PathBuf, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let file = File::open(netns)?;
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)?;
            work()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
