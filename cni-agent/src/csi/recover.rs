//! What a start finds: the disk is the truth, and what is remembered says how far everything was.

use super::{
    attached::{Attached, inode},
    backend::Item,
    book::Change,
    fault::Fault,
    kernel::{self, LoopDevice},
    mounts,
    pool::Kind,
    records::Phase,
    request::Backing,
    volumes::{Volumes, failed, image},
};
use std::{collections::BTreeSet, fs::File};

/// What was put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Recovered {
    /// Volumes and snapshots that were on their way in: removed, nobody was told of them.
    pub(super) undone: usize,
    /// Those that were on their way out.
    pub(super) finished: usize,
    /// Files of operations that ended early.
    pub(super) swept: usize,
    /// File systems that a killed agent held still.
    pub(super) thawed: usize,
    /// Loop devices that nobody used.
    pub(super) detached: usize,
    /// Inline volumes whose pods are gone.
    pub(super) orphans: usize,
}

impl Volumes {
    /// Puts right what an earlier agent left, and names files that nobody remembers.
    pub(super) fn recover(&self) -> Result<(Recovered, Vec<String>), Fault> {
        let mut recovered = Recovered {
            thawed: self.thaw()?,
            ..Recovered::default()
        };
        let contents = self.book.read().clone();
        for snapshot in contents.snapshots.values() {
            match snapshot.phase {
                Phase::Ready => continue,
                Phase::Making => recovered.undone += 1,
                Phase::Deleting => recovered.finished += 1,
            }
            self.backend(snapshot.backing)?
                .remove(Item::Snapshot(snapshot))
                .map_err(failed("removing a snapshot"))?;
            self.book
                .commit(&[Change::NoSnapshot(snapshot.id.clone())])?;
        }
        for group in contents
            .groups
            .values()
            .filter(|group| group.phase != Phase::Ready)
        {
            // Its snapshots were on the same way.
            self.book.commit(&[Change::NoGroup(group.id.clone())])?;
        }
        for volume in contents.volumes.values() {
            match volume.phase {
                Phase::Ready => {}
                Phase::Making | Phase::Deleting => {
                    match volume.phase {
                        Phase::Making => recovered.undone += 1,
                        _ => recovered.finished += 1,
                    }
                    let is_file = volume.backing == Backing::Image;
                    if is_file
                        && self
                            .pool
                            .has(image(&volume.id))
                            .map_err(failed("the pool"))?
                    {
                        self.detach(volume)?;
                    }
                    self.backend(volume.backing)?
                        .remove(Item::Volume(volume))
                        .map_err(failed("removing a volume"))?;
                    self.book.commit(&[Change::NoVolume(volume.id.clone())])?;
                    continue;
                }
            }
            // Of an inline volume nobody says reliably that its pod is gone (topolvm#223): then its folder is.
            let gone = |at: &std::path::PathBuf| at.parent().is_none_or(|folder| !folder.exists());
            if volume.inline && volume.targets.keys().all(gone) {
                self.dissolve(volume.clone())?;
                recovered.orphans += 1;
            }
        }
        recovered.swept = self.pool.sweep().map_err(failed("the pool"))?;
        recovered.detached = self.detach_unused()?;
        self.bound_again()?;
        Ok((recovered, self.strangers()?))
    }

    /// Lets every volume go on that is held still.
    fn thaw(&self) -> Result<usize, Fault> {
        let places: Vec<_> = {
            let contents = self.book.read();
            let mounted = contents
                .volumes
                .values()
                .filter(|volume| volume.fs.is_some() && volume.backing == Backing::Image);
            let places = mounted.flat_map(|volume| {
                let places = volume.stages.keys().chain(volume.targets.keys());
                places.map(|at| (volume.clone(), at.clone()))
            });
            places.collect()
        };
        let mut thawed = 0;
        for (volume, at) in places {
            // Opening a frozen file system waits for nothing: only changes do.
            if self.is_mounted(&volume, &at).unwrap_or(false)
                && let Ok(within) = File::open(&at)
                && kernel::thaw(&within).unwrap_or(false)
            {
                thawed += 1;
            }
        }
        Ok(thawed)
    }

    /// Devices of volumes that nothing on this node uses.
    fn detach_unused(&self) -> Result<usize, Fault> {
        let contents = self.book.read().clone();
        let mut detached = 0;
        let devices = LoopDevice::all().map_err(failed("loop devices"))?;
        let mounted: BTreeSet<LoopDevice> = mounts::all()
            .map_err(failed("mounts"))?
            .iter()
            .filter_map(mounts::Mount::loop_device)
            .collect();
        let unused = contents
            .volumes
            .values()
            .filter(|volume| volume.backing == Backing::Image)
            .filter(|volume| volume.stages.is_empty() && volume.targets.is_empty());
        for volume in unused {
            let file = self
                .pool
                .image(image(&volume.id), false)
                .map_err(failed("a volume"))?;
            let of = inode(&file).map_err(failed("a volume"))?;
            for device in devices.iter().filter(|device| !mounted.contains(device)) {
                let now = Attached::now(*device).map_err(failed("loop devices"))?;
                if let Some(attached) = now.filter(|now| now.backing() == of) {
                    attached.detach().map_err(failed("a loop device"))?;
                    detached += 1;
                }
            }
        }
        Ok(detached)
    }

    /// Files of the pool that nobody remembers: they stay, for people to look at.
    fn strangers(&self) -> Result<Vec<String>, Fault> {
        let contents = self.book.read();
        let mut strangers = Vec::new();
        for backend in self.backends() {
            for kind in [Kind::Volume, Kind::Snapshot] {
                for name in backend.names(kind).map_err(failed("the pool"))? {
                    let is_known = match kind {
                        Kind::Volume => contents.volumes.keys().any(|id| id.as_str() == name),
                        Kind::Snapshot => contents.snapshots.keys().any(|id| id.as_str() == name),
                    };
                    if !is_known {
                        strangers.push(name);
                    }
                }
            }
        }
        Ok(strangers)
    }

    /// Sets the limits of volumes again: who turns a file system's quotas off and on has them all lost, and an agent may
    /// have ended before it had changed them.
    fn bound_again(&self) -> Result<(), Fault> {
        let contents = self.book.read().clone();
        let ready = contents.volumes.values();
        for volume in ready.filter(|volume| volume.phase == Phase::Ready) {
            let bound = match volume.backing {
                Backing::Image if !volume.limits.has_rates() => Ok(()),
                Backing::Image => self.throttle(volume, &volume.limits, volume.targets.keys()),
                backing => {
                    let grown = self.backend(backing)?.grow(volume, volume.bytes);
                    grown.map_err(failed("the volume's limit"))
                }
            };
            if let Err(problem) = bound {
                tracing::warn!(volume = %volume.id, %problem, "a volume's limits don't hold");
            }
        }
        Ok(())
    }
}
