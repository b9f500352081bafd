//! Finds device files by their paths: each is a device.

use super::{
    candidate::{Candidate, Files, Sought},
    dev::Dev,
    scan::Scan,
};
use crate::device::{pattern::is_plain, plan::Pattern};
use std::path::{Path, PathBuf};

/// Folders of one pattern that are watched.
const MOST_WATCHED: usize = 256;

pub(super) fn sought<'a>(scan: &'a Scan<'_>, pattern: &Pattern) -> Sought<'a> {
    let candidates = paths(scan, pattern).into_iter().map(|path| {
        let file = scan.file(&path);
        let folder = file.as_ref().and_then(|file| scan.folder_of(file));
        // Who names a link means the link: what it leads to may change its name.
        let is_link = file.as_ref().is_some_and(|file| file.path != path);
        Candidate {
            folders: folder.into_iter().collect(),
            key: is_link.then(|| path.display().to_string()),
            files: Files::These(file.into_iter().collect()),
            ..Candidate::default()
        }
    });
    Sought::new(format!("paths like {}", pattern.0), candidates.collect())
}

/// What is there of a pattern's paths; a pattern that means none is a problem.
pub(super) fn paths(scan: &Scan<'_>, pattern: &Pattern) -> Vec<PathBuf> {
    if let Err(problem) = pattern.check() {
        scan.problem(problem);
        return Vec::new();
    }
    let is_upward = pattern.0.split('/').any(|part| matches!(part, "." | ".."));
    if !pattern.0.starts_with("/dev/") || is_upward {
        scan.problem(format!(
            "{:?} is no path of device files; write one below /dev/",
            pattern.0
        ));
        return Vec::new();
    }
    scan.dev.expand(pattern).unwrap_or_else(|| {
        scan.problem(format!(
            "{:?} means more paths than are looked at; write a narrower one",
            pattern.0
        ));
        Vec::new()
    })
}

/// The folders in which a pattern's paths come and go, as the agent sees them: with `whole` also those that it means.
pub(super) fn folders(dev: &Dev<'_>, pattern: &Pattern, whole: bool) -> Vec<PathBuf> {
    let parts: Vec<&str> = pattern
        .0
        .strip_prefix("/dev/")
        .map_or_else(Vec::new, |below| below.split('/').collect());
    let last = parts.len().saturating_sub(usize::from(!whole));
    let mut folders = Vec::new();
    for end in 1..=last {
        let within = Pattern(format!("/dev/{}", parts[..end].join("/")));
        // A pattern of the last part alone would have every file be looked at.
        let means_files = whole && end == parts.len() && !is_plain(parts[end - 1]);
        let paths = dev.expand(&within).unwrap_or_default();
        let places = paths.iter().filter_map(|path| place(dev, path));
        folders.extend(
            places
                .filter(|place| !means_files || place.is_dir())
                .take(MOST_WATCHED),
        );
    }
    folders
}

fn place(dev: &Dev<'_>, path: &Path) -> Option<PathBuf> {
    dev.place(&dev.real(path).ok()??)
        .filter(|place| place.is_dir())
}
