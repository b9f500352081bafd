//! Options of `fairlead agent`, checked once into a [`Config`] that the parts take their share of.

use crate::{
    balancer::pool::Range,
    datapath::{LogLevel, XdpMode},
    device::options::{DeviceArgs, DeviceConfig},
    install::{InstallArgs, InstallConfig},
};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where agent and shim meet when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/fairlead/agent.sock";

/// Options of `fairlead agent`; every one can also be set by the environment.
#[derive(Args, Debug, Clone)]
pub struct AgentArgs {
    /// Name of this node: the `metadata.name` of its Node object.
    #[arg(long, env = "FAIRLEAD_NODE_NAME")]
    pub node_name: String,

    /// Where what should be is read: `auto` takes `manifests` if a folder is given by --manifests, else
    /// `kubernetes` if there is a kubeconfig or a service account, else `manifests`.
    #[arg(long, env = "FAIRLEAD_SOURCE", value_enum, default_value_t = SourceChoice::Auto)]
    pub source: SourceChoice,

    /// Folder of Kubernetes manifests (Node, Pod, …) that say what should be; watched for changes
    /// [default: /etc/fairlead/manifests].
    #[arg(long, env = "FAIRLEAD_MANIFESTS")]
    pub manifests: Option<PathBuf>,

    /// File that tells how the API server is reached [default: the pod's service account].
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// URL of the API server, in place of the kubeconfig's or the Service's address: that one may need
    /// a network that this agent is to make first.
    #[arg(long, env = "FAIRLEAD_API_SERVER")]
    pub api_server: Option<String>,

    /// Folder for what must survive a reboot: the store and the spool of deletions.
    #[arg(long, env = "FAIRLEAD_STATE_DIR", default_value = "/var/lib/fairlead")]
    pub state_dir: PathBuf,

    /// Folder on a BPF file system for the pinned maps and links.
    #[arg(long, env = "FAIRLEAD_BPF_DIR", default_value = "/sys/fs/bpf/fairlead")]
    pub bpf_dir: PathBuf,

    /// Interface towards the other nodes [default: the one that holds the node's address].
    #[arg(long, env = "FAIRLEAD_UPLINK", value_parser = interface_name)]
    pub uplink: Option<String>,

    /// Control group (version 2) whose sockets get a backend when they connect to a Service: a folder
    /// where cgroup2 is mounted, or that holds it as `unified`; `auto` for the usual one, or `off`.
    #[arg(long, env = "FAIRLEAD_CGROUP", default_value = "auto")]
    pub cgroup: CgroupChoice,

    /// Whose packets to Services are answered by this agent: `pods` beside kube-proxy; `all` in place of it,
    /// with node ports, outer addresses and health checks; `off` for none.
    #[arg(long, env = "FAIRLEAD_SERVICES", value_enum, default_value_t = ServicesMode::Pods)]
    pub services: ServicesMode,

    /// With `--services all`: a client outside that asks a load balancer's or external address is answered by
    /// the backend's node itself, which sees the client's address; not where nodes choose differently (client
    /// affinity, topology hints, node ports). Needs a network that lets nodes answer for those addresses. The
    /// same on every node.
    #[arg(long, env = "FAIRLEAD_DIRECT_RETURN", default_value_t = false, action = clap::ArgAction::Set)]
    pub direct_return: bool,

    /// MTU of the pods in bytes [default: the uplink's].
    #[arg(long, env = "FAIRLEAD_MTU", value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub mtu: Option<u32>,

    /// XDP on the uplink: `auto` takes native mode where it pays and otherwise leaves it off.
    #[arg(long, env = "FAIRLEAD_XDP", value_enum, default_value_t = XdpChoice::Auto)]
    pub xdp: XdpChoice,

    /// Replace the pods' addresses by the node's on their way out of the cluster.
    #[arg(long, env = "FAIRLEAD_MASQUERADE", default_value_t = true, action = clap::ArgAction::Set)]
    pub masquerade: bool,

