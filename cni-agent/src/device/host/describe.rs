//! What is told of a thing that was found: its stable name, its places in the machine, and the values that templates may
//! ask for.

use super::{
    candidate::Candidate,
    pci::{is_address, is_root},
    scan::Scan,
    sysfs::Sysfs,
    usb::{self, Part},
};
use crate::device::found::{DeviceFile, FileKind, Found, Site};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// What a thing is told by, whoever finds it.
pub(super) fn thing(candidate: &Candidate, files: &[DeviceFile]) -> String {
    match (candidate.folders.as_slice(), files, &candidate.key) {
        // What is described as one is that, whatever it consists of.
        (_, _, Some(key)) if !candidate.fields.is_empty() => key.clone(),
        ([folder], ..) => folder.display().to_string(),
        (_, [file], _) => {
            let kind = match file.kind {
                FileKind::Character => 'c',
                FileKind::Block => 'b',
            };
            format!("{kind}{}:{}", file.major, file.minor)
        }
        (.., key) => key.clone().unwrap_or_default(),
    }
}

/// All of a candidate that was left.
pub(super) fn found(scan: &Scan<'_>, candidate: Candidate, files: Vec<DeviceFile>) -> Found {
    // As with things: what is described as one is in no place of its own.
    let is_described = !candidate.fields.is_empty();
    let mut fields = candidate.fields;
    let mut numa = BTreeSet::new();
    // Where files are taken together, what the first of them doesn't tell the others may.
    for folder in &candidate.folders {
        for (name, value) in of_folder(scan, folder) {
            fields.entry(name.to_owned()).or_insert(value);
        }
        for (name, value) in scan.properties(folder) {
            fields.entry(format!("udev:{name}")).or_insert(value);
        }
        numa.extend(numa_of(&scan.sysfs, folder));
    }
    if let Some(file) = files.first() {
        let path = file.path.display().to_string();
        if let Some(name) = file.path.file_name() {
            let name = name.to_string_lossy().into_owned();
            fields.entry("name".to_owned()).or_insert(name);
        }
        fields.insert("path".to_owned(), path);
        fields.insert("major".to_owned(), file.major.to_string());
        fields.insert("minor".to_owned(), file.minor.to_string());
    }
    if let Some(node) = numa.first() {
        fields.insert("numa".to_owned(), node.to_string());
    }
    fields.retain(|_, value| !value.is_empty());
    let folder = match candidate.folders.as_slice() {
        [folder] if !is_described => Some(folder),
        _ => None,
    };
    let part = folder.and_then(|folder| usb::part(scan, folder));
    let (key, name) = match candidate.key {
        Some(key) => (key.clone(), key),
        None => {
            let key = folder
                .and_then(|folder| key(scan, folder, part.as_ref(), &files))
                .or_else(|| linked(scan, files.first()?))
                .unwrap_or_default();
            // Links come and go, what it says doesn't.
            let name = part
                .as_ref()
                .map_or_else(|| key.clone(), |part| part.said());
            (key, name)
        }
    };
    let site = folder.map(|folder| {
        let sysfs = scan.sysfs.shown(folder);
        Site {
            name: part.map_or_else(|| sysfs.display().to_string(), |part| part.placed()),
            instance: instance(folder),
            sysfs,
        }
    });
    Found {
        key,
        name,
        site,
        numa: numa.into_iter().collect(),
        fields,
        files,
    }
}

/// Tells a folder of sysfs from whatever was at its path before: the kernel gives no number twice.
pub(super) fn instance(folder: &Path) -> Option<u64> {
    Some(fs::metadata(folder).ok()?.ino())
}

/// The stable name of the device of a folder, which may be a part of one on USB.
fn key(
    scan: &Scan<'_>,
    folder: &Path,
    part: Option<&Part>,
    files: &[DeviceFile],
) -> Option<String> {
    let sysfs = &scan.sysfs;
    let name = folder.file_name()?.to_str()?;
    let subsystem = sysfs.subsystem(folder).unwrap_or_default();
    if subsystem == "pci" {
        return Some(name.to_owned());
    }
    if let Some(part) = part.filter(|part| part.is_whole()) {
        return Some(part.key());
    }
    // Its own file, not one of what it consists of.
    let own = sysfs.numbers(folder);
    let own = own.and_then(|own| files.iter().find(|file| (file.major, file.minor) == own));
    // Links come a moment after their device: an adapter has its name at once.
    let linked = || {
        let says_what_it_is = part.is_none_or(|part| part.is_unique);
        scan.stable_link(&own?.path, says_what_it_is)
    };
    let is_adapter = subsystem == "tty" && part.is_some();
    if !is_adapter && let Some(link) = linked() {
        return Some(link.display().to_string());
    }
    if let Some(part) = part {
        return Some(part.key());
    }
    Some(match own {
        Some(own) => own.path.display().to_string(),
        None if subsystem.is_empty() => name.to_owned(),
        None => format!("{subsystem}:{name}"),
    })
}

