//! What a cluster asks of the driver, answered by the agent itself for its own node: it makes volumes for claims, deletes
//! and grows them, takes snapshots, attaches, and tells the scheduler how much room there is. It does what
//! external-provisioner, -attacher, -snapshotter and -resizer do, and is off where they run (`--csi-cluster off`).
//!
//! What concerns this node is [`watch`]ed; [`plan`] says what there is to do (PURE), [`work`] when (PURE); each task is
//! carried out by calls of the driver in this process and by small writes, and does no harm when it is done twice.

mod attaching;
mod attachment;
mod capacities;
mod capacity;
mod claim;
mod content;
mod deletion;
mod expansion;
mod failure;
mod finding;
mod following;
mod growth;
mod modification;
mod plan;
mod provisioning;
mod quantity;
mod reclaim;
mod snapshot_api;
mod snapshotting;
mod source;
mod taking;
#[cfg(test)]
mod tests;
mod topology;
mod unwritten;
mod watch;
mod watched;
mod words;
mod work;

use crate::{config::ApiOptions, node::fitting, parts::Shutdown, source::kubernetes::client};
use axum::Router;
use failure::Failure;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use node_api::csi::{
    ControllerGetCapabilitiesRequest,
    controller_client::ControllerClient,
    controller_service_capability::{Type, rpc::Type as RpcType},
};
use plan::Task;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::JoinSet, time::sleep};
use tonic::Request;
use unwritten::Unwritten;
use work::{Outcome, Work};

/// Pause before something is asked again that has to be known first.
const PAUSE: Duration = Duration::from_secs(5);
/// The same, when it was asked for many times.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Who does it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) node: String,
    pub(super) driver: String,
    /// Where volumes of this node can be had: what the driver tells the kubelet.
    pub(super) topology: BTreeMap<String, String>,
    /// Labels of the node.
    pub(super) labels: BTreeMap<String, String>,
    /// The node's object, with which what tells of its room goes.
    pub(super) node_uid: Option<String>,
}

impl Own {
    /// What the node is known by.
    pub(super) fn place(&self) -> topology::Place {
        let mut place = self.labels.clone();
        place.extend(self.topology.clone());
        place
    }
}

/// What every task works with.
pub(super) struct Site {
    /// As it is now: labels may change, and a node may come again.
    own: Mutex<Arc<Own>>,
    client: Client,
    /// The driver's services, called as over its socket.
    driver: Router,
    events: Recorder,
    /// Where what tells of the room is.
    namespace: String,
    /// Something was done that changes the room.
    room: Notify,
    /// Claims whose last growth failed so that nothing goes on in the background.
    ended: Mutex<BTreeSet<String>>,
    unwritten: Mutex<Unwritten>,
}

/// What the agent tells this part.
pub(super) struct Options {
    pub(super) node: String,
    pub(super) driver: String,
    pub(super) topology: BTreeMap<String, String>,
    /// Where what tells of the room is, if that was said.
    pub(super) namespace: Option<String>,
}

/// Does all of it until `shutdown`, once there is a client.
pub(super) async fn serve(
    api: &ApiOptions,
    driver: Router,
    options: Options,
    mut shutdown: Shutdown,
) {
    let client = tokio::select! {
        client = connected(api, PAUSE) => client,
        () = shutdown.requested() => return,
    };
    let by_kubeconfig = api.kubeconfig.is_some();
    let namespace = capacity::namespace(
        options.namespace.as_deref(),
        client.default_namespace(),
        by_kubeconfig,
    );
    let options = Options {
        namespace: Some(namespace),
        ..options
    };
    run(client, driver, options, shutdown).await;
}

