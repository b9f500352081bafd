//! `fairlead volume demo` as people run it: each step holds, and nothing is left however it ends.

use super::node::Node;
use crate::workspace;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

fn demo(folder: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(workspace::binaries().join("fairlead"));
    command
        .args(["volume", "demo", "--folder"])
        .arg(folder)
        .args(options)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// What is left of a demonstration. Whoever looks through the machine's loop devices has one open for a moment, and it
/// goes when that is closed.
fn left(folder: &Path) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let left = left_now(folder);
        if left.is_empty() || Instant::now() >= end {
            return left;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Files, mounts and the files behind loop devices.
fn left_now(folder: &Path) -> Vec<String> {
    let mut left: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = folder.display().to_string();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&at))
            .map(str::to_owned),
    );
    for entry in fs::read_dir("/sys/block").unwrap() {
        let backing = entry.unwrap().path().join("loop/backing_file");
        left.extend(
            fs::read_to_string(backing)
                .ok()
                .filter(|file| file.contains(&at)),
        );
    }
    left
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn each_step_of_the_demonstration_holds_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    for (fs, size) in [("ext4", "64Mi"), ("xfs", "320Mi")] {
        let output = demo(folder.path(), &["--fs", fs, "--size", size])
            .output()
            .unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        for call in [
            "GetInfo",
            "NotifyRegistrationStatus",
            "GetPluginInfo",
            "Probe",
            "NodeGetInfo",
            "GetCapacity",
            "CreateVolume",
            "ControllerPublishVolume",
            "NodeStageVolume",
            "NodePublishVolume",
            "NodeGetVolumeStats",
            "CreateSnapshot",
            "ControllerExpandVolume",
            "DeleteSnapshot",
            "NodeUnpublishVolume",
            "NodeUnstageVolume",
            "ControllerUnpublishVolume",
            "DeleteVolume",
            "ListVolumes",
            "ListSnapshots",
        ] {
            assert!(said.contains(&format!(". {call}: ")), "{call}: {said}");
        }
        // A mounted ext4 grows by right alone, which it says when it lacks it.
        let grown = said.contains(". NodeExpandVolume: ");
        let lacks = fs == "ext4" && said.contains("CAP_SYS_RESOURCE");
        assert!(grown || lacks, "{said}");
        assert!(
            said.contains("requiredBytes") || said.contains("required_bytes"),
            "{said}"
        );
        assert!(said.contains("no space left after"), "{said}");
        assert_eq!(left(folder.path()), [""; 0], "{said}");
    }
}

#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn a_demonstration_that_is_interrupted_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let mut running = demo(folder.path(), &[])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
        // While the pod fills its volume.
        let filling = lines.find(|line| line.as_ref().unwrap().contains("% of the size written"));
        assert!(
            filling.is_some(),
            "{}",
            text(&running.wait_with_output().unwrap())
        );
        kill_process(Pid::from_child(&running), signal).unwrap();
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(running.wait().unwrap().code(), Some(130), "{rest:?}");
        assert_eq!(left(folder.path()), [""; 0], "{rest:?}");
    }
}

#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn a_demonstration_whose_step_fails_names_it_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let programs = tempfile::tempdir().unwrap();
    let broken = programs.path().join("mkfs.ext4");
    fs::write(&broken, "#!/bin/sh\necho broken on purpose >&2\nexit 3\n").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = demo(folder.path(), &["--size", "64Mi"])
        .env("PATH", format!("{}:{path}", programs.path().display()))
        .output()
        .unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("NodeStageVolume was refused") && said.contains("broken on purpose"),
        "{said}"
    );
    assert_eq!(left(folder.path()), [""; 0], "{said}");
}

#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn what_the_demonstration_lacks_is_named_before_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path(), &["--size", "1Pi"]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("name another --folder"), "{said}");
    let output = demo(folder.path(), &[])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("mkfs.ext4") && said.contains("install"),
        "{said}"
    );
    assert_eq!(left(folder.path()), [""; 0], "{said}");
}

#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn an_agent_tells_of_its_volumes_and_finds_its_node_whole() {
    let node = Node::new();
    let ask = |words: &[&str]| {
        Command::new(workspace::binaries().join("fairlead"))
            .arg("--socket")
            .arg(node.place("agent.sock"))
            .args(words)
            .output()
            .unwrap()
    };
    for (words, code, part) in [
        (&["volume", "list", "-o", "json"][..], 0, "[]"),
        (&["volume", "snapshots"], 0, "SNAPSHOT"),
        (&["volume", "usage"], 0, "available"),
        (&["volume", "check"], 0, "0 volumes, 0 snapshots, 0 files"),
        (&["volume", "get", "pvc-1"], 1, "`fairlead volume list`"),
    ] {
        let output = ask(words);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(part), "{words:?}: {said}");
    }
}
