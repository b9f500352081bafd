//! The writer thread: takes commits in order of arrival, writes those that wait in one durable
//! transaction, and answers each of them. It is a thread because an fsync blocks.

use super::{
    Change, Contents, StoreError,
    file::{self, Medium},
    mirror::{Before, Mirror},
};
use redb::Database;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Most commits in one transaction, so that the first of them does not wait for ever.
const BATCH: usize = 64;

/// Takes the outcome of a commit; runs on the writer's thread, so it must be quick.
pub(super) type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A commit on its way to the writer.
pub(super) struct Submission {
    pub(super) changes: Vec<Change>,
    pub(super) done: Done,
}

/// Owns the file. `mirror` holds exactly what callers were told is durable.
#[derive(Debug)]
pub(super) struct Writer {
    medium: Medium,
    /// `None` after a failed write: what the disk holds is in doubt until it is read again.
    database: Option<Database>,
    mirror: Mirror,
    failure: Failure,
}

/// Why the last write failed, and everything since; none while the disk takes what it is given.
#[derive(Clone, Debug, Default)]
pub(super) struct Failure(Arc<Mutex<Option<StoreError>>>);

impl Failure {
    pub(super) fn get(&self) -> Option<StoreError> {
        let failure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone()
    }

    fn set(&self, outcome: &Result<(), StoreError>) {
        let mut failure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *failure = outcome.as_ref().err().cloned();
    }
}

impl Writer {
    /// Where the outcome of the last write is seen.
    pub(super) fn failure(&self) -> Failure {
        self.failure.clone()
    }

    pub(super) fn open(medium: Medium) -> Result<(Self, Contents), StoreError> {
        let database = medium.open()?;
        let contents = medium.load(&database)?;
        let mirror = Mirror::new(contents.clone());
        Ok((
            Self {
                medium,
                database: Some(database),
                mirror,
                failure: Failure::default(),
            },
            contents,
        ))
    }

    /// Serves until every sender is gone.
    pub(super) fn run(mut self, mut submissions: mpsc::Receiver<Submission>) {
        while let Some(first) = submissions.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH {
                match submissions.try_recv() {
                    Ok(next) => batch.push(next),
                    Err(_) => break,
                }
            }
            self.settle(batch);
        }
    }

    fn settle(&mut self, batch: Vec<Submission>) {
        let mut log = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for Submission { changes, done } in batch {
            answers.push((self.mirror.apply(changes, &mut log), done));
        }
        // A commit without changes waits for those before it, and tries the disk again if it is in
        // doubt.
        let written = if log.is_empty() && self.database.is_some() {
            Ok(())
        } else {
            let written = self.write(&log);
            self.failure.set(&written);
            written
        };
        if written.is_err() {
            self.mirror.undo(log);
        }
        for (applied, done) in answers {
            done(applied.and(written.clone()));
        }
    }

    fn write(&mut self, log: &[Before]) -> Result<(), StoreError> {
        let (database, repair) = match self.database.take() {
            Some(database) => (database, None),
            None => {
                // The failed write may have reached the disk or not. Callers were told that it
                // failed, so the rows are brought back to what they were told.
                let database = self.medium.open()?;
                let on_disk = self.medium.load(&database)?;
                (
                    database,
                    Some(file::differences(&on_disk, self.mirror.contents())),
                )
            }
        };
        let log = repair.as_deref().unwrap_or(log);
        match file::write(&database, self.mirror.contents(), log) {
            Ok(()) => {
                self.database = Some(database);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "the state could not be written");
                Err(StoreError::Write(error.to_string()))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
