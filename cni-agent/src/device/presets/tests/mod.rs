//! Each preset on a node like those that there are: what it finds among neighbours that aren't meant, and what a container
//! is given. The nodes are trees that the tests make; no hardware was there.

mod accelerators;
mod files;
mod gpus;
mod network;
mod plugged;
mod steady;

use super::PRESETS;
use crate::device::{
    allocate::{self, Given, Node, Refused},
    config,
    host::fake::Tree,
    inventory::{Item, Offer, Witness, id_of, items},
    name::DeviceId,
    plan::Rule,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::Arc,
};

/// A preset on a node.
#[derive(Clone, Copy)]
struct Case {
    preset: &'static str,
    node: fn(&Tree),
    /// What the node has outside of /dev and /sys.
    also: &'static [&'static str],
    /// What becomes of it, as [`told`]; how lines are indented doesn't matter.
    expected: &'static str,
}

#[test]
fn no_preset_is_left_untested() {
    let cases = [
        files::CASES,
        plugged::CASES,
        gpus::CASES,
        network::CASES,
        accelerators::CASES,
    ];
    let mut tested: BTreeSet<&str> = cases.concat().iter().map(|case| case.preset).collect();
    tested.insert(files::EXAMPLE);
    let all: BTreeSet<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(tested, all);
}

fn check(cases: &[Case]) {
    let lines = |text: &str| -> Vec<String> {
        let trimmed = text.lines().map(|line| line.trim().to_owned());
        trimmed.filter(|line| !line.is_empty()).collect()
    };
    let mut wrong = String::new();
    for case in cases {
        let told = told(case);
        if lines(&told) != lines(case.expected) {
            writeln!(
                wrong,
                "{}:\n{told}in place of{}",
                case.preset, case.expected
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The rules of a preset.
fn rules(preset: &str) -> Vec<Rule> {
    let plan = config::parse(&[], &[preset.to_owned()]).unwrap();
    plan.resources.into_values().collect()
}

/// What is there of one of its resources: the devices, and what is wrong.
fn look(tree: &Tree, rule: &Rule, also: &[&str]) -> (Vec<Item>, Vec<String>) {
    let host = tree.host();
    let findings = host.find(&rule.find);
    assert_eq!(findings, host.find(&rule.find), "each look is the same");
    assert_eq!(findings.problems, [""; 0]);
    items(
        rule,
        findings.found,
        &[],
        &Witness {
            exists: &|path| exists(tree, also, path),
            is_there: &|_| false,
        },
    )
}

fn exists(tree: &Tree, also: &[&str], path: &Path) -> bool {
    match path.starts_with("/dev") || path.starts_with("/sys") {
        true => tree.host().exists(path),
        false => also.iter().any(|also| Path::new(also) == path),
    }
}

/// Of each resource its devices by their ids, with their NUMA nodes and what a container gets with one; then what one
/// with the first two of them gets.
fn told(case: &Case) -> String {
    let tree = Tree::new();
    (case.node)(&tree);
    let mut text = String::new();
    for rule in rules(case.preset) {
        let (items, problems) = look(&tree, &rule, case.also);
        let offer = Offer::new(Arc::new(rule), items);
        let node = Node {
            exists: &|path| exists(&tree, case.also, path),
            random: &|| "0123456789abcdef".to_owned(),
        };
        told_of(&mut text, &offer, &node);
        for problem in problems {
            writeln!(text, "  problem: {problem}").unwrap();
        }
    }
    text
}

fn told_of(text: &mut String, offer: &Offer, node: &Node<'_>) {
    let Offer { rule, items, .. } = offer;
    let shares = match rule.count {
        1 => String::new(),
        count => format!(", each for {count} containers"),
    };
    let devices = match items.len() {
        1 => "1 device".to_owned(),
        count => format!("{count} devices"),
    };
    writeln!(text, "{}: {devices}{shares}", rule.name).unwrap();
    let share = |item: &Item, share| id_of(rule, &item.key, share);
    for item in items {
        let (first, last) = (share(item, 0), share(item, rule.count - 1));
        write!(text, "  {first}").unwrap();
        if first != last {
            write!(text, " to {last}").unwrap();
            let both = allocate::plan(offer, &[first.clone(), last.clone()], node);
            let one = allocate::plan(offer, &[last], node);
            assert_eq!(
                both.ok(),
                one.ok(),
                "two shares of one device are that device"
            );
        }
        if !item.numa.is_empty() {
            let nodes: Vec<String> = item.numa.iter().map(u32::to_string).collect();
            write!(text, " near {}", nodes.join(", ")).unwrap();
        }
        text.push('\n');
        match allocate::plan(offer, &[first], node) {
            Ok(given) => told_given(text, &given),
            Err(Refused::NotNow(why) | Refused::Unknown(why)) => {
                writeln!(text, "    refused: {why}").unwrap();
            }
        }
    }
    if let [one, other, ..] = items.as_slice() {
        let ids: [DeviceId; 2] = [share(one, 0), share(other, 0)];
        if let Ok(given) = allocate::plan(offer, &ids, node) {
            text.push_str("  the first two together:\n");
            told_given(text, &given);
        }
    }
}

/// Files by what may be done with them; what is elsewhere in the container is told by both places.
fn told_given(text: &mut String, given: &Given) {
    let place = |host: &str, within: &str| match host == within {
        true => host.to_owned(),
        false => format!("{host} at {within}"),
    };
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (within, node) in &given.nodes {
        let file = place(&node.host.to_string_lossy(), within);
        let letters = node.permissions.letters();
        files.entry(letters).or_default().push(file);
    }
    for (letters, files) in files {
        writeln!(text, "    {letters} {}", files.join(" ")).unwrap();
    }
    for (within, mount) in &given.mounts {
        let letters = if mount.readonly { "ro" } else { "rw" };
        writeln!(text, "    mount {letters} {}", place(&mount.host, within)).unwrap();
    }
    for (name, value) in &given.environment {
        writeln!(text, "    {name}={value}").unwrap();
    }
    for (name, value) in &given.annotations {
        writeln!(text, "    annotation {name}={value}").unwrap();
    }
    for name in &given.cdi {
        writeln!(text, "    cdi {name}").unwrap();
    }
}
