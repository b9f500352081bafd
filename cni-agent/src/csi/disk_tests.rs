//! On a real disk: a pool of its own, real loop devices, real file systems. Needs root.

mod held;
mod places;
mod recovering;
mod room;
mod scattered;
mod shown;
mod sources;

use super::{
    attached::Attached,
    book::{Book, Change},
    fault::Fault,
    limits::Limits,
    mounts,
    pool::{Kind, Pool},
    records::{Phase, Snapshot, Source, Target, Volume},
    recover::Recovered,
    request::{Access, Capability, Fs, Mode, Parameters},
    tools,
    volumes::{Volumes, Wanted, cut, image},
};
use node_api::csi::CapacityRange;
use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

pub(super) const MIB: u64 = 1 << 20;
/// XFS has at least 300 MiB.
pub(super) const SIZE: u64 = 320 * MIB;

/// A pool in a folder of its own, and places for pods. Its end leaves nothing of it.
pub(super) struct Node {
    folder: tempfile::TempDir,
    volumes: Option<Volumes>,
    /// Of a file system that the pool has for itself.
    disk: Option<Attached>,
}

impl Node {
    pub(super) fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap(), None)
    }

    fn within(folder: tempfile::TempDir, disk: Option<Attached>) -> Self {
        let mut node = Self {
            folder,
            volumes: None,
            disk,
        };
        node.restart();
        node
    }

    /// With its pool on a file system that is there.
    pub(super) fn beneath(place: &Path) -> Self {
        Self::within(tempfile::tempdir_in(place).unwrap(), None)
    }

    /// With its pool on a btrfs of its own.
    pub(super) fn on_btrfs(bytes: u64, quotas: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (disk, pool) = (folder.path().join("disk.img"), folder.path().join("pool"));
        let file = fs::OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&disk)
            .unwrap();
        file.set_len(bytes).unwrap();
        tools::run("mkfs.btrfs", &["-q", disk.to_str().unwrap()]).unwrap();
        let device = Attached::new(&file).unwrap();
        fs::create_dir(&pool).unwrap();
        mounts::device(device.device(), &pool, "btrfs", &[]).unwrap();
        if quotas {
            tools::run("btrfs", &["quota", "enable", pool.to_str().unwrap()]).unwrap();
        }
        Self::within(folder, Some(device))
    }

    /// Pods of it are in these control groups.
    pub(super) fn bound_by(&mut self, cgroups: &Path) {
        let volumes = self.volumes.take().unwrap();
        self.volumes = Some(volumes.bounding_by(Some(cgroups.to_owned())));
    }

    pub(super) fn pool(&self) -> PathBuf {
        self.folder.path().join("pool")
    }

    /// Another agent takes the pool over.
    pub(super) fn restart(&mut self) -> Recovered {
        self.volumes = None;
        let pool = Pool::open(&self.pool()).unwrap();
        let book = Book::open(&pool.store()).unwrap();
        let volumes = Volumes::new(pool, book, "n1");
        let (recovered, strangers) = volumes.recover();
        assert_eq!(strangers, [""; 0]);
        self.volumes = Some(volumes);
        recovered
    }

    pub(super) fn volumes(&self) -> &Volumes {
        self.volumes.as_ref().unwrap()
    }

    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn make(&self, name: &str, fs: Option<Fs>, source: Option<Source>) -> Volume {
        self.volumes().create(&wanted(name, fs, source)).unwrap()
    }

    /// Shows a volume to a pod of that name.
    pub(super) fn publish(&self, of: &Volume, pod: &str) -> PathBuf {
        let (stage, at) = (self.place(&format!("stage-{}", of.id)), self.place(pod));
        let capability = capability(of.fs);
        self.volumes()
            .stage(of.id.as_str(), &stage, &capability)
            .unwrap();
        self.volumes()
            .publish(of.id.as_str(), &stage, &at, target(&capability, false))
            .unwrap();
        at
    }

    pub(super) fn unpublish(&self, of: &Volume, pod: &str) {
        let stage = self.place(&format!("stage-{}", of.id));
        self.volumes()
            .unpublish(of.id.as_str(), &self.place(pod))
            .unwrap();
        assert!(!self.place(pod).exists());
        self.volumes().unstage(of.id.as_str(), &stage).unwrap();
    }

    /// Loop devices and mounts of the pool's volumes, and files in it.
    pub(super) fn left(&self) -> (usize, usize, usize) {
        let mounted = mounts::all().unwrap();
        let below = mounted
            .iter()
            .filter(|mount| mount.at.starts_with(self.folder.path()));
        let pools = [self.pool(), self.pool().join("pool")];
        let below = below.filter(|mount| !pools.contains(&mount.at));
        let pool = &self.volumes().pool;
        let files = [Kind::Volume, Kind::Snapshot].map(|kind| pool.images(kind).unwrap().len());
        // Others have pools on this machine, too.
        let look = self.volumes().look().unwrap();
        let loops = look.devices.iter().filter(|of| of.of.0 == look.disk);
        (loops.count(), below.count(), files.iter().sum())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let volumes = self.volumes.take();
        if let Some(volumes) = &volumes {
            let contents = volumes.book.read().clone();
            for volume in contents.volumes.values() {
                for at in volume.targets.keys().chain(volume.stages.keys()) {
                    let _gone = mounts::clear(at);
                }
                let _gone = volumes.detach(volume);
            }
        }
        drop(volumes);
        // Of the pool itself, and of what a test has mounted by hand.
        let mounted = mounts::all().unwrap_or_default();
        let below = mounted
            .iter()
            .filter(|mount| mount.at.starts_with(self.folder.path()));
        for mount in below.rev() {
            let device = mount.loop_device().map(Attached::now);
            let _gone = mounts::clear(&mount.at);
            if let Some(Ok(Some(device))) = device {
                let _gone = device.detach();
            }
        }
        if let Some(disk) = self.disk.take() {
            let _gone = disk.detach();
        }
    }
}

