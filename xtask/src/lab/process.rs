//! A child process that does not outlive its lab.

use super::{session::Session, undo::StepId};
use anyhow::{Context, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, OwnedFd},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    fs,
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::Arc,
    time::Duration,
};

/// How long a process may take to end by itself before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running child. Recorded in the run's folder, so that a later run can end it if this one is
/// killed.
pub(crate) struct Process {
    session: Arc<Session>,
    what: String,
    child: Child,
    pidfd: Arc<OwnedFd>,
    step: StepId,
}

impl Process {
    /// Starts a command. It inherits the network namespace of the calling thread; see
    /// [`super::NetNs::spawn`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn spawn(session: &Arc<Session>, what: &str, command: &mut Command) -> Result<Self> {
        let children = session.dir().join("children");
        let ((child, pidfd), step) = session.undo().make(what, || {
            let child = command
                .spawn()
                .with_context(|| format!("starting {}", command.get_program().display()))?;
            let record = children.join(child.id().to_string());
            let pid = Pid::from_child(&child);
            let pidfd = Arc::new(pidfd_open(pid, PidfdFlags::empty())?);
            fs::write(&record, start_time(child.id())?)?;
            let handle = Arc::clone(&pidfd);
            let undo = move || {
                end(&handle)?;
                fs::remove_file(&record).context("removing the record of a process")
            };
            Ok(((child, pidfd), undo))
        })?;
        Ok(Self {
            session: Arc::clone(session),
            what: what.to_owned(),
            child,
            pidfd,
            step,
        })
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        pidfd_send_signal(&self.pidfd, signal)
            .with_context(|| format!("sending {signal:?} to {}", self.what))
    }

    /// Waits for the end, at most `limit`.
    ///
    /// # Errors
    /// When the process still runs after that.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        ensure!(
            ended_within(&self.pidfd, limit)?,
            "{} still runs after {limit:?}",
            self.what
        );
        Ok(self.child.wait()?)
    }

    /// The exit status if the process has ended.
    ///
    /// # Errors
    /// Those of the system call.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }
}

impl Drop for Process {
    /// Ends the process: politely, then by force.
    fn drop(&mut self) {
        if let Err(error) = self.session.undo().undo(self.step) {
            eprintln!("clean-up: {error:#}");
        }
        if let Err(error) = self.child.wait() {
            eprintln!("clean-up: waiting for {}: {error}", self.what);
        }
    }
}

fn ended_within(pidfd: &OwnedFd, limit: Duration) -> Result<bool> {
    let limit = Timespec::try_from(limit)?;
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&limit)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

/// SIGTERM, some patience, SIGKILL. A process that is gone already is fine.
fn end(pidfd: &OwnedFd) -> Result<()> {
    for signal in [Signal::TERM, Signal::KILL] {
        match pidfd_send_signal(pidfd.as_fd(), signal) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            sent => sent?,
        }
        if ended_within(pidfd, PATIENCE)? {
            return Ok(());
        }
    }
    anyhow::bail!("it survives SIGKILL")
}

/// When a process was started, in the kernel's ticks: with the pid it names a process for ever.
///
/// # Errors
/// When there is no such process.
pub(crate) fn start_time(pid: u32) -> Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; the fields after it are plain numbers.
    let (_, fields) = stat
        .rsplit_once(')')
        .context("unexpected form of /proc/PID/stat")?;
    let start = fields
        .split_whitespace()
        .nth(19)
        .context("short /proc/PID/stat")?;
    Ok(start.to_owned())
}

/// Ends the process that an earlier run recorded, unless its pid belongs to another one by now.
pub(super) fn end_recorded(record: &Path) -> Result<()> {
    let pid = record
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.parse().ok());
    let Some(pid) = pid else { return Ok(()) };
    let ours = fs::read_to_string(record)?;
    let raw = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("a strange pid")?;
    // The descriptor first: it stays with this process even if the pid is used again.
    let Ok(pidfd) = pidfd_open(raw, PidfdFlags::empty()) else {
        return Ok(());
    };
    if start_time(pid).is_ok_and(|start| start == ours) {
        end(&pidfd)?;
    }
    Ok(())
}
