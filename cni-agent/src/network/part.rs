//! The network part as the agent runs it: opens store, source and kernel, starts, reconciles, and
//! answers the CNI calls and questions that reach the socket.

use super::{Network, add::AddRequest, kernel::KernelError, linux::Linux, services::Seen, spool};
use crate::{
    balancer,
    clock::SystemClock,
    cni::{
        CniError,
        args::CniArgs,
        caller::Caller,
        netconf::NetConf,
        protocol::{CniCall, Command},
        result::{self, PrevResult},
    },
    config::{ApiOptions, NetworkConfig},
    domains::{self, Dns, DomainsFile, Following},
    health_check,
    metrics::{NetworkSnapshot, Passes, PodDrops},
    model::AttachmentId,
    node,
    parts::Shutdown,
    query::{Query, Status, UplinkStatus},
    source::{
        Source,
        kubernetes::{self, Kubernetes, client},
        manifests::Manifests,
    },
    store::{Book, Store},
};
use serde_json::Value;
use std::{os::fd::OwnedFd, sync::Arc, time::Duration};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::timeout,
};

/// The network on Linux, with what only this process needs beside it.
pub struct Running {
    pub network: Network<Linux>,
    pub source: Box<dyn Source>,
    /// Ports for load balancers that can't be served.
    pub unheard: health_check::Problems,
    /// Domain names of policies that can't be resolved.
    pub unresolved: domains::Problems,
    _following: Following,
}

/// How far the network part is.
enum Phase {
    Starting,
    Running(Arc<Running>),
    /// Why it does not run now.
    Stopped(String),
}

/// Where the socket finds the network part.
#[derive(Clone)]
pub struct NetworkSlot(Arc<watch::Sender<Phase>>);

impl NetworkSlot {
    /// Of a part that will be started.
    pub fn starting() -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Starting)))
    }

    /// Of an agent that does without the part.
    pub fn absent() -> Self {
        let reason = "this agent runs without the network part (--parts)";
        Self(Arc::new(watch::Sender::new(Phase::Stopped(reason.into()))))
    }

    fn now(&self) -> Option<Arc<Running>> {
        match &*self.0.borrow() {
            Phase::Running(running) => Some(running.clone()),
            Phase::Starting | Phase::Stopped(_) => None,
        }
    }

    /// Why the part is not running; none while it is.
    fn obstacle(&self) -> Option<String> {
        match &*self.0.borrow() {
            Phase::Running(_) => None,
            Phase::Starting => Some("the agent is starting".to_owned()),
            Phase::Stopped(reason) => Some(reason.clone()),
        }
    }

    /// Waits for the start to end, not beyond the caller's patience: a call that comes during it is
    /// answered, and none is carried out after its caller has gone.
    async fn started(&self, patience: Duration) -> Result<Arc<Running>, CniError> {
        let mut slot = self.0.subscribe();
        let ended = slot.wait_for(|phase| !matches!(phase, Phase::Starting));
        match timeout(patience, ended).await {
            Ok(Ok(phase)) => match &*phase {
                Phase::Running(running) => Ok(running.clone()),
                Phase::Stopped(reason) => Err(CniError::try_again(reason)),
                Phase::Starting => Err(CniError::internal("waited for the start in vain")),
            },
            Ok(Err(_closed)) => Err(CniError::try_again("the agent is ending")),
            Err(_late) => Err(CniError::try_again("the agent is starting")),
        }
    }
}

/// Runs the part until `shutdown`.
///
/// # Errors
/// What kept it from starting, worded for people.
pub async fn run(
    config: NetworkConfig,
    api: Option<ApiOptions>,
    slot: NetworkSlot,
    passes: Passes,
    shutdown: Shutdown,
) -> Result<(), String> {
    slot.0.send_replace(Phase::Starting);
    let _stopped_at_end = StoppedAtEnd(&slot);
    let outcome = run_until(config, api, &slot, passes, shutdown).await;
    let reason = match &outcome {
        Ok(()) => "the agent is ending".to_owned(),
        Err(failure) => format!("the network part has failed and is started again: {failure}"),
    };
    slot.0.send_replace(Phase::Stopped(reason));
    outcome
}

