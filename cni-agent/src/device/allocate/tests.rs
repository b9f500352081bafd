//! What a container is given.

use super::*;
use crate::device::{
    found::FileKind,
    inventory::Health,
    plan::{MountRule, NodeRule, Rule},
    tests::{item, rule},
};
use std::sync::Arc;

const RW: Permissions = Permissions {
    read: true,
    write: true,
    mknod: false,
};

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

/// A device with one file and these fields.
fn device(key: &str, path: &str, fields: &[(&str, &str)]) -> Item {
    Item {
        files: vec![DeviceFile {
            path: path.into(),
            kind: FileKind::Character,
            major: 1,
            minor: 3,
            group: 20,
        }],
        fields: fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..item(key)
    }
}

fn given(rule: Rule, items: Vec<Item>, ids: &[&str]) -> Result<Given, Refused> {
    let offer = Offer::new(Arc::new(rule), items);
    let ids: Vec<DeviceId> = ids.iter().map(|id| DeviceId::from(*id)).collect();
    let node = Node {
        exists: &|path| !path.to_string_lossy().contains("missing"),
        random: &|| "0123456789abcdef".to_owned(),
    };
    plan(&offer, &ids, &node)
}

#[test]
fn a_device_comes_with_its_files_its_environment_and_what_goes_with_each() {
    let mut rule = rule("a.io/vfio");
    rule.give.environment = [("PCI".to_owned(), template("{pci}"))].into();
    rule.give.annotations = [("a.io/pci".to_owned(), template("{pci}"))].into();
    rule.give.cdi = vec![template("a.io/vfio={id}")];
    rule.give.nodes = vec![
        NodeRule {
            path: template("/dev/vfio/vfio"),
            within: None,
            permissions: RW,
            optional: false,
        },
        NodeRule {
            path: template("/dev/missing"),
            within: None,
            permissions: RW,
            optional: true,
        },
    ];
    rule.give.mounts = vec![MountRule {
        host: template("/opt/{pci}"),
        container: template("/opt/x"),
        readonly: true,
        optional: false,
    }];
    let one = device("p", "/dev/vfio/7", &[("pci", "0000:01:00.0"), ("id", "p")]);
    let given = given(rule, vec![one], &["p"]).unwrap();
    let nodes: Vec<&str> = given.nodes.keys().map(String::as_str).collect();
    assert_eq!(nodes, ["/dev/vfio/7", "/dev/vfio/vfio"]);
    assert_eq!(given.nodes["/dev/vfio/7"].permissions.letters(), "rw");
    assert_eq!(given.environment["PCI"], "0000:01:00.0");
    assert_eq!(given.annotations["a.io/pci"], "0000:01:00.0");
    assert_eq!(given.mounts["/opt/x"].host, "/opt/0000:01:00.0");
    assert_eq!(given.cdi, ["a.io/vfio=p"]);
}

#[test]
fn several_devices_are_told_in_one_variable_and_shares_of_one_once() {
    let mut shared = rule("a.io/serial");
    shared.count = 2;
    shared.give.environment = [("SERIAL".to_owned(), template("{serial}"))].into();
    let items = vec![
        device("a", "/dev/ttyUSB0", &[("serial", "A")]),
        device("b", "/dev/ttyUSB1", &[("serial", "B")]),
    ];
    let given = given(shared, items, &["a-0", "b-1", "a-1"]).unwrap();
    assert_eq!(given.environment["SERIAL"], "A,B");
    assert_eq!(given.nodes.len(), 2);
}

#[test]
fn the_examples_variable_is_random() {
    let mut example = rule("extend-k8s.io/example");
    let name = "K8S_DEVICE_PLUGIN_EXAMPLE".to_owned();
    example.give.environment = [(name.clone(), template("{random}"))].into();
    let given = given(example, vec![item("x")], &["x"]).unwrap();
    assert_eq!(given.environment[&name], "0123456789abcdef");
}

#[test]
fn what_can_not_be_given_says_why() {
    let mut needy = rule("a.io/x");
    needy.give.nodes = vec![NodeRule {
        path: template("/dev/missing"),
        within: None,
        permissions: RW,
        optional: false,
    }];
    let mut nameless = rule("a.io/x");
    nameless.give.environment = [("S".to_owned(), template("{serial}"))].into();
    let mut clash = rule("a.io/x");
    clash.give.mounts = ["/a", "/b"]
        .map(|host| MountRule {
            host: template(host),
            container: template("/c"),
            readonly: true,
            optional: false,
        })
        .into();
    let gone = Item {
        health: Health::Gone { since: 1 },
        ..item("x")
    };
    for (rule, item, id, word) in [
        (
            rule("a.io/x"),
            item("x"),
            "y",
            "isn't known on this node any more",
        ),
        (rule("a.io/x"), gone, "x", "unplugged"),
        (needy, item("x"), "x", "/dev/missing isn't there"),
        (nameless, item("x"), "x", "no serial"),
        (
            clash,
            item("x"),
            "x",
            "/a and /b would both be mounted at /c",
        ),
    ] {
        let (Refused::Unknown(why) | Refused::NotNow(why)) =
            given(rule, vec![item], &[id]).unwrap_err();
        assert!(why.contains(word), "{word}: {why}");
    }
}

#[test]
fn who_asks_late_for_one_of_the_example_gets_it() {
    let rule = Arc::new(rule("extend-k8s.io/example"));
    let mut offer = Offer::new(rule, vec![item("new")]);
    offer.passing = vec![item("old")];
    let node = Node {
        exists: &|_| true,
        random: &String::new,
    };
    assert!(plan(&offer, &[DeviceId::from("old")], &node).is_ok());
    assert!(plan(&offer, &[DeviceId::from("older")], &node).is_err());
}

#[test]
fn a_variable_may_be_named_by_the_number_of_the_device() {
    let mut rule = rule("a.io/qat");
    rule.give.environment = [("QAT{index}".to_owned(), template("{pci}"))].into();
    let items = ["1", "2"].map(|pci| device(pci, &format!("/dev/q{pci}"), &[("pci", pci)]));
    let given = given(rule, items.into(), &["2", "1"]).unwrap();
    let expected = [("QAT0", "2"), ("QAT1", "1")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(given.environment, expected.into());
}

#[test]
fn what_a_device_says_of_itself_leads_nowhere_else() {
    let mut rule = rule("a.io/x");
    rule.give.nodes = vec![NodeRule {
        path: template("/dev/x/{serial}"),
        within: None,
        permissions: RW,
        optional: false,
    }];
    let sly = device("s", "/dev/y", &[("serial", "../mem")]);
    let Refused::NotNow(why) = given(rule, vec![sly], &["s"]).unwrap_err() else {
        panic!("it is known");
    };
    assert!(why.contains("no serial that fits"), "{why}");
}
