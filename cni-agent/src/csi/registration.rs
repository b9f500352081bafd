//! How the kubelet finds the driver: it watches a folder of sockets, asks each who it is (`GetInfo`, within a second),
//! and says whether it took it. It looks through the folder at its own start, so that nobody has to watch it.

use crate::metrics::VolumeCounts;
use node_api::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
    registration_server::Registration,
};
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// Version of the interface, as the kubelet compares it.
const VERSIONS: [&str; 1] = ["1.0.0"];
const CSI: &str = "CSIPlugin";

/// What the kubelet said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Taken {
    #[default]
    NotAsked,
    Yes,
    /// Why not.
    No(String),
}

/// Answers the kubelet.
#[derive(Debug)]
pub(super) struct Registrar {
    driver: String,
    endpoint: PathBuf,
    taken: watch::Sender<Taken>,
    counts: VolumeCounts,
}

impl Registrar {
    /// Of a driver whose socket is `endpoint`.
    pub(super) fn new(driver: &str, endpoint: &Path, counts: VolumeCounts) -> Self {
        Self {
            driver: driver.to_owned(),
            endpoint: endpoint.to_owned(),
            taken: watch::Sender::new(Taken::NotAsked),
            counts,
        }
    }

    /// What the kubelet says, from now on.
    pub(super) fn taken(&self) -> watch::Receiver<Taken> {
        self.taken.subscribe()
    }
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: CSI.to_owned(),
            name: self.driver.clone(),
            endpoint: self.endpoint.display().to_string(),
            supported_versions: VERSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        said: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let said = said.into_inner();
        let taken = match said.plugin_registered {
            true => {
                tracing::info!(driver = self.driver, "the kubelet has taken the driver");
                Taken::Yes
            }
            false => {
                tracing::error!(
                    driver = self.driver,
                    error = said.error,
                    "the kubelet refuses the driver"
                );
                Taken::No(said.error)
            }
        };
        self.counts.registered(taken == Taken::Yes);
        self.taken.send_replace(taken);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
