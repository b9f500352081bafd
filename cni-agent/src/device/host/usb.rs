//! Finds USB devices, hubs aside, and names them.

use super::{
    candidate::{Candidate, Sought},
    scan::Scan,
    sysfs::Sysfs,
};
use crate::device::plan::Pattern;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The class of hubs: what is plugged into one can be given, the hub can't.
const HUB: &str = "09";

const ATTRIBUTES: [&str; 3] = ["idVendor", "idProduct", "serial"];

pub(super) fn sought<'a>(scan: &'a Scan<'_>, wanted: [Option<&'a Pattern>; 3]) -> Sought<'a> {
    let candidates = devices(&scan.sysfs).into_iter().map(|folder| Candidate {
        folders: vec![folder],
        ..Candidate::default()
    });
    let mut sought = Sought::new("USB devices", candidates.collect());
    let named = ["vendor", "product", "serial"].into_iter();
    for ((what, attribute), pattern) in named.zip(ATTRIBUTES).zip(wanted) {
        let words = pattern.map(|pattern| format!("{what} {}", pattern.0));
        sought = sought.whose(words, move |candidate| {
            let value = candidate
                .folders
                .first()
                .and_then(|folder| scan.sysfs.attribute(folder, attribute));
            // An empty serial number is none.
            let value = value.filter(|value| !value.is_empty());
            pattern
                .zip(value)
                .is_some_and(|(pattern, value)| pattern.is_like(&value))
        });
    }
    sought
}

fn devices(sysfs: &Sysfs) -> Vec<PathBuf> {
    let names = sysfs.names("bus/usb/devices").into_iter();
    names
        .filter_map(|name| sysfs.folder(format!("bus/usb/devices/{name}")))
        .filter(|folder| is_device(folder))
        .filter(|folder| sysfs.attribute(folder, "bDeviceClass").as_deref() != Some(HUB))
        .collect()
}

/// Whether a folder is that of a device, not of an interface.
fn is_device(folder: &Path) -> bool {
    folder.join("idVendor").exists()
}

/// The USB device that a folder is, or is a part of.
pub(super) fn device_of<'a>(sysfs: &'a Sysfs, folder: &'a Path) -> Option<&'a Path> {
    sysfs
        .upward(folder)
        .find(|path| is_device(path) && sysfs.subsystem(path).as_deref() == Some("usb"))
}

/// What devices say of themselves: several may say the same.
fn name(sysfs: &Sysfs, folder: &Path) -> Option<String> {
    let [vendor, product, serial] = ATTRIBUTES.map(|name| sysfs.attribute(folder, name));
    let serial = serial.unwrap_or_default();
    Some(format!("{}:{}:{serial}", vendor?, product?))
}

/// How many devices there are of each name.
pub(super) fn names(sysfs: &Sysfs) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for name in devices(sysfs)
        .iter()
        .filter_map(|folder| name(sysfs, folder))
    {
        *names.entry(name).or_default() += 1;
    }
    names
}

/// A USB device, or what is on one of its interfaces, by all the names that it may have.
pub(super) struct Part {
    /// What the device says.
    name: String,
    port: String,
    /// The interface, and the part of it if there are several; none: the whole device.
    within: Option<String>,
    /// Whether the device has a number of its own, and no other says the same.
    pub(super) is_unique: bool,
}

impl Part {
    pub(super) fn is_whole(&self) -> bool {
        self.within.is_none()
    }

    /// What it says; of one without a number where it is plugged in, so that another of its kind changes nothing.
    pub(super) fn said(&self) -> String {
        match self.name.ends_with(':') {
            true => self.placed(),
            false => self.with_interface(self.name.clone()),
        }
    }

    /// The same with where it is plugged in.
    pub(super) fn placed(&self) -> String {
        self.with_interface(format!("{}:{}", self.name.trim_end_matches(':'), self.port))
    }

    /// What it says, and where it is plugged in if that isn't enough.
    pub(super) fn key(&self) -> String {
        match self.is_unique {
            true => self.said(),
            false => self.placed(),
        }
    }

    fn with_interface(&self, name: String) -> String {
        match &self.within {
            Some(within) => format!("{name}:{within}"),
            None => name,
        }
    }
}

/// What the folder of a USB device or of a part of one is; none: it is neither.
pub(super) fn part(scan: &Scan<'_>, folder: &Path) -> Option<Part> {
    let sysfs = &scan.sysfs;
    let device = device_of(sysfs, folder)?;
    let within = match device == folder {
        true => None,
        false => {
            // The kernel's numbers change with each plugging, interfaces don't.
            let part = folder.strip_prefix(device).ok()?.iter().next()?.to_str()?;
            let interface = part
                .split_once(':')
                .map_or(part, |(_, interface)| interface);
            // Some adapters have several terminals on one interface.
            let port = sysfs.attribute(folder, "device/port_number");
            Some(match port.filter(|port| port != "0") {
                Some(port) => format!("{interface}-{port}"),
                None => interface.to_owned(),
            })
        }
    };
    let name = name(sysfs, device)?;
    let is_one = scan.usb_names().get(&name).is_none_or(|count| *count == 1);
    Some(Part {
        is_unique: is_one && !name.ends_with(':'),
        port: device.file_name()?.to_str()?.to_owned(),
        name,
        within,
    })
}
