//! The life of this node's Node object: what others read of it, and when it is ready for pods.
//!
//! [`plan`] says what is to be written (PURE), `write` writes it. All of this is beside the dataplane: a
//! write that fails is tried again with a growing pause, and nothing else waits for it.

mod plan;
mod write;

pub use plan::{Facts, TAINT, Write, plan};

use crate::source::kubernetes::own::OwnNode;
use kube::{Client, runtime::utils::Backoff, runtime::watcher::DefaultBackoff};
use plan::{Trouble, troubles};
use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use write::Writer;
pub(crate) use write::fitting;

/// How often is looked whether the node serves, until it does.
const SOON: Duration = Duration::from_millis(250);
/// The same afterwards: only what is published can change then.
const LATER: Duration = Duration::from_secs(10);
/// Shortest time between two Events of one reason.
const BETWEEN_EVENTS: Duration = Duration::from_secs(600);
/// A write that takes longer has failed: the connection may have died in silence.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gives up after [`PATIENCE`].
pub(crate) async fn within<T>(
    write: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let late = |error| Err(kube::Error::Service(Box::new(error)));
    tokio::time::timeout(PATIENCE, write)
        .await
        .unwrap_or_else(late)
}

type Conflicts = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// What keeps the Node object.
pub struct Life {
    writer: Writer,
    own: watch::Receiver<Option<Arc<OwnNode>>>,
    conflicts: Conflicts,
    told: BTreeMap<&'static str, Instant>,
}

impl Life {
    /// `own` is the Node as the API server has it, `conflicts` why it goes without something it names.
    pub fn new(
        client: Client,
        own: watch::Receiver<Option<Arc<OwnNode>>>,
        conflicts: impl Fn() -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            writer: Writer::new(client),
            own,
            conflicts: Box::new(conflicts),
            told: BTreeMap::new(),
        }
    }

    /// Writes what is to be written by the `facts`, until nobody tells of the Node any more.
    pub async fn keep<F: Future<Output = Facts> + Send>(
        &mut self,
        facts: impl Fn() -> F + Send + Sync,
    ) {
        let mut pause = DefaultBackoff::default();
        loop {
            let facts = facts().await;
            let own = self.own.borrow_and_update().clone();
            let outcome = match &own {
                Some(own) => self.once(own, &facts).await,
                None => Ok(()),
            };
            let mut wait = if facts.serving { LATER } else { SOON };
            match outcome {
                Ok(()) => pause.reset(),
                // The content that this write was based on is on its way here.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => {
                    wait = pause.next().unwrap_or(LATER);
                    tracing::warn!(%error, again_in = ?wait, "the Node object is not as it should be");
                    sleep(wait).await;
                    continue;
                }
            }
            tokio::select! {
                changed = self.own.changed() => if changed.is_err() { return },
                () = sleep(wait) => {}
            }
        }
    }

    async fn once(&mut self, own: &OwnNode, facts: &Facts) -> Result<(), kube::Error> {
        // One at a time: the next is based on what this one makes of the Node.
        if let Some(write) = plan(own, facts).first() {
            tracing::info!(node = own.name, ?write, "writing to the Node object");
            within(self.writer.write(own, write)).await?;
        }
        for Trouble { reason, note } in troubles(own, &(self.conflicts)()) {
            let told = self.told.get(reason);
            if told.is_some_and(|at| at.elapsed() < BETWEEN_EVENTS) {
                continue;
            }
            // Before it is sent: a server that refuses it is not asked again at once.
            self.told.insert(reason, Instant::now());
            if let Err(error) = within(self.writer.event(own, reason, note)).await {
                tracing::warn!(%error, reason, "the Event could not be written");
            }
        }
        Ok(())
    }
}
