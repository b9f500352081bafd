//! The node under the walk, from its inside: files of devices, programs that end, what stays.

use super::{
    super::{
        place::{Cluster, until},
        processes,
    },
    LIMIT, NODE,
};
use crate::workspace;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The node's file system, as this process sees it.
pub(super) fn root(cluster: &Cluster) -> Result<PathBuf> {
    let pid = fs::read_to_string(cluster.dir().join(NODE).join("pid"))?;
    Ok(PathBuf::from(format!("/proc/{}/root", pid.trim())))
}

fn sh(cluster: &Cluster, script: &str) -> Result<String> {
    workspace::output(cluster.in_node(NODE, "sh")?.args(["-euc", script]))
}

/// Minor numbers of memory devices that every container may use: null, zero, full, urandom. Files of one device are one.
const MINORS: [u32; 4] = [3, 5, 7, 9];

/// Makes the file of a device that does no harm, by the number at its end; its folder is the node's own.
pub(super) fn plug(cluster: &Cluster, path: &str) -> Result<()> {
    let number = path.chars().last().and_then(|digit| digit.to_digit(10));
    let minor = number.and_then(|number| MINORS.get(usize::try_from(number).ok()?));
    let minor = minor.context("a path that ends with a number")?;
    let script = format!(
        "mountpoint -q /dev/net || {{ echo 'the node has no /dev/net of its own: the machine has no /dev/net/tun, or the cluster is of an older version' >&2; exit 1; }}; \
         [ -e {path} ] || mknod -m 666 {path} c 1 {minor}"
    );
    sh(cluster, &script).map(|_| ())
}

/// Takes it away.
pub(super) fn unplug(cluster: &Cluster, path: &str) -> Result<()> {
    sh(cluster, &format!("rm -f {path}")).map(|_| ())
}

/// What the part may have left: sockets beside the kubelet's own, specifications for the runtime, mounts at the kubelet's
/// folders.
pub(super) fn left(cluster: &Cluster) -> Result<Vec<String>> {
    let script = "cd /var/lib/kubelet; \
        for file in device-plugins/*.sock plugins_registry/*fairlead* plugins/fairlead-devices/* plugins/devices.fairlead.dev/* /run/cdi/fairlead-*; do \
            [ ! -e \"$file\" ] || echo \"$file\"; \
        done; \
        grep -o ' /var/lib/kubelet/[a-z_-]* ' /proc/self/mountinfo || true";
    let known = "device-plugins/kubelet.sock";
    let all = sh(cluster, script)?;
    let lines = all.lines().map(|line| line.trim().to_owned());
    Ok(lines
        .filter(|line| line != known && !line.is_empty())
        .collect())
}

/// When a socket of the node was made.
pub(super) fn born(cluster: &Cluster, socket: &str) -> Result<Option<SystemTime>> {
    let path = root(cluster)?.join(socket.trim_start_matches('/'));
    match fs::symlink_metadata(&path) {
        Ok(about) => {
            let since = Duration::new(about.ctime().try_into()?, about.ctime_nsec().try_into()?);
            Ok(Some(SystemTime::UNIX_EPOCH + since))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("looking at {}", path.display())),
    }
}

/// Waits until a socket is there that is younger than `before`; answers when it was made.
pub(super) fn anew(
    cluster: &Cluster,
    socket: &str,
    before: Option<SystemTime>,
) -> Result<SystemTime> {
    until(LIMIT, &format!("{socket} is there anew"), || {
        let now = born(cluster, socket)?;
        Ok(now.filter(|now| Some(*now) > before))
    })
}

/// Where the kubelet takes resources.
pub(super) const REGISTRATION: &str = "/var/lib/kubelet/device-plugins/kubelet.sock";
/// Where the node's agent answers, from its start on.
pub(super) const AGENT: &str = "/run/fairlead/agent.sock";