async fn run_until(
    config: NetworkConfig,
    api: Option<ApiOptions>,
    slot: &NetworkSlot,
    passes: Passes,
    shutdown: Shutdown,
) -> Result<(), String> {
    let clock = Arc::new(SystemClock);
    let store = Store::open(&config.state_dir.join("state.redb")).map_err(|e| e.to_string())?;
    let book = Book::open(store, clock.clone()).map_err(|e| e.to_string())?;
    // A state file that was copied from another node would hand out addresses twice.
    book.bind_node(&config.node_name)
        .await
        .map_err(|e| e.to_string())?;
    let (source, kept) = open_source(&config, api.as_ref()).await?;
    let spool_folder = config.spool();
    let kernel = Linux::open(&config).await.map_err(|e| e.to_string())?;
    let unresolved = domains::Problems::default();
    let file = DomainsFile::new(config.state_dir.join("domains.json"));
    let (clusters, following) = domains::follow(
        source.subscribe(),
        Dns,
        kernel.in_use(),
        file,
        unresolved.clone(),
    );
    let mut network = Network::new(config, kernel, book, clock, clusters);
    network.passes = passes;
    network.arrivals = source.arrivals();
    network.pods_are_told = api.is_some();
    let unheard = health_check::Problems::default();
    let running = Arc::new(Running {
        network,
        source,
        unheard: unheard.clone(),
        unresolved,
        _following: following,
    });
    let network = &running.network;

    spool::prepare(&spool_folder).map_err(|e| format!("{}: {e}", spool_folder.display()))?;
    let mut adoption = network.start().await.map_err(|e| e.to_string())?;
    (adoption.replayed_deletions, _) = network.replay(&spool_folder).await;
    tracing::info!(
        adopted = adoption.adopted,
        freed = adoption.freed.len(),
        orphan_links = adoption.orphan_links,
        replayed = adoption.replayed_deletions,
        "started"
    );
    network.change_view(|view| view.adoption = Some(adoption));
    network.reconcile().await;
    slot.0.send_replace(Phase::Running(running.clone()));
    // A task of its own: what is written to the API server must not stop what serves the pods.
    let mut tasks = JoinSet::new();
    tasks.spawn(health_check::serve(
        network.health_checks.subscribe(),
        unheard,
    ));
    let (end, ended) = oneshot::channel();
    let mut balancing = JoinSet::new();
    if let Some(Kept { mut life, client }) = kept {
        if !network.config.load_balancer_pool.is_empty() {
            balancing.spawn(balancer::run(client, running.clone(), ended));
        }
        let running = running.clone();
        tasks.spawn(async move { life.keep(|| facts(running.clone())).await });
    }

    tokio::select! {
        () = network.reconcile_forever(shutdown.clone()) => Ok(()),
        () = network.replay_forever(&spool_folder, shutdown.clone()) => Ok(()),
        () = network.book.closed() => Err("the store's writer has ended".to_owned()),
        () = running.source.ended() => Err("reading the cluster has broken off".to_owned()),
        Some(_) = tasks.join_next() => Err("keeping the Node object or the health checks has broken off".to_owned()),
        Some(_) = balancing.join_next() => {
            Err("looking after load balancer addresses has broken off".to_owned())
        }
    }?;
    drop(end);
    while balancing.join_next().await.is_some() {}
    network.book.flush().await.map_err(|e| e.to_string())
}

/// What is kept in the cluster.
struct Kept {
    /// This node's Node object.
    life: node::Life,
    client: kube::Client,
}

