//! Starts of the agent where not all can be put right.

use super::*;
use crate::csi::{kernel, records::Group};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Has a file be one that nobody changes or removes, or again one like others.
fn pin(path: &Path, pinned: bool) {
    let file = File::open(path).unwrap();
    let mut flags = ioctl_getflags(&file).unwrap();
    flags.set(IFlags::IMMUTABLE, pinned);
    ioctl_setflags(&file, flags).unwrap();
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn what_can_not_be_put_right_keeps_nothing_else_from_it_and_is_told() {
    let mut node = Node::new();
    let lost = node.make("lost", Some(Fs::Ext4), None);
    let [stuck, leaving] = ["stuck", "leaving"].map(|name| node.make(name, None, None));
    let volumes = node.volumes();
    for of in [&stuck, &leaving] {
        let phase = Phase::Deleting;
        let of = (*of).clone();
        let change = Change::Volume(Volume { phase, ..of });
        volumes.book.commit(&[change]).unwrap();
    }
    let pool = volumes.pool.folder().to_owned();
    fs::remove_file(pool.join(format!("volumes/{}.img", lost.id))).unwrap();
    // Of a btrfs that the pool was on once.
    fs::create_dir_all(pool.join("subvolumes/vol-old")).unwrap();
    let trash = pool.join("trash/vol-y");
    fs::write(&trash, "old").unwrap();
    fs::write(pool.join("trash/vol-z"), "old").unwrap();
    let pinned = [trash, pool.join(format!("volumes/{}.img", stuck.id))];
    pinned.iter().for_each(|path| pin(path, true));

    let recovered = node.restart();
    let expected = Recovered {
        finished: 1,
        swept: 1,
        failed: 2,
        ..Recovered::default()
    };
    assert_eq!(recovered, expected);
    let check = node.volumes().check("csi.test", &node.place("kubelet"));
    let told: Vec<String> = check
        .unwrap()
        .differences
        .into_iter()
        .filter(|of| of.problem.contains("could not be put right"))
        .map(|of| of.what)
        .collect();
    assert_eq!(told, ["trash/vol-y".to_owned(), stuck.id.to_string()]);
    node.make("new", None, None);

    pinned.iter().for_each(|path| pin(path, false));
    // Who deletes it again needs no start.
    node.volumes().delete(stuck.id.as_str()).unwrap();
    assert_eq!(node.volumes().unrecovered().len(), 1);
    let expected = Recovered {
        swept: 1,
        ..Recovered::default()
    };
    assert_eq!(node.restart(), expected);
    assert_eq!(node.volumes().unrecovered(), []);
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn a_volume_that_is_held_goes_on_at_a_start_also_when_its_file_is_lost() {
    let mut node = Node::new();
    let volume = node.make("v", Some(Fs::Ext4), None);
    let at = node.publish(&volume, "pod");
    let file = format!("volumes/{}.img", volume.id);
    fs::remove_file(node.volumes().pool.folder().join(file)).unwrap();
    let within = File::open(&at).unwrap();
    assert!(kernel::freeze(&within).unwrap());
    let recovered = node.restart();
    let was_held = kernel::thaw(&within).unwrap();
    assert_eq!((recovered.thawed, was_held), (1, false));
}

#[test]
#[ignore = "needs root, loop devices and mkfs"]
fn what_is_left_of_a_group_that_was_not_taken_goes_with_it() {
    let node = Node::new();
    let volumes = node.volumes();
    let of = ["a", "b", "c"].map(|name| node.make(name, None, None).id.to_string());
    let (group, members) = volumes.group("g", &of).unwrap();
    let phase = Phase::Making;
    let unmade = members.iter().cloned().map(|of| Snapshot { phase, ..of });
    let mut changes: Vec<Change> = unmade.map(Change::Snapshot).collect();
    let handle = group.id.to_string();
    changes.push(Change::Group(Group { phase, ..group }));
    volumes.book.commit(&changes).unwrap();
    let stuck = format!("snapshots/{}.img", members[0].id);
    let stuck = volumes.pool.folder().join(stuck);
    pin(&stuck, true);
    volumes.delete_group(&handle, &[]).unwrap_err();
    let left = volumes.pool.images(Kind::Snapshot).unwrap();
    pin(&stuck, false);
    assert_eq!(left, [members[0].id.as_str()], "the others go all the same");
    volumes.delete_group(&handle, &[]).unwrap();
    assert_eq!(volumes.pool.images(Kind::Snapshot).unwrap(), [""; 0]);
    assert!(volumes.book.read().groups.is_empty());
}
