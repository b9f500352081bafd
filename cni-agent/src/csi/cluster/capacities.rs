//! Keeps the CSIStorageCapacity objects of this node true.

use super::{
    Site,
    capacity::{self, Change, Room, changes},
    claim::parameters,
    watch::Kept,
    words::text,
};
use crate::node::within;
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::{
    Api, Error,
    api::{DeleteParams, ListParams, PostParams},
};
use node_api::csi::{GetCapacityRequest, Topology};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};
use tonic::Request;

/// How often is looked how much room there is.
const LOOK: Duration = Duration::from_secs(60);
/// How often is looked what the cluster was told: somebody may have changed it.
const RELIST: Duration = Duration::from_secs(1800);
/// What several operations have changed is told once.
const GATHER: Duration = Duration::from_secs(1);

/// Tells the scheduler of this node's room, for ever.
pub(super) async fn keep(site: Arc<Site>, classes: Arc<Kept<StorageClass>>) {
    classes.listed().await;
    let namespace = site.namespace.as_str();
    let api: Api<CSIStorageCapacity> = Api::namespaced(site.client.clone(), namespace);
    let mut known: Option<(Vec<CSIStorageCapacity>, Instant)> = None;
    let mut exact = true;
    let mut node = site.own().node_uid.clone();
    let mut trouble = None;
    loop {
        // What was told goes with the node that it was told of.
        let before = std::mem::replace(&mut node, site.own().node_uid.clone());
        let is_recent = |since: &Instant| since.elapsed() < RELIST && node == before;
        let there = known.take().filter(|(_, since)| is_recent(since));
        match tell(&site, &api, &classes, there, exact).await {
            Ok(told) => (known, trouble) = (Some(told), None),
            Err(error) => {
                let now = why(&error, namespace);
                if trouble.as_ref() != Some(&now) {
                    tracing::warn!(
                        reason = now,
                        "the scheduler may not know how much room this node has"
                    );
                }
                trouble = Some(now);
            }
        }
        exact = timeout(LOOK, site.room.notified()).await.is_ok();
        if exact {
            sleep(GATHER).await;
        }
    }
}

/// What went wrong, and what to do where only people can.
fn why(error: &Error, namespace: &str) -> String {
    let remedy = match error {
        Error::Api(status) if status.code == 404 && status.message.starts_with("namespace") => {
            "make it, or name another by --csi-namespace"
        }
        Error::Api(status) if status.code == 403 => {
            "grant list, create, update and delete of csistoragecapacities in it, or name another by --csi-namespace"
        }
        _ => return error.to_string(),
    };
    format!("namespace {namespace}: {error}; {remedy}")
}

/// Tells once; what the cluster has then, and since when that is known.
async fn tell(
    site: &Site,
    api: &Api<CSIStorageCapacity>,
    classes: &Kept<StorageClass>,
    known: Option<(Vec<CSIStorageCapacity>, Instant)>,
    exact: bool,
) -> Result<(Vec<CSIStorageCapacity>, Instant), Error> {
    let (mut there, since) = match known {
        Some(known) => known,
        None => {
            let labels: Vec<_> = capacity::labels(&site.own())
                .into_iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            let own = ListParams::default().labels(&labels.join(","));
            (within(api.list(&own)).await?.items, Instant::now())
        }
    };
    let mut rooms = BTreeMap::new();
    for class in classes
        .all()
        .values()
        .filter(|class| capacity::is_told(class))
    {
        if let Some(room) = room(site, class).await {
            rooms.insert(text(class.metadata.name.as_ref()).to_owned(), room);
        }
    }
    for change in changes(&there, &rooms, &site.own(), exact) {
        let params = PostParams::default();
        match change {
            Change::Create(object) => there.push(within(api.create(&params, &object)).await?),
            Change::Replace(object) => {
                let name = object.metadata.name.clone();
                let new = within(api.replace(text(name.as_ref()), &params, &object)).await?;
                there.retain(|one| one.metadata.name != name);
                there.push(new);
            }
            Change::Delete(name) => {
                match within(api.delete(&name, &DeleteParams::default())).await {
                    Err(Error::Api(status)) if status.code == 404 => {}
                    other => drop(other?),
                }
                there.retain(|one| one.metadata.name.as_ref() != Some(&name));
            }
        }
    }
    Ok((there, since))
}

/// What the driver tells; none: it can't make such volumes.
async fn room(site: &Site, class: &StorageClass) -> Option<Room> {
    let asked = GetCapacityRequest {
        parameters: parameters(class.parameters.as_ref()).ok()?,
        accessible_topology: Some(Topology {
            segments: site.own().topology.clone().into_iter().collect(),
        }),
        ..GetCapacityRequest::default()
    };
    match site.driver().get_capacity(Request::new(asked)).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            Some(Room {
                bytes: answer.available_capacity,
                largest: answer.maximum_volume_size,
            })
        }
        Err(status) => {
            tracing::warn!(code = ?status.code(), reason = status.message(), "the driver does not tell how much room there is");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_can_t_be_used_is_told_with_its_remedy() {
        for (code, message, parts) in [
            (
                404,
                "namespaces \"shop\" not found",
                ["namespace shop", "--csi-namespace"],
            ),
            (
                403,
                "may not create",
                ["csistoragecapacities", "--csi-namespace"],
            ),
            (
                404,
                "csistoragecapacities \"csisc-1\" not found",
                ["csisc-1", "not found"],
            ),
        ] {
            let status = kube::core::Status::failure(message, "").with_code(code);
            let text = why(&Error::Api(status.boxed()), "shop");
            for part in parts {
                assert!(text.contains(part), "{text} lacks {part}");
            }
        }
    }
}
