//! RIM: what devices the node has, as sysfs, /dev, udev and CDI tell.
//!
//! [`Host::find`] looks once; [`watch`] tells when to look again; [`health`] asks whether what was found works.

mod candidate;
mod cdi;
mod describe;
mod dev;
mod directory;
#[cfg(test)]
pub(crate) mod fake;
mod files;
mod folders;
pub mod health;
mod path;
mod pci;
pub mod program;
mod scan;
mod subsystem;
mod sysfs;
#[cfg(test)]
mod tests;
mod udev;
mod uevents;
mod usb;
pub mod watch;

use super::{
    found::{DeviceFile, Findings, Look, Site},
    plan::{By, Finder},
};
use candidate::{Condition, Files, Sought};
use scan::Scan;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// Where the agent sees the node. What is found in `dev` is told as `/dev/…`, and what is in `sys` as `/sys/…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub dev: PathBuf,
    pub sys: PathBuf,
    /// The database of udev.
    pub udev: PathBuf,
    /// Folders of CDI specifications, the weakest first.
    pub cdi: Vec<PathBuf>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            dev: "/dev".into(),
            sys: "/sys".into(),
            udev: "/run/udev/data".into(),
            cdi: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).into(),
        }
    }
}

impl Host {
    /// What the finders find, in order of their keys. Blocks: for a thread of its own.
    ///
    /// [`By::Random`] is no device of the node: of such a finder there is only an empty look.
    pub fn find(&self, finders: &[Finder]) -> Findings {
        let scan = Scan::new(self);
        self.tell_missing(&scan, finders);
        let mut findings = Findings::default();
        let mut things = BTreeMap::new();
        for finder in finders {
            let Some(sought) = scan.sought(&finder.by) else {
                findings.looks.push(Look {
                    finder: "random devices".to_owned(),
                    ..Look::default()
                });
                continue;
            };
            let sought = scan.with_values(sought, finder);
            let (look, found) = sieve(&scan, sought);
            findings.looks.push(look);
            for (thing, found) in found {
                // The first finder that finds a thing names it.
                things.entry(thing).or_insert(found);
            }
        }
        findings.found = describe::told_apart(things.into_values().collect());
        findings.problems = scan.into_problems();
        findings
    }

    /// What isn't seen at all, and why then little is found.
    fn tell_missing(&self, scan: &Scan<'_>, finders: &[Finder]) {
        for (folder, whose) in [(&self.dev, "/dev"), (&self.sys, "/sys")] {
            if let Err(error) = fs::read_dir(folder) {
                scan.problem(format!(
                    "{} can't be read: {error}; mount the node's {whose} there",
                    folder.display()
                ));
            }
        }
        let asked = finders.iter().any(|finder| !finder.properties.is_empty());
        if asked && let Err(error) = fs::read_dir(&self.udev) {
            scan.problem(format!(
                "{} can't be read: {error}; what only udev knows is not known: mount the node's /run/udev, or ask for attributes",
                self.udev.display()
            ));
        }
    }

    /// A device file of the node by its path, also by a link.
    ///
    /// # Errors
    /// It can't be looked at. That nothing is there is none.
    pub fn file(&self, path: &Path) -> io::Result<Option<DeviceFile>> {
        dev::Dev::new(&self.dev).file(path)
    }

    /// Whether the node has something at a path, which may be a link.
    pub fn exists(&self, path: &Path) -> bool {
        if path.starts_with("/dev") {
            let dev = dev::Dev::new(&self.dev);
            return matches!(dev.real(path), Ok(Some(_)));
        }
        match path.strip_prefix("/sys") {
            Ok(below) => fs::exists(self.sys.join(below)),
            Err(_) => fs::exists(path),
        }
        .unwrap_or(false)
    }

    /// Whether what was at a site is there still, and has been all the time.
    pub fn is_there(&self, site: &Site) -> bool {
        let below = site.sysfs.strip_prefix("/sys").ok();
        let instance = below.and_then(|below| describe::instance(&self.sys.join(below)));
        instance.is_some() && instance == site.instance
    }

    /// Where the agent sees a file of /dev.
    fn place(&self, path: &Path) -> Option<PathBuf> {
        dev::Dev::new(&self.dev).place(path)
    }

