//! A hostile pod: floods of SYNs to whom it may reach and to whom it may not, a scan of every port, fragments
//! made to mislead. Nothing forbidden arrives, and other pods keep their connections.

use super::{
    super::{
        place::{Cluster, until},
        pods,
    },
    LIMIT, SPACE, agents,
    load::{Pings, Requests},
    policy::{Inside, policy, refused},
};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
};

const SYNS: u32 = 400_000;
/// Idle while the attack goes on, and used afterwards.
const IDLE: usize = 20;
/// Nobody may connect there; a server would answer all the same.
const FORBIDDEN: u16 = 8081;

pub(super) fn run(cluster: &Cluster) -> Result<String> {
    cluster.apply(&[
        pods::web(SPACE, "near", "n1"),
        pods::web(SPACE, "hostile", "n1"),
    ])?;
    pods::ready(cluster, SPACE)?;
    let servers = [("near", "n1"), ("far", "n2")];
    cluster.apply(&servers.map(|(name, _)| {
        let client = json!([{ "podSelector": { "matchLabels": { "app": "client" } } }]);
        let port = json!([{ "protocol": "TCP", "port": pods::PORT }]);
        // Who may, may on one port; and by one that has none.
        let ingress = json!([{ "from": client, "ports": port }]);
        policy(&format!("only-{name}"), name, &ingress)
    }))?;
    let hostile = Inside::of(cluster, "n1", "hostile")?;
    let client = Inside::of(cluster, "n1", "client")?;
    let spare = Inside::of(cluster, "n2", "spare")?;
    // What comes there is counted in the same way: so counters count.
    let reached = Inside::of(cluster, "n2", "spare")?.watch(&format!(
        "chain every {{ type filter hook prerouting priority -500; ip saddr {} counter; }}",
        hostile.address
    ))?;
    let mut watches = Vec::new();
    for (name, node) in servers {
        let pod = Inside::of(cluster, node, name)?;
        refused(&hostile, &pod.address)?;
        let address = pod.address.clone();
        let hooks = format!(
            "chain every {{ type filter hook prerouting priority -500; ip saddr {} counter; }}\n\
             chain whole {{ type filter hook input priority 0; ip saddr {} tcp dport {FORBIDDEN} counter; }}",
            hostile.address, client.address
        );
        watches.push((name, address, pod.watch(&hooks)?));
    }
    let mut load = Vec::new();
    for (name, address, _) in &watches {
        let at = format!("{address}:{}", pods::PORT);
        load.push((*name, Requests::start(&mut client.run("sh")?, &at)?));
    }
    let pings = Pings::start(client.run("ping")?, &spare.address, "0.002")?;
    let idle = (0..IDLE)
        .map(|number| Connection::open(&client, &watches[number % 2].1))
        .collect::<Result<Vec<_>>>()?;
    let mut sent = Vec::new();
    for (_, address, _) in &watches {
        let port = pods::PORT.to_string();
        let forbidden = FORBIDDEN.to_string();
        let count = SYNS.to_string();
        sent.push(attack(&hostile, address, &["flood", &port, &count])?);
        sent.push(attack(&hostile, address, &["scan"])?);
        sent.push(attack(
            &hostile,
            address,
            &["fragments", &port, &forbidden],
        )?);
        // Who may use one port tries another.
        sent.push(attack(&client, address, &["fragments", &port, &forbidden])?);
    }
    let port = pods::PORT.to_string();
    // To whom it may reach: its own table of connections fills up.
    sent.push(attack(
        &hostile,
        &spare.address,
        &["flood", &port, &SYNS.to_string()],
    )?);
    sent.push(attack(&hostile, &spare.address, &["scan"])?);
    for connection in idle {
        connection.ask()?;
    }
    let (pinged, back) = pings.stop()?;
    ensure!(
        pinged > 1_000 && back + 1 >= pinged,
        "{back} of {pinged} pings came back to a pod that did nothing"
    );
    let mut answered = 0;
    for (name, requests) in load {
        let outcomes = requests.stop()?;
        ensure!(
            outcomes.answered > 50 && outcomes.failures.is_empty(),
            "to {name}: {} answers, failed: {:?}",
            outcomes.answered,
            outcomes.failures
        );
        answered += outcomes.answered;
    }
    for (name, _, watch) in &watches {
        let counts = watch.counts()?;
        let kinds = ["of a pod that may not", "to a port that is not allowed"];
        ensure!(counts.len() == kinds.len(), "{name} counts {counts:?}");
        for (what, count) in kinds.iter().zip(counts) {
            ensure!(count == 0, "{count} packets {what} came to {name}");
        }
    }
    let reached = reached.counts()?;
    ensure!(
        reached.iter().all(|count| *count > 100_000),
        "{reached:?} packets came to whom the pod may reach"
    );
    agents::endpoints(cluster, "n1").context("the agent answers after all that")?;
    until(LIMIT, "the trial's policies are gone", || {
        Ok(cluster
            .ask(&["delete", "networkpolicy", "--all", "-n", SPACE])
            .ok())
    })?;
    let sent: u64 = sent.iter().sum();
    Ok(format!(
        "{sent} hostile packets, none arrived that may not; meanwhile {answered} requests and {pinged} pings of other pods, none lost, and {IDLE} idle connections went on"
    ))
}

fn attack(from: &Inside<'_>, to: &str, words: &[&str]) -> Result<u64> {
    let program = std::env::current_exe()?;
    let program = program.to_str().context("the program's path is text")?;
    let mut attack = from.run(program)?;
    attack.args(["attack", "--from", &from.address, "--to", to]);
    Ok(workspace::output(attack.args(words))?.trim().parse()?)
}

/// A connection that is used once, late.
struct Connection(Child);

impl Connection {
    fn open(from: &Inside<'_>, to: &str) -> Result<Self> {
        let script = format!(
            "exec 3<>/dev/tcp/{to}/{} && echo open && read go && printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 10 cat <&3",
            pods::PORT
        );
        let mut shell: Command = from.run("bash")?;
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.args(["-c", &script]).spawn()?;
        let mut opened = [0; 5];
        let output = child.stdout.as_mut().context("its output")?;
        output
            .read_exact(&mut opened)
            .context("a connection before the attack")?;
        Ok(Self(child))
    }

    fn ask(mut self) -> Result<()> {
        self.0
            .stdin
            .take()
            .context("its input")?
            .write_all(b"go\n")?;
        let mut text = String::new();
        let output = self.0.stdout.as_mut().context("its output")?;
        output.read_to_string(&mut text)?;
        self.0.wait()?;
        ensure!(
            text.contains("200 OK"),
            "a connection from before the attack says {text:?}"
        );
        Ok(())
    }
}