/// What the Node object may tell of this part.
async fn facts(running: Arc<Running>) -> node::Facts {
    let desired = running.network.view().desired;
    node::Facts {
        serving: desired.is_some() && running.network.obstacle().await.is_none(),
        mtu: desired.map(|desired| desired.pod_mtu),
    }
}

/// The source that the options choose, and what is kept in the cluster if there is one.
async fn open_source(
    config: &NetworkConfig,
    api: Option<&ApiOptions>,
) -> Result<(Box<dyn Source>, Option<Kept>), String> {
    let Some(api) = api else {
        let last_good = config.state_dir.join("manifests");
        let source = Manifests::watch(&config.manifests, &last_good).map_err(|e| e.to_string())?;
        return Ok((Box::new(source), None));
    };
    let client = client::connect(api).await.map_err(|e| e.to_string())?;
    let (name, state) = (&config.node_name, &config.state_dir);
    let source = Kubernetes::watch(client.clone(), name, state, kubernetes::PATIENCE).await;
    let life = node::Life::new(client.clone(), source.own_node(), source.conflicts());
    Ok((Box::new(source), Some(Kept { life, client })))
}

/// Says that the part does not run, also when it panicked.
struct StoppedAtEnd<'a>(&'a NetworkSlot);

impl Drop for StoppedAtEnd<'_> {
    fn drop(&mut self) {
        self.0.0.send_if_modified(|phase| {
            // It has said why already, unless it panicked.
            let silent = !matches!(phase, Phase::Stopped(_));
            if silent {
                let reason = "the network part is not running; `fairlead status` says why";
                *phase = Phase::Stopped(reason.to_owned());
            }
            silent
        });
    }
}

/// Answers one CNI command.
///
/// # Errors
/// By the codes of the CNI specification.
pub async fn cni(
    slot: &NetworkSlot,
    call: CniCall,
    sandbox: Option<OwnedFd>,
    caller: Caller,
) -> Result<Value, CniError> {
    if call.command == Command::Status
        && let Some(reason) = slot.obstacle()
    {
        return Err(CniError::not_available(&reason));
    }
    let conf = NetConf::parse_for(call.command, &call.config)?;
    let patience = Duration::from_millis(call.deadline_ms);
    let running = slot.started(patience).await?;
    let network = &running.network;
    if matches!(call.command, Command::Add | Command::Status) {
        same_spool(&conf, &network.config)?;
    }
    let attachment = || AttachmentId::new(&call.container_id, &call.ifname).map_err(CniError::from);
    match call.command {
        Command::Add => {
            let request = add_request(&call, conf, sandbox, caller)?;
            let endpoint = network.add(&request).await?;
            result::added(&request.previous, &endpoint, &request.conf)
        }
        Command::Del => {
            network.del(&attachment()?).await?;
            Ok(Value::Null)
        }
        Command::Check => {
            let previous = PrevResult::required(&conf)?;
            network
                .check(&attachment()?, sandbox.map(Arc::new), &previous)
                .await?;
            Ok(Value::Null)
        }
        Command::Gc => {
            // A runtime that names no list (cnitool doesn't) says of none that it is stale.
            if let Some(valid) = conf.valid_attachments()? {
                network.gc(&conf.name, &valid, &caller).await?;
            }
            Ok(Value::Null)
        }
        Command::Status => match network.obstacle().await {
            Some(error) => Err(error),
            None => Ok(Value::Null),
        },
    }
}

/// Checks everything of an ADD that can be checked before anything is done.
fn add_request(
    call: &CniCall,
    conf: NetConf,
    sandbox: Option<OwnedFd>,
    caller: Caller,
) -> Result<AddRequest, CniError> {
    let sandbox = sandbox.ok_or_else(|| CniError::no_sandbox(&call.netns))?;
    Ok(AddRequest {
        attachment: AttachmentId::new(&call.container_id, &call.ifname)?,
        sandbox: Arc::new(sandbox),
        sandbox_path: call.netns.clone(),
        args: CniArgs::parse(&call.args)?,
        previous: PrevResult::before(&conf)?,
        conf,
        caller,
    })
}

