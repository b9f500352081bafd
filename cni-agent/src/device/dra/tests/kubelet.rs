//! A kubelet that plays the manager of dynamic resources: it finds drivers in its registry, has claims prepared and taken
//! back, and listens to how devices are. As the real one it deletes all slices of its node at its start, and has every claim
//! prepared again then.

use super::{PATIENCE, api::FakeApi};
use crate::{device::dra::slices::DRIVER, folder_watch::FolderWatch};
use futures_util::stream;
use node_api::{
    dra::{
        Claim, Device, NodePrepareResourcesRequest, NodeUnprepareResourcesRequest,
        dra_plugin_client::DraPluginClient,
    },
    dra_health::{
        HealthStatus, NodeWatchResourcesRequest,
        dra_resource_health_client::DraResourceHealthClient,
    },
    pod_resources::{
        AllocatableResourcesRequest, AllocatableResourcesResponse, GetPodResourcesRequest,
        GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse,
        pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer},
    },
    registration::{InfoRequest, RegistrationStatus, registration_client::RegistrationClient},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::UnixListener,
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::{sleep, timeout},
};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

/// What the kubelet knows of devices: by name why one isn't healthy.
type Health = BTreeMap<String, Option<String>>;

/// Its folder, and what a process of it knows.
#[derive(Clone)]
pub(super) struct Kubelet {
    folder: PathBuf,
    api: FakeApi,
    refuses: watch::Sender<bool>,
    refused: watch::Sender<usize>,
    /// Where the driver answers.
    driver: watch::Sender<Option<Channel>>,
    health: watch::Sender<Health>,
    listening: Arc<Mutex<Option<AbortHandle>>>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Kubelet {
    pub(super) fn new(folder: &Path, api: &FakeApi) -> Self {
        Self {
            folder: folder.to_owned(),
            api: api.clone(),
            refuses: watch::Sender::new(false),
            refused: watch::Sender::new(0),
            driver: watch::Sender::new(None),
            health: watch::Sender::default(),
            listening: Arc::default(),
            tasks: Arc::default(),
        }
    }

    pub(super) fn registry(&self) -> PathBuf {
        self.folder.join("plugins_registry")
    }

    pub(super) fn refuse(&self, is: bool) {
        self.refuses.send_replace(is);
    }

    /// Waits until it has refused the driver so often.
    pub(super) async fn has_refused(&self, times: usize) {
        let mut refused = self.refused.subscribe();
        let waited = timeout(PATIENCE, refused.wait_for(|count| *count >= times)).await;
        waited.expect("refused in time").unwrap();
    }

    /// Starts a process.
    pub(super) fn start(&self) {
        fs::create_dir_all(self.registry()).unwrap();
        self.api.wipe();
        let this = self.clone();
        self.spawn(async move { this.watch_plugins().await });
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().push(tokio::spawn(work));
    }

    /// Answers who asks which claims pods have: none.
    pub(super) fn knows_no_claim(&self) {
        let folder = self.folder.join("pod-resources");
        fs::create_dir_all(&folder).unwrap();
        let socket = UnixListener::bind(folder.join("kubelet.sock")).unwrap();
        let socket = stream::unfold(socket, |socket| async move {
            let came = socket.accept().await.map(|(stream, _)| stream);
            Some((came, socket))
        });
        let server = Server::builder().add_service(PodResourcesListerServer::new(NoPods));
        self.spawn(async move {
            server.serve_with_incoming(socket).await.unwrap();
        });
    }

    /// Ends it as by SIGKILL.
    pub(super) async fn kill(&self) {
        let tasks: Vec<_> = self.tasks.lock().unwrap().drain(..).collect();
        for task in tasks {
            task.abort();
            let ended = task.await;
            assert!(ended.is_ok() || ended.unwrap_err().is_cancelled());
        }
        self.driver.send_replace(None);
        self.health.send_replace(Health::new());
    }

    /// Each new socket is asked once; one that is gone is forgotten.
    async fn watch_plugins(&self) {
        let folder = self.registry();
        let (_eyes, changed) = FolderWatch::open(&folder);
        let mut asked = BTreeSet::new();
        loop {
            let mut there = BTreeSet::new();
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                let is_hidden = path.file_name().unwrap().to_string_lossy().starts_with('.');
                if let (false, Ok(meta)) = (is_hidden, fs::symlink_metadata(&path)) {
                    there.insert((path, meta.ino(), meta.ctime(), meta.ctime_nsec()));
                }
            }
            for one in &there {
                if asked.insert(one.clone()) {
                    self.ask(&one.0).await;
                }
            }
            asked.retain(|one| there.contains(one));
            if there.is_empty() {
                self.driver.send_replace(None);
            }
            let _silent = timeout(Duration::from_millis(200), changed.notified()).await;
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
        assert_eq!(
            (&*info.r#type, &*info.name),
            ("DRAPlugin", "devices.fairlead.dev")
        );
        assert_eq!(
            info.supported_versions,
            ["v1.DRAPlugin", "v1alpha1.DRAResourceHealth"]
        );
        let own = self.folder.join("plugins").join(DRIVER).join("dra.sock");
        assert_eq!(info.endpoint, own.display().to_string());
        let is_refused = *self.refuses.borrow();
        if !is_refused {
            // It connects when it calls, and again when the connection ends.
            let driver = endpoint(Path::new(&info.endpoint)).connect_lazy();
            let (this, heard) = (self.clone(), driver.clone());
            let task = tokio::spawn(async move { this.listen(heard).await });
            let before = self.listening.lock().unwrap().replace(task.abort_handle());
            if let Some(before) = before {
                before.abort();
            }
            self.tasks.lock().unwrap().push(task);
            self.driver.send_replace(Some(driver));
        }
        let told = client
            .notify_registration_status(RegistrationStatus {
                plugin_registered: !is_refused,
                error: if is_refused {
                    "not today".to_owned()
                } else {
                    String::new()
                },
            })
            .await;
        drop(told);
        if is_refused {
            self.refused.send_modify(|count| *count += 1);
        }
    }

    async fn listen(&self, driver: Channel) {
        loop {
            self.listen_once(DraResourceHealthClient::new(driver.clone()))
                .await;
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn listen_once(&self, mut client: DraResourceHealthClient<Channel>) {
        let asked = NodeWatchResourcesRequest {};
        let Ok(stream) = client.node_watch_resources(asked).await else {
            return;
        };
        let mut stream = stream.into_inner();
        while let Ok(Some(list)) = stream.message().await {
            let told = list.devices.len();
            let health: Health = list
                .devices
                .into_iter()
                .map(|device| {
                    assert!(device.last_updated_time > 0);
                    assert!(device.health_check_timeout_seconds > 30);
                    let id = device.device.as_ref().unwrap();
                    assert_eq!(id.pool_name, "n1");
                    let is_sick = device.health() == HealthStatus::Unhealthy;
                    assert_eq!(is_sick, !device.message.is_empty());
                    (id.device_name.clone(), is_sick.then_some(device.message))
                })
                .collect();
            assert_eq!(health.len(), told, "each device once");
            self.health.send_replace(health);
        }
    }

    /// Waits until it knows devices to be as wanted.
    pub(super) async fn knows(&self, what: &str, is: impl Fn(&Health) -> bool) {
        let mut health = self.health.subscribe();
        let waited = timeout(PATIENCE, health.wait_for(|health| is(health))).await;
        if waited.is_err() {
            panic!("{what}: {:?}", self.health.borrow());
        }
    }

    /// Waits until it has taken the driver.
    pub(super) async fn has_driver(&self) -> Channel {
        let mut driver = self.driver.subscribe();
        let waited = timeout(PATIENCE, driver.wait_for(Option::is_some)).await;
        waited.expect("taken in time").unwrap().clone().unwrap()
    }

    /// Has a claim prepared.
    pub(super) async fn prepare(&self, name: &str, uid: &str) -> Result<Vec<Device>, String> {
        let mut answers = self.prepare_all(&[(name, uid)]).await.unwrap();
        answers.remove(uid).unwrap()
    }

    /// Has claims prepared; by their uids what came of it.
    pub(super) async fn prepare_all(
        &self,
        claims: &[(&str, &str)],
    ) -> Result<BTreeMap<String, Result<Vec<Device>, String>>, Status> {
        let mut client = DraPluginClient::new(self.has_driver().await);
        let claims: Vec<Claim> = claims.iter().map(|of| claim(of.0, of.1)).collect();
        let asked = claims.len();
        let answer = client
            .node_prepare_resources(NodePrepareResourcesRequest { claims })
            .await?;
        let answers = answer.into_inner().claims;
        assert_eq!(answers.len(), asked, "an answer for each");
        let answers = answers.into_iter().map(|(uid, answer)| {
            let answer = match answer.error.is_empty() {
                true => Ok(answer.devices),
                false => Err(answer.error),
            };
            (uid, answer)
        });
        Ok(answers.collect())
    }

    /// Has a claim taken back.
    pub(super) async fn unprepare(&self, name: &str, uid: &str) -> Result<(), String> {
        let mut client = DraPluginClient::new(self.has_driver().await);
        let claims = vec![claim(name, uid)];
        let answer = client
            .node_unprepare_resources(NodeUnprepareResourcesRequest { claims })
            .await
            .unwrap();
        let error = answer.into_inner().claims.remove(uid).unwrap().error;
        if error.is_empty() { Ok(()) } else { Err(error) }
    }
}

fn claim(name: &str, uid: &str) -> Claim {
    Claim {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
    }
}

fn endpoint(path: &Path) -> Endpoint {
    Endpoint::from_shared(format!("unix://{}", path.display())).unwrap()
}

async fn dial(path: &Path) -> Result<Channel, Status> {
    let channel = endpoint(path).connect().await;
    channel.map_err(|error| Status::unavailable(error.to_string()))
}

/// Pods without claims.
struct NoPods;

#[tonic::async_trait]
impl PodResourcesLister for NoPods {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        Ok(Response::new(ListPodResourcesResponse::default()))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn get(
        &self,
        _: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}
