//! The client of the API server, from the agent's options.

use crate::config::ApiOptions;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::time::Duration;

/// A server that does not take a connection by then is away.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no client; each names the option.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("--kubeconfig {path}: {error}; name a file that `kubectl --kubeconfig` can use")]
    Kubeconfig { path: String, error: String },
    #[error(
        "--source kubernetes: no service account in this container ({0}); run as a pod with one, or name a file by --kubeconfig"
    )]
    ServiceAccount(String),
    #[error("--api-server {url:?}: {error}; write a URL like https://192.0.2.10:6443")]
    ApiServer { url: String, error: String },
    #[error("the client of the API server can't be made: {0}; check the kubeconfig's certificates")]
    Client(#[from] kube::Error),
}

/// Makes the client; nothing is sent yet. Must be called in a tokio runtime.
///
/// # Errors
/// Names the option that can't be used and the remedy.
pub async fn connect(options: &ApiOptions) -> Result<Client, ClientError> {
    let mut config = match &options.kubeconfig {
        Some(path) => {
            let fault = |error: String| ClientError::Kubeconfig {
                path: path.display().to_string(),
                error,
            };
            let file = Kubeconfig::read_from(path).map_err(|e| fault(e.to_string()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|e| fault(e.to_string()))?
        }
        // The variables of the Service may lack, where an address is given by hand.
        None => Config::incluster_env()
            .or_else(|error| match &options.api_server {
                Some(_) => Config::incluster_dns(),
                None => Err(error),
            })
            .map_err(|e| ClientError::ServiceAccount(e.to_string()))?,
    };
    if let Some(url) = &options.api_server {
        match url.parse() {
            Ok(parsed) => config.cluster_url = parsed,
            Err(error) => {
                return Err(ClientError::ApiServer {
                    url: url.clone(),
                    error: error.to_string(),
                });
            }
        }
    }
    config.connect_timeout = Some(CONNECT);
    // Its own retries would hide for a while that the server is away; ours have pauses and are told.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
