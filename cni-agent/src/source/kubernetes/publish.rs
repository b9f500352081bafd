//! Publishes what was collected, several changes at once.

use super::{Shared, own::OwnNode, saved::Saved};
use crate::state::Cluster;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// The least time from one snapshot to the next: changes that come meanwhile make one, and a change after
/// a quiet time waits for none.
const TOGETHER: Duration = Duration::from_millis(20);
pub(super) struct Publisher {
    pub(super) shared: Arc<Shared>,
    pub(super) cluster: watch::Sender<Arc<Cluster>>,
    pub(super) own: watch::Sender<Option<Arc<OwnNode>>>,
}

impl Publisher {
    pub(super) async fn run(self) {
        let mut quiet_from = Instant::now();
        loop {
            self.shared.changed.notified().await;
            sleep_until(quiet_from).await;
            self.publish();
            quiet_from = Instant::now() + TOGETHER;
        }
    }

    fn publish(&self) {
        let mut collected = self.shared.collected();
        self.own.send_if_modified(|own| {
            let new = *own != collected.own;
            own.clone_from(&collected.own);
            new
        });
        if !collected.is_whole() {
            self.shared.arrivals.dropped();
            return;
        }
        // Before it is published: what is kept on disk is kept of the live state.
        self.shared.health().serve_live();
        self.cluster.send_if_modified(|current| {
            let mut cluster = collected.cluster(current);
            if current.revision > 0 && current.same_objects(&cluster) {
                self.shared.arrivals.dropped();
                return false;
            }
            cluster.revision = current.revision + 1;
            tracing::debug!(
                revision = cluster.revision,
                nodes = cluster.nodes.len(),
                pods = cluster.pods.len(),
                services = cluster.services.len(),
                slices = cluster.slices.len(),
                "read the cluster"
            );
            // Before a reader may have it: who writes it asks for them.
            self.shared.arrivals.published(cluster.revision);
            *current = Arc::new(cluster);
            true
        });
    }
}

/// Puts the state from the disk in force, unless the API server was faster.
pub(super) async fn serve_saved(
    shared: &Shared,
    cluster: &watch::Sender<Arc<Cluster>>,
    saved: &Saved,
) {
    let read = saved.read().await;
    match read {
        Ok(Some((saved, since))) => {
            cluster.send_if_modified(|current| {
                let first = current.revision == 0;
                if first {
                    tracing::warn!(since, nodes = saved.nodes.len(), "the API server does not answer: what was in force before is in force again, from disk");
                    shared.health().serve_saved(since);
                    *current = Arc::new(saved);
                }
                first
            });
        }
        Ok(None) => {
            tracing::warn!("the API server does not answer, and no earlier state is on disk")
        }
        Err(fault) => {
            tracing::warn!(
                fault,
                "the API server does not answer, and the state on disk can't be used"
            );
            shared.health().disk(Some(fault));
        }
    }
}