/// A deletion that the plugin writes down where the agent does not look would never be done.
fn same_spool(conf: &NetConf, config: &NetworkConfig) -> Result<(), CniError> {
    let own = config.spool();
    if conf.spool == own {
        return Ok(());
    }
    let fault = format!(
        "the plugin keeps deletions in {}, the agent looks in {}: set it to that, or give the agent another --state-dir",
        conf.spool.display(),
        own.display()
    );
    Err(CniError::config("spool", &fault))
}

/// Whether pods of this node can be given their network now.
pub async fn serves(slot: &NetworkSlot) -> bool {
    match slot.now() {
        Some(running) => running.network.obstacle().await.is_none(),
        None => false,
    }
}

/// Answers a question of the command line.
///
/// # Errors
/// While the part is not running.
pub async fn query(slot: &NetworkSlot, query: Query) -> Result<Value, CniError> {
    let running = slot
        .now()
        .ok_or_else(|| CniError::try_again(&slot.obstacle().unwrap_or_default()))?;
    let network = &running.network;
    let kernel = |error: KernelError| CniError::kernel(&error);
    let value = match query {
        Query::Endpoints => serde_json::to_value(network.endpoint_rows()),
        Query::Nodes => serde_json::to_value(network.node_rows()),
        Query::Ipam => serde_json::to_value(network.ipam_rows()),
        Query::Drops => serde_json::to_value(
            network
                .kernel
                .drop_rows(&network.book.list())
                .await
                .map_err(kernel)?,
        ),
        Query::Maps => serde_json::to_value(network.kernel.pin_rows().await.map_err(kernel)?),
        Query::Services => serde_json::to_value(
            network
                .ask_services(|seen| seen.rows())
                .await
                .map_err(kernel)?,
        ),
        Query::Service { namespace, name } => {
            let answer = |seen: &Seen<'_>| seen.answer(namespace.as_deref(), &name);
            serde_json::to_value(network.ask_services(answer).await.map_err(kernel)?)
        }
        Query::Policies => serde_json::to_value(network.policy_rows()),
        Query::Policy(question) => {
            let mut answer = network.explain_policy(&question).await?;
            answer.locate(|object, rule| running.source.place(object, rule));
            serde_json::to_value(answer)
        }
        Query::Flows { from } => serde_json::to_value(network.flows(from).await.map_err(kernel)?),
        Query::Trace(question) => serde_json::to_value(network.trace(question).await?),
        Query::PolicyPlan(change) => serde_json::to_value(network.plan_policies(*change).await?),
        Query::Status
        | Query::Dead
        | Query::Unready
        | Query::LogLevel { .. }
        | Query::Devices
        | Query::Volumes
        | Query::Snapshots
        | Query::VolumeUsage
        | Query::VolumeCheck => {
            return Err(CniError::internal("this is another part's to answer"));
        }
    };
    value.map_err(|e| CniError::internal(&e.to_string()))
}

/// What keeps the part from serving pods, each with its remedy; none when it serves. A full podCIDR is no
/// such thing: see `docs/operations.md`.
pub async fn unready(slot: &NetworkSlot) -> Vec<String> {
    let Some(running) = slot.now() else {
        return slot.obstacle().into_iter().collect();
    };
    let network = &running.network;
    let obstacle = network.obstacle().await.map(|error| error.to_string());
    let unread = network.kernel.path_rows().await.err();
    let unread = unread.map(|error| format!("the maps can't be read: {error}"));
    obstacle.into_iter().chain(unread).collect()
}

/// What a scrape names one by one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named {
    pub endpoints: bool,
    pub services: bool,
}

