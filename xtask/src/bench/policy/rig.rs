//! The paths: labs, agents, rules.

use super::{
    super::{
        paths::CORES,
        worker::{self, Measured, Serving},
    },
    Rates,
};
use crate::{
    lab::{Agent, Lab, LabOptions, NetNs, Plugin, Pod, Session, Underlay, load::Load, reference},
    workspace,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// Rules of one NetworkPolicy, as people have them.
const IN_ONE: u32 = 100;
/// How long rules may take until they are in force.
const LIMIT: Duration = Duration::from_secs(60);

/// One path and what it needs. The fields end in this order: the serving end before the agent, the agent before
/// pods and nodes.
struct Measurable {
    rates: Rates,
    serving: Serving,
    agent: Option<Agent>,
    client: Pod,
    server: Pod,
    _lab: Lab,
}

/// All paths.
pub(super) struct Rig {
    paths: Vec<Measurable>,
    pub(super) in_force_millis: Vec<(u32, f64)>,
}

/// Who judges.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Firewall {
    Nftables,
    /// As most have it: one rule after the other, in the kernel's nftables.
    Iptables,
}

impl Rig {
    pub(super) fn new(
        session: &Arc<Session>,
        binaries: &Path,
        rules: [u32; 2],
        say: &dyn Fn(&str),
    ) -> Result<Self> {
        let mut rig = Self {
            paths: Vec::new(),
            in_force_millis: Vec::new(),
        };
        rig.firewall(session, "pr", None, 0)?;
        rig.fairlead(session, "pf", binaries, 0)?;
        let names = [["p1", "n1", "i1"], ["p2", "n2", "i2"]];
        for (rules, [ours, nft, iptables]) in rules.into_iter().zip(names) {
            rig.fairlead(session, ours, binaries, rules)?;
            rig.firewall(session, nft, Some(Firewall::Nftables), rules)?;
            rig.firewall(session, iptables, Some(Firewall::Iptables), rules)?;
            say(&format!("{rules} rules are in force on every path"));
        }
        Ok(rig)
    }

    pub(super) fn rates(&self) -> Vec<Rates> {
        self.paths.iter().map(|path| path.rates.clone()).collect()
    }

    pub(super) fn run(&mut self, index: usize, load: Load, time: Duration) -> Result<Measured> {
        let path = &mut self.paths[index];
        let target = path.server.v4.into();
        let (client, serving) = (&path.client.ns, &mut path.serving);
        worker::measure(client, CORES.0, None, serving, target, load, time)
    }

    pub(super) fn agent_kib(&self) -> Result<Vec<(u32, u64)>> {
        let mut all = Vec::new();
        for path in &self.paths {
            if let Some(agent) = &path.agent {
                let status = fs::read_to_string(format!("/proc/{}/status", agent.id()))?;
                let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
                let kib = line.and_then(|line| line.split_whitespace().next());
                all.push((path.rates.rules, kib.context("no VmRSS")?.parse()?));
            }
        }
        Ok(all)
    }

    fn add(
        &mut self,
        by: &'static str,
        rules: u32,
        [client, server]: [Pod; 2],
        lab: Lab,
        agent: Option<Agent>,
    ) -> Result<()> {
        let path = match rules {
            0 => by.to_owned(),
            1 => format!("{by}, 1 rule"),
            _ => format!("{by}, {rules} rules"),
        };
        let serving = Serving::start(&server.ns, CORES.1)?;
        self.paths.push(Measurable {
            rates: Rates {
                path,
                by,
                rules,
                connections: Vec::new(),
                trips: Vec::new(),
            },
            serving,
            agent,
            client,
            server,
            _lab: lab,
        });
        Ok(())
    }

    /// Two pods that the kernel routes between, and rules in their node's way.
    fn firewall(
        &mut self,
        session: &Arc<Session>,
        name: &'static str,
        firewall: Option<Firewall>,
        rules: u32,
    ) -> Result<()> {
        let lab = lab(session, name)?;
        let node = &lab.nodes[0];
        reference::route_nodes(&lab.nodes)?;
        let pods = [
            reference::routed_pod(node, 0)?,
            reference::routed_pod(node, 1)?,
        ];
        let client = pods[0].v4;
        let file = node.dir.join("rules");
        let by = match firewall {
            None => "kernel routing",
            Some(Firewall::Nftables) => {
                fs::write(&file, nftables(client, rules))?;
                node.ns.checked(Command::new("nft").arg("-f").arg(&file))?;
                "nftables"
            }
            Some(Firewall::Iptables) => {
                fs::write(&file, iptables(client, rules))?;
                node.ns
                    .checked(Command::new("iptables-restore").arg(&file))?;
                "iptables"
            }
        };
        self.add(by, rules, pods, lab, None)
    }

