//! Reads sysfs. What it holds comes partly from devices and isn't trusted: reads are bounded, texts are cleaned, and no
//! link is followed out of it.

use rustix::fs::OFlags;
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Component, Path, PathBuf},
};

/// Most that is read of one file.
pub(super) const MOST_BYTES: u64 = 64 << 10;
/// Most names that are read of one folder.
pub(super) const MOST_NAMES: usize = 64 << 10;
/// Longest value that is kept, in characters.
const LONGEST_VALUE: usize = 1024;
/// Most properties of one device.
const MOST_PROPERTIES: usize = 1024;

/// The tree of the kernel's devices.
pub(super) struct Sysfs {
    /// Without links, so that what is resolved can be compared.
    root: PathBuf,
}

impl Sysfs {
    pub(super) fn open(root: &Path) -> Self {
        let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        Self { root }
    }

    /// The real folder of one that is told relative to the root.
    pub(super) fn folder(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        self.real(&self.root.join(path))
            .filter(|path| path.is_dir())
    }

    /// The folder as the node itself has it.
    pub(super) fn shown(&self, folder: &Path) -> PathBuf {
        let below = folder.strip_prefix(&self.root).unwrap_or(folder);
        Path::new("/sys").join(below)
    }

    /// Names in a folder that is told relative to the root, in order.
    pub(super) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        names(&self.root.join(path))
    }

    /// What a link in a folder leads to, by its last name.
    pub(super) fn link(&self, folder: &Path, name: &str) -> Option<String> {
        let target = fs::read_link(folder.join(name)).ok()?;
        Some(clean(target.file_name()?.to_str()?))
    }

    pub(super) fn subsystem(&self, folder: &Path) -> Option<String> {
        self.link(folder, "subsystem")
    }

    /// An attribute by `name` or `driver/name`; of one that is a folder or leads to one, its name.
    pub(super) fn attribute(&self, folder: &Path, name: &str) -> Option<String> {
        let is_below = Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !is_below {
            return None;
        }
        let path = self.real(&folder.join(name))?;
        match path.is_dir() {
            true => Some(clean(path.file_name()?.to_str()?)),
            false => text(&path).map(|text| clean(&text)),
        }
    }

    /// The same of an attribute that is a hexadecimal number: without `0x`.
    pub(super) fn hexadecimal(&self, folder: &Path, name: &str) -> Option<String> {
        let text = self.attribute(folder, name)?.to_ascii_lowercase();
        Some(text.strip_prefix("0x").unwrap_or(&text).to_owned())
    }

    /// Major and minor number of the file that the folder's device has.
    pub(super) fn numbers(&self, folder: &Path) -> Option<(u32, u32)> {
        let text = text(&folder.join("dev"))?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    /// What the kernel tells of the folder's device.
    pub(super) fn uevent(&self, folder: &Path) -> BTreeMap<String, String> {
        text(&folder.join("uevent")).map_or_else(BTreeMap::new, |text| properties(&text, ""))
    }

    /// The folder and those that it is in, the innermost first.
    pub(super) fn upward<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = &'a Path> {
        folder
            .ancestors()
            .take_while(|path| *path != self.root && path.starts_with(&self.root))
    }

    /// A path without links, if it doesn't leave sysfs.
    fn real(&self, path: &Path) -> Option<PathBuf> {
        let real = fs::canonicalize(path).ok()?;
        real.starts_with(&self.root).then_some(real)
    }
}

/// Names in a folder, in order; none of one that isn't there.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .take(MOST_NAMES)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// What a file begins with. One that would be waited for isn't read.
pub(super) fn text(path: &Path) -> Option<String> {
    bounded(path, MOST_BYTES).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The same in bytes: at most one more than `most`.
pub(super) fn bounded(path: &Path, most: u64) -> Option<Vec<u8>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    // Attributes may fail to be read, like that of a device that is gone.
    file.take(most + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Lines `NAME=value` behind a prefix. Of two with one name the first holds: the kernel writes its own before what a
/// device says of itself.
pub(super) fn properties(text: &str, prefix: &str) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    for (name, value) in lines
        .filter_map(|line| line.split_once('='))
        .take(MOST_PROPERTIES)
    {
        if !name.is_empty() {
            properties
                .entry(clean(name))
                .or_insert_with(|| clean(value));
        }
    }
    properties
}

/// A value as it can be shown and put into a variable: one line, without signs that terminals and C take for others.
pub(super) fn clean(text: &str) -> String {
    let trimmed = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    trimmed
        .chars()
        .take(LONGEST_VALUE)
        .map(|c| if c.is_control() { '_' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_out_of_sysfs_are_not_followed() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let device = inside.path().join("devices/a");
        fs::create_dir_all(&device).unwrap();
        symlink(outside.path(), device.join("device")).unwrap();
        symlink(outside.path().join("secret"), device.join("serial")).unwrap();
        fs::write(device.join("model"), "M\n").unwrap();
        let sysfs = Sysfs::open(inside.path());
        let folder = sysfs.folder("devices/a").unwrap();
        assert_eq!(sysfs.attribute(&folder, "model").as_deref(), Some("M"));
        for name in [
            "device/secret",
            "serial",
            "../../../etc/passwd",
            "/etc/passwd",
            "",
        ] {
            assert_eq!(sysfs.attribute(&folder, name), None, "{name}");
        }
        assert_eq!(sysfs.folder("devices/a/device"), None);
        assert_eq!(sysfs.shown(&folder), Path::new("/sys/devices/a"));
    }

    #[test]
    fn what_a_device_says_of_itself_forges_nothing() {
        let text = "MAJOR=189\nDEVNAME=bus/usb/001/004\nHID_UNIQ=x\nDEVNAME=sda\n=x\nnothing\n";
        let properties = properties(text, "");
        assert_eq!(properties["DEVNAME"], "bus/usb/001/004");
        assert_eq!(properties.len(), 3);
        assert_eq!(clean(" A\u{1b}[31m\u{0}\n"), "A_[31m");
        assert_eq!(clean(&"x".repeat(5000)).len(), LONGEST_VALUE);
    }

    #[test]
    fn no_more_is_read_than_fits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        fs::write(&path, vec![b'x'; 200 << 10]).unwrap();
        assert_eq!(text(&path).unwrap().len(), (64 << 10) + 1);
        assert_eq!(text(folder.path()), None);
    }
}
