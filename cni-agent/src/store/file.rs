//! The redb file: opening, tables, rows. Version 1 of the schema:
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `endpoints` | `<container id>/<ifname>` | `model::Endpoint` as JSON |
//! | `released` | address as 128 bits, IPv4 as IPv4-mapped | sequence, Unix time |
//! | `meta` | `schema`, `next_endpoint_id`, `node` | text |

use super::{Contents, StoreError, mirror::Before};
use crate::{ipam::Released, model::Endpoint};
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError, backends::InMemoryBackend,
};
use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    net::{IpAddr, Ipv6Addr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

const SCHEMA: u32 = 1;
const ENDPOINTS: TableDefinition<&str, &[u8]> = TableDefinition::new("endpoints");
const RELEASED: TableDefinition<u128, (u64, u64)> = TableDefinition::new("released");
const META: TableDefinition<&str, &str> = TableDefinition::new("meta");

/// Pages kept in memory: the whole of a usual file, small against redb's default of 1 GiB.
const CACHE_BYTES: usize = 2 << 20;

/// Where the rows live.
#[derive(Debug)]
pub(super) enum Medium {
    File(PathBuf),
    Memory,
    /// A disk that fails on demand.
    #[cfg(test)]
    Faulty(super::writer::tests::FaultyDisk),
}

impl Medium {
    /// Opens the database, writing the schema into a new one.
    pub(super) fn open(&self) -> Result<Database, StoreError> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        // Every page's checksum is compared: damage is an error here, not a panic later. The file
        // has some hundred KiB, so this costs less than starting the process.
        builder.set_check_integrity_on_open(true);
        let opened = match self {
            Self::File(path) => {
                prepare(path)?;
                // redb asserts in debug builds where a release build reports damage.
                catch_unwind(AssertUnwindSafe(|| builder.create(path)))
                    .unwrap_or_else(|_| Err(StorageError::Corrupted("redb panicked".into()).into()))
            }
            Self::Memory => builder.create_with_backend(InMemoryBackend::new()),
            #[cfg(test)]
            Self::Faulty(disk) => builder.create_with_backend(disk.clone()),
        };
        let database = opened.map_err(|e| self.cannot_open(e))?;
        self.check_schema(&database)?;
        Ok(database)
    }

    /// Reads every row.
    pub(super) fn load(&self, database: &Database) -> Result<Contents, StoreError> {
        self.read(database).map_err(|e| match e {
            ReadError::Database(e) => self.corrupted(e.to_string()),
            ReadError::Row(e) => self.corrupted(e),
        })
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Memory => "(memory)".into(),
            #[cfg(test)]
            Self::Faulty(_) => "(faulty disk)".into(),
        }
    }

    fn corrupted(&self, details: String) -> StoreError {
        StoreError::Corrupted {
            path: self.path(),
            details,
        }
    }

    fn foreign(&self, details: String) -> StoreError {
        StoreError::Foreign {
            path: self.path(),
            details,
        }
    }

    fn cannot_open(&self, error: DatabaseError) -> StoreError {
        match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(self.path()),
            DatabaseError::Storage(StorageError::Io(e))
                if e.kind() == io::ErrorKind::InvalidData =>
            {
                self.foreign(e.to_string())
            }
            DatabaseError::UpgradeRequired(version) => {
                self.foreign(format!("redb file format {version}"))
            }
            DatabaseError::Storage(StorageError::Io(e)) => io_error(&self.path(), "opened", e),
            other => self.corrupted(other.to_string()),
        }
    }

    fn check_schema(&self, database: &Database) -> Result<(), StoreError> {
        let damaged = |e: redb::Error| self.corrupted(e.to_string());
        let found = || -> Result<Option<String>, redb::Error> {
            match database.begin_read()?.open_table(META) {
                Ok(meta) => Ok(meta.get("schema")?.map(|v| v.value().to_owned())),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(e) => Err(e.into()),
            }
        };
        let Some(found) = found().map_err(damaged)? else {
            let others = || Ok::<_, redb::Error>(database.begin_read()?.list_tables()?.count());
            if others().map_err(damaged)? > 0 {
                return Err(self.foreign("a redb file of another program".to_owned()));
            }
            return self.write_schema(database);
        };
        match found.parse() {
            Ok(SCHEMA) => Ok(()),
            Ok(found) if found > SCHEMA => Err(StoreError::NewerSchema {
                path: self.path(),
                found,
                known: SCHEMA,
            }),
            _ => Err(self.corrupted(format!("schema is {found:?}"))),
        }
    }

    /// All tables are made with the schema's row, so readers need not handle their absence.
    fn write_schema(&self, database: &Database) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            transaction.open_table(ENDPOINTS)?;
            transaction.open_table(RELEASED)?;
            transaction
                .open_table(META)?
                .insert("schema", SCHEMA.to_string().as_str())?;
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|e| StoreError::Write(e.to_string()))
    }

    fn read(&self, database: &Database) -> Result<Contents, ReadError> {
        let transaction = database.begin_read().map_err(redb::Error::from)?;
        let mut contents = Contents::default();
        for row in transaction.open_table(ENDPOINTS)?.iter()? {
            let (key, value) = row?;
            let fault = |e: String| ReadError::Row(format!("endpoint {:?}: {e}", key.value()));
            let endpoint: Endpoint =
                serde_json::from_slice(value.value()).map_err(|e| fault(e.to_string()))?;
            if endpoint.attachment.to_string() != key.value() {
                return Err(fault(format!("the row is about {}", endpoint.attachment)));
            }
            contents
                .endpoints
                .insert(endpoint.attachment.clone(), Arc::new(endpoint));
        }
        for row in transaction.open_table(RELEASED)?.iter()? {
            let (key, value) = row?;
            let (sequence, at) = value.value();
            contents
                .released
                .insert(from_key(key.value()), Released { sequence, at });
        }
        let meta = transaction.open_table(META)?;
        if let Some(next) = meta.get("next_endpoint_id")? {
            let fault = |_| ReadError::Row(format!("next_endpoint_id is {:?}", next.value()));
            contents.next_endpoint_id = next.value().parse().map_err(fault)?;
        }
        contents.node = meta.get("node")?.map(|v| v.value().to_owned());
        Ok(contents)
    }
}

