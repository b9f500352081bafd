//! The writer on a disk that fails: callers are told the truth, before and after.

use crate::{
    ipam::Released,
    model::{Addresses, AttachmentId, Endpoint, Mac},
    store::{Change, Contents, Store, StoreError, file::Medium, writer::Writer},
};
use redb::StorageBackend;
use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

/// What happens at the next fsync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// It fails and the unsynced writes are lost.
    LosesWrites,
    /// It fails although everything reached the disk.
    KeepsWrites,
    /// Writes fail for want of space.
    Full,
}

#[derive(Debug, Default)]
struct Disk {
    cached: Vec<u8>,
    synced: Vec<u8>,
    fault: Fault,
    syncs: u32,
    /// Writes since the last fsync, which a power cut keeps or loses one by one.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Operations so far.
    steps: usize,
    /// Power fails before this operation; which unsynced writes survive is up to these bits.
    cut: Option<(usize, u64)>,
    /// What was on the disk then.
    after_cut: Option<Vec<u8>>,
}

impl Disk {
    fn step(&mut self) {
        if let Some((at, survivors)) = self.cut
            && at == self.steps
        {
            let mut bytes = self.synced.clone();
            bytes.resize(self.cached.len().max(bytes.len()), 0);
            for (n, (start, data)) in self.unsynced.iter().enumerate() {
                if survivors >> (n % 64) & 1 == 1 && start + data.len() <= bytes.len() {
                    bytes[*start..start + data.len()].copy_from_slice(data);
                }
            }
            self.after_cut = Some(bytes);
        }
        self.steps += 1;
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FaultyDisk(Arc<Mutex<Disk>>);

impl FaultyDisk {
    /// A store on a new disk of this kind.
    pub(crate) fn store(&self) -> Store {
        Store::on(Medium::Faulty(self.clone())).unwrap()
    }

    /// Whether writes fail from now on, for want of space.
    pub(crate) fn set_full(&self, full: bool) {
        self.set(if full { Fault::Full } else { Fault::None });
    }

    fn set(&self, fault: Fault) {
        self.0.lock().unwrap().fault = fault;
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.lock().unwrap().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let disk = self.0.lock().unwrap();
        let start = offset as usize;
        let bytes = disk.cached.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut disk = self.0.lock().unwrap();
        disk.step();
        disk.cached.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut disk = self.0.lock().unwrap();
        disk.step();
        disk.syncs += 1;
        disk.unsynced.clear();
        let fault = disk.fault;
        if fault == Fault::LosesWrites {
            disk.cached = disk.synced.clone();
        } else {
            disk.synced = disk.cached.clone();
        }
        match fault {
            Fault::None | Fault::Full => Ok(()),
            Fault::LosesWrites | Fault::KeepsWrites => Err(io::Error::other("EIO")),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut disk = self.0.lock().unwrap();
        if disk.fault == Fault::Full {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        disk.step();
        let start = offset as usize;
        disk.unsynced.push((start, data.to_vec()));
        disk.cached[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn key(id: u32) -> AttachmentId {
    AttachmentId::new(&format!("c{id}"), "eth0").unwrap()
}

fn endpoint(id: u32) -> Arc<Endpoint> {
    let v4 = Some(Ipv4Addr::from(0x0a00_0000 + id));
    Arc::new(Endpoint {
        attachment: key(id),
        id,
        network: "fairlead".to_owned(),
        pod: None,
        addresses: Addresses { v4, v6: None },
        mac: Mac([2, 0, 0, 0, 0, 1]),
        host_mac: Mac([2, 0, 0, 0, 0, 2]),
        host_ifname: format!("fl{id}"),
        mtu: 1500,
        sandbox: String::new(),
        created_at: 0,
        wired: false,
    })
}

fn put(id: u32) -> Vec<Change> {
    vec![
        Change::PutEndpoint(endpoint(id)),
        Change::NextEndpointId(id + 1),
    ]
}

fn removal(id: u32) -> Vec<Change> {
    let released = Released {
        sequence: id.into(),
        at: 7,
    };
    let address = Ipv4Addr::from(0x0a00_0000 + id).into();
    vec![Change::RemoveEndpoint {
        attachment: key(id),
        id,
        released: vec![(address, released)],
    }]
}

fn reopened(disk: &FaultyDisk) -> Contents {
    Writer::open(Medium::Faulty(disk.clone())).unwrap().1
}

#[tokio::test]
async fn a_failed_write_changes_nothing_and_the_next_one_works() {
    for fault in [Fault::LosesWrites, Fault::KeepsWrites, Fault::Full] {
        let disk = FaultyDisk::default();
        let store = Store::on(Medium::Faulty(disk.clone())).unwrap();
        store.commit(put(1)).await.unwrap();
        disk.set(fault);
        for _ in 0..2 {
            let error = store.commit(put(2)).await.unwrap_err();
            assert!(
                !matches!(error, StoreError::Refused(_) | StoreError::Closed),
                "{error}"
            );
        }
        store.commit(removal(1)).await.unwrap_err();
        assert!(store.failure().is_some());
        // A commit without changes tries the disk again.
        store.commit(Vec::new()).await.unwrap_err();
        disk.set(Fault::None);
        store.commit(Vec::new()).await.unwrap();
        assert!(store.failure().is_none());
        store.commit(put(3)).await.unwrap();
        drop(store);
        let ids: Vec<_> = reopened(&disk).endpoints.values().map(|e| e.id).collect();
        assert_eq!(ids, [1, 3], "{fault:?}: told failed, so not there");
    }
}

#[tokio::test]
async fn one_refused_caller_does_not_fail_the_others_of_its_transaction() {
    let disk = FaultyDisk::default();
    let (mut writer, _) = Writer::open(Medium::Faulty(disk.clone())).unwrap();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let submission = |changes| {
        let answers = answers.clone();
        super::Submission {
            changes,
            done: Box::new(move |r: Result<(), StoreError>| {
                answers.lock().unwrap().push(r.map_err(|e| e.to_string()));
            }),
        }
    };
    let mut half_bad = put(2);
    half_bad.push(Change::PutEndpoint(Arc::new(Endpoint {
        id: 9,
        ..(*endpoint(1)).clone()
    })));
    half_bad.push(Change::PutEndpoint(Arc::new(Endpoint {
        attachment: key(8),
        ..(*endpoint(1)).clone()
    })));
    let before = disk.0.lock().unwrap().syncs;
    writer.settle(vec![
        submission(put(1)),
        submission(half_bad),
        submission(vec![Change::Node("n1".to_owned())]),
        submission(vec![Change::Node("n2".to_owned())]),
        submission(put(3)),
        submission(Vec::new()),
    ]);
    assert_eq!(
        disk.0.lock().unwrap().syncs - before,
        1,
        "one fsync for all"
    );
    let answers = answers.lock().unwrap();
    let ok: Vec<_> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(ok, [true, false, true, false, true, true]);
    assert!(
        answers[1]
            .as_ref()
            .unwrap_err()
            .contains("10.0.0.1 of c8/eth0 is c1/eth0's")
    );
    assert!(answers[3].as_ref().unwrap_err().contains("\"n1\""));
    drop(writer);
    let contents = reopened(&disk);
    let ids: Vec<_> = contents.endpoints.values().map(|e| e.id).collect();
    assert_eq!((ids, contents.next_endpoint_id), (vec![1, 3], 4));
    assert_eq!(contents.node.as_deref(), Some("n1"));
}

#[tokio::test]
async fn removal_is_of_the_very_endpoint_and_remembers_its_address() {
    let disk = FaultyDisk::default();
    let store = Store::on(Medium::Faulty(disk.clone())).unwrap();
    store.commit(put(1)).await.unwrap();
    let mut stale = removal(1);
    if let Change::RemoveEndpoint { id, .. } = &mut stale[0] {
        *id = 77;
    }
    store.commit(stale).await.unwrap();
    let mut foreign = removal(1);
    if let Change::RemoveEndpoint { released, .. } = &mut foreign[0] {
        released[0].0 = Ipv4Addr::new(9, 9, 9, 9).into();
    }
    assert!(matches!(
        store.commit(foreign).await,
        Err(StoreError::Refused(_))
    ));
    store.commit(removal(1)).await.unwrap();
    store.commit(removal(1)).await.unwrap();
    // Numbers that come late or after the wrap.
    for (next, expected) in [
        (1, 2),
        (u32::MAX / 2, u32::MAX / 2),
        (u32::MAX - 1, u32::MAX - 1),
        (1, 1),
    ] {
        store
            .commit(vec![Change::NextEndpointId(next)])
            .await
            .unwrap();
        // A copy, as the disk would be after a power cut now.
        let cached = disk.0.lock().unwrap().synced.clone();
        let copy = FaultyDisk(Arc::new(Mutex::new(Disk {
            cached,
            ..Disk::default()
        })));
        assert_eq!(reopened(&copy).next_endpoint_id, expected);
    }
    drop(store);
    let contents = reopened(&disk);
    assert!(contents.endpoints.is_empty());
    let rows: Vec<_> = contents.released.into_iter().collect();
    assert_eq!(
        rows,
        [(
            Ipv4Addr::new(10, 0, 0, 1).into(),
            Released { sequence: 1, at: 7 }
        )]
    );
}

/// A power cut loses any subset of what was not synced. What was acknowledged before is there, the
/// commit under way is there whole or not at all.
#[test]
fn a_power_cut_at_any_write_leaves_whole_commits() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let commits: Vec<_> = (1..=6).map(put).chain((1..=3).map(removal)).collect();
    // Where each commit ends, and what there is then.
    let mut ends = Vec::new();
    let mut contents = Vec::new();
    let disk = FaultyDisk::default();
    let store = Store::on(Medium::Faulty(disk.clone())).unwrap();
    let mut model = crate::store::mirror::Mirror::default();
    for n in 0..=commits.len() {
        if n > 0 {
            runtime
                .block_on(store.commit(commits[n - 1].clone()))
                .unwrap();
            model
                .apply(commits[n - 1].clone(), &mut Vec::new())
                .unwrap();
        }
        ends.push(disk.0.lock().unwrap().steps);
        contents.push(model.contents().clone());
    }
    drop(store);
    for at in ends[0]..ends[commits.len()] {
        for survivors in [
            0,
            !0,
            0x5555_5555_5555_5555,
            0xaaaa_aaaa_aaaa_aaaa,
            0x9e37_79b9_7f4a_7c15,
        ] {
            let disk = FaultyDisk::default();
            disk.0.lock().unwrap().cut = Some((at, survivors));
            let store = Store::on(Medium::Faulty(disk.clone())).unwrap();
            for changes in &commits {
                runtime.block_on(store.commit(changes.clone())).unwrap();
            }
            let cached = disk.0.lock().unwrap().after_cut.take().unwrap();
            let cut = FaultyDisk(Arc::new(Mutex::new(Disk {
                cached,
                ..Disk::default()
            })));
            let found = reopened(&cut);
            let acknowledged = ends.iter().rposition(|end| *end <= at).unwrap();
            assert!(
                found == contents[acknowledged] || found == contents[acknowledged + 1],
                "step {at}, survivors {survivors:x}: {found:?}"
            );
        }
    }
}