    fn fairlead(
        &mut self,
        session: &Arc<Session>,
        name: &'static str,
        binaries: &Path,
        rules: u32,
    ) -> Result<()> {
        let lab = lab(session, name)?;
        let node = &lab.nodes[0];
        let agent = Agent::start(&lab, node, &binaries.join("fairlead"), &[])?;
        let plugin = Plugin {
            path: binaries.to_owned(),
            config: node.cni_config("1.1.0"),
        };
        let add = |name: &str| Pod::add(node, &plugin, name);
        let pods = [add("client")?, add("server")?];
        let stranger = add("stranger")?;
        let manifest = |pod: &Pod| {
            json!({ "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": pod.name, "namespace": "default", "labels": { "app": pod.name } },
                "spec": { "nodeName": node.name, "containers": [] },
                "status": { "podIPs": [{ "ip": pod.v4.to_string() }] } })
        };
        let mut objects: Vec<Value> = pods.iter().chain([&stranger]).map(manifest).collect();
        if rules > 0 {
            objects.extend(policies(pods[0].v4, rules));
        }
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        let hidden = lab.manifests().join(".policies.tmp");
        fs::write(&hidden, serde_json::to_vec(&list)?)?;
        let begin = Instant::now();
        fs::rename(&hidden, lab.manifests().join("policies.json"))?;
        if rules > 0 {
            refused(&agent, &stranger)?;
            let millis = begin.elapsed().as_secs_f64() * 1e3;
            self.in_force_millis.push((rules, millis));
        }
        self.add("Fairlead", rules, pods, lab, Some(agent))
    }
}

fn lab(session: &Arc<Session>, name: &'static str) -> Result<Lab> {
    let options = LabOptions {
        name,
        nodes: 1,
        underlay: Underlay::Bridge,
    };
    Lab::new(session, options)
}

impl NetNs {
    /// Runs a program that must succeed.
    fn checked(&self, command: &mut Command) -> Result<()> {
        self.run(|| workspace::run(command))
    }
}

/// Waits until the programs say that somebody who isn't named is not let in.
fn refused(agent: &Agent, stranger: &Pod) -> Result<()> {
    let end = Instant::now() + LIMIT;
    let from = format!("default/{}", stranger.name);
    loop {
        let asked = agent.client(&[
            "policy",
            "explain",
            &from,
            "default/server",
            "80",
            "-o",
            "json",
        ])?;
        let said: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
        if said["programs"]["outcome"] == "policy_ingress" {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "the rules are not in force: {said} {}",
            String::from_utf8_lossy(&asked.stderr)
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Who is let in besides the client, each by one port: nobody of them is there.
fn others(rules: u32) -> impl Iterator<Item = (Ipv4Addr, u16)> {
    (1..rules).map(|number| {
        let address = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number;
        let port = u16::try_from(1024 + number % 60_000).unwrap_or(u16::MAX);
        (address.into(), port)
    })
}

fn policies(client: Ipv4Addr, rules: u32) -> Vec<Value> {
    let block = |address: Ipv4Addr| json!([{ "ipBlock": { "cidr": format!("{address}/32") } }]);
    let mut all: Vec<Value> = others(rules)
        .map(|(address, port)| json!({ "from": block(address), "ports": [{ "port": port }] }))
        .collect();
    all.push(json!({ "from": block(client) }));
    all.chunks(IN_ONE as usize)
        .enumerate()
        .map(|(number, rules)| {
            json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": { "name": format!("p{number}"), "namespace": "default" },
                "spec": { "podSelector": { "matchLabels": { "app": "server" } },
                    "policyTypes": ["Ingress"], "ingress": rules } })
        })
        .collect()
}

fn nftables(client: Ipv4Addr, rules: u32) -> String {
    let mut text =
        "table ip bench {\nchain forward {\ntype filter hook forward priority 0; policy drop;\n\
                    ct state established,related accept\n"
            .to_owned();
    for (address, port) in others(rules) {
        let _infallible = writeln!(text, "ip saddr {address} tcp dport {port} accept");
    }
    let _infallible = writeln!(text, "ip saddr {client} accept\n}}\n}}");
    text
}

fn iptables(client: Ipv4Addr, rules: u32) -> String {
    let mut text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                    -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n"
        .to_owned();
    for (address, port) in others(rules) {
        let _infallible = writeln!(
            text,
            "-A FORWARD -s {address}/32 -p tcp -m tcp --dport {port} -j ACCEPT"
        );
    }
    let _infallible = writeln!(text, "-A FORWARD -s {client}/32 -j ACCEPT\nCOMMIT");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_the_same_rules_and_the_client_last() {
        let client = Ipv4Addr::new(10, 0, 0, 2);
        for rules in [1, 2_500] {
            let all = policies(client, rules);
            let of = |policy: &Value| policy["spec"]["ingress"].as_array().map_or(0, Vec::len);
            let count: usize = all.iter().map(of).sum();
            let lines = |text: &str| text.matches("accept\n").count() - 1;
            assert_eq!(count, rules as usize);
            assert_eq!(lines(&nftables(client, rules)), rules as usize);
            assert_eq!(
                iptables(client, rules).matches("-j ACCEPT").count() - 1,
                rules as usize
            );
            let last = all
                .last()
                .and_then(|p| p["spec"]["ingress"].as_array()?.last());
            assert_eq!(
                last.map(|rule| &rule["from"][0]["ipBlock"]["cidr"]),
                Some(&json!("10.0.0.2/32"))
            );
        }
    }
}
