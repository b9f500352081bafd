//! A node's /dev, sysfs, udev and CDI in a temporary folder, for tests. Device files are real ones where the test may
//! make them, and plain files that say what they stand for where not.

use super::Host;
use crate::device::found::FileKind;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// The node. What is added to it is there at once.
///
/// ```ignore
/// let tree = Tree::new();
/// tree.pci("0000:3b:00.0")
///     .ids("10de", "2330")
///     .class("030200")
///     .numa(1)
///     .child("drm/renderD128", "drm", 226, 128);
/// tree.usb("1-2.3", 1, 4)
///     .ids("0403", "6001")
///     .serial("A50285BI")
///     .child("1-2.3:1.0/ttyUSB0/tty/ttyUSB0", "tty", 188, 0)
///     .link("serial/by-id/usb-FTDI_A50285BI");
/// let found = tree.host().find(&finders);
/// ```
pub(crate) struct Tree {
    root: TempDir,
}

/// A device of it, by its folder in sysfs.
pub(crate) struct Device<'a> {
    tree: &'a Tree,
    folder: PathBuf,
    /// Its file below /dev.
    file: Option<String>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let tree = Self {
            root: tempfile::tempdir().unwrap(),
        };
        for folder in [
            "dev",
            "sys/class",
            "sys/bus",
            "sys/dev/char",
            "sys/dev/block",
            "udev",
        ] {
            fs::create_dir_all(tree.root.path().join(folder)).unwrap();
        }
        fs::create_dir_all(tree.root.path().join("etc")).unwrap();
        fs::create_dir_all(tree.root.path().join("run")).unwrap();
        tree
    }

    pub(crate) fn host(&self) -> Host {
        let within = |name: &str| self.root.path().join(name);
        Host {
            dev: within("dev"),
            sys: within("sys"),
            udev: within("udev"),
            cdi: vec![within("etc/cdi"), within("run/cdi")],
        }
    }

    /// A PCI function below the root complex of its bus, `pci0000:3b`.
    pub(crate) fn pci(&self, address: &str) -> Device<'_> {
        let (bus, _) = address.rsplit_once(':').unwrap();
        self.pci_below(&format!("pci{bus}"), address)
    }

    /// A PCI function below a root complex, or bridges of one: `pci0000:3a/0000:3a:00.0`.
    pub(crate) fn pci_below(&self, place: &str, address: &str) -> Device<'_> {
        let folder = self.sys(&format!("devices/{place}/{address}"));
        let device = self.device(folder, "bus", "pci");
        device
            .attribute("numa_node", "-1")
            .ids("8086", "1234")
            .class("ff0000")
            .uevent(&format!("PCI_SLOT_NAME={address}"))
    }

    /// A USB device at a port, by its bus and number there. What is plugged into a hub is beneath the hub.
    pub(crate) fn usb(&self, port: &str, bus: u32, number: u32) -> Device<'_> {
        self.usb_with(port, bus, number, &[])
    }

    /// A USB device that has its attributes before anybody hears of it, as the kernel does it.
    pub(crate) fn usb_with(
        &self,
        port: &str,
        bus: u32,
        number: u32,
        attributes: &[(&str, &str)],
    ) -> Device<'_> {
        // 1-2.3.1 is in 1-2.3 is in 1-2.
        let mut place = format!("devices/pci0000:00/0000:00:14.0/usb{bus}");
        let (root, ports) = port.split_once('-').unwrap();
        let mut name = format!("{root}-");
        for (at, part) in ports.split('.').enumerate() {
            write!(name, "{}{part}", if at == 0 { "" } else { "." }).unwrap();
            write!(place, "/{name}").unwrap();
        }
        let folder = self.sys(&place);
        fs::create_dir_all(&folder).unwrap();
        for (name, value) in attributes {
            fs::write(folder.join(name), format!("{value}\n")).unwrap();
        }
        let device = self.device(folder, "bus", "usb");
        let minor = (bus - 1) * 128 + number - 1;
        device
            .attribute("bDeviceClass", "00")
            .uevent("DEVTYPE=usb_device")
            .own_file(&format!("bus/usb/{bus:03}/{number:03}"), 189, minor)
    }

    /// A device of a class that is no hardware's: `virtual_device("misc", "kvm", 10, 232)`.
    pub(crate) fn virtual_device(
        &self,
        class: &str,
        name: &str,
        major: u32,
        minor: u32,
    ) -> Device<'_> {
        let folder = self.sys(&format!("devices/virtual/{class}/{name}"));
        let device = self.device(folder, "class", class);
        device.own_file(&file_name(class, name), major, minor)
    }

    /// A device file that sysfs doesn't know.
    pub(crate) fn file(&self, name: &str, major: u32, minor: u32) {
        self.node(name, FileKind::Character, major, minor);
    }

    /// A link in /dev, to a path as it is written.
    pub(crate) fn link(&self, name: &str, target: impl AsRef<Path>) {
        let path = self.dev(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    pub(crate) fn folder(&self, name: &str) {
        fs::create_dir_all(self.dev(name)).unwrap();
    }

    /// Takes a file out of /dev.
    pub(crate) fn remove_file(&self, name: &str) {
        fs::remove_file(self.dev(name)).unwrap();
    }

    /// Takes a device out of sysfs and /dev, with all beneath it: its links lead nowhere then.
    pub(crate) fn unplug(&self, device: Device<'_>) {
        let host = self.host();
        let scan = super::scan::Scan::new(&host);
        let candidate = super::candidate::Candidate {
            folders: vec![device.folder.clone()],
            ..Default::default()
        };
        for file in scan.beneath(&candidate).files {
            let name = file.path.strip_prefix("/dev").unwrap();
            self.remove_file(name.to_str().unwrap());
        }
        fs::remove_dir_all(device.folder).unwrap();
    }

    /// A CDI specification in the folder of lasting ones.
    pub(crate) fn cdi(&self, name: &str, text: &str) {
        let folder = self.root.path().join("etc/cdi");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), text).unwrap();
    }

    /// One in the folder of those that last until the next start, which are stronger.
    pub(crate) fn cdi_for_now(&self, name: &str, text: &str) {
        let folder = self.root.path().join("run/cdi");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), text).unwrap();
    }

    fn sys(&self, path: &str) -> PathBuf {
        self.root.path().join("sys").join(path)
    }

    fn dev(&self, name: &str) -> PathBuf {
        self.root.path().join("dev").join(name)
    }

    /// A folder in sysfs that belongs to a class or bus.
    fn device(&self, folder: PathBuf, kind: &str, subsystem: &str) -> Device<'_> {
        fs::create_dir_all(&folder).unwrap();
        let name = folder.file_name().unwrap().to_owned();
        let all = match kind {
            "bus" => self.sys(&format!("bus/{subsystem}/devices")),
            _ => self.sys(&format!("class/{subsystem}")),
        };
        fs::create_dir_all(&all).unwrap();
        let device = Device {
            tree: self,
            folder,
            file: None,
        };
        let entry = all.join(name);
        if fs::symlink_metadata(&entry).is_err() {
            symlink(relative(&all, &device.folder), entry).unwrap();
        }
        // One that was unplugged has left its entry.
        if fs::symlink_metadata(device.folder.join("subsystem")).is_err() {
            let subsystem = self.sys(&format!("{kind}/{subsystem}"));
            device.link_to("subsystem", &subsystem);
        }
        device.uevent("")
    }

    fn node(&self, name: &str, kind: FileKind, major: u32, minor: u32) {
        let path = self.dev(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let (of, letter) = match kind {
            FileKind::Character => (FileType::CharacterDevice, 'c'),
            FileKind::Block => (FileType::BlockDevice, 'b'),
        };
        let mode = Mode::from_raw_mode(0o660);
        if mknodat(CWD, &path, of, mode, makedev(major, minor)).is_err() {
            fs::write(path, format!("stands for {letter} {major}:{minor}")).unwrap();
        }
    }
}