/// Ends the kubelet at once, and waits until another one takes resources; answers since when it does.
pub(super) fn restart_kubelet(cluster: &Cluster) -> Result<SystemTime> {
    let before = born(cluster, REGISTRATION)?;
    processes::kill(cluster, NODE, "kubelet")?;
    anew(cluster, REGISTRATION, before)
}

/// Ends the node's agent at once, and waits until another one is there; answers since when.
pub(super) fn restart_agent(cluster: &Cluster) -> Result<SystemTime> {
    let before = born(cluster, AGENT)?;
    processes::kill(cluster, NODE, "fairlead")?;
    anew(cluster, AGENT, before)
}

/// A kubelet that is kept from running: without its configuration it ends at each start.
pub(super) struct Stopped {
    kept: PathBuf,
    config: PathBuf,
}

impl Stopped {
    pub(super) fn begin(cluster: &Cluster) -> Result<Self> {
        let config = cluster.dir().join(NODE).join("kubelet.json");
        let kept = config.with_extension("kept");
        fs::rename(&config, &kept)?;
        let stopped = Self { kept, config };
        processes::kill(cluster, NODE, "kubelet")?;
        Ok(stopped)
    }

    /// Lets it run; waits until it takes resources.
    pub(super) fn end(self, cluster: &Cluster) -> Result<()> {
        let before = born(cluster, REGISTRATION)?;
        drop(self);
        anew(cluster, REGISTRATION, before).map(|_| ())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Err(error) = fs::rename(&self.kept, &self.config) {
            eprintln!("clean-up: {} stays away: {error}", self.config.display());
        }
    }
}

/// A kubelet that is configured otherwise for a while.
pub(super) struct Configured {
    config: PathBuf,
    text: Vec<u8>,
}

impl Configured {
    /// Has it start anew with these fields of its configuration.
    pub(super) fn begin(cluster: &Cluster, fields: &Value) -> Result<Self> {
        let config = cluster.dir().join(NODE).join("kubelet.json");
        let text = fs::read(&config)?;
        let mut changed: Value = serde_json::from_slice(&text)?;
        for (name, value) in fields.as_object().context("fields")? {
            changed[name] = value.clone();
        }
        fs::write(&config, serde_json::to_vec_pretty(&changed)?)?;
        let this = Self { config, text };
        restart_kubelet(cluster)?;
        Ok(this)
    }

    /// One that starts a container anew within a second, however often it ended: else it waits longer each time, up to five
    /// minutes, and a trial would be one of its patience.
    pub(super) fn quick(cluster: &Cluster) -> Result<Self> {
        let often = json!({ "crashLoopBackOff": { "maxContainerRestartPeriod": "1s" } });
        Self::begin(cluster, &often)
    }

    /// Has it start anew as it was.
    pub(super) fn end(self, cluster: &Cluster) -> Result<()> {
        drop(self);
        restart_kubelet(cluster).map(|_| ())
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.config, &self.text) {
            eprintln!("clean-up: {} stays changed: {error}", self.config.display());
        }
    }
}

/// A process of a container, by an argument that nobody else has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Of `/proc/PID/stat`: clock ticks since the machine's start.
    started: String,
    /// Device number of what it has open as file 3.
    pub(super) device: u64,
}

/// The process with that argument; none when it has ended.
pub(super) fn process(argument: &str) -> Result<Option<Process>> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        if words.any(|word| word == argument.as_bytes()) {
            return read_process(pid, &entry.path()).map(Some);
        }
    }
    Ok(None)
}

fn read_process(pid: u32, at: &Path) -> Result<Process> {
    let stat = fs::read_to_string(at.join("stat"))?;
    // The name before it may have spaces and parentheses.
    let after = stat.rsplit_once(") ").context("a name in parentheses")?.1;
    let started = after.split(' ').nth(19).context("a start time")?;
    let device = fs::metadata(at.join("fd/3")).context("what the process has open as 3")?;
    Ok(Process {
        pid,
        started: started.to_owned(),
        device: device.rdev(),
    })
}
