//! Differences, each found once.

use super::*;
use crate::csi::{
    id::SnapshotId,
    look::{Device, ImageFile},
    mounts::Mount,
    records::{Snapshot, Target},
    request::{Access, Backing, Capability, Fs, Mode, Ratio},
};
use std::collections::BTreeSet;

const STAGE: &str = "/kubelet/stage";
const TARGET: &str = "/kubelet/pods/1/mount";
const DISK: u64 = 9;

fn capability() -> Capability {
    Capability {
        access: Access::Mount {
            fs: None,
            flags: Vec::new(),
        },
        mode: Mode::Writers,
    }
}

fn volume() -> Volume {
    let target = Target {
        capability: capability(),
        readonly: false,
        pod: None,
    };
    Volume {
        phase: Phase::Ready,
        fs: Some(Fs::Ext4),
        formatted: true,
        stages: [(STAGE.into(), capability())].into(),
        targets: [(TARGET.into(), target)].into(),
        ..Volume::new(VolumeId::random().unwrap(), "pvc-1", 1 << 30)
    }
}

fn mount(at: &str, device: u32) -> Mount {
    Mount {
        device: (7, device),
        root: "/".into(),
        at: at.into(),
        readonly: false,
        fs: "ext4".into(),
        source: format!("/dev/loop{device}"),
    }
}

fn device(number: u32, inode: u64) -> Device {
    Device {
        device: LoopDevice(number),
        of: (DISK, inode),
        bytes: 1 << 30,
    }
}

/// A volume that a pod has, and a snapshot of it: all of it as it should be.
fn whole() -> (Found, Volume, Snapshot) {
    let volume = volume();
    let snapshot = Snapshot {
        id: SnapshotId::random().unwrap(),
        name: "snapshot-1".into(),
        phase: Phase::Ready,
        of: volume.id.clone(),
        backing: Backing::Image,
        bytes: 1 << 30,
        fs: Some(Fs::Ext4),
        formatted: true,
        made_at_ns: 0,
        group: None,
        overcommit: Ratio::default(),
    };
    let mut found = Found {
        pods: vec![PodFolder {
            at: "/kubelet/pods/1".into(),
            handle: volume.id.to_string(),
        }],
        ..Found::default()
    };
    found
        .contents
        .volumes
        .insert(volume.id.clone(), volume.clone());
    let of = snapshot.id.clone();
    found.contents.snapshots.insert(of, snapshot.clone());
    let file = |inode| ImageFile {
        inode: (DISK, inode),
        bytes: 1 << 30,
        allocated: 1 << 30,
    };
    found.look = Look {
        disk: DISK,
        files: [
            ((Kind::Volume, volume.id.to_string()), file(1)),
            ((Kind::Snapshot, snapshot.id.to_string()), file(2)),
        ]
        .into(),
        folders: BTreeSet::new(),
        leftovers: Vec::new(),
        // Another program's, whose file is on another disk.
        devices: vec![
            device(3, 1),
            Device {
                of: (DISK + 1, 1),
                ..device(4, 1)
            },
        ],
        mounts: vec![mount(STAGE, 3), mount(TARGET, 3), mount("/other", 4)],
    };
    for at in [STAGE, TARGET] {
        found.places.insert(at.into(), Some(at.into()));
    }
    (found, volume, snapshot)
}

fn problems(found: &Found) -> Vec<String> {
    let differences = found.answer().differences;
    assert!(
        differences.iter().all(|of| !of.remedy.is_empty()),
        "{differences:?}"
    );
    differences
        .iter()
        .map(|of| format!("{} {}", of.what, of.problem))
        .collect()
}

#[test]
fn what_is_whole_has_no_difference() {
    let (found, ..) = whole();
    assert_eq!(problems(&found), [""; 0]);
    let answer = found.answer();
    let counts = (
        answer.volumes,
        answer.snapshots,
        answer.files,
        answer.devices,
    );
    assert_eq!(counts, (1, 1, 2, 1));
    assert_eq!((answer.mounts, answer.pods, answer.busy), (2, 1, 0));
}

