//! The agent's Unix socket: calls of the CNI plugin and questions of the command line, one request
//! and one response per connection. Only root may ask.

use crate::{
    cni::{
        CniError,
        caller::Caller,
        frame::{read_answer, read_frame_with_fd, write_frame},
        protocol::{CniCall, Request, Response},
    },
    parts::Shutdown,
    query::Query,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
    time::Timespec,
};
use serde_json::Value;
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
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
        caller: Caller,
    ) -> impl Future<Output = Result<Value, CniError>> + Send;

    /// A question of the command line.
    fn query(self: Arc<Self>, query: Query)
    -> impl Future<Output = Result<Value, CniError>> + Send;
}

/// Longest wait for the leavings of an agent that was killed: a program that it was just starting has copies of its lock
/// and its socket until it runs.
const LEAVINGS: Duration = Duration::from_secs(2);
/// Between two looks at them.
const LOOK: Duration = Duration::from_millis(10);

/// The socket in its place, this agent's as long as it holds the lock beside it.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket, to know it from a successor's.
    id: (u64, u64),
    _lock: File,
}

/// Binds the socket, for root alone; replaces one that a dead agent left. Of two agents that start at
/// the same time one has the lock, and the socket. Blocks for a moment while another has it.
///
/// # Errors
/// When another agent listens there, or the folder can't be written.
pub fn listen(path: &Path) -> io::Result<Listener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let begin = Instant::now();
    let lock = loop {
        match alone(path) {
            Err(error) if is_in_use(&error) && begin.elapsed() < LEAVINGS => thread::sleep(LOOK),
            other => break other?,
        }
    };
    let (socket, meta) = bind(path)?;
    Ok(Listener {
        socket,
        path: path.to_owned(),
        id: (meta.dev(), meta.ino()),
        _lock: lock,
    })
}

/// Binds a socket for root alone, in place of what is there: under another name and moved into place, so that no moment
/// has a path without a listener or with permissions for everybody. With what the path has then.
///
/// # Errors
/// When the folder can't be written.
pub(crate) fn bind(path: &Path) -> io::Result<(UnixListener, fs::Metadata)> {
    // With a dot in front: the kubelet takes everything else in its folder of plugins for one.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.new-{}", std::process::id()));
    remove_if_there(&fresh)?;
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    let meta = fs::symlink_metadata(&fresh)?;
    fs::rename(&fresh, path)?;
    Ok((listener, meta))
}

/// The lock, where nobody else listens.
fn alone(path: &Path) -> io::Result<File> {
    let lock = lock(path)?;
    // An agent of a release without the lock.
    match has_listener(path)? {
        true => Err(in_use()),
        false => Ok(lock),
    }
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn in_use() -> io::Error {
    io::Error::new(
        io::ErrorKind::AddrInUse,
        "another agent listens there: stop it first, or give this one another --socket",
    )
}

/// Takes the lock beside the socket; it ends with the process that holds it.
fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(PathBuf::from(name))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(in_use()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether somebody listens at the path. Doesn't wait: an agent whose queue is full listens, too.
fn has_listener(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(_) => Ok(false),
    }
}

impl Listener {
    /// Takes the socket away, if it is still this agent's, before its queue: a successor binds the
    /// path only once nobody listens.
    fn close(self) {
        let found = fs::symlink_metadata(&self.path).map(|meta| (meta.dev(), meta.ino()));
        if found.is_ok_and(|found| found == self.id)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "the socket could not be removed");
        }
    }
}

/// Whether an agent listens at the path.
///
/// # Errors
/// When the path is no socket's, or too long for one.
pub fn is_served(path: &Path) -> io::Result<bool> {
    has_listener(path)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Serves until `shutdown`, then closes the socket at once, so that who calls now does not wait for
/// nobody (the plugin writes its deletion down), and lets requests under way end.
pub async fn serve(listener: Listener, handler: Arc<impl Handler>, mut shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(MAX_REQUESTS));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.socket.accept().await)
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
            // Without a place there is nobody to close the semaphore.
            let Ok(place) = place.map(Arc::new) else {
                return;
            };
            if let Err(error) = serve_one(stream, handler, &place).await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    listener.close();
    let all = u32::try_from(MAX_REQUESTS).unwrap_or(u32::MAX);
    let _ended = timeout(LAST_CALLS, places.acquire_many(all)).await.is_ok();
}

async fn serve_one(
    mut stream: UnixStream,
    handler: Arc<impl Handler>,
    place: &Arc<OwnedSemaphorePermit>,
) -> io::Result<()> {
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
        Ok((Request::Cni(call), sandbox)) => {
            let caller = caller(&stream, &call)?;
            let patience = Duration::from_millis(call.deadline_ms).min(LONGEST_CALL);
            let place = place.clone();
            let work = async move {
                let answer = handler.cni(call, sandbox, caller).await;
                // A call that goes on after its deadline is still one of those under way.
                drop(place);
                answer
            };
            Response::from(answer(patience, work).await)
        }
    };
    timeout(PEER_PATIENCE, write_frame(&mut stream, &response)).await?
}

/// The call runs in a task of its own, so that it is finished or undone even when the peer gives
/// up: nothing stays half made.
async fn answer(
    patience: Duration,
    work: impl Future<Output = Result<Value, CniError>> + Send + 'static,
) -> Result<Value, CniError> {
    match timeout(patience, tokio::spawn(work)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panic)) => Err(CniError::internal(&panic.to_string())),
        Err(_late) => Err(CniError::try_again(
            "the agent needs longer than the deadline",
        )),
    }
}

