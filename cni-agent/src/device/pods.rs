//! What the kubelet says of devices and pods (its podresources API): the only one who knows, since nobody tells a plugin
//! when a container has ended.

use super::name::{DeviceId, ResourceName};
use node_api::pod_resources::{
    AllocatableResourcesRequest, ListPodResourcesRequest, PodResources as PodInfo,
    pod_resources_lister_client::PodResourcesListerClient,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read: a node of a thousand pods says less.
const LONGEST: usize = 64 << 20;

/// A container that holds a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Holder {
    pub namespace: String,
    pub pod: String,
    pub container: String,
}

/// By resource and device, who holds it.
pub(super) type Holders = BTreeMap<ResourceName, BTreeMap<DeviceId, Vec<Holder>>>;

/// Where the kubelet answers.
#[derive(Clone, Debug)]
pub(super) struct PodResources(PathBuf);

impl PodResources {
    pub(super) fn new(kubelet: &Path) -> Self {
        Self(kubelet.join("pod-resources/kubelet.sock"))
    }

    async fn client(&self) -> Result<PodResourcesListerClient<Channel>, String> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.0.display()))
            .map_err(|error| error.to_string())?
            .timeout(PATIENCE);
        let channel = timeout(PATIENCE, endpoint.connect()).await;
        let channel = channel
            .map_err(|error| error.to_string())
            .and_then(|channel| channel.map_err(|error| error.to_string()))
            .map_err(|error| {
                format!(
                    "the kubelet does not answer at {}: {error}",
                    self.0.display()
                )
            })?;
        Ok(PodResourcesListerClient::new(channel).max_decoding_message_size(LONGEST))
    }

    /// The pods of the node, with what each container has.
    async fn pods(&self) -> Result<Vec<PodInfo>, String> {
        let answer = self.client().await?.list(ListPodResourcesRequest {}).await;
        let answer = answer.map_err(|status| status.message().to_owned())?;
        Ok(answer.into_inner().pod_resources)
    }

    /// Who holds what.
    ///
    /// # Errors
    /// When the kubelet doesn't answer, worded for people.
    pub(super) async fn holders(&self) -> Result<Holders, String> {
        let mut holders = Holders::new();
        for pod in self.pods().await? {
            for container in pod.containers {
                for devices in container.devices {
                    let Ok(name) = ResourceName::try_from(devices.resource_name) else {
                        continue;
                    };
                    let of = holders.entry(name).or_default();
                    for id in devices.device_ids {
                        of.entry(DeviceId::from(&*id)).or_default().push(Holder {
                            namespace: pod.namespace.clone(),
                            pod: pod.name.clone(),
                            container: container.name.clone(),
                        });
                    }
                }
            }
        }
        Ok(holders)
    }

    /// The claims that pods have, by their namespaces and names.
    ///
    /// # Errors
    /// When the kubelet doesn't answer, worded for people.
    pub(super) async fn claims(&self) -> Result<BTreeSet<(String, String)>, String> {
        let pods = self.pods().await?.into_iter();
        let containers = pods.flat_map(|pod| pod.containers);
        let claims = containers.flat_map(|container| container.dynamic_resources);
        Ok(claims
            .map(|of| (of.claim_namespace, of.claim_name))
            .collect())
    }

    /// The healthy devices that the kubelet would give.
    ///
    /// # Errors
    /// When the kubelet doesn't answer, worded for people.
    pub(super) async fn allocatable(&self) -> Result<BTreeMap<String, BTreeSet<DeviceId>>, String> {
        let mut client = self.client().await?;
        let answer = client
            .get_allocatable_resources(AllocatableResourcesRequest {})
            .await
            .map_err(|status| status.message().to_owned())?;
        let mut known: BTreeMap<String, BTreeSet<DeviceId>> = BTreeMap::new();
        for devices in answer.into_inner().devices {
            let ids = devices.device_ids.iter().map(|id| DeviceId::from(&**id));
            known.entry(devices.resource_name).or_default().extend(ids);
        }
        Ok(known)
    }
}
