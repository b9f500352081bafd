//! Volumes on their way into pods: behind a loop device, mounted once, shown to each pod. What is remembered is compared
//! with what the kernel has at each call: a mount is only shown to a pod when it is this very volume's.

use super::{
    attached::Attached,
    book::Change,
    fault::Fault,
    file_system::{format, grow_mounted, grow_unmounted},
    in_flight::Working,
    mounts,
    places::{make_file, make_folder, remove_place, remove_unused},
    records::{Target, Volume},
    request::{Access, Backing, Capability, Fs, Mode},
    volumes::{Volumes, failed},
};
use node_api::csi::CapacityRange;
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Bytes and inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) total: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

/// What a volume's user sees of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stats {
    pub(super) bytes: Use,
    /// None: raw block.
    pub(super) inodes: Option<Use>,
}

impl Volumes {
    /// Prepares a volume on this node for pods.
    pub(super) fn stage(
        &self,
        handle: &str,
        at: &Path,
        capability: &Capability,
    ) -> Result<(), Fault> {
        let (_working, mut volume) = self.begin(handle)?;
        if !volume.suits(capability) {
            return Err(Fault::invalid(
                "volume_capability",
                match volume.fs {
                    None => "is mount, and the volume is a raw block volume".to_owned(),
                    Some(fs) => format!("doesn't suit the volume, which has {}", fs.as_str()),
                },
            ));
        }
        let is_new = match volume.stages.get(at) {
            Some(there) if there != capability => {
                return Err(Fault::Exists(
                    "the volume is staged there in another way".into(),
                ));
            }
            Some(_) => false,
            None => {
                // Before anything is done: a start then knows whose it is.
                volume.stages.insert(at.to_owned(), capability.clone());
                self.book.commit(&[Change::Volume(volume.clone())])?;
                true
            }
        };
        let staged = match (&capability.access, volume.backing) {
            (Access::Block, _) => self.attach(&volume).map(drop),
            (Access::Mount { flags, .. }, Backing::Image) => self
                .attach(&volume)
                .and_then(|device| self.mount(&mut volume, &device, at, flags)),
            (Access::Mount { flags, .. }, _) => self.mount_folder(&volume, at, flags),
        };
        staged.inspect_err(|fault| {
            if is_new && self.is_over(&volume, at, fault) {
                volume.stages.remove(at);
                self.forget(volume);
            }
        })
    }

    /// Whether a call that failed is over, and the volume is not where it was to be: then nobody has to take it away.
    fn is_over(&self, volume: &Volume, at: &Path, fault: &Fault) -> bool {
        // Asked again, it goes on.
        !matches!(fault, Fault::Busy(_)) && matches!(self.is_shown(volume, at), Ok(false))
    }

    /// Commits a volume's record without a place that this call had noted, and takes its device away when that was its
    /// last. What can't be done now, unstaging or a start does.
    fn forget(&self, volume: Volume) {
        let forgotten = match volume.stages.is_empty() && volume.targets.is_empty() {
            true => self.detach(&volume),
            false => Ok(()),
        };
        let id = volume.id.clone();
        let forgotten = forgotten.and_then(|()| self.book.commit(&[Change::Volume(volume)]));
        if let Err(problem) = forgotten {
            tracing::warn!(volume = %id, %problem, "a volume that was not staged is still noted");
        }
    }

