//! The network part as the agent runs it: opens store, source and kernel, starts, reconciles, and
//! answers the CNI calls and questions that reach the socket.

use super::{Network, add::AddRequest, linux::Linux, spool};
use crate::{
    clock::SystemClock,
    cni::{
        CniError,
        args::CniArgs,
        netconf::NetConf,
        protocol::{CniCall, Command},
        result::{self, PrevResult},
    },
    config::NetworkConfig,
    model::AttachmentId,
    parts::Shutdown,
    query::{Query, Status, UplinkStatus},
    source::{Source, manifests::Manifests},
    store::{Book, Store},
};
use serde_json::Value;
use std::{os::fd::OwnedFd, sync::Arc};
use tokio::sync::watch;

/// The network on Linux, with what only this process needs beside it.
pub struct Running {
    pub network: Network<Linux>,
    pub source: Manifests,
}

/// Where the socket finds the network part; empty until it has started.
#[derive(Clone)]
pub struct NetworkSlot(watch::Sender<Option<Arc<Running>>>);

impl Default for NetworkSlot {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl NetworkSlot {
    fn now(&self) -> Option<Arc<Running>> {
        self.0.borrow().clone()
    }

    /// Waits for the start to end: a call that comes during it is answered, not refused.
    async fn started(&self) -> Result<Arc<Running>, CniError> {
        let mut slot = self.0.subscribe();
        let running = slot.wait_for(Option::is_some).await;
        running
            .ok()
            .and_then(|slot| slot.clone())
            .ok_or_else(|| CniError::try_again("the agent is ending"))
    }
}

/// Runs the part until `shutdown`.
///
/// # Errors
/// What kept it from starting, worded for people.
pub async fn run(
    config: NetworkConfig,
    slot: NetworkSlot,
    shutdown: Shutdown,
) -> Result<(), String> {
    let clock = Arc::new(SystemClock);
    let folder = config.state_dir.clone();
    let store = Store::open(&folder.join("state.redb")).map_err(|e| e.to_string())?;
    let book = Book::open(store, clock.clone()).map_err(|e| e.to_string())?;
    // A state file that was copied from another node would hand out addresses twice.
    book.bind_node(&config.node_name)
        .await
        .map_err(|e| e.to_string())?;
    let source = Manifests::watch(&config.manifests).map_err(|e| e.to_string())?;
    let kernel = Linux::open(&config).await.map_err(|e| e.to_string())?;
    let network = Network::new(config, kernel, book, clock, source.subscribe());
    let running = Arc::new(Running { network, source });
    let network = &running.network;

    let spool_folder = folder.join("spool");
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
    slot.0.send_replace(Some(running.clone()));
    let _empty_at_end = EmptyAtEnd(&slot);

    let spooled = network.replay_forever(&spool_folder, shutdown.clone());
    tokio::select! {
        () = network.reconcile_forever(shutdown.clone()) => Ok(()),
        ended = spooled => ended.map_err(|e| format!("{}: {e}", spool_folder.display())),
    }
}

/// Empties the slot also when the part panics.
struct EmptyAtEnd<'a>(&'a NetworkSlot);

impl Drop for EmptyAtEnd<'_> {
    fn drop(&mut self) {
        self.0.0.send_replace(None);
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
) -> Result<Value, CniError> {
    if call.command == Command::Status && slot.now().is_none() {
        return Err(CniError::not_available("the agent is starting"));
    }
    let running = slot.started().await?;
    let network = &running.network;
    let conf = NetConf::parse_for(call.command, &call.config)?;
    let attachment = || AttachmentId::new(&call.container_id, &call.ifname).map_err(CniError::from);
    match call.command {
        Command::Add => {
            let args = CniArgs::parse(&call.args)?;
            let sandbox = sandbox.ok_or_else(|| CniError::no_sandbox(&call.netns))?;
            let request = AddRequest {
                attachment: attachment()?,
                sandbox: Arc::new(sandbox),
                sandbox_path: call.netns.clone(),
                conf,
                args,
            };
            let endpoint = network.add(&request).await?;
            result::added(&endpoint, &request.conf)
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
                network.gc(&conf.name, &valid).await?;
            }
            Ok(Value::Null)
        }
        Command::Status => match network.serving() {
            Err(e) => Err(CniError::not_available(&e.to_string())),
            Ok(_) => match network
                .ipam_rows()
                .iter()
                .find(|pool| pool.used == pool.total)
            {
                Some(pool) => Err(CniError::not_available(&format!(
                    "all {} addresses of podCIDR {} are in use",
                    pool.total, pool.prefix
                ))),
                None => Ok(Value::Null),
            },
        },
    }
}

/// Answers a question of the command line.
///
/// # Errors
/// While the part is not running.
pub async fn query(slot: &NetworkSlot, query: Query) -> Result<Value, CniError> {
    let running = slot.now().ok_or_else(|| {
        CniError::try_again("the network part is not running; `fairlead status` says why")
    })?;
    let network = &running.network;
    let value = match query {
        Query::Endpoints => serde_json::to_value(network.endpoint_rows()),
        Query::Nodes => serde_json::to_value(network.node_rows()),
        Query::Ipam => serde_json::to_value(network.ipam_rows()),
        Query::Drops => serde_json::to_value(
            network
                .kernel
                .drop_rows(&network.book.list())
                .await
                .map_err(|e| CniError::kernel(&e))?,
        ),
        Query::Maps => serde_json::to_value(
            network
                .kernel
                .pin_rows()
                .map_err(|e| CniError::kernel(&e))?,
        ),
        Query::Status => return Err(CniError::internal("status is the agent's to answer")),
    };
    value.map_err(|e| CniError::internal(&e.to_string()))
}

/// Adds what the network part knows to the agent's status.
pub async fn complete_status(slot: &NetworkSlot, status: &mut Status) {
    let Some(running) = slot.now() else {
        status
            .problems
            .push("the network part is not running (yet)".to_owned());
        return;
    };
    let network = &running.network;
    let view = network.view();
    status.problems.extend(view.problems);
    status
        .problems
        .extend(running.source.problems().iter().map(ToString::to_string));
    status.adoption = view.adoption;
    status.endpoints = network.book.list().len();
    status.nodes = network.cluster.borrow().nodes.len();
    match network.kernel.path_rows().await {
        Ok(paths) => status.paths = paths,
        Err(error) => status.problems.push(error.to_string()),
    }
    if let Some(desired) = view.desired {
        status.ready = true;
        status.pod_cidrs.clone_from(&desired.local);
        status.pod_mtu = desired.pod_mtu;
        let uplinks = desired.uplinks.iter();
        let uplinks = uplinks.map(|u| UplinkStatus::new(u, network.kernel.xdp_on(&u.name)));
        status.uplinks = uplinks.collect();
    }
}