    /// Addresses to give to Services of the type LoadBalancer and to answer for on the nodes' links, by
    /// ARP and neighbour discovery: prefixes, ranges such as 192.0.2.16-192.0.2.31 and addresses,
    /// separated by commas, that nothing else uses. The same on every node.
    #[arg(
        long,
        env = "FAIRLEAD_LOAD_BALANCER_POOL",
        value_delimiter = ',',
        value_name = "RANGES"
    )]
    pub load_balancer_pool: Vec<Range>,

    /// Enforce NetworkPolicies. Off, every packet is let through, as without policies: where something else
    /// enforces them.
    #[arg(long, env = "FAIRLEAD_NETWORK_POLICY", default_value_t = true, action = clap::ArgAction::Set)]
    pub network_policy: bool,

    /// A change of policies also cuts connections that it doesn't allow any more. Off, what has begun goes on until it
    /// ends.
    #[arg(long, env = "FAIRLEAD_CUT_CONNECTIONS", default_value_t = true, action = clap::ArgAction::Set)]
    pub cut_connections: bool,

    /// Parts to run in this process, separated by commas.
    #[arg(
        long,
        env = "FAIRLEAD_PARTS",
        value_enum,
        value_delimiter = ',',
        default_value = "network"
    )]
    pub parts: Vec<PartName>,

    /// What to log: off, error, warn, info, debug, trace, or a filter such as `info,cni_agent=debug`.
    #[arg(long, env = "FAIRLEAD_LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    /// What the eBPF programs log, for debugging; fixed when they are loaded.
    #[arg(long, env = "FAIRLEAD_EBPF_LOG_LEVEL", value_enum, default_value_t = EbpfLogLevel::Off)]
    pub ebpf_log_level: EbpfLogLevel,

    /// Where the kernel's settings are (`net/…`); elsewhere in a container whose /proc/sys is read-only.
    #[arg(long, env = "FAIRLEAD_PROC_SYS", default_value = "/proc/sys")]
    pub proc_sys: PathBuf,

    /// Form of the log, on standard error.
    #[arg(long, env = "FAIRLEAD_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Address and port of /healthz, /readyz and /metrics, or `off`.
    #[arg(
        long,
        env = "FAIRLEAD_HEALTH_ADDRESS",
        default_value = "127.0.0.1:9470"
    )]
    pub health_address: HealthAddress,

    /// Add metrics of each pod of this node: drops by namespace, pod and reason.
    #[arg(long, env = "FAIRLEAD_METRICS_PER_ENDPOINT")]
    pub metrics_per_endpoint: bool,

    /// Add metrics of each Service: its flows on this node; of the thousand Services with most.
    #[arg(long, env = "FAIRLEAD_METRICS_PER_SERVICE")]
    pub metrics_per_service: bool,

    /// Add metrics of each volume of this node: its size and use by namespace and claim; of the first thousand.
    #[arg(long, env = "FAIRLEAD_METRICS_PER_VOLUME")]
    pub metrics_per_volume: bool,

    #[command(flatten)]
    pub install: InstallArgs,

    #[command(flatten)]
    pub csi: CsiArgs,

    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Options of the CSI driver (`--parts network,csi`).
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Volumes (--parts csi)")]
pub struct CsiArgs {
    /// Name of the CSI driver, as StorageClasses and the CSIDriver object have it.
    #[arg(long, env = "FAIRLEAD_CSI_DRIVER", default_value = "csi.fairlead.dev", value_parser = driver_name)]
    pub csi_driver: String,

    /// Folder of volumes on the node's disk. Where its file system can't share blocks between files (XFS and btrfs can), a
    /// file in it holds an XFS that can.
    #[arg(
        long,
        env = "FAIRLEAD_CSI_POOL",
        default_value = "/var/lib/fairlead/volumes"
    )]
    pub csi_pool: PathBuf,

    /// In a cluster, whether this agent makes, deletes, grows and snapshots the volumes of its node's claims: `on`, or
    /// `off` where external-provisioner, -attacher, -snapshotter and -resizer do.
    #[arg(long, env = "FAIRLEAD_CSI_CLUSTER", value_enum, default_value_t = Switch::On)]
    pub csi_cluster: Switch,

    /// Namespace of the CSIStorageCapacity objects that tell the scheduler of the node's room; by default the one of the
    /// agent's pod or of its kubeconfig, else kube-system.
    #[arg(long, env = "FAIRLEAD_CSI_NAMESPACE", value_parser = namespace_name)]
    pub csi_namespace: Option<String>,

    /// Folder of the kubelet: the driver's socket and its registration are in there.
    #[arg(long, env = "FAIRLEAD_KUBELET_DIR", default_value = "/var/lib/kubelet")]
    pub kubelet_dir: PathBuf,
}

