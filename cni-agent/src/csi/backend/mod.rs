//! What a volume is on the pool: a file with a file system of its own ([`image`]), a subvolume ([`btrfs`]) or a folder with
//! a project's quota ([`directory`]). One trait for all; which one a volume is, its record says.

pub(super) mod btrfs;
mod choice;
mod copy;
pub(super) mod directory;
#[cfg(test)]
mod disk_tests;
mod image;
pub(super) mod kernel;

pub(super) use choice::{Asked, Found, choose, fits};

use super::{
    ahead::Ahead,
    folder::Folder,
    pool::Kind,
    records::{Snapshot, Source, Volume},
    request::Backing,
    staging::Stats,
};
use std::{
    fs::File,
    io::{self, Read as _, Write as _},
};

/// Something that a back end keeps.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item<'a> {
    Volume(&'a Volume),
    Snapshot(&'a Snapshot),
}

impl Item<'_> {
    /// Its id.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Volume(of) => of.id.as_str(),
            Self::Snapshot(of) => of.id.as_str(),
        }
    }

    /// How many bytes were promised of it.
    pub(super) const fn bytes(&self) -> u64 {
        match self {
            Self::Volume(of) => of.bytes,
            Self::Snapshot(of) => of.bytes,
        }
    }

    pub(super) fn backing(&self) -> Backing {
        match self {
            Self::Volume(of) => of.backing,
            Self::Snapshot(of) => of.backing,
        }
    }
}

/// What was made of a copy before the moment that it is of; nothing, where a back end makes it at once.
#[derive(Debug, Default)]
pub(super) struct Draft(pub(super) Option<Ahead>);

/// What the pool does for a kind of volumes. What it makes is there at once and whole, or not at all; what it removes may
/// be gone already.
pub(super) trait Backend {
    /// Makes a volume of a record: empty, or with what the snapshot has that is its source.
    fn make(&self, volume: &Volume) -> io::Result<()>;

    /// Begins a copy of a volume, which may change meanwhile. `is_guarded`: it will be still when the copy is cut.
    fn begin(&self, _: Item<'_>, _is_guarded: bool) -> io::Result<Draft> {
        Ok(Draft::default())
    }

    /// Has a copy be as the volume is now: a volume of its source, a snapshot of what it is of.
    fn cut(&self, item: Item<'_>, draft: &mut Draft) -> io::Result<()>;

    /// Has what was cut be there for good.
    fn keep(&self, _: Item<'_>, _: Draft) -> io::Result<()> {
        Ok(())
    }

    /// Removes it, or what was made of it.
    fn remove(&self, item: Item<'_>) -> io::Result<()>;

    /// Has a volume have so many bytes, no fewer than before.
    fn grow(&self, volume: &Volume, bytes: u64) -> io::Result<()>;

    /// What pods are shown; none: a device.
    fn folder(&self, volume: &Volume) -> io::Result<Option<Folder>>;

    /// What is used of a volume, told by what bounds it; none: its own file system tells it.
    fn usage(&self, volume: &Volume) -> io::Result<Option<Stats>>;

    /// What is wrong with what bounds a volume.
    fn unbounded(&self, volume: &Volume) -> io::Result<Option<Unbounded>>;

    /// Bytes that may still be asked of the pool for this: its size, less the blocks that nothing but this has.
    fn owed(&self, item: Item<'_>) -> io::Result<u64>;

    /// Names of what is there of a kind.
    fn names(&self, kind: Kind) -> io::Result<Vec<String>>;
}

/// Why a volume may have more than was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unbounded {
    /// Its limit is gone.
    NoLimit,
    /// It has more than its limit.
    Over,
    /// A pod made subvolumes in it, which have none.
    Subvolumes,
}

/// Of a record's source: which kind of thing has what name.
pub(super) fn source(of: &Volume) -> Option<(Kind, &str)> {
    of.source.as_ref().map(|source| match source {
        Source::Snapshot(id) => (Kind::Snapshot, id.as_str()),
        Source::Volume(id) => (Kind::Volume, id.as_str()),
    })
}

/// Names of a kind among those of a folder that has both.
fn of_kind(names: Vec<String>, kind: Kind) -> Vec<String> {
    let prefix = match kind {
        Kind::Volume => "vol-",
        Kind::Snapshot => "snap-",
    };
    let mut names = names;
    names.retain(|name| name.starts_with(prefix));
    names
}

/// Removes what was left in a folder; how many of them. Tells what can't be removed, and goes on.
pub(super) fn sweep(
    folder: &str,
    left: io::Result<Vec<String>>,
    remove: impl Fn(&str) -> io::Result<()>,
    failed: &mut dyn FnMut(&str, io::Error),
) -> usize {
    let left = left.unwrap_or_else(|error| {
        failed(folder, error);
        Vec::new()
    });
    let mut removed = 0;
    for name in left {
        match remove(&name) {
            Ok(()) => removed += 1,
            Err(error) => failed(&name, error),
        }
    }
    removed
}

/// Whether so many bytes can be written where a limit should keep them out.
fn overruns(mut file: File, bytes: usize) -> io::Result<bool> {
    // Of chance, so that a file system that packs them can't make them fit.
    let mut data = vec![0; bytes];
    File::open("/dev/urandom")?.read_exact(&mut data)?;
    match file.write_all(&data).and_then(|()| file.sync_all()) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull => Ok(false),
            _ => Err(error),
        },
    }
}
