//! Deletions that the shim wrote down while the agent was not there: replayed at start and
//! whenever the folder changes.

use super::{Network, kernel::Kernel};
use crate::{cni::CniError, folder_watch::FolderWatch, model::AttachmentId, parts::Shutdown};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::sleep;

/// Pause before deletions that failed are tried again; doubled at each failure in a row.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How often the folder is looked at without an event, and the longest pause.
const LOOK: Duration = Duration::from_secs(30);
/// A shim ends long before this; a temporary file that is older is nobody's.
const HALF_WRITTEN: Duration = Duration::from_secs(3600);
/// Ending of a deletion that an ADD is about to take back.
const ASIDE: &str = "aside";
/// Largest file taken; the shim writes a few hundred bytes.
const MAX_BYTES: u64 = 64 << 10;

/// One spooled deletion, as the shim writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spooled {
    version: u32,
    container_id: String,
    ifname: String,
}

impl<K: Kernel> Network<K> {
    /// Replays what is spooled in `folder` until `shutdown`, also what is spooled later. A folder that
    /// can't be watched is looked at from time to time.
    pub async fn replay_forever(&self, folder: &Path, mut shutdown: Shutdown) {
        let (mut watch, changed) = FolderWatch::open(folder);
        let (mut retry, mut told) = (FIRST_RETRY, None);
        loop {
            let unwatched = watch.refresh(&BTreeSet::new()).pop();
            if let Some(fault) = unwatched.iter().find(|_| told != unwatched) {
                let (folder, fault) = (fault.folder.display(), &fault.fault);
                tracing::warn!(%folder, fault, "spooled deletions are seen late");
            }
            told = unwatched;
            let (_, failed) = self.replay(folder).await;
            retry = match failed {
                0 => FIRST_RETRY,
                _ => (retry * 2).min(LOOK),
            };
            tokio::select! {
                () = changed.notified() => {}
                () = sleep(if failed > 0 { retry } else { LOOK }) => {}
                () = shutdown.requested() => return,
            }
        }
    }

    /// Replays what is spooled now. Returns how many deletions were done and how many failed;
    /// a file is removed only after its deletion was done. What is kept is told by `status`.
    pub async fn replay(&self, folder: &Path) -> (usize, usize) {
        let mut kept = Vec::new();
        let files = list(folder).unwrap_or_else(|error| {
            // Made anew by the next deletion that the shim writes down.
            if error.kind() != io::ErrorKind::NotFound {
                kept.push(format!(
                    "the spool {} can't be read: {error}",
                    folder.display()
                ));
            }
            Vec::new()
        });
        let mut done = 0;
        for file in files {
            match self.replay_one(&file).await {
                Ok(()) => done += 1,
                Err(error) => kept.push(format!(
                    "the spooled deletion {} is not done yet: {error}",
                    file.display()
                )),
            }
        }
        let failed = kept.len();
        self.change_view(|view| {
            for problem in kept
                .iter()
                .filter(|problem| !view.kept_deletions.contains(problem))
            {
                tracing::warn!(%problem, "kept");
            }
            view.kept_deletions = kept;
        });
        (done, failed)
    }

    async fn replay_one(&self, file: &Path) -> Result<(), String> {
        let Some(spooled) = gone_is_done(read(file))? else {
            return Ok(());
        };
        let attachment =
            AttachmentId::new(&spooled.container_id, &spooled.ifname).map_err(|e| e.to_string())?;
        let _alone = self.locks.lock(&attachment).await;
        // Read again now that no ADD is under way: one that was has taken the file back. What is
        // there is of the attachment as it is now, whatever the clocks said when it was written.
        if gone_is_done(read(file))?.is_none() {
            return Ok(());
        }
        self.del_alone(&attachment)
            .await
            .map_err(|e| e.to_string())?;
        tracing::info!(%attachment, "spooled deletion done");
        fs::remove_file(file).map_err(|e| e.to_string())
    }
}

/// Removed since it was listed: done by another look, or taken back by an ADD.
fn gone_is_done<T>(read: io::Result<T>) -> Result<Option<T>, String> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

