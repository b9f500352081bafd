//! The transactional store of the pool, in the pool itself, so that it goes where the disk goes. Every change is
//! durable before anybody is told of it.

use super::{
    fault::Fault,
    id::{GroupId, SnapshotId, VolumeId},
    records::{Group, Snapshot, Volume},
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const VOLUMES: Table = TableDefinition::new("volumes");
const SNAPSHOTS: Table = TableDefinition::new("snapshots");
const GROUPS: Table = TableDefinition::new("groups");
const META: TableDefinition<'static, &'static str, &'static str> = TableDefinition::new("meta");
const SCHEMA: &str = "1";
/// A pool has thousands of rows at most; all of them are held as values as well.
const CACHE_BYTES: usize = 2 << 20;

/// Everything that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) volumes: BTreeMap<VolumeId, Volume>,
    pub(super) snapshots: BTreeMap<SnapshotId, Snapshot>,
    pub(super) groups: BTreeMap<GroupId, Group>,
}

impl Contents {
    /// The volume of a name that a caller chose.
    pub(super) fn named(&self, name: &str) -> Option<&Volume> {
        self.volumes
            .values()
            .find(|volume| volume.name == name && !volume.inline)
    }

    /// The inline volume of a handle that the kubelet chose.
    pub(super) fn inline(&self, handle: &str) -> Option<&Volume> {
        self.volumes
            .values()
            .find(|volume| volume.inline && volume.name == handle)
    }

    /// The volume that a handle means.
    pub(super) fn volume(&self, handle: &str) -> Option<&Volume> {
        match VolumeId::parse(handle) {
            Some(id) => self.volumes.get(&id),
            None => self.inline(handle),
        }
    }

    pub(super) fn group_named(&self, name: &str) -> Option<&Group> {
        self.groups.values().find(|group| group.name == name)
    }

    pub(super) fn snapshot_named(&self, name: &str) -> Option<&Snapshot> {
        let mut snapshots = self.snapshots.values();
        snapshots.find(|snapshot| snapshot.name == name && snapshot.group.is_none())
    }
}

/// One step of a commit; those of a commit hold together or not at all.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Volume(Volume),
    NoVolume(VolumeId),
    Snapshot(Snapshot),
    NoSnapshot(SnapshotId),
    Group(Group),
    NoGroup(GroupId),
}

/// The open store.
#[derive(Debug)]
pub(super) struct Book {
    database: Database,
    contents: Mutex<Contents>,
}

impl Book {
    /// Opens the file or makes it.
    ///
    /// # Errors
    /// It is another program's, of a newer version, or damaged, with the remedy.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let fault = |error: redb::Error| {
            format!(
                "{}: {error}; restore the file from a backup, or move it away to have the pool read anew",
                path.display()
            )
        };
        let opened = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let database = opened.map_err(|error| fault(error.into()))?;
        let contents = load(&database)
            .map_err(fault)?
            .map_err(|problem| format!("{}: {problem}", path.display()))?;
        Ok(Self {
            database,
            contents: Mutex::new(contents),
        })
    }

    /// What is remembered now.
    pub(super) fn read(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a commit durable. Blocks on the disk.
    ///
    /// # Errors
    /// Nothing of it holds.
    pub(super) fn commit(&self, changes: &[Change]) -> Result<(), Fault> {
        let mut contents = self.read();
        write(&self.database, changes)
            .map_err(|error| Fault::internal("the store of volumes", error))?;
        for change in changes.iter().cloned() {
            match change {
                Change::Volume(volume) => {
                    contents.volumes.insert(volume.id.clone(), volume);
                }
                Change::NoVolume(id) => {
                    contents.volumes.remove(&id);
                }
                Change::Snapshot(snapshot) => {
                    contents.snapshots.insert(snapshot.id.clone(), snapshot);
                }
                Change::NoSnapshot(id) => {
                    contents.snapshots.remove(&id);
                }
                Change::Group(group) => {
                    contents.groups.insert(group.id.clone(), group);
                }
                Change::NoGroup(id) => {
                    contents.groups.remove(&id);
                }
            }
        }
        Ok(())
    }
}

