//! A control group of the test's own, below the machine's: what is attached to it acts on the test's
//! process and on nobody else.

use super::unique;
use cni_agent::datapath::unified_cgroup;
use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A process is in one group: tests of one file take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Holds the test's process until it is dropped.
pub struct Cgroup {
    pub path: PathBuf,
    before: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Cgroup {
    pub fn enter() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let root = unified_cgroup(None).expect("cgroup2 is mounted");
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let before = root.join(own.expect("each process is in a group"));
        let path = root.join(unique("fl-cgroup-"));
        fs::create_dir(&path).unwrap();
        let cgroup = Self {
            path,
            before,
            _turn: turn,
        };
        join(&cgroup.path).unwrap();
        cgroup
    }
}

fn join(group: &std::path::Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let left = join(&self.before).and_then(|()| fs::remove_dir(&self.path));
        if let Err(error) = left {
            eprintln!("{} stays: {error}", self.path.display());
        }
    }
}
