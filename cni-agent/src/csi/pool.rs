//! The folder of volumes on the node's disk: a file for each volume and each snapshot, on a file system that lets two
//! files share their blocks (reflink). Where the folder's own can't, one file in it holds an XFS that can. Found out by
//! trying, not by the file system's name. Volumes that are no files are its, too: [`super::backend`].

use super::{
    ahead::Ahead,
    attached::Attached,
    backend::{Found, btrfs::Subvolumes, directory::Directories, sweep},
    folder::Folder,
    mounts, tools,
};
use rustix::{
    fs::{
        FallocateFlags, IFlags, Mode, OFlags, fallocate, fstatvfs, fsync, ftruncate, ioctl_ficlone,
        ioctl_getflags, ioctl_setflags, openat,
    },
    io::Errno,
};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

const VOLUMES: &str = "volumes";
const SNAPSHOTS: &str = "snapshots";
const TRASH: &str = "trash";
const STORE: &str = "volumes.redb";
/// The file with a file system of its own, and where that is mounted.
const IMAGE: &str = "pool.img";
const MOUNTED: &str = "pool";
/// Of the room that is there, as much is left to others.
const LEFT_TO_OTHERS: u64 = 10;

/// Which of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Volume,
    Snapshot,
}

impl Kind {
    const fn folder(self) -> &'static str {
        match self {
            Self::Volume => VOLUMES,
            Self::Snapshot => SNAPSHOTS,
        }
    }
}

/// A file of the pool: what it is and its name, which was read by [`super::id`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Image<'a> {
    pub(super) kind: Kind,
    pub(super) name: &'a str,
}

impl Image<'_> {
    fn path(&self) -> String {
        format!("{}/{}.img", self.kind.folder(), self.name)
    }

    /// Where it is until it is whole.
    fn fresh(&self) -> String {
        format!("{}/.{}.new", self.kind.folder(), self.name)
    }
}

/// Room in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) free: u64,
    pub(super) total: u64,
}

/// The open folder.
#[derive(Debug)]
pub(super) struct Pool {
    root: PathBuf,
    dir: Folder,
    /// The node's own folder, where the pool is in a file of it.
    host: Option<Folder>,
    /// None: they can't be made here.
    pub(super) subvolumes: Option<Subvolumes>,
    pub(super) directories: Directories,
}

impl Pool {
    /// Opens the folder, making what is missing. Blocks; meant for the start.
    ///
    /// # Errors
    /// Worded for people.
    pub(super) fn open(folder: &Path) -> Result<Self, String> {
        let fault = |error: io::Error| format!("the pool of volumes {}: {error}", folder.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(fault)?;
        let root = match folder.join(IMAGE).exists() || !shares(folder).map_err(fault)? {
            false => folder.to_owned(),
            true => mount_image(folder)?,
        };
        let dir = Folder::open(&root).map_err(fault)?;
        for name in [VOLUMES, SNAPSHOTS, TRASH] {
            dir.made(name).map_err(fault)?;
        }
        let host = match root == folder {
            true => None,
            false => Some(Folder::open(folder).map_err(fault)?),
        };
        let subvolumes = Subvolumes::open(&dir).map_err(fault)?;
        let places = [host.as_ref(), Some(&dir)].into_iter().flatten();
        let directories = Directories::open(places).map_err(fault)?;
        fsync(&dir).map_err(|e| fault(e.into()))?;
        Ok(Self {
            root,
            dir,
            host,
            subvolumes,
            directories,
        })
    }

    /// What was found out about the back ends of this node.
    pub(super) fn found(&self) -> Found<'_> {
        let btrfs = match &self.subvolumes {
            None => Err("the pool is not on a btrfs"),
            Some(subvolumes) => subvolumes.limits.as_ref().copied().map_err(String::as_str),
        };
        let quota = self.directories.quota.as_ref();
        Found {
            btrfs,
            quota: quota.copied().map_err(String::as_str),
        }
    }

    /// Where the store of the pool is.
    pub(super) fn store(&self) -> PathBuf {
        self.root.join(STORE)
    }

    /// Where volumes are mounted that the kubelet has no place for.
    pub(super) fn mounts(&self) -> PathBuf {
        self.root.join("mounts")
    }

    /// Room that nobody's blocks take.
    pub(super) fn room(&self) -> io::Result<Room> {
        let (inner, backed) = self.rooms()?;
        Ok(Room {
            free: backed.map_or(inner.free, |backed| backed.free.min(inner.free)),
            ..inner
        })
    }

    /// The same for folders of volumes, which may be beside the pool's file.
    pub(super) fn room_for_directories(&self) -> io::Result<Room> {
        let (inner, backed) = self.rooms()?;
        Ok(match backed {
            Some(backed) if self.directories.on_host => backed,
            Some(backed) => Room {
                free: backed.free.min(inner.free),
                ..inner
            },
            None => inner,
        })
    }

