//! The whole life of a volume without Kubernetes, for people who want to see it: the agent's own driver on a pool of its
//! own, called over its socket as the sidecars and the kubelet call it, each call shown with its answer.

mod ask;
mod copies;
mod place;
mod pod;
mod say;
mod walk;
mod way;

use super::{CsiSlot, folder::Folder, pool, request::Fs, tools};
use crate::{metrics::VolumeCounts, parts::Shutdown};
use place::Place;
use say::Say;
use std::{
    fs::OpenOptions,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::signal::unix::{SignalKind, signal};
use walk::Walk;

const DRIVER: &str = "csi.fairlead.dev";
/// So many times its volume's size the demonstration needs, with what is promised to copies.
const TIMES: u64 = 8;
/// An ext4 of less has no room for its own things.
const LEAST: u64 = 64 << 20;

/// What is shown.
#[derive(Clone, Debug)]
pub struct Demo {
    /// Of the claim.
    pub bytes: u64,
    pub xfs: bool,
    /// Where the pool's own folder is made.
    pub folder: PathBuf,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Each step did what it should.
    Held,
    /// One did not, or something is left.
    Broken(String),
    /// Somebody wanted it to end.
    Interrupted,
}

/// Reads a size as Kubernetes writes it.
///
/// # Errors
/// Worded for people.
pub fn size(text: &str) -> Result<u64, String> {
    let bytes = super::inline::quantity(text);
    let bytes = bytes.ok_or_else(|| format!("{text:?} is no size; write one like 1Gi"))?;
    match bytes >= LEAST {
        true => Ok(bytes),
        false => Err("a volume to look at has at least 64Mi (with XFS 300Mi)".into()),
    }
}

impl Demo {
    fn fs(&self) -> Fs {
        if self.xfs { Fs::Xfs } else { Fs::Ext4 }
    }

    /// What of the machine is missing, each with its remedy.
    pub fn missing(&self) -> Vec<String> {
        if !rustix::process::geteuid().is_root() {
            return vec!["mounting needs root: run it by sudo, or as root".into()];
        }
        let mut missing = Vec::new();
        let control = OpenOptions::new().write(true).open("/dev/loop-control");
        if let Err(error) = control {
            missing.push(format!(
                "loop devices can't be had (/dev/loop-control: {error}): `modprobe loop`; in a container it has to be privileged, with the host's /dev"
            ));
        }
        let mut programs: Vec<&str> = match self.fs() {
            Fs::Ext4 => vec!["mkfs.ext4", "e2fsck", "resize2fs"],
            Fs::Xfs => vec!["mkfs.xfs", "xfs_growfs"],
            Fs::Folder => Vec::new(),
        };
        let shares = Folder::open(&self.folder).and_then(|folder| pool::shares_blocks(&folder));
        match &shares {
            Ok(true) => {}
            Ok(false) if !programs.contains(&"mkfs.xfs") => programs.push("mkfs.xfs"),
            Ok(false) => {}
            Err(error) => missing.push(format!(
                "{}: {error}; name another --folder",
                self.folder.display()
            )),
        }
        for program in programs
            .into_iter()
            .filter(|program| !tools::is_there(program))
        {
            missing.push(format!(
                "there is no {program}: install e2fsprogs and xfsprogs"
            ));
        }
        if let Ok(stat) = rustix::fs::statvfs(&self.folder) {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let needed = self.bytes.saturating_mul(TIMES);
            if free < needed {
                missing.push(format!(
                    "{} has {free} bytes free, and {needed} are needed: name another --folder, or a smaller --size",
                    self.folder.display()
                ));
            }
        }
        missing
    }

    /// Shows it all, line by line, and cleans up.
    ///
    /// # Errors
    /// It can't begin; worded for people.
    pub fn run(&self, print: impl FnMut(&str) + Send) -> Result<Ended, String> {
        let place = Place::make(&self.folder)?;
        let mut say = Say::new(print);
        say.plain(&format!(
            "The pool and all that is mounted is in {}, and goes at the end.",
            place.folder().display()
        ));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let ended = match runtime {
            Err(error) => Ended::Broken(format!("can't start: {error}")),
            Ok(runtime) => {
                let ended = runtime.block_on(self.walk(&place, &mut say));
                // Waits for what is still being done on the disk.
                drop(runtime);
                ended
            }
        };
        let left = place.clean();
        say.plain(match &left {
            Ok(()) => "Cleaned up: nothing of it is left.",
            Err(_) => "Something is left.",
        });
        Ok(match (ended, left) {
            (Ended::Broken(problem), Err(left)) => Ended::Broken(format!("{problem}; {left}")),
            (_, Err(left)) => Ended::Broken(left),
            (ended, Ok(())) => ended,
        })
    }

    async fn walk(&self, place: &Place, say: &mut Say<impl FnMut(&str) + Send>) -> Ended {
        let (mut terminate, mut interrupt) = match (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                return Ended::Broken(format!("signals: {error}"));
            }
        };
        let node = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let config = place.driver(DRIVER, &node);
        let (stop, shutdown) = Shutdown::new();
        let (slot, counts) = (CsiSlot::starting(), VolumeCounts::default());
        let mut driver = tokio::spawn(super::run(config.clone(), slot, counts, shutdown));
        let stopped = Arc::new(AtomicBool::new(false));
        let walk = Walk::new(self, &config, place, stopped.clone(), say);
        let ended = tokio::select! {
            walked = walk.run() => match walked {
                Ok(()) => Ended::Held,
                Err(problem) => Ended::Broken(problem),
            },
            ended = &mut driver => {
                let why = match ended {
                    Ok(Ok(())) => "it ended".to_owned(),
                    Ok(Err(why)) => why,
                    Err(error) => error.to_string(),
                };
                return Ended::Broken(format!("the driver: {why}"));
            }
            _ = terminate.recv() => Ended::Interrupted,
            _ = interrupt.recv() => Ended::Interrupted,
        };
        stopped.store(true, Ordering::Relaxed);
        stop.send_replace(true);
        match driver.await {
            Ok(Ok(())) => ended,
            Ok(Err(why)) => Ended::Broken(format!("the driver did not end well: {why}")),
            Err(error) => Ended::Broken(format!("the driver did not end well: {error}")),
        }
    }
}
