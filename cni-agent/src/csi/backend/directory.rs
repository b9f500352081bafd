//! Volumes that are folders: a project's quota (XFS, ext4) bounds what is in each, or nothing, where a class says that it
//! may be so. Whether a quota holds is tried. A snapshot is a copy, file by file, of a volume that no pod has.

use super::{
    Backend, Draft, Item, Unbounded, copy,
    kernel::{Quota, quota, set_project, set_quota},
    of_kind, overruns, source, sweep,
};
use crate::csi::{
    folder::Folder,
    pool::{Kind, shares_blocks},
    records::{Phase, Volume},
    staging::{Stats, Use},
};
use rustix::{
    fs::{Mode, OFlags, fchmod, fstatvfs, fsync, syncfs},
    thread::{CapabilitySet, capabilities, set_capabilities},
};
use std::{fs::File, io, ops::RangeInclusive};

const FOLDER: &str = "directories";
const TRASH: &str = ".trash";
/// Projects of volumes; the last is for trials. Far from what people write into /etc/projid.
const PROJECTS: RangeInclusive<u32> = 0x4661_0000..=0x4661_fffe;
const TRIAL: u32 = 0x4661_ffff;
/// If nobody says, a file for so many bytes, as ext4 has it, and at least so many files.
const BYTES_OF_FILE: u64 = 16 << 10;
const LEAST_FILES: u64 = 1024;
/// Of a full volume, ext4 takes up to so small a part in addition, for what it notes of its files.
const OWN_PART: u64 = 64;
const OPEN: Mode = Mode::from_raw_mode(0o755);

/// The pool's folders of volumes, where they are made and where they are, too, which an agent made that found a quota
/// elsewhere.
#[derive(Debug)]
pub(in crate::csi) struct Directories {
    places: Vec<Place>,
    /// Whether a quota holds; if not, why and what to do.
    pub(in crate::csi) quota: Result<(), String>,
    /// New ones are made on the node's own file system, beside the pool's image.
    pub(in crate::csi) on_host: bool,
}

/// Where folders of volumes are.
#[derive(Debug)]
struct Place {
    folder: Folder,
    /// Files of a copy have their blocks in common with its original's.
    shares: bool,
}

