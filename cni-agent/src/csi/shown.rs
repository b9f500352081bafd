//! What the kernel has of a volume: its loop device, and whether what is at a place is this very volume, and nothing else.

use super::{
    attached::{Attached, inode},
    fault::Fault,
    folder::Folder,
    kernel::LoopDevice,
    mounts,
    records::Volume,
    request::Backing,
    volumes::{Volumes, failed, image},
};
use std::{fs::File, io, path::Path};

impl Volumes {
    fn file(&self, volume: &Volume) -> Result<File, Fault> {
        self.pool
            .image(image(&volume.id), true)
            .map_err(failed("opening the volume"))
    }

    /// The loop device that the volume is behind.
    pub(super) fn device(&self, volume: &Volume) -> Result<Option<Attached>, Fault> {
        match self.left_file(volume)? {
            Some(file) => Attached::of(&file).map_err(failed("loop devices")),
            None => Ok(None),
        }
    }

    /// The volume's file; none: it is lost, or another thing is in its place. Pods must be able to leave all the same.
    fn left_file(&self, volume: &Volume) -> Result<Option<File>, Fault> {
        match self.pool.image(image(&volume.id), false) {
            Err(error) if is_no_file(&error) => Ok(None),
            file => file.map(Some).map_err(failed("opening the volume")),
        }
    }

    /// Every device that the volume is behind, also when it is lost.
    pub(super) fn devices(&self, volume: &Volume) -> Result<Vec<Attached>, Fault> {
        let of = self.left_file(volume)?.as_ref().map(inode).transpose();
        let of = of.map_err(failed("opening the volume"))?;
        let mut found: Vec<Attached> = self.lost_device(volume)?.into_iter().collect();
        for device in LoopDevice::all().map_err(failed("loop devices"))? {
            let now = Attached::now(device).map_err(failed("loop devices"))?;
            found.extend(now.filter(|now| Some(now.backing()) == of));
        }
        Ok(found)
    }

    pub(super) fn attach(&self, volume: &Volume) -> Result<Attached, Fault> {
        if let Some(device) = self.device(volume)? {
            device.check().map_err(failed("the loop device"))?;
            return Ok(device);
        }
        let device = Attached::new(&self.file(volume)?).map_err(failed("a loop device"))?;
        if !device.is_direct().map_err(failed("the loop device"))? {
            tracing::warn!(volume = %volume.id, "the pool's file system takes no direct I/O: the volume is cached twice");
        }
        Ok(device)
    }

    /// Whether this volume's own file system is mounted there, and nothing else.
    pub(super) fn is_mounted(&self, volume: &Volume, at: &Path) -> Result<bool, Fault> {
        let Some(mount) = mounts::at(at).map_err(failed("mounts"))? else {
            return Ok(false);
        };
        let is_own = match volume.backing {
            Backing::Image => {
                let device = self.device(volume)?;
                device.is_some_and(|device| mount.loop_device() == Some(device.device()))
            }
            Backing::Btrfs | Backing::Directory => mounts::is_folder(&self.folder(volume)?, at)
                .map_err(failed("the volume's mount"))?,
        };
        match is_own {
            true => Ok(true),
            false => Err(Fault::Precondition(
                "something else is mounted where the volume should be; unmount it".into(),
            )),
        }
    }

    /// Whether the volume's own device is there, and nothing else.
    pub(super) fn shows_device(&self, volume: &Volume, at: &Path) -> Result<bool, Fault> {
        if mounts::at(at).map_err(failed("mounts"))?.is_none() {
            return Ok(false);
        }
        let device = self.device(volume)?;
        let shown = mounts::device_of(at).map_err(failed("the pod's device"))?;
        match device.is_some_and(|device| shown == Some(device.device())) {
            true => Ok(true),
            false => Err(Fault::Precondition(
                "something else is mounted where the device should be; unmount it".into(),
            )),
        }
    }

    /// The device of a volume whose file was removed while it was behind it.
    pub(super) fn lost_device(&self, volume: &Volume) -> Result<Option<Attached>, Fault> {
        let disk = self.pool.disk().map_err(failed("the pool"))?;
        Attached::of_removed(volume.id.as_str(), disk).map_err(failed("loop devices"))
    }

    /// Whether the volume is mounted there, also when it is lost by now: pods must be able to leave it.
    pub(super) fn is_left(&self, volume: &Volume, at: &Path) -> Result<bool, Fault> {
        let Some(mount) = mounts::at(at).map_err(failed("mounts"))? else {
            return Ok(false);
        };
        let is_lost = match volume.backing {
            Backing::Image => self
                .lost_device(volume)?
                .is_some_and(|device| mount.loop_device() == Some(device.device())),
            Backing::Btrfs | Backing::Directory => mount.shows(volume.id.as_str()),
        };
        match is_lost {
            true => Ok(true),
            false => self.is_mounted(volume, at),
        }
    }

    /// Whether the volume is at a place, whatever else may be there.
    pub(super) fn is_shown(&self, volume: &Volume, at: &Path) -> Result<bool, Fault> {
        let there = match volume.fs {
            Some(_) => self.is_mounted(volume, at),
            None => self.shows_device(volume, at),
        };
        match there {
            Err(Fault::Precondition(_)) => Ok(false),
            there => there,
        }
    }

    /// What pods are shown of a volume that is no file.
    pub(super) fn folder(&self, volume: &Volume) -> Result<Folder, Fault> {
        let folder = self
            .backend(volume.backing)?
            .folder(volume)
            .map_err(failed("opening the volume"))?;
        folder.ok_or_else(|| Fault::internal("the volume", "has no folder"))
    }

    pub(super) fn detach(&self, volume: &Volume) -> Result<(), Fault> {
        if volume.backing != Backing::Image {
            return Ok(());
        }
        let devices = [self.device(volume)?, self.lost_device(volume)?];
        devices
            .into_iter()
            .flatten()
            .try_for_each(Attached::detach)
            .map_err(failed("the loop device"))
    }
}

fn is_no_file(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ELOOP))
}