/// A name as the specification wants it (GetPluginInfo): a domain, whose ends are letters.
fn driver_name(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphabetic());
    let fits = text.len() <= 63
        && text.chars().all(inner)
        && end(text.chars().next())
        && end(text.chars().next_back());
    match fits {
        true => Ok(text.to_owned()),
        false => Err(
            "write a domain of at most 63 letters, digits, dots and dashes that begins and ends with a letter".into(),
        ),
    }
}

/// A name as Kubernetes has it for namespaces.
fn namespace_name(text: &str) -> Result<String, String> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let end = |c: Option<char>| c.is_some_and(word);
    let fits = text.len() <= 63
        && text.chars().all(|c| word(c) || c == '-')
        && end(text.chars().next())
        && end(text.chars().next_back());
    match fits {
        true => Ok(text.to_owned()),
        false => Err(
            "write the name of a namespace: at most 63 lower-case letters, digits and dashes, like kube-system".into(),
        ),
    }
}

/// Whether something is done.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    Off,
    On,
}

/// Form of the log.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One object a line, for collectors.
    Json,
}

/// Where health and metrics are served, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthAddress(pub Option<SocketAddr>);

impl FromStr for HealthAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|_unreadable| {
            "give an address with a port, such as 127.0.0.1:9470 or [::1]:9470, or `off`"
        })?;
        Ok(Self(Some(address)))
    }
}

/// On which control group the programs of sockets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupChoice {
    /// Where cgroup2 usually is; none where the kernel has it nowhere.
    Auto,
    /// On none: packets are translated instead.
    Off,
    Folder(PathBuf),
}

impl FromStr for CgroupChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            path if Path::new(path).is_absolute() => Ok(Self::Folder(path.into())),
            _ => Err(
                "give the absolute path of the folder where cgroup2 is mounted, such as /sys/fs/cgroup, `auto` or `off`"
                    .to_owned(),
            ),
        }
    }
}

/// Folder of manifests when none is given.
const DEFAULT_MANIFESTS: &str = "/etc/fairlead/manifests";
/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Where the desired state is read.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceChoice {
    Auto,
    Manifests,
    Kubernetes,
}

/// How XDP is used on the uplink.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpChoice {
    Auto,
    Native,
    Generic,
    Off,
}

impl From<XdpChoice> for XdpMode {
    fn from(choice: XdpChoice) -> Self {
        match choice {
            XdpChoice::Auto => Self::Auto,
            XdpChoice::Native => Self::Native,
            XdpChoice::Generic => Self::Generic,
            XdpChoice::Off => Self::Off,
        }
    }
}

/// Whose packets to Services this agent answers. A change decides about new connections alone.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServicesMode {
    /// The pods'; kube-proxy answers the node's own processes and what comes from outside.
    #[default]
    Pods,
    /// Everybody's; kube-proxy is not needed.
    All,
    /// Nobody's; kube-proxy answers all.
    Off,
}

/// A part of the agent. Each fails, restarts and is watched on its own.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PartName {
    /// CNI and the dataplane.
    Network,
    /// The CSI driver.
    Csi,
    /// Devices for pods.
    Devices,
}

impl PartName {
    /// The word used on the command line, in logs and in `fairlead status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Csi => "csi",
            Self::Devices => "devices",
        }
    }
}

/// Log level of the eBPF programs.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum EbpfLogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<EbpfLogLevel> for LogLevel {
    fn from(level: EbpfLogLevel) -> Self {
        match level {
            EbpfLogLevel::Off => Self::Off,
            EbpfLogLevel::Error => Self::Error,
            EbpfLogLevel::Warn => Self::Warn,
            EbpfLogLevel::Info => Self::Info,
            EbpfLogLevel::Debug => Self::Debug,
            EbpfLogLevel::Trace => Self::Trace,
        }
    }
}

