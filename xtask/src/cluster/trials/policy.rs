//! Ten minutes of policies that come, go and change while agents are killed: a pod that may not talk with two
//! others never gets a packet through to them, one that may never loses one. Counted where packets arrive.

use super::{
    super::{
        place::{Cluster, until},
        pods,
    },
    LIMIT, SPACE, agents,
    load::{Pings, Requests},
};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const TIME: Duration = Duration::from_secs(600);
/// Policies that come and go around those that count.
const CROWD: usize = 20;

/// The server pods and where they are.
const SERVERS: [(&str, &str); 2] = [("near", "n1"), ("far", "n2")];

pub(super) fn run(cluster: &Cluster) -> Result<String> {
    cluster.apply(&[
        pods::web(SPACE, "near", "n1"),
        pods::web(SPACE, "stranger", "n1"),
    ])?;
    pods::ready(cluster, SPACE)?;
    cluster.apply(&SERVERS.map(|(name, _)| guard(name, 0)))?;
    let stranger = Inside::of(cluster, "n1", "stranger")?;
    let client = Inside::of(cluster, "n1", "client")?;
    let watches = SERVERS.map(|(name, node)| {
        let pod = Inside::of(cluster, node, name)?;
        refused(&stranger, &pod.address)?;
        // Who may come is counted in the same way: so counters count.
        let chain = |name, address| {
            format!("chain {name} {{ type filter hook prerouting priority -500; ip saddr {address} counter; }}\n")
        };
        pod.watch(&(chain("forbidden", &stranger.address) + &chain("allowed", &client.address)))
    });
    let watches = watches.into_iter().collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    let mut allowed = Vec::new();
    let mut forbidden = Vec::new();
    for (name, node) in SERVERS {
        let to = agents::endpoint(cluster, node, SPACE, name)?;
        allowed.push((name, client.load(to.address(), "0.002")?));
        forbidden.push((name, stranger.load(to.address(), "0.01")?));
    }
    let done = churn(cluster, begin);
    let mut seen = Vec::new();
    for (name, (pings, requests)) in allowed {
        let (sent, received) = pings.stop()?;
        let outcomes = requests.stop()?;
        ensure!(
            sent > 10_000 && received + 1 >= sent && outcomes.failures.is_empty(),
            "to {name}, which is allowed: {received} of {sent} pings came back, failed requests: {:?}",
            outcomes.failures
        );
        let answered = outcomes.answered;
        seen.push(format!(
            "to {name} {sent} pings and {answered} requests, none lost"
        ));
    }
    for (name, (pings, requests)) in forbidden {
        let (sent, received) = pings.stop()?;
        let outcomes = requests.stop()?;
        ensure!(
            sent > 1_000 && received == 0 && outcomes.answered == 0,
            "to {name}, which is forbidden: {received} of {sent} pings came back, {} requests answered",
            outcomes.answered
        );
        let tried = outcomes.failures.len();
        seen.push(format!(
            "forbidden to {name} {sent} pings and {tried} connections, none through"
        ));
    }
    for (watch, (name, _)) in watches.iter().zip(SERVERS) {
        let counts = watch.counts()?;
        ensure!(
            matches!(counts[..], [0, allowed] if allowed > 10_000),
            "to {name} came, of the pod that may not and of the one that may: {counts:?} packets"
        );
    }
    let changes = done?;
    let words = ["delete", "networkpolicy", "--all", "-n", SPACE];
    cluster.ask(&words)?;
    Ok(format!("{changes}: {}", seen.join("; ")))
}

/// Lets the pod `client` in, in words that change with `turn` and always mean that.
fn guard(server: &str, turn: usize) -> Value {
    let client = json!({ "podSelector": { "matchLabels": { "app": "client" } } });
    let also = json!({ "podSelector": { "matchLabels": { "app": format!("nobody-{turn}") } } });
    let from = match turn % 3 {
        0 => json!([client]),
        1 => json!([also, client]),
        _ => {
            json!([{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": SPACE } },
            "podSelector": { "matchExpressions": [{ "key": "app", "operator": "In", "values": ["client", "x"] }] } }])
        }
    };
    let ports = match turn % 2 {
        0 => Value::Null,
        // Everything, in other words than none.
        _ => json!([
            { "protocol": "TCP", "port": 1, "endPort": 65_535 },
            { "protocol": "UDP" }
        ]),
    };
    // Pings have no ports: they come by a rule of their own.
    let ingress = match ports.is_null() {
        true => json!([{ "from": from }]),
        false => json!([{ "from": from.clone(), "ports": ports }, { "from": from }]),
    };
    policy(&format!("guard-{server}"), server, &ingress)
}

