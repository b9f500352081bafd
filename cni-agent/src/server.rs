//! The agent's Unix socket: calls of the CNI plugin and questions of the command line, one request
//! and one response per connection. Only root may ask.

use crate::{
    cni::{
        CniError,
        frame::{read_answer, read_frame_with_fd, write_frame},
        protocol::{CniCall, Request, Response},
    },
    parts::Shutdown,
    query::Query,
};
use serde_json::Value;
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

/// Most requests worked on at once; further ones wait in the listen queue.
const MAX_REQUESTS: usize = 256;
/// Longest wait for a peer to send its request or to take the answer.
const PEER_PATIENCE: Duration = Duration::from_secs(10);
/// Longest that a CNI call may take, whatever it asks for.
const LONGEST_CALL: Duration = Duration::from_secs(300);
/// Longest that calls under way may take once the agent is told to end: less than what Kubernetes
/// and systemd grant before they kill.
const LAST_CALLS: Duration = Duration::from_secs(20);

/// What answers the requests.
pub trait Handler: Send + Sync + 'static {
    /// A CNI command with the sandbox that the plugin opened.
    fn cni(
        self: Arc<Self>,
        call: CniCall,
        sandbox: Option<OwnedFd>,
    ) -> impl Future<Output = Result<Value, CniError>> + Send;

    /// A question of the command line.
    fn query(self: Arc<Self>, query: Query)
    -> impl Future<Output = Result<Value, CniError>> + Send;
}

/// Binds the socket, for root alone; replaces one that a dead agent left.
///
/// # Errors
/// When another agent listens there, or the folder can't be written.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another agent listens there: stop it first, or give this one another --socket",
        ));
    }
    // Bound under another name and moved into place, so that no moment has a path without a
    // listener or with permissions for everybody.
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    remove_if_there(&fresh)?;
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Serves until `shutdown`, then closes the socket at once, so that who calls now does not wait for
/// nobody (the plugin writes its deletion down), and lets requests under way end.
pub async fn serve(
    listener: UnixListener,
    path: PathBuf,
    handler: Arc<impl Handler>,
    mut shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(MAX_REQUESTS));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = shutdown.requested() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Out of descriptors, say: give the requests under way time to end.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_one(stream, handler).await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    // The path before the listener: a successor binds it only once nobody listens.
    if let Err(error) = fs::remove_file(&path) {
        tracing::debug!(%error, "the socket was gone already");
    }
    drop(listener);
    let all = u32::try_from(MAX_REQUESTS).unwrap_or(u32::MAX);
    let _ended = timeout(LAST_CALLS, places.acquire_many(all)).await.is_ok();
}

async fn serve_one(mut stream: UnixStream, handler: Arc<impl Handler>) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    if peer.uid() != 0 {
        tracing::warn!(
            uid = peer.uid(),
            pid = peer.pid(),
            "refused: only root may ask the agent"
        );
        let refusal = CniError::forbidden("only root may ask the agent");
        return write_frame(&mut stream, &Response::from(Err(refusal))).await;
    }
    let received = timeout(PEER_PATIENCE, read_frame_with_fd::<Request>(&mut stream)).await?;
    let response = match received {
        Err(fault) => Response::from(Err(fault.into_cni()?)),
        Ok((Request::Query { query }, _)) => Response::from(handler.query(query).await),
        Ok((Request::Cni(call), sandbox)) => Response::from(answer(call, sandbox, handler).await),
    };
    timeout(PEER_PATIENCE, write_frame(&mut stream, &response)).await?
}

/// The call runs in a task of its own, so that it is finished or undone even when the peer gives
/// up: nothing stays half made.
async fn answer(
    call: CniCall,
    sandbox: Option<OwnedFd>,
    handler: Arc<impl Handler>,
) -> Result<Value, CniError> {
    let patience = Duration::from_millis(call.deadline_ms).min(LONGEST_CALL);
    let task = tokio::spawn(handler.cni(call, sandbox));
    match timeout(patience, task).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panic)) => Err(CniError::internal(&panic.to_string())),
        Err(_late) => Err(CniError::try_again(
            "the agent needs longer than the deadline",
        )),
    }
}

/// Asks the agent at `socket`.
///
/// # Errors
/// Says what to do when no agent answers.
pub async fn query(socket: &Path, query: Query) -> Result<Value, String> {
    let no_agent = |e: io::Error| {
        format!(
            "no agent answers at {} ({e}): start it with `fairlead agent --node-name NAME`, or name its socket with --socket",
            socket.display()
        )
    };
    let mut stream = UnixStream::connect(socket).await.map_err(no_agent)?;
    write_frame(&mut stream, &Request::Query { query })
        .await
        .map_err(no_agent)?;
    let response: Response = read_answer(&mut stream).await.map_err(|e| e.to_string())?;
    response.into_result().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Notify;

    #[derive(Default)]
    struct Slow {
        entered: Notify,
        go_on: Notify,
    }

    impl Handler for Slow {
        async fn cni(self: Arc<Self>, _: CniCall, _: Option<OwnedFd>) -> Result<Value, CniError> {
            Err(CniError::internal("not asked here"))
        }

        async fn query(self: Arc<Self>, _: Query) -> Result<Value, CniError> {
            self.entered.notify_one();
            self.go_on.notified().await;
            Ok(Value::Bool(true))
        }
    }

    #[tokio::test]
    async fn an_ending_agent_answers_who_called_before_and_has_no_socket_for_who_calls_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let (stop, shutdown) = Shutdown::new();
        let handler = Arc::new(Slow::default());
        let listener = listen(&path).unwrap();
        let serving = tokio::spawn(serve(listener, path.clone(), handler.clone(), shutdown));
        let before = tokio::spawn({
            let path = path.clone();
            async move { query(&path, Query::Status).await }
        });
        handler.entered.notified().await;

        stop.send_replace(true);
        while path.exists() {
            tokio::task::yield_now().await;
        }
        let after = query(&path, Query::Status).await.unwrap_err();
        assert!(after.contains("no agent answers"), "{after}");
        assert!(!serving.is_finished(), "it still owes an answer");

        handler.go_on.notify_one();
        assert_eq!(before.await.unwrap(), Ok(Value::Bool(true)));
        serving.await.unwrap();
        // Its successor may have the path at once.
        drop(listen(&path).unwrap());
    }
}
