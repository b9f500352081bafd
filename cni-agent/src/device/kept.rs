//! RIM: the last known inventory on the disk. A node that comes up answers the kubelet with it at once, so that pods are
//! admitted again whose devices a driver only just finds; one that stays away is told as gone after a while.

use super::{inventory::Item, name::ResourceName};
use crate::private_file;
use rustix::fs::fsync;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Longest file that is read: ten thousand devices of a few hundred bytes fit many times.
const LONGEST: u64 = 64 << 20;
/// Changes with each start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kept {
    /// The machine's start in which it was written.
    pub(super) boot: String,
    pub(super) resources: BTreeMap<ResourceName, Vec<Item>>,
}

impl Kept {
    /// Is of this start of the machine from now on; whether it was of another. Then nothing was there all the time.
    pub(super) fn begin(&mut self, boot: String) -> bool {
        let is_another = self.boot != boot;
        if is_another {
            let items = self.resources.values_mut().flatten();
            for site in items.flat_map(|item| &mut item.sites) {
                site.instance = None;
            }
            self.boot = boot;
        }
        is_another
    }
}

/// Its file.
#[derive(Clone, Debug)]
pub(super) struct Keep(PathBuf);

impl Keep {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("devices.json"))
    }

    /// What was kept; nothing where there is none, or where it can't be read: then all is found anew.
    pub(super) fn read(&self) -> Kept {
        match read(&self.0) {
            Ok(kept) => kept,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => {
                tracing::warn!(file = %self.0.display(), %error, "the last known devices can't be read: all are found anew");
                Kept::default()
            }
        }
    }

    /// Keeps it, in place of what was kept before.
    pub(super) fn write(&self, kept: &Kept) -> io::Result<()> {
        write(&self.0, kept)
    }
}

/// What a file of the part has.
///
/// # Errors
/// Those of the disk, and of what can't be understood.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Puts something into a file of the part, in place of what was there: one or the other is there after a crash.
///
/// # Errors
/// Those of the disk.
pub(super) fn write<T: Serialize>(path: &Path, what: &T) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let fresh = path.with_extension("json.new");
    let mut file = private_file::create(&fresh)?;
    file.write_all(&serde_json::to_vec(what)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    fsync(File::open(folder)?)?;
    Ok(())
}

/// Which start of the machine this is; empty where it can't be told.
pub(super) fn boot() -> String {
    fs::read_to_string(BOOT_ID).map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::found::Site;

    #[test]
    fn after_a_start_of_the_machine_nothing_was_there_all_the_time() {
        let site = Site {
            name: "1-1".to_owned(),
            instance: Some(7),
            ..Site::default()
        };
        let item = Item {
            sites: vec![site],
            ..Item::default()
        };
        let name = ResourceName::try_from("a.io/usb".to_owned()).unwrap();
        let mut kept = Kept {
            boot: "one".to_owned(),
            resources: [(name.clone(), vec![item])].into(),
        };
        assert!(!kept.begin("one".to_owned()));
        assert_eq!(kept.resources[&name][0].sites[0].instance, Some(7));
        assert!(kept.begin("two".to_owned()));
        let site = &kept.resources[&name][0].sites[0];
        assert_eq!((&*site.name, site.instance), ("1-1", None));
        assert!(!kept.begin("two".to_owned()));
    }

    #[test]
    fn what_is_kept_is_read_again_and_what_is_broken_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let keep = Keep::new(&folder.path().join("state"));
        assert_eq!(keep.read(), Kept::default());
        let item = Item {
            key: "/dev/kvm".to_owned(),
            ..Item::default()
        };
        let name = ResourceName::try_from("a.io/kvm".to_owned()).unwrap();
        let kept = Kept {
            boot: boot(),
            resources: [(name, vec![item])].into(),
        };
        assert!(!kept.boot.is_empty());
        keep.write(&kept).unwrap();
        assert_eq!(keep.read(), kept);
        fs::write(folder.path().join("state/devices.json"), "{").unwrap();
        assert_eq!(keep.read(), Kept::default());
    }
}
