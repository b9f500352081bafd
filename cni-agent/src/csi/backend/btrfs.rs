//! Volumes that are subvolumes of a btrfs: a quota group bounds what each refers to, a snapshot is one of a moment for
//! nothing. Whether the limit holds is tried, since quotas are a choice of whoever owns the file system: they are never
//! turned on here.

use super::{
    Backend, Draft, Item, Unbounded,
    kernel::{
        create_subvolume, fsid, has_subvolumes, limit_subvolume, remove_qgroup, snapshot_subvolume,
        subvolume_id,
    },
    of_kind, overruns, source, sweep,
};
use crate::csi::{
    folder::Folder,
    pool::Kind,
    records::Volume,
    staging::{Stats, Use},
};
use rustix::{
    fs::{AtFlags, Mode, OFlags, fchmod, fstatvfs, fsync, unlinkat},
    io::Errno,
};
use std::{fs, io, os::fd::AsFd};

const FOLDER: &str = "subvolumes";
/// What pods see of an empty volume: as of a new file system.
const OPEN: Mode = Mode::from_raw_mode(0o755);

/// The pool's subvolumes.
#[derive(Debug)]
pub(in crate::csi) struct Subvolumes {
    folder: Folder,
    fsid: String,
    /// Whether a limit holds; if not, why and what to do.
    pub(in crate::csi) limits: Result<(), String>,
}

