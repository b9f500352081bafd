//! A kubelet that plays the device manager: its registry at kubelet.sock, its watcher of plugins, its podresources API. It
//! starts and dies in any order, and does to plugins what the real one does: removes all sockets at its start, calls back
//! while it is told, and takes the end of an older stream for the end of the newer.

use futures_util::StreamExt as _;
use node_api::{
    device::{
        AllocateRequest, AllocateResponse, ContainerAllocateRequest,
        ContainerPreferredAllocationRequest, DevicePluginOptions, Empty,
        PreferredAllocationRequest, RegisterRequest,
        device_plugin_client::DevicePluginClient,
        registration_server::{Registration, RegistrationServer},
    },
    pod_resources::{
        AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices,
        ContainerResources, GetPodResourcesRequest, GetPodResourcesResponse,
        ListPodResourcesRequest, ListPodResourcesResponse, PodResources,
        pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer},
    },
    registration::{InfoRequest, RegistrationStatus, registration_client::RegistrationClient},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::UnixListener,
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::timeout,
};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

/// Longer than anything takes; only a test that fails waits for it.
pub(in crate::device) const PATIENCE: Duration = Duration::from_secs(30);

/// What it knows of a resource: id → healthy.
pub(super) type Known = BTreeMap<String, bool>;

/// What outlives its process, as its checkpoint does.
#[derive(Debug)]
struct Memory {
    folder: PathBuf,
    known: watch::Sender<BTreeMap<String, Known>>,
    /// Resource → device → pod.
    held: Mutex<BTreeMap<String, BTreeMap<String, String>>>,
    registrations: AtomicUsize,
    /// It answers that it knows nothing, though it listens.
    forgetful: watch::Sender<bool>,
    /// It refuses what comes.
    refuses: watch::Sender<bool>,
}

/// The kubelet's folder and what it remembers.
#[derive(Clone, Debug)]
pub(super) struct Kubelet(Arc<Memory>);

/// The process; it dies with this.
pub(super) struct Process {
    memory: Arc<Memory>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
    clients: Arc<Mutex<BTreeMap<String, Client>>>,
}

#[derive(Clone, Debug)]
struct Client {
    api: DevicePluginClient<Channel>,
    options: DevicePluginOptions,
    number: usize,
    stream: AbortHandle,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Kubelet {
    pub(super) fn new(folder: &Path) -> Self {
        Self(Arc::new(Memory {
            folder: folder.to_owned(),
            known: watch::Sender::default(),
            held: Mutex::default(),
            registrations: AtomicUsize::default(),
            forgetful: watch::Sender::new(false),
            refuses: watch::Sender::new(false),
        }))
    }

    pub(super) fn plugins(&self) -> PathBuf {
        self.0.folder.join("device-plugins")
    }

    fn registry(&self) -> PathBuf {
        self.0.folder.join("plugins_registry")
    }

    pub(super) fn registrations(&self) -> usize {
        self.0.registrations.load(Ordering::SeqCst)
    }

    pub(super) fn forget(&self, is: bool) {
        self.0.forgetful.send_replace(is);
    }

    pub(super) fn refuse(&self, is: bool) {
        self.0.refuses.send_replace(is);
    }

    /// Starts a process: as the real one, it first removes every socket in its folder.
    pub(super) fn start(&self) -> Process {
        let plugins = self.plugins();
        fs::create_dir_all(&plugins).unwrap();
        fs::create_dir_all(self.registry()).unwrap();
        fs::create_dir_all(self.0.folder.join("pod-resources")).unwrap();
        for entry in fs::read_dir(&plugins).unwrap() {
            let entry = entry.unwrap();
            let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
            if is_socket && let Err(error) = fs::remove_file(entry.path()) {
                assert_eq!(error.kind(), io::ErrorKind::NotFound);
            }
        }
        let process = Process {
            memory: self.0.clone(),
            tasks: Arc::default(),
            clients: Arc::default(),
        };
        // What it does not hear of again is none of its own.
        self.0.known.send_replace(BTreeMap::new());
        let registry = Answering(process.share());
        let socket = bind(&plugins.join("kubelet.sock"));
        process.spawn(async move {
            let served = Server::builder()
                .add_service(RegistrationServer::new(registry))
                .serve_with_incoming(socket);
            served.await.unwrap();
        });
        let lister = Answering(process.share());
        let socket = bind(&self.0.folder.join("pod-resources/kubelet.sock"));
        process.spawn(async move {
            let served = Server::builder()
                .add_service(PodResourcesListerServer::new(lister))
                .serve_with_incoming(socket);
            served.await.unwrap();
        });
        let (watcher, folder) = (process.share(), self.registry());
        process.spawn(watcher.watch_plugins(folder));
        process
    }

    /// Waits until what it knows is as wanted.
    pub(super) async fn knows(&self, what: &str, is: impl Fn(&BTreeMap<String, Known>) -> bool) {
        let mut known = self.0.known.subscribe();
        let waited = timeout(PATIENCE, known.wait_for(|known| is(known))).await;
        if waited.is_err() {
            panic!("{what}: the kubelet knows {:?}", self.0.known.borrow());
        }
    }

    /// What it knows of one resource now.
    pub(super) fn known(&self, resource: &str) -> Known {
        self.0
            .known
            .borrow()
            .get(resource)
            .cloned()
            .unwrap_or_default()
    }

    /// Who holds which device.
    pub(super) fn held(&self, resource: &str) -> BTreeMap<String, String> {
        lock(&self.0.held)
            .get(resource)
            .cloned()
            .unwrap_or_default()
    }
}

fn bind(
    path: &Path,
) -> impl futures_util::Stream<Item = io::Result<tokio::net::UnixStream>> + use<> {
    if let Err(error) = fs::remove_file(path) {
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
    let listener = UnixListener::bind(path).unwrap();
    futures_util::stream::unfold(listener, |listener| async {
        let stream = listener.accept().await.map(|(stream, _)| stream);
        Some((stream, listener))
    })
}

async fn dial(path: &Path) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
    let channel = endpoint.connect().await;
    channel.map_err(|error| Status::unavailable(error.to_string()))
}

impl Process {
    fn share(&self) -> Self {
        Self {
            memory: self.memory.clone(),
            tasks: self.tasks.clone(),
            clients: self.clients.clone(),
        }
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        lock(&self.tasks).push(tokio::spawn(work));
    }

