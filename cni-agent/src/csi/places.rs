//! Places where volumes are shown: folders and files of the kubelet's, never through a link.

use super::{fault::Fault, volumes::failed};
use rustix::fs::{Mode as FileMode, OFlags};
use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

/// A link leads to a place that the kubelet didn't name.
fn is_no_link(at: &Path) -> Result<(), Fault> {
    match fs::symlink_metadata(at) {
        Ok(metadata) if metadata.is_symlink() => Err(Fault::Precondition(
            "the place of the volume is a link; remove it".into(),
        )),
        _ => Ok(()),
    }
}

pub(super) fn make_folder(at: &Path) -> Result<(), Fault> {
    is_no_link(at)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(at)
        .map_err(failed("the place of the volume"))
}

pub(super) fn make_file(at: &Path) -> Result<(), Fault> {
    is_no_link(at)?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = || -> io::Result<()> {
        if let Some(folder) = at.parent() {
            fs::create_dir_all(folder)?;
        }
        rustix::fs::open(at, flags, FileMode::RUSR | FileMode::WUSR)?;
        Ok(())
    };
    made().map_err(failed("the place of the device"))
}

/// Removes what was made for a volume that isn't shown there after all, and nothing else: an empty folder or file.
pub(super) fn remove_unused(at: &Path) -> io::Result<()> {
    match fs::symlink_metadata(at)? {
        metadata if metadata.is_dir() => fs::remove_dir(at),
        metadata if metadata.is_file() && metadata.len() == 0 => fs::remove_file(at),
        _ => Ok(()),
    }
}

/// Removes an empty folder or file that pods saw a volume at.
pub(super) fn remove_place(at: &Path) -> Result<(), Fault> {
    let removed = match fs::symlink_metadata(at) {
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir(at),
        Ok(_) => fs::remove_file(at),
    };
    match removed {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(())
        }
        removed => removed.map_err(failed("the place of the volume")),
    }
}
