//! The files of the manifest folder and what is in force of each. A file that breaks keeps the last
//! content that was whole, across restarts too; one that was never whole gives what is whole in it, and
//! keeps what it gave until it is whole.

use super::{
    document::{Found, Parsed, parse},
    last_good::LastGood,
    merge::merge,
    object::ObjectKey,
    problem::{Severity, SourceProblem},
};
use crate::state::Cluster;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Largest file read.
pub(super) const MAX_FILE_BYTES: u64 = 4 << 20;
/// Most files read.
pub(super) const MAX_FILES: usize = 1000;

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    last_good: LastGood,
    files: BTreeMap<PathBuf, FileState>,
    /// What the last scan found: who has something keeps it.
    in_force: Cluster,
}

#[derive(Debug, Default)]
struct FileState {
    /// Of the content parsed last, to skip parsing what has not changed.
    digest: Option<[u8; 32]>,
    in_force: Vec<Found>,
    /// Whether `in_force` was a file without fault.
    was_whole: bool,
    problems: Vec<SourceProblem>,
}

/// What a scan found.
#[derive(Debug)]
pub(super) struct Scan {
    /// Without a revision.
    pub(super) cluster: Cluster,
    pub(super) problems: Vec<SourceProblem>,
    /// Folders in which the files really lie, where these are links.
    pub(super) elsewhere: BTreeSet<PathBuf>,
}

impl Folder {
    /// Copies of whole files are kept in `last_good`.
    pub(super) fn new(path: PathBuf, last_good: &Path) -> Self {
        Self {
            path,
            last_good: LastGood::new(last_good),
            files: BTreeMap::new(),
            in_force: Cluster::default(),
        }
    }

    /// Reads what has changed. Blocks on the disk.
    pub(super) fn scan(&mut self) -> Scan {
        let mut problems = Vec::new();
        let mut elsewhere = BTreeSet::new();
        match list(&self.path) {
            // Everything stays in force: a folder that is unmounted for a moment removes nothing.
            Err(e) => problems.push(SourceProblem::of_file(
                &self.path.display().to_string(),
                format!("the folder can't be read: {e}; make it readable, until then what was read last stays in force"),
            )),
            Ok(mut paths) => {
                if paths.len() > MAX_FILES {
                    let message = format!(
                        "the folder holds {} manifests, {MAX_FILES} are read (by name); put several objects into one file, separated by ---",
                        paths.len()
                    );
                    let folder = self.path.display().to_string();
                    problems.push(SourceProblem::of_file(&folder, message));
                    paths = paths.into_iter().take(MAX_FILES).collect();
                }
                self.files.retain(|path, _| paths.contains(path));
                self.last_good.retain(&paths);
                let home = self.path.canonicalize().ok();
                for path in paths {
                    if let Ok(real) = path.canonicalize()
                        && let Some(parent) = real.parent()
                        && Some(parent) != home.as_deref()
                    {
                        elsewhere.insert(parent.to_owned());
                    }
                    self.update(path);
                }
            }
        }
        let names: Vec<String> = self.files.keys().map(|p| p.display().to_string()).collect();
        let in_force = self.files.values().map(|file| file.in_force.as_slice());
        let files = names.iter().map(String::as_str).zip(in_force);
        let (cluster, contradictions) = merge(&self.in_force, files);
        self.in_force.clone_from(&cluster);
        problems.extend(
            self.files
                .values()
                .flat_map(|file| file.problems.iter().cloned()),
        );
        problems.extend(contradictions);
        problems.sort();
        Scan {
            cluster,
            problems,
            elsewhere,
        }
    }

    /// The file and line of a policy's rule, as `object` and `rule` name them.
    pub(super) fn place(&self, object: &str, rule: &str) -> Option<String> {
        self.files.iter().find_map(|(path, file)| {
            let found = file.in_force.iter();
            let mut found = found.filter(|found| !found.rules.is_empty());
            let found = found.find(|found| found.key.to_string() == object)?;
            let line = found.rules.get(rule)?;
            Some(format!("{}:{line}", path.display()))
        })
    }

    fn update(&mut self, path: PathBuf) {
        let name = path.display().to_string();
        let read = read(&path);
        if let Err(ReadError::Vanished) = read {
            // Deleted since the folder was listed.
            self.files.remove(&path);
            return;
        }
        let last_good = &self.last_good;
        let file = self.files.entry(path.clone()).or_default();
        let parsed = match read {
            Ok(bytes) => {
                let digest = Sha256::digest(&bytes).into();
                if file.digest == Some(digest) {
                    return;
                }
                file.digest = Some(digest);
                let parsed = parse(&name, &bytes);
                if !parsed.is_broken()
                    && let Err(error) = last_good.keep(&path, &bytes)
                {
                    tracing::warn!(manifest = name, %error, "should it break, its content is not kept beyond this agent's end");
                }
                parsed
            }
            Err(error) => {
                file.digest = None;
                let problems = vec![SourceProblem::of_file(&name, error.to_string())];
                Parsed {
                    objects: Vec::new(),
                    problems,
                }
            }
        };
        if parsed.is_broken() && !file.was_whole {
            let recalled = last_good
                .recall(&path)
                .map(|bytes| parse(&name, &bytes))
                .filter(|recalled| !recalled.is_broken());
            if let Some(recalled) = recalled {
                file.in_force = recalled.objects;
                file.was_whole = true;
            }
        }
        file.apply(parsed);
    }
}

impl FileState {
    fn apply(&mut self, parsed: Parsed) {
        let broken = parsed.is_broken();
        self.problems = parsed.problems;
        if !broken {
            self.in_force = parsed.objects;
            self.was_whole = true;
        } else if !self.was_whole {
            // Which object the fault hides can't be known: none that was in force goes.
            let before = std::mem::replace(&mut self.in_force, parsed.objects);
            let read: BTreeSet<ObjectKey> = self
                .in_force
                .iter()
                .map(|found| found.key.clone())
                .collect();
            let hidden = before
                .into_iter()
                .filter(|found| !read.contains(&found.key));
            self.in_force.extend(hidden);
        }
        let effect = if self.was_whole {
            "until then the last good content of this file stays in force"
        } else {
            "until then only the rest of this file is in force, and what was before"
        };
        for problem in self
            .problems
            .iter_mut()
            .filter(|p| broken && p.severity == Severity::Error)
        {
            problem.message = format!("{}; {effect}", problem.message);
        }
    }
}

/// The manifests of the folder by name. Hidden names are none: editors and ConfigMap volumes keep
/// their own things there.
fn list(folder: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !hidden && matches!(extension, Some("yaml" | "yml" | "json")) {
            paths.insert(path);
        }
    }
    Ok(paths)
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("vanished")]
    Vanished,
    #[error("is a link to nothing; remove it or make its target")]
    Dangling,
    #[error("is not a regular file; remove it or give it another ending")]
    NotAFile,
    #[error("has {0} bytes, at most {MAX_FILE_BYTES} are read; split it")]
    TooLarge(u64),
    #[error("can't be read: {0}; make it readable for the agent")]
    Io(io::Error),
}

fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    // Not blocking: a FIFO named like a manifest must not stop the agent.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = opened.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => ReadError::Dangling,
        io::ErrorKind::NotFound => ReadError::Vanished,
        _ => ReadError::Io(e),
    })?;
    let metadata = file.metadata().map_err(ReadError::Io)?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile);
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(ReadError::Io)?;
    let length = metadata.len().max(bytes.len() as u64);
    if length > MAX_FILE_BYTES {
        Err(ReadError::TooLarge(length))
    } else {
        Ok(bytes)
    }
}
