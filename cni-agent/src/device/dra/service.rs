//! The driver as the kubelet calls it (DRA API v1): it prepares the devices of a claim before a pod's first container, and is
//! told when the last has ended. Both are done again without harm: after a restart the kubelet asks for all of them.

use super::{
    claim::{self, Given, Plan, Wanted},
    flight::{Flight, Flights},
    forgotten::Forgotten,
    prepared::{Claims, Prepared},
    slices::{Looked, Support},
};
use crate::{
    device::{
        allocate::Node,
        host::{Host, program},
        plugin,
        pods::PodResources,
    },
    metrics::DeviceCounts,
    node::within,
    source::kubernetes::with_sources,
};
use futures_util::future::join_all;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};
use node_api::dra::{
    Claim, Device, NodePrepareResourceResponse, NodePrepareResourcesRequest,
    NodePrepareResourcesResponse, NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest,
    NodeUnprepareResourcesResponse, dra_plugin_server::DraPlugin,
};
use std::{collections::BTreeSet, io, sync::Arc, time::Instant};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tonic::{Request, Response, Status};

/// Most claims of one call: more than a pod may have.
const MOST_CLAIMS: usize = 1024;

/// Answers the kubelet.
#[derive(Clone)]
pub(super) struct Service(Arc<Inner>);

struct Inner {
    node: String,
    client: Client,
    host: Arc<Host>,
    counts: DeviceCounts,
    offers: watch::Receiver<Looked>,
    support: watch::Receiver<Support>,
    held: watch::Receiver<Arc<BTreeSet<String>>>,
    /// One claim after the other, so that no device is given twice.
    claims: Arc<Mutex<Claims>>,
    flights: Flights,
    forgotten: Forgotten,
    /// The kubelet's streams end when this changes.
    until: watch::Sender<()>,
}

/// What the service works with.
pub(super) struct Parts {
    pub(super) node: String,
    pub(super) client: Client,
    pub(super) host: Arc<Host>,
    pub(super) counts: DeviceCounts,
    pub(super) offers: watch::Receiver<Looked>,
    pub(super) support: watch::Receiver<Support>,
    pub(super) claims: Claims,
    pub(super) pods: PodResources,
}

impl Service {
    pub(super) fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            node: parts.node,
            client: parts.client.clone(),
            host: parts.host,
            counts: parts.counts,
            offers: parts.offers,
            support: parts.support,
            held: parts.claims.held(),
            claims: Arc::new(Mutex::new(parts.claims)),
            flights: Flights::default(),
            forgotten: Forgotten::new(parts.client.clone(), parts.pods),
            until: watch::Sender::default(),
        }))
    }

    pub(super) fn node(&self) -> &str {
        &self.0.node
    }

    pub(super) fn offers(&self) -> watch::Receiver<Looked> {
        self.0.offers.clone()
    }

    pub(super) fn support(&self) -> watch::Receiver<Support> {
        self.0.support.clone()
    }

    /// Names of devices that claims have.
    pub(super) fn held(&self) -> watch::Receiver<Arc<BTreeSet<String>>> {
        self.0.held.clone()
    }

    /// Changes when the kubelet's streams are to end.
    pub(super) fn until(&self) -> watch::Receiver<()> {
        self.0.until.subscribe()
    }

    /// Ends the kubelet's streams.
    pub(super) fn end_streams(&self) {
        self.0.until.send_replace(());
    }
}

#[tonic::async_trait]
impl DraPlugin for Service {
    async fn node_prepare_resources(
        &self,
        asked: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        let claims = bounded(asked.into_inner().claims)?;
        // Who doesn't wait any more asks again, and finds it done.
        let inner = self.0.clone();
        let flights: Vec<Flight> = claims
            .iter()
            .map(|claim| inner.flights.begin(&claim.uid))
            .collect();
        let done = tokio::spawn(async move {
            let read = join_all(claims.iter().map(|claim| inner.wanted(claim))).await;
            let mut answers = Vec::new();
            for ((claim, wanted), flight) in claims.into_iter().zip(read).zip(flights) {
                let begin = Instant::now();
                let answer = match wanted {
                    Ok(wanted) => inner.prepare(&claim, &wanted, &flight, begin).await,
                    Err(why) => Err(why),
                };
                answers.push((claim.uid.clone(), inner.answer(&claim, answer)));
            }
            NodePrepareResourcesResponse {
                claims: answers.into_iter().collect(),
            }
        });
        done.await.map(Response::new).map_err(|error| ended(&error))
    }

    async fn node_unprepare_resources(
        &self,
        asked: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        let claims = bounded(asked.into_inner().claims)?;
        let inner = self.0.clone();
        let done = tokio::spawn(async move {
            let mut answers = Vec::new();
            for claim in claims {
                let error = inner.unprepare(&claim).await.err().unwrap_or_default();
                if !error.is_empty() {
                    tracing::warn!(
                        claim = named(&claim),
                        reason = error,
                        "a claim's devices can't be taken back"
                    );
                }
                answers.push((claim.uid, NodeUnprepareResourceResponse { error }));
            }
            NodeUnprepareResourcesResponse {
                claims: answers.into_iter().collect(),
            }
        });
        done.await.map(Response::new).map_err(|error| ended(&error))
    }
}