impl<'a> Device<'a> {
    /// An attribute, also in a folder: `nvme/nvme0/serial`.
    pub(crate) fn attribute(self, name: &str, value: &str) -> Self {
        let path = self.folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value}\n")).unwrap();
        self
    }

    /// Vendor and product of a PCI function or a USB device.
    pub(crate) fn ids(self, vendor: &str, device: &str) -> Self {
        match self.folder.join("bDeviceClass").exists() {
            true => self
                .attribute("idVendor", vendor)
                .attribute("idProduct", device),
            false => self
                .attribute("vendor", &format!("0x{vendor}"))
                .attribute("device", &format!("0x{device}")),
        }
    }

    pub(crate) fn class(self, digits: &str) -> Self {
        self.attribute("class", &format!("0x{digits}"))
    }

    pub(crate) fn serial(self, serial: &str) -> Self {
        self.attribute("serial", serial)
    }

    pub(crate) fn numa(self, node: u32) -> Self {
        self.attribute("numa_node", &node.to_string())
    }

    pub(crate) fn driver(self, name: &str) -> Self {
        let driver = self.tree.sys(&format!("bus/drivers/{name}"));
        fs::create_dir_all(&driver).unwrap();
        self.link_to("driver", &driver);
        self
    }

    pub(crate) fn iommu_group(self, number: u32) -> Self {
        let group = self.tree.sys(&format!("kernel/iommu_groups/{number}"));
        fs::create_dir_all(&group).unwrap();
        self.link_to("iommu_group", &group);
        self
    }

    /// Makes it a virtual function of another: `virtfn0` is the first.
    pub(crate) fn virtual_function_of(self, physical: &Device<'_>, number: u32) -> Self {
        self.link_to("physfn", &physical.folder);
        physical.link_to(&format!("virtfn{number}"), &self.folder);
        self
    }

    /// Makes it a hub.
    pub(crate) fn hub(self) -> Self {
        self.attribute("bDeviceClass", "09")
    }

    /// A property that udev knows of it.
    pub(crate) fn property(self, name: &str, value: &str) -> Self {
        let subsystem = fs::read_link(self.folder.join("subsystem")).unwrap();
        let numbers = fs::read_to_string(self.folder.join("dev"));
        let entry = match numbers {
            Ok(numbers) if subsystem.ends_with("block") => format!("b{}", numbers.trim()),
            Ok(numbers) => format!("c{}", numbers.trim()),
            Err(_) if subsystem.ends_with("net") => {
                let number = fs::read_to_string(self.folder.join("ifindex")).unwrap();
                format!("n{}", number.trim())
            }
            Err(_) => {
                let subsystem = subsystem.file_name().unwrap().to_str().unwrap();
                let name = self.folder.file_name().unwrap().to_str().unwrap();
                format!("+{subsystem}:{name}")
            }
        };
        let path = self.tree.root.path().join("udev").join(entry);
        let mut text = fs::read_to_string(&path).unwrap_or_else(|_| "I:1\n".to_owned());
        writeln!(text, "E:{name}={value}").unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// A part of it with a file in /dev: `child("drm/card0", "drm", 226, 0)`.
    pub(crate) fn child(&self, place: &str, class: &str, major: u32, minor: u32) -> Device<'a> {
        let device = self.part(place, class);
        let name = place.rsplit('/').next().unwrap();
        device.own_file(&file_name(class, name), major, minor)
    }

    /// A part of it without one: `part("net/eth0", "net")`.
    pub(crate) fn part(&self, place: &str, class: &str) -> Device<'a> {
        self.tree.device(self.folder.join(place), "class", class)
    }

    /// A part of it that belongs to a bus: `part_on_bus("fpga_region/region0/dfl-port.0", "platform")`.
    pub(crate) fn part_on_bus(&self, place: &str, bus: &str) -> Device<'a> {
        self.tree.device(self.folder.join(place), "bus", bus)
    }

    /// Such a part with a driver: a USB interface, `interface("1-2:1.0", "usb", "ftdi_sio")`.
    pub(crate) fn interface(self, place: &str, bus: &str, driver: &str) -> Self {
        self.part_on_bus(place, bus).driver(driver);
        self
    }

    /// Its file in /dev, where neither its class nor its kind tells it: `file("dfl-port.0", 241, 0)`.
    pub(crate) fn file(self, name: &str, major: u32, minor: u32) -> Self {
        self.own_file(name, major, minor)
    }

    /// A link of udev's to its file: `serial/by-id/usb-FTDI`.
    pub(crate) fn link(self, name: &str) -> Self {
        let link = self.tree.dev(name);
        let file = self.tree.dev(self.file.as_deref().unwrap());
        self.tree
            .link(name, relative(link.parent().unwrap(), &file));
        self
    }

    /// Where it is in sysfs, as the node has it.
    pub(crate) fn sysfs(&self) -> PathBuf {
        let below = self.folder.strip_prefix(self.tree.sys("")).unwrap();
        Path::new("/sys").join(below)
    }

    fn uevent(self, line: &str) -> Self {
        let path = self.folder.join("uevent");
        let mut text = fs::read_to_string(&path).unwrap_or_default();
        if !line.is_empty() {
            writeln!(text, "{line}").unwrap();
        }
        fs::write(path, text).unwrap();
        self
    }

    fn own_file(mut self, name: &str, major: u32, minor: u32) -> Self {
        let subsystem = fs::read_link(self.folder.join("subsystem")).unwrap();
        let (kind, place) = match subsystem.ends_with("block") {
            true => (FileKind::Block, "block"),
            false => (FileKind::Character, "char"),
        };
        self.tree.node(name, kind, major, minor);
        let numbers = self.tree.sys(&format!("dev/{place}"));
        let entry = numbers.join(format!("{major}:{minor}"));
        symlink(relative(&numbers, &self.folder), entry).unwrap();
        self.file = Some(name.to_owned());
        self.attribute("dev", &format!("{major}:{minor}"))
            .uevent(&format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={name}"))
    }

    fn link_to(&self, name: &str, target: &Path) {
        symlink(relative(&self.folder, target), self.folder.join(name)).unwrap();
    }
}

