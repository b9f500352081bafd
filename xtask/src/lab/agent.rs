//! A running `fairlead agent` on a node of a lab.

use super::{Lab, Node, Process, node::UPLINK};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::{
    fs::{self, OpenOptions},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// How long an agent may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to end when asked.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// One agent process. Dropping it ends the process; pods, links and maps stay in the kernel.
pub(crate) struct Agent {
    process: Process,
    binary: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts the agent of a node, with `extra` arguments, and does not wait for it.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub(crate) fn spawn(lab: &Lab, node: &Node, binary: &Path, extra: &[&str]) -> Result<Self> {
        let log = node.agent_log();
        let stderr = OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = Command::new(binary);
        command
            .args(["agent", "--node-name", &node.name, "--uplink", UPLINK])
            .arg("--manifests")
            .arg(lab.manifests())
            .arg("--state-dir")
            .arg(node.state_dir())
            .arg("--socket")
            .arg(node.socket())
            .arg("--bpf-dir")
            .arg(lab.bpf_dir(node))
            .args(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        if !extra.contains(&"--cgroup") {
            // The machine's control group holds others' processes, too.
            command.args(["--cgroup", "off"]);
        }
        let process = node
            .ns
            .spawn(&format!("the agent of {}", node.name), &mut command)?;
        Ok(Self {
            process,
            binary: binary.to_owned(),
            socket: node.socket(),
            log,
        })
    }

    /// Starts the agent of a node and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time; the end of its log is in the error.
    pub(crate) fn start(lab: &Lab, node: &Node, binary: &Path, extra: &[&str]) -> Result<Self> {
        let mut agent = Self::spawn(lab, node, binary, extra)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Waits until `fairlead status` says ready: first for the socket, which costs nothing to
    /// ask, then for the agent's own word.
    ///
    /// # Errors
    /// When the agent ends or is not ready in time.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        let mut last = "it does not listen on its socket".to_owned();
        while Instant::now() < deadline {
            if let Some(status) = self.process.exited()? {
                bail!("the agent ended with {status}:\n{}", self.log_tail());
            }
            if UnixStream::connect(&self.socket).is_ok() {
                let status = self.client(&["status"])?;
                if status.status.success() {
                    return Ok(());
                }
                last =
                    String::from_utf8_lossy(&[status.stdout, status.stderr].concat()).into_owned();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!(
            "the agent is not ready after {START_LIMIT:?}: {last}\n{}",
            self.log_tail()
        )
    }

    /// Runs a client verb, `fairlead --socket … <args>`, and returns its output.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub(crate) fn client(&self, args: &[&str]) -> Result<Output> {
        Command::new(&self.binary)
            .arg("--socket")
            .arg(&self.socket)
            .args(args)
            .output()
            .with_context(|| format!("starting {}", self.binary.display()))
    }

    /// Process id, for measuring memory.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it does not end in time or not with success.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(STOP_LIMIT)?;
        if !status.success() {
            bail!("the agent ended with {status}:\n{}", self.log_tail());
        }
        Ok(())
    }

    /// Ends it at once (SIGKILL), as a crash would.
    ///
    /// # Errors
    /// When it had ended already.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait(STOP_LIMIT).map(|_| ())
    }

    /// Stops its process where it is, as a machine without a free CPU would (SIGSTOP).
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets a frozen process go on.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn thaw(&self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// The last lines of the log.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}
