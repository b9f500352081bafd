//! The standalone source: a folder of Kubernetes manifests (`*.yaml`, `*.yml`, `*.json`), watched.
//!
//! A change is read when the folder has been quiet for a moment, so that a file written in several
//! steps is read once. Files replaced by a rename and folders of links, as ConfigMap volumes are,
//! are seen at once; what no event tells (network file systems) by a regular look.

use super::{
    Source, SourceProblem,
    folder::{Folder, Scan},
};
use crate::{
    folder_watch::{FolderWatch, Unwatched},
    state::Cluster,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

/// How long the folder must be quiet before it is read.
const QUIET: Duration = Duration::from_millis(50);
/// A folder that is never quiet is read after this time.
const LONGEST: Duration = Duration::from_millis(500);
/// How often the folder is looked at without an event.
const LOOK: Duration = Duration::from_secs(30);

/// Why the source could not start.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    #[error("manifest folder {folder} can't be read: {error}; make it, or name another one by --manifests", folder = .folder.display())]
    Folder { folder: PathBuf, error: io::Error },
}

/// The watched folder. Ends watching when dropped.
#[derive(Debug)]
pub struct Manifests {
    folder: Arc<Mutex<Folder>>,
    cluster: watch::Sender<Arc<Cluster>>,
    problems: watch::Sender<Arc<Vec<SourceProblem>>>,
    task: JoinHandle<()>,
}

impl Manifests {
    /// Reads the folder and watches it from then on; keeps copies of whole files in `last_good`. The
    /// first snapshot is there on return. Must be called in a tokio runtime; blocks for the first
    /// read.
    ///
    /// # Errors
    /// When the folder can't be read. Faulty files are no error but `problems`.
    pub fn watch(folder: &Path, last_good: &Path) -> Result<Self, ManifestsError> {
        if let Err(error) = fs::read_dir(folder) {
            return Err(ManifestsError::Folder {
                folder: folder.to_owned(),
                error,
            });
        }
        let cluster = watch::Sender::new(Arc::new(Cluster::default()));
        let problems = watch::Sender::new(Arc::new(Vec::new()));
        let (eyes, changed) = FolderWatch::open(folder);
        let folder = Arc::new(Mutex::new(Folder::new(folder.to_owned(), last_good)));
        let mut reader = Reader {
            folder: folder.clone(),
            eyes,
            cluster: cluster.clone(),
            problems: problems.clone(),
        };
        let scan = lock(&reader.folder).scan();
        reader.publish(scan);
        let task = tokio::spawn(reader.run(changed));
        Ok(Self {
            folder,
            cluster,
            problems,
            task,
        })
    }

    /// As `problems`, with a signal when they change.
    pub fn subscribe_problems(&self) -> watch::Receiver<Arc<Vec<SourceProblem>>> {
        self.problems.subscribe()
    }
}

impl Source for Manifests {
    fn subscribe(&self) -> watch::Receiver<Arc<Cluster>> {
        self.cluster.subscribe()
    }

    fn problems(&self) -> Vec<SourceProblem> {
        self.problems.borrow().to_vec()
    }

    fn place(&self, object: &str, rule: &str) -> Option<String> {
        lock(&self.folder).place(object, rule)
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Reader {
    folder: Arc<Mutex<Folder>>,
    eyes: FolderWatch,
    cluster: watch::Sender<Arc<Cluster>>,
    problems: watch::Sender<Arc<Vec<SourceProblem>>>,
}

impl Reader {
    async fn run(mut self, changed: Arc<Notify>) {
        loop {
            if timeout(LOOK, changed.notified()).await.is_ok() {
                quiet(&changed).await;
            }
            let folder = self.folder.clone();
            match tokio::task::spawn_blocking(move || lock(&folder).scan()).await {
                Ok(scan) => self.publish(scan),
                Err(error) => tracing::error!(%error, "reading the manifests ended badly"),
            }
        }
    }

    fn publish(&mut self, scan: Scan) {
        let Scan {
            mut cluster,
            mut problems,
            elsewhere,
        } = scan;
        problems.extend(self.eyes.refresh(&elsewhere).iter().map(unwatched));
        self.cluster.send_if_modified(|current| {
            if current.revision > 0 && current.same_objects(&cluster) {
                return false;
            }
            cluster.revision = current.revision + 1;
            let (nodes, pods) = (cluster.nodes.len(), cluster.pods.len());
            tracing::info!(
                revision = cluster.revision,
                nodes,
                pods,
                "read the manifests"
            );
            *current = Arc::new(std::mem::take(&mut cluster));
            true
        });
        self.problems.send_if_modified(|current| {
            if **current == problems {
                return false;
            }
            for problem in problems.iter().filter(|problem| !current.contains(problem)) {
                tracing::warn!(%problem, "fault in the manifests");
            }
            *current = Arc::new(std::mem::take(&mut problems));
            true
        });
    }
}

/// Returns when nothing has changed for a moment, or after the longest wait.
async fn quiet(changed: &Notify) {
    let end = Instant::now() + LONGEST;
    loop {
        tokio::select! {
            () = sleep(QUIET) => return,
            () = sleep_until(end) => return,
            () = changed.notified() => {}
        }
    }
}

fn lock(folder: &Mutex<Folder>) -> std::sync::MutexGuard<'_, Folder> {
    folder.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unwatched(unwatched: &Unwatched) -> SourceProblem {
    SourceProblem::of_file(
        &unwatched.folder.display().to_string(),
        format!(
            "changes are seen only every {} s, because {}",
            LOOK.as_secs(),
            unwatched.fault
        ),
    )
}
