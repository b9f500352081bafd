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
    #[error(
        "--kubeconfig (or KUBECONFIG) {path}: {error}; name one file that `kubectl --kubeconfig` can use"
    )]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_wrong_is_told_by_the_option_s_name() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("odd");
        std::fs::write(&odd, "kind: Config\napiVersion: v1\nclusters: 7\n").unwrap();
        let good = folder.path().join("good");
        let text = "{kind: Config, apiVersion: v1, current-context: x, clusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443'}}], users: [{name: u, user: {token: t}}], contexts: [{name: x, context: {cluster: c, user: u}}]}";
        std::fs::write(&good, text).unwrap();
        for (kubeconfig, api_server, parts) in [
            (
                folder.path().join("none"),
                None,
                ["--kubeconfig", "none", "kubectl"],
            ),
            (odd, None, ["--kubeconfig", "odd", "kubectl"]),
            (
                good.clone(),
                Some("https://[".to_owned()),
                ["--api-server", "https://[", "https://192.0.2.10:6443"],
            ),
        ] {
            let options = ApiOptions {
                kubeconfig: Some(kubeconfig),
                api_server,
            };
            let text = connect(&options).await.err().unwrap().to_string();
            for part in parts {
                assert!(text.contains(part), "{text} lacks {part}");
            }
        }
        let options = ApiOptions {
            kubeconfig: Some(good),
            api_server: Some("https://192.0.2.9:6443".to_owned()),
        };
        connect(&options).await.unwrap();
    }
}
