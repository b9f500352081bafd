//! What people get wrong, one situation each: where it is told, and by which words.

use super::{super::*, file};
use std::fmt::Write as _;

/// A situation, its text, where it is told, and words of the message and its remedy.
type Case = (&'static str, String, &'static str, &'static [&'static str]);

/// A resource with further lines; they begin at line 3.
fn with(more: &str) -> String {
    let mut text = "resources:\n- name: a.io/x\n".to_owned();
    for line in more.lines() {
        writeln!(text, "  {line}").unwrap();
    }
    text
}

/// A resource that finds a path, with further lines; they begin at line 4.
fn path(more: &str) -> String {
    with(&format!("find: [{{path: /dev/x}}]\n{more}"))
}

/// A resource with one way to find; at line 3.
fn find(way: &str) -> String {
    with(&format!("find: [{way}]"))
}

/// What is given; at line 4.
fn give(what: &str) -> String {
    path(&format!("give: {{{what}}}"))
}

fn texts() -> Vec<Case> {
    vec![
        (
            "nothing in the file",
            "\n \n".into(),
            "a.yaml: is empty",
            &["write `resources: []`"],
        ),
        (
            "no YAML",
            "resources: [".into(),
            "a.yaml:1",
            &["mend this line"],
        ),
        (
            "a key twice",
            "resources: []\nresources: []\n".into(),
            "a.yaml:2",
            &["duplicate", "keep one"],
        ),
        (
            "a list of resources alone",
            "- name: a.io/x\n".into(),
            "a.yaml:1: is a list",
            &["write `resources:` above it"],
        ),
        (
            "one resource alone",
            "name: a.io/x\nfind: []\n".into(),
            "a.yaml:1: is a resource",
            &["below `resources:`"],
        ),
        (
            "a whole ConfigMap",
            "apiVersion: v1\nkind: ConfigMap\ndata: {}\n".into(),
            "a.yaml:1",
            &["object of Kubernetes", "`resources:`"],
        ),
        (
            "a word",
            "hello\n".into(),
            "a.yaml:1",
            &["the text \"hello\"", "write a map of resources"],
        ),
        (
            "another key at the top",
            "resurces: []\n".into(),
            "a.yaml:1: resurces",
            &["write resources"],
        ),
        (
            "no list of resources",
            "resources: {name: a.io/x}\n".into(),
            "a.yaml:1: resources: is a map",
            &["write a list"],
        ),
        (
            "an entry that is a word",
            "resources:\n- kvm\n".into(),
            "a.yaml:2: resources[0]",
            &["the text \"kvm\"", "write a map"],
        ),
        (
            "the second of two documents",
            format!("{}---\nresources:\n- name: a.io/y\n", path("")),
            "a.yaml:6: resources[0]: has no find",
            &["write how"],
        ),
    ]
}

