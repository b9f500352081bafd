//! RIM: the texts of a configuration, from a file or from a folder of them, all of one moment.

use super::{MAX_FILE_BYTES, MAX_FILES, Problem, Text};
use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// How often a folder is read again that changes while it is read.
const TRIES: usize = 5;

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) files: Vec<Text>,
    pub(super) problems: Vec<Problem>,
    /// Further folders whose changes matter.
    pub(super) elsewhere: BTreeSet<PathBuf>,
}

/// Reads a file, or a folder's files; what isn't there is an empty configuration. Blocks on the disk.
pub(super) fn look(place: &Path) -> Look {
    let mut elsewhere = BTreeSet::new();
    if !place.is_dir() {
        // Of a place that isn't there, the nearest folder above tells when it comes; of a file, its own.
        let above = place.ancestors().skip(1).find(|folder| folder.is_dir());
        elsewhere.extend(above.map(Path::to_owned));
    }
    let mut problems = Vec::new();
    for _ in 0..TRIES {
        let read = match fs::metadata(place) {
            Ok(metadata) if metadata.is_dir() => {
                as_one(place, |root| read_folder(place, root, &mut elsewhere))
            }
            Ok(_) => {
                elsewhere.extend(home(place));
                read_file(place, place).map(|text| vec![text])
            }
            Err(error) if is_absent(&error) && !place.is_symlink() => Ok(Vec::new()),
            Err(error) => Err(Fault::Of(unreadable(place, &error))),
        };
        match read {
            Ok(files) => {
                return Look {
                    files,
                    elsewhere,
                    ..Look::default()
                };
            }
            Err(Fault::Of(problem)) => {
                return Look {
                    problems: vec![problem],
                    elsewhere,
                    ..Look::default()
                };
            }
            Err(Fault::Gone(problem)) => problems = vec![problem],
        }
    }
    Look {
        problems,
        elsewhere,
        ..Look::default()
    }
}

/// Why a text can't be had.
enum Fault {
    Of(Problem),
    /// It was there a moment ago: the rest may be of another moment too.
    Gone(Problem),
}

/// Where a folder's files really lie.
fn root(folder: &Path) -> Result<PathBuf, Fault> {
    // The volume of a ConfigMap: one link leads to the folder of all its files, which another one replaces as a whole.
    let data = folder.join("..data");
    match data.is_symlink() {
        true => data
            .canonicalize()
            .map_err(|error| Fault::Gone(unreadable(&data, &error))),
        false => Ok(folder.to_owned()),
    }
}

/// Reads a folder's files from where they lie. Who replaces them takes the older ones away, one after the other: what was
/// read meanwhile may be a part of them.
fn as_one<T>(folder: &Path, read: impl FnOnce(&Path) -> Result<T, Fault>) -> Result<T, Fault> {
    let before = root(folder)?;
    let texts = read(&before)?;
    match root(folder)? == before {
        true => Ok(texts),
        false => Err(Fault::Gone(Problem::of_file(
            &folder.display().to_string(),
            "is replaced each time that it is read; leave it in peace for a moment".to_owned(),
        ))),
    }
}

fn read_folder(
    folder: &Path,
    root: &Path,
    elsewhere: &mut BTreeSet<PathBuf>,
) -> Result<Vec<Text>, Fault> {
    let names = names(root).map_err(|error| match is_absent(&error) {
        true => Fault::Gone(unreadable(folder, &error)),
        false => Fault::Of(unreadable(folder, &error)),
    })?;
    if names.len() > MAX_FILES {
        let message = format!(
            "the folder has {} files; at most {MAX_FILES} are read, write several resources into one",
            names.len()
        );
        return Err(Fault::Of(Problem::of_file(
            &folder.display().to_string(),
            message,
        )));
    }
    let mut files = Vec::new();
    for name in names {
        let path = root.join(&name);
        elsewhere.extend(home(&path).filter(|home| home != folder && home != root));
        files.push(read_file(&path, &folder.join(&name))?);
    }
    Ok(files)
}

/// The folder that a file really lies in, where that is another one.
fn home(path: &Path) -> Option<PathBuf> {
    path.is_symlink().then_some(())?;
    Some(path.canonicalize().ok()?.parent()?.to_owned())
}

/// The files by name. Hidden names are none: editors keep their own things there.
fn names(folder: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let name = PathBuf::from(entry?.file_name());
        let hidden = name.as_os_str().as_encoded_bytes().starts_with(b".");
        let extension = name.extension().and_then(|extension| extension.to_str());
        if !hidden && matches!(extension, Some("yaml" | "yml" | "json")) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Reads the file at `path`, which is called `shown`.
fn read_file(path: &Path, shown: &Path) -> Result<Text, Fault> {
    let name = shown.display().to_string();
    let fault = |message: String| Fault::Of(Problem::of_file(&name, message));
    // Not blocking: a FIFO named like a configuration must not stop the agent.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => {
            fault("is a link to nothing; remove it or make its target".to_owned())
        }
        io::ErrorKind::NotFound => Fault::Gone(unreadable(shown, &error)),
        _ => Fault::Of(unreadable(shown, &error)),
    })?;
    let metadata = file
        .metadata()
        .map_err(|error| Fault::Of(unreadable(shown, &error)))?;
    if !metadata.is_file() {
        return Err(fault(
            "is not a regular file; remove it or give it another ending".to_owned(),
        ));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Fault::Of(unreadable(shown, &error)))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let length = metadata.len().max(bytes.len() as u64);
        return Err(fault(format!(
            "has {length} bytes; at most {MAX_FILE_BYTES} are read, split it"
        )));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Text { name, text }),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            Err(fault(format!(
                "byte {at} is not UTF-8; save the file as UTF-8"
            )))
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem::of_file(
        &path.display().to_string(),
        format!("can't be read: {error}; make it readable for the agent"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_volume_that_is_replaced_while_it_is_read_is_read_again() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path();
        for version in ["..1", "..2"] {
            fs::create_dir(folder.join(version)).unwrap();
        }
        symlink("..1", folder.join("..data")).unwrap();
        let name = |root: &Path| root.file_name().unwrap().to_owned();
        let replaced = as_one(folder, |root| {
            symlink("..2", folder.join("..tmp")).unwrap();
            fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
            Ok(name(root))
        });
        assert!(matches!(replaced, Err(Fault::Gone(_))));
        let whole = as_one(folder, |root| Ok(name(root)));
        assert!(whole.is_ok_and(|name| name == "..2"));
    }
}