impl Inner {
    /// What the API server says that a claim has of this node. It is asked each time: a claim with the same uid may have
    /// been given other devices meanwhile.
    async fn wanted(&self, asked: &Claim) -> Result<Vec<Wanted>, String> {
        if !claim::is_uid(&asked.uid) {
            return Err(format!("{:?} is no uid of a claim", asked.uid));
        }
        let claims: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &asked.namespace);
        let found = within(claims.get_opt(&asked.name)).await;
        let found = found.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 403 => format!(
                "the claim can't be read: {}; give the agent's role that right (deploy/devices/dra)",
                status.message
            ),
            _ => format!("the claim can't be read: {}", with_sources(&error)),
        })?;
        let found = found.ok_or("there is no such claim any more")?;
        claim::wanted(&found, &asked.uid, &self.node)
    }

    async fn prepare(
        &self,
        asked: &Claim,
        wanted: &[Wanted],
        flight: &Flight,
        begin: Instant,
    ) -> Result<Vec<Given>, String> {
        let mut claims = self.claims.clone().lock_owned().await;
        // Who takes it back says so first, and then waits for the claims.
        let goes_on = || match flight.is_taken_back() {
            true => Err("it was taken back meanwhile: its pod has ended".to_owned()),
            false => Ok(()),
        };
        goes_on()?;
        let known = claims.get(&asked.uid);
        if let Some(known) = known.filter(|known| known.is_for(wanted, claims.boot())) {
            let (known, uid) = (known.clone(), asked.uid.clone());
            let given = known.given.clone();
            on_disk(claims, move |claims| claims.describe(&uid, &known)).await?;
            return Ok(given);
        }
        for one in wanted.iter().filter(|one| one.is_alone()) {
            let holder = claims.holder(&one.device, &asked.uid);
            let Some((uid, other)) = holder.map(|(uid, of)| (uid.to_owned(), of.clone())) else {
                continue;
            };
            if !self.forgotten.is(&uid, &other).await {
                return Err(format!(
                    "device {} is still held for claim {}/{}, whose pod has not ended yet",
                    one.device, other.namespace, other.name
                ));
            }
            tracing::warn!(
                claim = format!("{}/{}", other.namespace, other.name),
                device = one.device,
                "neither the API server nor the kubelet knows a claim that holds a device: it is taken back"
            );
            claims = on_disk(claims, move |claims| claims.remove(&uid)).await?;
        }
        let Plan {
            given,
            spec,
            resets,
            resources,
        } = self.plan(&asked.uid, wanted)?;
        let reset = resets
            .into_iter()
            .map(|(program, fields)| program::run_apart(program, fields));
        for done in join_all(reset).await {
            done.map_err(|reason| format!("beforeStart: {reason}"))?;
        }
        let prepared = Prepared {
            namespace: asked.namespace.clone(),
            name: asked.name.clone(),
            boot: claims.boot().to_owned(),
            given: given.clone(),
            spec,
        };
        let uid = asked.uid.clone();
        goes_on()?;
        on_disk(claims, move |claims| claims.put(&uid, prepared)).await?;
        for resource in &resources {
            self.counts.allocated(resource, true, begin.elapsed());
        }
        Ok(given)
    }

    fn plan(&self, uid: &str, wanted: &[Wanted]) -> Result<Plan, String> {
        let offers = self.offers.borrow().clone().ok_or(
            "the agent has just started and looks for the node's devices still: it is tried again",
        )?;
        let node = Node {
            exists: &|path| self.host.exists(path),
            random: &plugin::random,
        };
        claim::plan(uid, wanted, &offers, &node)
    }

    fn answer(
        &self,
        asked: &Claim,
        given: Result<Vec<Given>, String>,
    ) -> NodePrepareResourceResponse {
        match given {
            Ok(given) => {
                let devices = given.into_iter().map(|given| Device {
                    request_names: vec![given.wanted.request],
                    pool_name: self.node.clone(),
                    device_name: given.wanted.device,
                    cdi_device_ids: given.cdi,
                    share_id: given.wanted.share,
                });
                NodePrepareResourceResponse {
                    devices: devices.collect(),
                    error: String::new(),
                }
            }
            Err(error) => {
                tracing::warn!(
                    claim = named(asked),
                    reason = error,
                    "devices can't be given to a claim"
                );
                NodePrepareResourceResponse {
                    devices: Vec::new(),
                    error,
                }
            }
        }
    }

    async fn unprepare(&self, asked: &Claim) -> Result<(), String> {
        if !claim::is_uid(&asked.uid) {
            return Err(format!("{:?} is no uid of a claim", asked.uid));
        }
        self.flights.take_back(&asked.uid);
        let claims = self.claims.clone().lock_owned().await;
        let uid = asked.uid.clone();
        on_disk(claims, move |claims| claims.remove(&uid)).await?;
        Ok(())
    }
}

/// Does something that waits for the disk; they are held on.
async fn on_disk(
    mut claims: OwnedMutexGuard<Claims>,
    work: impl FnOnce(&mut Claims) -> io::Result<()> + Send + 'static,
) -> Result<OwnedMutexGuard<Claims>, String> {
    let done = tokio::task::spawn_blocking(move || work(&mut claims).map(|()| claims)).await;
    let done = done.map_err(|error| format!("writing a claim down ended badly: {error}"))?;
    done.map_err(|error| format!("the claim can't be written down: {error}"))
}

fn named(claim: &Claim) -> String {
    format!("{}/{}", claim.namespace, claim.name)
}

fn bounded(claims: Vec<Claim>) -> Result<Vec<Claim>, Status> {
    match claims.len() <= MOST_CLAIMS {
        true => Ok(claims),
        false => Err(Status::invalid_argument(format!(
            "{} claims in one call are more than {MOST_CLAIMS}",
            claims.len()
        ))),
    }
}

fn ended(error: &tokio::task::JoinError) -> Status {
    tracing::error!(%error, "a call of the kubelet ended badly");
    Status::internal("the call ended badly; the agent's log says why")
}