fn entries() -> Vec<Case> {
    vec![
        (
            "no name",
            "resources:\n- find: [{path: /dev/x}]\n".into(),
            "a.yaml:2: resources[0]: has no name",
            &["write one, like"],
        ),
        (
            "a name without domain",
            "resources:\n- name: serial\n  find: [{path: /dev/x}]\n".into(),
            "a.yaml:2: resources[0].name",
            &["no domain", "write DOMAIN/NAME"],
        ),
        (
            "nothing to find",
            with(""),
            "a.yaml:2: resources[0]: has no find",
            &["find: [{path: /dev/ttyUSB*}]"],
        ),
        (
            "an empty list to find",
            with("find: []"),
            "a.yaml:3: resources[0].find",
            &["finds nothing", "write at least one way"],
        ),
        (
            "one way that is no list",
            with("find:\n  path: /dev/x"),
            "a.yaml:3: resources[0].find: is a map",
            &["write a list", "`- path:"],
        ),
        (
            "a key mistyped",
            path("cuont: 2"),
            "a.yaml:4: resources[0].cuont",
            &["write count"],
        ),
        (
            "a key of others' spelling",
            path("group_by: x"),
            "a.yaml:4: resources[0].group_by",
            &["write groupBy"],
        ),
        (
            "a key that nobody knows",
            path("colour: red"),
            "a.yaml:4: resources[0].colour",
            &["write one of name", "or remove it"],
        ),
        (
            "a key with nothing behind it",
            path("id:"),
            "a.yaml:4: resources[0].id: is empty",
            &["remove the key"],
        ),
        (
            "a count of zero",
            path("count: 0"),
            "a.yaml:4: resources[0].count",
            &["from 1 to 10000"],
        ),
        (
            "a count too large",
            path("count: 10001"),
            "a.yaml:4: resources[0].count",
            &["from 1 to 10000"],
        ),
        (
            "a count in quotes",
            path("count: \"2\""),
            "a.yaml:4: resources[0].count",
            &["without quotes"],
        ),
        (
            "an id of a field that isn't there",
            path("id: \"{serail}\""),
            "a.yaml:4: resources[0].id",
            &["serail", "write {serial}"],
        ),
        (
            "an id that all have",
            path("id: serial"),
            "a.yaml:4: resources[0].id",
            &["same for every device", "{serial}"],
        ),
        (
            "an id made of itself",
            path("id: \"{id}\""),
            "a.yaml:4: resources[0].id",
            &["made of this", "{serial}"],
        ),
        (
            "an id by chance",
            path("groupBy: \"{random}\""),
            "a.yaml:4: resources[0].groupBy",
            &["another one each time", "{serial}"],
        ),
        (
            "a NUMA node twice",
            path("numa: [0, 0]"),
            "a.yaml:4: resources[0].numa",
            &["each NUMA node once"],
        ),
        (
            "a preference mistyped",
            path("prefer: neer"),
            "a.yaml:4: resources[0].prefer",
            &["write near"],
        ),
        (
            "an interface that nobody knows",
            path("serve: grpc"),
            "a.yaml:4: resources[0].serve",
            &["write one of devicePlugin, dra"],
        ),
        (
            "preference by DRA",
            path("serve: dra\nprefer: near"),
            "a.yaml:5: resources[0].prefer",
            &["selectors"],
        ),
        (
            "annotations by DRA",
            path("serve: dra\ngive: {annotations: {a: b}}"),
            "a.yaml:5: resources[0].give.annotations",
            &["serve: devicePlugin"],
        ),
        (
            "no CDI by DRA",
            path("serve: dra\ngive: {writeCdi: false}"),
            "a.yaml:5: resources[0].give.writeCdi",
            &["remove it"],
        ),
        (
            "a preset mistyped",
            "resources:\n- preset: kwm\n".into(),
            "a.yaml:2: resources[0].preset",
            &["write kvm", "there are"],
        ),
        (
            "a preset that nobody knows",
            "resources:\n- preset: toaster\n".into(),
            "a.yaml:2: resources[0].preset",
            &["there are", "serial"],
        ),
        (
            "a fault beside a preset",
            "resources:\n- preset: rdma\n  groupBy: \"{name}\"\n".into(),
            "a.yaml:2: resources[0].id",
            &["the same for every device"],
        ),
        (
            "a name twice",
            format!("{}- name: a.io/x\n  find: [{{path: /dev/y}}]\n", path("")),
            "a.yaml:4: resources[1].name",
            &["already, at a.yaml:2", "another name"],
        ),
    ]
}

