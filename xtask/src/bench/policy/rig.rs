//! The paths: labs, agents, rules.

use super::{
    super::{
        cni::status_kib,
        paths::CORES,
        worker::{self, Measured, Serving},
    },
    Agents, Rates,
    rules::{iptables, nftables, policies, policy},
};
use crate::{
    lab::{
        Agent, Lab, LabOptions, NetNs, Plugin, Pod, Session, Underlay, load::Load, probe::Port,
        reference,
    },
    workspace,
};
use anyhow::{Context, Result, bail, ensure};
use rustix::net::sockopt::set_socket_linger;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// How long rules may take until they are in force.
const LIMIT: Duration = Duration::from_secs(60);
/// How often the rules are written anew, to see how long that takes.
const WRITES: usize = 5;
/// How long a connection waits while the rules come: how finely that is seen.
const TRY: Duration = Duration::from_millis(10);
/// How long one waits that nobody is to let in.
const REFUSED: Duration = Duration::from_millis(500);

/// One path and what it needs. The fields end in this order: the serving end before the agent, the agent before
/// pods and nodes.
struct Measurable {
    rates: Rates,
    serving: Serving,
    agent: Option<Agent>,
    in_force_millis: Vec<f64>,
    client: Pod,
    server: Pod,
    /// Whom no rule means.
    _stranger: Pod,
    _lab: Lab,
}

/// All paths.
pub(super) struct Rig {
    paths: Vec<Measurable>,
}

/// Who judges.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Firewall {
    Nftables,
    /// One look-up in a set in place of the rules, and the client's rule after it.
    NftablesSet,
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
        let mut rig = Self { paths: Vec::new() };
        rig.firewall(session, "pr", None, 0)?;
        rig.fairlead(session, "pf", binaries, 0)?;
        let [_, many] = rules;
        let names = [["p1", "n1", "i1"], ["p2", "n2", "i2"]];
        for (rules, [ours, nft, iptables]) in rules.into_iter().zip(names) {
            rig.fairlead(session, ours, binaries, rules)?;
            rig.firewall(session, nft, Some(Firewall::Nftables), rules)?;
            rig.firewall(session, iptables, Some(Firewall::Iptables), rules)?;
            say(&format!("{rules} rules are in force on every path"));
        }
        rig.firewall(session, "s2", Some(Firewall::NftablesSet), many)?;
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

    /// What the agents took.
    ///
    /// # Errors
    /// When one has ended.
    pub(super) fn agents(&self) -> Result<Vec<Agents>> {
        let mut all = Vec::new();
        for path in &self.paths {
            if let Some(agent) = &path.agent {
                all.push(Agents {
                    rules: path.rates.rules,
                    in_force_millis: path.in_force_millis.clone(),
                    resident_kib: status_kib(agent.id(), "VmRSS:")?,
                });
            }
        }
        Ok(all)
    }

    fn add(
        &mut self,
        by: &'static str,
        rules: u32,
        [client, server, stranger]: [Pod; 3],
        lab: Lab,
        serving: Serving,
        agent: Option<(Agent, Vec<f64>)>,
    ) -> Result<()> {
        let path = match rules {
            0 => by.to_owned(),
            1 => format!("{by}, 1 rule"),
            _ => format!("{by}, {rules} rules"),
        };
        if rules > 0 {
            let says = attempt(&stranger.ns, server.v4, REFUSED)?;
            ensure!(!says, "{path}: a pod that no rule means is let in");
        }
        let (agent, in_force_millis) = agent.unzip();
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
            in_force_millis: in_force_millis.unwrap_or_default(),
            client,
            server,
            _stranger: stranger,
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
        let pod = |index| reference::routed_pod(node, index);
        let pods = [pod(0)?, pod(1)?, pod(2)?];
        let serving = Serving::start(&pods[1].ns, CORES.1)?;
        let client = pods[0].v4;
        let file = node.dir.join("rules");
        let by = match firewall {
            None => "kernel routing",
            Some(kind @ (Firewall::Nftables | Firewall::NftablesSet)) => {
                let set = kind == Firewall::NftablesSet;
                fs::write(&file, nftables(client, rules, set))?;
                node.ns.checked(Command::new("nft").arg("-f").arg(&file))?;
                if set { "nftables, set" } else { "nftables" }
            }
            Some(Firewall::Iptables) => {
                fs::write(&file, iptables(client, rules))?;
                node.ns
                    .checked(Command::new("iptables-restore").arg(&file))?;
                "iptables"
            }
        };
        self.add(by, rules, pods, lab, serving, None)
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
        let pods = [add("client")?, add("server")?, add("stranger")?];
        let serving = Serving::start(&pods[1].ns, CORES.1)?;
        let manifest = |pod: &Pod| {
            json!({ "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": pod.name, "namespace": "default", "labels": { "app": pod.name } },
                "spec": { "nodeName": node.name, "containers": [] },
                "status": { "podIPs": [{ "ip": pod.v4.to_string() }] } })
        };
        let mut objects: Vec<Value> = pods.iter().map(manifest).collect();
        if rules > 0 {
            objects.push(policy("closed", &[]));
        }
        write(&lab, "pods", &objects)?;
        let mut millis = Vec::new();
        if rules > 0 {
            let objects = policies(pods[0].v4, rules);
            for turn in 0..WRITES {
                if turn > 0 {
                    fs::remove_file(lab.manifests().join("rules.json"))?;
                }
                closed(&agent)?;
                let begin = write(&lab, "rules", &objects)?;
                let seen = let_in(&pods[0].ns, pods[1].v4)?;
                millis.push((seen - begin).as_secs_f64() * 1e3);
            }
            // The client's rule is the last; the others are there, too.
            for map in ["peer_blocks", "verdicts"] {
                let rows = rows(&lab.pins(node).join("maps").join(map))?;
                ensure!(
                    rows >= rules as usize,
                    "{map} has {rows} rows of {rules} rules"
                );
            }
        }
        let agent = Some((agent, millis));
        self.add("Fairlead", rules, pods, lab, serving, agent)
    }
}