    /// Room in the pool; and that of the disk below, where the pool is in a file whose blocks are taken when they are
    /// written: less what the pool holds and the disk doesn't have for it yet.
    fn rooms(&self) -> io::Result<(Room, Option<Room>)> {
        let stat = fstatvfs(&self.dir)?;
        let inner = Room {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        };
        let Some(host) = &self.host else {
            return Ok((inner, None));
        };
        let held = stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize;
        let file = File::from(host.beneath(IMAGE, OFlags::RDONLY)?);
        let lacking = held.saturating_sub(file.metadata()?.blocks() * 512);
        let stat = fstatvfs(host)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok((
            inner,
            Some(Room {
                free: free.saturating_sub(lacking),
                total: stat.f_blocks.saturating_mul(stat.f_frsize),
            }),
        ))
    }

    /// Opens a file that is there.
    pub(super) fn image(&self, image: Image<'_>, write: bool) -> io::Result<File> {
        let flags = if write { OFlags::RDWR } else { OFlags::RDONLY };
        self.dir
            .beneath(image.path().as_str(), flags)
            .map(File::from)
    }

    /// Makes a file of so many bytes that read as zeros, or as another one's that doesn't change. Unless it is thin, nobody
    /// else can take its blocks any more. There at once and whole, or not at all.
    pub(super) fn make(
        &self,
        image: Image<'_>,
        from: Option<Image<'_>>,
        bytes: u64,
        thin: bool,
    ) -> io::Result<()> {
        let made = || {
            let file = match from {
                Some(from) => {
                    let mut ahead = self.begin(image, from, false)?;
                    ahead.cut()?;
                    ahead.into_file()
                }
                None => {
                    let file = self.fresh(image)?;
                    write_in_place(&file)?;
                    file
                }
            };
            self.keep(image, &file, bytes, thin)
        };
        let made = made();
        if made.is_err() {
            self.dir.remove(&image.fresh())?;
        }
        made
    }

    /// Begins a copy of a file, which may change meanwhile. `is_guarded`: it is still when the copy is cut. What isn't
    /// kept in the end is to be removed.
    pub(super) fn begin(
        &self,
        image: Image<'_>,
        from: Image<'_>,
        is_guarded: bool,
    ) -> io::Result<Ahead> {
        let from = self.image(from, false)?;
        let file = self.fresh(image)?;
        if is_written_in_place(&from)? {
            write_in_place(&file)?;
        }
        Ahead::of(file, from, is_guarded)
    }

    /// A new file, not yet in its place.
    fn fresh(&self, image: Image<'_>) -> io::Result<File> {
        let fresh = image.fresh();
        // Of an attempt that ended early.
        self.dir.remove(&fresh)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        self.dir.beneath(fresh.as_str(), flags).map(File::from)
    }

    /// Puts a file in its place, of so many bytes.
    pub(super) fn keep(
        &self,
        image: Image<'_>,
        file: &File,
        bytes: u64,
        thin: bool,
    ) -> io::Result<()> {
        // Never shorter: what it is a copy of may have grown, and nobody noted it.
        if file.metadata()?.len() < bytes {
            ftruncate(file, bytes)?;
        }
        if !thin {
            // What is there stays, also where it is shared: room for its change is counted, not taken.
            fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes)?;
        }
        fsync(file)?;
        self.dir.rename(&image.fresh(), &image.path())?;
        self.dir.sync(image.kind.folder())
    }

    /// Lengthens a file.
    pub(super) fn grow(&self, image: Image<'_>, bytes: u64, thin: bool) -> io::Result<()> {
        let file = self.image(image, true)?;
        let length = file.metadata()?.len();
        // Before it is longer, so that a pool without room leaves it as it is.
        if !thin && let Err(error) = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes) {
            // XFS keeps behind its end what was taken until there was no more.
            if let Err(error) = ftruncate(&file, length) {
                tracing::warn!(name = image.name, %error, "a volume that didn't grow keeps room");
            }
            return Err(error.into());
        }
        if length < bytes {
            ftruncate(&file, bytes)?;
        }
        Ok(fsync(&file)?)
    }

    /// Removes a file: first out of reach, then its blocks; also what was only begun. Does nothing when there is none.
    pub(super) fn remove(&self, image: Image<'_>) -> io::Result<()> {
        self.dir.remove(&image.fresh())?;
        let trash = format!("{TRASH}/{}", image.name);
        match self.dir.rename(&image.path(), &trash) {
            Ok(()) => self.dir.sync(image.kind.folder())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.dir.remove(&trash)
    }

    /// Removes what operations left that ended early; how many of them. Tells what can't be removed, and goes on.
    pub(super) fn sweep(&self, failed: &mut dyn FnMut(&str, io::Error)) -> usize {
        let mut removed = self.directories.sweep(failed);
        if let Some(subvolumes) = &self.subvolumes {
            removed += subvolumes.sweep(failed);
        }
        for folder in [VOLUMES, SNAPSHOTS, TRASH] {
            removed += sweep(
                folder,
                self.left_in(folder),
                |name| self.dir.remove(name),
                failed,
            );
        }
        removed
    }

    fn left_in(&self, folder: &str) -> io::Result<Vec<String>> {
        let names = self.dir.names(folder)?.into_iter();
        let left = names.filter(|name| folder == TRASH || name.ends_with(".new"));
        Ok(left.map(|name| format!("{folder}/{name}")).collect())
    }

    /// Names of what [`Self::sweep`] would remove.
    pub(super) fn leftovers(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for folder in [VOLUMES, SNAPSHOTS, TRASH] {
            found.extend(self.left_in(folder)?);
        }
        found.extend(self.directories.leftovers()?);
        if let Some(subvolumes) = &self.subvolumes {
            found.extend(subvolumes.leftovers()?);
        }
        Ok(found)
    }

    /// The number of the disk that its files are on, as their inodes have it.
    pub(super) fn disk(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.dir)?.st_dev)
    }

    /// Where it is, for people.
    pub(super) fn folder(&self) -> &Path {
        &self.root
    }

    /// Names of the files of a kind.
    pub(super) fn images(&self, kind: Kind) -> io::Result<Vec<String>> {
        let names = self.dir.names(kind.folder())?.into_iter();
        Ok(names
            .filter_map(|name| name.strip_suffix(".img").map(str::to_owned))
            .collect())
    }
}