fn finders() -> Vec<Case> {
    vec![
        (
            "a path by itself",
            find("/dev/x"),
            "a.yaml:3: resources[0].find[0]",
            &["write `path: /dev/x`"],
        ),
        (
            "two ways in one",
            find("{path: /dev/x, cdi: a.io/b}"),
            "a.yaml:3: resources[0].find[0]",
            &["path and cdi", "each as an entry"],
        ),
        (
            "no way",
            find("{attributes: {a: b}}"),
            "a.yaml:3: resources[0].find[0]",
            &["no way to find", "path, directory, usb"],
        ),
        (
            "a path that isn't absolute",
            find("{path: ttyUSB*}"),
            "a.yaml:3: resources[0].find[0].path",
            &["write /dev/ttyUSB*"],
        ),
        (
            "a path elsewhere",
            find("{path: /tmp/x}"),
            "a.yaml:3: resources[0].find[0].path",
            &["not below /dev", "give.mounts"],
        ),
        (
            "a path that leads out",
            find("{path: /dev/../etc/x}"),
            "a.yaml:3: resources[0].find[0].path",
            &["`..`", "write the path itself"],
        ),
        (
            "every device",
            find("{path: /dev/*}"),
            "a.yaml:3: resources[0].find[0].path",
            &["every device", "write more"],
        ),
        (
            "every device of some letters",
            find("{path: '/dev/[a-z]*'}"),
            "a.yaml:3: resources[0].find[0].path",
            &["every device", "write more"],
        ),
        (
            "every device of other signs",
            find("{path: '/dev/[!]x]?*'}"),
            "a.yaml:3: resources[0].find[0].path",
            &["every device", "write more"],
        ),
        (
            "the folder of every device",
            find("{directory: /dev/}"),
            "a.yaml:3: resources[0].find[0].directory",
            &["every device"],
        ),
        (
            "braces in a pattern",
            find("{path: '/dev/tty{USB,ACM}*'}"),
            "a.yaml:3: resources[0].find[0].path",
            &["braces", "entry of its own"],
        ),
        (
            "a bracket that isn't closed",
            find("{path: '/dev/tty[0-9'}"),
            "a.yaml:3: resources[0].find[0].path",
            &["without its `]`", "close it"],
        ),
        (
            "a regular expression",
            find("{subsystem: tty, name: '^tty.*$'}"),
            "a.yaml:3: resources[0].find[0].name",
            &["regular expression", "write a pattern"],
        ),
        (
            "folders crossed",
            find("{path: /dev/a/**}"),
            "a.yaml:3: resources[0].find[0].path",
            &["write one `*`"],
        ),
        (
            "a vendor that YAML reads as a number",
            with("find:\n- usb:\n    vendor: 8086"),
            "a.yaml:5: resources[0].find[0].usb.vendor",
            &["the number 8086", "quote it"],
        ),
        (
            "a vendor with 0x without quotes",
            find("{pci: {vendor: 0x8086}}"),
            "a.yaml:3: resources[0].find[0].pci.vendor",
            &["to YAML", "quote it"],
        ),
        (
            "a device that YAML reads as a power",
            find("{pci: {vendor: \"8086\", device: 15e2}}"),
            "a.yaml:3: resources[0].find[0].pci.device",
            &["quote it"],
        ),
        (
            "a vendor with too few digits",
            find("{usb: {vendor: \"403\"}}"),
            "a.yaml:3: resources[0].find[0].usb.vendor",
            &["3 digits", "\"0403\""],
        ),
        (
            "a vendor's name",
            find("{usb: {vendor: FTDI}}"),
            "a.yaml:3: resources[0].find[0].usb.vendor",
            &["hexadecimal", "write 4"],
        ),
        (
            "a class with a pattern",
            find("{pci: {class: '03*'}}"),
            "a.yaml:3: resources[0].find[0].pci.class",
            &["first 2, 4, or all 6"],
        ),
        (
            "an address that is none",
            find("{pci: {address: eth0}}"),
            "a.yaml:3: resources[0].find[0].pci.address",
            &["0000:3b:00.0"],
        ),
        (
            "every USB device",
            find("{usb: {}}"),
            "a.yaml:3: resources[0].find[0]",
            &["keyboards too", "its vendor"],
        ),
        (
            "every PCI function",
            find("{pci: {}}"),
            "a.yaml:3: resources[0].find[0]",
            &["every PCI function"],
        ),
        (
            "every disk",
            find("{subsystem: block}"),
            "a.yaml:3: resources[0].find[0]",
            &["write also `name`"],
        ),
        (
            "a key of PCI at USB",
            find("{usb: {vendor: \"0403\", device: \"6001\"}}"),
            "a.yaml:3: resources[0].find[0].usb.device",
            &["write one of vendor, product, serial"],
        ),
        (
            "the path of a subsystem",
            find("{subsystem: /sys/class/tty}"),
            "a.yaml:3: resources[0].find[0].subsystem",
            &["\"tty\""],
        ),
        (
            "a name without subsystem",
            find("{path: /dev/x, name: y}"),
            "a.yaml:3: resources[0].find[0].name",
            &["goes with `subsystem`"],
        ),
        (
            "a CDI device in place of a kind",
            find("{cdi: a.io/gpu=0}"),
            "a.yaml:3: resources[0].find[0].cdi",
            &["write VENDOR/CLASS"],
        ),
        (
            "attributes of what is made up",
            find("{random: {least: 1, most: 1, every: 5s}, attributes: {a: b}}"),
            "a.yaml:3: resources[0].find[0].attributes",
            &["has no attributes", "remove them"],
        ),
        (
            "an attribute that leads out",
            find("{path: /dev/x, attributes: {../x: a}}"),
            "a.yaml:3: resources[0].find[0].attributes.../x",
            &["no attribute", "write its name"],
        ),
        (
            "an attribute that YAML reads as a number",
            find("{path: /dev/x, attributes: {a: 10}}"),
            "a.yaml:3: resources[0].find[0].attributes.a",
            &["quote it"],
        ),
        (
            "more at least than at most",
            find("{random: {least: 5, most: 1, every: 5s}}"),
            "a.yaml:3: resources[0].find[0].random",
            &["smaller one into `least`"],
        ),
        (
            "none at least",
            find("{random: {least: 0, most: 1, every: 5s}}"),
            "a.yaml:3: resources[0].find[0].random.least",
            &["from 1"],
        ),
        (
            "others too often",
            find("{random: {least: 1, most: 1, every: 10ms}}"),
            "a.yaml:3: resources[0].find[0].random.every",
            &["from 1s"],
        ),
        (
            "made up beside found",
            find("{random: {least: 1, most: 1, every: 5s}}, {path: /dev/x}"),
            "a.yaml:3: resources[0].find",
            &["resource of its own"],
        ),
        (
            "health of what is made up",
            with("find: [{random: {least: 1, most: 1, every: 5s}}]\nhealth: {open: true}"),
            "a.yaml:4: resources[0].health",
            &["makes up", "remove it"],
        ),
    ]
}