/// Writes objects to a lab's folder, whole at once, and says when that began.
fn write(lab: &Lab, name: &str, objects: &[Value]) -> Result<Instant> {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    let hidden = lab.manifests().join(format!(".{name}.tmp"));
    fs::write(&hidden, serde_json::to_vec(&list)?)?;
    let begin = Instant::now();
    fs::rename(&hidden, lab.manifests().join(format!("{name}.json")))?;
    Ok(begin)
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

/// What the machine's iptables calls itself.
///
/// # Errors
/// When there is none.
pub(super) fn iptables_version() -> Result<String> {
    let text = workspace::output(Command::new("iptables").arg("--version"))?;
    Ok(text.trim().to_owned())
}

/// How many rows a pinned map has.
///
/// # Errors
/// When bpftool fails.
fn rows(map: &Path) -> Result<usize> {
    let mut dump = Command::new("bpftool");
    let text = workspace::output(dump.args(["-j", "map", "dump", "pinned"]).arg(map))?;
    let rows: Vec<IgnoredAny> = serde_json::from_str(&text)?;
    Ok(rows.len())
}

/// Waits until the programs say that the client is not let in.
///
/// # Errors
/// When they don't come to say so.
fn closed(agent: &Agent) -> Result<()> {
    let end = Instant::now() + LIMIT;
    let question = "policy explain default/client default/server 80 -o json";
    let question: Vec<_> = question.split(' ').collect();
    loop {
        let asked = agent.client(&question)?;
        let said: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
        if said["programs"]["outcome"] == "policy_ingress" {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "the client is still let in: {said} {}",
            String::from_utf8_lossy(&asked.stderr)
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Connects over and over until the server answers, and says when that was.
///
/// # Errors
/// When it doesn't come.
fn let_in(client: &NetNs, server: Ipv4Addr) -> Result<Instant> {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if attempt(client, server, TRY)? {
            return Ok(Instant::now());
        }
    }
    bail!("{server} lets nobody in after {LIMIT:?}")
}

/// Whether the server answers a connection within some time.
///
/// # Errors
/// When it fails by something else than silence.
fn attempt(client: &NetNs, server: Ipv4Addr, time: Duration) -> Result<bool> {
    client.run(|| {
        let address = SocketAddr::from((server, Port::Connect as u16));
        match TcpStream::connect_timeout(&address, time) {
            // Reset, so that no port stays in TIME_WAIT.
            Ok(stream) => set_socket_linger(&stream, Some(Duration::ZERO))?,
            Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(false),
            Err(error) => return Err(error).context(address),
        }
        Ok(true)
    })
}