#[test]
fn each_difference_is_named_once() {
    type Break = fn(&mut Found, &Volume, &Snapshot);
    let cases: [(&str, Break); 17] = [
        ("was never finished", |found, volume, _| {
            let of = found.contents.volumes.get_mut(&volume.id).unwrap();
            of.phase = Phase::Making;
            of.stages.clear();
            of.targets.clear();
            found.look.mounts.clear();
        }),
        (
            "its file is gone from the node's pool",
            |found, _, snapshot| {
                let key = (Kind::Snapshot, snapshot.id.to_string());
                found.look.files.remove(&key);
            },
        ),
        ("its file has lost its end", |found, _, snapshot| {
            let key = (Kind::Snapshot, snapshot.id.to_string());
            found.look.files.get_mut(&key).unwrap().bytes -= 1;
        }),
        ("is only half deleted", |found, _, snapshot| {
            let of = found.contents.snapshots.get_mut(&snapshot.id).unwrap();
            of.phase = Phase::Deleting;
        }),
        ("file system has become read-only", |found, volume, _| {
            found.ill.insert(volume.id.clone(), vec![Illness::ReadOnly]);
        }),
        ("that nobody remembers", |found, _, _| {
            let name = VolumeId::random().unwrap().to_string();
            let file = ImageFile {
                inode: (DISK, 7),
                bytes: 1,
                allocated: 1,
            };
            found.look.files.insert((Kind::Volume, name), file);
        }),
        ("left of an operation", |found, _, _| {
            found.look.leftovers.push("trash/vol-x".into());
        }),
        ("behind 2 loop devices", |found, _, _| {
            found.look.devices.push(device(5, 1));
        }),
        ("is larger than its device", |found, _, _| {
            found.look.devices[0].bytes -= 4096;
        }),
        ("and no pod has it", |found, volume, _| {
            let of = found.contents.volumes.get_mut(&volume.id).unwrap();
            of.stages.clear();
            of.targets.clear();
            found.look.mounts.clear();
        }),
        ("is none of its volumes", |found, _, _| {
            found.look.devices.push(device(6, 77));
        }),
        ("is not mounted at /kubelet/stage", |found, _, _| {
            found
                .look
                .mounts
                .retain(|mount| mount.at != Path::new(STAGE));
        }),
        ("is not mounted at /kubelet/pods/1/mount", |found, _, _| {
            // Something else lies on it.
            found.look.mounts.push(mount(TARGET, 4));
        }),
        ("which is not there", |found, _, _| {
            found.places.insert(TARGET.into(), None);
            found
                .look
                .mounts
                .retain(|mount| mount.at != Path::new(TARGET));
        }),
        ("is mounted at /elsewhere", |found, _, _| {
            found.look.mounts.push(mount("/elsewhere", 3));
        }),
        ("which this node doesn't have", |found, _, _| {
            found.pods[0].handle = "vol-other".into();
        }),
        ("the pool is full", |found, _, _| {
            found.pool = Some("is full; add room".into());
        }),
    ];
    for (expected, apart) in cases {
        let (mut found, volume, snapshot) = whole();
        apart(&mut found, &volume, &snapshot);
        let said = problems(&found);
        assert_eq!(said.len(), 1, "{expected}: {said:?}");
        assert!(said[0].contains(expected), "{expected}: {said:?}");
    }
}

#[test]
fn what_somebody_works_on_is_left_out() {
    let (mut found, volume, snapshot) = whole();
    let of = found.contents.volumes.get_mut(&volume.id).unwrap();
    of.phase = Phase::Making;
    let of = found.contents.snapshots.get_mut(&snapshot.id).unwrap();
    of.phase = Phase::Deleting;
    found.look.leftovers.push("volumes/.vol-x.new".into());
    found.look.mounts.push(mount("/elsewhere", 3));
    // As the operations have them: by a name, and by an id.
    found.busy.insert(format!("the volume of {:?}", "pvc-1"));
    found.busy.insert(snapshot.id.to_string());
    assert_eq!(problems(&found), [""; 0]);
    assert_eq!(found.answer().busy, 1);
}

#[test]
fn what_changed_meanwhile_is_left_out() {
    let (found, volume, _) = whole();
    let mut after = found.contents.clone();
    assert_eq!(changed(&found.contents, &after), [""; 0]);
    after.volumes.get_mut(&volume.id).unwrap().bytes += 1;
    let id = volume.id.to_string();
    assert_eq!(changed(&found.contents, &after), [id.as_str(); 2]);
    after.snapshots.clear();
    assert_eq!(changed(&found.contents, &after).len(), 3);
}

#[test]
fn a_part_of_a_volume_is_mounted_where_the_kubelet_wants_it() {
    let (mut found, ..) = whole();
    let mut part = mount("/kubelet/pods/1/volume-subpaths/pvc/web/0", 3);
    found.look.mounts.push(part.clone());
    part.at = "/kubelet/elsewhere".into();
    part.root = "/sub".into();
    found.look.mounts.push(part);
    assert_eq!(problems(&found), [""; 0]);
}

#[test]
fn a_subvolume_is_known_by_what_its_mounts_show() {
    let (mut found, volume, snapshot) = whole();
    let (volume, snapshot) = (
        Volume {
            backing: Backing::Btrfs,
            ..volume
        },
        Snapshot {
            backing: Backing::Btrfs,
            ..snapshot
        },
    );
    let root = PathBuf::from(format!("/subvolumes/{}", volume.id));
    let shown = |at: &str| Mount {
        device: (0, 40),
        root: root.clone(),
        ..mount(at, 0)
    };
    found.look.files.clear();
    found.look.devices.clear();
    found.look.folders = [
        (Kind::Volume, volume.id.to_string()),
        (Kind::Snapshot, snapshot.id.to_string()),
    ]
    .into();
    found.look.mounts = vec![shown(STAGE), shown(TARGET)];
    let contents = &mut found.contents;
    contents.volumes.insert(volume.id.clone(), volume.clone());
    contents.snapshots.insert(snapshot.id.clone(), snapshot);
    assert_eq!(problems(&found), [""; 0]);
    found.look.mounts = vec![shown(STAGE), mount(TARGET, 3), shown("/elsewhere")];
    found.look.folders.pop_last();
    let problems = problems(&found);
    assert!(
        problems.len() == 3
            && problems
                .iter()
                .any(|of| of.contains("not mounted at /kubelet/pods/1/mount"))
            && problems
                .iter()
                .any(|of| of.contains("mounted at /elsewhere"))
            && problems
                .iter()
                .any(|of| of.contains("gone from the node's pool")),
        "{problems:?}"
    );
}
