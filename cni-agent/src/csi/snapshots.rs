//! Snapshots of volumes: taken, and removed.

use super::{
    backend::Item,
    book::Change,
    fault::Fault,
    id::SnapshotId,
    records::{Phase, Snapshot, Volume},
    request::Backing,
    volumes::{Volumes, failed},
};

impl Volumes {
    /// Takes a snapshot, or answers with the one that was taken for this name.
    pub(super) fn snapshot(&self, name: &str, of: &str) -> Result<Snapshot, Fault> {
        let key = format!("the snapshot of {name:?}");
        let _working = self.busy.begin(&[&key])?;
        let there = self.book.read().snapshot_named(name).cloned();
        match there {
            // Neither taking it nor removing it succeeded; nobody takes it now, since its name is ours.
            Some(left) if left.phase == Phase::Making => self.remove_snapshot(left)?,
            Some(there) if there.of.as_str() != of => {
                return Err(Fault::Exists(
                    "a snapshot of this name is of another volume".into(),
                ));
            }
            Some(there) if there.phase == Phase::Ready => return Ok(there),
            Some(_) => {
                return Err(Fault::Busy(
                    "the snapshot of this name is on its way out".into(),
                ));
            }
            None => {}
        }
        let (_source, volume) = self.begin(of)?;
        can_be_cut(&volume)?;
        let id = SnapshotId::random().map_err(failed("a name for the snapshot"))?;
        let mut snapshot = Snapshot::new(id, name.to_owned(), &volume);
        {
            let _promising = self.promising();
            self.reserve(snapshot.backing, snapshot.bytes, snapshot.overcommit)?;
            self.book.commit(&[Change::Snapshot(snapshot.clone())])?;
        }
        snapshot.made_at_ns = match self.cut(&[(&volume.id, Item::Snapshot(&snapshot))]) {
            Ok(at) => at,
            Err(fault) => {
                self.end_snapshot(&snapshot)?;
                return Err(fault);
            }
        };
        snapshot.phase = Phase::Ready;
        self.book.commit(&[Change::Snapshot(snapshot.clone())])?;
        tracing::info!(snapshot = %snapshot.id, volume = %snapshot.of, "snapshot taken");
        Ok(snapshot)
    }

    /// Removes a snapshot; one that isn't there is removed. Volumes that were made from it stay whole.
    pub(super) fn delete_snapshot(&self, handle: &str) -> Result<(), Fault> {
        let Some(id) = SnapshotId::parse(handle) else {
            return Ok(());
        };
        let _working = self.busy.begin(&[id.as_str()])?;
        let Some(snapshot) = self.book.read().snapshots.get(&id).cloned() else {
            return Ok(());
        };
        if snapshot.group.is_some() {
            return Err(Fault::invalid(
                "snapshot_id",
                "is one of a group; delete the group",
            ));
        }
        self.remove_snapshot(snapshot)
    }

    /// Removes a snapshot that nobody uses.
    fn remove_snapshot(&self, mut snapshot: Snapshot) -> Result<(), Fault> {
        snapshot.phase = Phase::Deleting;
        self.book.commit(&[Change::Snapshot(snapshot.clone())])?;
        self.end_snapshot(&snapshot)?;
        tracing::info!(snapshot = %snapshot.id, "snapshot removed");
        Ok(())
    }

    /// Removes what there is of a snapshot, and forgets it.
    pub(super) fn end_snapshot(&self, snapshot: &Snapshot) -> Result<(), Fault> {
        self.clear_away(Item::Snapshot(snapshot))?;
        self.book.commit(&[Change::NoSnapshot(snapshot.id.clone())])
    }
}

/// PURE: whether a snapshot of a volume is one of a moment.
pub(super) fn can_be_cut(volume: &Volume) -> Result<(), Fault> {
    match volume.backing == Backing::Directory && !volume.targets.is_empty() {
        true => Err(Fault::Precondition(
            "a directory that pods write to can't be cut at one moment: its files are copied one after another; stop its pods first, or use a class of another backend".into(),
        )),
        false => Ok(()),
    }
}