    fn mount_folder(&self, volume: &Volume, at: &Path, flags: &[String]) -> Result<(), Fault> {
        make_folder(at)?;
        if self.is_mounted(volume, at)? {
            return mounts::folder_again(at, flags).map_err(failed("mounting the volume"));
        }
        mounts::folder(&self.folder(volume)?, at, flags).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EINVAL) => Fault::invalid(
                    "volume_capability.mount.mount_flags",
                    format!(
                        "have an option of a file system, and a {} has none of its own; use backend: image",
                        volume.backing.as_str()
                    ),
                ),
                _ => Fault::internal("mounting the volume", error),
            }
        })
    }

    fn mount(
        &self,
        volume: &mut Volume,
        device: &Attached,
        at: &Path,
        flags: &[String],
    ) -> Result<(), Fault> {
        let fs = volume
            .fs
            .ok_or_else(|| Fault::internal("the volume", "has no file system"))?;
        make_folder(at)?;
        if self.is_mounted(volume, at)? {
            return Ok(());
        }
        settle(device)?;
        if !volume.formatted {
            format(device, fs)?;
            volume.formatted = true;
            self.book.commit(&[Change::Volume(volume.clone())])?;
        }
        let mut words = flags.to_vec();
        if fs == Fs::Xfs {
            // A copy has its original's name.
            words.push("nouuid".into());
        }
        if fs == Fs::Ext4 {
            // One that was made from a smaller one, or grown while nobody had it.
            grow_unmounted(device)?;
        }
        device.check().map_err(failed("the loop device"))?;
        mounts::device(device.device(), at, fs.as_str(), &words).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EINVAL) => Fault::invalid(
                    "volume_capability.mount.mount_flags",
                    format!(
                        "{} takes no such option, or the volume's file system is damaged",
                        fs.as_str()
                    ),
                ),
                _ => Fault::internal("mounting the volume", error),
            }
        })?;
        match fs {
            Fs::Ext4 | Fs::Folder => Ok(()),
            // Only where it is mounted.
            Fs::Xfs => grow_mounted(device, fs, at),
        }
    }

    /// As [`Self::begin`], of a volume that may be gone, or on its way.
    fn begin_if_there(&self, handle: &str) -> Result<Option<(Working, Volume)>, Fault> {
        let there = || self.book.read().volume(handle).cloned();
        let Some(volume) = there() else {
            return Ok(None);
        };
        let working = self.busy.begin(&[volume.id.as_str()])?;
        Ok(there().map(|volume| (working, volume)))
    }

    /// Takes a volume off this node.
    pub(super) fn unstage(&self, handle: &str, at: &Path) -> Result<(), Fault> {
        let Some((_working, mut volume)) = self.begin_if_there(handle)? else {
            return Ok(());
        };
        if !volume.stages.contains_key(at) {
            return Ok(());
        }
        if !volume.targets.is_empty() {
            return Err(Fault::Precondition(
                "pods still have the volume; unpublish it first".into(),
            ));
        }
        if volume.fs.is_some() && self.is_left(&volume, at)? {
            mounts::clear(at).map_err(failed("unmounting the volume"))?;
        }
        volume.stages.remove(at);
        if volume.stages.is_empty() {
            self.detach(&volume)?;
        }
        self.book.commit(&[Change::Volume(volume)])
    }

    /// Shows a volume to a pod.
    pub(super) fn publish(
        &self,
        handle: &str,
        stage: &Path,
        at: &Path,
        mut target: Target,
    ) -> Result<(), Fault> {
        let (_working, mut volume) = self.begin(handle)?;
        if !volume.stages.contains_key(stage) {
            return Err(Fault::Precondition(
                "the volume is not staged there; stage it first".into(),
            ));
        }
        if !volume.suits(&target.capability) {
            return Err(Fault::invalid(
                "volume_capability",
                "doesn't suit the volume",
            ));
        }
        let (access, mode) = (target.capability.access.clone(), target.capability.mode);
        target.readonly |= mode == Mode::Readers;
        let readonly = target.readonly;
        let is_new = match volume.targets.get(at) {
            Some(there) if !there.is_like(&target) => {
                return Err(Fault::Exists(
                    "the volume is published there in another way".into(),
                ));
            }
            Some(_) => false,
            None if !volume.admits(mode) => {
                return Err(Fault::Precondition(
                    "the volume is for one pod at a time, and another pod has it".into(),
                ));
            }
            None => {
                volume.targets.insert(at.to_owned(), target);
                self.book.commit(&[Change::Volume(volume.clone())])?;
                true
            }
        };
        // Before the pod has it.
        let bounded = match volume.limits.has_rates() {
            true => self.throttle(&volume, &volume.limits, [at.to_owned()].iter()),
            false => Ok(()),
        };
        let shown = bounded.and_then(|()| match access {
            Access::Block => self.show_device(&volume, at),
            Access::Mount { .. } => self.show(&volume, stage, at, readonly),
        });
        shown.inspect_err(|fault| {
            if is_new && self.is_over(&volume, at, fault) {
                if let Err(error) = remove_unused(at) {
                    tracing::debug!(%error, "the place of a volume that was not published stays");
                }
                volume.targets.remove(at);
                self.forget(volume);
            }
        })
    }

    fn show(&self, volume: &Volume, stage: &Path, at: &Path, readonly: bool) -> Result<(), Fault> {
        // After a reboot a pod may be set up before its volume is mounted (kubernetes#120853): it must not get the
        // folder below.
        if !self.is_mounted(volume, stage)? {
            return Err(Fault::Precondition(
                "the volume is not mounted where it was staged; stage it again".into(),
            ));
        }
        make_folder(at)?;
        if self.is_mounted(volume, at)? {
            // An agent may have ended before it had made it so.
            return match readonly {
                true => {
                    mounts::make_readonly(at).map_err(failed("mounting the volume for the pod"))
                }
                false => Ok(()),
            };
        }
        mounts::bind(stage, at, readonly).map_err(failed("mounting the volume for the pod"))
    }

    fn show_device(&self, volume: &Volume, at: &Path) -> Result<(), Fault> {
        let device = self.device(volume)?.ok_or_else(|| {
            Fault::Precondition("the volume has no device; stage it again".into())
        })?;
        if self.shows_device(volume, at)? {
            return Ok(());
        }
        make_file(at)?;
        device.check().map_err(failed("the loop device"))?;
        mounts::bind(&device.device().path(), at, false)
            .map_err(failed("giving the pod its device"))
    }

    /// Takes a volume from a pod; from an inline volume that was its last.
    pub(super) fn unpublish(&self, handle: &str, at: &Path) -> Result<(), Fault> {
        let Some((_working, mut volume)) = self.begin_if_there(handle)? else {
            return Ok(());
        };
        if volume.targets.contains_key(at) {
            mounts::clear(at).map_err(failed("unmounting the pod's volume"))?;
            remove_place(at)?;
            volume.targets.remove(at);
            self.book.commit(&[Change::Volume(volume.clone())])?;
        }
        match volume.inline && volume.targets.is_empty() {
            true => self.dissolve(volume),
            false => Ok(()),
        }
    }

    /// Removes an inline volume that no pod has any more.
    pub(super) fn dissolve(&self, mut volume: Volume) -> Result<(), Fault> {
        for at in volume.stages.keys().chain(volume.targets.keys()) {
            mounts::clear(at).map_err(failed("unmounting the volume"))?;
            remove_place(at)?;
        }
        volume.stages.clear();
        volume.targets.clear();
        self.detach(&volume)?;
        self.remove(volume)
    }

    /// Has a volume's device and file system take the size that its file has, after that has what is asked for.
    pub(super) fn grow(
        &self,
        handle: &str,
        at: &Path,
        range: Option<&CapacityRange>,
    ) -> Result<u64, Fault> {
        self.is_place(&self.found(handle)?, at)?;
        if let Some(range) = range {
            self.expand(handle, range)?;
        }
        let (_working, volume) = self.begin(handle)?;
        if volume.backing != Backing::Image {
            // Its limit was all.
            return Ok(volume.bytes);
        }
        let device = self.device(&volume)?.ok_or_else(|| {
            Fault::Precondition("the volume has no device; stage it again".into())
        })?;
        device.refresh_size().map_err(failed("the loop device"))?;
        if let Some(fs) = volume.fs {
            // Where pods may only read, the file system is the same as where it is staged.
            let stages = volume.stages.keys();
            let at = stages.map(|stage| stage.as_path()).next().unwrap_or(at);
            grow_mounted(&device, fs, at)?;
        }
        Ok(volume.bytes)
    }

    fn is_place(&self, volume: &Volume, at: &Path) -> Result<(), Fault> {
        match volume.stages.contains_key(at) || volume.targets.contains_key(at) {
            true => Ok(()),
            false => Err(Fault::NotFound("the volume is not at that path".into())),
        }
    }

    /// What a pod sees of its volume.
    pub(super) fn stats(&self, handle: &str, at: &Path) -> Result<Stats, Fault> {
        let volume = self.found(handle)?;
        self.is_place(&volume, at)?;
        let Some(_) = volume.fs else {
            let bytes = Use {
                total: volume.bytes,
                available: 0,
                used: 0,
            };
            return Ok(Stats {
                bytes,
                inodes: None,
            });
        };
        if !self.is_mounted(&volume, at)? {
            return Err(Fault::NotFound(
                "the volume is not mounted at that path".into(),
            ));
        }
        let told = self
            .backend(volume.backing)?
            .usage(&volume)
            .map_err(failed("the volume's room"))?;
        if let Some(told) = told {
            return Ok(told);
        }
        let stat =
            rustix::fs::statvfs(at).map_err(|error| failed("the volume's room")(error.into()))?;
        let use_of = |total: u64, free: u64, available: u64, unit: u64| Use {
            total: total.saturating_mul(unit),
            available: available.saturating_mul(unit),
            used: total.saturating_sub(free).saturating_mul(unit),
        };
        Ok(Stats {
            bytes: use_of(stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_frsize),
            inodes: Some(use_of(stat.f_files, stat.f_ffree, stat.f_favail, 1)),
        })
    }
}

/// Waits for a program that a killed agent left at work on a device, and which has it for itself.
fn settle(device: &Attached) -> Result<(), Fault> {
    const LONGEST: Duration = Duration::from_secs(5);
    let mounted = mounts::all().map_err(failed("mounts"))?;
    let is_mounted = mounted
        .iter()
        .any(|mount| mount.loop_device() == Some(device.device()));
    let end = Instant::now() + LONGEST;
    while !is_mounted
        && device
            .device()
            .is_claimed()
            .map_err(failed("the loop device"))?
    {
        if Instant::now() >= end {
            return Err(Fault::Busy(
                "a program is still at work on the volume's device; ask again".into(),
            ));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
