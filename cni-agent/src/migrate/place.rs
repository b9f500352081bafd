//! The node's files below a root: a path is resolved as the node itself would, links that begin with `/`
//! too, and never leads out of the root.

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Longest configuration that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The root, open.
pub(super) struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// # Errors
    /// When it is no folder; with the option that names it.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let fault = |e: io::Error| format!("--root {}: {e}", path.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(|e| fault(e.into()))?;
        let path = path.canonicalize().map_err(fault)?;
        Ok(Self { fd, path })
    }

    fn at(&self, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>, String> {
        let flags = flags | OFlags::CLOEXEC;
        match openat2(&self.fd, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(fd) => Ok(Some(fd)),
            Err(e) if io::Error::from(e).kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("{}: {e}", self.path.join(path).display())),
        }
    }

    /// Where a path really leads, `None` when there is nothing.
    ///
    /// # Errors
    /// What can't be looked at, with its path.
    pub(super) fn real(&self, path: &str) -> Result<Option<PathBuf>, String> {
        let Some(fd) = self.at(Path::new(path), OFlags::PATH)? else {
            return Ok(None);
        };
        let real = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let real = real.map_err(|e| format!("{path}: {e}"))?;
        Ok(Some(real))
    }

    /// The entries of a folder, in its real place.
    ///
    /// # Errors
    /// What can't be read, with its path.
    pub(super) fn entries(&self, folder: &str) -> Result<Vec<PathBuf>, String> {
        let Some(real) = self.real(folder)? else {
            return Ok(Vec::new());
        };
        let fault = |e: io::Error| format!("{}: {e}", real.display());
        let list = fs::read_dir(&real).map_err(fault)?;
        list.map(|entry| entry.map(|e| e.path()).map_err(fault))
            .collect()
    }

    /// A file's text. None for what is no file, or a link that leads nowhere.
    ///
    /// # Errors
    /// What can't be read, with its path.
    pub(super) fn text(&self, path: &Path) -> Result<Option<String>, String> {
        let inside = path.strip_prefix(&self.path).unwrap_or(path);
        // Without NONBLOCK a FIFO would wait for a writer.
        let Some(fd) = self.at(inside, OFlags::RDONLY | OFlags::NONBLOCK)? else {
            return Ok(None);
        };
        let (file, mut bytes) = (File::from(fd), Vec::new());
        let fault = |e: io::Error| format!("{}: {e}", path.display());
        if !file.metadata().map_err(fault)?.is_file() {
            return Ok(None);
        }
        file.take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(fault)?;
        // One that is no text is no configuration.
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// Mounts at or below a folder, from the text of `/proc/self/mountinfo` (proc(5)).
pub(super) fn mounts_in<'a>(mountinfo: &'a str, folder: &Path) -> Vec<&'a str> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(|point| Path::new(point).starts_with(folder))
        .collect()
}

/// Removes a file or a link, or a folder with all in it. Links are not followed and mounts not entered:
/// what is behind them is somebody else's.
///
/// # Errors
/// The first thing that can't be removed, with its path.
pub(super) fn remove(path: &Path) -> Result<(), String> {
    let Some((folder, name)) = path.parent().zip(path.file_name()) else {
        return Err(format!("{} is no file", path.display()));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let there = match rustix::fs::openat(CWD, folder, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        opened => opened.map_err(|e| format!("{}: {e}", folder.display()))?,
    };
    remove_at(&there, Path::new(name), path)
}

fn remove_at(folder: &OwnedFd, name: &Path, shown: &Path) -> Result<(), String> {
    use rustix::{
        fs::{AtFlags, Dir, unlinkat},
        io::Errno,
    };
    let fault = |e: Errno| format!("{}: {e}", shown.display());
    let mount = || {
        format!(
            "{0} is a mount, which is not entered: umount {0}, then clean again",
            shown.display()
        )
    };
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY) => return Err(mount()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(fault(e)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let inside = match openat2(folder, name, flags, Mode::empty(), resolve) {
        Err(Errno::XDEV) => return Err(mount()),
        opened => opened.map_err(fault)?,
    };
    for entry in Dir::read_from(&inside).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        use std::os::unix::ffi::OsStrExt;
        let name = Path::new(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()));
        if !matches!(name.as_os_str().as_bytes(), b"." | b"..") {
            remove_at(&inside, name, &shown.join(name))?;
        }
    }
    match unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => Err(mount()),
        Err(e) => Err(fault(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_is_resolved_as_the_node_does_and_never_leads_out() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let real = dir.path().canonicalize().unwrap();
        fs::create_dir_all(real.join("usr/lib/cni")).unwrap();
        fs::write(real.join("usr/lib/cni/calico"), "").unwrap();
        fs::write(other.path().join("calico"), "").unwrap();
        fs::create_dir_all(real.join("opt/cni")).unwrap();
        symlink("/usr/lib/cni", real.join("opt/cni/bin")).unwrap();
        symlink(other.path(), real.join("etc")).unwrap();
        symlink("../../../../../..", real.join("run")).unwrap();
        let root = Root::open(&real).unwrap();
        let plugins = root.entries("opt/cni/bin").unwrap();
        assert_eq!(plugins, [real.join("usr/lib/cni/calico")]);
        assert_eq!(root.entries("etc").unwrap(), Vec::<PathBuf>::new());
        assert_eq!(root.real("run").unwrap(), Some(real.clone()));
        let error = Root::open(Path::new("/nowhere")).err().unwrap();
        assert!(error.starts_with("--root /nowhere"), "{error}");
    }

    #[test]
    fn a_folder_goes_with_all_in_it_and_what_links_lead_to_stays() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = dir.path().join("calico");
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::write(folder.join("a/b/c"), "").unwrap();
        fs::write(other.path().join("precious"), "").unwrap();
        symlink(other.path(), folder.join("a/link")).unwrap();
        assert_eq!(remove(&folder), Ok(()));
        assert!(!folder.exists() && other.path().join("precious").exists());
        assert_eq!(remove(&folder), Ok(()), "what is gone is fine");
        assert_eq!(remove(&folder.join("a/b")), Ok(()));
    }

    #[test]
    fn mounts_are_found_at_a_folder_and_below_and_not_beside() {
        let text = "31 1 0:27 / / rw - ext4 /dev/x rw\n\
                    32 31 0:28 / /run/calico/cgroup rw - cgroup2 c rw\n\
                    33 31 0:29 / /run/calico-other rw - tmpfs t rw\n";
        assert_eq!(
            mounts_in(text, Path::new("/run/calico")),
            ["/run/calico/cgroup"]
        );
        let at = mounts_in(text, Path::new("/run/calico/cgroup"));
        assert_eq!(at, ["/run/calico/cgroup"]);
    }
}