pub(super) fn capability(fs: Option<Fs>) -> Capability {
    Capability {
        access: match fs {
            None => Access::Block,
            Some(_) => Access::Mount {
                fs: None,
                flags: Vec::new(),
            },
        },
        mode: Mode::Writers,
    }
}

pub(super) fn range(bytes: u64) -> CapacityRange {
    CapacityRange {
        required_bytes: i64::try_from(bytes).unwrap(),
        limit_bytes: 0,
    }
}

pub(super) fn wanted(name: &str, fs: Option<Fs>, source: Option<Source>) -> Wanted {
    Wanted {
        name: name.into(),
        range: source.is_none().then(|| range(SIZE)),
        capabilities: vec![capability(fs)],
        parameters: Parameters {
            fs: fs.filter(|_| source.is_none()),
            ..Parameters::default()
        },
        source,
        limits: Limits::default(),
        claim: None,
    }
}

pub(super) fn target(capability: &Capability, readonly: bool) -> Target {
    Target {
        capability: capability.clone(),
        readonly,
        pod: None,
    }
}

pub(super) fn write(at: &Path, text: &str) {
    fs::write(at.join("data"), text).unwrap();
}

pub(super) fn read(at: &Path) -> String {
    fs::read_to_string(at.join("data")).unwrap()
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_snapshot_has_what_a_pod_had_written_and_outlives_its_volume() {
    for fs in [Fs::Ext4, Fs::Xfs] {
        let node = Node::new();
        let volume = node.make("v", Some(fs), None);
        let at = node.publish(&volume, "pod");
        // Still in the page cache when it is cut.
        write(&at, "before");
        let snapshot = node.volumes().snapshot("s", volume.id.as_str()).unwrap();
        assert_eq!(
            node.volumes().snapshot("s", volume.id.as_str()).unwrap(),
            snapshot
        );
        write(&at, "after");
        let clone = node.make("c", Some(fs), Some(Source::Volume(volume.id.clone())));
        write(&at, "later");
        node.unpublish(&volume, "pod");
        node.volumes().delete(volume.id.as_str()).unwrap();

        let restored = node.make("r", Some(fs), Some(Source::Snapshot(snapshot.id.clone())));
        node.volumes()
            .delete_snapshot(snapshot.id.as_str())
            .unwrap();
        assert_eq!(read(&node.publish(&restored, "restored")), "before");
        // Both at a time: two file systems of one origin.
        assert_eq!(read(&node.publish(&clone, "clone")), "after");
        node.unpublish(&restored, "restored");
        node.unpublish(&clone, "clone");
        for volume in [restored, clone] {
            node.volumes().delete(volume.id.as_str()).unwrap();
        }
        assert_eq!(node.left(), (0, 0, 0), "{fs:?}");
    }
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_pod_that_fills_its_volume_is_told_so_at_the_promised_size() {
    for fs in [Fs::Ext4, Fs::Xfs] {
        let node = Node::new();
        let (volume, other) = (
            node.make("v", Some(fs), None),
            node.make("o", Some(fs), None),
        );
        let (at, neighbour) = (node.publish(&volume, "pod"), node.publish(&other, "other"));
        let mut file = File::create(at.join("data")).unwrap();
        let part = vec![7; MIB as usize];
        let mut written = 0;
        let error = loop {
            match file.write_all(&part) {
                Ok(()) => written += MIB,
                Err(error) => break error,
            }
            assert!(written < 2 * SIZE, "nothing stops it");
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        assert!(
            written > SIZE * 2 / 3 && written < SIZE,
            "{fs:?}: {written}"
        );
        write(&neighbour, "all is well");
        let stats = node.volumes().stats(volume.id.as_str(), &at).unwrap();
        assert!(
            stats.bytes.available < MIB && stats.bytes.total <= SIZE,
            "{stats:?}"
        );
    }
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_volume_grows_while_a_pod_has_it_or_when_it_is_staged() {
    let node = Node::new();
    let volume = node.make("v", Some(Fs::Xfs), None);
    let at = node.publish(&volume, "pod");
    let total = |at: &Path| {
        node.volumes()
            .stats(volume.id.as_str(), at)
            .unwrap()
            .bytes
            .total
    };
    let before = total(&at);
    let grown = node
        .volumes()
        .grow(volume.id.as_str(), &at, Some(&range(2 * SIZE)))
        .unwrap();
    assert_eq!(grown, 2 * SIZE);
    assert!(total(&at) > before + SIZE * 9 / 10);
    // Again is nothing.
    node.volumes()
        .grow(volume.id.as_str(), &at, Some(&range(SIZE)))
        .unwrap();

    let ext4 = node.make("e", Some(Fs::Ext4), None);
    write(&node.publish(&ext4, "first"), "kept");
    node.unpublish(&ext4, "first");
    node.volumes()
        .expand(ext4.id.as_str(), &range(2 * SIZE))
        .unwrap();
    let at = node.publish(&ext4, "second");
    assert_eq!(read(&at), "kept");
    let stats = node.volumes().stats(ext4.id.as_str(), &at).unwrap();
    assert!(stats.bytes.total > SIZE * 3 / 2, "{stats:?}");
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_group_is_of_one_moment_whoever_writes() {
    let node = Node::new();
    let [a, b] = ["a", "b"].map(|name| node.make(name, Some(Fs::Ext4), None));
    let places = [node.publish(&a, "pod-a"), node.publish(&b, "pod-b")];
    let stop = AtomicBool::new(false);
    let handles = [a.id.to_string(), b.id.to_string()];
    let groups = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                // In the first before in the second, each durable.
                for at in &places {
                    let file = File::create(at.join("data")).unwrap();
                    file.write_all_at(format!("{number:020}").as_bytes(), 0)
                        .unwrap();
                    file.sync_all().unwrap();
                }
            }
        });
        let taken: Vec<_> = (0..10)
            .map(|n| node.volumes().group(&format!("g{n}"), &handles))
            .collect();
        stop.store(true, Ordering::Relaxed);
        taken
    });
    for (n, group) in groups.into_iter().enumerate() {
        let (_, members) = group.unwrap();
        let mut numbers = Vec::new();
        for of in [&a, &b] {
            let member = members.iter().find(|member| member.of == of.id).unwrap();
            let name = format!("r{n}-{}", of.id);
            let restored = node.make(
                &name,
                Some(Fs::Ext4),
                Some(Source::Snapshot(member.id.clone())),
            );
            let at = node.publish(&restored, &name);
            let text = fs::read_to_string(at.join("data")).unwrap_or_default();
            // Cut between the file's creation and its writing it is empty.
            numbers.push(text.parse::<u64>().ok());
            node.unpublish(&restored, &name);
            node.volumes().delete(restored.id.as_str()).unwrap();
        }
        if let [Some(first), Some(second)] = numbers[..] {
            assert!(
                first == second || first == second + 1,
                "{first} and {second}"
            );
        }
    }
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn what_changed_between_two_snapshots_makes_the_later_one_of_the_earlier() {
    let node = Node::new();
    let volume = node.make("v", None, None);
    let at = node.publish(&volume, "device");
    let device = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&at)
        .unwrap();
    let put = |block: u64, byte: u8| {
        device.write_all_at(&[byte; 8192], block * 65_536).unwrap();
        device.sync_all().unwrap();
    };
    for block in 0..40 {
        put(block, 1);
    }
    let base = node.volumes().snapshot("base", volume.id.as_str()).unwrap();
    for block in [3, 4, 17, 1000] {
        put(block, 2);
    }
    let target = node
        .volumes()
        .snapshot("target", volume.id.as_str())
        .unwrap();
    let bytes = |of: &Snapshot| {
        let mut bytes = Vec::new();
        let mut file = node.volumes().pool.image(cut(&of.id), false).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let (mut made, wanted) = (bytes(&base), bytes(&target));
    assert!(made != wanted);
    let stretches = node.volumes().delta(&base, &target, 0).unwrap();
    let mut told = 0;
    for of in &stretches {
        let at = of.byte_offset as usize..(of.byte_offset + of.size_bytes) as usize;
        told += at.len();
        made[at.clone()].copy_from_slice(&wanted[at]);
    }
    assert!(made == wanted);
    assert!(told < 16 * MIB as usize, "{told} bytes for four blocks");
    assert!(
        node.volumes()
            .delta(&target, &target, 0)
            .unwrap()
            .is_empty()
    );
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_pod_gets_no_folder_in_place_of_a_volume_and_a_reader_changes_nothing() {
    let node = Node::new();
    let volume = node.make("v", Some(Fs::Ext4), None);
    let (stage, at) = (node.place("stage"), node.place("pod"));
    let (handle, writers) = (volume.id.as_str(), capability(volume.fs));
    let publish = |at: &Path, capability: &Capability, readonly| {
        node.volumes()
            .publish(handle, &stage, at, target(capability, readonly))
    };
    assert!(matches!(
        publish(&at, &writers, false),
        Err(Fault::Precondition(_))
    ));
    node.volumes().stage(handle, &stage, &writers).unwrap();
    // As after a reboot: it was staged, and is not mounted.
    mounts::clear(&stage).unwrap();
    assert!(matches!(
        publish(&at, &writers, false),
        Err(Fault::Precondition(_))
    ));
    node.volumes().stage(handle, &stage, &writers).unwrap();
    publish(&at, &writers, false).unwrap();
    publish(&at, &writers, false).unwrap();
    assert!(matches!(
        publish(&at, &writers, true),
        Err(Fault::Exists(_))
    ));
    write(&at, "here");
    let reader = node.place("reader");
    publish(&reader, &writers, true).unwrap();
    assert_eq!(read(&reader), "here");
    let error = fs::write(reader.join("data"), "x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    let alone = Capability {
        mode: Mode::OneWriter,
        ..writers.clone()
    };
    let third = node.place("third");
    assert!(matches!(
        publish(&third, &alone, false),
        Err(Fault::Precondition(_))
    ));
    assert!(matches!(
        node.volumes().delete(handle),
        Err(Fault::Precondition(_))
    ));
}

/// Each way in which an agent may have ended, and what the next one makes of it.
#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn what_a_killed_agent_left_is_finished_or_undone() {
    let mut node = Node::new();
    let kept = node.make("kept", Some(Fs::Ext4), None);
    write(&node.publish(&kept, "pod"), "kept");
    let volumes = node.volumes();
    let half = node.make("half", None, None);
    let leaving = node.make("leaving", None, None);
    let snapshot = volumes.snapshot("half", half.id.as_str()).unwrap();
    let as_phase = |volume: &Volume, phase| {
        Change::Volume(Volume {
            phase,
            ..volume.clone()
        })
    };
    volumes
        .book
        .commit(&[
            as_phase(&half, Phase::Making),
            as_phase(&leaving, Phase::Deleting),
            Change::Snapshot(Snapshot {
                phase: Phase::Making,
                ..snapshot
            }),
        ])
        .unwrap();
    let root = match node.pool().join("pool.img").exists() {
        true => node.pool().join("pool"),
        false => node.pool(),
    };
    fs::write(root.join("volumes/.vol-x.new"), "half").unwrap();
    fs::write(root.join("trash/vol-y"), "old").unwrap();
    // Behind a device that no pod uses.
    let unused = node.make("unused", None, None);
    let file = node.volumes().pool.image(image(&unused.id), true).unwrap();
    Attached::new(&file).unwrap();
    drop(file);
    // Held still by an agent that was killed.
    let within = File::open(node.place("pod")).unwrap();
    assert!(super::kernel::freeze(&within).unwrap());

    let recovered = node.restart();
    let expected = Recovered {
        undone: 2,
        finished: 1,
        swept: 2,
        thawed: 1,
        detached: 1,
        orphans: 0,
        failed: 0,
    };
    assert_eq!(recovered, expected);
    assert_eq!(node.restart(), Recovered::default(), "once is enough");
    write(&node.place("pod"), "goes on");
    let contents = node.volumes().book.read().clone();
    let names: Vec<&str> = contents
        .volumes
        .values()
        .map(|of| of.name.as_str())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let file = node.volumes().pool.image(image(&kept.id), false).unwrap();
    assert!(Attached::of(&file).unwrap().is_some(), "a pod has it");
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_volume_is_staged_once_the_program_of_a_killed_agent_is_done_with_its_device() {
    let node = Node::new();
    let volume = node.make("v", Some(Fs::Ext4), None);
    let file = node.volumes().pool.image(image(&volume.id), true).unwrap();
    let device = Attached::new(&file).unwrap().device();
    assert!(!device.is_claimed().unwrap());
    // As mkfs has it.
    let claim = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(device.path())
        .unwrap();
    assert!(device.is_claimed().unwrap());
    let stage = node.place("stage");
    std::thread::scope(|scope| {
        let staging = scope.spawn(|| {
            node.volumes()
                .stage(volume.id.as_str(), &stage, &capability(volume.fs))
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!staging.is_finished(), "it doesn't wait");
        drop(claim);
        staging.join().unwrap().unwrap();
    });
    node.volumes().unstage(volume.id.as_str(), &stage).unwrap();
}