fn given() -> Vec<Case> {
    vec![
        (
            "permissions that nobody knows",
            give("permissions: rx"),
            "a.yaml:4: resources[0].give.permissions",
            &["'x'", "some of r (read)"],
        ),
        (
            "permissions twice",
            give("permissions: rr"),
            "a.yaml:4: resources[0].give.permissions",
            &["each once"],
        ),
        (
            "no permissions",
            give("permissions: \"\""),
            "a.yaml:4: resources[0].give.permissions",
            &["is empty", "remove the key"],
        ),
        (
            "own files by the whole path",
            give("own: [/dev/dri/card*]"),
            "a.yaml:4: resources[0].give.own[0]",
            &["write \"dri/card*\""],
        ),
        (
            "a node that isn't below /dev",
            give("nodes: [/etc/passwd]"),
            "a.yaml:4: resources[0].give.nodes[0]",
            &["give.mounts"],
        ),
        (
            "a node of a field that isn't there",
            give("nodes: [{path: '/dev/vfio/{iommu}'}]"),
            "a.yaml:4: resources[0].give.nodes[0].path",
            &["\"iommu\"", "iommu", "write one of"],
        ),
        (
            "a pattern of nodes",
            give("nodes: ['/dev/dri/*']"),
            "a.yaml:4: resources[0].give.nodes[0]",
            &["not a pattern"],
        ),
        (
            "a node within that isn't absolute",
            give("nodes: [{path: /dev/a, within: a}]"),
            "a.yaml:4: resources[0].give.nodes[0].within",
            &["whole path"],
        ),
        (
            "two nodes at one place",
            give("nodes: [/dev/a, {path: /dev/b, within: /dev/a}]"),
            "a.yaml:4: resources[0].give.nodes",
            &["two things at /dev/a"],
        ),
        (
            "a variable that is no name",
            give("environment: {MY-VAR: a}"),
            "a.yaml:4: resources[0].give.environment.MY-VAR",
            &["write MY_VAR"],
        ),
        (
            "a variable with two numbers",
            give("environment: {'A{index}{index}': a}"),
            "a.yaml:4: resources[0].give.environment.A{index}{index}",
            &["twice"],
        ),
        (
            "a variable's number",
            give("environment: {A: 1}"),
            "a.yaml:4: resources[0].give.environment.A",
            &["quote it"],
        ),
        (
            "a list of variables",
            give("environment: [{name: A, value: b}]"),
            "a.yaml:4: resources[0].give.environment: is a list",
            &["write a map"],
        ),
        (
            "the root mounted",
            give("mounts: [{host: /, container: /x}]"),
            "a.yaml:4: resources[0].give.mounts[0].host",
            &["root of everything"],
        ),
        (
            "a folder of the system mounted",
            give("mounts: [{host: /etc, container: /x}]"),
            "a.yaml:4: resources[0].give.mounts[0].host",
            &["below it"],
        ),
        (
            "mounted over the image",
            give("mounts: [{host: /opt/x, container: /usr}]"),
            "a.yaml:4: resources[0].give.mounts[0].container",
            &["below it"],
        ),
        (
            "mounted to a path that leads out",
            give("mounts: [{host: /opt/x, container: /a/../b}]"),
            "a.yaml:4: resources[0].give.mounts[0].container",
            &["`..`"],
        ),
        (
            "others' name of a mount",
            give("mounts: [{hostPath: /opt/x, container: /x}]"),
            "a.yaml:4: resources[0].give.mounts[0].hostPath",
            &["write one of host, container"],
        ),
        (
            "a word for yes",
            give("mounts: [{host: /a/b, container: /a/b, readOnly: \"yes\"}]"),
            "a.yaml:4: resources[0].give.mounts[0].readOnly",
            &["true or false"],
        ),
        (
            "an annotation that is no key",
            give("annotations: {a/b/c: d}"),
            "a.yaml:4: resources[0].give.annotations.a/b/c",
            &["DOMAIN/NAME"],
        ),
        (
            "a CDI name without its kind",
            give("cdi: [gpu0]"),
            "a.yaml:4: resources[0].give.cdi[0]",
            &["VENDOR/CLASS=NAME"],
        ),
        (
            "a CDI name of one part",
            give("cdi: ['nvidia.com=0']"),
            "a.yaml:4: resources[0].give.cdi[0]",
            &["VENDOR/CLASS=NAME"],
        ),
        (
            "groups without CDI",
            give("groups: files"),
            "a.yaml:4: resources[0].give.groups",
            &["writeCdi: true"],
        ),
        (
            "CDI without anything to give",
            give("writeCdi: true, own: []"),
            "a.yaml:4: resources[0].give.writeCdi",
            &["nothing to give", "remove it", "`own`"],
        ),
        (
            "CDI of what is found by CDI",
            with("find: [{cdi: vendor.com/gpu}]\ngive: {writeCdi: true}"),
            "a.yaml:4: resources[0].give.writeCdi",
            &["nothing to give", "remove it"],
        ),
        (
            "root's group",
            give("writeCdi: true, groups: [0]"),
            "a.yaml:4: resources[0].give.groups[0]",
            &["from 1"],
        ),
        (
            "a group's name",
            give("writeCdi: true, groups: [video]"),
            "a.yaml:4: resources[0].give.groups[0]",
            &["the text \"video\"", "write a whole number"],
        ),
    ]
}

