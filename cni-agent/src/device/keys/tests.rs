//! Devices that say the same, come and go in every order.

use super::*;
use crate::device::{
    host::{Host, fake::Tree},
    inventory::{Item, Witness, items, merge},
    plan::{By, Finder, Pattern, Rule},
    template::Template,
    tests::rule,
};
use proptest::prelude::*;

/// A node with one resource, and what was told of it last.
struct Node {
    host: Host,
    rule: Rule,
    told: Vec<Item>,
}

impl Node {
    fn new(tree: &Tree, by: By, id: Option<&str>) -> Self {
        let finder = Finder {
            by,
            attributes: BTreeMap::new(),
            properties: BTreeMap::new(),
        };
        Self {
            host: tree.host(),
            rule: Rule {
                find: vec![finder],
                id: id.map(|id| Template::parse(id).unwrap()),
                ..rule("a.io/x")
            },
            told: Vec::new(),
        }
    }

    /// The keys of what is there now, with the paths of their first files.
    fn look(&mut self) -> Vec<(String, String)> {
        let found = self.host.find(&self.rule.find).found;
        let node = Witness {
            exists: &|_| true,
            is_there: &|site| self.host.is_there(site),
        };
        let (now, _) = items(&self.rule, found, &self.told, &node);
        self.told = merge(&self.told, now, 0, &self.rule);
        let here = self.told.iter().filter(|item| item.is_healthy());
        here.map(|item| (item.key.clone(), item.files[0].path.display().to_string()))
            .collect()
    }

    /// As an agent has it that starts anew.
    fn restart(&mut self) {
        let text = serde_json::to_string(&self.told).unwrap();
        self.told = serde_json::from_str(&text).unwrap();
    }

    /// After a start of the machine.
    fn reboot(&mut self) {
        self.restart();
        for site in self.told.iter_mut().flat_map(|item| &mut item.sites) {
            site.instance = None;
        }
    }
}

fn usb() -> By {
    By::Usb {
        vendor: Some(Pattern("*".to_owned())),
        product: None,
        serial: None,
    }
}

fn ttys() -> By {
    By::Path(Pattern("/dev/ttyUSB*".to_owned()))
}

/// An adapter whose maker gives all the same number, with a terminal.
fn adapter<'a>(tree: &'a Tree, port: &str, terminal: u32) -> crate::device::host::fake::Device<'a> {
    let adapter = tree
        .usb(port, 1, 10 + terminal)
        .ids("10c4", "ea60")
        .serial("0001");
    let name = format!("ttyUSB{terminal}");
    adapter.child(
        &format!("{port}:1.0/{name}/tty/{name}"),
        "tty",
        188,
        terminal,
    );
    adapter
}

fn told(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, file)| ((*key).to_owned(), format!("/dev/{file}")))
        .collect()
}

#[test]
fn who_was_there_keeps_its_key_and_the_newcomer_has_its_port_as_well() {
    let tree = Tree::new();
    let mut node = Node::new(&tree, ttys(), None);
    // The newcomer comes first in every order of paths.
    let first = adapter(&tree, "1-3", 5);
    assert_eq!(node.look(), told(&[("10c4:ea60:0001:1.0", "ttyUSB5")]));
    let second = adapter(&tree, "1-1", 0);
    let both = told(&[
        ("10c4:ea60:0001:1-1:1.0", "ttyUSB0"),
        ("10c4:ea60:0001:1.0", "ttyUSB5"),
    ]);
    assert_eq!(node.look(), both);
    node.restart();
    assert_eq!(node.look(), both);
    node.reboot();
    assert_eq!(node.look(), both);
    // The first goes: the second stays what it is, and so does the first when it is back.
    tree.unplug(first);
    let alone = told(&[("10c4:ea60:0001:1-1:1.0", "ttyUSB0")]);
    assert_eq!(node.look(), alone);
    node.restart();
    assert_eq!(node.look(), alone);
    let _first = adapter(&tree, "1-3", 6);
    let back = told(&[
        ("10c4:ea60:0001:1-1:1.0", "ttyUSB0"),
        ("10c4:ea60:0001:1.0", "ttyUSB6"),
    ]);
    assert_eq!(node.look(), back);
    // A third one, and one that moves, are told by their ports.
    tree.unplug(second);
    node.look();
    adapter(&tree, "1-4", 1);
    let moved = told(&[
        ("10c4:ea60:0001:1-4:1.0", "ttyUSB1"),
        ("10c4:ea60:0001:1.0", "ttyUSB6"),
    ]);
    assert_eq!(node.look(), moved);
}

#[test]
fn a_start_of_the_machine_changes_no_key_whatever_comes_first() {
    for late in ["1-1", "1-3"] {
        let tree = Tree::new();
        let mut node = Node::new(&tree, ttys(), None);
        adapter(&tree, "1-3", 5);
        node.look();
        adapter(&tree, "1-1", 0);
        node.look();
        node.reboot();
        // The kernel counts anew.
        let tree = Tree::new();
        node.host = tree.host();
        let early = if late == "1-1" { "1-3" } else { "1-1" };
        adapter(&tree, early, 0);
        node.look();
        adapter(&tree, late, 1);
        let key = |port| match port {
            "1-3" => "10c4:ea60:0001:1.0",
            _ => "10c4:ea60:0001:1-1:1.0",
        };
        let mut expected = told(&[(key(early), "ttyUSB0"), (key(late), "ttyUSB1")]);
        expected.sort();
        assert_eq!(node.look(), expected);
    }
}

#[test]
fn one_that_is_alone_is_itself_at_every_port() {
    let tree = Tree::new();
    let mut node = Node::new(&tree, ttys(), None);
    let here = adapter(&tree, "1-1", 0);
    node.look();
    tree.unplug(here);
    node.look();
    adapter(&tree, "1-2", 1);
    assert_eq!(node.look(), told(&[("10c4:ea60:0001:1.0", "ttyUSB1")]));
}

