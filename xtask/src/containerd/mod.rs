//! A containerd of its own for one node of a lab, with runc and `ctr run --cni`: how tests use the
//! plugin as a real runtime does.
//!
//! `ctr` has no option for CNI's folders; it reads `/etc/cni/net.d` and runs what is in
//! `/opt/cni/bin`. So the node gets a mount namespace in which `/etc`, `/opt` and `/var/lib` are
//! overlays with a layer in memory, and nothing is written to the machine. It also gets a process
//! namespace: when its first process ends, the kernel ends everything in it, however the test ended.
//!
//! Only a `ctr run` in the foreground executes the plugin's DEL, when the container ends; with
//! `--detach` nobody would. Each [`Container`] therefore keeps its `ctr` for as long as it lives.

#![cfg_attr(
    not(test),
    allow(
        dead_code,
        unused_imports,
        reason = "some parts serve the scenarios only, which are tests"
    )
)]

mod container;
pub(crate) mod image;
#[cfg(test)]
mod tests;

pub(crate) use container::Container;

use crate::{
    lab::{NetNs, Process, Session, StepId},
    workspace,
};
use anyhow::{Context, Result, bail, ensure};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// The image that containers run, imported at the start.
const IMAGE: &str = "fairlead.test/busybox:1";
/// How long containerd, runc and ctr may take for one step.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the machine's control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The node's first process, as `sh -euc` reads it. `$1`: its folder; the others: folders of
/// plugins.
const INIT: &str = r#"
dir=$1; shift
mount -t tmpfs -o mode=755 node "$dir/memory"
for at in etc opt var/lib; do
    mkdir -p "$dir/memory/$at/upper" "$dir/memory/$at/work"
    mount -t overlay overlay "/$at" \
        -o "lowerdir=/$at,upperdir=$dir/memory/$at/upper,workdir=$dir/memory/$at/work"
