//! How volumes are: found out by looking, not by remembering.

use super::{
    backend::Unbounded,
    fault::Fault,
    mounts,
    records::{Phase, Volume},
    request::{Access, Backing},
    volumes::{Volumes, failed, image},
};
use node_api::csi::{
    VolumeHealth, VolumeHealthErrorType as Kind, volume_health::VolumeHealthEntry,
};
use rustix::fs::{StatVfsMountFlags, statvfs};
use std::io;

/// Something that is wrong with a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Illness {
    /// Its file is not there any more.
    FileGone,
    /// Its file is shorter than it is.
    FileShort,
    /// Pods have it, and its device is gone.
    DeviceGone,
    /// Nothing on this node keeps volumes of its kind any more.
    BackendGone,
    /// Its file system has stopped to take changes.
    ReadOnly,
    /// Nothing keeps it to its size.
    NoLimit,
    /// It has more than was promised.
    TooLarge,
    /// A pod has made subvolumes in it, which have no limit.
    Subvolumes,
    /// What its pods read and write isn't bounded as it should be.
    Unthrottled,
}

impl Illness {
    const fn kind(self) -> Kind {
        match self {
            Self::FileGone | Self::FileShort => Kind::DataLoss,
            Self::DeviceGone | Self::BackendGone => Kind::Inaccessible,
            Self::ReadOnly
            | Self::NoLimit
            | Self::TooLarge
            | Self::Subvolumes
            | Self::Unthrottled => Kind::Degraded,
        }
    }

    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::FileGone => "FileGone",
            Self::FileShort => "FileShort",
            Self::DeviceGone => "DeviceGone",
            Self::BackendGone => "BackendGone",
            Self::ReadOnly => "ReadOnly",
            Self::NoLimit => "NoLimit",
            Self::TooLarge => "TooLarge",
            Self::Subvolumes => "Subvolumes",
            Self::Unthrottled => "Unthrottled",
        }
    }

    pub(super) const fn message(self) -> &'static str {
        match self {
            Self::FileGone => {
                "the volume's file is gone from the node's pool; restore it from a snapshot or a backup"
            }
            Self::FileShort => {
                "the volume's file has lost its end; restore it from a snapshot or a backup"
            }
            Self::DeviceGone => {
                "the volume's device is gone; delete the pod, so that the volume is staged again"
            }
            Self::BackendGone => {
                "the volume is a subvolume, and the pool is on no btrfs any more; mount that again, then start the agent anew"
            }
            Self::ReadOnly => {
                "the volume's file system has become read-only after an error, which the kernel's log names; delete the pod, so that it is checked"
            }
            Self::NoLimit => {
                "nothing keeps the volume to its size: the quotas of the pool's file system are off; turn them on and start the agent anew"
            }
            Self::TooLarge => {
                "the volume has more than was promised, which others may lack; remove data, or expand it"
            }
            Self::Subvolumes => {
                "a pod has made subvolumes in the volume, which its limit doesn't bound; remove them"
            }
            Self::Unthrottled => {
                "the limits of what pods read and write don't hold: the node bounds no io of pods' control groups; have the kubelet's groups delegate `io`, and delete the pod"
            }
        }
    }
}

/// As the specification has it.
pub(super) fn told(id: &str, ill: &[Illness]) -> VolumeHealth {
    let entries = ill.iter().map(|illness| VolumeHealthEntry {
        status: illness.kind().into(),
        reason: illness.reason().to_owned(),
        message: illness.message().to_owned(),
    });
    VolumeHealth {
        volume_id: id.to_owned(),
        health_statuses: entries.collect(),
    }
}

impl Volumes {
    /// What is wrong with a volume.
    pub(super) fn illnesses(&self, volume: &Volume) -> Result<Vec<Illness>, Fault> {
        let mut ill = match volume.backing {
            Backing::Image => self.illnesses_of_file(volume)?,
            Backing::Btrfs | Backing::Directory => self.illnesses_of_folder(volume)?,
        };
        for (at, capability) in &volume.stages {
            let Access::Mount { flags, .. } = &capability.access else {
                continue;
            };
            let is_there = mounts::at(at).map_err(failed("mounts"))?.is_some();
            let wanted = flags.iter().any(|flag| flag == "ro");
            if is_there && !wanted {
                let stat = statvfs(at)
                    .map_err(|error| failed("the volume's file system")(error.into()))?;
                if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
                    ill.push(Illness::ReadOnly);
                }
            }
        }
        Ok(ill)
    }

    fn illnesses_of_file(&self, volume: &Volume) -> Result<Vec<Illness>, Fault> {
        let file = match self.pool.image(image(&volume.id), false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(vec![Illness::FileGone]);
            }
            file => file.map_err(failed("opening the volume"))?,
        };
        let mut ill = Vec::new();
        let length = file.metadata().map_err(failed("the volume's file"))?.len();
        if length < volume.bytes {
            ill.push(Illness::FileShort);
        }
        if !volume.targets.is_empty() && self.device(volume)?.is_none() {
            ill.push(Illness::DeviceGone);
        }
        if !self.is_throttled(volume)? {
            ill.push(Illness::Unthrottled);
        }
        Ok(ill)
    }

    fn illnesses_of_folder(&self, volume: &Volume) -> Result<Vec<Illness>, Fault> {
        let Ok(backend) = self.backend(volume.backing) else {
            return Ok(vec![Illness::BackendGone]);
        };
        match backend.unbounded(volume) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![Illness::FileGone]),
            unbounded => {
                let unbounded = unbounded.map_err(failed("the volume's limit"))?;
                let illness = unbounded.map(|why| match why {
                    Unbounded::NoLimit => Illness::NoLimit,
                    Unbounded::Over => Illness::TooLarge,
                    Unbounded::Subvolumes => Illness::Subvolumes,
                });
                Ok(illness.into_iter().collect())
            }
        }
    }

    /// Of every volume that is not well, in the order of their ids.
    pub(super) fn all_illnesses(&self) -> Result<Vec<(String, Vec<Illness>)>, Fault> {
        let volumes: Vec<Volume> = {
            let contents = self.book.read();
            let ready = contents
                .volumes
                .values()
                .filter(|of| of.phase == Phase::Ready && !of.inline);
            ready.cloned().collect()
        };
        let mut all = Vec::new();
        for volume in volumes {
            let ill = self.illnesses(&volume)?;
            if !ill.is_empty() {
                all.push((volume.id.to_string(), ill));
            }
        }
        Ok(all)
    }
}