/// The agent's options, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub parts: BTreeSet<PartName>,
    pub socket: PathBuf,
    /// The API server that the desired state is read from; none for the folder of manifests.
    pub api: Option<ApiOptions>,
    pub network: NetworkConfig,
    pub csi: CsiConfig,
    pub device: DeviceConfig,
    /// Where health and metrics are served, if at all.
    pub health: Option<SocketAddr>,
    pub metrics_per_endpoint: bool,
    pub metrics_per_service: bool,
    pub metrics_per_volume: bool,
    pub proc_sys: PathBuf,
    /// None when somebody else installs the plugin.
    pub install: Option<InstallConfig>,
}

/// How the API server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiOptions {
    /// None for the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// URL in place of the one that is found.
    pub api_server: Option<String>,
}

/// What the network part is told.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    pub node_name: String,
    pub manifests: PathBuf,
    pub state_dir: PathBuf,
    pub bpf_dir: PathBuf,
    pub uplink: Option<String>,
    pub cgroup: CgroupChoice,
    pub services: ServicesMode,
    pub direct_return: bool,
    pub mtu: Option<u32>,
    pub xdp: XdpMode,
    pub masquerade: bool,
    pub network_policy: bool,
    pub cut_connections: bool,
    pub ebpf_log_level: EbpfLogLevel,
    /// Addresses for Services of the type LoadBalancer; none: somebody else gives them theirs.
    pub load_balancer_pool: Vec<Range>,
}

impl NetworkConfig {
    /// Where the shim writes deletions down while no agent answers.
    pub fn spool(&self) -> PathBuf {
        self.state_dir.join("spool")
    }
}

/// What the CSI driver is told.
#[derive(Clone, Debug)]
pub struct CsiConfig {
    pub node_name: String,
    pub driver: String,
    pub pool: PathBuf,
    pub kubelet_dir: PathBuf,
    /// The API server that gets Events, and whose claims may be answered; none: the log has them.
    pub api: Option<ApiOptions>,
    /// The claims of the cluster are answered.
    pub claims: bool,
    /// Where the scheduler is told of the node's room, if that was said.
    pub namespace: Option<String>,
    /// Of pods, which what they read and write is bounded by.
    pub cgroup: CgroupChoice,
}

impl CsiConfig {
    /// Where the kubelet calls the driver.
    pub fn socket(&self) -> PathBuf {
        self.kubelet_dir
            .join("plugins")
            .join(&self.driver)
            .join("csi.sock")
    }

    /// Where those ask that attach and grow the volumes of all nodes.
    pub fn controller_socket(&self) -> PathBuf {
        self.socket().with_file_name("controller.sock")
    }

    /// Where it finds it.
    pub fn registry_socket(&self) -> PathBuf {
        let name = format!("{}-reg.sock", self.driver);
        self.kubelet_dir.join("plugins_registry").join(name)
    }
}

/// An option that can't be used, with the remedy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "--node-name is empty: give the name of this node's Node object, `hostname` for example"
    )]
    EmptyNodeName,
    #[error(
        "--{option} {path:?} is relative: give an absolute path, the agent may be started anywhere"
    )]
    RelativePath { option: &'static str, path: PathBuf },
    #[error("--parts is empty: name at least one part: `network`, `csi` or `devices`")]
    NoParts,
    #[error(
        "--load-balancer-pool needs a cluster whose Services it can write to: give --kubeconfig or --source kubernetes, or leave it out"
    )]
    PoolWithoutCluster,
}

