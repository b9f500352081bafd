//! What is plugged in keeps its name, whatever is plugged in besides: over looks at the tree, as the kubelet is told.

use super::*;
use crate::device::{
    host::fake::Device,
    inventory::{Health, merge},
};

/// A serial adapter of one kind, at a port, as the kernel has it this time.
fn adapter<'a>(tree: &'a Tree, port: &str, at: u32, serial: Option<&str>) -> Device<'a> {
    let adapter = tree.usb(port, 1, at + 10).ids("1a86", "7523");
    let adapter = match serial {
        Some(serial) => adapter.serial(serial),
        None => adapter,
    };
    let place = format!("{port}:1.0/ttyUSB{at}/tty/ttyUSB{at}");
    adapter.child(&place, "tty", 188, at);
    adapter
}

/// udev's link for all that say the same: whoever came last has it.
fn link(tree: &Tree, name: &str) {
    let link = "serial/by-id/usb-1a86_USB_Serial-if00-port0";
    let place = tree.host().dev.join(link);
    if place.is_symlink() {
        tree.remove_file(link);
    }
    tree.link(link, format!("../../{name}"));
}

/// What the kubelet is told after one more look.
fn next(tree: &Tree, preset: &str, before: &[Item], at: u64) -> Vec<Item> {
    let [rule] = rules(preset).try_into().unwrap();
    let (now, problems) = look(tree, &rule, &[]);
    assert_eq!(problems, [""; 0]);
    merge(before, now, at, &rule)
}

fn keys(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| &*item.key).collect()
}

#[test]
fn another_of_its_kind_leaves_an_adapter_without_a_number_its_name() {
    for (preset, first, second) in [
        ("serial", "1a86:7523:1-1:1.0", "1a86:7523:1-2:1.0"),
        ("usb", "1a86:7523:1-1", "1a86:7523:1-2"),
    ] {
        let tree = Tree::new();
        let one = adapter(&tree, "1-1", 0, None);
        link(&tree, "ttyUSB0");
        let alone = next(&tree, preset, &[], 1);
        assert_eq!(keys(&alone), [first]);

        let other = adapter(&tree, "1-2", 1, None);
        link(&tree, "ttyUSB1");
        let both = next(&tree, preset, &alone, 2);
        assert_eq!(keys(&both), [first, second]);
        assert_eq!(both[0], alone[0], "nothing of it changes");

        tree.unplug(one);
        let gone = next(&tree, preset, &both, 3);
        assert_eq!(gone[0].health, Health::Gone { since: 3 });
        assert_eq!((keys(&gone), &gone[1]), (vec![first, second], &both[1]));

        // In its place again, it is itself, by whatever number the kernel counts now.
        tree.unplug(other);
        adapter(&tree, "1-1", 7, None);
        link(&tree, "ttyUSB7");
        let back = next(&tree, preset, &gone, 4);
        assert_eq!(keys(&back), [first, second]);
        assert!(back[0].is_healthy() && !back[1].is_healthy());
        assert_eq!(
            back[0].fields["name"].rsplit('/').next(),
            match preset {
                "serial" => Some("ttyUSB7"),
                _ => Some("1-1"),
            }
        );
    }
}

#[test]
fn one_with_a_number_keeps_its_name_wherever_it_is_plugged_in() {
    let tree = Tree::new();
    let one = adapter(&tree, "1-1", 0, Some("A1"));
    adapter(&tree, "1-2", 1, Some("A2"));
    let before = next(&tree, "serial", &[], 1);
    assert_eq!(keys(&before), ["1a86:7523:A1:1.0", "1a86:7523:A2:1.0"]);
    tree.unplug(one);
    adapter(&tree, "1-4", 5, Some("A1"));
    let moved = next(&tree, "serial", &before, 2);
    assert_eq!(keys(&moved), keys(&before));
    assert!(moved.iter().all(Item::is_healthy));
    assert_eq!(moved[0].fields["usb"], "1-4");
}

/// What the link says comes later than the device, and goes while it stays.
#[test]
fn links_that_come_and_go_change_no_adapters_name() {
    let tree = Tree::new();
    adapter(&tree, "1-1", 0, Some("A1"));
    let before = next(&tree, "serial", &[], 1);
    link(&tree, "ttyUSB0");
    assert_eq!(next(&tree, "serial", &before, 2), before);
}

/// As `docs/devices-configuration.md` says: a number that isn't a device's own is none, from the moment that is seen.
#[test]
fn two_that_say_one_number_are_told_by_their_ports() {
    let tree = Tree::new();
    adapter(&tree, "1-1", 0, Some("0001"));
    let alone = next(&tree, "serial", &[], 1);
    assert_eq!(keys(&alone), ["1a86:7523:0001:1.0"]);
    adapter(&tree, "1-2", 1, Some("0001"));
    let both = next(&tree, "serial", &alone, 2);
    assert_eq!(
        keys(&both),
        [
            "1a86:7523:0001:1-1:1.0",
            "1a86:7523:0001:1-2:1.0",
            "1a86:7523:0001:1.0"
        ]
    );
    assert_eq!(both[2].health, Health::Gone { since: 2 });
}
