//! What policies ask of this node's pods, kept in the maps: at each change of the cluster, and for a new pod
//! before it can send its first packet.

use super::{
    Network,
    kernel::{Kernel, KernelError},
};
use crate::{
    model::{Endpoint, PodRef},
    policy::{Compiler, LocalPod, Tables, plan},
    state::Cluster,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::timeout};

/// How long an ADD waits for the API server to tell of its pod. The runtime was told before, so that it
/// mostly waits for nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// What was compiled, and what of it the maps hold.
#[derive(Debug, Default)]
pub(super) struct Policies(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// None before the first pass, and after one that failed: then what the maps hold is not known.
    compiler: Option<Compiler>,
    written: Arc<Tables>,
    /// Endpoints that are being wired and not in the book yet.
    wiring: BTreeMap<u32, LocalPod>,
}

impl<K: Kernel> Network<K> {
    /// Makes the maps hold what the policies of a cluster ask of this node's pods.
    ///
    /// # Errors
    /// The kernel refused; what was in force is, and the next try writes everything anew.
    pub(super) async fn sync_policies(&self, cluster: &Cluster) -> Result<(), KernelError> {
        if !self.config.network_policy {
            return self.kernel.ignore_policies().await;
        }
        let mut state = self.policies.0.lock().await;
        let outcome = self.write_policies(&mut state, cluster).await;
        if outcome.is_err() {
            state.compiler = None;
        }
        outcome
    }

    async fn write_policies(
        &self,
        state: &mut State,
        cluster: &Cluster,
    ) -> Result<(), KernelError> {
        let endpoints = self.book.list();
        let mut pods = state.wiring.clone();
        pods.extend(
            endpoints
                .iter()
                .map(|endpoint| (endpoint.id, local(endpoint))),
        );
        let pods: Vec<LocalPod> = pods.into_values().collect();
        let first = state.compiler.is_none();
        let mut compiler = match state.compiler.take() {
            Some(compiler) => compiler,
            None => {
                state.written = Arc::default();
                Compiler::new(&self.config.node_name, self.kernel.policy_start().await?)
            }
        };
        let tables = compiler.update(cluster, &pods);
        let change = plan(&state.written, &tables);
        if first || change.rows() > 0 {
            self.kernel
                .write_policies(change, tables.clone(), first)
                .await?;
        }
        let settled = compiler.settle();
        let rest = plan(&tables, &settled);
        if rest.rows() > 0 {
            self.kernel.clear_policies(rest).await?;
        }
        state.written = settled;
        state.compiler = Some(compiler);
        Ok(())
    }

    /// Has the policies of a new endpoint in force before its first packet.
    ///
    /// # Errors
    /// As `sync_policies`: then the pod must not be wired.
    pub(super) async fn admit(&self, endpoint: &Endpoint) -> Result<(), KernelError> {
        if !self.config.network_policy {
            return Ok(());
        }
        if let Some(pod) = endpoint.pod.as_ref().filter(|_| self.pods_are_told) {
            self.wait_for(pod).await;
        }
        let mut state = self.policies.0.lock().await;
        state.wiring.insert(endpoint.id, local(endpoint));
        drop(state);
        let cluster = self.cluster.borrow().clone();
        let outcome = self.sync_policies(&cluster).await;
        if outcome.is_err() {
            self.admitted(endpoint.id).await;
        }
        outcome
    }

    /// The endpoint is in the book, or is no more.
    pub(super) async fn admitted(&self, endpoint: u32) {
        self.policies.0.lock().await.wiring.remove(&endpoint);
    }

    /// Until the cluster tells of a pod. One that it doesn't tell of in time is closed where policies are,
    /// until it does.
    async fn wait_for(&self, pod: &PodRef) {
        let key = (pod.namespace.clone(), pod.name.clone());
        let is_told = |cluster: &Arc<Cluster>| {
            let told = cluster.pods.get(&key);
            told.is_some_and(|told| pod.uid.is_none() || told.uid.is_none() || told.uid == pod.uid)
        };
        let mut cluster = self.cluster.clone();
        let waited = timeout(PATIENCE, cluster.wait_for(is_told)).await;
        if waited.is_err() {
            tracing::warn!(%pod, "the API server doesn't tell of this pod yet: where its namespace has policies, nothing passes until it does");
        }
    }
}

pub(super) fn local(endpoint: &Endpoint) -> LocalPod {
    let pod = endpoint.pod.as_ref();
    let text = |part: fn(&PodRef) -> &String| pod.map(part).cloned().unwrap_or_default();
    LocalPod {
        endpoint: endpoint.id,
        namespace: text(|pod| &pod.namespace),
        name: text(|pod| &pod.name),
        addresses: endpoint.addresses.iter().collect(),
    }
}
