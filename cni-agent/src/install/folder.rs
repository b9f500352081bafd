//! A folder of the host that files are put into: each is replaced as a whole, and no name leads out
//! of the folder or through a symbolic link.

use rustix::{
    fs::{AtFlags, Mode, OFlags, RawMode, openat, renameat, unlinkat},
    io::Errno,
};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

/// A plugin has a few MiB; what is larger is nothing that is meant here.
const MAX_BYTES: u64 = 256 << 20;

/// An open folder. It stays the same one when its path is given to another meanwhile.
pub(super) struct Folder {
    path: PathBuf,
    fd: OwnedFd,
}

impl Folder {
    /// Opens the folder. Its own path is the administrator's choice and may have links.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            path: path.to_owned(),
            fd: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Names of what is in it.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            // Other bytes are no name that anybody here looks for.
            if let Ok(name) = entry?.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// A regular file's contents and permissions, `None` when there is no such file: a link and a
    /// folder are none.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<(Vec<u8>, RawMode)>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.fd, one_name(name)?, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(Some((bytes, metadata.permissions().mode() & 0o7777)))
    }

    /// Makes the file hold these bytes, in one step; a reader sees the old or the new ones, also after
    /// a loss of power. Tells whether there was anything to do.
    pub(super) fn put(&self, name: &str, bytes: &[u8], mode: RawMode) -> io::Result<bool> {
        let found = self.read(name)?;
        if found.is_some_and(|(held, its_mode)| held == bytes && its_mode == mode) {
            return Ok(false);
        }
        // No ending that a runtime would read.
        let fresh = format!(".{}.new", one_name(name)?);
        // Of an agent that was killed; or a trap, which is not written through.
        self.remove(&fresh)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.fd, &fresh, flags, Mode::RUSR | Mode::WUSR)?);
        let written = file
            .write_all(bytes)
            .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode)))
            .and_then(|()| file.sync_all())
            .and_then(|()| Ok(renameat(&self.fd, &fresh, &self.fd, name)?))
            .and_then(|()| Ok(rustix::fs::fsync(&self.fd)?));
        if written.is_err() {
            // The first failure is the one to tell.
            drop(self.remove(&fresh));
        }
        written.map(|()| true)
    }

    /// Removes a file or a link, not what it leads to. Tells whether it was there.
    pub(super) fn remove(&self, name: &str) -> io::Result<bool> {
        match unlinkat(&self.fd, one_name(name)?, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The name, when it is one and no path.
fn one_name(name: &str) -> io::Result<&str> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_replaced_once_and_left_alone_after_that() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert!(folder.put("plugin", b"one", 0o755).unwrap());
        assert!(!folder.put("plugin", b"one", 0o755).unwrap());
        assert!(folder.put("plugin", b"two", 0o755).unwrap());
        assert!(folder.put("plugin", b"two", 0o644).unwrap());
        let held = folder.read("plugin").unwrap();
        assert_eq!(held, Some((b"two".to_vec(), 0o644)));
        assert_eq!(folder.names().unwrap(), [".", "..", "plugin"]);
    }

    #[test]
    fn a_link_is_replaced_and_what_it_leads_to_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        let inside = dir.path().join("bin");
        fs::create_dir(&inside).unwrap();
        for name in ["plugin", ".plugin.new"] {
            symlink(&precious, inside.join(name)).unwrap();
        }
        let folder = Folder::open(&inside).unwrap();
        assert_eq!(folder.read("plugin").unwrap(), None);
        assert!(folder.put("plugin", b"ours", 0o755).unwrap());
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        assert_eq!(fs::read(inside.join("plugin")).unwrap(), b"ours");
        let plugin = fs::symlink_metadata(inside.join("plugin")).unwrap();
        assert!(plugin.is_file());
    }

    #[test]
    fn a_path_is_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        for name in ["", ".", "..", "../x", "/etc/x"] {
            assert!(folder.put(name, b"", 0o644).is_err(), "{name}");
            assert!(folder.remove(name).is_err(), "{name}");
        }
    }
}
