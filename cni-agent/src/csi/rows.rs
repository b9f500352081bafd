//! What `fairlead volume` shows of volumes, snapshots and the pool's room.

use super::{
    backend::Item,
    fault::Fault,
    look::{Blocks, Look},
    pool::Kind,
    records::{ObjectName, Phase, Snapshot, Volume},
    request::Backing,
    volumes::{Volumes, cut, failed, image},
};
use crate::metrics::{VolumeUse, VolumesSnapshot};
use crate::query::{PoolUsage, PublishedRow, SnapshotRow, UsageRow, VolumeRow, VolumeState};
use std::fs;

/// A pool with less than this part free is told of.
const LITTLE: u64 = 10;

impl Volumes {
    /// Every volume, in the order of their ids.
    pub(super) fn rows(&self) -> Result<Vec<VolumeRow>, Fault> {
        let volumes: Vec<Volume> = self.book.read().volumes.values().cloned().collect();
        let look = self.look()?;
        let rows = volumes.iter().map(|volume| self.row(volume, &look));
        rows.collect()
    }

    /// What a scrape tells.
    pub(super) fn scraped(&self, by_volume: bool) -> Result<VolumesSnapshot, Fault> {
        let room = self.pool.room().map_err(failed("the pool"))?;
        let contents = self.book.read().clone();
        let mut found = VolumesSnapshot {
            total: room.total,
            free: room.free,
            promised: self.promised(),
            available: self.capacity(Backing::Image)?,
            ..VolumesSnapshot::default()
        };
        for snapshot in contents.snapshots.values() {
            let state = snapshot_state(snapshot.phase).as_str();
            *found.snapshots.entry(state).or_default() += 1;
        }
        let look = match by_volume {
            true => Some(self.look()?),
            false => None,
        };
        for volume in contents.volumes.into_values() {
            let (backend, fs) = (volume.backing.as_str(), volume.word().to_owned());
            let kind = (backend, fs, state(&volume).as_str());
            *found.volumes.entry(kind).or_default() += 1;
            for illness in self.illnesses(&volume)? {
                *found.unhealthy.entry(illness.reason()).or_default() += 1;
            }
            if let Some(look) = &look {
                let used = self.used(&volume, look);
                let (namespace, claim) = parts(volume.claim);
                found.by_volume.push(VolumeUse {
                    namespace,
                    claim,
                    volume: volume.name,
                    bytes: volume.bytes,
                    used,
                });
            }
        }
        Ok(found)
    }

    fn row(&self, volume: &Volume, look: &Look) -> Result<VolumeRow, Fault> {
        let file = look.files.get(&(Kind::Volume, volume.id.to_string()));
        let device = file.and_then(|file| look.devices_of(*file).next());
        let problems = match volume.phase {
            Phase::Ready => self.illnesses(volume)?,
            Phase::Making | Phase::Deleting => Vec::new(),
        };
        let published = volume.targets.iter().map(|(path, target)| PublishedRow {
            path: path.clone(),
            readonly: target.readonly,
            pod: target.pod.as_ref().map(ObjectName::to_string),
        });
        let published: Vec<PublishedRow> = published.collect();
        let mut pods: Vec<String> = published.iter().filter_map(|row| row.pod.clone()).collect();
        pods.sort();
        pods.dedup();
        Ok(VolumeRow {
            id: volume.id.to_string(),
            name: volume.name.clone(),
            claim: volume.claim.as_ref().map(ObjectName::to_string),
            pods,
            state: state(volume),
            bytes: volume.bytes,
            used: self.used(volume, look),
            allocated: file.map(|file| file.allocated),
            back_end: volume.backing.as_str().to_owned(),
            fs: volume.word().to_owned(),
            thin: volume.parameters.thin,
            inline: volume.inline,
            source: volume.source.as_ref().map(ToString::to_string),
            made_at: volume.made_at,
            device: device.map(|device| device.device.path()),
            staged: volume.stages.keys().cloned().collect(),
            published,
            problems: problems
                .iter()
                .map(|ill| ill.message().to_owned())
                .collect(),
        })
    }