fn programs() -> Vec<Case> {
    vec![
        (
            "a command that is one text",
            path("health: {command: /bin/check -v}"),
            "a.yaml:4: resources[0].health.command",
            &["write a list", "without a shell"],
        ),
        (
            "a program without its path",
            path("health: {command: [check]}"),
            "a.yaml:4: resources[0].health.command[0]",
            &["write the whole path"],
        ),
        (
            "a field in a shell's program",
            path("health: {command: [/bin/sh, -c, 'test -c {path}']}"),
            "a.yaml:4: resources[0].health.command[2]",
            &["\"$1\""],
        ),
        (
            "a field in a shell's program behind other options",
            path("health: {command: [/bin/sh, -e, -c, 'check {serial}']}"),
            "a.yaml:4: resources[0].health.command[3]",
            &["\"$1\""],
        ),
        (
            "the same behind an option with a value",
            path(
                "health: {command: [/bin/bash, -o, pipefail, --rcfile, /x, -ec, 'check {serial}']}",
            ),
            "a.yaml:4: resources[0].health.command[6]",
            &["\"$1\""],
        ),
        (
            "the same with options in between",
            path("health: {command: [/bin/sh, -c, -o, pipefail, --, 'check {serial}']}"),
            "a.yaml:4: resources[0].health.command[5]",
            &["\"$1\""],
        ),
        (
            "the same of a shell that env finds",
            path(
                "beforeStart: {command: [/usr/bin/env, -i, -u, B, A=1, sh, -c, 'reset {serial}']}",
            ),
            "a.yaml:4: resources[0].beforeStart.command[7]",
            &["\"$1\""],
        ),
        (
            "the same of busybox",
            path("beforeStart: {command: [/bin/busybox, sh, -c, 'reset {serial}']}"),
            "a.yaml:4: resources[0].beforeStart.command[3]",
            &["\"$1\""],
        ),
        (
            "a shell's program in one word",
            path("beforeStart: {command: [/usr/bin/env, -S, 'sh -c \"reset {serial}\"']}"),
            "a.yaml:4: resources[0].beforeStart.command[2]",
            &["-S", "arguments of their own"],
        ),
        (
            "an option of a shell with a field in it",
            path("health: {command: [/bin/fish, '--command=check {serial}']}"),
            "a.yaml:4: resources[0].health.command[1]",
            &["\"$1\""],
        ),
        (
            "a time without unit",
            path("health: {open: true, every: 5}"),
            "a.yaml:4: resources[0].health.every",
            &["like 5s"],
        ),
        (
            "a time that is none",
            path("health: {open: true, every: often}"),
            "a.yaml:4: resources[0].health.every",
            &["like 10s"],
        ),
        (
            "looks too often",
            path("health: {open: true, every: 500ms}"),
            "a.yaml:4: resources[0].health.every",
            &["from 1s"],
        ),
        (
            "looks that nothing asks for",
            path("health: {every: 5s}"),
            "a.yaml:4: resources[0].health.every",
            &["`open: true`"],
        ),
        (
            "a deadline of nothing",
            path("health: {open: true, deadline: 5s}"),
            "a.yaml:4: resources[0].health.deadline",
            &["`command`"],
        ),
        (
            "a deadline beyond the next look",
            path("health: {command: [/bin/a], deadline: 20s}"),
            "a.yaml:4: resources[0].health.deadline",
            &["at most 10s"],
        ),
        (
            "longer than the kubelet waits",
            path("beforeStart: {command: [/bin/a], deadline: 31s}"),
            "a.yaml:4: resources[0].beforeStart.deadline",
            &["at most 30s"],
        ),
        (
            "nothing before a start",
            path("beforeStart: {deadline: 5s}"),
            "a.yaml:4: resources[0].beforeStart: has no command",
            &["write the program"],
        ),
    ]
}

