//! An agent with its volumes alone, as trials and the bench start one.

use anyhow::{Result, bail};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

const DRIVER: &str = "csi.fairlead.dev";

/// Where its things are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Its state, socket, manifests and log.
    pub(crate) folder: PathBuf,
    pub(crate) pool: PathBuf,
    pub(crate) kubelet: PathBuf,
}

impl Places {
    /// The driver's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.kubelet.join("plugins").join(DRIVER).join("csi.sock")
    }

    /// The last thing that a start makes.
    fn registered(&self) -> PathBuf {
        let folder = self.kubelet.join("plugins_registry");
        folder.join(format!("{DRIVER}-reg.sock"))
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// What all of its agents have logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// How it is started, after one that is gone, too.
    ///
    /// # Errors
    /// Of its folder.
    pub(crate) fn command(&self, binaries: &Path) -> Result<Command> {
        let manifests = self.folder.join("manifests");
        fs::create_dir_all(&manifests)?;
        let _of_the_last_one = fs::remove_file(self.registered());
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = Command::new(binaries.join("fairlead"));
        command
            .args(["agent", "--parts", "csi", "--node-name", "n1"])
            .args(["--source", "manifests", "--health-address", "off"])
            .arg("--manifests")
            .arg(manifests)
            .arg("--state-dir")
            .arg(self.folder.join("state"))
            .arg("--socket")
            .arg(self.folder.join("agent.sock"))
            .arg("--csi-pool")
            .arg(&self.pool)
            .arg("--kubelet-dir")
            .arg(&self.kubelet)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Ok(command)
    }

    /// Waits until it serves. `ended`: whether it has.
    ///
    /// # Errors
    /// When it ends, or takes longer; with its log.
    pub(crate) fn served(
        &self,
        limit: Duration,
        mut ended: impl FnMut() -> Result<Option<ExitStatus>>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !self.registered().exists() {
            let ended = ended()?;
            if ended.is_some() || Instant::now() > deadline {
                bail!("the agent serves no volumes ({ended:?}): {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
