//! The API server, and a node for each way to carry Services.

use super::super::{
    cni::status_kib,
    paths::CORES,
    worker::{self, Measured, Serving},
};
use crate::{
    cluster::{ApiServer, ProxyMode},
    lab::{
        Agent, Lab, LabOptions, NetNs, Plugin, Pod, Process, Session, Underlay, load::Load,
        probe::Port, reference, remove_group, unified_group,
    },
    workspace,
};
use anyhow::{Context, Result, bail, ensure};
use rustix::{net::sockopt::set_socket_linger, process::Signal};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// How long an implementation may take to follow.
const LIMIT: Duration = Duration::from_secs(600);

/// A way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Proxy(ProxyMode),
    /// Fairlead, packet by packet.
    Packets,
    /// Fairlead, when the socket connects.
    Sockets,
    /// To the server itself.
    Direct,
}

/// All of them, in the order of the report.
pub(super) const PATHS: [Way; 5] = [
    Way::Proxy(ProxyMode::Iptables),
    Way::Proxy(ProxyMode::Nftables),
    Way::Packets,
    Way::Sockets,
    Way::Direct,
];

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Proxy(ProxyMode::Iptables) => "kube-proxy, iptables",
            Self::Proxy(ProxyMode::Nftables) => "kube-proxy, nftables",
            Self::Packets => "Fairlead, packets",
            Self::Sockets => "Fairlead, sockets",
            Self::Direct => "no Service",
        }
    }

    /// The index of its node.
    fn node(self) -> usize {
        match self {
            Self::Proxy(ProxyMode::Iptables) => 0,
            Self::Proxy(ProxyMode::Nftables) => 1,
            Self::Packets | Self::Sockets | Self::Direct => 2,
        }
    }

    /// The index of its client there.
    fn client(self) -> usize {
        match self {
            Self::Proxy(_) | Self::Packets => 0,
            Self::Sockets => 1,
            Self::Direct => 2,
        }
    }
}

/// Three nodes of one name, each the only one of its lab; the fields end in this order.
pub(super) struct Rig {
    teller: Teller,
    nodes: Vec<Node>,
    proxies: Vec<Process>,
    agent: Agent,
    group: PathBuf,
    maps: PathBuf,
    _labs: Vec<Lab>,
    _api: ApiServer,
}

/// A node's pods: clients, a server, and one where nobody listens. The same addresses on each.
struct Node {
    /// One for each way: after a connection by one way, the server would refuse another's from the same
    /// port for a while (TIME_WAIT; the two have different sequence numbers).
    clients: Vec<Pod>,
    server: Pod,
    idle: Pod,
    serving: Serving,
}

