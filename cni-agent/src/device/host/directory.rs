//! Finds folders in /dev: the device files of one, or those that its links lead to, are a device together.

use super::{
    candidate::{Candidate, Files, Sought},
    path::paths,
    scan::Scan,
};
use crate::device::plan::Pattern;
use std::collections::BTreeSet;

/// Files of one folder.
const MOST_FILES: usize = 1024;

pub(super) fn sought<'a>(scan: &'a Scan<'_>, pattern: &Pattern) -> Sought<'a> {
    let mut candidates = Vec::new();
    for folder in paths(scan, pattern) {
        if let Ok(Some(real)) = scan.dev.real(&folder)
            && let Some(place) = scan.dev.place(&real)
            && place.is_dir()
        {
            let names = scan.dev.names(&folder);
            let files: BTreeSet<_> = names
                .into_iter()
                .take(MOST_FILES)
                .filter_map(|name| scan.file(&folder.join(name)))
                .collect();
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            candidates.push(Candidate {
                folders: files
                    .iter()
                    .filter_map(|file| scan.folder_of(file))
                    .collect(),
                key: Some(folder.display().to_string()),
                fields: [("name".to_owned(), name.into_owned())].into(),
                files: Files::These(files.into_iter().collect()),
            });
        }
    }
    Sought::new(format!("folders like {}", pattern.0), candidates)
}
