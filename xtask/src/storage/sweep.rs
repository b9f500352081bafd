//! What trials have on the machine, and what is left of those that were killed: their folders' names hold their owner's
//! pid, and what a living process owns is not touched.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const PREFIX: &str = "flstore";

/// A folder of a trial.
#[cfg(test)]
pub(super) fn folder() -> std::io::Result<tempfile::TempDir> {
    sweep();
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir()
}

/// Removes what trials left that were killed.
pub(super) fn sweep() {
    let entries = fs::read_dir(env::temp_dir()).into_iter().flatten();
    for folder in entries.flatten().map(|entry| entry.path()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'));
        let is_left = owner.is_some_and(|(pid, _)| {
            pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
        });
        if is_left {
            eprintln!("removing what an earlier, killed trial left: {name}");
            clear(&folder);
            // What is still mounted keeps it, for the next sweep.
            if let Err(error) = fs::remove_dir_all(&folder) {
                eprintln!("{}: {error}", folder.display());
            }
        }
    }
}

/// Ends agents of a folder, and takes its mounts and loop devices away.
fn clear(folder: &Path) {
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let pid = process.file_name().to_string_lossy().into_owned();
        let is_agent = line.contains("fairlead\0agent\0");
        if is_agent && line.contains(&format!("{}/", folder.display())) {
            run("kill", &["-9", &pid]);
        }
    }
    let mounts = below(folder);
    let devices: Vec<_> = loop_devices()
        .into_iter()
        .filter(|(device, backing)| {
            let mounted = mounts.iter().any(|mount| mount.device == *device);
            mounted || backing.starts_with(folder)
        })
        .collect();
    for mount in &mounts {
        // A trial that was killed may have left it held still.
        thaw(&mount.at);
        run("umount", &[&mount.at.to_string_lossy()]);
    }
    for (device, _) in devices {
        detach(&device);
    }
}

/// A mount, and what is mounted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) at: PathBuf,
    device: String,
}

/// Mounts at a folder and below it, the last one first.
pub(super) fn below(folder: &Path) -> Vec<Mounted> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = text.lines().filter_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        Some(Mounted {
            at: PathBuf::from(head.split(' ').nth(4)?),
            device: tail.split(' ').nth(1)?.to_owned(),
        })
    });
    let mut below: Vec<_> = mounts
        .filter(|mount| mount.at.starts_with(folder))
        .collect();
    below.reverse();
    below
}

/// Every loop device that has a file, and that.
pub(crate) fn loop_devices() -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let devices = entries.filter_map(|entry| {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let device = format!("/dev/{}", entry.file_name().to_string_lossy());
        Some((device, PathBuf::from(backing.trim_end())))
    });
    devices.collect()
}

/// Lets a file system go on; whether it had been held still.
pub(super) fn thaw(at: &Path) -> bool {
    Command::new("fsfreeze")
        .arg("-u")
        .arg(at)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Takes its file from a loop device, if it has one.
pub(super) fn detach(device: &str) {
    let done = Command::new("losetup").args(["-d", device]).output();
    drop(done);
}

/// Runs a program; says so when it fails.
pub(super) fn run(program: &str, words: &[&str]) {
    let done = Command::new(program).args(words).output();
    if !done.is_ok_and(|done| done.status.success()) {
        eprintln!("{program} {}: failed", words.join(" "));
    }
}