impl Subvolumes {
    /// Tries whether subvolumes can be made in a folder and bounded; none: they can't be made.
    pub(in crate::csi) fn open(root: &Folder) -> io::Result<Option<Self>> {
        const PROBE: &str = ".probe.new";
        let folder = root.made(FOLDER)?;
        // Of a start that ended early.
        folder.remove(PROBE)?;
        if let Err(error) = create_subvolume(&folder, PROBE) {
            if let Ok(bytes) = fsid(&folder) {
                // It is a btrfs, whose subvolumes can be used, and removed.
                let limits = Err(format!(
                    "no subvolume can be made in it ({error}); make room, then start the agent anew"
                ));
                let fsid = uuid(&bytes);
                return Ok(Some(Self {
                    folder,
                    fsid,
                    limits,
                }));
            }
            return match unlinkat(root, FOLDER, AtFlags::REMOVEDIR) {
                // Somebody has moved the pool here from one: what it had is told of each volume.
                Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        let limits = match holds(&folder.within(PROBE)?) {
            Ok(true) => Ok(()),
            Ok(false) => Err("its quotas are on and bound nothing; look at `btrfs qgroup show`, then start the agent anew".to_owned()),
            Err(error) => Err(format!(
                "its quotas are off ({error}); turn them on with `btrfs quota enable`, then start the agent anew"
            )),
        };
        let id = subvolume_id(&folder.within(PROBE)?)?;
        folder.remove(PROBE)?;
        let bytes = fsid(&folder)?;
        let this = Self {
            folder,
            fsid: uuid(&bytes),
            limits,
        };
        this.forget(id);
        Ok(Some(this))
    }

    /// What operations left that ended early.
    pub(in crate::csi) fn leftovers(&self) -> io::Result<Vec<String>> {
        let mut names = self.folder.names(".")?;
        names.retain(|name| name.ends_with(".new"));
        Ok(names)
    }

    /// Removes that; how many. Tells what can't be removed, and goes on.
    pub(in crate::csi) fn sweep(&self, failed: &mut dyn FnMut(&str, io::Error)) -> usize {
        sweep(FOLDER, self.leftovers(), |name| self.discard(name), failed)
    }

    fn discard(&self, name: &str) -> io::Result<()> {
        let id = match self.folder.within(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => subvolume_id(found?)?,
        };
        self.folder.remove(name)?;
        self.folder.sync(".")?;
        self.forget(id);
        Ok(())
    }

    /// Removes a subvolume's quota group, where the kernel (before 6.10) doesn't do it when the last block is free.
    fn forget(&self, subvolume: u64) {
        if let Err(error) = remove_qgroup(&self.folder, subvolume) {
            tracing::debug!(subvolume, %error, "its quota group is left to the kernel");
        }
    }

    /// A number that the kernel tells of a subvolume's quota group; none: there is no such group.
    fn number(&self, of: impl AsFd, what: &str) -> io::Result<Option<u64>> {
        let id = subvolume_id(of)?;
        let path = format!("/sys/fs/btrfs/{}/qgroups/0_{id}/{what}", self.fsid);
        match fs::read_to_string(path) {
            Ok(text) => text.trim().parse().map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Backend for Subvolumes {
    fn make(&self, volume: &Volume) -> io::Result<()> {
        let name = volume.id.as_str();
        let fresh = format!(".{name}.new");
        self.discard(&fresh)?;
        match source(volume) {
            None => create_subvolume(&self.folder, &fresh)?,
            Some((_, from)) => {
                snapshot_subvolume(&self.folder, &fresh, self.folder.within(from)?, false)?;
            }
        }
        let made = || -> io::Result<()> {
            let within = self.folder.within(&fresh)?;
            limit_subvolume(&within, volume.bytes)?;
            if volume.source.is_none() {
                fchmod(&within, OPEN)?;
            }
            fsync(&within)?;
            self.folder.rename(&fresh, name)
        };
        if let Err(error) = made() {
            self.discard(&fresh)?;
            return Err(error);
        }
        self.folder.sync(".")
    }

    fn cut(&self, item: Item<'_>, _: &mut Draft) -> io::Result<()> {
        let snapshot = match item {
            Item::Volume(volume) => return self.make(volume),
            Item::Snapshot(snapshot) => snapshot,
        };
        let of = self.folder.within(snapshot.of.as_str())?;
        snapshot_subvolume(&self.folder, snapshot.id.as_str(), of, true)?;
        self.folder.sync(".")
    }

    fn remove(&self, item: Item<'_>) -> io::Result<()> {
        self.discard(item.name())
    }

    fn grow(&self, volume: &Volume, bytes: u64) -> io::Result<()> {
        limit_subvolume(self.folder.within(volume.id.as_str())?, bytes)
    }

    fn folder(&self, volume: &Volume) -> io::Result<Option<Folder>> {
        self.folder.within(volume.id.as_str()).map(Some)
    }

    fn usage(&self, volume: &Volume) -> io::Result<Option<Stats>> {
        let within = self.folder.within(volume.id.as_str())?;
        let used = self.number(&within, "referenced")?.unwrap_or(0);
        let stat = fstatvfs(&within)?;
        let there = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(Some(Stats {
            bytes: Use {
                total: volume.bytes,
                available: volume.bytes.saturating_sub(used).min(there),
                used,
            },
            // It has as many as there is room for.
            inodes: None,
        }))
    }

    fn unbounded(&self, volume: &Volume) -> io::Result<Option<Unbounded>> {
        let within = self.folder.within(volume.id.as_str())?;
        Ok(match self.number(&within, "max_referenced")? {
            Some(limit) if limit != 0 && limit <= volume.bytes => {
                has_subvolumes(&within)?.then_some(Unbounded::Subvolumes)
            }
            _ => Some(Unbounded::NoLimit),
        })
    }

    fn owed(&self, item: Item<'_>) -> io::Result<u64> {
        let bytes = item.bytes();
        let within = match self.folder.within(item.name()) {
            // It is on its way.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(bytes),
            within => within?,
        };
        let own = self.number(within, "exclusive")?.unwrap_or(0);
        Ok(bytes.saturating_sub(own))
    }

    fn names(&self, kind: Kind) -> io::Result<Vec<String>> {
        Ok(of_kind(self.folder.names(".")?, kind))
    }
}

/// Whether a subvolume gets no more than its limit.
fn holds(probe: &Folder) -> io::Result<bool> {
    const LIMIT: usize = 1 << 20;
    limit_subvolume(probe, LIMIT as u64)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    overruns(fs::File::from(probe.beneath("probe", flags)?), 2 * LIMIT).map(|overruns| !overruns)
}

/// PURE: as the kernel writes it.
fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_systems_name_is_as_the_kernel_writes_it() {
        let bytes = std::array::from_fn(|at| at as u8 * 17);
        assert_eq!(uuid(&bytes), "00112233-4455-6677-8899-aabbccddeeff");
    }
}
