//! A /dev with the devices, and both ends that are compared, the agent and the bare server, each with a kubelet of its own.

use super::{
    DEVICES, MANY, Memory, RESOURCES,
    kubelet::{Known, Kubelet},
    leaves, name, size,
};
use crate::{
    bench::cni::status_kib,
    lab::{Process, Session, run},
};
use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Agent,
    Bare,
}

/// A number that no driver has for good, and one of the memory's devices.
const NOBODYS: u32 = 240;
const MEMORY: u32 = 1;

/// A folder that is a /dev to who is started in it. Its devices have numbers of their own, for files of one number are one
/// device to the agent; nobody opens them.
#[derive(Clone, Debug)]
pub(super) struct Tree(PathBuf);

impl Tree {
    /// With all devices.
    fn new(session: &Arc<Session>, at: PathBuf) -> Result<Self> {
        fs::create_dir_all(&at)?;
        let text = at.display().to_string();
        session.undo().make("a folder of devices", || {
            let options = ["-t", "tmpfs", "-o", "mode=0755,size=16m", "tmpfs", &text];
            run("mount", &options)?;
            let text = text.clone();
            Ok(((), move || run("umount", &[&text])))
        })?;
        // What a program may expect of any /dev.
        for (name, minor) in [("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)] {
            device(&at.join(name), MEMORY, minor)?;
        }
        let tree = Self(at);
        for resource in 0..RESOURCES {
            fs::create_dir_all(tree.folder(resource))?;
            for device in 0..size(resource) {
                tree.come(resource, device)?;
            }
        }
        Ok(tree)
    }

    fn folder(&self, resource: usize) -> PathBuf {
        self.0.join(format!("bench/r{resource:02}"))
    }

    fn file(&self, resource: usize, device: usize) -> PathBuf {
        self.folder(resource).join(format!("d{device:02}"))
    }

    /// A device that wasn't there is.
    pub(super) fn come(&self, resource: usize, number: usize) -> Result<()> {
        let minor = u32::try_from(resource * MANY + number)?;
        device(&self.file(resource, number), NOBODYS, minor)
    }

    /// One that was isn't.
    pub(super) fn go(&self, resource: usize, number: usize) -> Result<()> {
        let file = self.file(resource, number);
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))
    }
}

fn device(file: &Path, major: u32, minor: u32) -> Result<()> {
    let (mode, number) = (Mode::from_raw_mode(0o666), makedev(major, minor));
    let made = mknodat(CWD, file, FileType::CharacterDevice, mode, number);
    made.with_context(|| format!("making the device {}", file.display()))
}

/// Which device of its resource an id means: `bench-r04-d17-<digest>` is 17.
pub(super) fn number(id: &str) -> Option<usize> {
    id.split('-').nth(2)?.strip_prefix('d')?.parse().ok()
}

/// One side of the comparison; the process ends before its kubelet.
struct End {
    process: Option<Process>,
    kubelet: Kubelet,
}

/// Everything.
pub(super) struct Rig {
    session: Arc<Session>,
    fairlead: PathBuf,
    folder: PathBuf,
    pub(super) tree: Tree,
    agent: End,
    bare: End,
}

impl Rig {
    /// Makes the devices and the kubelets; nobody serves yet.
    pub(super) fn new(session: &Arc<Session>, binaries: &Path) -> Result<Self> {
        let folder = session.dir().join("devices");
        let end = |name: &str| -> Result<End> {
            Ok(End {
                process: None,
                kubelet: Kubelet::new(folder.join(name))?,
            })
        };
        let (agent, bare) = (end("agent")?, end("bare")?);
        for name in ["config", "manifests"] {
            fs::create_dir_all(folder.join(name))?;
        }
        Ok(Self {
            session: session.clone(),
            fairlead: binaries.join("fairlead"),
            tree: Tree::new(session, folder.join("dev"))?,
            folder,
            agent,
            bare,
        })
    }

    fn end(&mut self, who: Who) -> &mut End {
        match who {
            Who::Agent => &mut self.agent,
            Who::Bare => &mut self.bare,
        }
    }

    pub(super) fn kubelet(&self, who: Who) -> &Kubelet {
        match who {
            Who::Agent => &self.agent.kubelet,
            Who::Bare => &self.bare.kubelet,
        }
    }

    /// Tells the agent of all resources.
    pub(super) fn configure(&self) -> Result<()> {
        let mut text = "resources:\n".to_owned();
        for resource in 0..RESOURCES {
            let name = name(resource);
            writeln!(
                text,
                "- {{name: {name}, find: [{{path: \"/dev/bench/r{resource:02}/*\"}}]}}"
            )?;
        }
        Ok(fs::write(self.folder.join("config/devices.yaml"), text)?)
    }

