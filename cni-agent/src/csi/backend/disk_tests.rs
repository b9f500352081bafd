//! Back ends on real file systems: a btrfs of the test's own, folders without a quota, and folders with one where the
//! environment names a file system that has it. Needs root.

use super::directory::without_privilege;
use crate::csi::{
    book::Change,
    disk_tests::{MIB, Node, SIZE, range, read, wanted, write},
    fault::Fault,
    health::Illness,
    records::{Phase, Snapshot, Source, Volume},
    recover::Recovered,
    request::{Backing, Fs, Parameters},
    staging::Stats,
    volumes::Wanted,
};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

fn of_backend(name: &str, backend: Option<Backing>, source: Option<Source>) -> Wanted {
    let wanted = wanted(name, Some(Fs::Folder), source);
    Wanted {
        parameters: Parameters {
            fs: None,
            backend,
            ..wanted.parameters
        },
        ..wanted
    }
}

fn unenforced(name: &str, source: Option<Source>) -> Wanted {
    let wanted = of_backend(name, Some(Backing::Directory), source);
    Wanted {
        parameters: Parameters {
            allow_unenforced: true,
            ..wanted.parameters
        },
        ..wanted
    }
}

/// Writes as a pod until there is no room; how many bytes there was room for.
fn fill(at: &Path) -> u64 {
    without_privilege(|| Ok(written(at))).unwrap()
}

fn written(at: &Path) -> u64 {
    let mut file = File::create(at.join("filler")).unwrap();
    // Of chance, so that nothing packs it.
    let mut part = vec![0; MIB as usize];
    io::Read::read_exact(&mut File::open("/dev/urandom").unwrap(), &mut part).unwrap();
    let mut written = 0;
    let error = loop {
        match file.write_all(&part).and_then(|()| file.sync_data()) {
            Ok(()) => written += MIB,
            Err(error) => break error,
        }
        assert!(written < 2 * SIZE, "nothing stops it");
    };
    let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    assert!(kinds.contains(&error.kind()), "{error}");
    written
}

fn stats(node: &Node, of: &Volume, at: &Path) -> Stats {
    node.volumes().stats(of.id.as_str(), at).unwrap()
}

/// A volume that is filled, its neighbour, and the volume once it has grown.
fn full_at_its_size(node: &Node, backend: Backing) {
    let make = |name: &str| {
        let wanted = of_backend(name, Some(backend), None);
        node.volumes().create(&wanted).unwrap()
    };
    let (volume, other) = (make("v"), make("o"));
    assert_eq!((volume.backing, volume.bytes), (backend, SIZE));
    let (at, neighbour) = (node.publish(&volume, "pod"), node.publish(&other, "other"));
    let before = stats(node, &volume, &at).bytes;
    assert!(before.total == SIZE && before.used < MIB, "{before:?}");
    let written = fill(&at);
    assert!(written > SIZE * 9 / 10 && written <= SIZE, "{written}");
    rustix::fs::sync();
    let full = stats(node, &volume, &at).bytes;
    assert!(
        full.total == SIZE && full.used > SIZE * 9 / 10 && full.available < SIZE / 10,
        "{full:?}"
    );
    write(&neighbour, "all is well");
    assert_eq!(read(&neighbour), "all is well");

    let handle = volume.id.as_str();
    let range = range(SIZE + SIZE / 2);
    let grown = node.volumes().grow(handle, &at, Some(&range)).unwrap();
    assert_eq!(grown, SIZE + SIZE / 2);
    let more = fill(&at.join("..").join("pod"));
    assert!(more > SIZE * 5 / 4 && more <= SIZE * 3 / 2, "{more}");
    assert_eq!(
        node.volumes()
            .illnesses(&node.volumes().found(handle).unwrap()),
        Ok(vec![])
    );
    for (volume, pod) in [(&volume, "pod"), (&other, "other")] {
        node.unpublish(volume, pod);
        node.volumes().delete(volume.id.as_str()).unwrap();
    }
}

