//! One look at the node, with what is read once for all finders.

use super::{Host, dev::Dev, sysfs::Sysfs, udev, usb};
use crate::device::found::{DeviceFile, FileKind};
use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub(super) struct Scan<'a> {
    pub(super) host: &'a Host,
    pub(super) sysfs: Sysfs,
    pub(super) dev: Dev<'a>,
    links: OnceCell<[BTreeMap<PathBuf, PathBuf>; 2]>,
    usb_names: OnceCell<BTreeMap<String, usize>>,
    problems: RefCell<Vec<String>>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(host: &'a Host) -> Self {
        Self {
            host,
            sysfs: Sysfs::open(&host.sys),
            dev: Dev::new(&host.dev),
            links: OnceCell::new(),
            usb_names: OnceCell::new(),
            problems: RefCell::new(Vec::new()),
        }
    }

    /// Keeps something that could not be read, worded for people; once.
    pub(super) fn problem(&self, problem: String) {
        let mut problems = self.problems.borrow_mut();
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    pub(super) fn into_problems(self) -> Vec<String> {
        self.problems.into_inner()
    }

    /// The best of the stable links to a file: one in a folder `by-id` tells the thing itself, one in `by-path` where it is
    /// plugged in. Of things that say the same, `by-id` has but one, and not always the same one: there it is left out.
    pub(super) fn stable_link(&self, file: &Path, says_what_it_is: bool) -> Option<&PathBuf> {
        let links = || ["by-id", "by-path"].map(|folder| self.dev.links(folder));
        let all = self.links.get_or_init(links).iter();
        all.skip(usize::from(!says_what_it_is))
            .find_map(|links| links.get(file))
    }

    /// How many USB devices have a name that is made of what they say.
    pub(super) fn usb_names(&self) -> &BTreeMap<String, usize> {
        self.usb_names.get_or_init(|| usb::names(&self.sysfs))
    }

    /// What udev and the kernel know of the device of a folder.
    pub(super) fn properties(&self, folder: &Path) -> BTreeMap<String, String> {
        udev::of(&self.host.udev, &self.sysfs, folder)
    }

    /// The folder in sysfs of a file's device. Not every driver has one.
    pub(super) fn folder_of(&self, file: &DeviceFile) -> Option<PathBuf> {
        let kind = match file.kind {
            FileKind::Character => "char",
            FileKind::Block => "block",
        };
        let DeviceFile { major, minor, .. } = file;
        self.sysfs.folder(format!("dev/{kind}/{major}:{minor}"))
    }

    /// The file at a path; what can't be looked at is a problem.
    pub(super) fn file(&self, path: &Path) -> Option<DeviceFile> {
        self.dev.file(path).unwrap_or_else(|error| {
            self.problem(format!("{} can't be looked at: {error}", path.display()));
            None
        })
    }
}