/// Has a file's blocks be written where they are, on a file system that would write them elsewhere (btrfs): blocks that
/// were taken for a volume stay its own, and direct I/O stays direct, since nobody sums them up. What shares blocks with
/// it is safe all the same: the first write of each goes elsewhere. Other file systems know no such word, and do so anyway.
fn write_in_place(file: &File) -> io::Result<()> {
    match ioctl_getflags(file).and_then(|flags| ioctl_setflags(file, flags | IFlags::NOCOW)) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_written_in_place(file: &File) -> io::Result<bool> {
    match ioctl_getflags(file) {
        Ok(flags) => Ok(flags.contains(IFlags::NOCOW)),
        Err(Errno::OPNOTSUPP | Errno::NOTTY) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the pool's own files can share blocks. A disk without room can't be tried: then they can where they did.
pub(super) fn shares(folder: &Path) -> io::Result<bool> {
    match shares_blocks(&Folder::open(folder)?) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            match folder.join(STORE).exists() {
                true => Ok(true),
                false => Err(error),
            }
        }
        tried => tried,
    }
}

/// Whether two files of a folder can share blocks.
pub(super) fn shares_blocks(folder: impl AsFd) -> io::Result<bool> {
    let scratch = || tempfile_in(&folder);
    let (from, to) = (scratch()?, scratch()?);
    rustix::io::write(&from, &[7; 4096])?;
    fsync(&from)?;
    match ioctl_ficlone(&to, &from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY | Errno::XDEV | Errno::NOSYS) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// A file without a name, which goes with its descriptor.
fn tempfile_in(folder: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat(folder, ".", flags, Mode::RUSR | Mode::WUSR)?)
}

/// Mounts the file system in the folder's image, making it at first; where it is.
fn mount_image(folder: &Path) -> Result<PathBuf, String> {
    let (image, at) = (folder.join(IMAGE), folder.join(MOUNTED));
    let fault = |action: &str, error: io::Error| format!("{}: {action}: {error}", image.display());
    if !image.exists() {
        make_image(folder, &image)?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&at)
        .map_err(|e| fault("its mount point", e))?;
    if mounts::at(&at).map_err(|e| fault("mounts", e))?.is_some() {
        return Ok(at);
    }
    let backing = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&image)
        .map_err(|e| fault("opening it", e))?;
    let attached = Attached::of(&backing).map_err(|e| fault("loop devices", e))?;
    let attached = match attached {
        Some(attached) => attached,
        None => Attached::new(&backing).map_err(|e| fault("a loop device", e))?,
    };
    attached.check().map_err(|e| fault("the loop device", e))?;
    let device = attached.device();
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    // With quotas of projects, where the kernel has them for XFS.
    mounts::device(device, &at, "xfs", &words(&["noatime", "prjquota"]))
        .or_else(|_| mounts::device(device, &at, "xfs", &words(&["noatime"])))
        .map_err(|e| fault("mounting it", e))?;
    Ok(at)
}

fn make_image(folder: &Path, image: &Path) -> Result<(), String> {
    let fault = |error: io::Error| format!("{}: {error}", image.display());
    let stat = rustix::fs::statvfs(folder).map_err(|e| fault(e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let bytes = free - free / LEFT_TO_OTHERS;
    let fresh = image.with_extension("new");
    let file = File::create(&fresh).map_err(fault)?;
    // Thin: its blocks are the folder's until volumes take them.
    file.set_len(bytes - bytes % 4096).map_err(fault)?;
    drop(file);
    tools::make(
        "mkfs.xfs",
        &[
            "-q",
            "-s",
            "size=4096",
            "-m",
            "reflink=1",
            &fresh.to_string_lossy(),
        ],
    )
    .map_err(|problem| format!("{}: {problem}", image.display()))?;
    fs::rename(&fresh, image).map_err(fault)
}
