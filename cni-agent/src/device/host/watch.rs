//! Tells within milliseconds when the node's devices may have changed: by the kernel's messages and by changes in the
//! folders that finders look at. Where one of them can't be had the other goes on, and whoever looks also looks by
//! itself from time to time.

use super::{
    Host,
    folders::{Events, Folders},
    uevents::Uevents,
};
use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Shortest time between two looks: a storm of messages costs one in each.
const PAUSE: Duration = Duration::from_millis(50);

/// Wakes who looks at the node's devices.
pub struct Changes {
    changed: Arc<Notify>,
    folders: Option<Folders>,
    /// Folders in which what files hold matters as well.
    contents: Vec<PathBuf>,
    /// Why one or the other doesn't tell.
    deaf: [Arc<OnceLock<String>>; 2],
    /// Ends with this.
    _listening: JoinSet<()>,
    /// Something changed that nobody was told of yet.
    pending: bool,
    /// When the next one may be told.
    next: Option<Instant>,
}

impl Changes {
    /// Listens from now on; within a runtime. Folders besides /dev are watched after [`Self::refresh`].
    pub fn open(host: &Host) -> Self {
        Self::with(host, Uevents::open(), Folders::open())
    }

    fn with(
        host: &Host,
        uevents: io::Result<Uevents>,
        folders: io::Result<(Folders, Events)>,
    ) -> Self {
        let changed = Arc::new(Notify::new());
        let deaf: [Arc<OnceLock<String>>; 2] = Default::default();
        let mut listening = JoinSet::new();
        let (signal, fault) = (changed.clone(), deaf[0].clone());
        listening.spawn(async move {
            let error = match uevents {
                Err(error) => error,
                Ok(uevents) => loop {
                    match uevents.next().await {
                        Ok(()) => signal.notify_one(),
                        Err(error) => break error,
                    }
                },
            };
            // Said once: nobody else sets it.
            let _said = fault.set(format!(
                "the kernel's messages of devices can't be had: {error}; changes are seen in folders, and by looks from time to time"
            ));
            signal.notify_one();
        });
        let (signal, fault) = (changed.clone(), deaf[1].clone());
        let (folders, events) = folders.map_or_else(
            |error| (None, Err(error)),
            |(folders, events)| (Some(folders), Ok(events)),
        );
        listening.spawn(async move {
            let error = match events {
                Err(error) => error,
                Ok(mut events) => loop {
                    match events.next().await {
                        Ok(()) => signal.notify_one(),
                        Err(error) => break error,
                    }
                },
            };
            let _said = fault.set(format!(
                "folders of devices can't be watched: {error}; raise fs.inotify.max_user_instances; changes are seen by the kernel's messages, and by looks from time to time"
            ));
            signal.notify_one();
        });
        let mut changes = Self {
            changed,
            folders,
            contents: host.cdi.clone(),
            deaf,
            _listening: listening,
            pending: false,
            next: None,
        };
        // What fails here fails again, and is told, at the first look.
        drop(changes.refresh(&BTreeSet::from([host.dev.clone()])));
        changes
    }

    /// Watches the folders that [`Host::folders`] tells, and no others. Returns what is not seen at once, worded for
    /// people.
    pub fn refresh(&mut self, folders: &BTreeSet<PathBuf>) -> Vec<String> {
        let watch = self.folders.as_mut();
        let failed = watch.map_or_else(Vec::new, |watch| watch.watch(folders, &self.contents));
        let failed = failed.into_iter().map(|(folder, error)| {
            format!(
                "{} can't be watched: {error}; raise fs.inotify.max_user_watches",
                folder.display()
            )
        });
        let deaf = self.deaf.iter().filter_map(|fault| fault.get().cloned());
        failed.chain(deaf).collect()
    }

    /// Waits until something may have changed since it was told last: the first is told at once, those that follow it
    /// after a pause. Nothing is lost when the wait is given up.
    pub async fn changed(&mut self) {
        if !self.pending {
            self.changed.notified().await;
            self.pending = true;
        }
        if let Some(next) = self.next {
            sleep_until(next).await;
        }
        self.pending = false;
        self.next = Some(Instant::now() + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{
        host::fake::Tree,
        plan::{By, Finder, Pattern},
    };
    use std::{collections::BTreeMap, fs};
    use tokio::time::timeout;

    /// Longer than any event takes; only a test that fails waits for it.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn deaf(host: &Host) -> Changes {
        let none = io::Error::from(io::ErrorKind::PermissionDenied);
        Changes::with(host, Err(none), Folders::open())
    }

    fn finder(by: By) -> Finder {
        Finder {
            by,
            attributes: BTreeMap::new(),
            properties: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn without_the_kernels_messages_folders_wake_and_the_lack_is_told() {
        let tree = Tree::new();
        tree.folder("serial");
        let host = tree.host();
        let mut changes = deaf(&host);
        timeout(PATIENCE, changes.changed()).await.unwrap();
        let finders = [
            finder(By::Path(Pattern("/dev/serial/by-id/*".into()))),
            finder(By::Cdi {
                kind: "example.com/gpu".into(),
                name: None,
            }),
        ];
        let problems = changes.refresh(&host.folders(&finders));
        assert!(
            matches!(&*problems, [one] if one.contains("messages of devices")),
            "{problems:?}"
        );
        // Each is made in a folder that was watched, and is watched from the next refresh on.
        let by_id = host.dev.join("serial/by-id");
        for path in [
            &by_id,
            &by_id.join("usb-A"),
            &host.cdi[1],
            &host.cdi[1].join("a.json"),
        ] {
            fs::create_dir(path).unwrap();
            timeout(PATIENCE, changes.changed()).await.unwrap();
            changes.refresh(&host.folders(&finders));
        }
    }

    #[tokio::test]
    async fn with_neither_both_lacks_are_told() {
        let tree = Tree::new();
        let host = tree.host();
        let none = || io::Error::from(io::ErrorKind::PermissionDenied);
        let mut changes = Changes::with(&host, Err(none()), Err(none()));
        let end = Instant::now() + PATIENCE;
        while changes.refresh(&BTreeSet::new()).len() < 2 {
            assert!(Instant::now() < end);
            timeout(PATIENCE, changes.changed()).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_told_at_once_and_a_storm_in_pauses() {
        let tree = Tree::new();
        let mut changes = deaf(&tree.host());
        changes.changed().await;
        let start = Instant::now();
        tokio::time::advance(PAUSE).await;
        changes.changed.notify_one();
        changes.changed().await;
        assert_eq!(start.elapsed(), PAUSE);
        let storm = changes.changed.clone();
        let _storm = tokio::spawn(async move {
            loop {
                storm.notify_one();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let mut looks = 0;
        while start.elapsed() < PAUSE + Duration::from_secs(1) {
            changes.changed().await;
            looks += 1;
        }
        assert!((19..=21).contains(&looks), "{looks}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_loses_nothing() {
        let tree = Tree::new();
        let mut changes = deaf(&tree.host());
        changes.changed().await;
        changes.changed.notify_one();
        let early = timeout(Duration::from_millis(1), changes.changed()).await;
        assert!(early.is_err());
        timeout(PAUSE * 2, changes.changed()).await.unwrap();
    }
}
