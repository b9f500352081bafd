//! Removes what killed runs (SIGKILL, power) left: labs, and what the agent's own tests make. Every
//! name holds its owner's pid; what belongs to a living process is not touched.

use super::{
    process,
    session::{NETNS_DIR, mounts_below, owner_pid, remove_traces, run},
};
use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where the machine's control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// What the control groups of the labs' container runtimes begin with; the run's name follows.
const CGROUP_PREFIX: &str = "fairlead-test-";

/// What a sweep did.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// Names of runs, namespaces and folders that are gone now.
    pub(crate) removed: Vec<String>,
    /// What could not be removed.
    pub(crate) errors: Vec<anyhow::Error>,
}

impl Swept {
    fn add(&mut self, name: String, errors: Vec<anyhow::Error>) {
        match errors.is_empty() {
            true => self.removed.push(name),
            false => self
                .errors
                .extend(errors.into_iter().map(|error| error.context(name.clone()))),
        }
    }
}

/// Sweeps the folder for temporary files, the network namespaces and the mounts.
///
/// # Errors
/// When the folder for temporary files cannot be read.
pub(crate) fn sweep() -> Result<Swept> {
    let temp = std::env::temp_dir();
    fs::read_dir(&temp).with_context(|| format!("reading {}", temp.display()))?;
    let mut swept = Swept::default();
    for name in names_in(&temp) {
        let dir = temp.join(&name);
        if let Some(pid) = owner_pid(&name) {
            let owner = fs::read_to_string(dir.join("owner")).unwrap_or_default();
            let living = process::start_time(pid);
            if !living.is_ok_and(|start| owner.is_empty() || start == owner) {
                swept.add(name.clone(), remove_traces(&dir, &name));
            }
        } else if test_pid(&name).is_some_and(is_dead) {
            let mounts = mounts_below(&dir)
                .into_iter()
                .map(|mount| unmounted(&mount));
            let mut errors: Vec<_> = mounts.filter_map(Result::err).collect();
            if errors.is_empty() {
                errors.extend(removed(&dir).err());
            }
            swept.add(name, errors);
        }
    }
    for name in names_in(Path::new(NETNS_DIR)) {
        if test_pid(&name).is_some_and(is_dead) {
            let error = delete_namespace(&name).err();
            swept.add(name, error.into_iter().collect());
        }
    }
    for hierarchy in [CGROUPS.into(), Path::new(CGROUPS).join("unified")] {
        for name in names_in(&hierarchy) {
            let group = hierarchy.join(&name);
            if test_pid(&name).is_some_and(is_dead) {
                swept.add(name, remove_group(&group).err().into_iter().collect());
            }
        }
    }
    Ok(swept)
}

/// The pid in the name of what a test of the agent made: `flt-123-0-node` and, in hexadecimal,
/// `fl-pods-7b-0` and `fairlead-bpf-7b-0`.
fn test_pid(name: &str) -> Option<u32> {
    if let Some(rest) = name.strip_prefix("flt-") {
        return rest.split_once('-')?.0.parse().ok();
    }
    let rest = name
        .strip_prefix("fl-")
        .or_else(|| name.strip_prefix("fairlead-"))?;
    let mut parts = rest.rsplitn(3, '-');
    parts.next()?.parse::<u32>().ok()?;
    let pid = u32::from_str_radix(parts.next()?, 16).ok()?;
    parts.next().map(|_role| pid)
}

fn is_dead(pid: u32) -> bool {
    process::start_time(pid).is_err()
}

pub(super) fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Deletes a network namespace; one that another sweep has deleted meanwhile is fine.
pub(super) fn delete_namespace(name: &str) -> Result<()> {
    let deleted = run("ip", &["netns", "delete", name]);
    match Path::new(NETNS_DIR).join(name).exists() {
        true => deleted,
        false => Ok(()),
    }
}

pub(super) fn unmounted(mount: &Path) -> Result<()> {
    unmount(mount, UnmountFlags::DETACH).with_context(|| format!("unmounting {}", mount.display()))
}

/// Removes a folder with all in it; one that is not there is fine.
pub(super) fn removed(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Removes the control groups of a run, in every hierarchy.
pub(super) fn control_groups(run: &str) -> Vec<Result<()>> {
    let ours = format!("{CGROUP_PREFIX}{run}");
    let top = PathBuf::from(CGROUPS);
    let mut hierarchies: Vec<_> = names_in(&top).iter().map(|name| top.join(name)).collect();
    hierarchies.push(top);
    let groups = hierarchies.iter().flat_map(|hierarchy| {
        let names = names_in(hierarchy).into_iter();
        names
            .filter(|name| name.starts_with(&ours))
            .map(|name| hierarchy.join(name))
    });
    groups.map(|group| remove_group(&group)).collect()
}

/// Where control groups of version 2 are mounted; none on a machine that has none.
pub(crate) fn unified_group() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let words = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    words.into_iter().find_map(|words| match words[..] {
        [_, place, "cgroup2", ..] => Some(PathBuf::from(place)),
        _ => None,
    })
}

/// Removes a control group with those below it; one that is not there is fine. They are no folders with
/// files: only empty groups go.
///
/// # Errors
/// When a process is left in one.
pub(crate) fn remove_group(group: &Path) -> Result<()> {
    for name in names_in(group) {
        let below = group.join(name);
        if below.is_dir() {
            remove_group(&below)?;
        }
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing the control group {}", group.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::test_pid;

    #[test]
    fn names_of_the_agent_s_tests_tell_their_owner() {
        assert_eq!(test_pid("flt-123-0-node"), Some(123));
        assert_eq!(test_pid("fl-pods-7b-0"), Some(123));
        assert_eq!(test_pid("fairlead-bpf-7b-12"), Some(123));
        for other in [
            "fl-7b-0",
            "flab123-x",
            "flt-x-0",
            "fl-",
            "fairlead-x",
            "eth0",
        ] {
            assert_eq!(test_pid(other), None, "{other}");
        }
    }
}