#[test]
fn every_fault_says_where_it_is_and_what_to_write_instead() {
    let cases = [texts(), entries(), finders(), given(), programs()].concat();
    assert!(cases.len() > 100, "{}", cases.len());
    let mut wrong = String::new();
    for (situation, text, place, words) in cases {
        let shown: Vec<String> = match parse(&[file("a.yaml", &text)], &[]) {
            Ok(plan) => {
                writeln!(wrong, "{situation}: taken as {plan:?}").unwrap();
                continue;
            }
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        };
        let is_told = shown
            .iter()
            .any(|one| one.starts_with(place) && words.iter().all(|word| one.contains(word)));
        if !is_told || shown.len() > 1 {
            writeln!(
                wrong,
                "{situation}: at {place} {words:?}, told {shown:#?} of\n{text}"
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn all_faults_are_told_in_one_pass_in_their_order() {
    let text = "\
resources:
- name: serial
  find: [{usb: {vendor: 403}}, {path: x}]
  count: 0
  give: {permissions: x, colour: 1, mounts: [{host: /}]}
- name: a.io/y
  find: [{path: /dev/y}]
  serve: dar
";
    let problems = parse(
        &[file("a.yaml", text), file("b.yaml", "x: 1")],
        &["kwm".to_owned()],
    )
    .unwrap_err();
    let places: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}:{:?}:{}", problem.file, problem.line, problem.field))
        .collect();
    let expected = [
        "a.yaml:Some(2):resources[0].name",
        "a.yaml:Some(3):resources[0].find[0].usb.vendor",
        "a.yaml:Some(3):resources[0].find[1].path",
        "a.yaml:Some(4):resources[0].count",
        "a.yaml:Some(5):resources[0].give.colour",
        "a.yaml:Some(5):resources[0].give.permissions",
        "a.yaml:Some(5):resources[0].give.mounts[0].host",
        "a.yaml:Some(5):resources[0].give.mounts[0]",
        "a.yaml:Some(8):resources[1].serve",
        "b.yaml:Some(1):x",
        "--device-presets:None:kwm.preset",
    ];
    assert_eq!(places, expected);
}

#[test]
fn a_name_in_two_places_is_told_with_both() {
    let files = [file("a.yaml", &path("")), file("b.yaml", &path(""))];
    let problems = parse(&files, &[]).unwrap_err();
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 1);
    assert!(
        shown[0]
            .starts_with("b.yaml:2: resources[0].name: a.io/x is a resource already, at a.yaml:2;"),
        "{shown:?}"
    );
    let twice = parse(
        &[file("a.yaml", "resources: [{preset: kvm}]")],
        &["kvm".to_owned()],
    )
    .unwrap_err();
    assert!(
        twice[0]
            .to_string()
            .contains("already, at a.yaml:1 (preset kvm)"),
        "{twice:?}"
    );
}

#[test]
fn more_than_is_read_is_refused() {
    let many = |n: usize| {
        (0..n)
            .map(|n| file(&format!("{n}.yaml"), "resources: []"))
            .collect::<Vec<_>>()
    };
    assert!(parse(&many(MAX_FILES), &[]).is_ok());
    assert!(
        parse(&many(MAX_FILES + 1), &[]).unwrap_err()[0]
            .message
            .contains("write several resources into one")
    );
    let large = file("a.yaml", &" ".repeat(MAX_FILE_BYTES as usize + 1));
    assert!(
        parse(&[large], &[]).unwrap_err()[0]
            .message
            .contains("split it")
    );
    let resources = |n: usize| {
        let of = |n: usize| format!("- {{name: a.io/x{n}, find: [{{path: /dev/x}}]}}\n");
        let texts = (0..n).map(of).collect::<Vec<_>>();
        let (one, two) = texts.split_at(n / 2);
        [one, two].map(|part| file("a.yaml", &format!("resources:\n{}", part.concat())))
    };
    assert!(parse(&resources(MAX_RESOURCES), &[]).is_ok());
    let problems = parse(&resources(MAX_RESOURCES + 2), &[]).unwrap_err();
    assert!(
        problems[0].message.contains("leave some out"),
        "{problems:?}"
    );
    let finders = vec!["{path: /dev/x}"; 65].join(", ");
    assert!(
        parse(&[file("a.yaml", &find(&finders))], &[]).unwrap_err()[0]
            .message
            .contains("at most 64")
    );
    // Aliases of aliases, which would be more than any memory.
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let each = vec![format!("*a{}", n - 1); 10].join(", ");
        writeln!(laughs, "a{n}: &a{n} [{each}]").unwrap();
    }
    assert!(parse(&[file("a.yaml", &laughs)], &[]).is_err());
}