    /// Starts one in the /dev of its own, after it has ended, and returns when. `fresh`: an agent that knows nothing of
    /// earlier ones.
    pub(super) fn start(&mut self, who: Who, fresh: bool) -> Result<Instant> {
        self.stop(who)?;
        let state = self.folder.join("state");
        if fresh && who == Who::Agent && state.exists() {
            fs::remove_dir_all(&state)?;
        }
        let kubelet = self.kubelet(who).folder().to_owned();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file(who))?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-euc"])
            .arg(r#"mount --bind "$0" /dev && exec "$@""#)
            .arg(&self.tree.0);
        match who {
            Who::Agent => command
                .arg(&self.fairlead)
                .args(["agent", "--parts", "devices", "--node-name", "n1"])
                .args(["--source", "manifests", "--health-address", "off"])
                .arg("--manifests")
                .arg(self.folder.join("manifests"))
                .arg("--state-dir")
                .arg(state)
                .arg("--socket")
                .arg(self.folder.join("agent.sock"))
                .arg("--cdi-dir")
                .arg(self.folder.join("cdi"))
                .arg("--devices")
                .arg(self.folder.join("config"))
                .arg("--kubelet-dir")
                .arg(kubelet),
            Who::Bare => command
                .arg(std::env::current_exe()?)
                .args(["lab-probe", "devices", "--kubelet"])
                .arg(kubelet),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log);
        let begin = Instant::now();
        let process = Process::spawn(&self.session, "a server of devices", &mut command)?;
        self.end(who).process = Some(process);
        Ok(begin)
    }

    /// Ends one, and waits until the kubelet knows none of its resources.
    pub(super) fn stop(&mut self, who: Who) -> Result<()> {
        drop(self.end(who).process.take());
        let gone = |known: &Known| known.is_empty().then_some(());
        self.kubelet(who).wait("the end of a server", gone)
    }

    /// Ends the kubelet of one, and starts it again after a moment; returns when.
    pub(super) fn restart_kubelet(&mut self, who: Who, after: Duration) -> Result<Instant> {
        let kubelet = &mut self.end(who).kubelet;
        kubelet.kill();
        std::thread::sleep(after);
        kubelet.start()
    }

    /// Waits until the kubelet of one has all devices, healthy, and returns what it knows then.
    pub(super) fn whole(&self, who: Who) -> Result<Known> {
        let whole = |known: &Known| {
            let devices = known.values().flat_map(|plugin| plugin.devices.values());
            let healthy = devices.filter(|healthy| **healthy).count();
            (known.len() == RESOURCES && healthy == DEVICES).then(|| known.clone())
        };
        let waited = self
            .kubelet(who)
            .wait("all devices of all resources", whole);
        waited.with_context(|| {
            let log = fs::read_to_string(self.log_file(who)).unwrap_or_default();
            let last = log.lines().last().unwrap_or_default();
            format!("{who:?} said last: {last}")
        })
    }

    fn log_file(&self, who: Who) -> PathBuf {
        self.folder.join(format!("{who:?}.log"))
    }

    /// What the agent has.
    pub(super) fn memory(&self, when: &'static str) -> Result<Memory> {
        let Some(agent) = &self.agent.process else {
            bail!("{when}: no agent runs");
        };
        Ok(Memory {
            when,
            resident_kib: status_kib(agent.id(), "VmRSS:")?,
            peak_kib: status_kib(agent.id(), "VmHWM:")?,
        })
    }
}

/// Resource and device of all that go.
pub(super) fn leaving() -> Vec<(usize, usize)> {
    let all = (0..RESOURCES).flat_map(|resource| (0..size(resource)).map(move |n| (resource, n)));
    all.filter(|(resource, device)| leaves(*resource, *device))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::devices::AT_ONCE;

    #[test]
    fn a_tenth_of_the_devices_of_each_resource_goes_and_enough_stay() {
        assert_eq!((0..RESOURCES).map(size).sum::<usize>(), DEVICES);
        assert_eq!(leaving().len() * 10, DEVICES);
        for resource in 0..RESOURCES {
            let go = (0..size(resource)).filter(|device| leaves(resource, *device));
            assert_eq!(go.count() * 10, size(resource));
        }
        const { assert!(AT_ONCE <= MANY - MANY / 10) };
    }

    #[test]
    fn an_id_tells_which_device_of_its_resource_it_is() {
        assert_eq!(number("bench-r04-d17-0badcafe"), Some(17));
        for other in ["bench-r04", "bench-r04-x17-0badcafe", ""] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}
