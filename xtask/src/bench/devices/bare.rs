//! The floor: the least that a program with gRPC can do for the same calls. It knows the kubelet's folder and the number of
//! devices, registers as many resources, and answers from what it made at its start. A process of its own, with as many
//! threads as the agent.

use super::{AT_ONCE, RESOURCES, name, size};
use anyhow::Result;
use node_api::device::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse,
    ContainerPreferredAllocationResponse, Device, DevicePluginOptions, DeviceSpec, Empty,
    ListAndWatchResponse, PreStartContainerRequest, PreStartContainerResponse,
    PreferredAllocationRequest, PreferredAllocationResponse, RegisterRequest,
    device_plugin_server::{DevicePlugin, DevicePluginServer},
    registration_client::RegistrationClient,
};
use std::{
    fs,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};
use tokio::{net::UnixListener, task::JoinSet};
use tonic::{
    Request, Response, Status,
    codegen::tokio_stream::{self, Stream, StreamExt as _, wrappers::UnixListenerStream},
    transport::{Endpoint, Server},
};

/// What of a resource is preferred.
pub(super) const PREFERRED: usize = 4;

/// The answers of one resource.
#[derive(Clone)]
struct Constants(Arc<Answers>);

struct Answers {
    options: DevicePluginOptions,
    list: ListAndWatchResponse,
    one: AllocateResponse,
    many: AllocateResponse,
    preferred: PreferredAllocationResponse,
}

/// Serves until the process is ended.
///
/// # Errors
/// When a socket can't be made, or the kubelet refuses.
pub(crate) fn serve(kubelet: &Path) -> Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let folder = kubelet.join("device-plugins");
    runtime.block_on(async {
        let mut all = JoinSet::new();
        for resource in 0..RESOURCES {
            all.spawn(plugin(folder.clone(), resource));
        }
        while let Some(ended) = all.join_next().await {
            ended??;
        }
        Ok(())
    })
}

async fn plugin(folder: PathBuf, resource: usize) -> Result<()> {
    let socket = format!("bare-{resource}.sock");
    let place = folder.join(&socket);
    if place.exists() {
        // Of the one before.
        fs::remove_file(&place)?;
    }
    let listener = UnixListener::bind(place)?;
    let constants = Constants::of(resource);
    let options = constants.0.options;
    let serving = Server::builder()
        .add_service(DevicePluginServer::new(constants))
        .serve_with_incoming(UnixListenerStream::new(listener));
    let registering = async {
        let kubelet = format!("unix://{}", folder.join("kubelet.sock").display());
        let channel = Endpoint::from_shared(kubelet)?.connect().await?;
        let request = RegisterRequest {
            version: "v1beta1".to_owned(),
            endpoint: socket,
            resource_name: name(resource),
            options: Some(options),
        };
        RegistrationClient::new(channel).register(request).await?;
        anyhow::Ok(())
    };
    let (served, registered) = tokio::join!(serving, registering);
    registered?;
    Ok(served?)
}

impl Constants {
    fn of(resource: usize) -> Self {
        let numbers = 0..size(resource);
        let ids = numbers.clone().map(|device| {
            // As long as the agent's.
            format!("bench-r{resource:02}-d{device:02}-{device:08x}")
        });
        let specs = numbers.map(|device| {
            let path = format!("/dev/bench/r{resource:02}/d{device:02}");
            DeviceSpec {
                container_path: path.clone(),
                host_path: path,
                permissions: "rw".to_owned(),
            }
        });
        let given = |count| AllocateResponse {
            container_responses: vec![ContainerAllocateResponse {
                devices: specs.clone().take(count).collect(),
                ..Default::default()
            }],
        };
        let list = ids.clone().map(|id| Device {
            id,
            health: "Healthy".to_owned(),
            topology: None,
        });
        Self(Arc::new(Answers {
            options: DevicePluginOptions {
                pre_start_required: false,
                get_preferred_allocation_available: true,
            },
            list: ListAndWatchResponse {
                devices: list.collect(),
            },
            one: given(1),
            many: given(AT_ONCE),
            preferred: PreferredAllocationResponse {
                container_responses: vec![ContainerPreferredAllocationResponse {
                    device_i_ds: ids.take(PREFERRED).collect(),
                }],
            },
        }))
    }
}

type Lists = Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DevicePlugin for Constants {
    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(self.0.options))
    }

    type ListAndWatchStream = Lists;

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Lists>, Status> {
        let list = tokio_stream::once(Ok(self.0.list.clone()));
        Ok(Response::new(Box::pin(list.chain(tokio_stream::pending()))))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        Ok(Response::new(self.0.preferred.clone()))
    }

    async fn allocate(
        &self,
        asked: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let first = asked.get_ref().container_requests.first();
        Ok(Response::new(
            match first.map(|one| one.devices_ids.len()) {
                Some(AT_ONCE) => self.0.many.clone(),
                _ => self.0.one.clone(),
            },
        ))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}
