//! A copy of a file that is begun before the moment that it is of. Sharing a file's blocks takes time by its pieces: a
//! volume that was written here and there has hundreds of thousands, and its pods can't wait for all of them.

use super::{
    extents::each_change,
    kernel::{self, Extent, Extents},
};
use rustix::fs::{ftruncate, ioctl_ficlone};
use std::{
    fs::File,
    io,
    time::{Duration, Instant},
};

/// Pieces that are shared at a time: so long a writer waits.
const AT_A_TIME: usize = 256;
/// Pieces of a copy that are remembered until it is cut: 32 MiB.
#[cfg(not(test))]
const REMEMBERED: usize = 1 << 20;
#[cfg(test)]
const REMEMBERED: usize = 1000;

/// A copy that was begun.
#[derive(Debug)]
pub(super) struct Ahead {
    file: File,
    from: File,
    /// Where the blocks of what was copied lie. None: it will be copied at once.
    copied: Option<Vec<Extent>>,
}

impl Ahead {
    /// A copy to an empty file. Where the other one isn't still when the copy is cut, it is copied at once then: what is
    /// copied part by part is of many moments.
    pub(super) fn of(file: File, from: File, is_guarded: bool) -> io::Result<Self> {
        let copied = match is_guarded {
            true => begin(&file, &from)?,
            false => None,
        };
        Ok(Self { file, from, copied })
    }

    /// Has the copy be as the other one is now.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        let from = &self.from;
        let Some(copied) = &self.copied else {
            return Ok(ioctl_ficlone(&self.file, from)?);
        };
        let end = copied.last().map_or(0, |last| last.logical + last.length);
        let copied = copied.iter().copied().map(Ok);
        each_change(
            copied.chain(Extents::of(&self.file, end)),
            Extents::of(from, 0),
            0..from.metadata()?.len(),
            |range| kernel::clone_range(&self.file, from, &range),
        )
    }

    /// Has it be copied at once when it is cut: the other one may not be still then.
    pub(super) fn at_once(&mut self) {
        self.copied = None;
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
    let few = Extents::of(from, 0).take(AT_A_TIME + 1).count() <= AT_A_TIME;
    if few {
        return Ok(None);
    }
    let sharing = share(file, from)?;
    let started = Instant::now();
    // Nobody changes it any more, unlike the other one.
    let copied = first_extents(file)?;
    Ok((started.elapsed() < sharing).then_some(copied))
}

/// As many as are remembered; more are looked up when they are needed.
fn first_extents(of: &File) -> io::Result<Vec<Extent>> {
    Extents::of(of, 0).take(REMEMBERED).collect()
}

/// Shares all, as it is when its part is shared; how long that alone took.
fn share(file: &File, from: &File) -> io::Result<Duration> {
    let length = from.metadata()?.len();
    ftruncate(file, length)?;
    let mut sharing = Duration::ZERO;
    // Blocks may be taken behind the end.
    let mut pieces = Extents::of(from, 0)
        .take_while(|piece| !matches!(piece, Ok(piece) if piece.logical >= length));
    loop {
        let part: Vec<Extent> = pieces.by_ref().take(AT_A_TIME).collect::<io::Result<_>>()?;
        let (Some(first), Some(last)) = (part.first(), part.last()) else {
            return Ok(sharing);
        };
        let end = (last.logical + last.length).min(length);
        let started = Instant::now();
        kernel::clone_range(file, from, &(first.logical..end))?;
        sharing += started.elapsed();
    }
}

#[cfg(test)]
impl Ahead {
    /// Part by part, also where the machine finds that it doesn't pay.
    pub(super) fn in_parts(file: File, from: File) -> io::Result<Self> {
        share(&file, &from)?;
        Ok(Self {
            copied: Some(first_extents(&file)?),
            from,
            file,
        })
    }
}
