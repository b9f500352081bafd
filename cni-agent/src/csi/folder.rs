//! A folder whose contents are reached beneath its descriptor alone: through no link, over no mount, by no path that
//! somebody could exchange meanwhile. What pods have made in it is removed without trust in its shape.

use super::backend::kernel::destroy_subvolume;
use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, fsync, mkdirat, openat2, renameat, unlinkat},
    io::Errno,
    path::Arg,
};
use std::{
    ffi::{CStr, CString},
    io,
    ops::ControlFlow,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// What was moved to be removed.
const MOVED: &str = ".moved-";
/// Subvolumes that pods made in each other's: who goes deeper means harm.
const DEEPEST: usize = 16;
/// Names that are read before what they mean is removed.
const AT_A_TIME: usize = 1024;

/// The open folder.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Folder {
    /// Opens one by its path.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens one in this one.
    pub(super) fn within(&self, path: impl Arg) -> io::Result<Self> {
        self.beneath(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map(Self)
    }

    /// The same, made if it isn't there.
    pub(super) fn made(&self, name: &str) -> io::Result<Self> {
        match mkdirat(self, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.within(name),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens something in it.
    pub(super) fn beneath(&self, path: impl Arg, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let mode = match flags.contains(OFlags::CREATE) {
            true => Mode::RUSR | Mode::WUSR,
            false => Mode::empty(),
        };
        let flags = flags | OFlags::CLOEXEC;
        Ok(openat2(self, path, flags, mode, resolve)?)
    }

    /// Whether something is there.
    pub(super) fn has(&self, path: &str) -> io::Result<bool> {
        match rustix::fs::statat(self, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Names of what is in a folder of it, as far as they are ours.
    pub(super) fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        self.within(path)?.each(|name| {
            names.extend(name.to_str().ok().map(str::to_owned));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(names)
    }

    /// Makes what was done in a folder of it durable.
    pub(super) fn sync(&self, path: &str) -> io::Result<()> {
        Ok(fsync(self.within(path)?)?)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(self, from, self, to)?)
    }

    /// Removes a file, a folder with all that is in it, or a subvolume; nothing when there is none.
    pub(super) fn remove(&self, path: &str) -> io::Result<()> {
        match unlinkat(self, path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // POSIX says the latter.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let (parent, name) = match path.rsplit_once('/') {
            Some((parent, name)) => (self.within(parent)?, name),
            None => (self.within(".")?, path),
        };
        remove_folder(&parent, name, 0)
    }

    /// Does something for each name in it, until that breaks off. Pods may have made more than memory holds.
    pub(super) fn each(
        &self,
        mut work: impl FnMut(&CStr) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        for entry in Dir::read_from(self)? {
            let entry = entry?;
            let is_own = matches!(entry.file_name().to_bytes(), b"." | b"..");
            if !is_own && work(entry.file_name())?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Some of the names in it, while it is emptied; none: there are no more.
    fn some(&self) -> io::Result<Vec<CString>> {
        let mut names = Vec::new();
        self.each(|name| {
            names.push(name.to_owned());
            Ok(match names.len() < AT_A_TIME {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            })
        })?;
        Ok(names)
    }
}

fn remove_folder(parent: &Folder, name: &str, depth: usize) -> io::Result<()> {
    // Whole, if it is a subvolume that has none in it.
    if destroy_subvolume(parent, name).is_ok() {
        return Ok(());
    }
    if depth > DEEPEST {
        return Err(io::Error::other(
            "subvolumes lie in subvolumes without an end; remove them by hand",
        ));
    }
    empty(&parent.within(name)?, depth)?;
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(()),
        Err(Errno::NOTEMPTY | Errno::PERM) => destroy_subvolume(parent, name),
        Err(error) => Err(error.into()),
    }
}

/// Removes all that is in a folder. Pods may have made folders deeper than a stack or descriptors reach: each is moved up
/// before it is emptied, so that one level is open at a time.
fn empty(root: &Folder, depth: usize) -> io::Result<()> {
    let mut moved = 0_u64;
    loop {
        let names = root.some()?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            match unlinkat(root, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
            // A name of ours, which can be written.
            let mine = loop {
                let mine = format!("{MOVED}{moved}");
                moved += 1;
                if name.as_bytes() == mine.as_bytes() || !root.has(&mine)? {
                    break mine;
                }
            };
            renameat(root, &name, root, &mine)?;
            if destroy_subvolume(root, &mine).is_ok() {
                continue;
            }
            lift(root, &mine, &mut moved, depth)?;
        }
    }
}

/// The next name of a folder that is emptied, of those that were read, or of those that are there still.
fn next(folder: &Folder, names: &mut Vec<CString>) -> io::Result<Option<CString>> {
    if names.is_empty() {
        *names = folder.some()?;
    }
    Ok(names.pop())
}

/// Moves the folders of a folder up to the root, removes the rest of it, and the folder.
fn lift(root: &Folder, name: &str, moved: &mut u64, depth: usize) -> io::Result<()> {
    let folder = root.within(name)?;
    let mut names = Vec::new();
    while let Some(entry) = next(&folder, &mut names)? {
        match unlinkat(&folder, &entry, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let mine = loop {
            let mine = format!("{MOVED}{moved}");
            *moved += 1;
            if !root.has(&mine)? {
                break mine;
            }
        };
        match renameat(&folder, &entry, root, &mine) {
            Ok(()) => {}
            // It is in a subvolume of its own, or is one that can't be moved.
            Err(Errno::XDEV | Errno::ROFS) => {
                drop(folder);
                return remove_folder(root, name, depth + 1);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match unlinkat(root, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => destroy_subvolume(root, name),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn a_tree_of_any_depth_goes_and_what_its_links_mean_stays() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "kept").unwrap();
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let tree = folder.made("tree").unwrap();
        symlink(outside.path(), place.path().join("tree/link")).unwrap();
        fs::create_dir(place.path().join("tree/.moved-0")).unwrap();
        fs::write(place.path().join("tree/.moved-0/.moved-1"), "x").unwrap();
        // Deeper than a path may be long.
        let mut deepest = tree;
        for _ in 0..3000 {
            deepest = deepest.made("d").unwrap();
        }
        drop(deepest);
        folder.remove("tree").unwrap();
        folder.remove("tree").unwrap();
        assert_eq!(folder.names(".").unwrap(), [""; 0]);
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn so_many_names_as_pods_like_go_a_few_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let tree = folder.made("tree").unwrap();
        for inner in [&tree, &tree.made("inner").unwrap()] {
            for n in 0..2 * AT_A_TIME {
                inner.made(&format!("folder-{n}")).unwrap();
                let flags = OFlags::WRONLY | OFlags::CREATE;
                inner.beneath(format!("file-{n}"), flags).unwrap();
            }
            assert_eq!(inner.some().unwrap().len(), AT_A_TIME);
        }
        folder.remove("tree").unwrap();
        assert_eq!(folder.names(".").unwrap(), [""; 0]);
    }

    #[test]
    fn nothing_is_reached_through_a_link() {
        let place = tempfile::tempdir().unwrap();
        symlink("/etc", place.path().join("link")).unwrap();
        let folder = Folder::open(place.path()).unwrap();
        for path in ["link", "link/passwd", "../etc", "/etc"] {
            assert!(folder.within(path).is_err(), "{path}");
        }
    }
}
