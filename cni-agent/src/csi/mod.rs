//! The node's CSI driver: volumes on this node's disk for its pods, by the Container Storage Interface 1.13. One process
//! serves Identity, Controller and Node, and registers itself with the kubelet.
//!
//! A call is read into types of our own ([`request`], PURE), carried out on the pool ([`volumes`], [`staging`],
//! [`inline`]), and remembered before it is answered ([`book`]). What a crash leaves, [`recover`] puts right.

mod ahead;
mod anywhere;
mod attached;
mod backend;
mod book;
mod call_log;
mod check;
mod cluster;
mod controller;
mod counted;
mod cut;
pub mod demo;
#[cfg(test)]
mod disk_tests;
mod extents;
mod fault;
mod file_system;
mod folder;
mod freeze;
mod group;
mod health;
mod id;
mod identity;
mod in_flight;
mod inline;
mod kernel;
mod limits;
mod look;
mod metadata;
mod mounts;
mod node;
mod places;
mod pool;
mod records;
mod recover;
mod request;
mod room;
mod rows;
mod shown;
mod slot;
mod snapshots;
mod staging;
mod superblock;
mod tell;
mod throttle;
mod told;
mod tools;
mod trouble;
mod volumes;

use crate::{
    config::{CgroupChoice, CsiConfig},
    datapath::unified_cgroup,
    grpc::{
        listen,
        registrar::{Registrar, Taken},
    },
    metrics::VolumeCounts,
    parts::Shutdown,
};
use book::Book;
use counted::Counted;
use fault::Fault;
use node_api::{
    csi::{
        Topology, controller_server::ControllerServer,
        group_controller_server::GroupControllerServer, identity_server::IdentityServer,
        node_server::NodeServer, snapshot_metadata_server::SnapshotMetadataServer,
    },
    registration::registration_server::RegistrationServer,
};
use pool::Pool;
use std::path::PathBuf;
use std::{sync::Arc, time::Duration};
use tell::Troubles;
use tokio::sync::mpsc;
use tonic::{Code, Status, service::Routes, transport::Server};
use volumes::Volumes;

pub use freeze::guard;
pub use slot::{CsiSlot, query, snapshot};

/// Label of a node by which volumes are found on it.
const TOPOLOGY: &str = "topology.fairlead.dev/node";

/// Pauses before a kubelet that refuses the driver is asked again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// What the driver is to the kubelet.
const KIND: &str = "CSIPlugin";
/// Version of its interface, as the kubelet compares it.
const VERSIONS: [&str; 1] = ["1.0.0"];

/// The driver behind all of its services.
#[derive(Clone, Debug)]
struct Driver {
    name: String,
    /// Folder of the kubelet.
    kubelet: PathBuf,
    volumes: Arc<Volumes>,
    troubles: Troubles,
}

impl Driver {
    /// Where this node's volumes can be had.
    fn topology(&self) -> Topology {
        let node = self.volumes.node.clone();
        Topology {
            segments: [(TOPOLOGY.to_owned(), node)].into(),
        }
    }

    /// Has it told that a volume could not be made larger, and why.
    fn refused(&self, handle: &str, why: &Status) {
        let is_for_people = matches!(
            why.code(),
            Code::ResourceExhausted | Code::OutOfRange | Code::Internal
        );
        if let (true, Ok(volume)) = (is_for_people, self.volumes.found(handle)) {
            let trouble = trouble::refused(&volume, why.message());
            if self.troubles.try_send(trouble).is_err() {
                tracing::warn!(volume = %volume.id, why = why.message(), "a volume can't be expanded");
            }
        }
    }

    /// Does something that waits for the disk. It goes on when its caller doesn't wait any more: who asks again finds it
    /// done.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Volumes) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Status> {
        let volumes = self.volumes.clone();
        let done = tokio::task::spawn_blocking(move || work(&volumes)).await;
        let done = done.map_err(|error| Fault::internal("an operation ended badly", error))?;
        done.map_err(|fault| {
            if let Fault::Internal(problem) = &fault {
                tracing::error!(problem, "a volume's operation failed");
            }
            fault.into()
        })
    }
}

