//! Where pins live: `<bpf-dir>/v3/maps/<map>`, `<bpf-dir>/v3/links/<interface>/<program>` and, of
//! programs on the control group, `<bpf-dir>/v3/sockets/<program>`.
//!
//! Below the version of the maps' layout, so that an agent with another layout builds its maps
//! beside the old ones and takes their links over (`upgrade`). A bpf file system keeps names with a dot to itself, and interfaces may
//! have one: `.` and `%` are written as in URLs.

use super::DatapathError;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    mount::MountFlags,
};
use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// The usual place, and the only one that is mounted without being asked.
const USUAL: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`.
const BPF_FS: rustix::fs::FsWord = 0xcafe_4a11;

/// The folders of one agent.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    bpf_dir: PathBuf,
    /// Of the maps' layout.
    version: u32,
    maps: PathBuf,
    links: PathBuf,
    sockets: PathBuf,
}

impl Pins {
    fn new(bpf_dir: &Path, version: u32) -> Self {
        let top = bpf_dir.join(format!("v{version}"));
        Self {
            bpf_dir: bpf_dir.to_owned(),
            version,
            maps: top.join("maps"),
            links: top.join("links"),
            sockets: top.join("sockets"),
        }
    }

    /// Makes the folders of a version of the layout, after mounting a bpf file system on the usual
    /// place if need be.
    pub(super) fn prepare(bpf_dir: &Path, version: u32) -> Result<Self, DatapathError> {
        if !on_bpffs(bpf_dir) {
            if !bpf_dir.starts_with(USUAL) {
                return Err(DatapathError::NotBpffs {
                    dir: bpf_dir.to_owned(),
                });
            }
            mount().map_err(|source| DatapathError::Mount {
                dir: USUAL.into(),
                source,
            })?;
        }
        let pins = Self::new(bpf_dir, version);
        make_folder(&pins.maps)?;
        make_folder(&pins.links)?;
        make_folder(&pins.sockets)?;
        Ok(pins)
    }

    /// The folder of all of them.
    pub(super) fn top(&self) -> PathBuf {
        self.bpf_dir.join(format!("v{}", self.version))
    }

    /// Folders of other versions that there are, the oldest first.
    pub(super) fn others(&self) -> Result<Vec<Self>, DatapathError> {
        let names = names_in(&self.bpf_dir)?;
        let version = |name: &String| name.strip_prefix('v')?.parse::<u32>().ok();
        let mut versions: Vec<u32> = names.iter().filter_map(version).collect();
        versions.sort_unstable();
        let other = versions.into_iter().filter(|v| *v != self.version);
        Ok(other.map(|v| Self::new(&self.bpf_dir, v)).collect())
    }

    /// Removes the folder when its links are gone.
    pub(super) fn remove_maps(&self) -> Result<(), DatapathError> {
        for map in names_in(&self.maps)? {
            remove(&self.maps.join(map))?;
        }
        for folder in [&self.maps, &self.links, &self.sockets, &self.top()] {
            remove(folder)?;
        }
        Ok(())
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps.join(name)
    }

    /// The pin of a program on the control group.
    pub(super) fn socket(&self, program: &str) -> PathBuf {
        self.sockets.join(program)
    }

    /// The pin of a program on an interface; its folder is made.
    pub(super) fn link(&self, ifname: &str, program: &str) -> Result<PathBuf, DatapathError> {
        let folder = self.interface(ifname);
        make_folder(&folder)?;
        Ok(folder.join(program))
    }

    /// The folder of an interface's links; it need not exist.
    pub(super) fn interface(&self, ifname: &str) -> PathBuf {
        self.links
            .join(ifname.replace('%', "%25").replace('.', "%2e"))
    }

    /// Interfaces with pins, by name.
    pub(super) fn interfaces(&self) -> Result<Vec<String>, DatapathError> {
        let names = names_in(&self.links)?;
        Ok(names
            .into_iter()
            .map(|n| n.replace("%2e", ".").replace("%25", "%"))
            .collect())
    }

    /// Names of the programs with a pinned link on an interface.
    pub(super) fn programs(&self, ifname: &str) -> Result<Vec<String>, DatapathError> {
        names_in(&self.interface(ifname))
    }
}

/// Removes a pin or an empty folder; nothing there is just as well.
pub(super) fn remove(path: &Path) -> Result<(), DatapathError> {
    let result = if path.is_dir() {
        fs::remove_dir(path)
    } else {
        fs::remove_file(path)
    };
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(DatapathError::Pin {
            action: "remove",
            path: path.to_owned(),
            source: e,
        }),
        _ => Ok(()),
    }
}

fn names_in(folder: &Path) -> Result<Vec<String>, DatapathError> {
    let fault = |source| DatapathError::Pin {
        action: "list",
        path: folder.to_owned(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fault(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(
            entry
                .map_err(fault)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    Ok(names)
}

fn make_folder(folder: &Path) -> Result<(), DatapathError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| DatapathError::Pin {
            action: "make the folder",
            path: folder.to_owned(),
            source,
        })
}

/// Whether the nearest folder that exists is on a bpf file system.
fn on_bpffs(dir: &Path) -> bool {
    let existing = dir.ancestors().find(|p| p.is_dir());
    existing.is_some_and(|p| rustix::fs::statfs(p).is_ok_and(|s| s.f_type == BPF_FS))
}

/// Mounts the usual place. Two agents that start together must not mount twice: the second mount
/// would hide the first one's pins.
fn mount() -> io::Result<()> {
    let folder = rustix::fs::open(
        USUAL,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::fs::flock(&folder, FlockOperation::LockExclusive)?;
    if on_bpffs(Path::new(USUAL)) {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount(
        "bpf",
        USUAL,
        "bpf",
        flags,
        c"mode=0700",
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_bpf_file_system_refuses_are_written_otherwise() {
        let pins = Pins::new(Path::new("/b"), 7);
        for (ifname, path) in [
            ("eth0.100", "/b/v7/links/eth0%2e100"),
            ("a%2eb", "/b/v7/links/a%252eb"),
            ("fl0123456789ab", "/b/v7/links/fl0123456789ab"),
        ] {
            assert_eq!(pins.interface(ifname), Path::new(path));
        }
    }

    #[test]
    fn folders_of_other_versions_are_told_from_anything_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["v1", "v2", "v10", "v", "v2x", "maps", "vv3"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let others = Pins::new(dir.path(), 2).others().unwrap();
        let tops: Vec<_> = others.iter().map(Pins::top).collect();
        assert_eq!(tops, ["v1", "v10"].map(|name| dir.path().join(name)));
    }

    #[test]
    fn a_folder_elsewhere_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let fault = Pins::prepare(&dir.path().join("bpf"), 1).unwrap_err();
        assert!(matches!(fault, DatapathError::NotBpffs { .. }));
        assert!(fault.to_string().contains("mount -t bpf"));
    }
}