/// What a scrape tells of the part; none while it isn't running. `endpoints` adds drops by pod, which
/// walks a map with a row for each pod and reason; `services` one with a row for each flow.
///
/// # Errors
/// When a map can't be read.
pub async fn snapshot(slot: &NetworkSlot, named: Named) -> Result<Option<NetworkSnapshot>, String> {
    let Some(running) = slot.now() else {
        return Ok(None);
    };
    let network = &running.network;
    let fault = |error: KernelError| error.to_string();
    let endpoints = network.book.list();
    let (maps, drops) = network.kernel.counted().await.map_err(fault)?;
    let mut pod_drops = Vec::new();
    if named.endpoints {
        let rows = network.kernel.drop_rows(&endpoints).await.map_err(fault)?;
        let named = rows.into_iter().filter_map(|row| {
            let (namespace, pod) = row.endpoint.split_once('/')?;
            let known = endpoints.iter().filter_map(|e| e.pod.as_ref());
            // One without a pod is named by its sandbox, which has a stroke, too.
            known
                .map(ToString::to_string)
                .find(|p| *p == row.endpoint)?;
            Some(PodDrops {
                namespace: namespace.to_owned(),
                pod: pod.to_owned(),
                reason: row.reason,
                packets: row.packets,
                bytes: row.bytes,
            })
        });
        pod_drops = named.collect();
    }
    Ok(Some(NetworkSnapshot {
        endpoints: endpoints.len(),
        ipam: network.ipam_rows(),
        drops,
        paths: network.kernel.path_rows().await.map_err(fault)?,
        maps,
        pod_drops,
        services: network.service_counts(),
        service_flows: match named.services {
            true => network.service_flows().await.map_err(fault)?,
            false => Vec::new(),
        },
        policies: network.policy_rows(),
    }))
}

