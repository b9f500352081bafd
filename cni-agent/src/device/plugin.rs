//! The service of one resource, as the kubelet calls it (device plugin API v1beta1).

use super::{
    allocate::{self, Given, Node, Refused},
    cdi,
    host::{Host, program::Turns},
    inventory::Offer,
    name::DeviceId,
    prefer,
};
use crate::metrics::DeviceCounts;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use node_api::device::{
    AllocateRequest, AllocateResponse, CdiDevice, ContainerAllocateResponse,
    ContainerPreferredAllocationResponse, Device, DevicePluginOptions, DeviceSpec, Empty,
    ListAndWatchResponse, Mount, NumaNode, PreStartContainerRequest, PreStartContainerResponse,
    PreferredAllocationRequest, PreferredAllocationResponse, TopologyInfo,
    device_plugin_server::DevicePlugin,
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::timeout};
use tonic::{Request, Response, Status};

const HEALTHY: &str = "Healthy";
const UNHEALTHY: &str = "Unhealthy";
/// Most containers and devices of one call: more than a node has pods.
const MOST_CONTAINERS: usize = 1024;
const MOST_DEVICES: usize = 10_000;
/// Devices of one container that are reset beside each other.
const BESIDE: usize = 64;
/// How long all resets of a container may take: the kubelet waits 30 s, and is told why before it gives up.
const RESETS: Duration = Duration::from_secs(29);

/// Answers for one resource.
#[derive(Clone, Debug)]
pub(super) struct Plugin {
    pub(super) offers: watch::Receiver<Arc<Offer>>,
    pub(super) host: Arc<Host>,
    pub(super) counts: DeviceCounts,
    /// How many streams of the kubelet are open.
    pub(super) streams: watch::Sender<usize>,
    /// The kubelet's streams end when this changes.
    pub(super) until: watch::Receiver<()>,
    /// Of the devices' resets.
    pub(super) turns: Turns,
}

/// What the kubelet should know of it before it calls.
pub(super) fn options(offer: &Offer) -> DevicePluginOptions {
    DevicePluginOptions {
        pre_start_required: offer.rule.before_start.is_some(),
        get_preferred_allocation_available: offer.rule.prefer != super::plan::Prefer::Any,
    }
}

/// The list as the kubelet gets it.
pub(super) fn list(offer: &Offer) -> ListAndWatchResponse {
    let devices = offer.devices.iter().filter_map(|(id, place)| {
        let item = offer.items.get(place.item)?;
        let health = match item.is_healthy() {
            true => HEALTHY,
            false => UNHEALTHY,
        };
        let nodes = item.numa.iter().map(|id| NumaNode { id: i64::from(*id) });
        Some(Device {
            id: id.as_str().to_owned(),
            health: health.to_owned(),
            topology: (!item.numa.is_empty()).then(|| TopologyInfo {
                nodes: nodes.collect(),
            }),
        })
    });
    ListAndWatchResponse {
        devices: devices.collect(),
    }
}

/// Counts an open stream for as long as it is.
struct Open(watch::Sender<usize>);

