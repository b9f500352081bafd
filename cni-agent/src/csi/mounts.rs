//! What is mounted where, and mounting: with words that are read here, and never over a link.

use super::{folder::Folder, kernel::LoopDevice};
use rustix::{
    fs::{CWD, StatVfsMountFlags, statvfs},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount},
};
use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::ffi::OsStringExt as _,
    },
    path::{Path, PathBuf},
};

/// A mount, as /proc/self/mountinfo has it (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Of the device: major and minor.
    pub(super) device: (u32, u32),
    /// What of its file system is there.
    pub(super) root: PathBuf,
    pub(super) at: PathBuf,
    pub(super) readonly: bool,
    pub(super) fs: String,
    pub(super) source: String,
}

impl Mount {
    /// The loop device whose file system it is.
    pub(super) fn loop_device(&self) -> Option<LoopDevice> {
        const LOOP_MAJOR: u32 = 7;
        (self.device.0 == LOOP_MAJOR).then_some(LoopDevice(self.device.1))
    }

    /// Whether it shows a folder of that name, also one that was removed meanwhile.
    pub(super) fn shows(&self, name: &str) -> bool {
        // As the kernel has it: `/directories/NAME//deleted`.
        self.root.ends_with(name) || self.root.ends_with(Path::new(name).join("deleted"))
    }
}

/// Every mount, in the order in which they were made.
pub(super) fn all() -> io::Result<Vec<Mount>> {
    let text = fs::read("/proc/self/mountinfo")?;
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(parse).collect())
}

/// PURE: a line of mountinfo.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(words.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = unescaped(words.next()?);
    let at = unescaped(words.next()?);
    let options = words.next()?;
    let mut rest = words.skip_while(|word| *word != b"-").skip(1);
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    let fs = text(rest.next()?);
    let source = text(&unescaped_bytes(rest.next()?));
    let of_superblock = rest.next()?;
    let is_readonly = |options: &[u8]| {
        options
            .split(|byte| *byte == b',')
            .any(|word| word == b"ro")
    };
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        at,
        readonly: is_readonly(options) || is_readonly(of_superblock),
        fs,
        source,
    })
}

fn unescaped(word: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(unescaped_bytes(word)))
}

/// Spaces and the like are written as three octal digits.
fn unescaped_bytes(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, escaped) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// The topmost mount at a place.
pub(super) fn at(place: &Path) -> io::Result<Option<Mount>> {
    // The kernel has paths without links.
    let place = match fs::canonicalize(place) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        place => place?,
    };
    Ok(all()?.into_iter().rfind(|mount| mount.at == place))
}

/// PURE: words of a mount that the kernel takes as flags, and the others.
pub(super) fn flags(words: &[String]) -> (MountFlags, String) {
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID;
    let mut others = Vec::new();
    for word in words {
        let flag = match word.as_str() {
            "ro" => MountFlags::RDONLY,
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noexec" => MountFlags::NOEXEC,
            "sync" => MountFlags::SYNCHRONOUS,
            "dirsync" => MountFlags::DIRSYNC,
            "noatime" => MountFlags::NOATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "relatime" => MountFlags::RELATIME,
            "strictatime" => MountFlags::STRICTATIME,
            "lazytime" => MountFlags::LAZYTIME,
            "suid" => {
                flags.remove(MountFlags::NOSUID);
                continue;
            }
            "dev" => {
                flags.remove(MountFlags::NODEV);
                continue;
            }
            "rw" | "defaults" | "exec" | "async" | "atime" | "diratime" => continue,
            other => {
                others.push(other);
                continue;
            }
        };
        flags |= flag;
    }
    (flags, others.join(","))
}

/// Mounts a device.
pub(super) fn device(device: LoopDevice, at: &Path, fs: &str, words: &[String]) -> io::Result<()> {
    let (flags, others) = flags(words);
    let others = CString::new(others).map_err(io::Error::other)?;
    let data = (!others.is_empty()).then_some(others.as_c_str());
    Ok(mount(device.path(), at, fs, flags, data)?)
}

