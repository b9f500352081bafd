//! How the kubelet finds the driver: a socket in its registry of plugins says where ours is, and which interfaces answer
//! there. The kubelet looks through its registry at its own start, so nobody has to watch it; what counts is that both
//! sockets are there.
//!
//! Their names are the same after every start. Two agents never run on a node at once, so nothing is gained by names of their
//! own; and the kubelet, which waits half a minute for a driver before it deletes its slices, takes a socket that was made
//! anew for the same driver.

use super::{PACE, health, service::Service, slices::DRIVER};
use crate::{
    device::registration::{Identity, identity},
    grpc::{
        listen,
        registrar::{Registrar, Taken},
    },
    parts::Shutdown,
};
use node_api::{
    dra::dra_plugin_server::DraPluginServer,
    dra_health::dra_resource_health_server::DraResourceHealthServer,
    registration::registration_server::RegistrationServer,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::transport::Server;

/// What we are to the kubelet.
const KIND: &str = "DRAPlugin";
/// Interfaces that answer, as the kubelet (1.34 and later) compares them.
pub(super) const VERSIONS: [&str; 2] = ["v1.DRAPlugin", "v1alpha1.DRAResourceHealth"];

/// Longest pause before a kubelet that refuses the driver is asked again.
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// Between two looks whether the sockets are there.
const LOOK: Duration = Duration::from_secs(1);

/// What is served.
pub(super) struct Registering {
    kubelet_dir: PathBuf,
    service: Service,
    taken: watch::Sender<Taken>,
}

/// A socket that is ours as long as it is this one.
type Socket = (PathBuf, Option<Identity>);

/// Both sockets while they are served.
struct Serving {
    sockets: Vec<Socket>,
    ends: Vec<oneshot::Sender<()>>,
    tasks: JoinSet<()>,
    taken: watch::Receiver<Taken>,
}

impl Registering {
    /// `taken` is told what the kubelet says.
    pub(super) fn new(kubelet_dir: &Path, service: Service, taken: watch::Sender<Taken>) -> Self {
        Self {
            kubelet_dir: kubelet_dir.to_owned(),
            service,
            taken,
        }
    }

    /// Serves until `shutdown`.
    pub(super) async fn run(self, mut shutdown: Shutdown) {
        let mut current = None;
        tokio::select! {
            () = self.keep(&mut current) => {}
            () = shutdown.requested() => {}
        }
        if let Some(serving) = current.take() {
            self.end(serving).await;
        }
    }

    /// Again and again, where the kubelet refuses the driver, or a socket is gone.
    async fn keep(&self, current: &mut Option<Serving>) {
        let mut pause = PACE;
        loop {
            match self.begin() {
                Ok(serving) => {
                    let serving = current.insert(serving);
                    if self.attend(serving).await {
                        pause = PACE;
                    }
                    if let Some(serving) = current.take() {
                        self.end(serving).await;
                    }
                }
                Err(why) => {
                    tracing::warn!(why, "devices can't be served to claims yet");
                    self.taken.send_replace(Taken::No(why));
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    fn begin(&self) -> Result<Serving, String> {
        let own = self
            .kubelet_dir
            .join("plugins")
            .join(DRIVER)
            .join("dra.sock");
        let registry = self.kubelet_dir.join("plugins_registry");
        let registry = registry.join(format!("{DRIVER}-reg.sock"));
        let registrar = Registrar::new(KIND, DRIVER, &own, &VERSIONS);
        let mut serving = Serving {
            sockets: Vec::new(),
            ends: Vec::new(),
            tasks: JoinSet::new(),
            taken: registrar.taken(),
        };
        // The kubelet calls as soon as it has found the driver: its own socket is there before.
        let service = Server::builder()
            .add_service(DraPluginServer::new(self.service.clone()))
            .add_service(DraResourceHealthServer::new(health::Watching::new(
                &self.service,
            )));
        serving.serve(own, service)?;
        let registration = Server::builder().add_service(RegistrationServer::new(registrar));
        serving.serve(registry, registration)?;
        Ok(serving)
    }

    /// Returns when the sockets have to be made anew; whether the kubelet had taken the driver.
    async fn attend(&self, serving: &mut Serving) -> bool {
        let mut was_taken = false;
        while serving.is_whole() {
            let taken = serving.taken.borrow_and_update().clone();
            was_taken |= taken == Taken::Yes;
            let is_refused = matches!(taken, Taken::No(_));
            // A socket that was made anew is no news of the kubelet.
            if taken != Taken::NotAsked {
                self.taken.send_if_modified(|told| {
                    let is_news = *told != taken;
                    *told = taken;
                    is_news
                });
            }
            if is_refused {
                return false;
            }
            tokio::select! {
                _ = serving.taken.changed() => {}
                _ = serving.tasks.join_next() => return was_taken,
                () = sleep(LOOK) => {}
            }
        }
        was_taken
    }

    /// Ends it, and removes what is still ours.
    async fn end(&self, mut serving: Serving) {
        for (path, own) in &serving.sockets {
            if own.is_some()
                && identity(path) == *own
                && let Err(error) = fs::remove_file(path)
            {
                tracing::debug!(%error, "the socket was gone already");
            }
        }
        drop(std::mem::take(&mut serving.ends));
        self.service.end_streams();
        let ended = async { while serving.tasks.join_next().await.is_some() {} };
        if timeout(LOOK, ended).await.is_err() {
            tracing::debug!("a connection of the kubelet stays open at the end");
        }
    }
}

impl Serving {
    fn serve(
        &mut self,
        path: PathBuf,
        router: tonic::transport::server::Router,
    ) -> Result<(), String> {
        let listener =
            listen::bind(&path).map_err(|error| format!("socket {}: {error}", path.display()))?;
        let (end, ended) = oneshot::channel::<()>();
        self.tasks.spawn(async move {
            let serving = router.serve_with_incoming_shutdown(listen::lenient(listener), async {
                let _dropped = ended.await.is_err();
            });
            if let Err(error) = serving.await {
                tracing::error!(%error, "a socket of devices for claims is served no more");
            }
        });
        self.ends.push(end);
        let identity = identity(&path);
        self.sockets.push((path, identity));
        Ok(())
    }

    /// Whether the kubelet would find us at our sockets.
    fn is_whole(&self) -> bool {
        self.sockets
            .iter()
            .all(|(path, own)| identity(path) == *own)
    }
}
