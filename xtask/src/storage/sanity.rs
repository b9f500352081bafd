//! csi-sanity in each configuration of volumes.

use super::node::Node;
use crate::setup;
use std::{
    fs,
    process::{Command, Output},
};

fn run(node: &Node, options: &[&str]) -> Output {
    Command::new(setup::csi_sanity().unwrap())
        .arg("--csi.endpoint")
        .arg(format!("unix://{}", node.socket().display()))
        .arg("--csi.mountdir")
        .arg(node.place("mount"))
        .arg("--csi.stagingdir")
        .arg(node.place("stage"))
        .args(["--csi.testvolumesize", "1073741824"])
        .args(["--csi.testvolumeexpandsize", "2147483648"])
        .arg("--ginkgo.no-color")
        .args(options)
        .output()
        .unwrap()
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
    let xfs = node.place("xfs.yaml");
    fs::write(&xfs, "fsType: xfs\n").unwrap();
    let xfs = xfs.display().to_string();
    for (name, options) in [
        ("ext4", &[][..]),
        ("xfs", &["--csi.testvolumeparameters", &xfs]),
        ("block", &["--csi.testvolumeaccesstype", "block"]),
    ] {
        let output = run(&node, options);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let [passed, failed, skipped] = counts(&text).unwrap_or_else(|| panic!("{name}: {text}"));
        println!("{name}: {passed} passed, {failed} failed, {skipped} skipped");
        assert!(
            output.status.success() && failed == 0,
            "{name}: {text}\n{}",
            node.log()
        );
        // Of ControllerModifyVolume (8), and of a limit of attached volumes (1): there are none.
        assert!(passed >= 93 && skipped <= 9, "{name}: {text}");
        let left = (node.mounts(), node.devices(), node.files());
        assert_eq!(left, Default::default(), "{name}");
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
