//! A pool on a file system of its own with an agent that serves volumes from it, all in the run's folder.

use super::BackEnd;
use crate::{
    csi_agent::Places,
    csi_client::Client,
    lab::{Process, Session, run},
    storage::loop_devices,
};
use anyhow::{Context, Result, ensure};
use std::{
    cell::Cell,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

/// How large the pool seems: room for what is promised. Its file takes what is written.
const POOL_BYTES: u64 = 400 << 30;
const START_LIMIT: Duration = Duration::from_secs(60);

/// The pool's file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) enum PoolFs {
    Xfs,
    Btrfs,
}

impl PoolFs {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

/// Folders, an agent and its client.
pub(super) struct Rig {
    pub(super) pool: PoolFs,
    folder: PathBuf,
    pub(super) client: Client,
    _agent: Process,
    next: Cell<u32>,
}

/// A volume that a pod has.
#[derive(Clone, Debug)]
pub(super) struct Mounted {
    pub(super) id: String,
    pub(super) block: bool,
    stage: PathBuf,
    pub(super) at: PathBuf,
}

impl Rig {
    /// Makes the file system and starts the agent.
    pub(super) fn new(session: &Arc<Session>, binaries: &Path, pool: PoolFs) -> Result<Self> {
        let folder = session.dir().join(format!("volumes-{}", pool.name()));
        fs::create_dir_all(folder.join("disk"))?;
        session
            .undo()
            .make("a pool", || made(&folder, pool).map(|undo| ((), undo)))?;
        let places = Places {
            folder: folder.clone(),
            pool: folder.join("disk/pool"),
            kubelet: folder.join("kubelet"),
        };
        let mut command = places.command(binaries)?;
        let mut agent = Process::spawn(session, "an agent of volumes", &mut command)?;
        places.served(START_LIMIT, || agent.exited())?;
        Ok(Self {
            pool,
            client: Client::new(&places.socket())?,
            folder,
            _agent: agent,
            next: Cell::new(0),
        })
    }

    /// A folder in the pool's file system that is no volume.
    pub(super) fn bare(&self) -> Result<PathBuf> {
        let bare = self.folder.join("disk/bare");
        fs::create_dir_all(&bare)?;
        Ok(bare)
    }

    /// The file of an image volume or snapshot.
    pub(super) fn image(&self, id: &str) -> Result<PathBuf> {
        let pool = self.folder.join("disk/pool");
        let file = pool.join("volumes").join(format!("{id}.img"));
        ensure!(file.exists(), "{id} is no file in the pool");
        Ok(file)
    }

    /// A name that no volume had.
    pub(super) fn fresh(&self) -> String {
        self.next.set(self.next.get() + 1);
        format!("bench-{}", self.next.get())
    }

    /// Where a pod would have the volume.
    pub(super) fn places(&self, name: &str) -> (PathBuf, PathBuf) {
        let kubelet = self.folder.join("kubelet");
        (
            kubelet.join("stage").join(name),
            kubelet.join("pods").join(name),
        )
    }

    /// Whether the driver makes such volumes; if not, what it says.
    pub(super) fn tried(&self, back_end: &BackEnd) -> Result<Option<String>> {
        let volume = back_end.class.volume(&self.fresh(), 1 << 30, None, false);
        match self.client.create(volume) {
            Ok(id) => {
                self.client.delete(&id)?;
                Ok(None)
            }
            Err(refused) => Ok(Some(refused.to_string())),
        }
    }

    /// Has a pod get a new volume; thin, so that what is written alone takes room.
    pub(super) fn mounted(&self, back_end: &BackEnd, bytes: u64, thin: bool) -> Result<Mounted> {
        let name = self.fresh();
        let volume = back_end.class.volume(&name, bytes, None, thin);
        let id = self.client.create(volume)?;
        let (stage, at) = self.places(&name);
        self.client.stage(&id, &stage, back_end.class)?;
        self.client.publish(&id, &stage, &at, back_end.class)?;
        Ok(Mounted {
            id,
            block: back_end.class.block,
            stage,
            at,
        })
    }

    /// Takes it away again and removes it.
    pub(super) fn removed(&self, volume: &Mounted) -> Result<()> {
        self.client.unpublish(&volume.id, &volume.at)?;
        self.client.unstage(&volume.id, &volume.stage)?;
        Ok(self.client.delete(&volume.id)?)
    }
}

impl Mounted {
    /// What fio reads and writes.
    pub(super) fn file(&self) -> PathBuf {
        match self.block {
            true => self.at.clone(),
            false => self.at.join("data"),
        }
    }
}

/// Makes the file system; how it goes again.
fn made(folder: &Path, pool: PoolFs) -> Result<impl FnOnce() -> Result<()> + Send + 'static> {
    let (file, at) = (folder.join("disk.img"), folder.join("disk"));
    File::create(&file)?.set_len(POOL_BYTES)?;
    let text = file.display().to_string();
    match pool {
        PoolFs::Xfs => run(
            "mkfs.xfs",
            &["-q", "-s", "size=4096", "-m", "reflink=1", &text],
        )?,
        PoolFs::Btrfs => run("mkfs.btrfs", &["-q", &text])?,
    }
    let direct = [
        "--find",
        "--show",
        "--direct-io=on",
        "--sector-size=4096",
        &text,
    ];
    let output = Command::new("losetup").args(direct).output();
    let output = output.context("starting losetup")?;
    ensure!(
        output.status.success(),
        "losetup: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let device = String::from_utf8(output.stdout)?.trim().to_owned();
    let mounted = run(
        "mount",
        &["-o", "noatime", &device, &at.display().to_string()],
    );
    // The device goes with the mount, or at once when there is none.
    run("losetup", &["-d", &device])?;
    mounted?;
    if pool == PoolFs::Btrfs {
        run("btrfs", &["quota", "enable", &at.display().to_string()])?;
    }
    let folder = folder.to_owned();
    Ok(move || {
        // Volumes first: those of a run that failed are still mounted.
        for mount in crate::lab::mounts_below(&folder) {
            if mount != at {
                run("umount", &[&mount.display().to_string()])?;
            }
        }
        for device in devices(&folder) {
            run("losetup", &["-d", &device])?;
        }
        run("umount", &[&at.display().to_string()])?;
        fs::remove_file(&file).context("removing the pool's file")
    })
}

/// Loop devices of files in a folder's pool.
fn devices(folder: &Path) -> Vec<String> {
    let pool = folder.join("disk/");
    let all = loop_devices().into_iter();
    let ours = all.filter(|(_, of)| of.starts_with(&pool) && *of != folder.join("disk.img"));
    ours.map(|(device, _)| device).collect()
}
