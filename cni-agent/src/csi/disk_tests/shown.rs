//! What people are shown of volumes on a real disk, and each difference that a check finds there.

use super::*;
use crate::{
    metrics::{Recorder, Snapshot as Scrape, encode},
    query::{CheckAnswer, VolumeState},
};

fn check(node: &Node) -> CheckAnswer {
    node.volumes()
        .check("csi.test", &node.place("kubelet"))
        .unwrap()
}

/// What differs, as people read it.
fn differences(node: &Node) -> Vec<String> {
    let found = check(node).differences;
    let lines = found.iter().map(|of| format!("{} {}", of.what, of.problem));
    lines.collect()
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn volumes_and_snapshots_are_shown_with_what_they_have_of_the_pool() {
    let node = Node::new();
    let volume = node.make("v", Some(Fs::Ext4), None);
    let row = |n: usize| node.volumes().rows().unwrap()[n].clone();
    let ready = row(0);
    assert_eq!((ready.state, ready.used), (VolumeState::Ready, None));
    assert!(ready.allocated.unwrap() >= SIZE, "{ready:?}");
    let at = node.publish(&volume, "pod");
    fs::write(at.join("data"), vec![7; 8 * MIB as usize]).unwrap();
    File::open(&at).unwrap().sync_all().unwrap();
    rustix::fs::syncfs(File::open(&at).unwrap()).unwrap();
    let published = row(0);
    assert_eq!(published.state, VolumeState::Published);
    assert!(
        (8 * MIB..SIZE).contains(&published.used.unwrap()),
        "{published:?}"
    );
    assert!(published.device.is_some() && published.problems.is_empty());
    assert_eq!(published.published[0].path, at);

    let alone = node.volumes().usage().unwrap();
    assert_eq!(alone.rows[0].shared, 0, "{alone:?}");
    let snapshot = node.volumes().snapshot("s", volume.id.as_str()).unwrap();
    let shown = node.volumes().snapshot_rows().unwrap();
    assert_eq!((shown.len(), shown[0].of.as_str()), (1, volume.id.as_str()));
    assert!(shown[0].shared.unwrap() >= 8 * MIB, "{shown:?}");
    assert!(shown[0].own.unwrap() < MIB, "{shown:?}");
    // What the pod writes anew, in the same blocks, is the volume's own; what it was before is the snapshot's.
    let data = fs::OpenOptions::new()
        .write(true)
        .open(at.join("data"))
        .unwrap();
    data.write_all_at(&vec![8; 8 * MIB as usize], 0).unwrap();
    data.sync_all().unwrap();
    drop(data);
    let shown = node.volumes().snapshot_rows().unwrap();
    assert!(shown[0].own.unwrap() >= 8 * MIB, "{shown:?}");
    let usage = node.volumes().usage().unwrap();
    assert!(usage.promised >= usage.rows.iter().map(|row| row.promised).max().unwrap());
    assert!(
        usage.free <= usage.total && usage.available <= usage.free,
        "{usage:?}"
    );
    assert_eq!(usage.warnings, [""; 0]);
    let scraped = node.volumes().scraped(true).unwrap();
    assert_eq!(scraped.by_volume[0].used, row(0).used);
    assert_eq!(scraped.promised, usage.promised);

    node.unpublish(&volume, "pod");
    node.volumes()
        .delete_snapshot(snapshot.id.as_str())
        .unwrap();
    node.volumes().delete(volume.id.as_str()).unwrap();
    assert!(node.volumes().rows().unwrap().is_empty());
    assert_eq!(node.left(), (0, 0, 0));
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn how_long_a_volume_is_held_still_is_counted_once_for_each_cut() {
    let recorder = Recorder::default();
    let mut node = Node::new();
    let counts = recorder.volumes();
    node.volumes = node.volumes.take().map(|volumes| volumes.counted(&counts));
    let volume = node.make("v", Some(Fs::Ext4), None);
    let held = |count: usize| {
        let text = encode(&recorder, &Scrape::default()).unwrap();
        let line = format!("fairlead_volume_held_seconds_count {count}");
        assert!(text.lines().any(|l| l == line), "{text}");
    };
    // Nobody has it: nothing has to be still.
    node.volumes()
        .snapshot("before", volume.id.as_str())
        .unwrap();
    held(0);
    node.publish(&volume, "pod");
    node.volumes()
        .snapshot("during", volume.id.as_str())
        .unwrap();
    held(1);
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_check_names_what_somebody_broke_and_nothing_else() {
    let node = Node::new();
    let volume = node.make("v", Some(Fs::Ext4), None);
    let at = node.publish(&volume, "pod");
    node.volumes().snapshot("s", volume.id.as_str()).unwrap();
    let whole = check(&node);
    assert_eq!(whole.differences, []);
    assert_eq!((whole.volumes, whole.snapshots, whole.files), (1, 1, 2));
    assert_eq!(whole.mounts, 2);

    let unmount = |at: &Path| rustix::mount::unmount(at, rustix::mount::UnmountFlags::NOFOLLOW);
    unmount(&at).unwrap();
    let [difference] = &*differences(&node) else {
        panic!("{:?}", differences(&node));
    };
    assert!(difference.contains("is not mounted at"), "{difference}");
    let stage = node.place(&format!("stage-{}", volume.id));
    rustix::mount::mount_bind(&stage, &at).unwrap();
    assert_eq!(differences(&node), [""; 0]);

    let elsewhere = node.place("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    rustix::mount::mount_bind(&stage, &elsewhere).unwrap();
    let found = differences(&node);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("is mounted at") && found[0].contains("elsewhere"),
        "{found:?}"
    );
    unmount(&elsewhere).unwrap();

    let file = node.volumes().pool.image(image(&volume.id), true).unwrap();
    let second = Attached::new(&file).unwrap();
    let found = differences(&node);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("behind 2 loop devices"), "{found:?}");
    second.detach().unwrap();
    drop(file);

    let pod = node.place("kubelet/pods/1/volumes/kubernetes.io~csi/pvc");
    fs::create_dir_all(&pod).unwrap();
    let data = r#"{"driverName":"csi.test","volumeHandle":"vol-nobodys"}"#;
    fs::write(pod.join("vol_data.json"), data).unwrap();
    let found = differences(&node);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("which this node doesn't have"),
        "{found:?}"
    );
    fs::remove_dir_all(node.place("kubelet")).unwrap();

    let stranger = node.volumes().pool.folder().join("volumes/vol-strange.img");
    fs::write(&stranger, "whose?").unwrap();
    let found = differences(&node);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("nobody remembers"), "{found:?}");
    fs::remove_file(&stranger).unwrap();
    assert_eq!(differences(&node), [""; 0]);
}