/// Sources and snapshots go in any order, and each has what it had. `live`: snapshots while a pod has the volume.
fn copies_in_any_order(node: &Node, make: impl Fn(&str, Option<Source>) -> Volume, live: bool) {
    let volumes = node.volumes();
    let volume = make("v", None);
    let mut at = node.publish(&volume, "pod");
    // Still in the page cache when it is cut.
    write(&at, "before");
    if !live {
        let refused = volumes.snapshot("s", volume.id.as_str()).unwrap_err();
        assert!(matches!(refused, Fault::Precondition(_)), "{refused:?}");
        node.unpublish(&volume, "pod");
    }
    let snapshot = volumes.snapshot("s", volume.id.as_str()).unwrap();
    assert_eq!(volumes.snapshot("s", volume.id.as_str()).unwrap(), snapshot);
    if !live {
        at = node.publish(&volume, "pod");
    }
    write(&at, "after");
    node.unpublish(&volume, "pod");
    let clone = make("c", Some(Source::Volume(volume.id.clone())));
    volumes.delete(volume.id.as_str()).unwrap();
    let restored = make("r", Some(Source::Snapshot(snapshot.id.clone())));
    let again = make("a", Some(Source::Snapshot(snapshot.id.clone())));
    volumes.delete_snapshot(snapshot.id.as_str()).unwrap();
    for (volume, pod, text) in [
        (&restored, "restored", "before"),
        (&again, "again", "before"),
        (&clone, "clone", "after"),
    ] {
        assert_eq!((volume.backing, volume.bytes), (snapshot.backing, SIZE));
        let at = node.publish(volume, pod);
        assert_eq!(read(&at), text);
        write(&at, "its own");
    }
    for (volume, pod) in [(restored, "restored"), (clone, "clone"), (again, "again")] {
        assert_eq!(read(&node.place(pod)), "its own");
        node.unpublish(&volume, pod);
        volumes.delete(volume.id.as_str()).unwrap();
    }
    assert_eq!(node.left(), (0, 0, 0));
    assert_eq!(names(node), [""; 0]);
}

/// Of all that the pool has but files.
fn names(node: &Node) -> Vec<String> {
    let look = node.volumes().look().unwrap();
    assert_eq!(look.leftovers, [""; 0]);
    look.folders.into_iter().map(|(_, name)| name).collect()
}

