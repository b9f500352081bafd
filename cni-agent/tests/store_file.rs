//! The file: who may read it, who may open it, what happens when it is not what it should be.
#![expect(clippy::unwrap_used, reason = "a test's helper may panic")]

use cni_agent::{
    clock::SystemClock,
    model::{AttachmentId, Endpoint, Mac},
    store::{Book, Store, StoreError},
};
use redb::{Database, TableDefinition};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

const META: TableDefinition<&str, &str> = TableDefinition::new("meta");
const ENDPOINTS: TableDefinition<&str, &[u8]> = TableDefinition::new("endpoints");

async fn filled(path: &Path, endpoints: u32) {
    let book = Book::open(Store::open(path).unwrap(), Arc::new(SystemClock)).unwrap();
    book.set_prefixes(&["10.0.0.0/24".parse().unwrap()])
        .unwrap();
    for n in 0..endpoints {
        let attachment = AttachmentId::new(&format!("c{n}"), "eth0").unwrap();
        let reservation = book.reserve(&attachment, &[]).unwrap();
        let endpoint = Endpoint {
            attachment,
            id: reservation.id(),
            network: "fairlead".to_owned(),
            pod: None,
            addresses: reservation.addresses(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            host_mac: Mac([2, 0, 0, 0, 0, 2]),
            host_ifname: "fl".to_owned(),
            mtu: 1500,
            sandbox: "/run/netns/x".to_owned(),
            created_at: 0,
            wired: false,
        };
        book.commit_endpoint(reservation, endpoint).await.unwrap();
    }
}

fn refusal(path: &Path) -> (StoreError, String) {
    let error = Store::open(path).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "{text}");
    (error, text)
}

#[tokio::test]
async fn folder_and_file_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("var/lib/fairlead");
    let path = state.join("state.redb");
    drop(Store::open(&path).unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&path)), (0o700, 0o600));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    drop(Store::open(&path).unwrap());
    assert_eq!(mode(&path), 0o600, "a copied file is made private again");
}

#[tokio::test]
async fn a_second_agent_is_told_so_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let first = Store::open(&path).unwrap();
    let (error, text) = refusal(&path);
    assert!(
        matches!(error, StoreError::InUse(_)) && text.contains("--state-dir"),
        "{text}"
    );
    first.commit(Vec::new()).await.unwrap();
    drop(first);
    Store::open(&path).unwrap();
}

#[tokio::test]
async fn a_newer_schema_a_foreign_file_and_a_bad_row_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("newer.redb");
    filled(&path, 1).await;
    let edit = |path: &Path, edit: &dyn Fn(&redb::WriteTransaction)| {
        let database = Database::create(path).unwrap();
        let transaction = database.begin_write().unwrap();
        edit(&transaction);
        transaction.commit().unwrap();
    };
    edit(&path, &|t| {
        drop(t.open_table(META).unwrap().insert("schema", "2").unwrap())
    });
    let (error, text) = refusal(&path);
    assert!(
        matches!(
            error,
            StoreError::NewerSchema {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{text}"
    );

    let path = folder.path().join("row.redb");
    filled(&path, 1).await;
    edit(&path, &|t| {
        drop(
            t.open_table(ENDPOINTS)
                .unwrap()
                .insert("c9/eth0", b"{}".as_slice())
                .unwrap(),
        );
    });
    let (error, text) = refusal(&path);
    assert!(
        matches!(error, StoreError::Corrupted { .. }) && text.contains("c9/eth0"),
        "{text}"
    );

    let path = folder.path().join("other.redb");
    let other: TableDefinition<u32, u32> = TableDefinition::new("other");
    edit(&path, &|t| {
        drop(t.open_table(other).unwrap().insert(1, 1).unwrap())
    });
    let (error, text) = refusal(&path);
    assert!(matches!(error, StoreError::Foreign { .. }), "{text}");

    let path = folder.path().join("text.redb");
    fs::write(&path, "not a database at all\n".repeat(500)).unwrap();
    let (error, text) = refusal(&path);
    assert!(matches!(error, StoreError::Foreign { .. }), "{text}");
    let path = folder.path().join("folder.redb");
    fs::create_dir(&path).unwrap();
    let (error, text) = refusal(&path);
    assert!(matches!(error, StoreError::Io { .. }), "{text}");
}

/// Damage is found at the start, by name, or does not matter; it is never a crash and never other
/// contents.
#[tokio::test]
async fn a_damaged_file_is_an_error_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    filled(&path, 20).await;
    let whole = fs::read(&path).unwrap();
    let expected = Store::open(&path).unwrap().loaded().clone();
    let (mut refused, mut harmless) = (0, 0);
    let mut random: u64 = 42;
    let damaged = folder.path().join("damaged.redb");
    for round in 0..150 {
        let mut bytes = whole.clone();
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let place = (random >> 20) as usize % bytes.len();
        match round % 3 {
            0 => bytes[place] ^= 1 << (random >> 60 & 7),
            1 => {
                let end = (place + 4096).min(bytes.len());
                bytes[place..end].fill(0xa5);
            }
            _ => bytes.truncate(place.max(1)),
        }
        fs::write(&damaged, &bytes).unwrap();
        match Store::open(&damaged) {
            Ok(store) => {
                assert_eq!(*store.loaded(), expected, "round {round}");
                harmless += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("damaged.redb"), "{error}");
                refused += 1;
            }
        }
    }
    println!("{refused} refused, {harmless} harmless");
    assert!(refused > 0 && harmless > 0);
}