/// Adds what the network part knows to the agent's status.
pub async fn complete_status(slot: &NetworkSlot, status: &mut Status) {
    let Some(running) = slot.now() else {
        status.problems.extend(slot.obstacle());
        return;
    };
    let network = &running.network;
    let view = network.view();
    status.problems.extend(view.problems);
    status
        .problems
        .extend(running.source.problems().iter().map(ToString::to_string));
    status.problems.extend(view.kept_deletions);
    status.problems.extend(view.coexistence);
    status.problems.extend(running.unheard.snapshot());
    status.problems.extend(running.unresolved.snapshot());
    let troubled = view.troubled.into_values().map(|trouble| trouble.text);
    status.problems.extend(troubled);
    status.problems.extend(view.strangers.into_values());
    let (obstacle, exhausted) = (network.obstacle().await, network.exhausted());
    // The passes have told the others already.
    let of_the_store = obstacle
        .iter()
        .filter(|_| view.unserved.is_empty() && view.desired.is_some());
    status
        .problems
        .extend(of_the_store.map(ToString::to_string));
    status.problems.extend(exhausted.clone());
    status.adoption = view.adoption;
    status.endpoints = network.book.list().len();
    status.nodes = network.cluster.borrow().nodes.len();
    match network.kernel.path_rows().await {
        Ok(paths) => status.paths = paths,
        Err(error) => status.problems.push(error.to_string()),
    }
    if let Some(desired) = view.desired {
        status.ready = obstacle.is_none() && exhausted.is_none();
        status.pod_cidrs.clone_from(&desired.local);
        status.pod_mtu = desired.pod_mtu;
        let uplinks = desired.uplinks.iter();
        let uplinks = uplinks.map(|u| UplinkStatus::new(u, network.kernel.xdp_on(&u.name)));
        status.uplinks = uplinks.collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_the_start_as_long_as_its_caller_and_is_then_told_to_try_again() {
        let slot = NetworkSlot::starting();
        let patience = Duration::from_secs(30);
        let begin = tokio::time::Instant::now();
        let error = slot.started(patience).await.err().unwrap();
        assert_eq!((error.code, begin.elapsed()), (11, patience));
        // A part that failed is said to have at once: the shim then writes a deletion down.
        let waiting = tokio::spawn({
            let slot = slot.clone();
            async move { slot.started(patience).await.err().unwrap() }
        });
        tokio::task::yield_now().await;
        let begin = tokio::time::Instant::now();
        drop(StoppedAtEnd(&slot));
        let error = waiting.await.unwrap();
        assert_eq!((error.code, begin.elapsed()), (11, Duration::ZERO));
        assert!(error.to_string().contains("not running"), "{error}");
        let error = NetworkSlot::absent().started(patience).await.err().unwrap();
        assert!(error.to_string().contains("--parts"), "{error}");
    }

    fn call(command: Command) -> CniCall {
        CniCall {
            command,
            container_id: "c1".to_owned(),
            ifname: "eth0".to_owned(),
            netns: "/run/netns/c1".to_owned(),
            args: String::new(),
            path: String::new(),
            config: Value::Null,
            deadline_ms: 1,
            expires_at_ms: None,
        }
    }

    #[tokio::test]
    async fn status_tells_why_the_part_is_not_running() {
        let told = async |slot: &NetworkSlot| {
            let answer = cni(slot, call(Command::Status), None, Caller::patient()).await;
            let error = answer.unwrap_err();
            assert_eq!(error.code, 50);
            error.to_string()
        };
        assert!(told(&NetworkSlot::starting()).await.contains("starting"));
        assert!(told(&NetworkSlot::absent()).await.contains("--parts"));
        let (_stop, shutdown) = Shutdown::new();
        let slot = NetworkSlot::starting();
        let mut config = config();
        config.state_dir = "/proc/nowhere".into();
        let failure = run(config, None, slot.clone(), Passes::default(), shutdown)
            .await
            .unwrap_err();
        let told = told(&slot).await;
        assert!(told.contains(&failure) && told.contains("/proc"), "{told}");
    }

    #[test]
    fn an_add_with_a_bad_prevresult_is_refused_before_anything_is_done() {
        let conf = serde_json::json!({
            "cniVersion": "1.1.0", "name": "pods", "type": "fairlead-cni",
            "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "nonsense"}]}
        });
        let conf = NetConf::parse(&conf).unwrap();
        let sandbox = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let add = call(Command::Add);
        let request = add_request(&add, conf, Some(sandbox), Caller::patient());
        let error = request.unwrap_err();
        assert_eq!(error.code, 7);
        assert!(error.to_string().contains("prevResult.ips[0]"), "{error}");
    }

    fn config() -> NetworkConfig {
        NetworkConfig {
            node_name: "n1".to_owned(),
            manifests: "/m".into(),
            state_dir: "/data/fairlead".into(),
            bpf_dir: "/b".into(),
            uplink: None,
            cgroup: crate::config::CgroupChoice::Off,
            services: crate::config::ServicesMode::Pods,
            direct_return: false,
            mtu: None,
            xdp: crate::datapath::XdpMode::Off,
            masquerade: true,
            network_policy: true,
            cut_connections: true,
            ebpf_log_level: crate::config::EbpfLogLevel::Off,
            load_balancer_pool: Vec::new(),
        }
    }

    #[test]
    fn a_plugin_that_keeps_deletions_elsewhere_is_told_both_places() {
        let conf = |spool: &str| {
            let conf = serde_json::json!({
                "cniVersion": "1.1.0", "name": "pods", "type": "fairlead-cni", "spool": spool
            });
            NetConf::parse(&conf).unwrap()
        };
        let config = config();
        same_spool(&conf("/data/fairlead/spool"), &config).unwrap();
        let error = same_spool(&conf("/var/lib/fairlead/spool"), &config).unwrap_err();
        assert_eq!(error.code, 7);
        for place in [
            "/var/lib/fairlead/spool",
            "/data/fairlead/spool",
            "--state-dir",
        ] {
            assert!(error.to_string().contains(place), "{error}");
        }
    }
}