impl Config {
    /// Checks the options. `socket` is an option of all verbs.
    ///
    /// # Errors
    /// The first option that can't be used.
    pub fn new(args: AgentArgs, socket: PathBuf) -> Result<Self, ConfigError> {
        if args.node_name.trim().is_empty() {
            return Err(ConfigError::EmptyNodeName);
        }
        let in_cluster = Path::new(SERVICE_ACCOUNT).exists();
        let api = api(&args, in_cluster);
        if api.is_none() && !args.load_balancer_pool.is_empty() {
            return Err(ConfigError::PoolWithoutCluster);
        }
        let manifests = args.manifests.unwrap_or_else(|| DEFAULT_MANIFESTS.into());
        let kubeconfig = api.iter().filter_map(|api| api.kubeconfig.as_ref());
        let kubeconfig = kubeconfig.map(|path| ("kubeconfig", path));
        for (option, path) in [
            ("manifests", &manifests),
            ("state-dir", &args.state_dir),
            ("socket", &socket),
            ("bpf-dir", &args.bpf_dir),
            ("proc-sys", &args.proc_sys),
            ("csi-pool", &args.csi.csi_pool),
            ("kubelet-dir", &args.csi.kubelet_dir),
            ("devices", &args.device.devices),
            ("cdi-dir", &args.device.cdi_dir),
            ("cni-bin-dir", &args.install.folders.cni_bin_dir),
            ("cni-conf-dir", &args.install.folders.cni_conf_dir),
        ]
        .into_iter()
        .chain(kubeconfig)
        {
            if !path.is_absolute() {
                return Err(ConfigError::RelativePath {
                    option,
                    path: path.clone(),
                });
            }
        }
        let parts: BTreeSet<_> = args.parts.into_iter().collect();
        if parts.is_empty() {
            return Err(ConfigError::NoParts);
        }
        let device = DeviceConfig::new(
            args.device,
            &args.node_name,
            &args.csi.kubelet_dir,
            &args.state_dir,
            api.clone(),
        );
        let csi = CsiConfig {
            node_name: args.node_name.clone(),
            driver: args.csi.csi_driver,
            pool: args.csi.csi_pool,
            kubelet_dir: args.csi.kubelet_dir,
            namespace: args.csi.csi_namespace,
            claims: args.csi.csi_cluster == Switch::On && api.is_some(),
            api: api.clone(),
            cgroup: args.cgroup.clone(),
        };
        let network = NetworkConfig {
            node_name: args.node_name,
            manifests,
            state_dir: args.state_dir,
            bpf_dir: args.bpf_dir,
            uplink: args.uplink,
            cgroup: args.cgroup,
            services: args.services,
            direct_return: args.direct_return,
            mtu: args.mtu,
            xdp: args.xdp.into(),
            masquerade: args.masquerade,
            network_policy: args.network_policy,
            cut_connections: args.cut_connections,
            ebpf_log_level: args.ebpf_log_level,
            load_balancer_pool: args.load_balancer_pool,
        };
        let install = InstallConfig::new(args.install, &socket, network.spool());
        Ok(Self {
            parts,
            socket,
            api,
            health: args.health_address.0,
            metrics_per_endpoint: args.metrics_per_endpoint,
            metrics_per_service: args.metrics_per_service,
            metrics_per_volume: args.metrics_per_volume,
            network,
            csi,
            device,
            proc_sys: args.proc_sys,
            install,
        })
    }
}

/// PURE: the API server's options, if it is the source.
fn api(args: &AgentArgs, in_cluster: bool) -> Option<ApiOptions> {
    let named = args.kubeconfig.is_some() || args.api_server.is_some();
    let is_source = match args.source {
        SourceChoice::Kubernetes => true,
        SourceChoice::Manifests => false,
        SourceChoice::Auto => args.manifests.is_none() && (named || in_cluster),
    };
    is_source.then(|| ApiOptions {
        kubeconfig: args.kubeconfig.clone(),
        api_server: args.api_server.clone(),
    })
}

fn interface_name(text: &str) -> Result<String, String> {
    let fits = (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
    if fits {
        Ok(text.to_owned())
    } else {
        Err("an interface name has 1 to 15 bytes and no '/', ':' or white space".to_owned())
    }
}

/// Which columns and which form a command prints.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    Json,
    Yaml,
}

impl FromStr for Output {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        ValueEnum::from_str(text, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: AgentArgs,
    }

    fn config(options: &[&str]) -> Result<Config, ConfigError> {
        let args = ["agent", "--node-name", "n1"].iter().chain(options);
        Config::new(Cli::parse_from(args).args, DEFAULT_SOCKET.into())
    }

    #[test]
    fn defaults_need_only_a_name() {
        let config = config(&[]).unwrap();
        assert_eq!(config.socket, PathBuf::from(DEFAULT_SOCKET));
        assert!(config.network.masquerade);
        assert_eq!(config.parts, BTreeSet::from([PartName::Network]));
    }

