//! What the node's kubelet says of devices (its podresources API): which it would give, and who has which.

use super::{
    super::place::{Cluster, until},
    LIMIT,
};
use anyhow::{Context, Result};
use node_api::pod_resources::{
    AllocatableResourcesRequest, ListPodResourcesRequest,
    pod_resources_lister_client::PodResourcesListerClient,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    thread,
    time::Duration,
};
use tokio::runtime::Runtime;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

const SOCKET: &str = "var/lib/kubelet/pod-resources/kubelet.sock";
const PATIENCE: Duration = Duration::from_secs(5);

/// Devices of a resource, by `namespace/pod/container`.
pub(super) type Held = BTreeMap<String, BTreeSet<String>>;

/// Devices by resource.
pub(super) type Offered = BTreeMap<String, BTreeSet<String>>;

/// A node's kubelet, whichever runs.
pub(super) struct Kubelet {
    runtime: Runtime,
    pid: PathBuf,
}

impl Kubelet {
    pub(super) fn of(cluster: &Cluster, node: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            runtime,
            pid: cluster.dir().join(node).join("pid"),
        })
    }

    async fn client(&self) -> Result<PodResourcesListerClient<Channel>> {
        // Anew each time: a kubelet that was started again has another socket, and a node another root.
        let pid = fs::read_to_string(&self.pid)?;
        let socket = format!("/proc/{}/root/{SOCKET}", pid.trim());
        let endpoint = Endpoint::from_shared(format!("unix://{socket}"))?
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE);
        Ok(PodResourcesListerClient::new(endpoint.connect().await?))
    }

    /// Asks once; and once more, where that is too often for it: it answers a hundred times a second.
    fn ask<T>(
        &self,
        call: impl AsyncFn(PodResourcesListerClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T> {
        let once = || -> Result<Response<T>> {
            self.runtime.block_on(async {
                let client = self.client().await?;
                Ok(call(client).await?)
            })
        };
        let answer = once().or_else(|error| {
            let status = error.downcast_ref::<Status>();
            match status.map(Status::code) {
                Some(Code::ResourceExhausted) => {
                    thread::sleep(Duration::from_secs(1));
                    once()
                }
                _ => Err(error),
            }
        });
        Ok(answer?.into_inner())
    }

    /// All devices that it would give, also those that containers have.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub(super) fn everything(&self) -> Result<Offered> {
        let answer = self.ask(async |mut client| {
            let request = AllocatableResourcesRequest {};
            client.get_allocatable_resources(request).await
        })?;
        let mut offered = Offered::new();
        for of in answer.devices {
            offered
                .entry(of.resource_name)
                .or_default()
                .extend(of.device_ids);
        }
        Ok(offered)
    }

    /// Those of a resource.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub(super) fn allocatable(&self, resource: &str) -> Result<BTreeSet<String>> {
        Ok(self.everything()?.remove(resource).unwrap_or_default())
    }

    /// Who has what of a resource.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub(super) fn held(&self, resource: &str) -> Result<Held> {
        let answer = self.ask(async |mut client| client.list(ListPodResourcesRequest {}).await)?;
        let mut held = Held::new();
        for pod in answer.pod_resources {
            for container in pod.containers {
                let devices = container.devices.into_iter();
                let own = devices.filter(|of| of.resource_name == resource);
                let ids: BTreeSet<String> = own.flat_map(|of| of.device_ids).collect();
                if !ids.is_empty() {
                    let who = format!("{}/{}/{}", pod.namespace, pod.name, container.name);
                    held.insert(who, ids);
                }
            }
        }
        Ok(held)
    }

    /// Waits until it would give so many.
    ///
    /// # Errors
    /// When it wouldn't in time.
    pub(super) fn has(&self, resource: &str, count: usize) -> Result<BTreeSet<String>> {
        let mut last = None;
        let found = until(
            LIMIT,
            &format!("the kubelet has {count} of {resource}"),
            || {
                let now = self.allocatable(resource);
                last = now.as_ref().ok().map(BTreeSet::len);
                Ok(now.ok().filter(|now| now.len() == count))
            },
        );
        found.with_context(|| format!("it has {last:?}"))
    }

    /// Waits until who has what is so.
    ///
    /// # Errors
    /// When it isn't in time.
    pub(super) fn holds(&self, resource: &str, wanted: &Held) -> Result<()> {
        let mut last = None;
        let same = until(LIMIT, "who has which device is as before", || {
            last = self.held(resource).ok();
            Ok((last.as_ref() == Some(wanted)).then_some(()))
        });
        same.with_context(|| format!("{resource}: wanted {wanted:?}, got {last:?}"))
    }

    /// Waits until somebody has devices, and answers which.
    ///
    /// # Errors
    /// When he doesn't in time.
    pub(super) fn given(&self, resource: &str, who: &str) -> Result<BTreeSet<String>> {
        until(LIMIT, &format!("{who} has {resource}"), || {
            Ok(self.held(resource)?.remove(who))
        })
    }
}

/// Whether no device is had by two containers.
///
/// # Errors
/// Which one is.
pub(super) fn distinct(held: &Held) -> Result<()> {
    let mut seen = BTreeMap::new();
    for (who, ids) in held {
        for id in ids {
            if let Some(other) = seen.insert(id, who) {
                anyhow::bail!("{id} is {who}'s and {other}'s");
            }
        }
    }
    Ok(())
}
