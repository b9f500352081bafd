//! How devices are, as the kubelet is told (DRA resource health v1alpha1): a pod's status says then that a device of it
//! doesn't work. All devices at once, at each change, and again before the kubelet holds what it knows for outdated.

use super::{
    service::Service,
    slices::{self, Looked, Offers, Support},
};
use futures_util::{Stream, stream};
use node_api::dra_health::{
    DeviceHealth, DeviceIdentifier, HealthStatus, NodeWatchResourcesRequest,
    NodeWatchResourcesResponse, dra_resource_health_server::DraResourceHealth,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, time::timeout};
use tonic::{Request, Response, Status};

/// After so long the kubelet knows nothing of a device any more: half a minute is its default, and a busy machine has more.
const TIMEOUT_SECS: i64 = 90;
/// So often it is told at least.
const AGAIN: Duration = Duration::from_secs(20);

/// Answers the kubelet.
#[derive(Clone)]
pub(super) struct Watching(Service);

impl Watching {
    pub(super) fn new(service: &Service) -> Self {
        Self(service.clone())
    }
}

/// What a stream tells of.
struct Told {
    node: String,
    offers: watch::Receiver<Looked>,
    support: watch::Receiver<Support>,
    held: watch::Receiver<Arc<BTreeSet<String>>>,
}

type Lists = Pin<Box<dyn Stream<Item = Result<NodeWatchResourcesResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DraResourceHealth for Watching {
    type NodeWatchResourcesStream = Lists;

    async fn node_watch_resources(
        &self,
        _: Request<NodeWatchResourcesRequest>,
    ) -> Result<Response<Lists>, Status> {
        let mut told = Told {
            node: self.0.node().to_owned(),
            offers: self.0.offers(),
            support: self.0.support(),
            held: self.0.held(),
        };
        told.offers.mark_changed();
        let state = (told, self.0.until());
        let lists = stream::unfold(state, |(mut told, mut until)| async move {
            loop {
                tokio::select! {
                    // What ends the stream comes after the last list.
                    biased;
                    changed = timeout(AGAIN, told.changed()) => changed.unwrap_or(Some(()))?,
                    _ = until.changed() => return None,
                }
                if let Some(list) = told.list() {
                    return Some((Ok(list), (told, until)));
                }
            }
        });
        Ok(Response::new(Box::pin(lists)))
    }
}

impl Told {
    /// None: nobody tells any more.
    async fn changed(&mut self) -> Option<()> {
        let changed = tokio::select! {
            changed = self.offers.changed() => changed,
            changed = self.support.changed() => changed,
            changed = self.held.changed() => changed,
        };
        changed.ok()
    }

    /// None: the node wasn't looked at yet.
    fn list(&mut self) -> Option<NodeWatchResourcesResponse> {
        let offers = self.offers.borrow_and_update().clone();
        let support = *self.support.borrow_and_update();
        let held = self.held.borrow_and_update().clone();
        let offers = offers?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        let devices = states(&offers, support, &held)
            .into_iter()
            .map(|(device_name, problem)| DeviceHealth {
                device: Some(DeviceIdentifier {
                    pool_name: self.node.clone(),
                    device_name,
                }),
                health: match problem {
                    None => HealthStatus::Healthy.into(),
                    Some(_) => HealthStatus::Unhealthy.into(),
                },
                last_updated_time: i64::try_from(now).unwrap_or(i64::MAX),
                health_check_timeout_seconds: TIMEOUT_SECS,
                message: problem.unwrap_or_default(),
            });
        Some(NodeWatchResourcesResponse {
            devices: devices.collect(),
        })
    }
}

/// Of each device why it isn't healthy; none: it is. Those that are told of, and those that a claim has, whatever became of
/// them.
fn states(
    offers: &Offers,
    support: Support,
    held: &BTreeSet<String>,
) -> BTreeMap<String, Option<String>> {
    let mut states: BTreeMap<String, Option<String>> = slices::named(offers, support)
        .map(|(name, _, item)| (name, item.reason().map(str::to_owned)))
        .collect();
    if held.iter().all(|name| states.contains_key(name)) {
        return states;
    }
    let index = slices::index(offers);
    for name in held {
        states.entry(name.clone()).or_insert_with(|| {
            let gone = || Some("it isn't known on this node any more".to_owned());
            let item = index.get(name).map(|(_, item)| item);
            item.map_or_else(gone, |item| item.reason().map(str::to_owned))
        });
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{
        inventory::{Health, Offer},
        tests::{item, rule},
    };

    #[test]
    fn each_device_has_a_state_also_one_that_a_claim_has_and_nobody_knows() {
        let mut rule = rule("a.io/x");
        rule.count = 2;
        let mut sick = item("sick");
        sick.health = Health::Unhealthy {
            reason: "it is stuck".to_owned(),
            since: 1,
        };
        let name = rule.name.clone();
        let offer = Offer::new(Arc::new(rule), vec![item("well"), sick]);
        let offers: Offers = [(name.clone(), Arc::new(offer))].into();
        let well = slices::name(&name, "well", None);
        let share = slices::name(&name, "sick", Some(1));
        let held = [share.clone(), "gone".to_owned()].into();
        let states = states(&offers, Support::ALL, &held);
        assert_eq!(states.len(), 4);
        assert_eq!(states[&well], None);
        assert_eq!(states[&share].as_deref(), Some("it is stuck"));
        assert!(states["gone"].as_ref().unwrap().contains("isn't known"));
    }
}
