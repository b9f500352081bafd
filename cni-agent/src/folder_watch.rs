//! Tells when something in a folder changed. What can't be watched (no inotify left, a network file
//! system) is no error: whoever watches also looks by itself from time to time.

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Notify;

/// A folder that can't be watched, and why, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unwatched {
    pub(crate) folder: PathBuf,
    pub(crate) fault: String,
}

/// The watches on a folder and on further ones that its links lead to.
pub(crate) struct FolderWatch {
    folder: PathBuf,
    watcher: Result<RecommendedWatcher, notify::Error>,
    /// Watched folders with device and inode: a watch stays with the folder that was made first
    /// when another one takes its name.
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

impl FolderWatch {
    /// Watches the folder; from then on each change wakes who waits for the signal.
    pub(crate) fn open(folder: &Path) -> (Self, Arc<Notify>) {
        let changed = Arc::new(Notify::new());
        let signal = changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is no change, or the reader would wake itself. A lost event is one.
            let reading = event.is_ok_and(|event| match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
                EventKind::Access(_) => true,
                _ => false,
            });
            if !reading {
                signal.notify_one();
            }
        });
        let mut watch = Self {
            folder: folder.to_owned(),
            watcher,
            watched: BTreeMap::new(),
        };
        // What fails here fails again, and is told, at the first look.
        drop(watch.refresh(&BTreeSet::new()));
        (watch, changed)
    }

    /// Watches the folder and `elsewhere`, and nothing else; also a folder that was made anew under
    /// the same name. Returns what can't be watched.
    pub(crate) fn refresh(&mut self, elsewhere: &BTreeSet<PathBuf>) -> Vec<Unwatched> {
        let unwatched = |folder: &Path, error: &dyn std::fmt::Display| Unwatched {
            folder: folder.to_owned(),
            fault: format!(
                "the folder can't be watched: {error}; raise fs.inotify.max_user_watches or max_user_instances"
            ),
        };
        let watcher = match &mut self.watcher {
            Ok(watcher) => watcher,
            Err(error) => return vec![unwatched(&self.folder, error)],
        };
        let mut wanted = BTreeMap::new();
        for path in std::iter::once(&self.folder).chain(elsewhere) {
            if let Ok(metadata) = fs::metadata(path) {
                wanted.insert(path.clone(), (metadata.dev(), metadata.ino()));
            }
        }
        self.watched.retain(|path, identity| {
            let stays = wanted.get(path) == Some(identity);
            if !stays && let Err(error) = watcher.unwatch(path) {
                tracing::debug!(%error, "the watch was gone already");
            }
            stays
        });
        let mut failed = Vec::new();
        for (path, identity) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(path, identity)),
                Err(error) => failed.push(unwatched(&path, &error)),
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    /// Longer than any event takes; only a test that fails waits for it.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn reading_the_folder_is_no_change_and_writing_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let (mut watch, changed) = FolderWatch::open(folder.path());
        assert_eq!(watch.refresh(&BTreeSet::new()), []);
        for _ in 0..100 {
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
        // Events come in order: had reading been one, its signal would be there by the time that the
        // other watch has seen a later event.
        let (_other, later) = FolderWatch::open(folder.path());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let silent = timeout(Duration::from_millis(200), changed.notified()).await;
        assert!(silent.is_err(), "reading woke the reader");
        fs::write(folder.path().join("a"), "a").unwrap();
        timeout(PATIENCE, changed.notified()).await.unwrap();
        timeout(PATIENCE, later.notified()).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_was_made_anew_is_watched_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("spool");
        fs::create_dir(&folder).unwrap();
        let (mut watch, changed) = FolderWatch::open(&folder);
        // Keeps the inode in use, so that the new folder can't have it.
        let _held = fs::File::open(&folder).unwrap();
        fs::remove_dir(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        assert_eq!(watch.refresh(&BTreeSet::new()), []);
        fs::write(folder.join("a"), "a").unwrap();
        timeout(PATIENCE, changed.notified()).await.unwrap();
    }
}