    #[test]
    fn the_source_is_what_is_named_and_else_what_is_there() {
        for (options, in_cluster, kubernetes) in [
            (&[][..], false, false),
            (&[], true, true),
            (&["--kubeconfig", "/k"], false, true),
            (&["--api-server", "https://192.0.2.1:6443"], false, true),
            // Standalone stays so where a shell happens to have KUBECONFIG.
            (&["--kubeconfig", "/k", "--manifests", "/m"], true, false),
            (&["--manifests", "/m"], true, false),
            (
                &["--manifests", "/m", "--source", "kubernetes"],
                false,
                true,
            ),
            (&["--source", "manifests"], true, false),
        ] {
            let args = ["agent", "--node-name", "n1"].iter().chain(options);
            let api = api(&Cli::parse_from(args).args, in_cluster);
            assert_eq!(api.is_some(), kubernetes, "{options:?} {in_cluster}");
        }
    }

    #[test]
    fn claims_are_answered_in_a_cluster_unless_it_is_switched_off() {
        let answers = |options: &[&str]| config(options).unwrap().csi.claims;
        assert!(answers(&["--kubeconfig", "/k"]));
        assert!(!answers(&["--kubeconfig", "/k", "--csi-cluster", "off"]));
        assert!(!answers(&["--source", "manifests"]));
        let shop = ["--kubeconfig", "/k", "--csi-namespace", "shop"];
        let namespace = config(&shop).unwrap().csi.namespace;
        assert_eq!(namespace.as_deref(), Some("shop"));
        for odd in ["", "Shop", "a/b", "-a", &"a".repeat(64)] {
            assert!(namespace_name(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_relative_path_is_refused_by_the_option_s_name() {
        let error = config(&["--state-dir", "state"]).unwrap_err();
        assert!(error.to_string().starts_with("--state-dir"), "{error}");
    }

    #[test]
    fn a_pool_has_ranges_that_can_be_read_and_a_cluster() {
        let pool = [
            "--load-balancer-pool",
            "192.0.2.16/28,2001:db8::1-2001:db8::9",
        ];
        let error = config(&[&pool[..], &["--source", "manifests"]].concat()).unwrap_err();
        assert!(error.to_string().starts_with("--load-balancer-pool"));
        let config = config(&[&pool[..], &["--kubeconfig", "/k"]].concat()).unwrap();
        assert_eq!(config.network.load_balancer_pool.len(), 2);
        let args = [
            "agent",
            "--node-name",
            "n1",
            "--load-balancer-pool",
            "192.0.2.1/28",
        ];
        let error = Cli::try_parse_from(args).err().unwrap().to_string();
        assert!(error.contains("192.0.2.0/28"), "{error}");
    }

    #[test]
    fn health_is_served_to_the_node_itself_unless_said_otherwise() {
        let health = |options: &[&str]| config(options).unwrap().health;
        assert!(health(&[]).unwrap().ip().is_loopback());
        assert_eq!(health(&["--health-address", "off"]), None);
        let all = health(&["--health-address", "[::]:9470"]).unwrap();
        assert_eq!(all.port(), 9470);
        let error = "9470".parse::<HealthAddress>().unwrap_err();
        assert!(error.contains("127.0.0.1:9470"), "{error}");
    }

    #[test]
    fn a_control_group_is_a_whole_path_or_a_word() {
        let cgroup = |text: &str| text.parse::<CgroupChoice>();
        assert_eq!(config(&[]).unwrap().network.cgroup, CgroupChoice::Auto);
        assert_eq!(cgroup("off"), Ok(CgroupChoice::Off));
        assert_eq!(cgroup("/c"), Ok(CgroupChoice::Folder("/c".into())));
        assert!(cgroup("c").unwrap_err().contains("absolute"));
    }

    #[test]
    fn services_of_pods_are_answered_unless_it_is_switched_off() {
        let services = |options: &[&str]| config(options).unwrap().network.services;
        assert_eq!(services(&[]), ServicesMode::Pods);
        assert_eq!(services(&["--services", "off"]), ServicesMode::Off);
    }

    #[test]
    fn an_uplink_that_is_a_path_is_refused() {
        assert!(interface_name("../eth0").is_err());
        assert!(interface_name("eth0").is_ok());
    }
}
