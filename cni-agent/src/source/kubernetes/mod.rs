//! The source in a cluster: watches Nodes, Pods, Services, EndpointSlices, Namespaces, NetworkPolicies and, where
//! they are installed, the cluster-wide policies.
//!
//! A task for each kind converts every object as it arrives into one [`collected`] state, which keeps the
//! model alone; one task publishes it, several changes at once. Nothing is published before each kind
//! was listed whole, so that a list that is late removes nothing. While the API server does not answer,
//! the last state is in force, from the disk after a restart. PURE: `collected`, `read`.

pub mod client;
mod collected;
mod health;
pub mod own;
mod publish;
mod read;
mod saved;
mod watch_kind;

pub(crate) use watch_kind::with_sources;

use super::{Arrivals, Source, SourceProblem, policy_api};
use crate::state::Cluster;
use collected::Collected;
use health::Health;
use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use kube::{Client, runtime::watcher::Config};
use own::OwnNode;
use std::{
    future::Future,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};

/// How long the start waits for the API server before it takes the last state from the disk.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// The watched cluster. Ends watching when dropped.
#[derive(Debug)]
pub struct Kubernetes {
    cluster: watch::Sender<Arc<Cluster>>,
    own: watch::Sender<Option<Arc<OwnNode>>>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
    /// One of them has ended, which none does by itself.
    ended: Arc<Notify>,
}

/// What the tasks work on together.
#[derive(Debug)]
struct Shared {
    collected: Mutex<Collected>,
    health: Mutex<Health>,
    arrivals: Arrivals,
    /// Something in `collected` has changed.
    changed: Notify,
}

impl Shared {
    fn collected(&self) -> MutexGuard<'_, Collected> {
        self.collected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a task, and tells when it ends, also by a panic.
async fn told(ended: Arc<Notify>, task: impl Future<Output = ()>) {
    struct Ended(Arc<Notify>);
    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let _ended = Ended(ended);
    task.await;
}

impl Kubernetes {
    /// Begins to watch for the node of that name, and returns when there is a state: that of the API
    /// server, or after `patience` the last one from `state_dir`, or none if there is none either. Must be
    /// called in a tokio runtime.
    pub async fn watch(
        client: Client,
        node_name: &str,
        state_dir: &Path,
        patience: Duration,
    ) -> Self {
        let shared = Arc::new(Shared {
            collected: Mutex::new(Collected::new(node_name)),
            health: Mutex::default(),
            arrivals: Arrivals::default(),
            changed: Notify::new(),
        });
        let cluster = watch::Sender::new(Arc::new(Cluster::default()));
        let own = watch::Sender::new(None);
        let mut tasks = JoinSet::new();
        let ended = Arc::new(Notify::new());
        let everything = Config::default();
        macro_rules! watch {
            ($kind:ty, $config:expr) => {
                let watching = watch_kind::run::<$kind>(client.clone(), $config, shared.clone());
                tasks.spawn(told(ended.clone(), watching));
            };
        }
        watch!(core::Node, everything.clone());
        watch!(core::Pod, everything.clone());
        watch!(core::Service, everything.clone());
        watch!(discovery::EndpointSlice, everything.clone());
        watch!(core::Namespace, everything.clone());
        watch!(networking::NetworkPolicy, everything.clone());
        watch!(policy_api::ClusterNetworkPolicy, everything.clone());
        watch!(policy_api::AdminNetworkPolicy, everything.clone());
        watch!(policy_api::BaselineAdminNetworkPolicy, everything);
        let saved = saved::Saved::new(state_dir, node_name);
        let publisher = publish::Publisher {
            shared: shared.clone(),
            cluster: cluster.clone(),
            own: own.clone(),
        };
        tasks.spawn(told(ended.clone(), publisher.run()));
        let keeping = saved.clone().keep(cluster.subscribe(), shared.clone());
        tasks.spawn(told(ended.clone(), keeping));
        let mut first = cluster.subscribe();
        let answered = timeout(patience, first.wait_for(|cluster| cluster.revision > 0))
            .await
            .is_ok();
        if !answered {
            publish::serve_saved(&shared, &cluster, &saved).await;
        }
        Self {
            cluster,
            own,
            shared,
            _tasks: tasks,
            ended,
        }
    }

    /// This node's Node object as the API server has it; none before it was seen.
    pub fn own_node(&self) -> watch::Receiver<Option<Arc<OwnNode>>> {
        self.own.subscribe()
    }
}

impl Kubernetes {
    /// Why this node goes without a podCIDR or an address that its Node names, at each call as it is then.
    pub fn conflicts(&self) -> impl Fn() -> Vec<String> + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || shared.collected().own_contradictions()
    }
}

impl Source for Kubernetes {
    fn subscribe(&self) -> watch::Receiver<Arc<Cluster>> {
        self.cluster.subscribe()
    }

    fn arrivals(&self) -> Arrivals {
        self.shared.arrivals.clone()
    }

    fn ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.ended.notified())
    }

    fn problems(&self) -> Vec<SourceProblem> {
        let mut problems = self.shared.health().problems();
        problems.extend(self.shared.collected().problems());
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_told() {
        let ended = Arc::new(Notify::new());
        let broken = tokio::spawn(told(ended.clone(), async { panic!("broken") }));
        ended.notified().await;
        assert!(broken.await.is_err());
    }
}