/// Takes back a deletion of the attachment that was written down before it is added again, if the
/// caller `still_waits`. Call it with the attachment's lock held, before the ADD does anything.
///
/// The file is put aside before the caller is looked at: an agent that is frozen between the two
/// must not take back the deletion that the runtime asked for meanwhile.
///
/// # Errors
/// `still_waits`' own, and then the deletion is in force as before; 5 when it is there and can't be
/// removed durably: it would delete what the ADD makes.
pub(super) fn take_back(
    folder: &Path,
    attachment: &AttachmentId,
    still_waits: impl FnOnce() -> Result<(), CniError>,
) -> Result<(), CniError> {
    let file = folder.join(file_name(attachment));
    let aside = file.with_extension(ASIDE);
    let fault = |e: io::Error| {
        CniError::io(&format!(
            "a spooled deletion of this attachment can't be taken back: {e}"
        ))
    };
    let spooled = match fs::rename(&file, &aside) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(fault(e)),
    };
    if let Err(gone) = still_waits() {
        if spooled {
            put_back(&aside).map_err(fault)?;
        }
        return Err(gone);
    }
    if spooled {
        fs::remove_file(&aside).map_err(fault)?;
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(fault)?;
    }
    Ok(())
}

/// Puts a deletion that was put aside in force again; one written meanwhile says the same.
fn put_back(aside: &Path) -> io::Result<()> {
    fs::rename(aside, aside.with_extension("json"))
}

/// The shim's name for an attachment's file: no name of others becomes part of a path.
fn file_name(attachment: &AttachmentId) -> String {
    let mut hash = Sha256::new();
    hash.update(attachment.container_id());
    hash.update([0]);
    hash.update(attachment.ifname());
    let digits: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    format!("{digits}.json")
}

/// Makes the folder, for root alone, removes what a killed shim left half written, and puts back in
/// force what an agent killed at the start of an ADD had put aside.
///
/// # Errors
/// When it can't be made or belongs to somebody else's permissions.
pub fn prepare(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_half = entry.file_name().as_encoded_bytes().ends_with(b".tmp");
        let written = entry.metadata().and_then(|meta| meta.modified());
        let age = written.ok().and_then(|at| at.elapsed().ok());
        if is_half && age.is_some_and(|age| age > HALF_WRITTEN) {
            fs::remove_file(entry.path())?;
        }
        if entry.path().extension().is_some_and(|e| e == ASIDE) {
            put_back(&entry.path())?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_as_the_shim_names_it() {
        let attachment = AttachmentId::new("c1", "eth0").unwrap();
        // As in cni-shim/src/spool.rs.
        let name = "ec43057c07aaa51f882664a65fed7b1844e3af9fae71c9a7bcb41f33491c2342.json";
        assert_eq!(file_name(&attachment), name);
    }

    #[test]
    fn a_deletion_is_taken_back_once_and_its_absence_is_no_fault() {
        let folder = tempfile::tempdir().unwrap();
        let attachment = AttachmentId::new("c1", "eth0").unwrap();
        let file = folder.path().join(file_name(&attachment));
        fs::write(&file, "{}").unwrap();
        take_back(folder.path(), &attachment, || Ok(())).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        take_back(folder.path(), &attachment, || Ok(())).unwrap();
        take_back(Path::new("/nonexistent"), &attachment, || Ok(())).unwrap();
    }

    #[test]
    fn a_deletion_of_a_caller_that_gave_up_stays_in_force_also_when_it_came_that_moment() {
        let folder = tempfile::tempdir().unwrap();
        let attachment = AttachmentId::new("c1", "eth0").unwrap();
        let file = folder.path().join(file_name(&attachment));
        let gave_up = || {
            // Written down between the look at the folder and the look at the caller.
            fs::write(&file, "{}").unwrap();
            Err(CniError::try_again("gave up"))
        };
        for before in [false, true] {
            if before {
                fs::write(&file, "{}").unwrap();
            }
            let error = take_back(folder.path(), &attachment, gave_up).unwrap_err();
            assert_eq!(error.code, 11);
            assert!(file.exists());
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
            fs::remove_file(&file).unwrap();
        }
    }

    #[test]
    fn what_a_killed_agent_had_put_aside_is_in_force_again_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let attachment = AttachmentId::new("c1", "eth0").unwrap();
        let file = folder.path().join(file_name(&attachment));
        fs::write(file.with_extension(ASIDE), "{}").unwrap();
        prepare(folder.path()).unwrap();
        assert_eq!(list(folder.path()).unwrap(), [file]);
    }
}
