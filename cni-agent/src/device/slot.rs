//! Where the agent's socket and its scrapes find what the keeper shows, and why there is nothing.

use super::{
    found::Findings,
    inventory::Offer,
    name::ResourceName,
    pods::{Holders, PodResources},
    registration::Standing,
    rows,
};
use crate::{
    cni::CniError,
    metrics::{DeviceNumbers, DevicesSnapshot},
    query::Query,
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};

/// How long a scrape waits for the kubelet: it has other parts to tell of, and little time.
const PATIENCE: Duration = Duration::from_secs(1);

/// What there is to show.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub(super) resources: BTreeMap<ResourceName, ShownResource>,
    /// Faults in the configuration.
    pub(super) problems: Vec<String>,
    /// What keeps changes from being seen at once.
    pub(super) warnings: Vec<String>,
}

/// One resource.
#[derive(Clone, Debug)]
pub(super) struct ShownResource {
    /// What the kubelet is told.
    pub(super) offers: watch::Receiver<Arc<Offer>>,
    pub(super) findings: Findings,
    pub(super) standing: watch::Receiver<Standing>,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Why.
    Stopped(String),
    Running {
        shown: watch::Receiver<Arc<Shown>>,
        pods: PodResources,
    },
}

/// The part, once it runs.
#[derive(Clone, Debug)]
pub struct DeviceSlot(Arc<watch::Sender<Phase>>);

impl DeviceSlot {
    /// Of a part that will be started.
    pub fn starting() -> Self {
        Self::stopped("the agent is starting; ask again in a moment")
    }

    /// Of an agent that does without the part.
    pub fn absent() -> Self {
        Self::stopped(
            "this agent runs without devices: start it with `--parts network,devices`, or ask another with --socket",
        )
    }

    fn stopped(reason: &str) -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Stopped(reason.into()))))
    }

    /// The part runs until what is returned ends.
    pub(super) fn run(&self, shown: watch::Receiver<Arc<Shown>>, pods: PodResources) -> Running {
        self.0.send_replace(Phase::Running { shown, pods });
        Running(self.clone())
    }

    fn now(&self) -> Result<(Arc<Shown>, PodResources), String> {
        match &*self.0.borrow() {
            Phase::Running { shown, pods } => Ok((shown.borrow().clone(), pods.clone())),
            Phase::Stopped(reason) => Err(reason.clone()),
        }
    }
}

/// Says at its end that the part does not run, also when it panicked.
#[derive(Debug)]
pub(super) struct Running(DeviceSlot);

impl Drop for Running {
    fn drop(&mut self) {
        let reason = "the devices' part has ended and is started again; `fairlead status` says why";
        self.0.0.send_replace(Phase::Stopped(reason.into()));
    }
}

/// Answers a question of the command line.
///
/// # Errors
/// While the part is not running.
pub async fn query(slot: &DeviceSlot, query: Query) -> Result<Value, CniError> {
    let (shown, pods) = slot.now().map_err(|reason| CniError::try_again(&reason))?;
    let value = match query {
        Query::Devices => serde_json::to_value(rows::answer(&shown, &pods.holders().await)),
        _ => return Err(CniError::internal("this is another part's to answer")),
    };
    value.map_err(|e| CniError::internal(&e.to_string()))
}

/// What a scrape finds; nothing while the part is not running.
pub async fn snapshot(slot: &DeviceSlot) -> Option<DevicesSnapshot> {
    let (shown, pods) = slot.now().ok()?;
    let holders = timeout(PATIENCE, pods.holders()).await.ok();
    let holders = holders.and_then(Result::ok);
    Some(DevicesSnapshot {
        resources: shown
            .resources
            .iter()
            .map(|(name, of)| (name.to_string(), numbers(name, of, holders.as_ref())))
            .collect(),
        problems: shown.problems.len(),
    })
}

fn numbers(name: &ResourceName, of: &ShownResource, holders: Option<&Holders>) -> DeviceNumbers {
    let offer = of.offers.borrow().clone();
    let is_healthy = |item: usize| {
        let item = offer.items.get(item);
        item.is_some_and(|item| item.is_healthy())
    };
    let healthy = offer
        .devices
        .values()
        .filter(|place| is_healthy(place.item))
        .count();
    DeviceNumbers {
        healthy,
        unhealthy: offer.devices.len() - healthy,
        allocated: holders.map(|holders| holders.get(name).map_or(0, BTreeMap::len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_without_devices_says_how_to_have_them() {
        let slot = DeviceSlot::absent();
        let error = query(&slot, Query::Devices).await.unwrap_err().to_string();
        assert!(error.contains("--parts network,devices"), "{error}");
        assert_eq!(snapshot(&slot).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_that_does_not_answer_keeps_no_scrape_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("pod-resources");
        std::fs::create_dir(&place).unwrap();
        let _silent = tokio::net::UnixListener::bind(place.join("kubelet.sock")).unwrap();
        let slot = DeviceSlot::starting();
        let (_shown, showing) = watch::channel(Arc::new(Shown {
            problems: vec!["one".to_owned()],
            ..Shown::default()
        }));
        let _running = slot.run(showing, PodResources::new(folder.path()));
        let begin = tokio::time::Instant::now();
        let found = snapshot(&slot).await.unwrap();
        assert_eq!(found.problems, 1);
        let taken = begin.elapsed();
        assert!(taken < Duration::from_secs(2), "{taken:?}");
    }
}
