//! csi-sanity in each configuration of volumes, also while the driver is killed.

use super::{
    backend::Backend,
    chance::{self, Chance},
    node::{Disk, DiskFs, Node},
    proxy::{Proxy, Tally},
};
use crate::setup;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The disk of a pool.
const DISK: u64 = 8 << 30;

/// What a run said, and what ginkgo reports of it.
struct Ran {
    output: Output,
    report: PathBuf,
}

/// Runs it against a socket.
fn run(socket: &Path, folder: &Path, options: &[String]) -> Ran {
    let report = folder.join("report.json");
    let output = Command::new(setup::csi_sanity().unwrap())
        .arg("--csi.endpoint")
        .arg(format!("unix://{}", socket.display()))
        .arg("--csi.mountdir")
        .arg(folder.join("mount"))
        .arg("--csi.stagingdir")
        .arg(folder.join("stage"))
        .args(["--csi.testvolumesize", "335544320"])
        .args(["--csi.testvolumeexpandsize", "671088640"])
        .arg("--ginkgo.no-color")
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .args(options)
        .output()
        .unwrap();
    Ran { output, report }
}

/// A configuration: what volumes are like, and who serves them.
#[derive(Clone, Copy, Debug)]
struct Configuration {
    name: &'static str,
    class: &'static str,
    block: bool,
    /// Limits of what no pod has: nothing has to hold them.
    limits: &'static str,
    /// What the pool is on, if not on the machine's disk.
    on: Option<DiskFs>,
}

const READING: &str = "readBytesPerSecond: \"1048576\"\n";
const IMAGE: Configuration = Configuration {
    name: "image, ext4",
    class: "",
    block: false,
    limits: READING,
    on: None,
};
const CONFIGURATIONS: [Configuration; 5] = [
    IMAGE,
    Configuration {
        name: "image, xfs",
        class: "fsType: xfs\n",
        ..IMAGE
    },
    Configuration {
        name: "image, block",
        block: true,
        ..IMAGE
    },
    Configuration {
        name: "btrfs",
        class: "backend: btrfs\n",
        limits: "",
        on: Some(DiskFs::Btrfs),
        ..IMAGE
    },
    Configuration {
        name: "directory",
        class: "backend: directory\nallowUnenforced: \"true\"\n",
        limits: "",
        ..IMAGE
    },
];

impl Configuration {
    /// A node for it, with the disk of its pool.
    fn node(&self) -> (Node, Option<Disk>) {
        let Some(fs) = self.on else {
            return (Node::new(), None);
        };
        let disk = Disk::new(DISK, fs);
        let mut node = Node::with_pool(disk.root().join("pool"));
        node.start();
        (node, Some(disk))
    }

    fn options(&self, node: &Node) -> Vec<String> {
        let file = |option: &str, name: &str, text: &str| {
            let file = node.place(name);
            fs::write(&file, text).unwrap();
            [format!("--csi.{option}"), file.display().to_string()]
        };
        let mut options = Vec::new();
        if !self.class.is_empty() {
            options.extend(file("testvolumeparameters", "class.yaml", self.class));
        }
        if !self.limits.is_empty() {
            options.extend(file(
                "testvolumemutableparameters",
                "limits.yaml",
                self.limits,
            ));
        }
        if self.block {
            options.extend(["--csi.testvolumeaccesstype", "block"].map(str::to_owned));
        }
        options
    }
}

/// Has every spec pass but those that skip themselves for a reason that is known, and nothing of it left.
fn passes(of: &Configuration, ran: &Ran, node: &Node) {
    let name = of.name;
    let text = String::from_utf8_lossy(&ran.output.stdout);
    let report = fs::read(&ran.report).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
    let specs = specs(&serde_json::from_slice(&report).unwrap());
    let count = |state: &str| specs.iter().filter(|spec| spec.state == state).count();
    let (passed, skipped) = (count("passed"), count("skipped"));
    let failed = specs.len() - passed - skipped;
    println!("{name}: {passed} passed, {failed} failed, {skipped} skipped");
    for spec in specs.iter().filter(|spec| spec.state != "passed") {
        println!("{name}: {}: {}: {}", spec.state, spec.name, spec.message);
    }
    assert!(
        ran.output.status.success() && failed == 0,
        "{name}: {text}\n{}",
        node.log()
    );
    // Of a limit of attached volumes: there is none.
    assert!(passed >= 101 && skipped <= 1, "{name}: {text}");
    assert_eq!(node.left(), Default::default(), "{name}");
}

/// What became of a spec.
#[derive(Debug, PartialEq, Eq)]
struct Spec {
    name: String,
    state: String,
    message: String,
}

/// All specs of ginkgo's report that could run.
fn specs(report: &Value) -> Vec<Spec> {
    let suites = report.as_array().into_iter().flatten();
    let all = suites.flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.filter(|spec| spec["LeafNodeType"] == "It" && spec["State"] != "pending")
        .map(|spec| {
            let containers = spec["ContainerHierarchyTexts"].as_array();
            let words = containers.into_iter().flatten();
            let words: Vec<_> = words.chain([&spec["LeafNodeText"]]).map(text).collect();
            Spec {
                name: words.join(" "),
                state: text(&spec["State"]),
                message: text(&spec["Failure"]["Message"]).replace('\n', " "),
            }
        })
        .collect()
}

#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn every_spec_of_csi_sanity_passes_and_nothing_is_left() {
    for of in CONFIGURATIONS {
        let (node, _disk) = of.node();
        let ran = run(&node.socket(), &node.place(""), &of.options(&node));
        passes(&of, &ran, &node);
        drop(node);
    }
}

/// One configuration; `FAIRLEAD_CONFIGURATIONS` has more of them, and `FAIRLEAD_BACKEND` those of one back end.
#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn every_spec_passes_while_the_driver_is_killed_in_a_fifth_of_the_calls() {
    let wanted = usize::try_from(chance::number("FAIRLEAD_CONFIGURATIONS", 1)).unwrap();
    let backends = Backend::wanted();
    let configurations = CONFIGURATIONS
        .into_iter()
        .filter(|of| backends.iter().any(|it| of.name.starts_with(it.name())));
    for of in configurations.take(wanted) {
        let (node, _disk) = of.node();
        let (options, folder) = (of.options(&node), node.place(""));
        let proxy = Proxy::new(node, Chance::new("csi-sanity under kills"));
        let ran = run(proxy.socket(), &folder, &options);
        proxy.with_node(|node| passes(&of, &ran, node));
        let Tally {
            calls,
            during,
            after,
        } = proxy.tally();
        let kills = during + after;
        println!(
            "{}: {kills} kills in {calls} calls, {during} before the answer and {after} after it",
            of.name
        );
        assert!(
            kills * 10 > calls,
            "{}: {kills} kills in {calls} calls",
            of.name
        );
        drop(proxy);
    }
}

#[test]
fn what_became_of_specs_is_read() {
    let spec = |kind: &str, state: &str| {
        json!({ "LeafNodeType": kind, "ContainerHierarchyTexts": ["Node Service"],
            "LeafNodeText": "works", "State": state, "Failure": { "Message": "a\nb" } })
    };
    let report = json!([{ "SpecReports": [
        spec("BeforeSuite", "passed"), spec("It", "skipped"), spec("It", "pending"),
    ] }]);
    let skipped = Spec {
        name: "Node Service works".to_owned(),
        state: "skipped".to_owned(),
        message: "a b".to_owned(),
    };
    assert_eq!(specs(&report), [skipped]);
    assert_eq!(specs(&Value::Null), []);
}
