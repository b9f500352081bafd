//! A cluster's folder, namespaces and processes on this machine. They outlive the command that made
//! them; everything is recorded or named such that [`Cluster::remove`] finds it, also after a crash.

use super::{
    plan::{Member, Plan},
    storage,
};
use crate::{
    lab::{remove_traces, run, start_time},
    setup, workspace,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// What the namespaces' names begin with.
const PREFIX: &str = "flc";
/// How long the kernel may take to end a node with all that runs in it.
const END_LIMIT: Duration = Duration::from_secs(60);

/// A cluster on this machine, there or not.
#[derive(Clone)]
pub(crate) struct Cluster {
    name: String,
    dir: PathBuf,
    /// True once it is being removed: nothing new is made then.
    closed: Arc<Mutex<bool>>,
}

impl Cluster {
    /// The cluster that is called so.
    ///
    /// # Errors
    /// When the name is none, or there is no cache folder.
    pub(super) fn named(name: &str) -> Result<Self> {
        let fits = !name.is_empty()
            && name.len() <= 16
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        ensure!(
            fits,
            "--name {name:?}: up to 16 lower-case letters and digits"
        );
        Ok(Self {
            name: format!("{PREFIX}-{name}"),
            // Not in /tmp: that may be in memory, and containers' images are not small.
            dir: setup::cache()?.join("cluster").join(name),
            closed: Arc::default(),
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The pid of a daemon of the control plane.
    ///
    /// # Errors
    /// When it is not running.
    pub(super) fn pid_of(&self, program: &str) -> Result<i32> {
        for child in fs::read_dir(self.dir.join("children"))? {
            let name = child?.file_name();
            let pid = name.to_string_lossy();
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let first = words.split(|byte| *byte == 0).next().unwrap_or_default();
            if String::from_utf8_lossy(first).ends_with(&format!("/{program}")) {
                return Ok(pid.parse()?);
            }
        }
        bail!("{program} is not running")
    }

    /// The plan of a cluster that is up.
    ///
    /// # Errors
    /// When it is not up.
    pub(super) fn plan(&self) -> Result<Plan> {
        let path = self.dir.join("up.json");
        let text =
            fs::read(&path).context("no cluster is up; start one: cargo xtask cluster up")?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Remembers that everything is there.
    pub(super) fn set_up(&self, plan: &Plan) -> Result<()> {
        Ok(fs::write(
            self.dir.join("up.json"),
            serde_json::to_vec_pretty(plan)?,
        )?)
    }

    /// Makes the folder, after removing what a killed run left.
    ///
    /// # Errors
    /// When the cluster is up or being started, or leftovers cannot be removed.
    pub(super) fn begin(&self) -> Result<()> {
        ensure!(
            self.plan().is_err(),
            "the cluster is up; look: cargo xtask cluster status, remove: cargo xtask cluster down"
        );
        if self.dir.exists() {
            let starter = fs::read_to_string(self.dir.join("starter")).unwrap_or_default();
            let living = starter.split_once(' ').is_some_and(|(pid, start)| {
                let now = pid.parse().ok().and_then(|pid| start_time(pid).ok());
                now.is_some_and(|now| now == start)
            });
            ensure!(
                !living,
                "another command is starting this cluster: wait for it, or take another --name"
            );
            eprintln!("removing what an earlier, unfinished run left");
            self.remove()?;
        }
        fs::create_dir_all(self.dir.join("children"))?;
        let pid = std::process::id();
        let starter = format!("{pid} {}", start_time(pid)?);
        Ok(fs::write(self.dir.join("starter"), starter)?)
    }

    /// Removes processes, namespaces, control groups and the folder; what is not there is fine.
    ///
    /// # Errors
    /// What is left after a minute.
    pub(super) fn remove(&self) -> Result<()> {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        *closed = true;
        // Nodes by force: all in them is to end, and no first process hands that on.
        for pid in self.node_pids() {
            self.kill(&pid)?;
        }
        // Loop devices know no namespace.
        storage::detach(&self.dir)?;
        // The kernel empties control groups a moment after it killed what was in them.
        let end = Instant::now() + END_LIMIT;
        loop {
            let mut errors = remove_traces(&self.dir, &self.name);
            if errors.is_empty() {
                break;
            }
            if Instant::now() > end {
                let error = errors.remove(0);
                return Err(error.context("the cluster is not wholly removed; try it again"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        *closed = false;
        Ok(())
    }

    /// First processes of the nodes.
    fn node_pids(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path().join("pid"));
        files
            .filter_map(|file| fs::read_to_string(file).ok())
            .collect()
    }

    /// Ends a recorded process at once; what is another's by now is left alone.
    ///
    /// # Errors
    /// When it cannot be done.
    pub(super) fn kill(&self, pid: &str) -> Result<()> {
        match self.is_recorded(pid) {
            true => run("kill", &["-KILL", pid]),
            false => Ok(()),
        }
    }

    /// Whether a pid still is the process that was recorded.
    fn is_recorded(&self, pid: &str) -> bool {
        let record = fs::read_to_string(self.dir.join("children").join(pid));
        let now = pid.parse().ok().and_then(|pid| start_time(pid).ok());
        record.is_ok_and(|record| Some(record) == now)
    }

    /// Records a process, so that removing ends it.
    pub(super) fn record(&self, pid: u32) -> Result<()> {
        let record = self.dir.join("children").join(pid.to_string());
        Ok(fs::write(record, start_time(pid)?)?)
    }

    /// Held while something is made, so that a removal meets nothing half made.
    ///
    /// # Errors
    /// When the cluster is being removed.
    pub(super) fn making(&self) -> Result<MutexGuard<'_, bool>> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        match *closed {
            true => bail!("the cluster is being removed"),
            false => Ok(closed),
        }
    }

    /// Name of a member's network namespace, as `ip -n` takes it.
    pub(super) fn netns(&self, member: Member) -> String {
        format!("{}-{}", self.name, member.name())
    }

    /// A node's folder.
    pub(super) fn node_dir(&self, node: Member) -> PathBuf {
        self.dir.join(node.name())
    }

    /// Name of a node's control group in every hierarchy: one that a lab's sweep knows to remove.
    pub(super) fn control_group(&self, node: Member) -> String {
        format!("fairlead-test-{}", self.netns(node))
    }

    /// A command in a member's network namespace.
    pub(super) fn inside(&self, member: Member, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        // Not `ip netns exec`, which would hide the machine's mounts.
        command
            .arg(format!("--net=/run/netns/{}", self.netns(member)))
            .arg(program);
        command
    }

    /// A command in all namespaces of a node, and in its control group of version 2, where programs of
    /// sockets are.
    ///
    /// # Errors
    /// When there is no such node.
    pub(super) fn in_node(&self, node: &str, program: impl AsRef<OsStr>) -> Result<Command> {
        let file = self.dir.join(node).join("pid");
        let pid = fs::read_to_string(file)
            .with_context(|| format!("there is no node {node}; see cargo xtask cluster status"))?;
        let group = format!("fairlead-test-{}-{node}", self.name);
        let group = crate::lab::unified_group().map(|all| all.join(group));
        let mut command = match group.filter(|group| group.is_dir()) {
            None => Command::new("nsenter"),
            Some(group) => {
                let mut shell = Command::new("sh");
                shell.args(["-euc", r#"echo 0 > "$0"; exec "$@""#]);
                shell.arg(group.join("cgroup.procs")).arg("nsenter");
                shell
            }
        };
        command
            .args([
                "--target", &pid, "--mount", "--uts", "--ipc", "--net", "--pid",
            ])
            .args(["--cgroup", "--"])
            .arg(program)
            .env("PATH", search_path()?);
        Ok(command)
    }

    /// `kubectl` with the administrator's rights.
    ///
    /// # Errors
    /// When there is no cache folder.
    pub(super) fn kubectl(&self) -> Result<Command> {
        let mut command = self.inside(Member::ControlPlane, kubernetes("kubectl")?);
        command.arg("--kubeconfig").arg(self.dir.join("admin.json"));
        Ok(command)
    }

    /// Runs `kubectl` and returns what it printed.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub(super) fn ask(&self, words: &[&str]) -> Result<String> {
        workspace::output(self.kubectl()?.args(words).stdin(Stdio::null()))
    }

    /// Creates or changes objects.
    ///
    /// # Errors
    /// When the API server refuses.
    pub(super) fn apply(&self, objects: &[Value]) -> Result<()> {
        let path = self.dir.join("apply.json");
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        fs::write(&path, serde_json::to_vec(&list)?)?;
        self.ask(&["apply", "-f", &path.to_string_lossy()])?;
        Ok(())
    }

    /// Starts a process that outlives this command, and returns its pid. What it prints goes into
    /// `<log>.log` of the cluster's folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn daemon(&self, log: &str, command: &mut Command) -> Result<u32> {
        let file = fs::File::create(self.dir.join(format!("{log}.log")))?;
        // A session of its own: the terminal's Ctrl-C and its end are not meant for it.
        let mut detached = Command::new("setsid");
        detached
            .arg(command.get_program())
            .args(command.get_args())
            .envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let _making = self.making()?;
        let child = detached
            .spawn()
            .with_context(|| format!("starting {log}"))?;
        self.record(child.id())?;
        Ok(child.id())
    }

    /// The last lines of a log.
    pub(super) fn log_end(&self, log: &str) -> String {
        let path = self.dir.join(format!("{log}.log"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        format!(
            "{} ends:\n{}",
            path.display(),
            lines[lines.len().saturating_sub(8)..].join("\n")
        )
    }
}

/// Path of one of Kubernetes' programs.
pub(super) fn kubernetes(name: &str) -> Result<PathBuf> {
    let [_, kubernetes, _] = setup::cluster_programs()?;
    Ok(kubernetes.join(name))
}

/// `PATH` in which our containerd and Kubernetes come before the machine's.
pub(super) fn search_path() -> Result<std::ffi::OsString> {
    let [containerd, kubernetes, _] = setup::cluster_programs()?;
    let own = std::env::var_os("PATH").unwrap_or_default();
    let folders = [containerd, kubernetes].into_iter();
    Ok(std::env::join_paths(
        folders.chain(std::env::split_paths(&own)),
    )?)
}

/// Asks until there is an answer.
///
/// # Errors
/// Those of asking, and when there is none in time.
pub(super) fn until<T>(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(
            Instant::now() < end,
            "waited {limit:?} in vain until {what}"
        );
        thread::sleep(Duration::from_millis(100));
    }
}
