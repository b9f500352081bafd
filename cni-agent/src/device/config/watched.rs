//! RIM: the configuration in force, read again whenever it changes. A faulty one changes nothing: what was in force stays
//! so, over the agent's own restart too, and what is wrong is told.

use super::{
    Problem,
    folder::{Look, look},
    last_good::{Input, LastGood},
    parse,
};
use crate::{device::plan::Plan, folder_watch::FolderWatch};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
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
/// The file of what was whole last.
const COPY: &str = "device-config.json";

/// What is in force, and what is wrong with what is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    pub plan: Arc<Plan>,
    /// Empty: the plan is what is written, and each change is seen at once.
    pub problems: Vec<Problem>,
}

/// The watched configuration. Ends watching when dropped.
#[derive(Debug)]
pub struct Configuration {
    configured: watch::Sender<Arc<Configured>>,
    task: JoinHandle<()>,
}

impl Configuration {
    /// Reads a file, or a folder of `*.yaml`, `*.yml` and `*.json`, and watches it from then on; one that isn't there is
    /// empty. Adds presets by their names, and keeps a copy of what was whole last in the folder `state`. The first plan
    /// is there on return. Must be called in a tokio runtime; blocks for the first read.
    pub fn watch(place: &Path, presets: &[String], state: &Path) -> Self {
        let mut reader = Reader {
            place: place.to_owned(),
            presets: presets.to_vec(),
            last_good: LastGood {
                path: state.join(COPY),
            },
            read_before: None,
            stands: Stands::Nothing,
            configured: watch::Sender::new(Arc::new(Configured::default())),
        };
        let configured = reader.configured.clone();
        let (eyes, changed) = FolderWatch::open(place);
        let eyes = reader.update(eyes);
        let task = tokio::spawn(reader.run(eyes, changed));
        Self { configured, task }
    }

    /// The configuration in force and every later one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Configured>> {
        self.configured.subscribe()
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the plan in force is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    /// Empty: nothing was whole yet.
    Nothing,
    /// Of the copy, from before this agent started.
    Copy,
    /// Read by this agent.
    Read,
}

struct Reader {
    place: PathBuf,
    presets: Vec<String>,
    last_good: LastGood,
    /// What was read last, and found faulty, or whole and kept.
    read_before: Option<Input>,
    stands: Stands,
    configured: watch::Sender<Arc<Configured>>,
}

impl Reader {
    async fn run(mut self, mut eyes: FolderWatch, changed: Arc<Notify>) {
        loop {
            if timeout(LOOK, changed.notified()).await.is_ok() {
                quiet(&changed).await;
            }
            let update = tokio::task::spawn_blocking(move || {
                let eyes = self.update(eyes);
                (self, eyes)
            });
            match update.await {
                Ok(updated) => (self, eyes) = updated,
                // The plan in force stays so; without its reader nothing can be read again.
                Err(error) => {
                    return tracing::error!(%error, "reading the devices' configuration ended badly");
                }
            }
        }
    }

    /// Reads what is written now and publishes what follows from it. Blocks on the disk.
    fn update(&mut self, mut eyes: FolderWatch) -> FolderWatch {
        let look = look(&self.place);
        let unwatched = eyes.refresh(&look.elsewhere).into_iter().map(|unwatched| {
            let message = format!(
                "changes are seen only every {} s, because {}",
                LOOK.as_secs(),
                unwatched.fault
            );
            Problem::of_file(&unwatched.folder.display().to_string(), message)
        });
        let unwatched = unwatched.collect();
        self.take(look, unwatched);
        eyes
    }

    fn take(&mut self, look: Look, unwatched: Vec<Problem>) {
        let checked = match look.problems.is_empty() {
            true => {
                let input = Input {
                    files: look.files,
                    presets: self.presets.clone(),
                };
                let checked = parse(&input.files, &input.presets);
                let is_news = self.read_before.as_ref() != Some(&input);
                let kept = match checked.is_ok() && is_news {
                    true => self.last_good.keep(&input),
                    false => Ok(()),
                };
                match kept {
                    Ok(()) => self.read_before = Some(input),
                    // The next look tries again.
                    Err(error) => {
                        tracing::warn!(%error, copy = %self.last_good.path.display(), "should the devices' configuration become faulty, this one is not kept beyond the agent's end");
                    }
                }
                checked
            }
            false => Err(look.problems),
        };
        match checked {
            Ok(plan) => {
                self.stands = Stands::Read;
                self.publish(Arc::new(plan), unwatched);
            }
            Err(mut problems) => {
                let plan = self.plan_in_force(&mut problems);
                problems.extend(unwatched);
                self.publish(plan, problems);
            }
        }
    }

    /// What stays in force beside a faulty configuration; adds in words what that is.
    fn plan_in_force(&mut self, problems: &mut Vec<Problem>) -> Arc<Plan> {
        let mut plan = self.configured.borrow().plan.clone();
        let copy = self.last_good.path.display().to_string();
        if self.stands == Stands::Nothing {
            let recalled = self.last_good.recall();
            match recalled.map(|input| input.map(|input| parse(&input.files, &input.presets))) {
                Ok(Some(Ok(recalled))) => {
                    plan = Arc::new(recalled);
                    self.stands = Stands::Copy;
                }
                Ok(Some(Err(faults))) => {
                    let fault = faults.first().map(ToString::to_string).unwrap_or_default();
                    let message = format!(
                        "was whole for an older agent, and isn't for this one ({fault}); mend the configuration"
                    );
                    problems.push(Problem::of_file(&copy, message));
                }
                Ok(None) => {}
                Err(error) => {
                    let message = format!(
                        "can't be read: {error}; it goes by itself when the configuration is mended"
                    );
                    problems.push(Problem::of_file(&copy, message));
                }
            }
        }
        let resources = match plan.resources.len() {
            1 => "1 resource".to_owned(),
            n => format!("{n} resources"),
        };
        let message = match self.stands {
            Stands::Read => format!("nothing of it is used; what was before stays in force, with {resources}"),
            Stands::Copy => format!("nothing of it is used; the last good one, of {copy}, is in force, with {resources}"),
            Stands::Nothing => "nothing of it is used, and there is no earlier one; there are no devices until it is mended".to_owned(),
        };
        let place = self.place.display().to_string();
        problems.push(Problem::of_file(&place, message));
        plan
    }

    fn publish(&self, plan: Arc<Plan>, problems: Vec<Problem>) {
        self.configured.send_if_modified(|current| {
            if current.plan == plan && current.problems == problems {
                return false;
            }
            if current.plan != plan {
                tracing::info!(
                    resources = plan.resources.len(),
                    "the devices' configuration is in force"
                );
            }
            for problem in problems
                .iter()
                .filter(|problem| !current.problems.contains(problem))
            {
                tracing::warn!(%problem, "fault in the devices' configuration");
            }
            *current = Arc::new(Configured { plan, problems });
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
