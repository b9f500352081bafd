//! A pool on a file system of its own with an agent that serves volumes from it, all in the run's folder.

use super::BackEnd;
use crate::{
    csi_client::Client,
    lab::{Process, Session, run},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    cell::Cell,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// How large the pool seems: room for what is promised. Its file takes what is written.
const POOL_BYTES: u64 = 400 << 30;
const START_LIMIT: Duration = Duration::from_secs(60);
const DRIVER: &str = "csi.fairlead.dev";

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
        fs::create_dir_all(folder.join("manifests"))?;
        fs::create_dir_all(folder.join("disk"))?;
        session
            .undo()
            .make("a pool", || made(&folder, pool).map(|undo| ((), undo)))?;
        let place = |name: &str| folder.join(name);
        let log = File::create(place("log"))?;
        let mut command = Command::new(binaries.join("fairlead"));
        command
            .args(["agent", "--parts", "csi", "--node-name", "n1"])
            .args(["--source", "manifests", "--health-address", "off"])
            .arg("--manifests")
            .arg(place("manifests"))
            .arg("--state-dir")
            .arg(place("state"))
            .arg("--socket")
            .arg(place("agent.sock"))
            .arg("--csi-pool")
            .arg(place("disk/pool"))
            .arg("--kubelet-dir")
            .arg(place("kubelet"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut agent = Process::spawn(session, "an agent of volumes", &mut command)?;
        let plugins = place("kubelet/plugins").join(DRIVER);
        let registered = place("kubelet/plugins_registry").join(format!("{DRIVER}-reg.sock"));
        let deadline = Instant::now() + START_LIMIT;
        while !registered.exists() {
            let ended = agent.exited()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(place("log"))?;
                bail!("the agent doesn't serve volumes ({ended:?}): {log}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self {
            pool,
            client: Client::new(&plugins.join("csi.sock"))?,
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
        match self
            .client
            .create(&self.fresh(), back_end.class, 1 << 30, None, false)
        {
            Ok(id) => self.client.delete(&id).map(|()| None),
            Err(refused) => Ok(Some(format!("{refused:#}"))),
        }
    }

    /// Has a pod get a new volume; thin, so that what is written alone takes room.
    pub(super) fn mounted(&self, back_end: &BackEnd, bytes: u64, thin: bool) -> Result<Mounted> {
        let name = self.fresh();
        let id = self
            .client
            .create(&name, back_end.class, bytes, None, thin)?;
        let (stage, at) = self.places(&name);
        self.client.stage(&id, back_end.class, &stage)?;
        self.client.publish(&id, back_end.class, &stage, &at)?;
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
        self.client.delete(&volume.id)
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
        for device in devices(&folder)? {
            run("losetup", &["-d", &device])?;
        }
        run("umount", &[&at.display().to_string()])?;
        fs::remove_file(&file).context("removing the pool's file")
    })
}

/// Loop devices of files in a folder's pool.
fn devices(folder: &Path) -> Result<Vec<String>> {
    let pool = folder.join("disk/");
    let mut devices = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let backing = fs::read_to_string(entry.path().join("loop/backing_file"));
        let backing = PathBuf::from(backing.unwrap_or_default().trim_end());
        if backing.starts_with(&pool) && backing != folder.join("disk.img") {
            devices.push(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    Ok(devices)
}
