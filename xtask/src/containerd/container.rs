//! One container of a node's containerd.

use super::{IMAGE, Node, PATIENCE, cgroup, until};
use crate::lab::Process;
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    path::PathBuf,
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// A running container, with the `ctr run` that waits for its end.
pub(crate) struct Container {
    node: Arc<Node>,
    name: String,
    /// Process id in the node's own process namespace.
    pid: u32,
    ctr: Option<Process>,
    messages: PathBuf,
    calls: AtomicU32,
}

impl Container {
    pub(super) fn start(node: &Arc<Node>, name: &str, words: &[&str]) -> Result<Self> {
        let session = &node.session;
        let messages = session.dir().join(format!("ctr-{}-{name}", node.name));
        let group = format!("/{}/{name}", cgroup(&node.name));
        let mut command = node.command("ctr");
        command
            .args([
                "run",
                "--rm",
                "--null-io",
                "--cni",
                "--cgroup",
                &group,
                IMAGE,
                name,
            ])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&messages)?);
        let what = format!("container {name} of {}", node.name);
        let mut ctr = Process::spawn(session, &what, &mut command)?;
        let said = || {
            fs::read_to_string(&messages)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let pid = until("the container runs", || {
            if let Some(status) = ctr.exited()? {
                bail!("ctr run {name} ended, {status}: {}", said());
            }
            Ok(running(&node.ctr(&["task", "list"])?, name))
        })?;
        let node = Arc::clone(node);
        Ok(Self {
            node,
            name: name.into(),
            pid,
            ctr: Some(ctr),
            messages,
            calls: 0.into(),
        })
    }

    /// The container's network namespace, as a process outside the node can open it.
    pub(crate) fn netns(&self) -> PathBuf {
        self.node.path(&format!("/proc/{}/ns/net", self.pid))
    }

    /// Runs a program in the container to its end, whatever its exit code.
    ///
    /// # Errors
    /// When `ctr` cannot be started.
    pub(crate) fn exec(&self, words: &[&str]) -> Result<Output> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed).to_string();
        let mut command = self.node.command("ctr");
        command
            .args(["task", "exec", "--exec-id", &call, &self.name])
            .args(words);
        command
            .stdin(Stdio::null())
            .output()
            .context("starting nsenter")
    }

    /// Kills the container's process and waits until `ctr` has executed DEL and removed it.
    ///
    /// # Errors
    /// When DEL failed, or the container or its task remains.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.end()?;
        let said = fs::read_to_string(&self.messages)?;
        // It says so, and ends as if all were well.
        ensure!(
            !said.contains("level=error"),
            "ctr on removing {}: {}",
            self.name,
            said.trim()
        );
        let left = self.node.ctr(&["containers", "list", "--quiet"])?;
        ensure!(
            !left.lines().any(|line| line == self.name),
            "container {} is left",
            self.name
        );
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if let Some(mut ctr) = self.ctr.take() {
            // It may have ended by itself.
            if ctr.exited()?.is_none() {
                self.node
                    .ctr(&["task", "kill", "--signal", "SIGKILL", &self.name])?;
                ctr.wait(PATIENCE)?;
            }
        }
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("clean-up: container {}: {error:#}", self.name);
        }
    }
}

/// The process id of a task that runs, from ctr's list of tasks.
fn running(tasks: &str, name: &str) -> Option<u32> {
    tasks.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (task, pid, status) = (words.next()?, words.next()?, words.next()?);
        (task == name && status == "RUNNING").then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::running;

    #[test]
    fn only_a_running_task_has_a_process() {
        let tasks = "TASK    PID    STATUS    \nc1      90     CREATED\nc10     91     RUNNING\n";
        assert_eq!(running(tasks, "c1"), None);
        assert_eq!(running(tasks, "c10"), Some(91));
        assert_eq!(running(tasks, "c"), None);
    }
}