impl Rig {
    /// Makes it all, without a Service yet.
    ///
    /// # Errors
    /// When a part doesn't start.
    pub(super) fn new(session: &Arc<Session>, binaries: &Path) -> Result<Self> {
        let tool = tool()?;
        let api = ApiServer::start(session)?;
        let lab = |name, index| -> Result<Lab> {
            let options = LabOptions {
                name,
                nodes: 1,
                underlay: Underlay::Bridge,
            };
            let lab = Lab::new(session, options)?;
            api.reach(&lab, index)?;
            Ok(lab)
        };
        let labs = vec![lab("ipt", 0)?, lab("nft", 1)?, lab("svc", 2)?];
        let mut teller = Teller::start(session, &api, &tool)?;
        let node = labs[2].manifests().join("node-n1.yaml");
        teller.tell(&format!("node {}", node.display()))?;

        let mut nodes = Vec::new();
        let mut proxies = Vec::new();
        for (lab, mode) in labs.iter().zip([ProxyMode::Iptables, ProxyMode::Nftables]) {
            let node = &lab.nodes[0];
            reference::route_nodes(&lab.nodes)?;
            let mut proxy = api.kube_proxy(&node.name, mode)?;
            let log = File::create(node.dir.join("kube-proxy.log"))?;
            proxy
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            proxies.push(node.ns.spawn("kube-proxy", &mut proxy)?);
            let pod = |index| reference::routed_pod(node, index);
            nodes.push(Node::new(pod(0)?, pod(1)?, vec![pod(2)?])?);
        }

        let (lab, group) = (&labs[2], control_group(session)?);
        let node = &lab.nodes[0];
        let kubeconfig = api.kubeconfig();
        let extra = [
            "--source",
            "kubernetes",
            "--kubeconfig",
            &kubeconfig.to_string_lossy(),
            "--cgroup",
            &group.to_string_lossy(),
        ];
        let agent = Agent::start(lab, node, &binaries.join("fairlead"), &extra)?;
        let pod = |name: &str, like: Option<&Pod>| {
            let mut config = node.cni_config("1.1.0");
            if let (Some(config), Some(like)) = (config.as_object_mut(), like) {
                let ips = json!({ "ips": [like.v4, like.v6] });
                config.insert("runtimeConfig".to_owned(), ips);
            }
            let path = binaries.to_owned();
            Pod::add(node, &Plugin { path, config }, name)
        };
        let like = &nodes[0];
        let clients = ["packets", "sockets", "direct"].map(|name| pod(name, None));
        let ours = Node::new(
            pod("server", Some(&like.server))?,
            pod("idle", Some(&like.idle))?,
            clients.into_iter().collect::<Result<_>>()?,
        )?;
        nodes.push(ours);
        for node in &nodes {
            ensure!(
                node.server.v4 == nodes[0].server.v4,
                "the nodes' servers have different addresses"
            );
        }
        Ok(Self {
            teller,
            nodes,
            proxies,
            agent,
            group,
            maps: labs[2].pins(&labs[2].nodes[0]).join("maps"),
            _labs: labs,
            _api: api,
        })
    }

    /// Creates the Services `from..to`, whose backend is the server.
    ///
    /// # Errors
    /// When the API server refuses.
    pub(super) fn create(&mut self, from: u32, to: u32) -> Result<()> {
        let (server, port) = (self.nodes[0].server.v4, Port::Connect as u16);
        self.teller
            .tell(&format!("create {from} {to} {server} {port}"))
    }

    /// Gives a Service another backend: the server, or the pod where nobody listens.
    ///
    /// # Errors
    /// When the API server refuses.
    pub(super) fn point(&mut self, service: u32, serves: bool) -> Result<()> {
        let node = &self.nodes[0];
        let pod = if serves { &node.server } else { &node.idle };
        let (address, port) = (pod.v4, Port::Connect as u16);
        self.teller
            .tell(&format!("point {service} {address} {port}"))
    }

    /// Waits until each node has a Service, and tells how long each took.
    ///
    /// # Errors
    /// When one doesn't come to have it.
    pub(super) fn wait(&self, service: u32) -> Result<Vec<(&'static str, f64)>> {
        let begin = Instant::now();
        let mut took = Vec::new();
        for way in [2, 1, 0].map(|node| PATHS[node]) {
            self.until(way, service, true, Duration::from_millis(50))?;
            took.push((way.name(), begin.elapsed().as_secs_f64()));
        }
        Ok(took)
    }

    /// Connects until the Service answers, or refuses, and says when that was.
    ///
    /// # Errors
    /// When it doesn't come.
    pub(super) fn until(
        &self,
        way: Way,
        service: u32,
        answers: bool,
        pause: Duration,
    ) -> Result<Instant> {
        let client = &self.nodes[way.node()].clients[way.client()];
        until(&client.ns, cluster_ip(service), answers, pause)
            .with_context(|| format!("{}, Service {service}", way.name()))
    }

    /// Sends a load to a Service.
    ///
    /// # Errors
    /// When a connection fails.
    pub(super) fn run(
        &mut self,
        way: Way,
        service: u32,
        load: Load,
        time: Duration,
    ) -> Result<Measured> {
        let Node {
            clients,
            server,
            serving,
            ..
        } = &mut self.nodes[way.node()];
        let target = match way {
            Way::Direct => IpAddr::V4(server.v4),
            _ => cluster_ip(service),
        };
        let group = (way == Way::Sockets).then_some(self.group.as_path());
        let client = &clients[way.client()].ns;
        worker::measure(client, CORES.0, group, serving, target, load, time)
    }