/// Writes the rows named by `log` as `contents` has them now, in one durable transaction.
///
/// redb's default durability is used: one fsync per transaction, torn writes found by checksum.
/// Its two-phase commit and quick repair cost a second fsync and buy a faster repair, which this
/// small file does not need.
pub(super) fn write(
    database: &Database,
    contents: &Contents,
    log: &[Before],
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut endpoints = transaction.open_table(ENDPOINTS)?;
        let mut released = transaction.open_table(RELEASED)?;
        let mut meta = transaction.open_table(META)?;
        for before in log {
            match before {
                Before::Endpoint(key, _) => match contents.endpoints.get(key) {
                    Some(endpoint) => {
                        let row = serde_json::to_vec(endpoint.as_ref())
                            .map_err(|e| redb::Error::Io(e.into()))?;
                        endpoints.insert(key.to_string().as_str(), row.as_slice())?;
                    }
                    None => drop(endpoints.remove(key.to_string().as_str())?),
                },
                Before::Released(address, _) => match contents.released.get(address) {
                    Some(row) => drop(released.insert(to_key(*address), (row.sequence, row.at))?),
                    None => drop(released.remove(to_key(*address))?),
                },
                Before::NextEndpointId(_) => {
                    let next = contents.next_endpoint_id.to_string();
                    meta.insert("next_endpoint_id", next.as_str())?;
                }
                Before::Node(_) => match &contents.node {
                    Some(node) => drop(meta.insert("node", node.as_str())?),
                    None => drop(meta.remove("node")?),
                },
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// The rows in which `on_disk` differs from `wanted`, to be written after a failed write left the
/// disk in doubt.
pub(super) fn differences(on_disk: &Contents, wanted: &Contents) -> Vec<Before> {
    let mut log = Vec::new();
    for key in on_disk.endpoints.keys().chain(wanted.endpoints.keys()) {
        if on_disk.endpoints.get(key) != wanted.endpoints.get(key) {
            log.push(Before::Endpoint(
                key.clone(),
                on_disk.endpoints.get(key).cloned(),
            ));
        }
    }
    for address in on_disk.released.keys().chain(wanted.released.keys()) {
        if on_disk.released.get(address) != wanted.released.get(address) {
            log.push(Before::Released(
                *address,
                on_disk.released.get(address).copied(),
            ));
        }
    }
    if on_disk.next_endpoint_id != wanted.next_endpoint_id {
        log.push(Before::NextEndpointId(on_disk.next_endpoint_id));
    }
    if on_disk.node != wanted.node {
        log.push(Before::Node(on_disk.node.clone()));
    }
    log
}

enum ReadError {
    Database(redb::Error),
    Row(String),
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

fn to_key(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn from_key(key: u128) -> IpAddr {
    Ipv6Addr::from(key).to_canonical()
}

/// Makes folder and file with modes that keep others out, whatever the umask says, and makes both
/// entries durable: a file whose name is lost by a power cut would lose every commit in it.
fn prepare(path: &Path) -> Result<(), StoreError> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let made = !folder.exists();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|e| io_error(folder, "made", e))?;
    let sync = |folder: &Path| -> Result<(), StoreError> {
        let synced = File::open(folder).and_then(|f| f.sync_all());
        synced.map_err(|e| io_error(folder, "written", e))
    };
    if made && let Some(above) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
        sync(above)?;
    }
    let existed = path.exists();
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| io_error(path, "opened", e))?;
    if existed {
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .map_err(|e| io_error(path, "made private", e))?;
        Ok(())
    } else {
        sync(folder)
    }
}

fn io_error(path: &Path, action: &'static str, error: io::Error) -> StoreError {
    StoreError::Io {
        path: path.to_owned(),
        action,
        error: Arc::new(error),
    }
}
