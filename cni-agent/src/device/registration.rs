//! How the kubelet gets a resource and keeps it, over restarts of both in any order.
//!
//! What counts is whether the kubelet listens to our stream of devices: it has the resource while one is open, and has not
//! when none is. So the socket is served first; the kubelet is told of it whenever it doesn't listen; and told again when
//! it is there anew (it removes all sockets at its start) or when our socket is gone. It is never told while it listens: it
//! would have two streams of one resource, and would take the end of the older for the end of both.

use super::{
    inventory::Offer,
    options::{DeviceConfig, Registration},
    plugin::{self, Plugin},
};
use crate::{
    grpc::{
        listen,
        registrar::{Registrar, Taken},
    },
    metrics::DeviceCounts,
    parts::Shutdown,
    server,
};
use node_api::{
    device::{
        RegisterRequest, device_plugin_server::DevicePluginServer,
        registration_client::RegistrationClient,
    },
    registration::registration_server::RegistrationServer,
};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::transport::{Endpoint, Server};

/// Version of the interface.
pub(super) const VERSION: &str = "v1beta1";
/// What we are to the kubelet's watcher of plugins.
const KIND: &str = "DevicePlugin";
const KUBELET_SOCKET: &str = "kubelet.sock";
/// How the names of ours begin and end.
const SOCKETS: (&str, &str) = ("fairlead-", ".sock");

/// Pauses between attempts: the kubelet may say that it is there before its socket is.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How long the kubelet may take for an answer: it calls back meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take from its answer to its stream.
const STREAM: Duration = Duration::from_secs(2);
/// What no event tells is seen after so long.
const LOOK: Duration = Duration::from_secs(1);
/// Somebody else serves the same resource: neither shall keep the other from it all the time.
const RIVAL: Duration = Duration::from_secs(30);

/// How the kubelet is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Its own socket in its folder of device plugins.
    Register { folder: PathBuf },
    /// Its watcher of plugins: a socket in its registry says where ours is.
    Watcher { registry: PathBuf, folder: PathBuf },
}

/// The kubelet's registry of plugins.
pub(super) fn registry(config: &DeviceConfig) -> PathBuf {
    config.kubelet_dir.join("plugins_registry")
}

impl Way {
    /// That of the configuration.
    pub(super) fn of(config: &DeviceConfig) -> Self {
        let kubelet = &config.kubelet_dir;
        match config.registration {
            Registration::Register => Self::Register {
                folder: kubelet.join("device-plugins"),
            },
            Registration::Watcher => Self::Watcher {
                registry: registry(config),
                folder: kubelet.join("plugins/fairlead-devices"),
            },
        }
    }

    /// Where our sockets are.
    fn folder(&self) -> &Path {
        match self {
            Self::Register { folder } | Self::Watcher { folder, .. } => folder,
        }
    }

    /// Where to look for changes.
    pub(super) fn watched(&self) -> &Path {
        match self {
            Self::Register { folder } => folder,
            Self::Watcher { registry, .. } => registry,
        }
    }
}

/// How far a resource is with the kubelet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    #[default]
    Starting,
    /// It listens.
    Taken,
    /// Why not.
    NotTaken(String),
}

/// What one resource is served with.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) way: Way,
    pub(super) plugin: Plugin,
    /// Ends the kubelet's streams.
    pub(super) until: Arc<watch::Sender<()>>,
    pub(super) standing: watch::Sender<Standing>,
    /// Changes when something in the watched folder may have.
    pub(super) changes: watch::Receiver<u64>,
    pub(super) counts: DeviceCounts,
}

/// A file as it was made: made anew under the same name it is another, even if it gets the same number; with other
/// permissions or another label it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

pub(super) fn identity(path: &Path) -> Option<Identity> {
    let meta = fs::symlink_metadata(path).ok()?;
    // Nobody writes to a socket itself: where a filesystem doesn't know when it was made, that is when.
    let born = meta.created().or_else(|_| meta.modified());
    Some(Identity {
        device: meta.dev(),
        inode: meta.ino(),
        born: born.ok(),
    })
}

/// Takes those of our sockets out of the kubelet's registry of plugins that an agent left there which was killed: the
/// kubelet would go on to ask them. What is `wanted` is made anew by who serves it.
pub(super) fn sweep(registry: &Path, wanted: &BTreeSet<String>) {
    for entry in fs::read_dir(registry).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Drivers of CSI are called as people like; their sockets end so.
        let is_drivers = name.ends_with("-reg.sock");
        let is_ours = name.starts_with(SOCKETS.0) && name.ends_with(SOCKETS.1) && !is_drivers;
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        if !is_ours || !is_socket || wanted.contains(&name) {
            continue;
        }
        let path = entry.path();
        if !matches!(server::is_served(&path), Ok(false)) {
            continue;
        }
        match fs::remove_file(&path) {
            Ok(()) => {
                tracing::info!(socket = %path.display(), "a socket that nobody serves is taken away")
            }
            Err(error) => {
                tracing::warn!(socket = %path.display(), %error, "a socket that nobody serves stays: remove it");
            }
        }
    }
}

