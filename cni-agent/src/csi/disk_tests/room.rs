//! Room that is promised, and what is counted of it.

use super::*;
use crate::csi::{
    backend::{Backend as _, Draft, Item, directory::Directories},
    folder::Folder,
    health::Illness,
    id::{SnapshotId, VolumeId},
    pool,
    request::{Backing, Ratio},
};

/// A file system in memory, whose files share no blocks. Its end unmounts it.
struct Memory(tempfile::TempDir);

impl Memory {
    fn new(words: Option<&std::ffi::CStr>) -> Self {
        let place = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", place.path(), "tmpfs", flags, words).unwrap();
        Self(place)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _gone = mounts::clear(self.0.path());
    }
}

fn of_directory(phase: Phase) -> Volume {
    Volume {
        phase,
        backing: Backing::Directory,
        fs: Some(Fs::Folder),
        ..Volume::new(VolumeId::random().unwrap(), "d", SIZE)
    }
}

fn snapshot_of(volume: &Volume, phase: Phase) -> Snapshot {
    Snapshot {
        id: SnapshotId::random().unwrap(),
        name: "s".into(),
        phase,
        of: volume.id.clone(),
        backing: volume.backing,
        bytes: volume.bytes,
        fs: volume.fs,
        formatted: false,
        made_at_ns: 0,
        group: None,
        overcommit: Ratio::default(),
    }
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn what_a_pod_gives_back_stays_promised_to_its_volume() {
    let node = Node::new();
    let volume = node.make("v", Some(Fs::Ext4), None);
    let promised = || node.volumes().promised_to(Item::Volume(&volume));
    assert_eq!(promised(), 0, "all of it is taken");
    let before = node.volumes().capacity(Backing::Image).unwrap();
    let at = node.publish(&volume, "pod");
    tools::run("fstrim", &[at.to_str().unwrap()]).unwrap();
    let back = promised();
    assert!(back > SIZE / 2, "{back} bytes were given back");
    let after = node.volumes().capacity(Backing::Image).unwrap();
    assert!(
        after < before + SIZE / 10,
        "others were promised {before} and now {after} bytes"
    );
    // Whose file is lost asks for nothing.
    node.unpublish(&volume, "pod");
    let file = format!("volumes/{}.img", volume.id);
    fs::remove_file(node.volumes().pool.folder().join(file)).unwrap();
    assert_eq!(promised(), 0);
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn one_broken_volume_keeps_nobody_from_another() {
    let node = Node::new();
    // Whose quota can't be read any more, and whose file system is another.
    let unread = Volume {
        project: Some(0x4661_0000),
        ..of_directory(Phase::Ready)
    };
    let elsewhere = Volume {
        backing: Backing::Btrfs,
        ..of_directory(Phase::Ready)
    };
    let place = node.volumes().pool.folder().join("directories");
    fs::create_dir(place.join(unread.id.as_str())).unwrap();
    let [a, b] = [&unread, &elsewhere].map(|of| Change::Volume(of.clone()));
    node.volumes().book.commit(&[a, b]).unwrap();
    for of in [&unread, &elsewhere] {
        assert_eq!(node.volumes().promised_to(Item::Volume(of)), SIZE);
    }
    let ill = node.volumes().illnesses(&elsewhere).unwrap();
    assert_eq!(ill, [Illness::BackendGone]);
    node.make("v", Some(Fs::Ext4), None);
    node.volumes().usage().unwrap();
    assert_eq!(node.volumes().rows().unwrap().len(), 3);
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_copy_is_promised_room_where_its_blocks_are_another_ones_too() {
    let (alone, pool) = (Memory::new(None), Node::new());
    for (root, shares) in [
        (alone.0.path(), false),
        (pool.volumes().pool.folder(), true),
    ] {
        let folder = Folder::open(root).unwrap();
        assert_eq!(pool::shares_blocks(&folder).unwrap(), shares);
        let directories = Directories::open([&folder].into_iter()).unwrap();
        let volume = of_directory(Phase::Ready);
        directories.make(&volume).unwrap();
        let snapshot = snapshot_of(&volume, Phase::Making);
        let mut draft = Draft::default();
        directories
            .cut(Item::Snapshot(&snapshot), &mut draft)
            .unwrap();
        let owed = |phase| {
            let snapshot = Snapshot {
                phase,
                ..snapshot.clone()
            };
            directories.owed(Item::Snapshot(&snapshot)).unwrap()
        };
        assert_eq!(owed(Phase::Making), SIZE);
        assert_eq!(owed(Phase::Ready), if shares { SIZE } else { 0 });
        directories.remove(Item::Snapshot(&snapshot)).unwrap();
        directories.remove(Item::Volume(&volume)).unwrap();
    }
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_disk_without_room_has_the_pool_that_it_had() {
    let full = Memory::new(Some(c"size=64k"));
    let place = full.0.path();
    let filler = place.join("filler");
    let full = fs::write(filler, vec![1; 1 << 20]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    let fresh = pool::shares(place).unwrap_err();
    assert_eq!(fresh.kind(), io::ErrorKind::StorageFull);
    File::create(place.join("volumes.redb")).unwrap();
    assert!(pool::shares(place).unwrap());
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_volume_that_grew_before_that_was_noted_is_copied_whole_and_has_the_room_that_it_took() {
    let node = Node::new();
    let volumes = node.volumes();
    let volume = node.make("v", Some(Fs::Ext4), None);
    let clone = node.make("c", None, None);
    let clone = node.make("c2", None, Some(Source::Volume(clone.id)));
    for of in [&volume, &clone] {
        volumes.pool.grow(image(&of.id), 2 * SIZE, false).unwrap();
    }
    // Its file system has all of it.
    let at = node.publish(&volume, "pod");
    write(&at, "whole");
    let snapshot = volumes.snapshot("s", volume.id.as_str()).unwrap();
    let restored = node.make("r", Some(Fs::Ext4), Some(Source::Snapshot(snapshot.id)));
    assert_eq!(read(&node.publish(&restored, "restored")), "whole");
    // Others were promised nearly all that is left.
    let promised = volumes.pool.room().unwrap().free - volumes.promised() - SIZE / 2;
    assert!(promised > SIZE);
    let others = Volume {
        phase: Phase::Ready,
        parameters: Parameters {
            thin: true,
            ..Parameters::default()
        },
        ..Volume::new(VolumeId::random().unwrap(), "others", promised)
    };
    volumes.book.commit(&[Change::Volume(others)]).unwrap();
    for of in [&volume, &clone] {
        let handle = of.id.as_str();
        let grown = volumes.expand(handle, &range(2 * SIZE)).unwrap();
        assert_eq!(grown.bytes, 2 * SIZE);
        let more = volumes.expand(handle, &range(2 * SIZE + promised));
        assert!(matches!(more, Err(Fault::Exhausted(_))), "{more:?}");
    }
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_volume_that_there_is_no_room_to_grow_for_takes_none() {
    let node = Node::new();
    let volume = node.make("v", None, None);
    let pool = &node.volumes().pool;
    let before = pool.room().unwrap().free;
    let error = pool.grow(image(&volume.id), 1 << 50, false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    let file = pool.image(image(&volume.id), false).unwrap();
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    let after = pool.room().unwrap().free;
    assert!(
        after + SIZE > before,
        "{before} bytes were free, now {after}"
    );
}
