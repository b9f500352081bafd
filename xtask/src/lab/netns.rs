//! A network namespace, and how to do something inside it.
//!
//! Work inside a namespace happens on a thread of its own that moves there and ends with the
//! work. Children started by it are born inside, without a wrapper process, and the machine's
//! mounts (bpffs among them) stay visible, which `ip netns exec` would hide.

use super::{
    process::Process,
    session::{NETNS_DIR, Session, run},
    undo::StepId,
};
use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
};

/// A named network namespace. Removed when dropped.
pub(crate) struct NetNs {
    session: Arc<Session>,
    name: String,
    path: PathBuf,
    file: File,
    step: StepId,
}

impl NetNs {
    /// Makes a namespace named `<run>-<suffix>` with its loopback interface up.
    ///
    /// # Errors
    /// When `ip` fails.
    pub(crate) fn new(session: &Arc<Session>, suffix: &str) -> Result<Self> {
        let name = format!("{}-{suffix}", session.name());
        let path = Path::new(NETNS_DIR).join(&name);
        let what = format!("network namespace {name}");
        let (file, step) = session.undo().make(&what, || {
            run("ip", &["netns", "add", &name])?;
            let file = File::open(&path)?;
            let (name, path) = (name.clone(), path.clone());
            let undo = move || match path.exists() {
                true => run("ip", &["netns", "delete", &name]),
                false => Ok(()),
            };
            Ok((file, undo))
        })?;
        let namespace = Self {
            session: Arc::clone(session),
            name,
            path,
            file,
            step,
        };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Switches duplicate address detection off for interfaces to come: their addresses serve at
    /// once. For namespaces that the lab addresses itself; pods of plugins keep the default.
    ///
    /// # Errors
    /// Those of the sysctl.
    pub(crate) fn without_dad(self) -> Result<Self> {
        self.sysctl(&[("net/ipv6/conf/default/accept_dad", "0")])?;
        Ok(self)
    }

    /// The name, as `ip -n NAME` takes it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The path, as `CNI_NETNS` and `nsenter --net=PATH` take it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The run that owns the namespace.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Does something inside the namespace and waits for it. Sockets made there stay there.
    ///
    /// # Errors
    /// When the thread cannot move into the namespace, or those of `work`.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace for good. For threads that live for one
    /// purpose; everybody else takes [`NetNs::run`].
    ///
    /// # Errors
    /// When the kernel refuses (no CAP_SYS_ADMIN).
    pub(crate) fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("entering network namespace {}", self.name))
    }

    /// Starts a child inside.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn spawn(&self, what: &str, command: &mut Command) -> Result<Process> {
        self.run(|| Process::spawn(&self.session, what, command))
    }

    /// Runs a child inside to its end and returns its output, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn output(&self, command: &mut Command) -> Result<Output> {
        self.run(|| {
            command
                .output()
                .with_context(|| format!("starting {}", command.get_program().display()))
        })
    }

    /// Runs `ip` commands inside, one a line, in one process.
    ///
    /// # Errors
    /// When one of them fails; the rest is not run then.
    pub(crate) fn ip(&self, commands: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting ip; is iproute2 installed?")?;
        let mut stdin = child.stdin.take().context("no pipe to ip")?;
        let sent = stdin.write_all(commands.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(
            sent.is_ok() && output.status.success(),
            "ip in {}: {}\n{commands}",
            self.name,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Sets sysctls of the namespace, for example `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// When one does not exist or refuses the value.
    pub(crate) fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in settings {
                fs::write(Path::new("/proc/sys").join(name), value)
                    .with_context(|| format!("setting {name} to {value}"))?;
            }
            Ok(())
        })
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if let Err(error) = self.session.undo().undo(self.step) {
            eprintln!("clean-up: {error:#}");
        }
    }
}
