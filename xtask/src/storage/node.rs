//! A node for trials of volumes: an agent with its volumes alone, and what it has on the machine.

use super::sweep::{below, detach, folder, loop_devices, run, thaw};
use crate::{csi_agent::Places, workspace};
use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

/// Where a pool has volumes and snapshots, and what is on its way.
const FOLDERS: [&str; 7] = [
    "volumes",
    "snapshots",
    "trash",
    "mounts",
    "subvolumes",
    "directories",
    "directories/.trash",
];

/// An agent with its volumes alone, in a folder of its own. Its end leaves nothing of it.
pub(super) struct Node {
    folder: tempfile::TempDir,
    pool: PathBuf,
    /// What the agent logs.
    level: &'static str,
    agent: Option<Child>,
}

impl Node {
    pub(super) fn new() -> Self {
        Self::that_logs("info,cni_agent=debug")
    }

    pub(super) fn that_logs(level: &'static str) -> Self {
        let folder = folder().unwrap();
        let pool = folder.path().join("pool");
        let mut node = Self::off(folder, pool);
        node.level = level;
        node.start();
        node
    }

    /// One whose pool is somewhere else. Its agent is not started yet.
    pub(super) fn with_pool(pool: PathBuf) -> Self {
        Self::off(folder().unwrap(), pool)
    }

    fn off(folder: tempfile::TempDir, pool: PathBuf) -> Self {
        Self {
            folder,
            pool,
            level: "info",
            agent: None,
        }
    }

    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn places(&self) -> Places {
        Places {
            folder: self.folder.path().to_owned(),
            pool: self.pool.clone(),
            kubelet: self.place("kubelet"),
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.places().socket()
    }

    /// Starts an agent and waits until it serves.
    pub(super) fn start(&mut self) {
        let places = self.places();
        let mut command = places.command(&workspace::binaries()).unwrap();
        let agent = command.args(["--log-level", self.level]).spawn().unwrap();
        let agent = self.agent.insert(agent);
        let served = places.served(Duration::from_secs(30), || Ok(agent.try_wait()?));
        served.unwrap();
    }

    pub(super) fn log(&self) -> String {
        self.places().log()
    }

    /// Kills the agent: it has no moment for anything.
    pub(super) fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// Mounts of volumes: the last one first.
    pub(super) fn mounts(&self) -> Vec<PathBuf> {
        let pool = self.pool.join("pool");
        let mut mounted = below(self.folder.path());
        if !self.pool.starts_with(self.folder.path()) {
            mounted.extend(below(&self.pool));
        }
        let mut mounts: Vec<_> = mounted.into_iter().map(|mount| mount.at).collect();
        mounts.retain(|at| *at != pool);
        mounts
    }

    /// Loop devices of volumes: those of a file that the pool names, which is told from its own root.
    pub(super) fn devices(&self) -> Vec<String> {
        let names = self.files();
        let all = loop_devices().into_iter();
        let ours = all.filter(|(_, backing)| {
            let name = backing.file_name().unwrap_or_default().to_string_lossy();
            backing.starts_with(&self.pool) && backing.parent() != Some(&self.pool)
                || names.iter().any(|file| *file == name)
        });
        ours.map(|(device, _)| device).collect()
    }

    /// Files and folders of volumes and snapshots.
    pub(super) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let roots = [self.pool.clone(), self.pool.join("pool")];
        for root in roots {
            for folder in FOLDERS {
                let entries = fs::read_dir(root.join(folder)).into_iter().flatten();
                let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                // Empty between two operations.
                files.extend(names.filter(|name| name != ".trash"));
            }
        }
        files
    }

    /// What the node has of volumes: mounts, loop devices, files. A device that was let go is there until nobody has it
    /// open any more; others on this machine may look at it, too.
    pub(super) fn left(&self) -> (Vec<PathBuf>, Vec<String>, Vec<String>) {
        self.settle();
        (self.mounts(), self.devices(), self.files())
    }

    /// Waits for devices that go.
    fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.devices().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends all of it at once but for what is on its disk: the agent, mounts, devices. The pool's own as well.
    pub(super) fn power_off(&mut self) {
        self.kill();
        let devices = self.devices();
        for at in self.mounts() {
            run("umount", &[&at.to_string_lossy()]);
        }
        for device in devices {
            // One that goes with its mount is gone.
            detach(&device);
        }
        self.settle();
        let pool = self.pool.join("pool");
        if below(&pool).iter().any(|mount| mount.at == pool) {
            run("umount", &[&pool.to_string_lossy()]);
        }
        let image = self.pool.join("pool.img");
        for (device, _) in loop_devices().into_iter().filter(|(_, of)| *of == image) {
            detach(&device);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What a failed trial found held still could not be unmounted.
        for at in self.mounts() {
            thaw(&at);
        }
        self.power_off();
    }
}

/// What is on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskFs {
    /// Its files can share blocks.
    Xfs,
    /// With its quotas on.
    Btrfs,
}

/// A disk of its own: a file behind a loop device, mounted. Its end leaves nothing of it.
pub(super) struct Disk {
    image: PathBuf,
    root: PathBuf,
    device: String,
    /// Goes last.
    _folder: Option<tempfile::TempDir>,
}

impl Disk {
    /// A file system whose files can share blocks, in a folder of its own.
    pub(super) fn new(bytes: u64, fs: DiskFs) -> Self {
        let own = folder().unwrap();
        Self::made(own.path().to_owned(), Some(own), bytes, fs)
    }

    /// The same in a folder that is there: the file `disk.img`, mounted at `root`.
    pub(super) fn within(folder: &Path, bytes: u64, fs: DiskFs) -> Self {
        Self::made(folder.to_owned(), None, bytes, fs)
    }

    fn made(folder: PathBuf, own: Option<tempfile::TempDir>, bytes: u64, fs: DiskFs) -> Self {
        let image = folder.join("disk.img");
        fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let path = image.to_string_lossy();
        match fs {
            DiskFs::Xfs => must("mkfs.xfs", &["-q", "-m", "reflink=1", &path]),
            DiskFs::Btrfs => must("mkfs.btrfs", &["-q", &path]),
        };
        let root = folder.join("root");
        fs::create_dir(&root).unwrap();
        let mut disk = Self {
            image,
            root,
            device: String::new(),
            _folder: own,
        };
        disk.attach();
        if fs == DiskFs::Btrfs {
            must("btrfs", &["quota", "enable", &disk.root.to_string_lossy()]);
        }
        disk
    }

    /// Where it is mounted.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Its file.
    pub(super) fn image(&self) -> &Path {
        &self.image
    }

    /// Mounts what its file has now.
    pub(super) fn attach(&mut self) {
        let device = must("losetup", &["-f", "--show", &self.image.to_string_lossy()]);
        self.device = device.trim_end().to_owned();
        must("mount", &[&self.device, &self.root.to_string_lossy()]);
    }

    /// Has its file to itself.
    pub(super) fn detach(&mut self) {
        run("umount", &[&self.root.to_string_lossy()]);
        detach(&std::mem::take(&mut self.device));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.device.is_empty() {
            self.detach();
        }
    }
}

/// Runs a program that has to succeed; what it says.
pub(super) fn must(program: &str, words: &[&str]) -> String {
    workspace::output(Command::new(program).args(words)).unwrap()
}

/// Has a file share the blocks of another one, all at one moment.
pub(super) fn clone(from: &Path, to: &Path) {
    let (from, to) = (fs::File::open(from).unwrap(), fs::File::create(to).unwrap());
    rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd()).unwrap();
}