/// A client of the API server. Who looks at the log sees why there is none, and need not restart the agent.
async fn connected(api: &ApiOptions, mut pause: Duration) -> Client {
    loop {
        match client::connect(api).await {
            Ok(client) => return client,
            Err(error) => {
                tracing::error!(%error, "claims of this node are not answered for now; it is tried again");
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Does all of it until `shutdown`.
async fn run(client: Client, driver: Router, options: Options, mut shutdown: Shutdown) {
    let done = async {
        let node = following::own_node(&client, &options.node).await;
        let own = Own {
            node: options.node,
            driver: options.driver,
            topology: options.topology,
            labels: node.metadata.labels.unwrap_or_default(),
            node_uid: node.metadata.uid,
        };
        let namespace = options.namespace.as_deref();
        let namespace = namespace.unwrap_or(capacity::NAMESPACE);
        let site = Arc::new(Site::new(client, driver, own, namespace));
        tracing::info!(
            driver = site.own().driver,
            "claims of this node are answered by the agent itself"
        );
        loop {
            // What is begun anew takes nothing from who is served: the cluster knows all that this one does.
            // In a set, so that it ends with this.
            let mut keeping = JoinSet::new();
            keeping.spawn(keep(site.clone()));
            if let Some(Err(error)) = keeping.join_next().await {
                tracing::error!(%error, "claims are answered anew after a failure");
            }
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = done => {}
        () = shutdown.requested() => {}
    }
}

/// Watches, plans and works for ever.
async fn keep(site: Arc<Site>) {
    let changed = Arc::new(Notify::new());
    let (watched, mut watching) = watched::begin(&site, &changed).await;
    watching.spawn(capacities::keep(site.clone(), watched.classes.clone()));
    watching.spawn(deletion::adopt(site.clone()));
    watching.spawn(following::node(site.clone(), changed.clone()));
    let mut work = Work::default();
    let mut running = JoinSet::new();
    let mut keys = BTreeMap::new();
    let mut classes = None;
    // When it is told what is waited for, and whether it was.
    let (mut tell, mut told) = (None, false);
    loop {
        let until = match watched.seen() {
            Ok(mut seen) => {
                (tell, told) = (None, false);
                site.written(&seen.volumes);
                seen.unwritten = site.unwritten().clone();
                if classes.as_ref() != Some(&seen.classes) {
                    classes = Some(seen.classes.clone());
                    site.room.notify_one();
                }
                for task in work.plan(plan::plan(&seen, &site.own()), Instant::now()) {
                    let key = task.key();
                    let id = running.spawn(carry_out(site.clone(), task)).id();
                    keys.insert(id, key);
                }
                work.next()
            }
            // Nothing is begun before all was seen, and that is news: what is planned has no time until then.
            Err(unlisted) => {
                let at = *tell.get_or_insert_with(|| Instant::now() + PAUSE);
                if !told && Instant::now() >= at {
                    told = true;
                    tracing::warn!(?unlisted, "claims wait until the cluster lists these kinds");
                }
                (!told).then_some(at)
            }
        };
        let until = until.map(tokio::time::Instant::from_std);
        tokio::select! {
            () = changed.notified() => {}
            Some(Err(error)) = watching.join_next() => {
                tracing::error!(%error, "a watch of the cluster ended badly");
                return;
            }
            Some(ended) = running.join_next_with_id() => {
                let (id, outcome) = match ended {
                    Ok((id, outcome)) => (id, outcome),
                    Err(error) => {
                        tracing::error!(%error, "a task for the cluster ended badly");
                        (error.id(), Outcome::Failed)
                    }
                };
                if let Some(key) = keys.remove(&id) {
                    work.ended(&key, outcome, Instant::now());
                }
            }
            () = tokio::time::sleep_until(until.unwrap_or_else(tokio::time::Instant::now)), if until.is_some() => {}
        }
    }
}

/// Whether the driver can change volumes.
async fn modifies(site: &Site) -> bool {
    let asked = Request::new(ControllerGetCapabilitiesRequest::default());
    let answer = site.driver().controller_get_capabilities(asked).await;
    let all = answer
        .map(|answer| answer.into_inner().capabilities)
        .unwrap_or_default();
    all.iter().any(|one| {
        let modify = RpcType::ModifyVolume;
        matches!(&one.r#type, Some(Type::Rpc(rpc)) if rpc.r#type() == modify)
    })
}

/// Carries one task out, and tells what went wrong.
async fn carry_out(site: Arc<Site>, task: Task) -> Outcome {
    let done = match &task {
        Task::Take(claim, class, _) => site.take(claim, class).await,
        Task::Provision(claim, class) => site.provision(claim, class).await,
        Task::Discard(volume) => site.discard(volume).await,
        Task::Unprotect(claim) => site.unprotect(claim).await,
        Task::Reclaim(step, volume) => site.reclaim(*step, volume).await,
        Task::Forget(volume) => site.forget(volume).await,
        Task::Grow(claim, volume) => site.grow(claim, volume).await,
        Task::Modify(claim, volume) => site.modify(claim, volume).await,
        Task::Content(step, content) => site.content(*step, content).await,
        Task::Attachment(step, one, volume) => site.attachment(*step, one, volume.as_deref()).await,
    };
    let Err(Failure {
        text,
        reason,
        outcome,
    }) = done
    else {
        return Outcome::Done;
    };
    let (what, name) = (task.what(), task.meta().name.clone().unwrap_or_default());
    match outcome {
        Outcome::Done => tracing::debug!(what, name, reason = text, "overtaken"),
        _ => tracing::warn!(what, name, reason = text, "to be tried again"),
    }
    if let Some(reason) = reason {
        site.tell(&task.about(), EventType::Warning, reason, text)
            .await;
    }
    outcome
}

impl Site {
    fn new(client: Client, driver: Router, own: Own, namespace: &str) -> Self {
        Self {
            own: Mutex::new(Arc::new(own)),
            events: Recorder::new(client.clone(), Reporter::from("fairlead-csi".to_owned())),
            client,
            driver,
            namespace: namespace.to_owned(),
            room: Notify::new(),
            ended: Mutex::default(),
            unwritten: Mutex::default(),
        }
    }

    fn own(&self) -> Arc<Own> {
        self.own
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn driver(&self) -> ControllerClient<Router> {
        ControllerClient::new(self.driver.clone())
    }

    /// Tells people about an object.
    async fn tell(&self, about: &ObjectReference, kind: EventType, reason: &str, note: String) {
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(fitting(note)),
            action: "Volume".to_owned(),
            secondary: None,
        };
        let told = crate::node::within(self.events.publish(&event, about)).await;
        if let Err(error) = told {
            tracing::warn!(%error, reason, "the Event could not be written");
        }
    }
}

impl Task {
    /// The object that the task is for.
    fn about(&self) -> ObjectReference {
        match self {
            Self::Take(claim, ..)
            | Self::Provision(claim, _)
            | Self::Unprotect(claim)
            | Self::Grow(claim, _)
            | Self::Modify(claim, _) => claim.object_ref(&()),
            // Nobody finds what is not written.
            Self::Discard(volume) => {
                let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone());
                claim.unwrap_or_default()
            }
            Self::Reclaim(_, volume) | Self::Forget(volume) => volume.object_ref(&()),
            Self::Content(_, content) => content.object_ref(&()),
            Self::Attachment(_, one, _) => one.object_ref(&()),
        }
    }
}
