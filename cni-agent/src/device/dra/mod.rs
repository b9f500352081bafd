//! Devices by Dynamic Resource Allocation (resource.k8s.io/v1): those of resources that say `serve: dra`. The scheduler
//! chooses them by what is known of them, for claims that pods name; docs/devices-dra.md says when that is worth it.
//!
//! The inventory's offers become slices (PURE, [`slices`]), which are compared with what the API server has (PURE, [`diff`])
//! and kept there ([`publish`]). The kubelet finds the driver ([`registering`]) and has it prepare claims ([`service`]): what
//! a claim asks for and what its containers get is decided from memory (PURE, [`claim`]) and written down ([`prepared`]).
//! How devices are, the kubelet is told as it changes ([`health`]).

mod claim;
mod diff;
mod fault;
mod flight;
mod forgotten;
mod health;
mod prepared;
mod publish;
mod registering;
mod service;
mod slices;
#[cfg(test)]
mod tests;

pub(super) use slices::{Looked, Offers};

use super::{host::Host, options::DeviceConfig, pods::PodResources, registration::Standing};
use crate::{
    config::ApiOptions, grpc::registrar::Taken, metrics::DeviceCounts, parts::Shutdown,
    source::kubernetes::client,
};
use kube::Client;
use prepared::Claims;
use publish::Publisher;
use registering::Registering;
use service::{Parts, Service};
use slices::Support;
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::sleep};

/// Least time between two rounds of writes, and from one try to the next: however often devices come and go, the API server
/// has little to do with it.
#[cfg(not(test))]
const PACE: Duration = Duration::from_secs(1);
#[cfg(test)]
const PACE: Duration = Duration::from_millis(10);
/// Pause before a client of the API server is made again.
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is served, and who is told how far that is.
pub(super) struct Dra {
    pub(super) offers: watch::Receiver<Looked>,
    pub(super) host: Arc<Host>,
    pub(super) counts: DeviceCounts,
    /// Of all of these resources: they have one driver.
    pub(super) standing: watch::Sender<Standing>,
}

/// Serves until `shutdown`, from when there is something to serve: a cluster without such resources is not asked for
/// anything.
pub(super) async fn run(mut dra: Dra, config: &DeviceConfig, shutdown: Shutdown) {
    let mut ending = shutdown.clone();
    let ready = tokio::select! {
        ready = ready(&mut dra, config) => ready,
        () = ending.requested() => None,
    };
    if let Some((client, claims)) = ready {
        serve(client, dra, claims, config, shutdown).await;
    }
}

/// What it takes to serve, once there is something to serve.
async fn ready(dra: &mut Dra, config: &DeviceConfig) -> Option<(Client, Claims)> {
    let (state_dir, cdi_dir) = (config.state_dir.clone(), config.cdi_dir.clone());
    let opened = tokio::task::spawn_blocking(move || Claims::open(&state_dir, &cdi_dir)).await;
    let claims = opened
        .inspect_err(|error| tracing::error!(%error, "prepared claims could not be read"))
        .ok()?;
    // A claim that is prepared has to be taken back, also when the configuration has no such resource any more.
    if claims.is_empty() {
        let offered = dra
            .offers
            .wait_for(|offers| offers.as_ref().is_some_and(|of| !of.is_empty()))
            .await;
        drop(offered.ok()?);
    }
    let Some(api) = &config.api else {
        let why = "there is no API server, and `serve: dra` needs one: name it by --kubeconfig, or write `serve: devicePlugin`";
        tracing::error!(why, "devices can't be served to claims");
        let standing = Standing::NotTaken(why.to_owned());
        dra.standing.send_replace(standing);
        return None;
    };
    Some((connected(api, &dra.standing).await, claims))
}

async fn serve(
    client: Client,
    dra: Dra,
    claims: Claims,
    config: &DeviceConfig,
    shutdown: Shutdown,
) {
    tracing::info!(driver = slices::DRIVER, "devices are served to claims");
    let support = watch::Sender::new(Support::ALL);
    let fault = watch::Sender::new(None);
    let taken = watch::Sender::new(Taken::NotAsked);
    let service = Service::new(Parts {
        node: config.node_name.clone(),
        client: client.clone(),
        host: dra.host.clone(),
        counts: dra.counts.clone(),
        offers: dra.offers.clone(),
        support: support.subscribe(),
        claims,
        pods: PodResources::new(&config.kubelet_dir),
    });
    let told = (taken.subscribe(), fault.subscribe());
    let offers = dra.offers.clone();
    let publisher = Publisher::new(client, &config.node_name, offers, support, fault);
    let registering = Registering::new(&config.kubelet_dir, service, taken);
    tokio::select! {
        // It takes its sockets away before it ends.
        () = registering.run(shutdown) => {}
        ((), ()) = async { tokio::join!(publisher.run(), follow(dra, told)) } => {}
    }
}

/// A client of the API server; who looks sees why there is none.
async fn connected(api: &ApiOptions, standing: &watch::Sender<Standing>) -> Client {
    let mut pause = PAUSE;
    loop {
        match client::connect(api).await {
            Ok(client) => return client,
            Err(error) => {
                tracing::error!(%error, "devices can't be served to claims for now; it is tried again");
                standing.send_replace(Standing::NotTaken(error.to_string()));
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Tells how far it is, for ever.
async fn follow(
    mut dra: Dra,
    (mut taken, mut fault): (watch::Receiver<Taken>, watch::Receiver<Option<String>>),
) {
    loop {
        let standing = match (&*taken.borrow_and_update(), &*fault.borrow_and_update()) {
            (Taken::No(why), _) | (_, Some(why)) => Standing::NotTaken(why.clone()),
            (Taken::NotAsked, None) => Standing::Starting,
            (Taken::Yes, None) => Standing::Taken,
        };
        for resource in dra
            .offers
            .borrow_and_update()
            .iter()
            .flat_map(|of| of.keys())
        {
            let is_taken = standing == Standing::Taken;
            dra.counts.registered(resource.as_str(), is_taken);
        }
        dra.standing.send_if_modified(|told| {
            let is_news = *told != standing;
            *told = standing;
            is_news
        });
        let changed = tokio::select! {
            changed = taken.changed() => changed,
            changed = fault.changed() => changed,
            changed = dra.offers.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}
