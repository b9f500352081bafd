//! Trees of files: copied with owners, times and further attributes, blocks shared where the file system can, and counted.
//! Nothing is reached through a link, and not for ever: who made the tree may have meant harm.

use crate::csi::folder::Folder;
use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
        XattrFlags, chownat, copy_file_range, fchmod, fchown, fgetxattr, flistxattr, fsetxattr,
        ftruncate, futimens, ioctl_ficlone, linkat, mkdirat, mknodat, readlinkat, seek, statat,
        symlinkat, utimensat,
    },
    io::Errno,
};
use std::{
    collections::{HashMap, HashSet},
    ffi::CStr,
    io,
    ops::ControlFlow,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

/// Folders in folders; three descriptors are open for each.
const DEEPEST: usize = 128;
/// Paths that are kept of files with several names, in bytes.
const MOST_OF_PATHS: usize = 64 << 20;
/// Names that are counted; what is more isn't.
const MOST_NAMES: u64 = 1 << 22;
/// Files with several names that are known again; others are counted by each of their names.
const MOST_SEEN: usize = 1 << 20;
/// Values of attributes: the kernel's own limit.
const LONGEST: usize = 64 << 10;

/// Copies all of a folder to another that is empty; the tree doesn't change meanwhile.
pub(super) fn tree(from: &Folder, to: &Folder) -> io::Result<()> {
    let mut links = Links::up_to(MOST_OF_PATHS);
    folder(from, to, Path::new(""), to, &mut links)?;
    attributes(from, to, &rustix::fs::fstat(from)?)
}

/// The first name of each file that has further ones, by its inode, until all of them were met.
struct Links {
    first: HashMap<u64, (PathBuf, u64)>,
    left: usize,
}

impl Links {
    fn up_to(left: usize) -> Self {
        Self {
            first: HashMap::new(),
            left,
        }
    }

    /// The name that a file was met by first, if it was.
    fn met(&mut self, inode: u64) -> Option<PathBuf> {
        let (path, further) = self.first.get_mut(&inode)?;
        let path = path.clone();
        *further -= 1;
        if *further == 0 {
            self.first.remove(&inode);
            self.left += path.as_os_str().len();
        }
        Some(path)
    }

    /// Notes a name by which a file with so many is met first: a number whose type differs between machines.
    fn note(&mut self, inode: u64, names: impl Into<u64>, path: PathBuf) -> io::Result<()> {
        let left = self.left.checked_sub(path.as_os_str().len());
        self.left = left.ok_or_else(|| {
            io::Error::other("too many of its files have further names (hard links); remove some")
        })?;
        self.first.insert(inode, (path, names.into() - 1));
        Ok(())
    }
}

fn folder(
    from: &Folder,
    to: &Folder,
    path: &Path,
    root: &Folder,
    links: &mut Links,
) -> io::Result<()> {
    if path.components().count() > DEEPEST {
        return Err(too_deep());
    }
    from.each(|name| {
        let of = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let here = path.join(as_path(name));
        let kind = FileType::from_raw_mode(of.st_mode);
        if kind == FileType::Directory {
            mkdirat(to, name, Mode::RWXU)?;
            let (from, to) = (from.within(name)?, to.within(name)?);
            folder(&from, &to, &here, root, links)?;
            // After what is in it, which would change its times.
            attributes(&from, &to, &of)?;
            return Ok(ControlFlow::Continue(()));
        }
        if of.st_nlink > 1 {
            if let Some(first) = links.met(of.st_ino) {
                linkat(root, first, to, name, AtFlags::empty())?;
                return Ok(ControlFlow::Continue(()));
            }
            links.note(of.st_ino, of.st_nlink, here)?;
        }
        match kind {
            FileType::RegularFile => file(from, to, name)?,
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
                whose(to, name, &of)?;
            }
            _ => {
                mknodat(to, name, kind, Mode::from_raw_mode(of.st_mode), of.st_rdev)?;
                whose(to, name, &of)?;
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

fn file(from: &Folder, to: &Folder, name: &CStr) -> io::Result<()> {
    let source = from.beneath(name, OFlags::RDONLY | OFlags::NONBLOCK)?;
    // Of what was opened: the name may mean something else by now.
    let of = rustix::fs::fstat(&source)?;
    if FileType::from_raw_mode(of.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("a file was exchanged while it was copied"));
    }
    let copy = to.beneath(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
    match ioctl_ficlone(&copy, &source) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY | Errno::XDEV | Errno::NOSYS) => {
            bytes(&source, &copy, of.st_size.try_into().unwrap_or(0))?;
        }
        Err(error) => return Err(error.into()),
    }
    attributes(&source, &copy, &of)
}

/// Copies what isn't a hole.
fn bytes(from: impl AsFd, to: impl AsFd, length: u64) -> io::Result<()> {
    ftruncate(&to, length)?;
    let mut at = 0;
    while at < length {
        at = match seek(&from, SeekFrom::Data(at)) {
            Ok(at) => at,
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = seek(&from, SeekFrom::Hole(at))?;
        let mut into = at;
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
            // Both offsets go on by what was copied.
            if copy_file_range(&from, Some(&mut at), &to, Some(&mut into), most)? == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Owner, times and further attributes, as another has them.
fn attributes(from: impl AsFd, to: impl AsFd, of: &Stat) -> io::Result<()> {
    let (user, group) = owner(of);
    fchown(&to, Some(user), Some(group))?;
    // Which the change of the owner took rights from.
    fchmod(&to, Mode::from_raw_mode(of.st_mode))?;
    let mut names = vec![0; LONGEST];
    let length = match flistxattr(&from, names.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let mut value = vec![0; LONGEST];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(io::Error::other)?;
        let length = fgetxattr(&from, name, value.as_mut_slice())?;
        fsetxattr(&to, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(futimens(&to, &times(of))?)
}

/// The same of what can't be opened.
fn whose(to: &Folder, name: &CStr, of: &Stat) -> io::Result<()> {
    let (user, group) = owner(of);
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    chownat(to, name, Some(user), Some(group), flags)?;
    Ok(utimensat(to, name, &times(of), flags)?)
}

fn owner(of: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(of.st_uid), Gid::from_raw(of.st_gid))
}

fn times(of: &Stat) -> Timestamps {
    let time = |seconds, nanos: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.try_into().unwrap_or(0),
    };
    Timestamps {
        last_access: time(of.st_atime, of.st_atime_nsec),
        last_modification: time(of.st_mtime, of.st_mtime_nsec),
    }
}

/// Bytes that a folder's files take, and how many files there are. Pods may change it meanwhile; what lies too deep, and
/// names after the first four million, aren't counted.
pub(super) fn size(of: &Folder) -> io::Result<(u64, u64)> {
    size_of(of, MOST_NAMES)
}

fn size_of(of: &Folder, most: u64) -> io::Result<(u64, u64)> {
    let mut counted = (0, 0);
    count(of, 0, most, &mut HashSet::new(), &mut counted)?;
    Ok(counted)
}

fn count(
    of: &Folder,
    depth: usize,
    most: u64,
    seen: &mut HashSet<u64>,
    counted: &mut (u64, u64),
) -> io::Result<()> {
    const BLOCK: u64 = 512;
    of.each(|name| {
        if counted.1 >= most {
            return Ok(ControlFlow::Break(()));
        }
        let found = match statat(of, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(ControlFlow::Continue(())),
            found => found?,
        };
        let is_folder = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        if !is_folder && found.st_nlink > 1 {
            let is_known = seen.contains(&found.st_ino);
            if is_known {
                return Ok(ControlFlow::Continue(()));
            }
            if seen.len() < MOST_SEEN {
                seen.insert(found.st_ino);
            }
        }
        counted.0 += u64::try_from(found.st_blocks).unwrap_or(0) * BLOCK;
        counted.1 += 1;
        if is_folder && depth < DEEPEST {
            match of.within(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                within => count(&within?, depth + 1, most, seen, counted)?,
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

fn as_path(name: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

fn too_deep() -> io::Error {
    io::Error::other(format!("folders lie in each other deeper than {DEEPEST}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    };

    #[test]
    fn a_copy_has_what_its_original_has_and_no_more() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        for folder in [&from, &to, &from.join("a"), &from.join("a/b")] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(from.join("a/b/file"), "kept").unwrap();
        fs::hard_link(from.join("a/b/file"), from.join("other")).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        let sparse = fs::File::create(from.join("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        sparse.write_all_at(b"end", 32 << 20).unwrap();
        let mode = fs::Permissions::from_mode(0o4751);
        fs::set_permissions(from.join("sparse"), mode).unwrap();
        fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o711)).unwrap();
        let open = |path: &Path| Folder::open(path).unwrap();
        tree(&open(&from), &open(&to)).unwrap();

        assert_eq!(fs::read_to_string(to.join("a/b/file")).unwrap(), "kept");
        let inode = |path: &Path| fs::symlink_metadata(path).unwrap().ino();
        assert_eq!(inode(&to.join("a/b/file")), inode(&to.join("other")));
        assert_ne!(inode(&to.join("other")), inode(&from.join("other")));
        let link = fs::read_link(to.join("link")).unwrap();
        assert_eq!(link, Path::new("/etc/passwd"));
        let copy = fs::metadata(to.join("sparse")).unwrap();
        assert_eq!((copy.len(), copy.mode() & 0o7777), (64 << 20, 0o4751));
        let times = |path: &Path| {
            let of = fs::symlink_metadata(path).unwrap();
            (of.modified().unwrap(), of.mode())
        };
        for name in ["", "a", "a/b/file", "sparse", "link"] {
            assert_eq!(times(&from.join(name)), times(&to.join(name)), "{name}");
        }
        let mut end = [0; 3];
        let sparse = fs::File::open(to.join("sparse")).unwrap();
        sparse.read_exact_at(&mut end, 32 << 20).unwrap();
        assert_eq!(&end, b"end");
        let (bytes, files) = size(&open(&to)).unwrap();
        assert_eq!(files, 5);
        assert!(bytes < 1 << 20, "{bytes}");
    }

    #[test]
    fn what_is_kept_and_counted_of_a_tree_has_bounds() {
        let mut links = Links::up_to(5);
        links.note(1, 3_u32, "abc".into()).unwrap();
        assert!(links.note(2, 2_u32, "def".into()).is_err());
        for _ in 0..2 {
            assert_eq!(links.met(1), Some("abc".into()));
        }
        assert_eq!(links.met(1), None);
        links.note(2, 2_u32, "defgh".into()).unwrap();

        let place = tempfile::tempdir().unwrap();
        for n in 0..9 {
            fs::write(place.path().join(n.to_string()), "x").unwrap();
        }
        let folder = Folder::open(place.path()).unwrap();
        assert_eq!(size(&folder).unwrap().1, 9);
        assert_eq!(size_of(&folder, 4).unwrap().1, 4);
    }

    #[test]
    fn a_file_is_copied_as_it_is_when_it_is_opened() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        for folder in [&from, &to] {
            fs::create_dir(folder).unwrap();
        }
        let open = |path: &Path| Folder::open(path).unwrap();
        let pipe = (open(&from), open(&to));
        mknodat(&pipe.0, "pipe", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(file(&pipe.0, &pipe.1, c"pipe").is_err());
        assert!(!to.join("pipe").exists());
    }
}