/// Selects a server too, and lets in who is nobody.
fn bystander(number: usize, turn: usize) -> Value {
    let (server, _) = SERVERS[number % SERVERS.len()];
    let peer = match turn % 2 {
        0 => json!({ "podSelector": { "matchLabels": { "app": format!("ghost-{turn}") } } }),
        _ => json!({ "ipBlock": { "cidr": format!("198.51.{}.0/24", turn % 200) } }),
    };
    let ingress = json!([{ "from": [peer], "ports": [{ "port": 1 + turn % 60_000 }] }]);
    policy(&format!("crowd-{number}"), server, &ingress)
}

pub(super) fn policy(name: &str, server: &str, ingress: &Value) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": SPACE },
        "spec": { "podSelector": { "matchLabels": { "app": server } }, "policyTypes": ["Ingress"], "ingress": ingress } })
}

/// Changes policies without a pause, and kills the agents again and again.
fn churn(cluster: &Cluster, begin: Instant) -> Result<String> {
    let (mut changes, mut kills, mut turn) = (0, 0, 1);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| -> Result<usize> {
            let mut kills = 0;
            while begin.elapsed() < TIME {
                agents::kill(cluster)?;
                kills += 2;
                // A container that ends often is started late: a new pod is not.
                super::rollout(cluster)?;
            }
            Ok(kills)
        });
        while begin.elapsed() < TIME && !killer.is_finished() {
            let mut objects: Vec<Value> = SERVERS.map(|(name, _)| guard(name, turn)).into();
            let number = turn % CROWD;
            objects.push(bystander(number, turn));
            cluster.apply(&objects)?;
            let label = format!("turn={turn}");
            let words = ["label", "pod", "spare", "--overwrite", "-n", SPACE, &label];
            cluster.ask(&words)?;
            changes += objects.len() + 1;
            if turn % 5 == 0 {
                let gone = format!("crowd-{}", (turn + CROWD / 2) % CROWD);
                let words = [
                    "delete",
                    "networkpolicy",
                    &gone,
                    "--ignore-not-found",
                    "-n",
                    SPACE,
                ];
                cluster.ask(&words)?;
                changes += 1;
            }
            turn += 1;
        }
        kills = killer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        anyhow::Ok(())
    })?;
    let seconds = begin.elapsed().as_secs();
    Ok(format!(
        "{changes} changes and {kills} killed agents in {seconds} s"
    ))
}

/// A pod, from its inside.
pub(super) struct Inside<'a> {
    cluster: &'a Cluster,
    node: &'static str,
    sandbox: String,
    pub(super) address: String,
}

impl<'a> Inside<'a> {
    pub(super) fn of(cluster: &'a Cluster, node: &'static str, pod: &str) -> Result<Self> {
        let endpoint = agents::endpoint(cluster, node, SPACE, pod)?;
        Ok(Self {
            cluster,
            node,
            address: endpoint.address().to_owned(),
            sandbox: endpoint.sandbox,
        })
    }

    /// A program in its network. Not by `kubectl exec`, which goes through the API server.
    pub(super) fn run(&self, program: &str) -> Result<Command> {
        let mut command = self.cluster.in_node(self.node, "nsenter")?;
        command.args([&format!("--net={}", self.sandbox), program]);
        command.stdin(Stdio::null());
        Ok(command)
    }

    fn load(&self, to: &str, interval: &str) -> Result<(Pings, Requests)> {
        let pings = Pings::start(self.run("ping")?, to, interval)?;
        let target = format!("{to}:{}", pods::PORT);
        Ok((pings, Requests::start(&mut self.run("sh")?, &target)?))
    }

    /// Counts what comes to it by these chains, whatever becomes of it.
    pub(super) fn watch(self, chains: &str) -> Result<Watch<'a>> {
        let rules = format!("table inet watch {{\n{chains}\n}}");
        workspace::run(self.run("nft")?.arg(&rules))?;
        Ok(Watch(self))
    }
}

/// Counts packets in a pod.
pub(super) struct Watch<'a>(Inside<'a>);

impl Watch<'_> {
    /// Of each counter.
    pub(super) fn counts(&self) -> Result<Vec<u64>> {
        let mut nft = self.0.run("nft")?;
        let text = workspace::output(nft.args(["list", "table", "inet", "watch"]))?;
        let counts = text.split("packets ").skip(1);
        let counts = counts.map(|rest| rest.split(' ').next().unwrap_or_default().parse());
        counts
            .collect::<Result<_, _>>()
            .with_context(|| format!("nft said {text}"))
    }
}

/// Waits until a pod gets no answer from another any more.
pub(super) fn refused(from: &Inside<'_>, to: &str) -> Result<()> {
    until(LIMIT, "the policies are in force", || {
        let mut curl = from.run("curl")?;
        let url = format!("http://{to}:{}/hostname", pods::PORT);
        let asked = workspace::output(curl.args(["-fsS", "-m", "1", &url]));
        Ok(asked.is_err().then_some(()))
    })
}