fn write(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut volumes = transaction.open_table(VOLUMES)?;
        let mut snapshots = transaction.open_table(SNAPSHOTS)?;
        let mut groups = transaction.open_table(GROUPS)?;
        for change in changes {
            match change {
                Change::Volume(of) => volumes.insert(of.id.as_str(), row(of).as_slice()).map(drop),
                Change::NoVolume(id) => volumes.remove(id.as_str()).map(drop),
                Change::Snapshot(of) => snapshots
                    .insert(of.id.as_str(), row(of).as_slice())
                    .map(drop),
                Change::NoSnapshot(id) => snapshots.remove(id.as_str()).map(drop),
                Change::Group(of) => groups.insert(of.id.as_str(), row(of).as_slice()).map(drop),
                Change::NoGroup(id) => groups.remove(id.as_str()).map(drop),
            }?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn row(value: &impl Serialize) -> Vec<u8> {
    // Types of our own with string keys have a form.
    serde_json::to_vec(value).unwrap_or_default()
}

fn load(database: &Database) -> Result<Result<Contents, String>, redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("schema")?.map(|found| found.value().to_owned());
        match found.as_deref() {
            Some(SCHEMA) => {}
            None => {
                meta.insert("schema", SCHEMA)?;
            }
            Some(other) => {
                return Ok(Err(format!(
                    "is of version {other}, this agent reads {SCHEMA}; run the agent that wrote it, or a newer one"
                )));
            }
        }
        transaction.open_table(VOLUMES)?;
        transaction.open_table(SNAPSHOTS)?;
        transaction.open_table(GROUPS)?;
    }
    transaction.commit()?;
    let transaction = database.begin_read()?;
    let mut contents = Contents::default();
    let mut faults = Vec::new();
    for volume in rows::<Volume>(&transaction, VOLUMES, &mut faults)? {
        contents.volumes.insert(volume.id.clone(), volume);
    }
    for snapshot in rows::<Snapshot>(&transaction, SNAPSHOTS, &mut faults)? {
        contents.snapshots.insert(snapshot.id.clone(), snapshot);
    }
    for group in rows::<Group>(&transaction, GROUPS, &mut faults)? {
        contents.groups.insert(group.id.clone(), group);
    }
    match faults.is_empty() {
        true => Ok(Ok(contents)),
        false => Ok(Err(faults.join("; "))),
    }
}

fn rows<T: DeserializeOwned>(
    transaction: &redb::ReadTransaction,
    table: Table,
    faults: &mut Vec<String>,
) -> Result<Vec<T>, redb::Error> {
    let table = transaction.open_table(table)?;
    let mut read = Vec::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        match serde_json::from_slice(value.value()) {
            Ok(row) => read.push(row),
            Err(error) => faults.push(format!("the row {:?} can't be read: {error}", key.value())),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::csi::records::Phase;

    fn volume(name: &str) -> Volume {
        Volume {
            phase: Phase::Ready,
            made_at: 7,
            ..Volume::new(VolumeId::random().unwrap(), name, 1 << 30)
        }
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volumes.redb");
        let (kept, gone) = (volume("kept"), volume("gone"));
        {
            let book = Book::open(&path).unwrap();
            let both = [kept.clone(), gone.clone()].map(Change::Volume);
            book.commit(&both).unwrap();
            book.commit(&[Change::NoVolume(gone.id.clone())]).unwrap();
        }
        let book = Book::open(&path).unwrap();
        let contents = book.read();
        assert_eq!(contents.named("kept"), Some(&kept));
        assert_eq!(contents.named("gone"), None);
        assert_eq!(contents.volume(kept.id.as_str()), Some(&kept));
        assert_eq!(contents.volume("kept"), None, "a name is no handle");
    }

    #[test]
    fn an_inline_volume_is_found_by_the_kubelets_handle_alone() {
        let folder = tempfile::tempdir().unwrap();
        let book = Book::open(&folder.path().join("volumes.redb")).unwrap();
        let inline = Volume {
            inline: true,
            ..volume("csi-abc")
        };
        book.commit(&[Change::Volume(inline.clone())]).unwrap();
        assert_eq!(book.read().volume("csi-abc"), Some(&inline));
        assert_eq!(book.read().named("csi-abc"), None);
    }

    #[test]
    fn a_store_of_another_version_is_refused_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volumes.redb");
        drop(Book::open(&path).unwrap());
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(META)
            .unwrap()
            .insert("schema", "9")
            .unwrap();
        transaction.commit().unwrap();
        drop(database);
        let error = Book::open(&path).unwrap_err();
        assert!(
            error.contains("version 9") && error.contains("newer"),
            "{error}"
        );
    }
}