/// Runs the part until `shutdown`.
///
/// # Errors
/// What kept it from starting or ended it, worded for people.
pub async fn run(
    config: CsiConfig,
    slot: CsiSlot,
    counts: VolumeCounts,
    shutdown: Shutdown,
) -> Result<(), String> {
    let (troubles, told) = mpsc::channel(tell::MOST_WAITING);
    let driver = {
        let (config, counts) = (config.clone(), counts.clone());
        let opened = tokio::task::spawn_blocking(move || open(&config, &counts, troubles)).await;
        opened.map_err(|error| error.to_string())??
    };
    let _running = slot.run(driver.clone());
    let teller = driver.clone();
    let topology = driver.topology();
    let socket = config.socket();
    let fault = |error: &dyn std::fmt::Display| format!("socket {}: {error}", socket.display());
    let listener = listen::bind(&socket).map_err(|error| fault(&error))?;
    let services = Routes::new(Counted::new(
        IdentityServer::new(driver.clone()),
        counts.clone(),
    ))
    .add_service(Counted::new(
        ControllerServer::new(driver.clone()),
        counts.clone(),
    ))
    .add_service(Counted::new(
        GroupControllerServer::new(driver.clone()),
        counts.clone(),
    ))
    .add_service(Counted::new(
        SnapshotMetadataServer::new(driver.clone()),
        counts.clone(),
    ))
    .add_service(Counted::new(NodeServer::new(driver), counts.clone()))
    .into_axum_router()
    .layer(axum::middleware::from_fn(call_log::log));
    let serving = Server::builder()
        .add_routes(services.clone().into())
        .serve_with_incoming_shutdown(listen::connections(listener), requested(shutdown.clone()));
    tracing::info!(driver = config.driver, socket = %socket.display(), "volumes are served");
    // The kubelet asks the driver as soon as it has found it: its socket is there before.
    let beside = anywhere::serve(&config, shutdown.clone());
    let registering = register(&config, &counts, shutdown.clone());
    let answering = answer(&config, topology, services, shutdown.clone());
    let telling = tell::run(teller, config.api.clone(), told, shutdown);
    let (served, beside, registered, (), ()) =
        tokio::join!(serving, beside, registering, answering, telling);
    served.map_err(|error| fault(&error))?;
    beside.and(registered)
}

/// Answers the claims of this node, where that is this agent's.
async fn answer(
    config: &CsiConfig,
    topology: Topology,
    services: axum::Router,
    shutdown: Shutdown,
) {
    let Some(api) = config.api.as_ref().filter(|_| config.claims) else {
        return;
    };
    let options = cluster::Options {
        node: config.node_name.clone(),
        driver: config.driver.clone(),
        topology: topology.segments.into_iter().collect(),
        namespace: config.namespace.clone(),
    };
    cluster::serve(api, services, options, shutdown).await;
}

/// Has the kubelet find the driver, again and again while it refuses it.
async fn register(
    config: &CsiConfig,
    counts: &VolumeCounts,
    shutdown: Shutdown,
) -> Result<(), String> {
    let path = config.registry_socket();
    let fault = |error: &dyn std::fmt::Display| format!("socket {}: {error}", path.display());
    let mut pause = FIRST_PAUSE;
    loop {
        let registrar = Registrar::new(KIND, &config.driver, &config.socket(), &VERSIONS);
        let mut taken = registrar.taken();
        let listener = listen::bind(&path).map_err(|error| fault(&error))?;
        let refused = async {
            while taken.changed().await.is_ok() {
                let is_taken = *taken.borrow_and_update() == Taken::Yes;
                counts.registered(is_taken);
                if !is_taken {
                    return;
                }
            }
        };
        let serving = Server::builder()
            .add_service(RegistrationServer::new(registrar))
            .serve_with_incoming_shutdown(listen::lenient(listener), requested(shutdown.clone()));
        tokio::select! {
            served = serving => return served.map_err(|error| fault(&error)),
            () = refused => {}
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = requested(shutdown.clone()) => return Ok(()),
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn requested(mut shutdown: Shutdown) {
    shutdown.requested().await;
}

/// Opens the pool and puts right what an earlier agent left.
fn open(config: &CsiConfig, counts: &VolumeCounts, troubles: Troubles) -> Result<Driver, String> {
    let pool = Pool::open(&config.pool)?;
    let book = Book::open(&pool.store())?;
    let cgroups = match &config.cgroup {
        CgroupChoice::Auto => unified_cgroup(None),
        CgroupChoice::Folder(folder) => unified_cgroup(Some(folder)),
        CgroupChoice::Off => None,
    };
    let volumes = Volumes::new(pool, book, &config.node_name)
        .counted(counts)
        .bounding_by(cgroups);
    let (recovered, strangers) = volumes.recover();
    tracing::info!(
        undone = recovered.undone,
        finished = recovered.finished,
        swept = recovered.swept,
        thawed = recovered.thawed,
        detached = recovered.detached,
        orphans = recovered.orphans,
        failed = recovered.failed,
        "the pool of volumes is open"
    );
    for (what, count) in [
        ("undone", recovered.undone),
        ("finished", recovered.finished),
        ("swept", recovered.swept),
        ("thawed", recovered.thawed),
        ("detached", recovered.detached),
        ("orphans", recovered.orphans),
        ("failed", recovered.failed),
        ("strangers", strangers.len()),
    ] {
        counts.recovered(what, count);
    }
    if let Some(trouble) = trouble::strangers(&strangers)
        && let Err(error) = troubles.try_send(trouble)
    {
        tracing::warn!(%error, "not told");
    }
    for name in strangers {
        tracing::warn!(
            name,
            "nobody remembers this file of the pool; it stays: look at it, and remove it by hand"
        );
    }
    Ok(Driver {
        name: config.driver.clone(),
        kubelet: config.kubelet_dir.clone(),
        volumes: Arc::new(volumes),
        troubles,
    })
}