    /// Every snapshot, in the order of their ids.
    pub(super) fn snapshot_rows(&self) -> Result<Vec<SnapshotRow>, Fault> {
        let contents = self.book.read().clone();
        let rows = contents.snapshots.values().map(|snapshot| {
            let of = contents.volumes.get(&snapshot.of);
            let claim = of.and_then(|volume| volume.claim.as_ref());
            let blocks = self.blocks_of(Item::Snapshot(snapshot))?;
            Ok(snapshot_row(snapshot, claim, blocks))
        });
        rows.collect()
    }

    /// How the pool's room is used, and what would fill it.
    pub(super) fn usage(&self) -> Result<PoolUsage, Fault> {
        let room = self.pool.room().map_err(failed("the pool"))?;
        let available = self.capacity(Backing::Image)?;
        let contents = self.book.read().clone();
        let mut rows = Vec::new();
        for volume in contents.volumes.values() {
            let blocks = self.blocks_of(Item::Volume(volume))?.unwrap_or_default();
            rows.push(UsageRow {
                kind: "volume".to_owned(),
                id: volume.id.to_string(),
                name: called(volume.claim.as_ref(), &volume.name),
                bytes: volume.bytes,
                own: blocks.own,
                shared: blocks.shared,
                promised: self.promised_to(Item::Volume(volume)),
            });
        }
        for snapshot in contents.snapshots.values() {
            let blocks = self
                .blocks_of(Item::Snapshot(snapshot))?
                .unwrap_or_default();
            rows.push(UsageRow {
                kind: "snapshot".to_owned(),
                id: snapshot.id.to_string(),
                name: snapshot.name.clone(),
                bytes: snapshot.bytes,
                own: blocks.own,
                shared: blocks.shared,
                promised: self.promised_to(Item::Snapshot(snapshot)),
            });
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.own + row.promised));
        let mut usage = PoolUsage {
            folder: self.pool.folder().to_owned(),
            total: room.total,
            free: room.free,
            promised: rows.iter().map(|row| row.promised).sum(),
            available,
            rows,
            warnings: Vec::new(),
        };
        usage.warnings = warnings(&usage);
        Ok(usage)
    }

    /// Bytes of a volume that are in use, where something tells.
    fn used(&self, volume: &Volume, look: &Look) -> Option<u64> {
        match volume.backing {
            Backing::Image => used(volume, look),
            backing => {
                let usage = self.backend(backing).ok()?.usage(volume).ok()?;
                usage.map(|usage| usage.bytes.used)
            }
        }
    }

    /// Which blocks nothing else has.
    fn blocks_of(&self, item: Item<'_>) -> Result<Option<Blocks>, Fault> {
        let (backing, file, bytes) = match item {
            Item::Volume(of) => (of.backing, image(&of.id), of.bytes),
            Item::Snapshot(of) => (of.backing, cut(&of.id), of.bytes),
        };
        if backing == Backing::Image {
            return self.blocks(file);
        }
        let own = match (backing, item) {
            // It has what it has, and is promised nothing: its size says too much.
            (Backing::Directory, Item::Snapshot(of)) => {
                let taken = self.pool.directories.taken(of.id.as_str());
                taken.unwrap_or(0).min(bytes)
            }
            _ => bytes.saturating_sub(self.owed(item)),
        };
        Ok(Some(Blocks { own, shared: 0 }))
    }
}

/// namespace and name of a claim; empty where it isn't known.
fn parts(claim: Option<ObjectName>) -> (String, String) {
    claim.map_or_else(Default::default, |claim| (claim.namespace, claim.name))
}

