//! The files in /dev. The agent may see the node's /dev elsewhere: paths come in and go out as `/dev/…`, whatever the
//! place, and links in it mean what they mean on the node.

use super::sysfs::{MOST_NAMES, names};
use crate::device::{
    found::{DeviceFile, FileKind},
    pattern::{is_like_name, is_plain},
    plan::Pattern,
};
use rustix::fs::{major, minor};
use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Component, Path, PathBuf},
};

/// Links on one way, as the kernel counts them.
const MOST_LINKS: usize = 40;
/// Paths that one pattern may mean.
const MOST_PATHS: usize = 4096;

/// The folder of the node's device files.
pub(super) struct Dev<'a> {
    root: &'a Path,
}

impl<'a> Dev<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root }
    }

    /// Where the agent has it; none: it is not in /dev.
    pub(super) fn place(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix("/dev").ok()?;
        let is_plain = below
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        is_plain.then(|| self.root.join(below))
    }

    /// The path without links; none: they lead out of /dev.
    ///
    /// # Errors
    /// It isn't there, or can't be looked at.
    pub(super) fn real(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let Ok(below) = path.strip_prefix("/dev") else {
            return Ok(None);
        };
        let (mut ahead, mut behind, mut links) = (VecDeque::new(), PathBuf::new(), 0);
        put_ahead(&mut ahead, below);
        while let Some(part) = ahead.pop_front() {
            if part == ".." {
                if !behind.pop() {
                    return Ok(None);
                }
                continue;
            }
            let here = behind.join(&part);
            let place = self.root.join(&here);
            if !fs::symlink_metadata(&place)?.is_symlink() {
                behind = here;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Ok(None);
            }
            let target = fs::read_link(&place)?;
            if target.is_absolute() {
                let Ok(below) = target.strip_prefix("/dev") else {
                    return Ok(None);
                };
                behind = PathBuf::new();
                put_ahead(&mut ahead, below);
            } else {
                put_ahead(&mut ahead, &target);
            }
        }
        Ok(Some(Path::new("/dev").join(behind)))
    }

    /// The device file that a path means, also by links; none: it means none, or nothing.
    ///
    /// # Errors
    /// It can't be looked at.
    pub(super) fn file(&self, path: &Path) -> io::Result<Option<DeviceFile>> {
        let real = match self.real(path) {
            Ok(real) => real,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some((real, place)) = real.and_then(|real| {
            let place = self.place(&real)?;
            Some((real, place))
        }) else {
            return Ok(None);
        };
        let metadata = match fs::symlink_metadata(&place) {
            Ok(metadata) => metadata,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(
            numbers(&place, &metadata).map(|(kind, major, minor)| DeviceFile {
                path: real,
                kind,
                major,
                minor,
                group: metadata.gid(),
            }),
        )
    }

    /// Names in a folder, in order.
    pub(super) fn names(&self, folder: &Path) -> Vec<String> {
        let place = self
            .real(folder)
            .ok()
            .flatten()
            .and_then(|real| self.place(&real));
        place.map_or_else(Vec::new, |place| names(&place))
    }

    /// What is there of the paths that a pattern means, in order; of them links themselves. None: too many.
    pub(super) fn expand(&self, pattern: &Pattern) -> Option<Vec<PathBuf>> {
        let below = pattern.0.strip_prefix("/dev/").unwrap_or_default();
        let mut paths = vec![PathBuf::from("/dev")];
        for part in below.split('/').filter(|part| !part.is_empty()) {
            let mut next = Vec::new();
            for path in paths {
                let candidates = match is_plain(part) {
                    true => vec![part.to_owned()],
                    false => self.names(&path),
                };
                let here = candidates
                    .into_iter()
                    .filter(|name| is_plain(part) || is_like_name(part, name))
                    .map(|name| path.join(name))
                    .filter(|path| self.has(path));
                next.extend(here);
                if next.len() > MOST_PATHS {
                    return None;
                }
            }
            paths = next;
        }
        // A pattern that isn't below /dev means nothing here.
        paths.retain(|path| path != Path::new("/dev"));
        Some(paths)
    }

    /// Whether something has this name, also a link to nothing.
    fn has(&self, path: &Path) -> bool {
        let parent = path
            .parent()
            .and_then(|parent| self.real(parent).ok().flatten());
        let place = parent
            .zip(path.file_name())
            .and_then(|(parent, name)| self.place(&parent.join(name)));
        place.is_some_and(|place| fs::symlink_metadata(place).is_ok())
    }

    /// The files that links in folders of this name lead to, `/dev/serial/by-id`, and the first link to each.
    pub(super) fn links(&self, folder: &str) -> BTreeMap<PathBuf, PathBuf> {
        let mut links = BTreeMap::new();
        let dev = Path::new("/dev");
        for kind in self.names(dev) {
            let folder = dev.join(kind).join(folder);
            for name in self.names(&folder).into_iter().take(MOST_NAMES) {
                let link = folder.join(name);
                if let Ok(Some(real)) = self.real(&link)
                    && real != link
                {
                    links.entry(real).or_insert(link);
                }
            }
        }
        links
    }
}

/// Whether an error says that there is nothing.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn put_ahead(ahead: &mut VecDeque<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => ahead.push_front(name.to_owned()),
            Component::ParentDir => ahead.push_front("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
}

/// What device a file is for.
fn numbers(place: &Path, metadata: &Metadata) -> Option<(FileKind, u32, u32)> {
    let kind = metadata.file_type();
    let numbers = |of| (of, major(metadata.rdev()), minor(metadata.rdev()));
    if kind.is_char_device() {
        return Some(numbers(FileKind::Character));
    }
    if kind.is_block_device() {
        return Some(numbers(FileKind::Block));
    }
    stand_in(place, metadata)
}

#[cfg(not(test))]
fn stand_in(_: &Path, _: &Metadata) -> Option<(FileKind, u32, u32)> {
    None
}

/// In tests of who may not make device files, what a plain file says that it is.
#[cfg(test)]
fn stand_in(place: &Path, metadata: &Metadata) -> Option<(FileKind, u32, u32)> {
    let text = metadata
        .is_file()
        .then(|| fs::read_to_string(place).ok())??;
    super::fake::stand_in(&text)
}
