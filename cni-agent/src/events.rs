//! Events of the cluster, for what an operator must know: where there is a cluster.

use crate::{
    config::ApiOptions,
    node::{fitting, within},
    source::kubernetes::client,
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// Writes Events.
pub(crate) struct Events(Option<Recorder>);

impl Events {
    /// Connects, where there is a cluster; `of` says of what they are, for the log.
    pub(crate) async fn connect(api: Option<&ApiOptions>, of: &str) -> Self {
        let connected = match api {
            None => None,
            Some(api) => Some(client::connect(api).await),
        };
        let client = connected.and_then(|connected| {
            let refused = |error: &_| tracing::warn!(%error, "no Events of {of} are written");
            connected.inspect_err(refused).ok()
        });
        let reporter = Reporter::from("fairlead-agent".to_owned());
        Self(client.map(|client| Recorder::new(client, reporter)))
    }

    /// That it can't be told to the cluster keeps nobody from anything.
    pub(crate) async fn warn(&self, about: &ObjectReference, reason: &str, note: &str) {
        let Some(events) = &self.0 else {
            return;
        };
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(fitting(note.to_owned())),
            action: "Serve".to_owned(),
            secondary: None,
        };
        if let Err(error) = within(events.publish(&event, about)).await {
            tracing::warn!(%error, reason, "the Event could not be written");
        }
    }
}

/// A Node as Events are about it. People who describe something are shown the Events of its UID; for a Node its name
/// stands for that, as the kubelet has it.
pub(crate) fn node(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}