    /// Dies at once, as by SIGKILL: connections end, sockets stay where they are.
    pub(super) async fn kill(self) {
        let tasks: Vec<_> = lock(&self.tasks).drain(..).collect();
        lock(&self.clients).clear();
        for task in tasks {
            task.abort();
            let ended = task.await;
            assert!(ended.is_ok() || ended.unwrap_err().is_cancelled());
        }
    }

    async fn connect(&self, resource: &str, socket: &Path) -> Result<DevicePluginOptions, Status> {
        if *self.memory.refuses.borrow() {
            return Err(Status::internal("not today"));
        }
        let mut api = DevicePluginClient::new(dial(socket).await?);
        let options = api.get_device_plugin_options(Empty {}).await?.into_inner();
        let number = self.memory.registrations.fetch_add(1, Ordering::SeqCst);
        let (this, name, listening) = (self.share(), resource.to_owned(), api.clone());
        let mut clients = lock(&self.clients);
        let stream = tokio::spawn(async move { this.listen(listening, &name, number).await });
        let client = Client {
            api,
            options,
            number,
            stream: stream.abort_handle(),
        };
        lock(&self.tasks).push(stream);
        clients.insert(resource.to_owned(), client);
        Ok(options)
    }

    async fn listen(&self, mut api: DevicePluginClient<Channel>, resource: &str, number: usize) {
        if let Ok(stream) = api.list_and_watch(Empty {}).await {
            let mut stream = stream.into_inner();
            while let Some(Ok(list)) = stream.next().await {
                let known: Known = list
                    .devices
                    .iter()
                    .map(|device| (device.id.clone(), device.health == "Healthy"))
                    .collect();
                assert_eq!(known.len(), list.devices.len(), "ids are told once");
                self.memory.known.send_modify(|all| {
                    all.insert(resource.to_owned(), known);
                });
            }
        }
        // As the real one: whoever is registered by now is disconnected.
        if let Some(client) = lock(&self.clients).remove(resource)
            && client.number != number
        {
            client.stream.abort();
        }
        self.memory.known.send_modify(|all| {
            for healthy in all.entry(resource.to_owned()).or_default().values_mut() {
                *healthy = false;
            }
        });
    }

    /// As the real one's watcher of plugins: each new socket is asked once.
    async fn watch_plugins(self, folder: PathBuf) {
        let (_eyes, changed) = crate::folder_watch::FolderWatch::open(&folder);
        let mut asked = BTreeSet::new();
        loop {
            let mut there = BTreeSet::new();
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                let is_hidden = path.file_name().unwrap().to_string_lossy().starts_with('.');
                if let (false, Ok(meta)) = (is_hidden, fs::symlink_metadata(&path)) {
                    use std::os::unix::fs::MetadataExt as _;
                    there.insert((path, meta.ino(), meta.ctime(), meta.ctime_nsec()));
                }
            }
            for one in &there {
                if asked.insert(one.clone()) {
                    self.ask(&one.0).await;
                }
            }
            asked.retain(|one| there.contains(one));
            let _silent = timeout(Duration::from_secs(1), changed.notified())
                .await
                .is_err();
        }
    }

