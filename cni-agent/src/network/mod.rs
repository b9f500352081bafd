//! The network part: endpoints, addresses, routes and programs of this node.
//!
//! [`Network`] holds what the operations share; each operation has a file: [`add`], [`del`],
//! [`check`], [`gc`], [`start`] (read back and adopt), `upkeep` (what no event tells) and
//! [`reconcile`] (desired state → kernel).
//! The kernel, the disk, the clock and the source of desired state are reached only through narrow
//! rims, so that a simulation can stand in for each.

pub mod add;
pub mod check;
mod coexistence;
pub mod del;
pub mod desired;
pub mod gc;
pub mod kernel;
pub mod linux;
mod locks;
pub mod part;
mod policies;
mod policy_ends;
pub mod queries;
pub mod reconcile;
pub mod services;
#[cfg(test)]
mod simulated;
pub mod spool;
pub mod start;
#[cfg(test)]
mod tests;
mod upkeep;

use crate::{
    clock::Clock,
    config::NetworkConfig,
    health_check::Checks,
    metrics::Passes,
    model::AttachmentId,
    query::Adoption,
    service::{Compiled, Compiler},
    source::Arrivals,
    state::Cluster,
    store::Book,
};
use desired::Desired;
use kernel::Kernel;
use locks::AttachmentLocks;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// What the network part's operations share.
pub struct Network<K> {
    pub config: NetworkConfig,
    pub kernel: K,
    pub book: Book,
    pub clock: Arc<dyn Clock>,
    /// The cluster as it should be.
    pub cluster: watch::Receiver<Arc<Cluster>>,
    view: Mutex<View>,
    services: Mutex<Compiler>,
    policies: policies::Policies,
    /// The cluster tells of every pod before it runs.
    pub pods_are_told: bool,
    locks: AttachmentLocks,
    /// What load balancers are told, once the kernel serves by it.
    pub health_checks: watch::Sender<Checks>,
    /// When the news came that the cluster's revisions hold.
    pub arrivals: Arrivals,
    /// Counts the reconciler's passes.
    pub passes: Passes,
}

/// What the reconciler last found and did.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// What the kernel holds beside the endpoints; none before the first success.
    pub desired: Option<Arc<Desired>>,
    /// Why the node can't serve, or what is not as it should be, each with its remedy.
    pub problems: Vec<String>,
    /// What the kernel doesn't hold of what pods of this node need, after the last pass.
    pub unserved: Vec<String>,
    /// What the start found.
    pub adoption: Option<Adoption>,
    /// Endpoints that are not as they should be, as of the last look at them.
    pub troubled: BTreeMap<AttachmentId, Trouble>,
    /// Links of pods that no endpoint is known for, and that go on as they are.
    pub strangers: BTreeMap<String, String>,
    /// That kube-proxy acts on the same packets.
    pub coexistence: Option<String>,
    /// Spooled deletions that could not be done yet.
    pub kept_deletions: Vec<String>,
}

/// What is wrong with an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What, with the remedy.
    pub text: String,
    /// It was not given its programs anew.
    pub unenforced: bool,
}

impl<K: Kernel> Network<K> {
    /// Puts the rims together; nothing is touched before [`Network::start`].
    pub fn new(
        config: NetworkConfig,
        kernel: K,
        book: Book,
        clock: Arc<dyn Clock>,
        cluster: watch::Receiver<Arc<Cluster>>,
    ) -> Self {
        let (view, locks) = (Mutex::default(), AttachmentLocks::default());
        Self {
            config,
            kernel,
            book,
            clock,
            cluster,
            view,
            services: Mutex::default(),
            policies: policies::Policies::default(),
            pods_are_told: false,
            locks,
            health_checks: watch::Sender::default(),
            arrivals: Arrivals::default(),
            passes: Passes::default(),
        }
    }

    /// What the reconciler last found and did.
    pub fn view(&self) -> View {
        self.view
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn compile_services(&self, cluster: &Cluster, node: &str) -> Compiled {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.compile(cluster, node)
    }

    fn change_view(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
