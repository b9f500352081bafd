//! The demonstration's own corner of the node: a folder with a pool and a kubelet's folder in it. Its end leaves nothing
//! of it, however the demonstration ended.

use crate::{
    config::{CgroupChoice, CsiConfig},
    csi::{attached::Attached, kernel::LoopDevice, mounts},
};
use rustix::mount::{UnmountFlags, unmount};
use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// The folder.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
}

impl Place {
    /// A new folder in another one.
    pub(super) fn make(within: &Path) -> Result<Self, String> {
        let folder = within.join(format!("fairlead-demo-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| format!("{}: {error}", folder.display()))?;
        // As mountinfo will name it.
        let folder =
            fs::canonicalize(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self { folder })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn pool(&self) -> PathBuf {
        self.folder.join("pool")
    }

    /// The driver's configuration.
    pub(super) fn driver(&self, name: &str, node: &str) -> CsiConfig {
        CsiConfig {
            node_name: node.to_owned(),
            driver: name.to_owned(),
            pool: self.pool(),
            kubelet_dir: self.folder.join("kubelet"),
            cgroup: CgroupChoice::Off,
            api: None,
            namespace: None,
            claims: false,
        }
    }

    /// Where the kubelet has a volume mounted once.
    pub(super) fn stage(&self, volume: &str) -> PathBuf {
        let folder = self.folder.join("kubelet/plugins/kubernetes.io/csi/demo");
        folder.join(volume).join("globalmount")
    }

    /// Where it shows a volume to a pod.
    pub(super) fn target(&self, pod: &str, volume: &str) -> PathBuf {
        let folder = self.folder.join("kubelet/pods").join(pod);
        folder
            .join("volumes/kubernetes.io~csi")
            .join(volume)
            .join("mount")
    }

    /// What of volumes is on the node: mounts but the pool's own, loop devices, and files.
    pub(super) fn left(&self) -> io::Result<Left> {
        let own = self.pool().join("pool");
        let mut mounts = self.mounts()?;
        mounts.retain(|at| *at != own);
        let mut files = BTreeSet::new();
        for root in [self.pool(), own] {
            for folder in ["volumes", "snapshots", "trash"] {
                collect(&root.join(folder), &mut files)?;
            }
        }
        Ok(Left {
            mounts: mounts.len(),
            devices: self.devices(false)?.len(),
            files: files.len(),
        })
    }

    /// Mounts in the folder, the last one first.
    fn mounts(&self) -> io::Result<Vec<PathBuf>> {
        let mounts = mounts::all()?.into_iter().rev().map(|mount| mount.at);
        Ok(mounts.filter(|at| at.starts_with(&self.folder)).collect())
    }

    /// Loop devices of files in the folder, or on a disk that is mounted there; with that disk's own, or without.
    fn devices(&self, own: bool) -> io::Result<Vec<Attached>> {
        let mut inodes = BTreeSet::new();
        collect(&self.folder, &mut inodes)?;
        let pool = self.pool().join("pool");
        let is_mounted = mounts::at(&pool)?.is_some();
        let disk = is_mounted.then(|| fs::metadata(&pool)).transpose()?;
        let image = fs::metadata(self.pool().join("pool.img")).ok();
        let image = image.map(|image| (image.dev(), image.ino()));
        let mut found = Vec::new();
        for device in LoopDevice::all()? {
            let Some(attached) = Attached::now(device)? else {
                continue;
            };
            let of = attached.backing();
            let is_ours = inodes.contains(&of) || disk.as_ref().is_some_and(|d| d.dev() == of.0);
            if is_ours && (own || Some(of) != image) {
                found.push(attached);
            }
        }
        Ok(found)
    }

    /// Takes everything away; what can't be taken, in words for people.
    pub(super) fn clean(self) -> Result<(), String> {
        let fault = |action: &str, error: io::Error| {
            format!(
                "{}: {action}: {error}; take away by hand what is mounted there (`grep {0} /proc/self/mountinfo`), and the folder",
                self.folder.display()
            )
        };
        let own = self.pool().join("pool");
        let mounts = self.mounts().map_err(|e| fault("mounts", e))?;
        for at in mounts.iter().filter(|at| **at != own) {
            unmount(at, UnmountFlags::NOFOLLOW).map_err(|e| fault("unmounting", e.into()))?;
        }
        for device in self.devices(false).map_err(|e| fault("loop devices", e))? {
            device.detach().map_err(|e| fault("a loop device", e))?;
        }
        let image = self.devices(true).map_err(|e| fault("loop devices", e))?;
        if mounts.contains(&own) {
            unmount(&own, UnmountFlags::NOFOLLOW)
                .map_err(|e| fault("unmounting the pool", e.into()))?;
        }
        for device in image {
            device.detach().map_err(|e| fault("a loop device", e))?;
        }
        // Never through a mount.
        if !self.mounts().map_err(|e| fault("mounts", e))?.is_empty() {
            return Err(fault("it", io::Error::other("something is mounted there")));
        }
        fs::remove_dir_all(&self.folder).map_err(|e| fault("removing it", e))
    }
}

/// How much of volumes is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) mounts: usize,
    pub(super) devices: usize,
    pub(super) files: usize,
}

/// Device and inode of each file below a folder, through no link.
fn collect(folder: &Path, inodes: &mut BTreeSet<(u64, u64)>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let metadata = match entry.metadata() {
            // Gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        match metadata.is_dir() {
            true => collect(&entry.path(), inodes)?,
            false => {
                inodes.insert((metadata.dev(), metadata.ino()));
            }
        }
    }
    Ok(())
}