    /// Folders in which something changes when the finders would find something else, as the agent sees them; also
    /// those in which such a folder could be made. Blocks.
    pub fn folders(&self, finders: &[Finder]) -> BTreeSet<PathBuf> {
        let dev = dev::Dev::new(&self.dev);
        let mut folders = BTreeSet::from([self.dev.clone(), self.udev.clone()]);
        for finder in finders {
            match &finder.by {
                By::Path(pattern) => folders.extend(path::folders(&dev, pattern, false)),
                By::Directory(pattern) => folders.extend(path::folders(&dev, pattern, true)),
                By::Cdi { .. } => {
                    let parents = self.cdi.iter().filter_map(|folder| folder.parent());
                    folders.extend(parents.map(Path::to_owned));
                    folders.extend(self.cdi.iter().cloned());
                }
                By::Usb { .. } | By::Pci { .. } | By::Subsystem { .. } | By::Random { .. } => {}
            }
        }
        folders
    }
}

/// What a thing is told by, whoever finds it: its folder in sysfs, or the file or name that it has.
type Thing = String;

/// Asks one condition after the other.
fn sieve(scan: &Scan<'_>, sought: Sought<'_>) -> (Look, Vec<(Thing, super::found::Found)>) {
    let mut look = Look {
        finder: sought.words(),
        candidates: sought.candidates.len(),
        left: Vec::new(),
    };
    let mut candidates = sought.candidates;
    for (words, holds) in sought.conditions {
        candidates.retain(|candidate| holds(candidate));
        look.left.push((words, candidates.len()));
    }
    let mut found = Vec::new();
    for candidate in candidates {
        let (files, are_enough) = match &candidate.files {
            Files::These(files) => (files.clone(), !files.is_empty()),
            Files::Never => (Vec::new(), true),
            Files::Beneath => {
                let beneath = scan.beneath(&candidate);
                let are_enough = beneath.named == 0 || !beneath.files.is_empty();
                (beneath.files, are_enough)
            }
        };
        if are_enough {
            let thing = describe::thing(&candidate, &files);
            found.push((thing, describe::found(scan, candidate, files)));
        }
    }
    look.left.push(("a file in /dev".to_owned(), found.len()));
    (look, found)
}

impl Scan<'_> {
    /// What a finder looks at; none: not at the node.
    fn sought<'a>(&'a self, by: &'a By) -> Option<Sought<'a>> {
        Some(match by {
            By::Path(pattern) => path::sought(self, pattern),
            By::Directory(pattern) => directory::sought(self, pattern),
            By::Usb {
                vendor,
                product,
                serial,
            } => usb::sought(self, [vendor, product, serial].map(Option::as_ref)),
            By::Pci { .. } => pci::sought(self, by),
            By::Subsystem { subsystem, name } => subsystem::sought(self, subsystem, name.as_ref()),
            By::Cdi { kind, name } => cdi::sought(self, kind, name.as_ref()),
            By::Random { .. } => return None,
        })
    }

    /// With the conditions that every finder may have. Where files are taken together, one of them has to fulfil each.
    fn with_values<'a>(&'a self, mut sought: Sought<'a>, finder: &'a Finder) -> Sought<'a> {
        for (name, pattern) in &finder.attributes {
            let holds = move |folder: &PathBuf| {
                let value = self.sysfs.attribute(folder, name);
                value.is_some_and(|value| pattern.is_like(&value))
            };
            let condition: Condition<'_> = (
                format!("attribute {name} {}", pattern.0),
                Box::new(move |candidate| candidate.folders.iter().any(holds)),
            );
            sought.conditions.push(condition);
        }
        for (name, pattern) in &finder.properties {
            let holds = move |folder: &PathBuf| {
                let properties = self.properties(folder);
                let value = properties.get(name);
                value.is_some_and(|value| pattern.is_like(value))
            };
            let condition: Condition<'_> = (
                format!("property {name} {}", pattern.0),
                Box::new(move |candidate| candidate.folders.iter().any(holds)),
            );
            sought.conditions.push(condition);
        }
        sought
    }
}