    async fn ask(&self, socket: &Path) {
        let Ok(channel) = dial(socket).await else {
            return;
        };
        let mut client = RegistrationClient::new(channel);
        let Ok(info) = client.get_info(InfoRequest {}).await else {
            return;
        };
        let info = info.into_inner();
        assert_eq!(info.r#type, "DevicePlugin");
        assert_eq!(info.supported_versions, ["v1beta1"]);
        let taken = self.connect(&info.name, Path::new(&info.endpoint)).await;
        let told = client
            .notify_registration_status(RegistrationStatus {
                plugin_registered: taken.is_ok(),
                error: taken
                    .err()
                    .map_or_else(String::new, |e| e.message().to_owned()),
            })
            .await;
        drop(told);
    }

    /// Gives a pod so many devices of a resource, as the real one does: it prefers what the plugin prefers, and remembers.
    pub(super) async fn admit(
        &self,
        pod: &str,
        resource: &str,
        count: usize,
    ) -> Result<AllocateResponse, Status> {
        let client = lock(&self.clients).get(resource).cloned();
        let mut client = client.ok_or_else(|| Status::unavailable("no such plugin"))?;
        let healthy = self.memory.known.borrow().get(resource).cloned();
        let held = lock(&self.memory.held)
            .get(resource)
            .cloned()
            .unwrap_or_default();
        let free: Vec<String> = healthy
            .unwrap_or_default()
            .into_iter()
            .filter(|(id, healthy)| *healthy && !held.contains_key(id))
            .map(|(id, _)| id)
            .collect();
        if free.len() < count {
            return Err(Status::resource_exhausted("UnexpectedAdmissionError"));
        }
        let mut chosen: Vec<String> = free.iter().take(count).cloned().collect();
        if client.options.get_preferred_allocation_available {
            let asked = PreferredAllocationRequest {
                container_requests: vec![ContainerPreferredAllocationRequest {
                    available_device_i_ds: free.clone(),
                    must_include_device_i_ds: Vec::new(),
                    allocation_size: i32::try_from(count).unwrap(),
                }],
            };
            let answer = client
                .api
                .get_preferred_allocation(asked)
                .await?
                .into_inner();
            chosen.clone_from(&answer.container_responses[0].device_i_ds);
            assert_eq!(chosen.len(), count);
            assert!(chosen.iter().all(|id| free.contains(id)), "{chosen:?}");
        }
        let answer = client
            .api
            .allocate(AllocateRequest {
                container_requests: vec![ContainerAllocateRequest {
                    devices_ids: chosen.clone(),
                }],
            })
            .await?;
        let mut held = lock(&self.memory.held);
        let of = held.entry(resource.to_owned()).or_default();
        for id in chosen {
            let before = of.insert(id.clone(), pod.to_owned());
            assert_eq!(before, None, "{id} was given twice");
        }
        Ok(answer.into_inner())
    }
}

struct Answering(Process);

#[tonic::async_trait]
impl Registration for Answering {
    async fn register(&self, asked: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let asked = asked.into_inner();
        assert_eq!(asked.version, "v1beta1");
        assert!(!asked.endpoint.contains('/'), "{}", asked.endpoint);
        let socket = self
            .0
            .memory
            .folder
            .join("device-plugins")
            .join(&asked.endpoint);
        let options = self.0.connect(&asked.resource_name, &socket).await?;
        assert_eq!(Some(options), asked.options, "told twice, and differently");
        Ok(Response::new(Empty {}))
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Answering {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        let mut pods: BTreeMap<String, Vec<ContainerDevices>> = BTreeMap::new();
        for (resource, held) in lock(&self.0.memory.held).iter() {
            for (id, pod) in held {
                pods.entry(pod.clone()).or_default().push(ContainerDevices {
                    resource_name: resource.clone(),
                    device_ids: vec![id.clone()],
                    topology: None,
                });
            }
        }
        let pod_resources = pods.into_iter().map(|(name, devices)| PodResources {
            name,
            namespace: "default".to_owned(),
            containers: vec![ContainerResources {
                name: "main".to_owned(),
                devices,
                ..ContainerResources::default()
            }],
        });
        Ok(Response::new(ListPodResourcesResponse {
            pod_resources: pod_resources.collect(),
        }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        if *self.0.memory.forgetful.borrow() {
            return Ok(Response::new(AllocatableResourcesResponse::default()));
        }
        let known = self.0.memory.known.borrow().clone();
        let devices = known
            .into_iter()
            .map(|(resource_name, known)| ContainerDevices {
                resource_name,
                device_ids: known
                    .into_iter()
                    .filter(|(_, is)| *is)
                    .map(|(id, _)| id)
                    .collect(),
                topology: None,
            });
        Ok(Response::new(AllocatableResourcesResponse {
            devices: devices.collect(),
            ..AllocatableResourcesResponse::default()
        }))
    }

    async fn get(
        &self,
        _: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        Err(Status::unimplemented("nobody here asks"))
    }
}
