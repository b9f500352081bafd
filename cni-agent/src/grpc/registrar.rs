//! How the kubelet finds a plugin: it watches a folder of sockets, asks each who it is (`GetInfo`, within a second), and
//! says whether it took it. It looks through the folder at its own start, so that nobody has to watch it.

use node_api::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
    registration_server::Registration,
};
use std::path::Path;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// What the kubelet said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Taken {
    #[default]
    NotAsked,
    Yes,
    /// Why not.
    No(String),
}

/// Answers the kubelet.
#[derive(Debug)]
pub(crate) struct Registrar {
    info: PluginInfo,
    taken: watch::Sender<Taken>,
}

impl Registrar {
    /// Of a plugin of a kind (`CSIPlugin`, `DevicePlugin`, `DRAPlugin`) whose own socket is `endpoint`; versions are of
    /// its interface, as the kubelet compares them.
    pub(crate) fn new(kind: &str, name: &str, endpoint: &Path, versions: &[&str]) -> Self {
        Self {
            info: PluginInfo {
                r#type: kind.to_owned(),
                name: name.to_owned(),
                endpoint: endpoint.display().to_string(),
                supported_versions: versions.iter().map(|&v| v.to_owned()).collect(),
            },
            taken: watch::Sender::new(Taken::NotAsked),
        }
    }

    /// What the kubelet says, from now on.
    pub(crate) fn taken(&self) -> watch::Receiver<Taken> {
        self.taken.subscribe()
    }
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        said: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let said = said.into_inner();
        let (kind, name) = (&self.info.r#type, &self.info.name);
        let taken = match said.plugin_registered {
            true => {
                tracing::info!(kind, name, "the kubelet has taken the plugin");
                Taken::Yes
            }
            false => {
                tracing::error!(
                    kind,
                    name,
                    error = said.error,
                    "the kubelet refuses the plugin"
                );
                Taken::No(said.error)
            }
        };
        self.taken.send_replace(taken);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
