//! Why the store could not be opened or written.

use std::{path::PathBuf, sync::Arc};

/// An error of the store. Cloned to every caller whose commit shared the failed transaction.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path} is in use by another process: end the other agent, or give this one a --state-dir of its own", path = .0.display())]
    InUse(PathBuf),
    #[error("{path} was written by a newer Fairlead (schema {found}, this one knows {known}): install that version again, or move the file away and restart the node's pods", path = .path.display())]
    NewerSchema {
        path: PathBuf,
        found: u32,
        known: u32,
    },
    #[error("{path} is not a state file of Fairlead ({details}): move it away or give another --state-dir", path = .path.display())]
    Foreign { path: PathBuf, details: String },
    #[error("{path} is damaged beyond repair ({details}): restore it from a backup, or move it away and restart the node's pods", path = .path.display())]
    Corrupted { path: PathBuf, details: String },
    #[error("{path} can't be {action}: {error}", path = .path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        error: Arc<std::io::Error>,
    },
    #[error(
        "the state belongs to node {stored:?}, this agent is {given:?}: correct --node-name, or give another --state-dir"
    )]
    OtherNode { stored: String, given: String },
    #[error("refused before writing: {0}")]
    Refused(String),
    #[error(
        "the state could not be written: {0}; nothing was changed, free space or replace the disk and repeat"
    )]
    Write(String),
    #[error("the store is closed: the agent is ending")]
    Closed,
}