/// The peer of the connection, as the one that waits for the call.
fn caller(stream: &UnixStream, call: &CniCall) -> io::Result<Caller> {
    let peer = stream.as_fd().try_clone_to_owned()?;
    Ok(Caller::new(call.expires_at_ms, move || has_hung_up(&peer)))
}

/// Whether the peer has closed its end. Doesn't wait.
fn has_hung_up(peer: &OwnedFd) -> bool {
    let mut peer = [PollFd::new(peer, PollFlags::empty())];
    let now = Timespec::default();
    poll(&mut peer, Some(&now)).is_ok_and(|ready| ready > 0)
        && peer[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR)
}

/// Asks the agent at `socket`.
///
/// # Errors
/// Says what to do when no agent answers.
pub async fn query(socket: &Path, query: Query) -> Result<Value, String> {
    let no_agent = |e: io::Error| unanswered(socket, &e);
    let mut stream = UnixStream::connect(socket).await.map_err(no_agent)?;
    write_frame(&mut stream, &Request::Query { query })
        .await
        .map_err(no_agent)?;
    let response: Response = read_answer(&mut stream).await.map_err(|e| e.to_string())?;
    response.into_result().map_err(|e| e.to_string())
}

/// Why nobody answers at the socket, and what to do about it.
fn unanswered(socket: &Path, error: &io::Error) -> String {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!(
                "{socket}: {error}: only root may ask the agent: run as root, by sudo for example"
            )
        }
        _ => format!(
            "no agent answers at {socket} ({error}): start it with `fairlead agent --node-name NAME`, or name its socket with --socket"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    #[derive(Default)]
    struct Slow {
        entered: Notify,
        go_on: Notify,
        carried_out: AtomicUsize,
    }

    impl Handler for Slow {
        async fn cni(
            self: Arc<Self>,
            _: CniCall,
            _: Option<OwnedFd>,
            caller: Caller,
        ) -> Result<Value, CniError> {
            self.entered.notify_one();
            self.go_on.notified().await;
            caller.still_waits(&crate::clock::SystemClock)?;
            self.carried_out.fetch_add(1, Ordering::SeqCst);
            Ok(Value::Null)
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
        let serving = tokio::spawn(serve(listener, handler.clone(), shutdown));
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

    fn add(deadline_ms: u64, expires_at_ms: Option<u64>) -> Request {
        Request::Cni(CniCall {
            command: crate::cni::protocol::Command::Add,
            container_id: "c1".to_owned(),
            ifname: "eth0".to_owned(),
            netns: String::new(),
            args: String::new(),
            path: String::new(),
            config: Value::Null,
            deadline_ms,
            expires_at_ms,
        })
    }

    #[test]
    fn who_gets_no_answer_is_told_what_to_do() {
        let told = |kind| unanswered(Path::new("/s"), &io::Error::from(kind));
        let forbidden = told(io::ErrorKind::PermissionDenied);
        assert!(forbidden.contains("run as root"), "{forbidden}");
        let missing = told(io::ErrorKind::NotFound);
        assert!(missing.contains("start it"), "{missing}");
    }

    fn place() -> Arc<OwnedSemaphorePermit> {
        Arc::new(Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap())
    }

    #[tokio::test]
    async fn a_call_whose_peer_hung_up_or_whose_end_passed_is_known_to_be_dead() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let Request::Cni(call) = add(1_000, None) else {
            panic!("not a call");
        };
        let caller = caller(&ours, &call).unwrap();
        let clock = crate::clock::SystemClock;
        caller.still_waits(&clock).unwrap();
        drop(theirs);
        assert_eq!(caller.still_waits(&clock).unwrap_err().code, 11);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let Request::Cni(call) = add(1_000, Some(1)) else {
            panic!("not a call");
        };
        let caller = super::caller(&ours, &call).unwrap();
        assert_eq!(caller.still_waits(&clock).unwrap_err().code, 11);
    }

    #[tokio::test]
    async fn a_call_past_its_deadline_keeps_its_place_until_it_has_ended() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (handler, place) = (Arc::new(Slow::default()), place());
        let serving = tokio::spawn({
            let (handler, place) = (handler.clone(), place.clone());
            async move { serve_one(ours, handler, &place).await }
        });
        write_frame(&mut theirs, &add(1, None)).await.unwrap();
        let late: Response = read_answer(&mut theirs).await.unwrap();
        assert_eq!(late.into_result().unwrap_err().code, 11);
        serving.await.unwrap().unwrap();
        assert_eq!(Arc::strong_count(&place), 2, "the call still runs");
        handler.go_on.notify_one();
        while Arc::strong_count(&place) > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(handler.carried_out.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_a_killed_agent_was_just_starting_holds_its_place_for_a_moment_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let killed = listen(&path).unwrap();
        let leaving = thread::spawn(move || {
            thread::sleep(LEAVINGS / 8);
            drop(killed);
        });
        drop(listen(&path).unwrap());
        leaving.join().unwrap();
    }

    #[tokio::test]
    async fn of_two_agents_one_has_the_socket_and_an_ending_one_leaves_anothers_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let first = listen(&path).unwrap();
        let error = listen(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        // Even where its socket was removed by hand: both would serve one node.
        fs::remove_file(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        // The path is another's by now.
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        first.close();
        assert!(path.exists(), "another's socket was removed");
        // It has no lock, as an agent of an older release; it is found by its queue, full or not.
        rustix::net::listen(&other, 0).unwrap();
        let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(other);
        drop(listen(&path).unwrap());
    }
}
