//! A node for trials of volumes: an agent with its volumes alone, and what it has on the machine.

use crate::workspace;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const DRIVER: &str = "csi.fairlead.dev";

/// An agent with its volumes alone, in a folder of its own. Its end leaves nothing of it.
pub(super) struct Node {
    folder: tempfile::TempDir,
    agent: Option<Child>,
}

impl Node {
    pub(super) fn new() -> Self {
        let mut node = Self {
            folder: tempfile::tempdir().unwrap(),
            agent: None,
        };
        fs::create_dir(node.place("manifests")).unwrap();
        node.start();
        node
    }

    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.place("kubelet/plugins").join(DRIVER).join("csi.sock")
    }

    pub(super) fn start(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.place("log"))
            .unwrap();
        // The last thing that a start makes.
        let registered = self
            .place("kubelet/plugins_registry")
            .join(format!("{DRIVER}-reg.sock"));
        let _of_the_last_one = fs::remove_file(&registered);
        let agent = Command::new(workspace::binaries().join("fairlead"))
            .args(["agent", "--parts", "csi", "--node-name", "n1"])
            .args(["--source", "manifests", "--health-address", "off"])
            .arg("--manifests")
            .arg(self.place("manifests"))
            .arg("--state-dir")
            .arg(self.place("state"))
            .arg("--socket")
            .arg(self.place("agent.sock"))
            .arg("--csi-pool")
            .arg(self.place("pool"))
            .arg("--kubelet-dir")
            .arg(self.place("kubelet"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !registered.exists() {
            assert!(Instant::now() < deadline, "{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.place("log")).unwrap_or_default()
    }

    pub(super) fn stop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// Mounts below the node's folder, but for the pool itself: the last one first.
    pub(super) fn mounts(&self) -> Vec<PathBuf> {
        let pool = self.place("pool/pool");
        let mut mounts = below(self.folder.path());
        mounts.retain(|at| *at != pool);
        mounts
    }

    /// Loop devices of files below the node's folder, but for the pool's own.
    pub(super) fn devices(&self) -> Vec<String> {
        let pool = self.place("pool/pool.img");
        let mut devices = Vec::new();
        for entry in fs::read_dir("/sys/block").unwrap() {
            let entry = entry.unwrap();
            let backing = fs::read_to_string(entry.path().join("loop/backing_file"));
            let backing = PathBuf::from(backing.unwrap_or_default().trim_end());
            if backing.starts_with(self.folder.path()) && backing != pool {
                devices.push(format!("/dev/{}", entry.file_name().to_string_lossy()));
            }
        }
        devices
    }

    /// Files of volumes and snapshots.
    pub(super) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let roots = ["pool", "pool/pool"].map(|root| self.place(root));
        for root in roots {
            for folder in ["volumes", "snapshots", "trash"] {
                let entries = fs::read_dir(root.join(folder)).into_iter().flatten();
                files
                    .extend(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
            }
        }
        files
    }
}

/// Mounts at a folder and below it, the last one first.
fn below(folder: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places = text.lines().filter_map(|line| line.split(' ').nth(4));
    let mut below: Vec<PathBuf> = places
        .map(PathBuf::from)
        .filter(|at| at.starts_with(folder))
        .collect();
    below.reverse();
    below
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
        let run = |program: &str, word: &Path| {
            let done = Command::new(program).arg(word).output();
            if !done.is_ok_and(|done| done.status.success()) {
                eprintln!("{program} {}: it stays", word.display());
            }
        };
        let devices = self.devices();
        let pool = self.place("pool/pool");
        let all = below(self.folder.path());
        for at in all.iter().filter(|at| **at != pool) {
            run("umount", at);
        }
        for device in devices {
            let done = Command::new("losetup").arg("-d").arg(&device).output();
            drop(done);
        }
        if all.contains(&pool) {
            run("umount", &pool);
        }
        let image = self.place("pool/pool.img");
        let text = Command::new("losetup").arg("-j").arg(&image).output();
        let text = text.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        for device in text
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.split(':').next())
        {
            let done = Command::new("losetup").arg("-d").arg(device).output();
            drop(done);
        }
    }
}
