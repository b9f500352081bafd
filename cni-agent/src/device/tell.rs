//! Tells what an operator must know of devices, as Events of the node: one that isn't healthy, and who has it.

use super::{name::DeviceId, name::ResourceName, pods::PodResources};
use crate::{
    config::ApiOptions,
    events::{self, Events},
};
use tokio::sync::mpsc;

/// News that wait to be told; more are in the log alone.
const MOST_WAITING: usize = 64;
/// Holders that are named.
const MOST_NAMED: usize = 3;

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A device can't be had any more, why, and the ids that it has.
    Unhealthy {
        resource: ResourceName,
        ids: Vec<DeviceId>,
        reason: String,
    },
    /// The configuration has faults.
    Faulty(Vec<String>),
}

/// Where news come in.
#[derive(Clone, Debug)]
pub(super) struct Teller(mpsc::Sender<News>);

impl Teller {
    pub(super) fn new() -> (Self, mpsc::Receiver<News>) {
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        (Self(sender), receiver)
    }

    /// Nobody waits for it.
    pub(super) fn tell(&self, news: News) {
        if self.0.try_send(news).is_err() {
            tracing::debug!("an Event of devices is left out: too many at once");
        }
    }
}

/// Tells until nobody has news any more.
pub(super) async fn run(
    node: &str,
    api: Option<&ApiOptions>,
    pods: PodResources,
    mut news: mpsc::Receiver<News>,
) {
    let events = Events::connect(api, "devices").await;
    let about = events::node(node);
    while let Some(news) = news.recv().await {
        let (reason, note) = match news {
            News::Unhealthy {
                resource,
                ids,
                reason,
            } => {
                let holders = match pods.holders().await {
                    Ok(holders) => holders.get(&resource).map_or_else(Vec::new, |held| {
                        let held = ids.iter().filter_map(|id| held.get(id)).flatten();
                        held.map(|holder| format!("{}/{}", holder.namespace, holder.pod))
                            .collect()
                    }),
                    Err(_) => Vec::new(),
                };
                (
                    "DeviceUnhealthy",
                    unhealthy(&resource, &ids, &reason, holders),
                )
            }
            News::Faulty(problems) => ("DeviceConfigurationFaulty", problems.join("\n")),
        };
        events.warn(&about, reason, &note).await;
    }
}

/// The note of an Event.
fn unhealthy(
    resource: &ResourceName,
    ids: &[DeviceId],
    reason: &str,
    mut holders: Vec<String>,
) -> String {
    let device = ids.first().map(ToString::to_string).unwrap_or_default();
    holders.sort();
    holders.dedup();
    let whose = match holders.as_slice() {
        [] => String::new(),
        some if some.len() <= MOST_NAMED => format!(" ({} has it)", some.join(", ")),
        some => format!(
            " ({} and {} more have it)",
            some[..MOST_NAMED].join(", "),
            some.len() - MOST_NAMED
        ),
    };
    format!("{resource} {device}{whose}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_the_device_the_reason_and_who_has_it() {
        let resource = ResourceName::try_from("a.io/serial".to_owned()).unwrap();
        let ids = [DeviceId::from("A1-0"), DeviceId::from("A1-1")];
        let pods = |count: usize| (0..count).map(|n| format!("shop/p{n}")).collect();
        let note = |count| unhealthy(&resource, &ids, "it is stuck", pods(count));
        assert_eq!(note(0), "a.io/serial A1-0: it is stuck");
        assert_eq!(note(1), "a.io/serial A1-0 (shop/p0 has it): it is stuck");
        assert_eq!(
            note(5),
            "a.io/serial A1-0 (shop/p0, shop/p1, shop/p2 and 2 more have it): it is stuck"
        );
    }
}
