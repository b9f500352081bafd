//! Watches folders for what comes and goes in them, not for use of what is there: in /dev every program writes.

use futures_util::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

/// Room for some hundred events; those that don't fit come next.
const ROOM: usize = 16 << 10;

/// Device and inode: another folder may take the name of one that is watched.
type Identity = (u64, u64);

/// The folders that are watched.
pub(super) struct Folders {
    watches: Watches,
    watched: BTreeMap<Identity, (WatchMask, WatchDescriptor)>,
}

/// What happens in them.
pub(super) struct Events(EventStream<Vec<u8>>);

impl Folders {
    /// Within a runtime.
    ///
    /// # Errors
    /// The node has no inotify left.
    pub(super) fn open() -> io::Result<(Self, Events)> {
        let inotify = Inotify::init()?;
        let folders = Self {
            watches: inotify.watches(),
            watched: BTreeMap::new(),
        };
        Ok((folders, Events(inotify.into_event_stream(vec![0; ROOM])?)))
    }

    /// Watches these and nothing else, also one that was made anew under the same name. Of `contents` a file that was
    /// written is a change as well. Returns what can't be watched, and why; what isn't there is no fault.
    pub(super) fn watch(
        &mut self,
        folders: &BTreeSet<PathBuf>,
        contents: &[PathBuf],
    ) -> Vec<(PathBuf, io::Error)> {
        let names = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let mut wanted: BTreeMap<Identity, (WatchMask, PathBuf)> = BTreeMap::new();
        for folder in folders {
            let Ok(metadata) = fs::metadata(folder) else {
                continue;
            };
            let mask = match contents.contains(folder) {
                true => names | WatchMask::CLOSE_WRITE,
                false => names,
            };
            // Two names of one folder are one watch.
            let entry = wanted
                .entry((metadata.dev(), metadata.ino()))
                .or_insert((mask, folder.clone()));
            entry.0 |= mask;
        }
        let watches = &mut self.watches;
        self.watched.retain(|identity, (mask, watch)| {
            let stays = wanted
                .get(identity)
                .is_some_and(|(wanted, _)| wanted == mask);
            if !stays && let Err(error) = watches.remove(watch.clone()) {
                tracing::debug!(%error, "the watch was gone already");
            }
            stays
        });
        let mut failed = Vec::new();
        for (identity, (mask, folder)) in wanted {
            if self.watched.contains_key(&identity) {
                continue;
            }
            match watches.add(&folder, mask) {
                Ok(watch) => drop(self.watched.insert(identity, (mask, watch))),
                // It was removed meanwhile, which its parent's watch tells.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failed.push((folder, error)),
            }
        }
        failed
    }
}

impl Events {
    /// Waits until something came or went.
    ///
    /// # Errors
    /// There will be no more.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        loop {
            match self.0.next().await {
                // That a watch ended is told besides why.
                Some(Ok(event)) if event.mask.contains(EventMask::IGNORED) => {}
                Some(Ok(_)) => return Ok(()),
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(error)) => return Err(error),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{path::Path, time::Duration};
    use tokio::time::timeout;

    /// Longer than any event takes; only a test that fails waits for it.
    const PATIENCE: Duration = Duration::from_secs(20);

    async fn told(events: &mut Events) {
        timeout(PATIENCE, events.next()).await.unwrap().unwrap();
    }

    fn only(folder: &Path) -> BTreeSet<PathBuf> {
        [folder.to_owned()].into()
    }

    #[tokio::test]
    async fn use_of_what_is_there_wakes_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("null");
        fs::write(&file, "").unwrap();
        let (mut folders, mut events) = Folders::open().unwrap();
        assert!(folders.watch(&only(folder.path()), &[]).is_empty());
        for _ in 0..100 {
            fs::write(&file, "x").unwrap();
            fs::read(&file).unwrap();
        }
        fs::write(folder.path().join("new"), "").unwrap();
        // Events come in order, so that the first is the last.
        told(&mut events).await;
        let more = timeout(Duration::from_millis(50), events.next()).await;
        assert!(more.is_err(), "something was used, and told");
        // Where contents count, a file that was written is told.
        let contents = [folder.path().to_owned()];
        assert!(folders.watch(&only(folder.path()), &contents).is_empty());
        fs::write(&file, "y").unwrap();
        told(&mut events).await;
    }

    #[tokio::test]
    async fn a_folder_that_was_made_anew_is_watched_again_and_two_names_are_one() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, name) = (parent.path().join("by-id"), parent.path().join("name"));
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&folder, &name).unwrap();
        let (mut folders, mut events) = Folders::open().unwrap();
        let both = BTreeSet::from([folder.clone(), name]);
        assert!(folders.watch(&both, &[]).is_empty());
        // One name less leaves the other's watch.
        assert!(folders.watch(&only(&folder), &[]).is_empty());
        fs::write(folder.join("a"), "").unwrap();
        told(&mut events).await;
        // Keeps the inode in use, so that the new folder can't have it.
        let _held = fs::File::open(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(folders.watch(&only(&folder), &[]).is_empty());
        while timeout(Duration::from_millis(50), events.next())
            .await
            .is_ok()
        {}
        fs::create_dir(&folder).unwrap();
        assert!(folders.watch(&only(&folder), &[]).is_empty());
        fs::write(folder.join("b"), "").unwrap();
        told(&mut events).await;
    }
}