#[test]
fn another_at_its_port_is_another() {
    let tree = Tree::new();
    let mut node = Node::new(&tree, usb(), None);
    let one = tree.usb("1-1", 1, 2).ids("0403", "6001").serial("A");
    node.look();
    tree.unplug(one);
    tree.usb("1-1", 1, 3).ids("0403", "6001").serial("B");
    assert_eq!(node.look(), told(&[("0403:6001:B", "bus/usb/001/003")]));
}

#[test]
fn parts_of_one_interface_that_come_one_after_the_other_keep_their_keys() {
    let tree = Tree::new();
    let by = By::Subsystem {
        subsystem: "hidraw".to_owned(),
        name: None,
    };
    let mut node = Node::new(&tree, by, None);
    let receiver = tree.usb("1-4", 1, 7).ids("046d", "c52b");
    let part = |place: &str, minor| {
        receiver.child(&format!("1-4:1.2/{place}"), "hidraw", 240, minor);
    };
    part("0003:046D:C52B.0005/hidraw/hidraw10", 10);
    assert_eq!(node.look(), told(&[("046d:c52b:1-4:1.2", "hidraw10")]));
    part("0003:046D:C52B.0004/hidraw/hidraw9", 9);
    let both = told(&[
        ("046d:c52b:1-4:1.2", "hidraw10"),
        ("046d:c52b:1-4:1.2:1", "hidraw9"),
    ]);
    assert_eq!(node.look(), both);
    node.restart();
    assert_eq!(node.look(), both);
}

#[test]
fn a_name_that_id_gives_to_two_is_whose_it_was_first() {
    let tree = Tree::new();
    let mut node = Node::new(&tree, usb(), Some("{serial}"));
    let first = tree.usb("1-3", 1, 5).ids("dead", "beef").serial("A");
    node.look();
    // Both groups and paths have the newcomer first.
    tree.usb("1-1", 1, 4).ids("0403", "6001").serial("A");
    let both = told(&[("0403:6001:A", "bus/usb/001/004"), ("A", "bus/usb/001/005")]);
    assert_eq!(node.look(), both);
    node.reboot();
    assert_eq!(node.look(), both);
    tree.unplug(first);
    assert_eq!(node.look(), both[..1]);
    // Another id is one of those that come.
    node.rule.id = Some(Template::parse("{usb}").unwrap());
    assert_eq!(node.look(), both[..1]);
    tree.usb("1-2", 1, 9).ids("0403", "6001").serial("B");
    assert_eq!(node.look()[1].0, "1-2");
}

#[test]
fn a_link_that_leads_to_another_is_not_the_one_before_while_that_is_there() {
    let tree = Tree::new();
    let by = By::Path(Pattern("/dev/serial/by-id/*".to_owned()));
    let mut node = Node::new(&tree, by, None);
    let first = adapter(&tree, "1-1", 0);
    let second = adapter(&tree, "1-2", 1);
    let link = "serial/by-id/usb-CP2102_0001";
    tree.link(link, "../../ttyUSB0");
    let key = format!("/dev/{link}");
    assert_eq!(node.look(), told(&[(&key, "ttyUSB0")]));
    tree.remove_file(link);
    tree.link(link, "../../ttyUSB1");
    assert_eq!(node.look(), told(&[("10c4:ea60:0001:1-2:1.0", "ttyUSB1")]));
    tree.unplug(second);
    tree.remove_file(link);
    tree.link(link, "../../ttyUSB0");
    assert_eq!(node.look(), told(&[(&key, "ttyUSB0")]));
    // Once it isn't there any more, the link means whatever it leads to.
    tree.unplug(first);
    node.look();
    node.told.clear();
    tree.remove_file(link);
    adapter(&tree, "1-3", 2);
    tree.link(link, "../../ttyUSB2");
    assert_eq!(node.look(), told(&[(&key, "ttyUSB2")]));
}

#[derive(Clone, Debug)]
enum Step {
    /// Plugs it in at a port, or out if something is there.
    Toggle(usize, bool),
    Restart,
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..5_usize, any::<bool>()).prop_map(|(port, says)| Step::Toggle(port, says)),
        1 => Just(Step::Restart),
        1 => Just(Step::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn as_long_as_a_device_is_there_its_key_is_its_own(
        steps in prop::collection::vec(step(), 1..20),
        id in prop::option::of(Just("{serial}")),
    ) {
        let tree = Tree::new();
        let mut node = Node::new(&tree, usb(), id);
        let mut plugged: [Option<_>; 5] = Default::default();
        let mut before: BTreeMap<String, String> = BTreeMap::new();
        for (number, step) in (2..).zip(steps) {
            match step {
                Step::Toggle(port, says) => match plugged[port].take() {
                    Some(device) => tree.unplug(device),
                    None => {
                        let device = tree.usb(&format!("1-{}", port + 1), 1, number);
                        let serial = if says { "1" } else { "2" };
                        plugged[port] = Some(device.ids("10c4", "ea60").serial(serial));
                    }
                },
                Step::Restart => node.restart(),
                Step::Forget => node.told.retain(Item::is_healthy),
            }
            // By files, of which no two devices have the same.
            let now: BTreeMap<String, String> =
                node.look().into_iter().map(|(key, file)| (file, key)).collect();
            prop_assert_eq!(now.len(), plugged.iter().flatten().count());
            let keys: BTreeSet<_> = now.values().collect();
            prop_assert_eq!(keys.len(), now.len());
            for (file, key) in &now {
                if let Some(was) = before.get(file) {
                    prop_assert_eq!(key, was);
                }
            }
            before = now;
        }
    }
}
