//! As much of a kubelet as the bench needs: a registry at kubelet.sock, a stream of each plugin's devices, and when what
//! was told came. Like the real one it removes all sockets at its start, and calls back while a plugin registers.

use anyhow::{Context, Result, anyhow, bail};
use node_api::device::{
    Empty, RegisterRequest,
    device_plugin_client::DevicePluginClient,
    registration_server::{Registration, RegistrationServer},
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    net::UnixListener,
    runtime::Runtime,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tonic::{
    Request, Response, Status,
    codegen::tokio_stream::wrappers::UnixListenerStream,
    transport::{Channel, Endpoint, Server},
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A resource that a plugin has registered.
#[derive(Clone, Debug)]
pub(super) struct Plugin {
    pub(super) api: DevicePluginClient<Channel>,
    /// When it began to register.
    pub(super) asked: Instant,
    /// When its first list came.
    pub(super) listed: Option<Instant>,
    /// When its last list came.
    pub(super) told: Instant,
    /// Id → healthy.
    pub(super) devices: BTreeMap<String, bool>,
}

/// All of them by the resource's name.
pub(super) type Known = BTreeMap<String, Plugin>;

/// The folder, and the process while it lives.
pub(super) struct Kubelet {
    folder: PathBuf,
    runtime: Runtime,
    known: Arc<watch::Sender<Known>>,
    process: Option<Process>,
}

/// What ends with the process.
struct Process {
    registry: JoinHandle<()>,
    streams: Arc<Mutex<JoinSet<()>>>,
}

impl Kubelet {
    /// In a folder of its own.
    ///
    /// # Errors
    /// Those of its start.
    pub(super) fn new(folder: PathBuf) -> Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let mut this = Self {
            folder,
            runtime: runtime.worker_threads(2).enable_all().build()?,
            known: Arc::default(),
            process: None,
        };
        this.start()?;
        Ok(this)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts, and returns the moment from which plugins may register.
    ///
    /// # Errors
    /// When its socket can't be made.
    pub(super) fn start(&mut self) -> Result<Instant> {
        let plugins = self.folder.join("device-plugins");
        fs::create_dir_all(&plugins)?;
        for entry in fs::read_dir(&plugins)? {
            let entry = entry?;
            if entry.file_type()?.is_socket() {
                fs::remove_file(entry.path())?;
            }
        }
        let streams: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let registry = Registry {
            folder: plugins.clone(),
            known: self.known.clone(),
            streams: streams.clone(),
        };
        let _within = self.runtime.enter();
        let begin = Instant::now();
        let listener = UnixListener::bind(plugins.join("kubelet.sock"))?;
        let registry = self.runtime.spawn(async move {
            let served = Server::builder()
                .add_service(RegistrationServer::new(registry))
                .serve_with_incoming(UnixListenerStream::new(listener));
            if let Err(error) = served.await {
                eprintln!("the bench's kubelet ended: {error}");
            }
        });
        self.process = Some(Process { registry, streams });
        Ok(begin)
    }

    /// Dies at once, as by SIGKILL: connections end, sockets stay where they are.
    pub(super) fn kill(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        process.registry.abort();
        let mut streams = std::mem::take(&mut *lock(&process.streams));
        self.runtime.block_on(async {
            let _ended_by_us = process.registry.await.is_err();
            streams.shutdown().await;
        });
        self.known.send_replace(Known::new());
    }

    /// What it knows now.
    pub(super) fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// Waits until it knows what is wanted, and takes something from that.
    ///
    /// # Errors
    /// When that takes too long.
    pub(super) fn wait<T>(&self, what: &str, found: impl Fn(&Known) -> Option<T>) -> Result<T> {
        let mut known = self.known.subscribe();
        let waited = self.runtime.block_on(async {
            timeout(PATIENCE, async {
                loop {
                    if let Some(found) = found(&known.borrow_and_update()) {
                        return Some(found);
                    }
                    known.changed().await.ok()?;
                }
            })
            .await
        });
        match waited {
            Ok(found) => found.context("the bench's kubelet has gone"),
            Err(_) => {
                let known = self.known.borrow();
                let devices: usize = known.values().map(|one| one.devices.len()).sum();
                bail!(
                    "{what}: not within {PATIENCE:?}; the kubelet knows {} resources with {devices} devices",
                    known.len()
                )
            }
        }
    }

    /// Does something that waits for answers.
    ///
    /// # Errors
    /// Those of the call, as the plugin words them.
    pub(super) fn ask<T>(&self, calls: impl Future<Output = Result<T, Status>>) -> Result<T> {
        let answer = self
            .runtime
            .block_on(async { timeout(PATIENCE, calls).await });
        let answer = answer.map_err(|_late| anyhow!("no answer within {PATIENCE:?}"))?;
        answer.map_err(|status| anyhow!("{:?}: {}", status.code(), status.message()))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.kill();
    }
}

fn lock(streams: &Mutex<JoinSet<()>>) -> std::sync::MutexGuard<'_, JoinSet<()>> {
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes plugins.
struct Registry {
    folder: PathBuf,
    known: Arc<watch::Sender<Known>>,
    streams: Arc<Mutex<JoinSet<()>>>,
}

#[tonic::async_trait]
impl Registration for Registry {
    async fn register(&self, asked: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let begin = Instant::now();
        let asked = asked.into_inner();
        let socket = self.folder.join(&asked.endpoint);
        let api = connect(&socket).await?;
        let plugin = Plugin {
            api: api.clone(),
            asked: begin,
            listed: None,
            told: begin,
            devices: BTreeMap::new(),
        };
        let name = asked.resource_name;
        self.known.send_modify(|known| {
            known.insert(name.clone(), plugin);
        });
        let listening = listen(self.known.clone(), api, name, begin);
        lock(&self.streams).spawn(listening);
        Ok(Response::new(Empty {}))
    }
}

/// Calls a plugin at its socket.
async fn connect(socket: &Path) -> Result<DevicePluginClient<Channel>, Status> {
    let failed = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
    let channel = endpoint.map_err(failed)?.connect().await.map_err(failed)?;
    let mut api = DevicePluginClient::new(channel);
    api.get_device_plugin_options(Empty {}).await?;
    Ok(api)
}

/// Takes a plugin's lists until they end; what is known of it ends with them.
async fn listen(
    known: Arc<watch::Sender<Known>>,
    mut api: DevicePluginClient<Channel>,
    name: String,
    asked: Instant,
) {
    if let Ok(lists) = api.list_and_watch(Empty {}).await {
        let mut lists = lists.into_inner();
        while let Ok(Some(list)) = lists.message().await {
            let now = Instant::now();
            let devices = list.devices.into_iter();
            let devices = devices.map(|device| (device.id, device.health == "Healthy"));
            let devices: BTreeMap<_, _> = devices.collect();
            known.send_modify(|known| {
                if let Some(plugin) = known.get_mut(&name).filter(|one| one.asked == asked) {
                    plugin.listed.get_or_insert(now);
                    plugin.told = now;
                    plugin.devices = devices;
                }
            });
        }
    }
    known.send_modify(|known| known.retain(|of, plugin| *of != name || plugin.asked != asked));
}
