//! Starts of the agent where not all can be put right.

use super::*;
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