/// Quota groups of subvolumes, once the kernel has cleaned up after those that are gone.
fn qgroups(pool: &Path, expected: usize) {
    let text = Command::new("btrfs")
        .args(["filesystem", "show", "--raw"])
        .arg(pool)
        .output()
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    let uuid = text.split("uuid: ").nth(1).unwrap();
    let uuid = uuid.split_whitespace().next().unwrap();
    let folder = PathBuf::from(format!("/sys/fs/btrfs/{uuid}/qgroups"));
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        rustix::fs::syncfs(File::open(pool).unwrap()).unwrap();
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        let names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with("0_"))
            .collect();
        if names.len() == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{expected}: {names:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_subvolume_is_full_at_its_size_and_grows_while_its_neighbour_goes_on() {
    let node = Node::on_btrfs(2 << 30, true);
    full_at_its_size(&node, Backing::Btrfs);
    assert_eq!(node.left(), (0, 0, 0));
    // Of the file system's own root.
    qgroups(&node.pool(), 1);
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn subvolumes_their_snapshots_and_clones_go_in_any_order_and_leave_nothing() {
    let node = Node::on_btrfs(4 << 30, true);
    let make = |name: &str, source| {
        let asked = of_backend(name, Some(Backing::Btrfs), source);
        let made = node.volumes().create(&asked);
        made.unwrap()
    };
    copies_in_any_order(&node, make, true);
    qgroups(&node.pool(), 1);
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn files_of_a_pool_on_btrfs_are_volumes_like_elsewhere() {
    let node = Node::on_btrfs(4 << 30, false);
    let fault = node
        .volumes()
        .create(&of_backend("v", Some(Backing::Btrfs), None))
        .unwrap_err();
    assert!(
        matches!(&fault, Fault::Exhausted(problem) if problem.contains("btrfs quota enable")),
        "{fault:?}"
    );
    // Without quotas nobody would keep a subvolume to its size.
    let class = Parameters {
        backend: Some(Backing::Btrfs),
        ..Parameters::default()
    };
    assert_eq!(node.volumes().capacity_for(&class, &[]), Ok(0));
    let volume = node.make("v", Some(Fs::Xfs), None);
    assert_eq!(volume.backing, Backing::Image);
    let at = node.publish(&volume, "pod");
    write(&at, "before");
    // Not held: what is open isn't detached.
    let is_direct = {
        let device = node.volumes().device(&volume).unwrap().unwrap();
        device.is_direct().unwrap()
    };
    assert!(is_direct);
    let snapshot = node.volumes().snapshot("s", volume.id.as_str()).unwrap();
    write(&at, "after");
    let source = Some(Source::Snapshot(snapshot.id.clone()));
    let restored = node.make("r", Some(Fs::Xfs), source);
    assert_eq!(read(&node.publish(&restored, "restored")), "before");
    assert_eq!(read(&at), "after");
    node.unpublish(&volume, "pod");
    node.unpublish(&restored, "restored");
    for volume in [volume, restored] {
        node.volumes().delete(volume.id.as_str()).unwrap();
    }
    let handle = snapshot.id.as_str();
    node.volumes().delete_snapshot(handle).unwrap();
    assert_eq!(node.left(), (0, 0, 0));
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn subvolumes_that_a_pod_made_are_told_and_go_with_the_volume() {
    let node = Node::on_btrfs(2 << 30, true);
    let volume = node
        .volumes()
        .create(&of_backend("v", Some(Backing::Btrfs), None))
        .unwrap();
    let at = node.publish(&volume, "pod");
    let inner = at.join("folder/inner");
    fs::create_dir(at.join("folder")).unwrap();
    for path in [&inner, &inner.join("innermost")] {
        let made = Command::new("btrfs")
            .args(["subvolume", "create"])
            .arg(path)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        fs::write(path.join("data"), "x").unwrap();
    }
    let ill = node.volumes().illnesses(&volume).unwrap();
    assert_eq!(ill, [Illness::Subvolumes]);
    node.unpublish(&volume, "pod");
    node.volumes().delete(volume.id.as_str()).unwrap();
    assert_eq!(names(&node), [""; 0]);
    // The kernel removes those of the pod's subvolumes itself.
    qgroups(&node.pool(), 1);
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn subvolumes_that_a_killed_agent_left_are_finished_or_undone() {
    let mut node = Node::on_btrfs(4 << 30, true);
    let make = |node: &Node, name: &str| {
        let made = node
            .volumes()
            .create(&of_backend(name, Some(Backing::Btrfs), None));
        made.unwrap()
    };
    let kept = make(&node, "kept");
    write(&node.publish(&kept, "pod"), "kept");
    let (half, leaving) = (make(&node, "half"), make(&node, "leaving"));
    let volumes = node.volumes();
    let snapshot = volumes.snapshot("half", half.id.as_str()).unwrap();
    let as_phase = |volume: &Volume, phase| {
        Change::Volume(Volume {
            phase,
            ..volume.clone()
        })
    };
    let changes = [
        as_phase(&half, Phase::Making),
        as_phase(&leaving, Phase::Deleting),
        Change::Snapshot(Snapshot {
            phase: Phase::Making,
            ..snapshot
        }),
    ];
    volumes.book.commit(&changes).unwrap();
    let fresh = node.pool().join("subvolumes/.vol-x.new");
    super::kernel::create_subvolume(File::open(fresh.parent().unwrap()).unwrap(), ".vol-x.new")
        .unwrap();
    // Who turns quotas off and on has lost every limit.
    for word in ["disable", "enable"] {
        let pool = node.pool();
        let words = ["quota", word, pool.to_str().unwrap()];
        assert!(
            Command::new("btrfs")
                .args(words)
                .status()
                .unwrap()
                .success()
        );
    }
    let ill = node.volumes().illnesses(&kept).unwrap();
    assert_eq!(ill, [Illness::NoLimit]);
    let recovered = node.restart();
    let expected = Recovered {
        undone: 2,
        finished: 1,
        swept: 1,
        ..Recovered::default()
    };
    assert_eq!(recovered, expected);
    assert_eq!(node.restart(), Recovered::default(), "once is enough");
    assert_eq!(names(&node), [kept.id.as_str()]);
    assert_eq!(read(&node.place("pod")), "kept");
    assert_eq!(node.volumes().illnesses(&kept), Ok(vec![]));
    node.unpublish(&kept, "pod");
    node.volumes().delete(kept.id.as_str()).unwrap();
    qgroups(&node.pool(), 1);
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_folder_that_nothing_bounds_is_made_where_its_class_says_so_and_told_when_it_is_too_large() {
    let node = Node::new();
    let refused = node
        .volumes()
        .create(&of_backend("v", Some(Backing::Directory), None))
        .unwrap_err();
    assert!(
        matches!(&refused, Fault::Exhausted(problem)
            if problem.contains("prjquota") && problem.contains("allowUnenforced")),
        "{refused:?}"
    );
    let make = |name: &str, source| node.volumes().create(&unenforced(name, source)).unwrap();
    copies_in_any_order(&node, make, false);

    let volume = make("v", None);
    let at = node.publish(&volume, "pod");
    assert_eq!(node.volumes().illnesses(&volume), Ok(vec![]));
    let file = File::create(at.join("data")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, SIZE + MIB).unwrap();
    let ill = node.volumes().illnesses(&volume).unwrap();
    assert_eq!(ill, [Illness::TooLarge]);
    let stats = stats(&node, &volume, &at).bytes;
    assert!(stats.total == SIZE && stats.used > SIZE, "{stats:?}");
}

/// On kernels and file systems that not every machine has: where the environment says.
mod elsewhere {
    use super::*;

    /// A folder on a file system that is mounted with quotas of projects.
    const QUOTA: &str = "FAIRLEAD_TEST_PRJQUOTA";

    #[test]
    #[ignore = "needs root, and a file system with quotas of projects"]
    fn a_folder_with_a_quota_is_full_at_its_size_and_leaves_no_limit() {
        let place = std::env::var_os(QUOTA).unwrap_or_else(|| {
            panic!("{QUOTA} names no folder on a file system that is mounted with prjquota")
        });
        let node = Node::beneath(Path::new(&place));
        full_at_its_size(&node, Backing::Directory);
        let make = |name: &str, source| {
            let wanted = of_backend(name, Some(Backing::Directory), source);
            let made = node.volumes().create(&wanted).unwrap();
            assert!(made.project.is_some());
            made
        };
        copies_in_any_order(&node, make, false);

        let volume = make("v", None);
        let at = node.publish(&volume, "pod");
        let most = stats(&node, &volume, &at).inodes.unwrap();
        let more = || (0..=most.total).find_map(|n| File::create(at.join(format!("{n}"))).err());
        let failed = without_privilege(|| Ok(more())).unwrap();
        assert!(failed.is_some(), "as many files as one likes");
        let project = volume.project.unwrap();
        node.unpublish(&volume, "pod");
        node.volumes().delete(volume.id.as_str()).unwrap();
        let left = super::super::kernel::quota(File::open(&place).unwrap(), project).unwrap();
        assert_eq!(left, super::super::kernel::Quota::default());
        assert_eq!(names(&node), [""; 0]);
    }
}
