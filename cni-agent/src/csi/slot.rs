//! Where the agent's socket and its scrapes find the running driver, and why there is none.

use super::Driver;
use crate::{
    cni::CniError,
    metrics::VolumesSnapshot,
    query::{PoolUsage, Query},
};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::watch;

#[derive(Debug)]
enum Phase {
    /// Why.
    Stopped(String),
    Running(Driver),
}

/// The driver, once it runs.
#[derive(Clone, Debug)]
pub struct CsiSlot(Arc<watch::Sender<Phase>>);

impl CsiSlot {
    /// Of a part that will be started.
    pub fn starting() -> Self {
        Self::stopped("the agent is starting; ask again in a moment")
    }

    /// Of an agent that does without the part.
    pub fn absent() -> Self {
        Self::stopped(
            "this agent runs without volumes: start it with `--parts network,csi`, or ask another with --socket",
        )
    }

    fn stopped(reason: &str) -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Stopped(reason.into()))))
    }

    /// The driver runs until what is returned ends.
    pub(super) fn run(&self, driver: Driver) -> Running {
        self.0.send_replace(Phase::Running(driver));
        Running(self.clone())
    }

    fn now(&self) -> Result<Driver, String> {
        match &*self.0.borrow() {
            Phase::Running(driver) => Ok(driver.clone()),
            Phase::Stopped(reason) => Err(reason.clone()),
        }
    }
}

/// Says at its end that the driver does not run, also when it panicked.
#[derive(Debug)]
pub(super) struct Running(CsiSlot);

impl Drop for Running {
    fn drop(&mut self) {
        let reason = "the volumes' part has ended and is started again; `fairlead status` says why";
        self.0.0.send_replace(Phase::Stopped(reason.into()));
    }
}

/// Answers a question of the command line.
///
/// # Errors
/// While the part is not running, and when the disk fails.
pub async fn query(slot: &CsiSlot, query: Query) -> Result<Value, CniError> {
    let driver = slot.now().map_err(|reason| CniError::try_again(&reason))?;
    let fault = |status: tonic::Status| CniError::internal(status.message());
    let value = match query {
        Query::Volumes => {
            let rows = driver.blocking(|volumes| volumes.rows()).await;
            serde_json::to_value(rows.map_err(fault)?)
        }
        Query::Snapshots => {
            let rows = driver.blocking(|volumes| volumes.snapshot_rows()).await;
            serde_json::to_value(rows.map_err(fault)?)
        }
        Query::VolumeUsage => {
            let usage: PoolUsage = driver
                .blocking(|volumes| volumes.usage())
                .await
                .map_err(fault)?;
            serde_json::to_value(usage)
        }
        Query::VolumeCheck => {
            let (name, kubelet) = (driver.name.clone(), driver.kubelet.clone());
            let answer = driver.blocking(move |volumes| volumes.check(&name, &kubelet));
            serde_json::to_value(answer.await.map_err(fault)?)
        }
        _ => return Err(CniError::internal("this is another part's to answer")),
    };
    value.map_err(|e| CniError::internal(&e.to_string()))
}

/// What a scrape finds; nothing while the part is not running, or its disk can't be read.
pub async fn snapshot(slot: &CsiSlot, by_volume: bool) -> Option<VolumesSnapshot> {
    let driver = slot.now().ok()?;
    let found = driver.blocking(move |volumes| volumes.scraped(by_volume));
    found.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_without_volumes_says_how_to_have_them() {
        let slot = CsiSlot::absent();
        let error = query(&slot, Query::Volumes).await.unwrap_err().to_string();
        assert!(error.contains("--parts network,csi"), "{error}");
        assert_eq!(snapshot(&slot, true).await, None);
        let starting = query(&CsiSlot::starting(), Query::VolumeCheck).await;
        let error = starting.unwrap_err().to_string();
        assert!(error.contains("ask again"), "{error}");
    }
}
