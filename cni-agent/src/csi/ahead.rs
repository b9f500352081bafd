//! A copy of a file that is begun before the moment that it is of. Sharing a file's blocks takes time by its pieces: a
//! volume that was written here and there has hundreds of thousands, and its pods can't wait for all of them.

use super::{
    extents::changed,
    kernel::{self, Extent},
};
use rustix::fs::{ftruncate, ioctl_ficlone};
use std::{fs::File, io, time::Instant};

/// Pieces that are shared at a time: so long a writer waits.
const AT_A_TIME: usize = 256;

/// A copy that was begun.
#[derive(Debug)]
pub(super) struct Ahead {
    file: File,
    from: Option<File>,
    /// Where the blocks of what was copied lie. None: it will be copied at once.
    copied: Option<Vec<Extent>>,
}

impl Ahead {
    /// A file that is no copy.
    pub(super) const fn of_nothing(file: File) -> Self {
        Self {
            file,
            from: None,
            copied: None,
        }
    }

    /// A copy to an empty file. Where the other one isn't still when the copy is cut, it is copied at once then: what is
    /// copied part by part is of many moments.
    pub(super) fn of(file: File, from: File, is_guarded: bool) -> io::Result<Self> {
        let copied = match is_guarded {
            true => begin(&file, &from)?,
            false => None,
        };
        Ok(Self {
            file,
            from: Some(from),
            copied,
        })
    }

    /// Has the copy be as the other one is now.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        let Some(from) = &self.from else {
            return Ok(());
        };
        let Some(copied) = &self.copied else {
            return Ok(ioctl_ficlone(&self.file, from)?);
        };
        let length = from.metadata()?.len();
        changed(copied, &kernel::extents(from, 0)?, 0, length)
            .iter()
            .try_for_each(|range| kernel::clone_range(&self.file, from, range))
    }

    /// Whether much of it was copied already.
    pub(super) const fn is_most(&self) -> bool {
        self.copied.is_some()
    }

    pub(super) fn into_file(self) -> File {
        self.file
    }
}

/// Shares what is there, part by part, and tells what that is, if it pays to look up later what differs: where there are
/// many pieces, and a map of them is had in less time than their blocks are shared. That isn't so on every file system:
/// btrfs looks at each piece whether it is shared.
fn begin(file: &File, from: &File) -> io::Result<Option<Vec<Extent>>> {
    let length = from.metadata()?.len();
    let pieces = kernel::extents(from, 0)?;
    if pieces.len() <= AT_A_TIME {
        return Ok(None);
    }
    let started = Instant::now();
    share(file, from, &pieces, length)?;
    let sharing = started.elapsed();
    // Nobody changes it any more, unlike the other one.
    let copied = kernel::extents(file, 0)?;
    Ok((started.elapsed() < 2 * sharing).then_some(copied))
}

fn share(file: &File, from: &File, pieces: &[Extent], length: u64) -> io::Result<()> {
    ftruncate(file, length)?;
    for part in pieces.chunks(AT_A_TIME) {
        if let (Some(first), Some(last)) = (part.first(), part.last()) {
            let end = (last.logical + last.length).min(length);
            kernel::clone_range(file, from, &(first.logical..end))?;
        }
    }
    Ok(())
}

#[cfg(test)]
impl Ahead {
    /// Part by part, also where the machine finds that it doesn't pay.
    pub(super) fn in_parts(file: File, from: File) -> io::Result<Self> {
        let length = from.metadata()?.len();
        share(&file, &from, &kernel::extents(&from, 0)?, length)?;
        Ok(Self {
            copied: Some(kernel::extents(&file, 0)?),
            from: Some(from),
            file,
        })
    }
}
