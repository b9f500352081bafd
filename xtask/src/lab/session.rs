//! One run of labs: its name, its folder, and its clean-up on success, failure, panic and signal.
//!
//! The name holds the pid, so a later run recognizes what a killed run left behind and sweeps it.

use super::{
    process,
    sweep::{self, Swept, sweep},
    undo::Undo,
};
use anyhow::{Context, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::{Handle, Signals},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
};

/// All names of ours in the machine's shared places begin with this.
const PREFIX: &str = "flab";
/// Where `ip netns` keeps the names of network namespaces.
pub(super) const NETNS_DIR: &str = "/run/netns";

/// Owner of everything that the labs of this process make. Dropping it removes all of it.
pub(crate) struct Session {
    name: String,
    dir: PathBuf,
    undo: Arc<Undo>,
    signals: Handle,
    /// Exit code after a signal; 0 means "128 + signal".
    exit_code: Arc<AtomicI32>,
}

impl Session {
    /// Sweeps what killed runs left, makes the run's folder and starts listening to signals.
    ///
    /// # Errors
    /// When the folder or the signal handlers cannot be made.
    pub(crate) fn start() -> Result<Arc<Self>> {
        let Swept { removed, errors } = sweep()?;
        for name in removed {
            eprintln!("removed what an earlier, killed run left: {name}");
        }
        for error in errors {
            eprintln!("sweeping what killed runs left: {error:#}");
        }
        let dir = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .rand_bytes(4)
            .tempdir()
            .context("making the lab's folder")?
            .keep();
        let name = dir
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .context("the lab's folder has no name")?;
        fs::create_dir(dir.join("children"))?;
        fs::write(dir.join("owner"), process::start_time(std::process::id())?)?;

        let undo = Arc::new(Undo::default());
        let exit_code = Arc::new(AtomicI32::new(-1));
        let mut listener = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let session = Self {
            name,
            dir,
            undo: Arc::clone(&undo),
            signals: listener.handle(),
            exit_code: Arc::clone(&exit_code),
        };
        let (dir, name) = (session.dir.clone(), session.name.clone());
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                if let Some(signal) = listener.forever().next() {
                    eprintln!("\nstopping: removing namespaces, processes and files of this run …");
                    clean_up(&undo, &dir, &name);
                    let code = exit_code.load(Ordering::SeqCst);
                    std::process::exit(if code < 0 { 128 + signal } else { code });
                }
            })?;
        Ok(Arc::new(session))
    }

    /// Unique name of this run, the prefix of all its namespaces.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The run's folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is undone at the end.
    pub(crate) fn undo(&self) -> &Undo {
        &self.undo
    }

    /// Leaves everything as it is until Ctrl-C, then cleans up and ends the process with `code`.
    pub(crate) fn keep_until_signal(&self, code: i32) -> ! {
        self.exit_code.store(code, Ordering::SeqCst);
        loop {
            thread::park();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        clean_up(&self.undo, &self.dir, &self.name);
        self.signals.close();
    }
}

fn clean_up(undo: &Undo, dir: &Path, name: &str) {
    for error in undo.undo_all() {
        eprintln!("clean-up: {error:#}");
    }
    // The second look catches what a step could not know, a namespace of a half-made pod say.
    for error in remove_traces(dir, name) {
        eprintln!("clean-up: {error:#}");
    }
}

/// The pid in a run's name: `flab123-x1y2` gives 123.
pub(super) fn owner_pid(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

/// Ends the recorded processes of a run, then removes its namespaces, mounts, control groups and
/// folder. The folder stays after an error, so that the next sweep tries again.
pub(crate) fn remove_traces(dir: &Path, name: &str) -> Vec<anyhow::Error> {
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| errors.extend(result.err());
    for entry in fs::read_dir(dir.join("children"))
        .into_iter()
        .flatten()
        .flatten()
    {
        note(process::end_recorded(&entry.path()));
    }
    let ours = format!("{name}-");
    for namespace in sweep::names_in(Path::new(NETNS_DIR)) {
        if namespace.starts_with(&ours) {
            note(sweep::delete_namespace(&namespace));
        }
    }
    for mount in mounts_below(dir) {
        note(sweep::unmounted(&mount));
    }
    sweep::control_groups(&ours).into_iter().for_each(note);
    if errors.is_empty() {
        errors.extend(sweep::removed(dir).err());
    }
    errors
}

/// Mount points below a folder, the deepest first.
pub(crate) fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|mount| mount.starts_with(dir))
        .collect();
    mounts.reverse();
    mounts
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started or fails; its output is in the error.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("starting {program}; is it installed?"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_an_owner() {
        assert_eq!(owner_pid("flab123-x1y2"), Some(123));
        for name in ["flab-1", "flab12", "flabby-1", "lab1-a", "flab1x-a"] {
            assert_eq!(owner_pid(name), None, "{name}");
        }
    }
}