impl Open {
    fn new(streams: &watch::Sender<usize>) -> Self {
        streams.send_modify(|open| *open += 1);
        Self(streams.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

type Lists = Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DevicePlugin for Plugin {
    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(options(&self.offers.borrow())))
    }

    type ListAndWatchStream = Lists;

    /// All devices at once, and again at each change, until the resource is taken away.
    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Lists>, Status> {
        let mut offers = self.offers.clone();
        offers.mark_changed();
        let mut until = self.until.clone();
        // Earlier streams' end is not this one's.
        until.mark_unchanged();
        let state = (offers, until, Open::new(&self.streams));
        let lists = stream::unfold(state, |(mut offers, mut until, open)| async move {
            tokio::select! {
                // What ends the stream comes after the last list.
                biased;
                changed = offers.changed() => changed.ok()?,
                _ = until.changed() => return None,
            }
            let list = list(&offers.borrow_and_update());
            Some((Ok(list), (offers, until, open)))
        });
        Ok(Response::new(Box::pin(lists)))
    }

    async fn get_preferred_allocation(
        &self,
        asked: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let asked = asked.into_inner();
        bounded(
            asked.container_requests.len(),
            MOST_CONTAINERS,
            "containers",
        )?;
        let offer = self.offers.borrow().clone();
        let mut container_responses = Vec::new();
        for one in asked.container_requests {
            let size = usize::try_from(one.allocation_size).map_err(|_negative| {
                Status::invalid_argument("allocation_size is negative: ask for 1 device or more")
            })?;
            for ids in [&one.available_device_i_ds, &one.must_include_device_i_ds] {
                bounded(ids.len(), MOST_DEVICES, "devices")?;
            }
            if one.must_include_device_i_ds.len() > size {
                return Err(Status::invalid_argument(
                    "must_include_deviceIDs has more devices than allocation_size",
                ));
            }
            let ids = |ids: &[String]| -> Vec<DeviceId> {
                ids.iter().map(|id| DeviceId::from(&**id)).collect()
            };
            let available = ids(&one.available_device_i_ds);
            let must = ids(&one.must_include_device_i_ds);
            let chosen = prefer::choose(&offer, &available, &must, size);
            container_responses.push(ContainerPreferredAllocationResponse {
                device_i_ds: chosen.iter().map(|id| id.as_str().to_owned()).collect(),
            });
        }
        Ok(Response::new(PreferredAllocationResponse {
            container_responses,
        }))
    }

    async fn allocate(
        &self,
        asked: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let begin = Instant::now();
        let answer = self.allocated(asked.into_inner());
        let offer = self.offers.borrow().clone();
        self.counts
            .allocated(offer.rule.name.as_str(), answer.is_ok(), begin.elapsed());
        answer.map(Response::new).inspect_err(|status| {
            tracing::warn!(
                resource = %offer.rule.name,
                reason = status.message(),
                "devices can't be given to a container"
            );
        })
    }

    /// Resets the devices, where the configuration says how.
    async fn pre_start_container(
        &self,
        asked: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        let ids = asked.into_inner().devices_ids;
        bounded(ids.len(), MOST_DEVICES, "devices")?;
        let offer = self.offers.borrow().clone();
        let Some(reset) = &offer.rule.before_start else {
            return Ok(Response::new(PreStartContainerResponse {}));
        };
        let mut items = BTreeMap::new();
        for id in ids {
            let id = DeviceId::from(&*id);
            let item = offer
                .passing(&id)
                .ok_or_else(|| Status::not_found(format!("there is no device {id}")))?;
            items.entry(&*item.key).or_insert((id, item));
        }
        let resets = stream::iter(items.into_values()).map(Ok::<_, Status>);
        let resets = resets.try_for_each_concurrent(BESIDE, async |(id, item)| {
            let reset = self
                .turns
                .run(&item.key, reset.clone(), item.fields.clone());
            reset
                .await
                .map_err(|reason| Status::internal(format!("beforeStart of device {id}: {reason}")))
        });
        let late = |_| {
            let why = format!(
                "beforeStart was not done after {RESETS:?}: the kernel holds it, or it runs for another container"
            );
            Err(Status::deadline_exceeded(why))
        };
        timeout(RESETS, resets).await.unwrap_or_else(late)?;
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

impl Plugin {
    fn allocated(&self, asked: AllocateRequest) -> Result<AllocateResponse, Status> {
        bounded(
            asked.container_requests.len(),
            MOST_CONTAINERS,
            "containers",
        )?;
        let offer = self.offers.borrow().clone();
        let node = Node {
            exists: &|path| self.host.exists(path),
            random: &random,
        };
        let mut container_responses = Vec::new();
        for one in asked.container_requests {
            bounded(one.devices_ids.len(), MOST_DEVICES, "devices")?;
            let ids: Vec<DeviceId> = one
                .devices_ids
                .iter()
                .map(|id| DeviceId::from(&**id))
                .collect();
            let given = allocate::plan(&offer, &ids, &node).map_err(|refused| match refused {
                Refused::Unknown(why) => Status::not_found(why),
                Refused::NotNow(why) => Status::failed_precondition(why),
            })?;
            container_responses.push(response(given, cdi::names(&offer, &ids)));
        }
        Ok(AllocateResponse {
            container_responses,
        })
    }
}

fn bounded(count: usize, most: usize, of: &str) -> Result<(), Status> {
    match count <= most {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!(
            "{count} {of} in one call are more than {most}"
        ))),
    }
}

/// Sixteen digits that nobody can guess.
pub(super) fn random() -> String {
    let mut bytes = [0_u8; 8];
    // So few bytes come whole, from a kernel that has started.
    if getrandom(&mut bytes, GetRandomFlags::empty()).is_err() {
        tracing::warn!("the kernel has no random numbers");
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn response(given: Given, own: Vec<String>) -> ContainerAllocateResponse {
    ContainerAllocateResponse {
        envs: given.environment.into_iter().collect(),
        mounts: given
            .mounts
            .into_iter()
            .map(|(container_path, mount)| Mount {
                container_path,
                host_path: mount.host,
                read_only: mount.readonly,
            })
            .collect(),
        devices: given
            .nodes
            .into_iter()
            .map(|(container_path, node)| DeviceSpec {
                container_path,
                host_path: node.host.to_string_lossy().into_owned(),
                permissions: node.permissions.letters(),
            })
            .collect(),
        annotations: given.annotations.into_iter().collect(),
        cdi_devices: own
            .into_iter()
            .chain(given.cdi)
            .map(|name| CdiDevice { name })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{
        inventory::Item,
        plan::Program,
        template::Template,
        tests::{item, rule},
    };

    #[tokio::test]
    async fn the_devices_of_a_container_are_reset_beside_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display();
        // Each waits until all have begun.
        let script = format!(
            ": > {place}/$0; until test -e {place}/a && test -e {place}/b; do sleep 0.01; done"
        );
        let mut rule = rule("a.io/x");
        rule.before_start = Some(Program {
            path: "/bin/sh".into(),
            arguments: ["-c", &script, "{name}"]
                .map(|text| Template::parse(text).unwrap())
                .into(),
            deadline: Duration::from_secs(10),
        });
        let named = |key: &str| Item {
            fields: [("name".to_owned(), key.to_owned())].into(),
            ..item(key)
        };
        let offer = Offer::new(Arc::new(rule), vec![named("a"), named("b")]);
        let (_until, until) = watch::channel(());
        let (_offers, offers) = watch::channel(Arc::new(offer));
        let plugin = Plugin {
            offers,
            host: Arc::new(Host::default()),
            counts: DeviceCounts::default(),
            streams: watch::Sender::new(0),
            until,
            turns: Turns::default(),
        };
        let asked = |ids: &[&str]| {
            Request::new(PreStartContainerRequest {
                devices_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            })
        };
        plugin
            .pre_start_container(asked(&["a", "b"]))
            .await
            .unwrap();
        let unknown = plugin.pre_start_container(asked(&["a", "c"])).await;
        assert_eq!(unknown.unwrap_err().code(), tonic::Code::NotFound);
    }
}
