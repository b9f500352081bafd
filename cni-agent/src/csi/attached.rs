//! A file behind a loop device, as long as it is worked on. The device is open meanwhile: another program that takes its
//! file away only has that happen once nobody has it open, so that its number is no other file's before.

use super::kernel::{self, LoopDevice};
use std::{fs::File, io, os::unix::fs::MetadataExt as _};

/// A file, as the kernel knows it whatever its name: device and inode.
pub(super) type Inode = (u64, u64);

/// The open device of a file.
#[derive(Debug)]
pub(super) struct Attached {
    device: LoopDevice,
    open: File,
    backing: Inode,
}

impl Attached {
    /// Puts a file behind a free device.
    pub(super) fn new(backing: &File) -> io::Result<Self> {
        let backed = inode(backing)?;
        let (device, writable) = LoopDevice::attach(backing, false)?;
        // What is open for writing can't be mounted everywhere.
        let open = device.open()?;
        drop(writable);
        let attached = Self {
            device,
            open,
            backing: backed,
        };
        attached.check()?;
        Ok(attached)
    }

    /// Whatever file a device has now; none: it has none.
    pub(super) fn now(device: LoopDevice) -> io::Result<Option<Self>> {
        let open = match device.open() {
            // It is gone, or goes.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENXIO)) => {
                return Ok(None);
            }
            open => open?,
        };
        let status = kernel::loop_status(&open)?;
        Ok(status.map(|status| Self {
            device,
            open,
            backing: status.backing,
        }))
    }

    /// The device that a file is behind.
    pub(super) fn of(backing: &File) -> io::Result<Option<Self>> {
        let backing = inode(backing)?;
        for device in LoopDevice::all()? {
            if let Some(found) = Self::now(device)?
                && found.backing == backing
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The device of a volume's file that was removed, on a disk.
    pub(super) fn of_removed(volume: &str, disk: u64) -> io::Result<Option<Self>> {
        for device in LoopDevice::all()? {
            if let Some(found) = Self::now(device)?
                && found.backing.0 == disk
                && is_removed(&device.file_name()?, volume)
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    pub(super) const fn device(&self) -> LoopDevice {
        self.device
    }

    /// Its own number, as file systems on it have it.
    pub(super) fn number(&self) -> io::Result<u64> {
        Ok(self.open.metadata()?.rdev())
    }

    /// The file behind it.
    pub(super) const fn backing(&self) -> Inode {
        self.backing
    }

    /// Looks, right before it is used, whether it has that file still, and will have it when nobody has it open.
    pub(super) fn check(&self) -> io::Result<()> {
        match kernel::loop_status(&self.open)? {
            Some(status) if status.backing == self.backing => match status.goes_when_closed {
                true => kernel::loop_stays(&self.open),
                false => Ok(()),
            },
            _ => Err(io::Error::other(
                "another program took the file away from it; ask again",
            )),
        }
    }

    /// Takes the file away: at once, or when who else has the device open closes it. Does nothing when it has none.
    pub(super) fn detach(self) -> io::Result<()> {
        match kernel::loop_status(&self.open)? {
            Some(status) if status.backing == self.backing => kernel::loop_clear(&self.open),
            _ => Ok(()),
        }
    }

    /// Whether it reads and writes past the page cache.
    pub(super) fn is_direct(&self) -> io::Result<bool> {
        Ok(kernel::loop_status(&self.open)?.is_some_and(|status| status.is_direct))
    }

    /// Has it take the size that its file has now.
    pub(super) fn refresh_size(&self) -> io::Result<()> {
        self.check()?;
        kernel::loop_takes_size(&self.open)
    }

    /// How large it is.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        use std::io::{Seek as _, SeekFrom};
        (&self.open).seek(SeekFrom::End(0))
    }
}

/// PURE: whether a file, as the kernel names it, is that of a volume, and was removed.
fn is_removed(file: &str, volume: &str) -> bool {
    let Some(path) = file.trim_end().strip_suffix(" (deleted)") else {
        return false;
    };
    let name = path.rsplit('/').next().unwrap_or(path);
    // In the trash it has no ending.
    name.strip_suffix(".img").unwrap_or(name) == volume
}

/// Which file it is.
pub(super) fn inode(of: &File) -> io::Result<Inode> {
    let metadata = of.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_file_is_known_by_the_name_that_it_had() {
        for (file, expected) in [
            ("/pool/volumes/vol-1.img (deleted)\n", true),
            ("/pool/trash/vol-1 (deleted)\n", true),
            ("/pool/volumes/vol-1.img\n", false),
            ("/pool/volumes/vol-11.img (deleted)\n", false),
            ("/pool/vol-1/other (deleted)\n", false),
            ("", false),
        ] {
            assert_eq!(is_removed(file, "vol-1"), expected, "{file:?}");
        }
    }
}

#[cfg(test)]
mod disk_tests {
    use super::*;

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file
    }

    #[test]
    #[ignore = "needs root, loop devices and mkfs"]
    fn a_number_stays_its_files_while_it_is_worked_on_whoever_detaches_it() {
        let (ours, others) = (file(), file());
        let attached = Attached::new(&ours).unwrap();
        // As `losetup -d` does.
        kernel::loop_clear(&attached.device().open().unwrap()).unwrap();
        let other = Attached::new(&others).unwrap();
        assert_ne!(other.device(), attached.device());
        // And it is no less there than before.
        attached.check().unwrap();
        drop(attached);
        let attached = Attached::of(&ours).unwrap().expect("it has stayed");
        attached.detach().unwrap();
        other.detach().unwrap();
        for file in [ours, others] {
            assert!(Attached::of(&file).unwrap().is_none());
        }
    }

    #[test]
    #[ignore = "needs root, loop devices and mkfs"]
    fn a_number_that_is_another_files_is_neither_used_nor_detached() {
        let (ours, others) = (file(), file());
        let other = Attached::new(&others).unwrap();
        let stale = || Attached {
            device: other.device(),
            open: other.device().open().unwrap(),
            backing: inode(&ours).unwrap(),
        };
        assert!(stale().check().is_err());
        assert!(stale().refresh_size().is_err());
        stale().detach().unwrap();
        assert!(Attached::of(&others).unwrap().is_some());
        other.detach().unwrap();
    }
}
