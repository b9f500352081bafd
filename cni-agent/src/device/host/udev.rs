//! What udev knows of devices, in /run/udev/data. Not every node has it.

use super::sysfs::{Sysfs, properties, text};
use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

/// Properties of the device of a folder in sysfs: those that udev has, and those that the kernel tells.
pub(super) fn of(data: &Path, sysfs: &Sysfs, folder: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if let Some(entry) = entry(sysfs, folder)
        && is_name(&entry)
        && let Some(text) = text(&data.join(entry))
    {
        all = properties(&text, "E:");
    }
    for (name, value) in sysfs.uevent(folder) {
        all.entry(name).or_insert(value);
    }
    all
}

/// The name of a device's file: by the numbers of its device file, the number of its interface, or its place in sysfs.
fn entry(sysfs: &Sysfs, folder: &Path) -> Option<String> {
    let subsystem = sysfs.subsystem(folder)?;
    if let Some((major, minor)) = sysfs.numbers(folder) {
        let kind = if subsystem == "block" { 'b' } else { 'c' };
        return Some(format!("{kind}{major}:{minor}"));
    }
    if subsystem == "net" {
        return Some(format!("n{}", sysfs.attribute(folder, "ifindex")?));
    }
    Some(format!("+{subsystem}:{}", folder.file_name()?.to_str()?))
}

fn is_name(entry: &str) -> bool {
    let mut parts = Path::new(entry).components();
    matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    )
}