/// Shows a folder at a place, with words of a mount; [`Errno::INVAL`]: one of them is a file system's own.
pub(super) fn folder(folder: &Folder, at: &Path, words: &[String]) -> io::Result<()> {
    let (flags, others) = flags(words);
    if !others.is_empty() {
        return Err(Errno::INVAL.into());
    }
    let path = format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd());
    mount_bind(path, at)?;
    if let Err(error) = mount_remount(at, MountFlags::BIND | flags, "") {
        unmount(at, UnmountFlags::empty())?;
        return Err(error.into());
    }
    Ok(())
}

/// Gives a folder that is shown at a place its words again: who was killed in [`folder`] had not given it them yet.
pub(super) fn folder_again(at: &Path, words: &[String]) -> io::Result<()> {
    let (flags, _) = flags(words);
    Ok(mount_remount(at, MountFlags::BIND | flags, "")?)
}

/// Whether a place is this very folder.
pub(super) fn is_folder(folder: &Folder, at: &Path) -> io::Result<bool> {
    let (own, found) = (rustix::fs::fstat(folder)?, rustix::fs::stat(at)?);
    Ok((own.st_dev, own.st_ino) == (found.st_dev, found.st_ino))
}

/// Shows what is at one place at another, too.
pub(super) fn bind(from: &Path, at: &Path, readonly: bool) -> io::Result<()> {
    mount_bind(from, at)?;
    if readonly && let Err(error) = make_readonly(at) {
        // What may not be written must not be left there to be written.
        unmount(at, UnmountFlags::empty())?;
        return Err(error);
    }
    Ok(())
}

/// Has what is shown at a place be only read there. All else that its mount forbids stays forbidden: the kernel takes the
/// words of a mount for all that it is to have.
pub(super) fn make_readonly(at: &Path) -> io::Result<()> {
    let has = statvfs(at)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (of, flag) in [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        flags.set(flag, has.contains(of));
    }
    Ok(mount_remount(at, flags, "")?)
}

/// Takes every mount at a place away; how many there were.
pub(super) fn clear(place: &Path) -> io::Result<usize> {
    const MOST: usize = 64;
    for count in 0..MOST {
        if at(place)?.is_none() {
            return Ok(count);
        }
        match unmount(place, UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("mounts lie on mounts without an end"))
}

/// The device of a device file.
pub(super) fn device_of(place: &Path) -> io::Result<Option<LoopDevice>> {
    const LOOP_MAJOR: u32 = 7;
    let metadata = match rustix::fs::statat(CWD, place, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        metadata => metadata?,
    };
    let rdev = metadata.st_rdev;
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    let is_block =
        rustix::fs::FileType::from_raw_mode(metadata.st_mode) == rustix::fs::FileType::BlockDevice;
    Ok((is_block && major == LOOP_MAJOR).then_some(LoopDevice(minor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read_with_its_spaces() {
        let line = br"36 35 7:3 / /var/lib/kubelet/pods/a\040b/mount rw,noatime shared:1 master:2 - ext4 /dev/loop3 ro,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!(mount.at, Path::new("/var/lib/kubelet/pods/a b/mount"));
        assert_eq!(mount.loop_device(), Some(LoopDevice(3)));
        assert_eq!((mount.fs.as_str(), mount.readonly), ("ext4", true));
        let none = br"22 1 0:20 / /proc rw - proc proc rw";
        assert_eq!(parse(none).unwrap().loop_device(), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn words_are_flags_or_the_file_systems() {
        let words = ["noatime", "data=ordered", "suid", "ro", "discard"].map(str::to_owned);
        let (flags, others) = flags(&words);
        let expected = MountFlags::NOATIME | MountFlags::RDONLY | MountFlags::NODEV;
        assert_eq!((flags, others.as_str()), (expected, "data=ordered,discard"));
    }
}
