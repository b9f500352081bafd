//! What the node remembers across restarts: its endpoints, which addresses were released when, and
//! the next endpoint number. One redb file; [`Book`] is what the agent uses, [`Store`] the durable
//! half of it.
//!
//! Invariant: what a caller was told is durable survives kill -9 and power loss, whole or not at
//! all, and what a caller was told failed does not come back.

mod book;
mod change;
mod error;
mod file;
mod mirror;
mod writer;

pub use book::{Book, COOL_DOWN, Reservation, Uncommitted};
pub use change::{Change, Contents};
pub use error::StoreError;

#[cfg(test)]
pub(crate) use writer::tests::FaultyDisk;

use file::Medium;
use std::{path::Path, thread::JoinHandle};
use tokio::sync::{mpsc, oneshot};
use writer::{Done, Failure, Submission, Writer};

/// Commits that may wait for the writer before callers wait for room.
const WAITING: usize = 256;

/// The durable half: one file, one writer thread. Commits that arrive while another one is being
/// written share the next transaction and its one fsync.
#[derive(Debug)]
pub struct Store {
    /// `None` only while dropping.
    submissions: Option<mpsc::Sender<Submission>>,
    writer: Option<JoinHandle<()>>,
    failure: Failure,
    loaded: Contents,
}

impl Store {
    /// Opens the file, making it (mode 0600) and its folder (mode 0700) if absent, and repairs what
    /// a crash left. Blocks for some disk writes; meant for the start.
    ///
    /// # Errors
    /// `InUse`, `NewerSchema`, `Foreign`, `Corrupted`, `Io`; each names the file and the remedy.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::on(Medium::File(path.to_owned()))
    }

    /// A store that forgets with the process, for tests and simulations.
    ///
    /// # Errors
    /// When the writer thread can't be started.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::on(Medium::Memory)
    }

    fn on(medium: Medium) -> Result<Self, StoreError> {
        let (writer, loaded) = Writer::open(medium)?;
        let (submissions, receiver) = mpsc::channel(WAITING);
        let failure = writer.failure();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(|e| StoreError::Write(format!("the writer thread can't be started: {e}")))?;
        Ok(Self {
            submissions: Some(submissions),
            writer: Some(thread),
            failure,
            loaded,
        })
    }

    /// What the file held when it was opened.
    pub fn loaded(&self) -> &Contents {
        &self.loaded
    }

    /// Why the last write failed; none while the disk takes what it is given.
    pub fn failure(&self) -> Option<StoreError> {
        self.failure.get()
    }

    /// Returns when the writer has ended. While the store is open only a panic ends it.
    pub async fn closed(&self) {
        if let Some(submissions) = &self.submissions {
            submissions.closed().await;
        }
    }

    /// Makes the changes durable, all or none, and returns when they are.
    ///
    /// # Errors
    /// `Refused` if they contradict what is stored, `Write` if the disk did; nothing has changed
    /// then.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.commit_then(changes, |result| result).await?
    }

    /// As `commit`, and runs `then` on the writer's thread with the outcome, before any later
    /// commit is answered. It runs even if the caller has gone away meanwhile, so it is the place
    /// to keep memory in step with the disk. If the caller goes away before the changes were
    /// handed over, `then` is dropped and nothing happens.
    ///
    /// # Errors
    /// `Closed` if the writer has ended.
    pub async fn commit_then<T: Send + 'static>(
        &self,
        changes: Vec<Change>,
        then: impl FnOnce(Result<(), StoreError>) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, answer) = oneshot::channel();
        let done: Done = Box::new(move |result| {
            // A caller that has gone away needs no answer.
            drop(sender.send(then(result)));
        });
        let submissions = self.submissions.as_ref().ok_or(StoreError::Closed)?;
        let submission = Submission { changes, done };
        submissions
            .send(submission)
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)
    }
}

impl Drop for Store {
    /// Waits until everything handed over is written and the file's lock is free.
    fn drop(&mut self) {
        drop(self.submissions.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread had panicked");
        }
    }
}
