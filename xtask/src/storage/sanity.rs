//! csi-sanity in each configuration of volumes, also while the driver is killed.

use super::{
    chance::{self, Chance},
    node::Node,
    proxy::Proxy,
};
use crate::setup;
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

/// Runs it against a socket.
fn run(socket: &Path, folder: &Path, options: &[String]) -> Output {
    Command::new(setup::csi_sanity().unwrap())
        .arg("--csi.endpoint")
        .arg(format!("unix://{}", socket.display()))
        .arg("--csi.mountdir")
        .arg(folder.join("mount"))
        .arg("--csi.stagingdir")
        .arg(folder.join("stage"))
        .args(["--csi.testvolumesize", "335544320"])
        .args(["--csi.testvolumeexpandsize", "671088640"])
        .arg("--ginkgo.no-color")
        .args(options)
        .output()
        .unwrap()
}

/// Names and options of the configurations.
fn configurations(node: &Node) -> [(&'static str, Vec<String>); 4] {
    let option = |option: &str, name: &str, text: &str| {
        let file = node.place(name);
        fs::write(&file, text).unwrap();
        [format!("--csi.{option}"), file.display().to_string()]
    };
    let class = |name: &str, text: &str| option("testvolumeparameters", name, text).to_vec();
    // Limits of what no pod has: nothing has to hold them.
    let limits = "readBytesPerSecond: \"1048576\"\n";
    let limited = option("testvolumemutableparameters", "limits.yaml", limits).to_vec();
    let block = ["--csi.testvolumeaccesstype", "block"].map(str::to_owned);
    let directory = "backend: directory\nallowUnenforced: \"true\"\n";
    [
        ("ext4", limited.clone()),
        ("xfs", class("xfs.yaml", "fsType: xfs\n")),
        ("block", [block.to_vec(), limited].concat()),
        ("directory", class("directory.yaml", directory)),
    ]
}

/// Has every spec pass, and nothing of it left.
fn passes(name: &str, output: &Output, node: &Node) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let [passed, failed, skipped] = counts(&text).unwrap_or_else(|| panic!("{name}: {text}"));
    println!("{name}: {passed} passed, {failed} failed, {skipped} skipped");
    let log = || node.log();
    assert!(
        output.status.success() && failed == 0,
        "{name}: {text}\n{}",
        log()
    );
    // Of a limit of attached volumes: there is none.
    assert!(passed >= 101 && skipped <= 1, "{name}: {text}");
    assert_eq!(node.left(), Default::default(), "{name}");
}

/// How many specs passed, failed and were skipped, as ginkgo sums them up.
fn counts(text: &str) -> Option<[u32; 3]> {
    let line = text.lines().find(|line| line.contains(" Passed | "))?;
    let number = |word: &str| {
        let before = line.split(word).next()?.trim_end();
        before.rsplit(' ').next()?.parse().ok()
    };
    Some([number("Passed")?, number("Failed")?, number("Skipped")?])
}

#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn every_spec_of_csi_sanity_passes_and_nothing_is_left() {
    let node = Node::new();
    for (name, options) in configurations(&node) {
        let output = run(&node.socket(), &node.place(""), &options);
        passes(name, &output, &node);
    }
}

/// One configuration; `FAIRLEAD_CONFIGURATIONS` has more of them.
#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn every_spec_passes_while_the_driver_is_killed_in_a_fifth_of_the_calls() {
    let wanted = usize::try_from(chance::number("FAIRLEAD_CONFIGURATIONS", 1)).unwrap();
    let node = Node::new();
    let (configurations, folder) = (configurations(&node), node.place(""));
    let proxy = Proxy::new(node, Chance::new("csi-sanity under kills"));
    for (name, options) in configurations.into_iter().take(wanted) {
        let before = proxy.tally();
        let output = run(proxy.socket(), &folder, &options);
        proxy.with_node(|node| passes(name, &output, node));
        let tally = proxy.tally();
        let (calls, kills) = (
            tally.calls - before.calls,
            tally.during + tally.after - before.during - before.after,
        );
        println!(
            "{name}: {kills} kills in {calls} calls; of all, {} before the answer and {} after it",
            tally.during, tally.after
        );
        assert!(kills * 10 > calls, "{name}: {kills} kills in {calls} calls");
    }
}

#[test]
fn the_sum_of_specs_is_read() {
    let line = "FAIL! -- 92 Passed | 1 Failed | 1 Pending | 9 Skipped";
    assert_eq!(
        counts(&format!("Ran 93 of 103\n{line}\n")),
        Some([92, 1, 9])
    );
    assert_eq!(counts("nothing ran"), None);
}
