//! What a start finds: the disk is the truth, and what is remembered says how far everything was.

use super::{
    book::Change,
    fault::Fault,
    id::{SnapshotId, VolumeId},
    kernel::{self, LoopDevice},
    mounts,
    pool::Kind,
    records::{Phase, Volume},
    request::Backing,
    volumes::{Volumes, failed},
};
use std::{collections::BTreeSet, fs::File, path::PathBuf, sync::PoisonError};

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
    /// What could not be put right: it stays for the next start, and is told.
    pub(super) failed: usize,
}

/// What could not be put right, and why: one of them keeps nothing else from it.
#[derive(Debug, Default)]
struct Failures(Vec<Failure>);

/// Something that could not be put right, by its id or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) what: String,
    pub(super) problem: String,
}

impl Failures {
    /// What something came to, if it went well.
    fn noting<T>(&mut self, what: &str, done: Result<T, Fault>) -> Option<T> {
        match done {
            Ok(done) => Some(done),
            Err(problem) => {
                tracing::warn!(what, %problem, "this could not be put right; the next start tries again");
                self.0.push(Failure {
                    what: what.to_owned(),
                    problem: problem.to_string(),
                });
                None
            }
        }
    }
}

impl Volumes {
    /// Puts right what an earlier agent left, and names files that nobody remembers.
    pub(super) fn recover(&self) -> (Recovered, Vec<String>) {
        let mut failures = Failures::default();
        let mut recovered = Recovered {
            thawed: self.thaw(&mut failures),
            ..Recovered::default()
        };
        let contents = self.book.read().clone();
        for snapshot in contents.snapshots.values() {
            let count = match snapshot.phase {
                Phase::Ready => continue,
                Phase::Making => &mut recovered.undone,
                Phase::Deleting => &mut recovered.finished,
            };
            let ended = failures.noting(snapshot.id.as_str(), self.end_snapshot(snapshot));
            *count += usize::from(ended.is_some());
        }
        for group in contents.groups.values() {
            // Its snapshots are on the same way.
            let left = self.book.read().snapshots.clone();
            let is_left = group.snapshots.values().any(|id| left.contains_key(id));
            if group.phase != Phase::Ready && !is_left {
                let ended = self.book.commit(&[Change::NoGroup(group.id.clone())]);
                failures.noting(group.id.as_str(), ended);
            }
        }
        for volume in contents.volumes.values() {
            let count = match volume.phase {
                Phase::Ready if is_orphan(volume) => &mut recovered.orphans,
                Phase::Ready => continue,
                Phase::Making => &mut recovered.undone,
                Phase::Deleting => &mut recovered.finished,
            };
            let ended = match volume.phase {
                Phase::Ready => self.dissolve(volume.clone()),
                Phase::Making | Phase::Deleting => {
                    self.detach(volume).and_then(|()| self.end_volume(volume))
                }
            };
            let ended = failures.noting(volume.id.as_str(), ended);
            *count += usize::from(ended.is_some());
        }
        let swept = self.pool.sweep(&mut |name, error| {
            failures.noting::<()>(name, Err(failed("removing a file")(error)));
        });
        recovered.swept = swept;
        recovered.detached = self.detach_unused(&mut failures);
        self.bound_again();
        let strangers = self.strangers(&mut failures);
        recovered.failed = failures.0.len();
        *self
            .unrecovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = failures.0;
        (recovered, strangers)
    }

    /// What the start could not put right, as far as it is there still.
    pub(super) fn unrecovered(&self) -> Vec<Failure> {
        let failures = self
            .unrecovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let contents = self.book.read();
        let is_gone = |what: &str| {
            let volume = VolumeId::parse(what).map(|id| contents.volumes.contains_key(&id));
            let snapshot = SnapshotId::parse(what).map(|id| contents.snapshots.contains_key(&id));
            volume.or(snapshot) == Some(false)
        };
        let left = failures.into_iter().filter(|of| !is_gone(&of.what));
        left.collect()
    }

    /// Lets every volume go on that is held still.
    fn thaw(&self, failures: &mut Failures) -> usize {
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
            let id = volume.id.as_str();
            // Also one that is lost by now. What can't be told may be its own; what is another's stays as it is.
            let is_left = self.is_left(&volume, &at);
            let may_be = match &is_left {
                Ok(is_left) => *is_left,
                Err(problem) => !matches!(problem, Fault::Precondition(_)),
            };
            failures.noting(id, is_left);
            if may_be {
                // Opening a frozen file system waits for nothing: only changes do.
                let went_on = File::open(&at).and_then(|within| kernel::thaw(&within));
                let went_on = went_on.map_err(failed("letting the volume go on"));
                thawed += usize::from(failures.noting(id, went_on) == Some(true));
            }
        }
        thawed
    }

    /// Takes devices of volumes away that nothing on this node uses; how many.
    fn detach_unused(&self, failures: &mut Failures) -> usize {
        let contents = self.book.read().clone();
        let mounted = mounts::all().map_err(failed("mounts"));
        let Some(mounted) = failures.noting("mounts", mounted) else {
            return 0;
        };
        let mounted: BTreeSet<LoopDevice> = mounted
            .iter()
            .filter_map(mounts::Mount::loop_device)
            .collect();
        let mut detached = 0;
        let unused = contents
            .volumes
            .values()
            .filter(|volume| volume.backing == Backing::Image)
            .filter(|volume| volume.stages.is_empty() && volume.targets.is_empty());
        for volume in unused {
            let done = self.devices(volume).and_then(|devices| {
                let unused = devices
                    .into_iter()
                    .filter(|of| !mounted.contains(&of.device()));
                let mut count = 0;
                for device in unused {
                    device.detach().map_err(failed("a loop device"))?;
                    count += 1;
                }
                Ok(count)
            });
            detached += failures.noting(volume.id.as_str(), done).unwrap_or(0);
        }
        detached
    }

    /// Files of the pool that nobody remembers: they stay, for people to look at.
    fn strangers(&self, failures: &mut Failures) -> Vec<String> {
        let contents = self.book.read();
        let mut strangers = Vec::new();
        for backend in self.backends() {
            for kind in [Kind::Volume, Kind::Snapshot] {
                let names = backend.names(kind).map_err(failed("the pool"));
                for name in failures.noting("the pool", names).unwrap_or_default() {
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
        strangers
    }

    /// Sets the limits of volumes again: who turns a file system's quotas off and on has them all lost, and an agent may
    /// have ended before it had changed them.
    fn bound_again(&self) {
        let contents = self.book.read().clone();
        let ready = contents.volumes.values();
        for volume in ready.filter(|volume| volume.phase == Phase::Ready) {
            let bound = match volume.backing {
                Backing::Image if !volume.limits.has_rates() => Ok(()),
                Backing::Image => self.throttle(volume, &volume.limits, volume.targets.keys()),
                backing => self.backend(backing).and_then(|backend| {
                    let grown = backend.grow(volume, volume.bytes);
                    grown.map_err(failed("the volume's limit"))
                }),
            };
            if let Err(problem) = bound {
                tracing::warn!(volume = %volume.id, %problem, "a volume's limits don't hold");
            }
        }
    }
}

/// Of an inline volume nobody says reliably that its pod is gone (topolvm#223): then its folder is.
fn is_orphan(volume: &Volume) -> bool {
    let is_gone = |at: &PathBuf| at.parent().is_none_or(|folder| !folder.exists());
    volume.inline && volume.targets.keys().all(is_gone)
}