/// Our socket while it is served.
struct Serving {
    socket: PathBuf,
    identity: Identity,
    /// The one that tells the watcher of plugins.
    registry: Option<(PathBuf, Identity, watch::Receiver<Taken>)>,
    ends: Vec<oneshot::Sender<()>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Serving {
    fn begin(served: &Served) -> Result<Self, String> {
        let offer = served.plugin.offers.borrow().clone();
        let name = offer.rule.name.socket();
        let socket = served.way.folder().join(&name);
        let fault = |path: &Path, error: &dyn std::fmt::Display| {
            format!("socket {}: {error}", path.display())
        };
        let made = |path: &Path| {
            identity(path).ok_or_else(|| fault(path, &"somebody removed it as soon as it was made"))
        };
        let listener = listen::bind(&socket).map_err(|error| fault(&socket, &error))?;
        let mut this = Self {
            identity: made(&socket)?,
            socket,
            registry: None,
            ends: Vec::new(),
            tasks: Vec::new(),
        };
        let (end, ended) = oneshot::channel();
        let serving = Server::builder()
            .add_service(DevicePluginServer::new(served.plugin.clone()))
            .serve_with_incoming_shutdown(listen::lenient(listener), async {
                let _dropped = ended.await.is_err();
            });
        this.run(end, serving);
        if let Way::Watcher { registry, .. } = &served.way {
            let path = registry.join(&name);
            let registrar =
                Registrar::new(KIND, offer.rule.name.as_str(), &this.socket, &[VERSION]);
            let taken = registrar.taken();
            let listener = listen::bind(&path).map_err(|error| fault(&path, &error))?;
            let (end, ended) = oneshot::channel();
            let serving = Server::builder()
                .add_service(RegistrationServer::new(registrar))
                .serve_with_incoming_shutdown(listen::lenient(listener), async {
                    let _dropped = ended.await.is_err();
                });
            this.run(end, serving);
            this.registry = Some((path.clone(), made(&path)?, taken));
        }
        Ok(this)
    }

    fn run(
        &mut self,
        end: oneshot::Sender<()>,
        serving: impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
    ) {
        self.ends.push(end);
        self.tasks.push(tokio::spawn(async {
            if let Err(error) = serving.await {
                tracing::error!(%error, "a socket of devices is served no more");
            }
        }));
    }

    /// Whether the kubelet would find us at our sockets.
    fn is_whole(&self) -> bool {
        let registry = self.registry.as_ref();
        identity(&self.socket) == Some(self.identity)
            && registry.is_none_or(|(path, own, _)| identity(path) == Some(*own))
            && !self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Whether somebody else's socket is in the place of ours.
    fn has_rival(&self) -> bool {
        identity(&self.socket).is_some_and(|other| other != self.identity)
    }

    /// Ends it; removes what is still ours.
    async fn end(self) {
        for (path, own) in std::iter::once((&self.socket, self.identity))
            .chain(self.registry.iter().map(|(path, own, _)| (path, *own)))
        {
            if identity(path) == Some(own)
                && let Err(error) = fs::remove_file(path)
            {
                tracing::debug!(%error, "the socket was gone already");
            }
        }
        drop(self.ends);
        for task in self.tasks {
            // A stream that is open would keep it open.
            if timeout(LOOK, task).await.is_err() {
                tracing::debug!("a connection of the kubelet stays open at the end");
            }
        }
    }
}

/// Keeps the kubelet served until `stop`.
pub(super) async fn run(served: Served, mut stop: Shutdown) {
    let mut current = None;
    tokio::select! {
        () = keep(&served, &mut current) => {}
        () = stop.requested() => {}
    }
    end(&served, &mut current).await;
    let name = served.plugin.offers.borrow().rule.name.clone();
    served.counts.registered(name.as_str(), false);
}

async fn end(served: &Served, current: &mut Option<Serving>) {
    served.until.send_replace(());
    if let Some(serving) = current.take() {
        serving.end().await;
    }
}

async fn keep(served: &Served, current: &mut Option<Serving>) {
    let name = served.plugin.offers.borrow().rule.name.clone();
    let mut pause = FIRST_PAUSE;
    loop {
        match Serving::begin(served) {
            Ok(serving) => {
                let serving = current.insert(serving);
                attend(served, serving, &mut pause).await;
                // However long the kubelet was away: it is back, and removed our socket.
                pause = FIRST_PAUSE;
                if serving.has_rival() {
                    let why = format!(
                        "another process serves {name} at {}: end it, or take the resource out of one configuration",
                        serving.socket.display()
                    );
                    tracing::error!(resource = %name, why, "the kubelet does not get a resource");
                    served.standing.send_replace(Standing::NotTaken(why));
                    pause = RIVAL;
                }
                end(served, current).await;
            }
            Err(why) => {
                tracing::warn!(resource = %name, why, "devices can't be served yet");
                served.standing.send_replace(Standing::NotTaken(why));
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Has the kubelet listen, again and again, until our sockets have to be made anew.
async fn attend(served: &Served, serving: &Serving, pause: &mut Duration) {
    let name = served.plugin.offers.borrow().rule.name.clone();
    let mut streams = served.plugin.streams.subscribe();
    let mut changes = served.changes.clone();
    loop {
        if !serving.is_whole() {
            return;
        }
        if *streams.borrow_and_update() > 0 {
            *pause = FIRST_PAUSE;
            if served.standing.send_replace(Standing::Taken) != Standing::Taken {
                tracing::info!(resource = %name, "the kubelet has taken the resource");
                served.counts.registered(name.as_str(), true);
            }
            tokio::select! {
                _ = streams.changed() => {}
                _ = changes.changed() => {}
                () = sleep(LOOK) => {}
            }
            continue;
        }
        if *served.standing.borrow() == Standing::Taken {
            served.counts.registered(name.as_str(), false);
            tracing::warn!(resource = %name, "the kubelet does not listen any more");
        }
        changes.mark_unchanged();
        let why = match &served.way {
            Way::Register { folder } => {
                let offer = served.plugin.offers.borrow().clone();
                served.counts.asked(name.as_str());
                register(folder, &offer).await.err()
            }
            Way::Watcher { .. } => None,
        };
        if why.is_none() {
            let opened = timeout(STREAM, streams.wait_for(|open| *open > 0)).await;
            if opened.is_ok() {
                continue;
            }
        }
        let refused = serving
            .registry
            .as_ref()
            .and_then(|(_, _, taken)| match &*taken.borrow() {
                Taken::No(why) => Some(why.clone()),
                _ => None,
            });
        let why = why.or(refused).unwrap_or_else(|| {
            "the kubelet knows of it and does not ask for its devices; is it running?".to_owned()
        });
        let standing = Standing::NotTaken(why.clone());
        if served.standing.send_replace(standing.clone()) != standing {
            tracing::warn!(resource = %name, why, "the kubelet does not have the resource yet");
        }
        // The watcher of plugins asks once: it gets a new socket.
        if matches!(served.way, Way::Watcher { .. }) {
            return;
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = sleep(*pause) => {}
        }
        *pause = (*pause * 2).min(LAST_PAUSE);
    }
}

/// Tells the kubelet where our socket is.
async fn register(folder: &Path, offer: &Offer) -> Result<(), String> {
    let socket = folder.join(KUBELET_SOCKET);
    if identity(&socket).is_none() {
        return Err(format!(
            "{} isn't there: the kubelet is not running yet, or has another folder (--kubelet-dir)",
            socket.display()
        ));
    }
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
        .map_err(|error| error.to_string())?
        .connect_timeout(LOOK)
        .timeout(PATIENCE);
    let told = async {
        let channel = endpoint.connect().await.map_err(|error| {
            format!(
                "the kubelet does not answer at {}: {error}",
                socket.display()
            )
        })?;
        let request = RegisterRequest {
            version: VERSION.to_owned(),
            endpoint: offer.rule.name.socket(),
            resource_name: offer.rule.name.as_str().to_owned(),
            options: Some(plugin::options(offer)),
        };
        let answer = RegistrationClient::new(channel).register(request).await;
        answer.map(|_| ()).map_err(|status| {
            format!(
                "the kubelet refuses {}: {}",
                offer.rule.name,
                status.message()
            )
        })
    };
    timeout(PATIENCE, told)
        .await
        .unwrap_or_else(|_| Err("the kubelet does not answer in time".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::{fs::PermissionsExt as _, net::UnixListener};

    #[test]
    fn a_socket_with_other_permissions_is_the_same_and_another_in_its_place_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("a.sock");
        let _ours = UnixListener::bind(&socket).unwrap();
        let before = identity(&socket).unwrap();
        let ctime = || {
            let meta = fs::symlink_metadata(&socket).unwrap();
            (meta.ctime(), meta.ctime_nsec())
        };
        let changed = ctime();
        // The kernel's clock ticks slowly.
        while ctime() == changed {
            fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        }
        assert_eq!(identity(&socket), Some(before));
        let other = folder.path().join("b.sock");
        let _theirs = UnixListener::bind(&other).unwrap();
        fs::rename(&other, &socket).unwrap();
        assert_ne!(identity(&socket), Some(before));
        fs::remove_file(&socket).unwrap();
        assert_eq!(identity(&socket), None);
    }

    #[test]
    fn sockets_that_nobody_serves_and_nobody_wants_are_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        for left in [
            "fairlead-a-1.sock",
            "fairlead-b-2.sock",
            "fairlead-csi-reg.sock",
            "other.sock",
        ] {
            drop(UnixListener::bind(place(left)).unwrap());
        }
        let _served = UnixListener::bind(place("fairlead-c-3.sock")).unwrap();
        fs::write(place("fairlead-d-4.sock"), "no socket").unwrap();
        sweep(folder.path(), &["fairlead-b-2.sock".to_owned()].into());
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let expected = [
            "fairlead-b-2.sock",
            "fairlead-c-3.sock",
            "fairlead-csi-reg.sock",
            "fairlead-d-4.sock",
            "other.sock",
        ];
        assert_eq!(left, expected);
        // Where there is no registry, there is nothing to do.
        sweep(&place("none"), &BTreeSet::new());
    }
}