    /// Stops the kube-proxies where they are, or lets them go on: a change of thousands of Services keeps
    /// them busy for seconds, and nobody runs them beside `--services all`.
    ///
    /// # Errors
    /// When one has ended.
    pub(super) fn freeze_proxies(&self, freeze: bool) -> Result<()> {
        let signal = if freeze { Signal::STOP } else { Signal::CONT };
        self.proxies
            .iter()
            .try_for_each(|proxy| proxy.signal(signal))
    }

    /// What the maps of Services take in the kernel.
    ///
    /// # Errors
    /// When bpftool fails.
    pub(super) fn map_bytes(&self) -> Result<Vec<(String, u64)>> {
        ["frontends", "backends", "maglev", "flows", "affinity"]
            .into_iter()
            .map(|name| {
                let mut show = Command::new("bpftool");
                show.args(["-j", "map", "show", "pinned"]);
                let text = workspace::output(show.arg(self.maps.join(name)))?;
                let map: Value = serde_json::from_str(&text)?;
                let bytes = map["bytes_memlock"].as_u64();
                let bytes = bytes.with_context(|| format!("no size of {name} in {text}"))?;
                Ok((name.to_owned(), bytes))
            })
            .collect()
    }

    /// The agent's resident memory in KiB.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn agent_kib(&self) -> Result<u64> {
        status_kib(self.agent.id(), "VmRSS:")
    }
}

impl Node {
    fn new(server: Pod, idle: Pod, clients: Vec<Pod>) -> Result<Self> {
        let serving = Serving::start(&server.ns, CORES.1)?;
        Ok(Self {
            clients,
            server,
            idle,
            serving,
        })
    }
}

/// The address that cni-agent/examples/services gives to a Service.
fn cluster_ip(service: u32) -> IpAddr {
    let [high, low] = [16 + service / 250, service % 250 + 1].map(|byte| byte as u8);
    Ipv4Addr::new(10, 96, high, low).into()
}

/// Connects over and over, until the other side answers or refuses.
///
/// # Errors
/// When that doesn't come.
fn until(client: &NetNs, target: IpAddr, answers: bool, pause: Duration) -> Result<Instant> {
    client.run(|| {
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            let address = (target, Port::Connect as u16).into();
            match TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
                Ok(stream) if answers => {
                    let seen = Instant::now();
                    set_socket_linger(&stream, Some(Duration::ZERO))?;
                    return Ok(seen);
                }
                // Reset, so that no port stays in TIME_WAIT.
                Ok(stream) => set_socket_linger(&stream, Some(Duration::ZERO))?,
                Err(error) if !answers && error.kind() == ErrorKind::ConnectionRefused => {
                    return Ok(Instant::now());
                }
                Err(_) => {}
            }
            thread::sleep(pause);
        }
        bail!("{target} is not as it should be after {LIMIT:?}")
    })
}

/// A group for the clients whose sockets are served; the session removes it.
fn control_group(session: &Session) -> Result<PathBuf> {
    let root = unified_group().context("control groups of version 2 are mounted nowhere")?;
    let group = root.join(format!("{}-bench", session.name()));
    let (group, _) = session.undo().make("a control group", || {
        fs::create_dir(&group)?;
        let doomed = group.clone();
        Ok((group, move || remove_group(&doomed)))
    })?;
    Ok(group)
}

/// Builds the program that talks to the API server; it is no part of the agent.
fn tool() -> Result<PathBuf> {
    workspace::run(workspace::cargo().args([
        "build",
        "--locked",
        "--package",
        "cni-agent",
        "--example",
        "services",
    ]))?;
    Ok(workspace::target_dir().join("debug/examples/services"))
}

/// That program.
struct Teller {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _process: Process,
}

impl Teller {
    fn start(session: &Arc<Session>, api: &ApiServer, tool: &Path) -> Result<Self> {
        let mut command = api.beside(tool);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(session, "the API server's client", &mut command)?;
        let child = process.child();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            stdin: stdin.context("no pipe to it")?,
            stdout: BufReader::new(stdout.context("no pipe from it")?),
            _process: process,
        })
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.stdin, "{line}")?;
        let mut answer = String::new();
        self.stdout.read_line(&mut answer)?;
        ensure!(answer.trim() == "done", "{line}: {}", answer.trim());
        Ok(())
    }
}