/// The stable name of a file that sysfs tells nothing of.
fn linked(scan: &Scan<'_>, file: &DeviceFile) -> Option<String> {
    let path = scan.stable_link(&file.path, true).unwrap_or(&file.path);
    Some(path.display().to_string())
}

/// The found in order of their keys, each of which is there once: of those that had the same the others are counted.
pub(super) fn told_apart(mut found: Vec<Found>) -> Vec<Found> {
    // Places in the machine come in the same order each time.
    let folder = |one: &Found| one.site.as_ref().map(|site| site.sysfs.clone());
    found.sort_by(|a, b| (&a.key, folder(a), &a.files).cmp(&(&b.key, folder(b), &b.files)));
    let mut taken: BTreeSet<String> = found.iter().map(|one| one.key.clone()).collect();
    let mut before: Option<String> = None;
    for one in &mut found {
        if before.as_ref() == Some(&one.key) {
            let mut numbered = (1_usize..).map(|number| format!("{}:{number}", one.key));
            one.key = numbered
                .find(|key| !taken.contains(key))
                .unwrap_or_default();
            taken.insert(one.key.clone());
        } else {
            before = Some(one.key.clone());
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    found
}

/// The NUMA node of a device, or of the nearest that it is plugged into.
fn numa_of(sysfs: &Sysfs, folder: &Path) -> Option<u32> {
    sysfs
        .upward(folder)
        // The kernel says -1 where the firmware says nothing.
        .find_map(|path| sysfs.attribute(path, "numa_node")?.parse().ok())
}

fn of_folder(scan: &Scan<'_>, folder: &Path) -> BTreeMap<&'static str, String> {
    let sysfs = &scan.sysfs;
    let mut fields = BTreeMap::new();
    let last = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let mut put = |name, value: Option<String>| {
        if let Some(value) = value {
            fields.insert(name, value);
        }
    };
    put("name", last(folder));
    put("subsystem", sysfs.subsystem(folder));
    let upward = || sysfs.upward(folder);
    let function = upward().find(|path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(is_address)
    });
    let usb = usb::device_of(sysfs, folder);
    // What it is plugged into has drivers and groups of its own.
    let whole = usb.or(function);
    put("driver", driver(sysfs, folder, usb, whole));
    let place = function.unwrap_or(folder);
    put("iommuGroup", sysfs.link(place, "iommu_group"));
    // The outermost: a controller that is a root of its own is plugged into another.
    put(
        "pciRoot",
        upward()
            .filter_map(last)
            .filter(|name| is_root(name))
            .last(),
    );
    if let Some(function) = function {
        let address = last(function);
        let slot = address
            .as_deref()
            .and_then(|address| Some(address.rsplit_once('.')?.0.to_owned()));
        put("pciSlot", slot);
        put("pci", address);
        put("physfn", sysfs.link(function, "physfn"));
    }
    match (usb, function) {
        (Some(usb), _) => {
            put("usb", last(usb));
            put("vendor", sysfs.attribute(usb, "idVendor"));
            put("device", sysfs.attribute(usb, "idProduct"));
        }
        (None, Some(function)) => {
            put("vendor", sysfs.hexadecimal(function, "vendor"));
            put("device", sysfs.hexadecimal(function, "device"));
        }
        (None, None) => {}
    }
    put("serial", serial(scan, folder, usb));
    fields
}

/// The driver of a device, or of the nearest of what it is a part of, up to the whole; of a whole USB device that of its
/// interfaces, for its own is only the bus.
fn driver(
    sysfs: &Sysfs,
    folder: &Path,
    usb: Option<&Path>,
    whole: Option<&Path>,
) -> Option<String> {
    if usb == Some(folder) {
        let interfaces = super::sysfs::names(folder)
            .into_iter()
            .filter(|name| name.contains(':'));
        let bound = interfaces
            .filter_map(|name| sysfs.link(&folder.join(name), "driver"))
            .next();
        if bound.is_some() {
            return bound;
        }
    }
    sysfs
        .upward(folder)
        .take_while(|path| whole.is_none_or(|whole| path.starts_with(whole)))
        .find_map(|path| sysfs.link(path, "driver"))
}

/// The serial number that a device says, that of the USB device that it is a part of, or what udev found out.
fn serial(scan: &Scan<'_>, folder: &Path, usb: Option<&Path>) -> Option<String> {
    let sysfs = &scan.sysfs;
    let own = ["serial", "device/serial"]
        .into_iter()
        .map(|name| (folder.to_path_buf(), name))
        .chain(usb.map(|usb| (usb.to_path_buf(), "serial")));
    // An NVMe's controller is in a folder of its function's.
    let controllers = super::sysfs::names(&folder.join("nvme"))
        .into_iter()
        .map(|name| (folder.join("nvme").join(name), "serial"));
    own.chain(controllers)
        .find_map(|(place, name): (PathBuf, &str)| sysfs.attribute(&place, name))
        .filter(|serial| !serial.is_empty())
        .or_else(|| scan.properties(folder).remove("ID_SERIAL_SHORT"))
}