/// Where the kernel has the file of a device of a class, below /dev.
fn file_name(class: &str, name: &str) -> String {
    match (class, name) {
        ("drm", _) => format!("dri/{name}"),
        ("infiniband_verbs" | "infiniband_mad", _) | ("misc", "rdma_cm") => {
            format!("infiniband/{name}")
        }
        ("misc", "tun") => "net/tun".to_owned(),
        ("accel" | "input" | "net" | "vfio", _) => format!("{class}/{name}"),
        ("sound", _) => format!("snd/{name}"),
        ("vfio-dev", _) => format!("vfio/devices/{name}"),
        // No name in sysfs has a slash.
        _ => name.replace('!', "/"),
    }
}

/// The way from a folder to another path, as links in sysfs and /dev are written.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let common = from
        .components()
        .zip(to.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = from.components().skip(common).map(|_| "..");
    let down = to.components().skip(common);
    up.collect::<PathBuf>().join(down.collect::<PathBuf>())
}

/// What a plain file says that it stands for.
pub(super) fn stand_in(text: &str) -> Option<(FileKind, u32, u32)> {
    let (kind, numbers) = text.strip_prefix("stands for ")?.split_once(' ')?;
    let (major, minor) = numbers.split_once(':')?;
    let kind = match kind {
        "b" => FileKind::Block,
        _ => FileKind::Character,
    };
    Some((kind, major.parse().ok()?, minor.parse().ok()?))
}