/// Bytes of a volume's own file system that are in use, where it is mounted.
fn used(volume: &Volume, look: &Look) -> Option<u64> {
    let key = (Kind::Volume, volume.id.to_string());
    let device = look.devices_of(*look.files.get(&key)?).next()?;
    let at = volume.stages.keys().find(|at| {
        let real = fs::canonicalize(at).ok();
        let mount = real.and_then(|at| look.mounted(&at).cloned());
        mount.is_some_and(|mount| mount.loop_device() == Some(device.device))
    })?;
    let stat = rustix::fs::statvfs(at).ok()?;
    let blocks = stat.f_blocks.saturating_sub(stat.f_bfree);
    Some(blocks.saturating_mul(stat.f_frsize))
}

fn called(claim: Option<&ObjectName>, name: &str) -> String {
    claim.map_or_else(|| name.to_owned(), ObjectName::to_string)
}

/// How far a volume is, and who has it.
pub(super) fn state(volume: &Volume) -> VolumeState {
    match volume.phase {
        Phase::Making => VolumeState::Making,
        Phase::Deleting => VolumeState::Deleting,
        Phase::Ready if !volume.targets.is_empty() => VolumeState::Published,
        Phase::Ready if !volume.stages.is_empty() => VolumeState::Staged,
        Phase::Ready => VolumeState::Ready,
    }
}

/// How far a snapshot is.
pub(super) fn snapshot_state(phase: Phase) -> VolumeState {
    match phase {
        Phase::Making => VolumeState::Making,
        Phase::Ready => VolumeState::Ready,
        Phase::Deleting => VolumeState::Deleting,
    }
}

fn snapshot_row(of: &Snapshot, claim: Option<&ObjectName>, blocks: Option<Blocks>) -> SnapshotRow {
    const SECOND: i64 = 1_000_000_000;
    SnapshotRow {
        id: of.id.to_string(),
        name: of.name.clone(),
        of: of.of.to_string(),
        claim: claim.map(ObjectName::to_string),
        state: snapshot_state(of.phase),
        bytes: of.bytes,
        own: blocks.map(|blocks| blocks.own),
        shared: blocks.map(|blocks| blocks.shared),
        made_at: u64::try_from(of.made_at_ns / SECOND).unwrap_or(0),
        group: of.group.as_ref().map(ToString::to_string),
    }
}

/// PURE: what would fill the pool, and what to do about it.
fn warnings(usage: &PoolUsage) -> Vec<String> {
    let mut warnings = Vec::new();
    let promised = |kind: &str| -> u64 {
        let rows = usage.rows.iter().filter(|row| row.kind == kind);
        rows.map(|row| row.promised).sum()
    };
    if usage.promised > usage.free {
        warnings.push(format!(
            "{} bytes are promised (to volumes {}, to snapshots {}) and {} are free: if what is shared or thin is written anew, the pool is full, and volumes see I/O errors; delete snapshots that nobody needs, or add room",
            usage.promised,
            promised("volume"),
            promised("snapshot"),
            usage.free
        ));
    }
    if usage.free < usage.total / LITTLE {
        warnings.push(format!(
            "less than a tenth of the pool is free ({} of {} bytes): what else is on its disk can take the rest; add room, or move it away",
            usage.free, usage.total
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_fill_the_pool_is_told() {
        let row = |kind: &str, promised| UsageRow {
            kind: kind.into(),
            id: "x".into(),
            name: "x".into(),
            bytes: promised,
            own: 0,
            shared: 0,
            promised,
        };
        let usage = |free, promised| PoolUsage {
            folder: "/pool".into(),
            total: 1000,
            free,
            promised,
            available: 0,
            rows: vec![row("snapshot", promised), row("volume", 0)],
            warnings: Vec::new(),
        };
        assert_eq!(warnings(&usage(500, 500)), [""; 0]);
        let more = warnings(&usage(500, 501));
        assert_eq!(more.len(), 1);
        assert!(more[0].contains("to snapshots 501") && more[0].contains("delete snapshots"));
        let full = warnings(&usage(99, 0));
        assert!(full[0].contains("99 of 1000"), "{full:?}");
    }
}
