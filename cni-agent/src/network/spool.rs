//! Deletions that the shim wrote down while the agent was not there: replayed at start and
//! whenever the folder changes.

use super::{Network, kernel::Kernel};
use crate::{model::AttachmentId, parts::Shutdown};
use notify::{RecursiveMode, Watcher};
use serde::Deserialize;
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{sync::mpsc, time::sleep};

/// Pause before deletions that failed are tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Largest file taken; the shim writes a few hundred bytes.
const MAX_BYTES: u64 = 64 << 10;

/// One spooled deletion, as the shim writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spooled {
    version: u32,
    container_id: String,
    ifname: String,
    /// Unix time in seconds.
    at: u64,
}

impl<K: Kernel> Network<K> {
    /// Replays what is spooled in `folder` until `shutdown`, also what is spooled later.
    ///
    /// # Errors
    /// When the folder can't be made or watched.
    pub async fn replay_forever(&self, folder: &Path, mut shutdown: Shutdown) -> io::Result<()> {
        prepare(folder)?;
        let (changed, mut changes) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |_event| {
            // Full means that a look is due anyway.
            let _due = changed.try_send(()).is_err();
        })
        .map_err(io::Error::other)?;
        watcher
            .watch(folder, RecursiveMode::NonRecursive)
            .map_err(io::Error::other)?;
        loop {
            let (_, failed) = self.replay(folder).await;
            let again = async {
                if failed > 0 {
                    sleep(RETRY).await
                } else {
                    std::future::pending::<()>().await
                }
            };
            tokio::select! {
                _ = changes.recv() => {}
                () = again => {}
                () = shutdown.requested() => return Ok(()),
            }
        }
    }

    /// Replays what is spooled now. Returns how many deletions were done and how many failed;
    /// a file is removed only after its deletion was done.
    pub async fn replay(&self, folder: &Path) -> (usize, usize) {
        let files = match list(folder) {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "the spool can't be read");
                return (0, 1);
            }
        };
        let (mut done, mut failed) = (0, 0);
        for file in files {
            match self.replay_one(&file).await {
                Ok(()) => done += 1,
                Err(error) => {
                    failed += 1;
                    tracing::warn!(file = %file.display(), %error, "spooled deletion not done; kept");
                }
            }
        }
        (done, failed)
    }

    async fn replay_one(&self, file: &Path) -> Result<(), String> {
        let spooled = match read(file) {
            Ok(spooled) => spooled,
            // Removed since it was listed: done by another look.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e.to_string()),
        };
        let attachment =
            AttachmentId::new(&spooled.container_id, &spooled.ifname).map_err(|e| e.to_string())?;
        // Added again since then: the deletion was of the attachment before.
        let again = self
            .book
            .get(&attachment)
            .is_some_and(|e| e.created_at > spooled.at);
        if !again {
            self.del(&attachment).await.map_err(|e| e.to_string())?;
            tracing::info!(%attachment, "spooled deletion done");
        }
        fs::remove_file(file).map_err(|e| e.to_string())
    }
}

/// Makes the folder, for root alone.
///
/// # Errors
/// When it can't be made or belongs to somebody else's permissions.
pub fn prepare(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // The shim's temporary files have another ending until they are whole.
        if path.extension().is_some_and(|e| e == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> io::Result<Spooled> {
    let meta = fs::symlink_metadata(file)?;
    if !meta.is_file() || meta.len() > MAX_BYTES {
        return Err(io::Error::other(
            "not a plain file of at most 64 KiB; remove it by hand",
        ));
    }
    let spooled: Spooled = serde_json::from_slice(&fs::read(file)?).map_err(io::Error::other)?;
    if spooled.version != 1 {
        return Err(io::Error::other(format!(
            "version {} was written by a newer plugin; update the agent",
            spooled.version
        )));
    }
    Ok(spooled)
}