done
rm -rf /etc/cni /opt/cni /var/lib/cni
mkdir -p /etc/cni/net.d /opt/cni/bin /run/containerd
mount -t tmpfs -o mode=755 node /run/containerd
cp "$dir/network.conflist" /etc/cni/net.d/10-network.conflist
for folder; do ln -sf "$folder"/* /opt/cni/bin/; done
containerd --config "$dir/config.toml" &
wait "$!"
"#;

/// What a node's containerd is given.
#[derive(Clone, Debug)]
pub(crate) struct Setting<'a> {
    /// A folder of the node, for its files; the log stays there.
    pub(crate) dir: &'a Path,
    /// Folders whose programs stand in `/opt/cni/bin`, the later ones before the earlier.
    pub(crate) plugins: &'a [&'a Path],
    /// The network configuration list.
    pub(crate) network: &'a Value,
}

/// A running containerd. It ends when it and all its containers are dropped.
pub(crate) struct Containerd {
    node: Arc<Node>,
}

/// The namespaces of a running containerd.
struct Node {
    session: Arc<Session>,
    name: String,
    /// The first process, whose end is the end of all.
    init: u32,
    kill: StepId,
    process: Process,
    cgroups: StepId,
}

impl Containerd {
    /// Starts containerd in a node's network namespace and imports the image.
    ///
    /// # Errors
    /// When containerd or runc is missing, or does not start; with the end of its log.
    pub(crate) fn start(netns: &NetNs, setting: &Setting<'_>) -> Result<Self> {
        let dir = setting.dir.join("containerd");
        fs::create_dir_all(dir.join("memory"))?;
        fs::write(
            dir.join("network.conflist"),
            serde_json::to_vec_pretty(setting.network)?,
        )?;
        fs::write(dir.join("config.toml"), config(&dir))?;
        let log_path = dir.join("containerd.log");
        let log = fs::File::create(&log_path)?;

        let name = netns.name().to_owned();
        let session = Arc::clone(netns.session());
        // Undone in reverse: first the processes, then the groups they were in.
        let group = name.clone();
        let undo = move || remove_cgroups(&group);
        let ((), cgroups) = session.undo().make("control groups", || Ok(((), undo)))?;
        let mut command = Command::new("unshare");
        command
            // Mounts of the machine that come or go later do so here as well.
            .args(["--mount", "--propagation", "slave"])
            .args(["--pid", "--fork", "--mount-proc", "--kill-child=KILL"])
            .args(["sh", "-euc", INIT, "init"])
            .arg(&dir)
            .args(setting.plugins)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut process = netns.spawn(&format!("containerd of {name}"), &mut command)?;
        let init = first_child(&mut process).with_context(|| log_end(&log_path))?;
        let pid = Pid::from_raw(i32::try_from(init)?).context("a process has a pid")?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("the node's first process")?;
        let undo = move || match pidfd_send_signal(&pidfd, Signal::KILL) {
            Err(Errno::SRCH) => Ok(()),
            sent => sent.context("killing the node's first process"),
        };
        let ((), kill) = session
            .undo()
            .make("the node's processes", || Ok(((), undo)))?;
        let mut node = Node {
            session,
            name,
            init,
            kill,
            process,
            cgroups,
        };
        node.wait_ready().with_context(|| log_end(&log_path))?;

        let archive = dir.join("image.tar");
        fs::write(&archive, image::busybox(IMAGE)?)?;
        node.ctr(&["images", "import", &archive.to_string_lossy()])?;
        Ok(Self {
            node: Arc::new(node),
        })
    }

    /// Runs a container with `ctr run --cni` and returns when it runs, its network set up. CNI sees
    /// the container id `default-<name>` and the interface `eth0`.
    ///
    /// # Errors
    /// When it does not come to run; with what `ctr` said, a plugin's error among it.
    pub(crate) fn run(&self, name: &str, words: &[&str]) -> Result<Container> {
        Container::start(&self.node, name, words)
    }
}

impl Node {
    /// A command inside the node's namespaces.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let init = self.init.to_string();
        command.args([
            "--target", &init, "--mount", "--net", "--pid", "--", program,
        ]);
        command
    }

    /// Runs `ctr` to its end and returns what it printed.
    fn ctr(&self, words: &[&str]) -> Result<String> {
        workspace::output(self.command("ctr").args(words))
    }

    /// Path of something as a process of the node sees it.
    fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    fn wait_ready(&mut self) -> Result<()> {
        let socket = self.path("/run/containerd/containerd.sock");
        until("containerd answers", || {
            if let Some(status) = self.process.exited()? {
                bail!("containerd ended: {status}");
            }
            Ok((socket.exists() && self.ctr(&["version"]).is_ok()).then_some(()))
        })
    }

    /// Ends the first process, and by that all others; then removes what the kernel keeps.
    fn end(&mut self) -> Result<()> {
        self.session.undo().undo(self.kill)?;
        self.process.wait(PATIENCE)?;
        self.session.undo().undo(self.cgroups)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("clean-up: containerd of {}: {error:#}", self.name);
        }
    }
}

fn config(dir: &Path) -> String {
    format!(
        "version = 2\n\
         root = \"{}/memory/root\"\n\
         state = \"/run/containerd/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\n\
         address = \"/run/containerd/containerd.sock\"\n",
        dir.display()
    )
}

/// The process that `unshare` forked: the first one of the new process namespace.
fn first_child(process: &mut Process) -> Result<u32> {
    let children = format!("/proc/{0}/task/{0}/children", process.id());
    until("the node's first process starts", || {
        if let Some(status) = process.exited()? {
            bail!("unshare ended: {status}");
        }
        Ok(fs::read_to_string(&children)?.trim().parse().ok())
    })
}

/// Asks until there is an answer.
fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(
            Instant::now() < end,
            "waited {PATIENCE:?} in vain until {what}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// Name of the control group that holds those of a node's containers.
fn cgroup(node: &str) -> String {
    format!("fairlead-test-{node}")
}

/// Removes the node's groups from every hierarchy. The processes in them have been killed; the
/// kernel empties the groups a moment later.
fn remove_cgroups(node: &str) -> Result<()> {
    let name = cgroup(node);
    let hierarchies = fs::read_dir(CGROUPS)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path());
    for hierarchy in hierarchies.chain([PathBuf::from(CGROUPS)]) {
        let group = hierarchy.join(&name);
        until("the control groups are empty", || {
            Ok(remove_group(&group).then_some(()))
        })?;
    }
    Ok(())
}

fn remove_group(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() && !remove_group(&entry.path()) {
            return false;
        }
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}

fn log_end(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    format!(
        "containerd's log ends:\n{}",
        lines[lines.len().saturating_sub(8)..].join("\n")
    )
}
