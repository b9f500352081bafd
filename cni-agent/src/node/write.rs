//! Writes to the API server: patches of the Node, and Events about it.

use super::plan::Write;
use crate::source::kubernetes::own::OwnNode;
use k8s_openapi::{
    api::core::v1::{Node, ObjectReference},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Error,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::{Value, json};

/// Longest note of an Event that Kubernetes takes, in bytes.
const LONGEST_NOTE: usize = 1024;

pub(super) struct Writer {
    nodes: Api<Node>,
    events: Recorder,
}

impl Writer {
    pub(super) fn new(client: Client) -> Self {
        Self {
            nodes: Api::all(client.clone()),
            events: Recorder::new(client, Reporter::from("fairlead-agent".to_owned())),
        }
    }

    /// # Errors
    /// Those of the API server; 409 where the Node has changed since it was read.
    pub(super) async fn write(&self, own: &OwnNode, write: &Write) -> Result<(), Error> {
        let name = &own.name;
        match write {
            Write::Annotations(annotations) => {
                let patch = json!({"metadata": {"annotations": annotations}});
                self.patch(name, patch).await
            }
            Write::Taints(stay) => {
                // A list of taints is replaced as a whole: only if nobody else has changed it.
                let taints: Vec<&Value> = stay.iter().map(|taint| &taint.0).collect();
                let patch = json!({
                    "metadata": {"resourceVersion": own.resource_version},
                    "spec": {"taints": taints}
                });
                self.patch(name, patch).await
            }
            Write::NetworkAvailable => {
                let now = Timestamp::now();
                let now = Timestamp::from_second(now.as_second())
                    .unwrap_or(now)
                    .to_string();
                let condition = json!({
                    "type": "NetworkUnavailable", "status": "False", "reason": "FairleadReady",
                    "message": "Fairlead serves pods on this node",
                    "lastHeartbeatTime": now, "lastTransitionTime": now
                });
                // Strategic: conditions are merged by their type.
                let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
                let params = PatchParams::default();
                self.nodes.patch_status(name, &params, &patch).await?;
                Ok(())
            }
        }
    }

    async fn patch(&self, name: &str, patch: Value) -> Result<(), Error> {
        let params = PatchParams::default();
        self.nodes
            .patch_metadata(name, &params, &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// # Errors
    /// Those of the API server.
    pub(super) async fn event(
        &self,
        own: &OwnNode,
        reason: &str,
        note: String,
    ) -> Result<(), Error> {
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(fitting(note)),
            action: "Serve".to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(own.name.clone()),
            uid: Some(own.uid.clone()),
            ..ObjectReference::default()
        };
        self.events.publish(&event, &about).await
    }
}

/// As much of an Event's note as Kubernetes takes.
pub(crate) fn fitting(mut note: String) -> String {
    if note.len() > LONGEST_NOTE {
        note.truncate(note.floor_char_boundary(LONGEST_NOTE - '…'.len_utf8()));
        note.push('…');
    }
    note
}