impl Directories {
    /// Looks where a quota holds: the first of these places, or the last without any. Of several, the first is on the
    /// node's own file system.
    pub(in crate::csi) fn open<'a>(roots: impl Iterator<Item = &'a Folder>) -> io::Result<Self> {
        let mut places = Vec::new();
        for root in roots {
            let place = root.made(FOLDER)?;
            place.made(TRASH)?;
            // What can't be tried may be so.
            let shares = shares_blocks(&place).unwrap_or(true);
            places.push(Place {
                folder: place,
                shares,
            });
        }
        let tried: Vec<Result<(), String>> = places
            .iter()
            .map(|place| try_quota(&place.folder))
            .collect();
        let first = tried.iter().position(Result::is_ok);
        let chosen = first.unwrap_or(places.len().saturating_sub(1));
        let on_host = places.len() > 1 && chosen == 0;
        let quota = tried.into_iter().nth(chosen).unwrap_or(Ok(()));
        if !places.is_empty() {
            places.swap(0, chosen);
        }
        Ok(Self {
            places,
            quota,
            on_host,
        })
    }

    fn place_of(&self, name: &str) -> io::Result<&Place> {
        for place in &self.places {
            if place.folder.has(name)? {
                return Ok(place);
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn within(&self, name: &str) -> io::Result<Folder> {
        self.place_of(name)?.folder.within(name)
    }

    /// Where new ones are made.
    fn chosen(&self) -> io::Result<&Folder> {
        let none = || io::Error::other("the pool has no folder of directories");
        let first = self.places.first().ok_or_else(none)?;
        Ok(&first.folder)
    }

    /// A project that nobody has: none of our volumes, and nobody else on this file system.
    pub(in crate::csi) fn free_project(&self, is_taken: impl Fn(u32) -> bool) -> io::Result<u32> {
        let place = self.chosen()?;
        for project in PROJECTS.filter(|project| !is_taken(*project)) {
            if quota(place, project)? == Quota::default() {
                return Ok(project);
            }
        }
        Err(io::Error::other("every project of the agent's is taken"))
    }

    /// Bounds of a volume's files.
    pub(in crate::csi) fn bound_files(&self, volume: &Volume) -> io::Result<()> {
        match volume.project {
            Some(project) => bound(&self.within(volume.id.as_str())?, project, volume),
            None => Ok(()),
        }
    }

    /// Bytes that the files of one of them take.
    pub(in crate::csi) fn taken(&self, name: &str) -> io::Result<u64> {
        Ok(copy::size(&self.within(name)?)?.0)
    }

    /// What operations left that ended early.
    pub(in crate::csi) fn leftovers(&self) -> io::Result<Vec<String>> {
        let mut all = Vec::new();
        for place in &self.places {
            all.extend(left_in(&place.folder)?);
        }
        Ok(all)
    }

    /// Removes that; how many. Tells what can't be removed, and goes on.
    pub(in crate::csi) fn sweep(&self, failed: &mut dyn FnMut(&str, io::Error)) -> usize {
        let mut removed = 0;
        for place in &self.places {
            let Place { folder, .. } = place;
            removed += sweep(FOLDER, left_in(folder), |name| folder.remove(name), failed);
        }
        removed
    }

    /// First out of reach, then its blocks.
    fn discard(&self, name: &str) -> io::Result<()> {
        for place in &self.places {
            let trash = format!("{TRASH}/{name}");
            let place = &place.folder;
            match place.rename(name, &trash) {
                Ok(()) => place.sync(".")?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            place.remove(&trash)?;
        }
        Ok(())
    }

    /// Makes a folder with a copy of another's tree.
    fn fill(
        &self,
        name: &str,
        from: Option<&str>,
        prepare: impl FnOnce(&Folder) -> io::Result<()>,
    ) -> io::Result<()> {
        let place = self.chosen()?;
        let fresh = format!(".{name}.new");
        place.remove(&fresh)?;
        let made = || -> io::Result<()> {
            let within = place.made(&fresh)?;
            fchmod(&within, OPEN)?;
            prepare(&within)?;
            match from {
                // The files of a copy are on the disk before it has its name.
                Some(from) => {
                    copy::tree(&self.within(from)?, &within)?;
                    syncfs(&within)?;
                }
                None => fsync(&within)?,
            }
            place.rename(&fresh, name)
        };
        if let Err(error) = made() {
            place.remove(&fresh)?;
            return Err(error);
        }
        place.sync(".")
    }
}

impl Backend for Directories {
    fn make(&self, volume: &Volume) -> io::Result<()> {
        let from = source(volume).map(|(_, name)| name);
        self.fill(volume.id.as_str(), from, |within| match volume.project {
            None => Ok(()),
            Some(project) => {
                bound(within, project, volume)?;
                set_project(within, project)
            }
        })
    }

    fn cut(&self, item: Item<'_>, _: &mut Draft) -> io::Result<()> {
        let snapshot = match item {
            Item::Volume(volume) => return self.make(volume),
            Item::Snapshot(snapshot) => snapshot,
        };
        // It never changes: it needs no bound.
        self.fill(snapshot.id.as_str(), Some(snapshot.of.as_str()), |_| Ok(()))
    }

    fn remove(&self, item: Item<'_>) -> io::Result<()> {
        self.discard(item.name())?;
        match item {
            // The next who gets the project finds no limit.
            Item::Volume(Volume {
                project: Some(project),
                ..
            }) => self
                .places
                .iter()
                .filter(|place| quota(&place.folder, *project).is_ok())
                .try_for_each(|place| set_quota(&place.folder, *project, 0, 0)),
            _ => Ok(()),
        }
    }

    fn grow(&self, volume: &Volume, bytes: u64) -> io::Result<()> {
        self.bound_files(&Volume {
            bytes,
            ..volume.clone()
        })
    }

    fn folder(&self, volume: &Volume) -> io::Result<Option<Folder>> {
        self.within(volume.id.as_str()).map(Some)
    }

    fn usage(&self, volume: &Volume) -> io::Result<Option<Stats>> {
        let within = self.within(volume.id.as_str())?;
        let stat = fstatvfs(&within)?;
        let there = stat.f_bavail.saturating_mul(stat.f_frsize);
        let (used, files) = match volume.project {
            None => copy::size(&within)?,
            Some(project) => {
                let quota = quota(&within, project)?;
                (quota.bytes, quota.files)
            }
        };
        let of = |total: u64, used: u64, there: u64| Use {
            total,
            available: total.saturating_sub(used).min(there),
            used,
        };
        let most = volume.project.map(|_| files_of(volume));
        Ok(Some(Stats {
            bytes: of(volume.bytes, used, there),
            inodes: most.map(|most| of(most, files, stat.f_favail)),
        }))
    }

    fn unbounded(&self, volume: &Volume) -> io::Result<Option<Unbounded>> {
        let within = self.within(volume.id.as_str())?;
        Ok(match volume.project {
            None => (copy::size(&within)?.0 > volume.bytes).then_some(Unbounded::Over),
            Some(project) => match quota(&within, project) {
                Ok(quota) if quota.most_bytes == 0 => Some(Unbounded::NoLimit),
                Ok(quota) => (quota.bytes > volume.bytes + volume.bytes / OWN_PART)
                    .then_some(Unbounded::Over),
                // Its file system is mounted without quotas now.
                Err(_) => Some(Unbounded::NoLimit),
            },
        })
    }

    fn owed(&self, item: Item<'_>) -> io::Result<u64> {
        let bytes = item.bytes();
        let is_copy = match item {
            Item::Volume(of) => of.source.is_some(),
            Item::Snapshot(_) => true,
        };
        let place = match self.place_of(item.name()) {
            // It is on its way.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(bytes),
            place => place?,
        };
        if is_copy && place.shares {
            // Which of its blocks are its own isn't known.
            return Ok(bytes);
        }
        Ok(match item {
            // It has all that it will have.
            Item::Snapshot(of) if of.phase == Phase::Ready => 0,
            Item::Volume(Volume {
                project: Some(project),
                ..
            }) => {
                let quota = quota(place.folder.within(item.name())?, *project)?;
                bytes.saturating_sub(quota.bytes)
            }
            _ => bytes,
        })
    }

    fn names(&self, kind: Kind) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for place in &self.places {
            names.extend(of_kind(place.folder.names(".")?, kind));
        }
        Ok(names)
    }
}

fn left_in(place: &Folder) -> io::Result<Vec<String>> {
    let fresh = place.names(".")?.into_iter();
    let fresh = fresh.filter(|name| name.ends_with(".new"));
    let trash = place.names(TRASH)?.into_iter();
    Ok(fresh
        .chain(trash.map(|name| format!("{TRASH}/{name}")))
        .collect())
}

/// How many files a volume may have.
fn files_of(volume: &Volume) -> u64 {
    match volume.limits.max_files {
        0 => (volume.bytes / BYTES_OF_FILE).max(LEAST_FILES),
        most => most,
    }
}

fn bound(within: &Folder, project: u32, volume: &Volume) -> io::Result<()> {
    set_quota(within, project, volume.bytes, files_of(volume))
}

/// Tries whether a project gets no more than its quota; if it does, why, worded for people.
fn try_quota(place: &Folder) -> Result<(), String> {
    const PROBE: &str = ".probe.new";
    const REMEDY: &str = "mount it with `prjquota` (ext4 needs the features `quota` and `project`, the root file system `rootflags=prjquota`), then start the agent anew";
    let tried = || -> io::Result<bool> {
        place.remove(PROBE)?;
        let probe = place.made(PROBE)?;
        let holds = set_quota(&probe, TRIAL, 1 << 20, 0).and_then(|()| {
            set_project(&probe, TRIAL)?;
            without_privilege(|| {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let file = File::from(probe.beneath("probe", flags)?);
                overruns(file, 2 << 20).map(|overruns| !overruns)
            })
        });
        place.remove(PROBE)?;
        if holds.is_ok() {
            set_quota(place, TRIAL, 0, 0)?;
        }
        holds
    };
    match tried() {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("a project's quota bounds nothing there; {REMEDY}")),
        Err(error) => Err(format!("it has no quotas of projects ({error}); {REMEDY}")),
    }
}

/// Does something as a pod would: ext4 lets who has CAP_SYS_RESOURCE have more than a quota. On a thread of its own, since
/// what a thread may is its own.
pub(super) fn without_privilege<T: Send>(
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            let mut may = capabilities(None)?;
            may.effective.remove(CapabilitySet::SYS_RESOURCE);
            set_capabilities(None, may)?;
            work()
        });
        let ended = done.join();
        ended.unwrap_or_else(|_| Err(io::Error::other("the trial of a quota ended badly")))
    })
}
