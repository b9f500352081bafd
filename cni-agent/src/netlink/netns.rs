//! Work inside another network namespace, always on a thread of its own that ends with the work: no
//! other task ever runs on a thread whose namespace was changed. This is the only place that
//! changes namespaces.

use super::error::NetlinkError;
use rustix::{
    fs::{fstat, fstatfs, stat},
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::mpsc,
    thread,
};
use tokio::sync::oneshot;

/// Magic number of the file system that namespaces live on ("nsfs").
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Which network namespace: true as long as somebody holds it open, may be reused afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}

/// Identifies the namespace behind a descriptor.
///
/// # Errors
/// `NotNetns` when it is a descriptor of something else than a namespace. That it is a namespace of
/// the network kind is checked by the kernel on entering.
pub fn identify(netns: BorrowedFd<'_>) -> Result<NetnsId, NetlinkError> {
    let what = "look at the descriptor for CNI_NETNS";
    let fault = |errno: Errno| NetlinkError::Namespace {
        what,
        source: errno.into(),
    };
    let kind = fstatfs(netns).map_err(fault)?.f_type;
    if u64::try_from(kind).ok() != Some(NSFS_MAGIC) {
        return Err(NetlinkError::NotNetns(format!(
            "file system type {kind:#x}"
        )));
    }
    let stat = fstat(netns).map_err(fault)?;
    Ok(NetnsId {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// Identifies the namespace of the calling thread.
///
/// # Errors
/// `Namespace` when /proc is not mounted.
pub fn current() -> Result<NetnsId, NetlinkError> {
    let what = "look at the node's own network namespace";
    let stat = stat("/proc/thread-self/ns/net").map_err(|errno| NetlinkError::Namespace {
        what,
        source: errno.into(),
    })?;
    Ok(NetnsId {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// Refuses what is not a pod's namespace: other files, and the node's own namespace.
///
/// # Errors
/// `NotNetns` or `HostNetns`.
pub fn check_pod(netns: BorrowedFd<'_>) -> Result<NetnsId, NetlinkError> {
    let id = identify(netns)?;
    if id == current()? {
        return Err(NetlinkError::HostNetns(id.to_string()));
    }
    Ok(id)
}

/// Proof that the calling thread is one of ours, so that it may change its namespace.
pub(super) struct OwnThread(());

impl OwnThread {
    /// Moves this thread into `netns`, for the rest of its life.
    pub(super) fn enter(&self, netns: BorrowedFd<'_>) -> Result<(), NetlinkError> {
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).map_err(|errno| {
            match errno {
                // The kernel's word for "a namespace, but not of the kind asked for".
                Errno::INVAL => NetlinkError::NotNetns("a namespace of another kind".into()),
                _ => NetlinkError::Namespace {
                    what: "enter the sandbox's network namespace",
                    source: errno.into(),
                },
            }
        })
    }
}

/// Runs `task` on a thread of its own and waits for it without blocking the runtime.
pub(super) async fn on_own_thread<T: Send + 'static>(
    name: &'static str,
    task: impl FnOnce(&OwnThread) -> Result<T, NetlinkError> + Send + 'static,
) -> Result<T, NetlinkError> {
    on_own_thread_or_undo(name, move |thread| Ok((task(thread)?, ())), drop).await
}

/// Like [`on_own_thread`], for work that must not stay when the caller gives up (deadline) before
/// it has the result: then `undo` gets what `task` kept for it. It runs on the same thread, in
/// whatever namespace `task` has entered.
pub(super) async fn on_own_thread_or_undo<T: Send + 'static, U>(
    name: &'static str,
    task: impl FnOnce(&OwnThread) -> Result<(T, U), NetlinkError> + Send + 'static,
    undo: impl FnOnce(U) + Send + 'static,
) -> Result<T, NetlinkError> {
    let (sender, receiver) = oneshot::channel();
    // A sent result may still be dropped unread, so the thread waits for a receipt.
    let (receipt, received) = mpsc::channel::<()>();
    thread::Builder::new()
        .name(name.into())
        .spawn(move || match task(&OwnThread(())) {
            Err(error) => {
                if let Err(Err(error)) = sender.send(Err(error)) {
                    tracing::debug!(%error, "{name} failed after its caller gave up");
                }
            }
            Ok((result, kept)) => {
                if sender.send(Ok(result)).is_err() || received.recv().is_err() {
                    undo(kept);
                }
            }
        })
        .map_err(|source| NetlinkError::Namespace {
            what: "start a thread",
            source,
        })?;
    let result = receiver.await.unwrap_or(Err(NetlinkError::Thread(name)));
    if result.is_ok() && receipt.send(()).is_err() {
        // It panicked between answer and receipt: the result may be undone or not.
        return Err(NetlinkError::Thread(name));
    }
    result
}

/// Runs `task` inside `netns` on a thread of its own.
///
/// # Errors
/// `NotNetns` when the descriptor is no network namespace, `Namespace` when it cannot be entered,
/// and whatever `task` answers.
pub async fn run<T: Send + 'static>(
    netns: BorrowedFd<'_>,
    task: impl FnOnce() -> Result<T, NetlinkError> + Send + 'static,
) -> Result<T, NetlinkError> {
    let netns = duplicate(netns)?;
    on_own_thread("fl-netns", move |thread| {
        thread.enter(netns.as_fd())?;
        task()
    })
    .await
}

pub(super) fn duplicate(netns: BorrowedFd<'_>) -> Result<OwnedFd, NetlinkError> {
    netns
        .try_clone_to_owned()
        .map_err(|source| NetlinkError::Namespace {
            what: "copy the descriptor for CNI_NETNS",
            source,
        })
}
