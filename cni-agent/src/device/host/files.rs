//! The device files that belong to a device: its own, and those of what it consists of, like the cards and render nodes
//! of a GPU or the terminal of a USB adapter.

use super::{candidate::Candidate, scan::Scan, sysfs::names};
use crate::device::found::{DeviceFile, FileKind};
use std::{collections::BTreeSet, fs, path::Path};

/// Levels below a device's own folder: a partition of a disk behind an adapter is on the tenth.
const DEEPEST: usize = 14;
/// Folders of one device.
const MOST_FOLDERS: usize = 8192;
/// Files of one device.
const MOST_FILES: usize = 1024;
/// Folders of the kernel's own housekeeping, in which no device is.
const SKIPPED: [&str; 5] = ["power", "msi_irqs", "queues", "statistics", "trace"];

#[derive(Default)]
pub(super) struct Beneath {
    /// In order of their paths.
    pub(super) files: Vec<DeviceFile>,
    /// How many sysfs tells of, whether they are in /dev or not.
    pub(super) named: usize,
}

impl Scan<'_> {
    /// The files of a candidate's folders.
    pub(super) fn beneath(&self, candidate: &Candidate) -> Beneath {
        let mut beneath = Beneath::default();
        let mut files = BTreeSet::new();
        let mut folders = 0;
        for folder in &candidate.folders {
            let mut ahead = vec![(folder.clone(), 0)];
            while let Some((here, depth)) = ahead.pop() {
                folders += 1;
                if folders > MOST_FOLDERS || beneath.named > MOST_FILES {
                    self.problem(format!(
                        "{} has more folders and files than are looked through; what was found until then is its",
                        self.sysfs.shown(folder).display()
                    ));
                    break;
                }
                if let Some((major, minor)) = self.sysfs.numbers(&here) {
                    beneath.named += 1;
                    files.extend(self.own_file(&here, major, minor));
                }
                if depth < DEEPEST {
                    let within = names(&here)
                        .into_iter()
                        .filter(|name| !SKIPPED.contains(&name.as_str()))
                        .map(|name| here.join(name))
                        .filter(|path| self.is_part(path));
                    ahead.extend(within.map(|path| (path, depth + 1)));
                }
            }
        }
        beneath.files = files.into_iter().collect();
        beneath
    }

    /// The file of the device of a folder.
    pub(super) fn own_file(&self, folder: &Path, major: u32, minor: u32) -> Option<DeviceFile> {
        let uevent = self.sysfs.uevent(folder);
        let name = match uevent.get("DEVNAME") {
            Some(name) => name.clone(),
            // As the kernel makes the one of the other.
            None => folder.file_name()?.to_str()?.replace('!', "/"),
        };
        let kind = match self.sysfs.subsystem(folder)?.as_str() {
            "block" => FileKind::Block,
            _ => FileKind::Character,
        };
        let file = self.file(&Path::new("/dev").join(name.trim_start_matches("/dev/")))?;
        let is_its = (file.kind, file.major, file.minor) == (kind, major, minor);
        is_its.then_some(file)
    }

    /// Whether a folder in a device's is a part of it: a real folder, and no further PCI function behind a bridge or USB
    /// device behind a hub.
    fn is_part(&self, path: &Path) -> bool {
        if !fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            return false;
        }
        match self.sysfs.subsystem(path).as_deref() {
            Some("pci") => false,
            Some("usb") => !path.join("idVendor").exists(),
            _ => true,
        }
    }
}
