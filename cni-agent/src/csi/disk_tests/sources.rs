//! Sources that go while something is made from them.

use super::*;
use crate::csi::{records::Group, request::Backing};

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_source_that_is_deleted_while_it_is_copied_is_busy_or_gone_and_never_half_there() {
    let node = Node::new();
    let volumes = node.volumes();
    let well = |outcome: Result<(), Fault>| match outcome {
        Ok(()) | Err(Fault::Busy(_) | Fault::NotFound(_)) => {}
        Err(fault) => panic!("{fault:?}"),
    };
    for n in 0..40 {
        let volume = node.make(&format!("v{n}"), None, None);
        let snapshot = volumes
            .snapshot(&format!("s{n}"), volume.id.as_str())
            .unwrap();
        std::thread::scope(|scope| {
            let made = |name: String, source| {
                well(volumes.create(&wanted(&name, None, Some(source))).map(drop));
            };
            let (of, volume) = (&snapshot.id, &volume.id);
            scope.spawn(move || made(format!("r{n}"), Source::Snapshot(of.clone())));
            scope.spawn(move || made(format!("c{n}"), Source::Volume(volume.clone())));
            scope.spawn(move || {
                well(
                    volumes
                        .snapshot(&format!("t{n}"), volume.as_str())
                        .map(drop),
                );
            });
            scope.spawn(move || {
                let of = [volume.to_string()];
                well(volumes.group(&format!("g{n}"), &of).map(drop));
            });
            scope.spawn(move || well(volumes.delete_snapshot(of.as_str())));
            scope.spawn(move || well(volumes.delete(volume.as_str())));
        });
        let left = volumes.book.read().clone();
        for group in left.groups.keys() {
            volumes.delete_group(group.as_str(), &[]).unwrap();
        }
        for snapshot in left.snapshots.values().filter(|of| of.group.is_none()) {
            volumes.delete_snapshot(snapshot.id.as_str()).unwrap();
        }
        for volume in left.volumes.keys() {
            volumes.delete(volume.as_str()).unwrap();
        }
        assert_eq!(node.left(), (0, 0, 0));
    }
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_copy_that_was_made_is_answered_again_when_its_source_is_gone() {
    let node = Node::new();
    let volumes = node.volumes();
    let volume = node.make("v", Some(Fs::Ext4), None);
    let snapshot = volumes.snapshot("s", volume.id.as_str()).unwrap();
    let sources = [
        ("restored", Source::Snapshot(snapshot.id.clone())),
        ("clone", Source::Volume(volume.id.clone())),
    ];
    let made = sources
        .clone()
        .map(|(name, source)| node.make(name, Some(Fs::Ext4), Some(source)));
    volumes.delete_snapshot(snapshot.id.as_str()).unwrap();
    volumes.delete(volume.id.as_str()).unwrap();
    for ((name, source), made) in sources.clone().into_iter().zip(&made) {
        assert_eq!(&node.make(name, Some(Fs::Ext4), Some(source)), made);
    }
    let [(_, snapshot), (_, volume)] = sources;
    for source in [None, Some(snapshot)] {
        let another = volumes.create(&wanted("clone", Some(Fs::Ext4), source));
        assert!(matches!(another, Err(Fault::Exists(_))), "{another:?}");
    }
    let new = volumes.create(&wanted("new", Some(Fs::Ext4), Some(volume)));
    assert!(matches!(new, Err(Fault::NotFound(_))), "{new:?}");
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_directory_is_no_source_while_pods_have_it() {
    let node = Node::new();
    let asked = |name: &str, source| {
        let wanted = wanted(name, Some(Fs::Folder), source);
        let parameters = Parameters {
            fs: None,
            backend: Some(Backing::Directory),
            allow_unenforced: true,
            ..wanted.parameters
        };
        node.volumes().create(&Wanted {
            parameters,
            ..wanted
        })
    };
    let volume = asked("d", None).unwrap();
    let source = || Some(Source::Volume(volume.id.clone()));
    node.publish(&volume, "pod");
    let refused = asked("clone", source()).unwrap_err();
    assert!(matches!(refused, Fault::Precondition(_)), "{refused:?}");
    node.unpublish(&volume, "pod");
    let clone = asked("clone", source()).unwrap();
    // It was one.
    node.publish(&volume, "pod");
    assert_eq!(asked("clone", source()), Ok(clone));
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_group_goes_whole_however_often_and_not_while_something_is_made_from_it() {
    let node = Node::new();
    let volumes = node.volumes();
    let of = ["a", "b"].map(|name| node.make(name, None, None).id.to_string());
    let (group, members) = volumes.group("g", &of).unwrap();
    let handle = group.id.as_str();
    let reading = volumes.busy.read(members[0].id.as_str()).unwrap();
    let busy = volumes.delete_group(handle, &[]);
    assert!(matches!(busy, Err(Fault::Busy(_))), "{busy:?}");
    drop(reading);
    // Half of it is gone already.
    let leaving = Group {
        phase: Phase::Deleting,
        ..group.clone()
    };
    let gone = Change::NoSnapshot(members[0].id.clone());
    volumes
        .book
        .commit(&[Change::Group(leaving), gone])
        .unwrap();
    let again = volumes.group("g", &of);
    assert!(matches!(again, Err(Fault::Busy(_))), "{again:?}");
    for _ in 0..2 {
        volumes.delete_group(handle, &[]).unwrap();
    }
    let left = volumes.book.read().clone();
    assert_eq!((left.groups.len(), left.snapshots.len()), (0, 0));
    volumes.group("g", &of).unwrap();
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn what_was_neither_made_nor_removed_is_made_anew_when_it_is_asked_for() {
    let node = Node::new();
    let volumes = node.volumes();
    let [a, b] = ["a", "b"].map(|name| node.make(name, None, None));
    let of = [a.id.to_string(), b.id.to_string()];
    let snapshot = volumes.snapshot("s", &of[0]).unwrap();
    let (group, members) = volumes.group("g", &of).unwrap();
    let unmade = node.make("v", None, None);
    let phase = Phase::Making;
    let mut changes = vec![
        Change::Volume(Volume {
            phase,
            ..unmade.clone()
        }),
        Change::Group(Group { phase, ..group }),
    ];
    for of in members.iter().chain([&snapshot]) {
        let of = of.clone();
        changes.push(Change::Snapshot(Snapshot { phase, ..of }));
    }
    volumes.book.commit(&changes).unwrap();
    assert_ne!(node.make("v", None, None).id, unmade.id);
    assert_ne!(volumes.snapshot("s", &of[0]).unwrap().id, snapshot.id);
    volumes.group("g", &of).unwrap();
    assert_eq!(node.left().2, 3 + 3);
}
