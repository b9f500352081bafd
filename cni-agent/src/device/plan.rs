//! PURE: what the configuration asks for, checked: resources, how their devices are found on the node, and what a
//! container is given with one. `config` makes it from YAML.

use super::{name::ResourceName, template::Template};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// All resources of the node, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub resources: BTreeMap<ResourceName, Rule>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: ResourceName,
    /// Where it is written, for people: file and line, or preset.
    pub origin: String,
    /// What it is, in its author's words.
    pub description: Option<String>,
    /// Ways to find its devices: one that any of them finds is one.
    pub find: Vec<Finder>,
    /// Everything found whose value is the same is one device; none: each is one by itself.
    pub group_by: Option<Template>,
    /// A device's stable name; none: serial number, PCI address, or path, the first that it has.
    pub id: Option<Template>,
    /// How many containers may have one device at once, 1 and more (default: 1).
    pub count: u32,
    /// NUMA nodes; none: as sysfs says.
    pub numa: Option<Vec<u32>>,
    pub give: Give,
    /// Default: `Near`; `Spread`, where `count` is more than 1.
    pub prefer: Prefer,
    pub health: HealthRule,
    /// What is run before each start of a container with it, with its deadline (default: 10 s); it resets the device.
    pub before_start: Option<Program>,
    /// Default: `DevicePlugin`.
    pub serve: Serve,
}

/// How devices are found. Where several values are given, all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finder {
    pub by: By,
    /// Attributes in the device's folder of sysfs, as `name` or `driver/name`, and what they must be.
    pub attributes: BTreeMap<String, Pattern>,
    /// Properties that udev knows of it, and what they must be.
    pub properties: BTreeMap<String, Pattern>,
}

/// What is looked through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Files of devices by path or pattern of paths, `/dev/ttyUSB*`: each is one.
    Path(Pattern),
    /// A folder whose files of devices are one device together, `/dev/dri/by-path/…`; a pattern: each folder is one.
    Directory(Pattern),
    /// USB devices.
    Usb {
        vendor: Option<Pattern>,
        product: Option<Pattern>,
        serial: Option<Pattern>,
    },
    /// PCI functions. Numbers are lower-case hexadecimal digits without `0x`; class has 6 of them, or the first 2 or 4.
    Pci {
        vendor: Option<Pattern>,
        device: Option<Pattern>,
        class: Option<String>,
        driver: Option<Pattern>,
        address: Option<Pattern>,
    },
    /// Devices of a subsystem, which is a class or a bus of sysfs (`tty`, `hidraw`, `dax`), and their kernel's name.
    Subsystem {
        subsystem: String,
        name: Option<Pattern>,
    },
    /// What CDI specifications on the node describe: `vendor/class`, and the devices' names in it.
    Cdi { kind: String, name: Option<Pattern> },
    /// The specification's example: so many devices with random names, anew after a while.
    Random {
        least: u32,
        most: u32,
        every: Duration,
    },
}

/// A text with `*`, `?` and `[…]`, as shells have them; in a path neither of them is a `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(pub String);

/// What a container gets with a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Give {
    /// Of the device's own files, those whose path below /dev is like one of these; empty: all. The empty pattern is like
    /// none (default where all are found by CDI, whose specifications give the files).
    pub own: Vec<Pattern>,
    /// Further files of devices.
    pub nodes: Vec<NodeRule>,
    /// Of the device's own files (default: read and write).
    pub permissions: Permissions,
    /// By name; `{index}` in a name is the number of the device among those of the container, from 0, and so each has a
    /// variable of its own. Without it, the values of several devices stand one after the other, with commas.
    pub environment: BTreeMap<String, Template>,
    pub mounts: Vec<MountRule>,
    pub annotations: BTreeMap<String, Template>,
    /// Names of CDI devices that somebody else described (default: `{cdi}`, where all are found by CDI).
    pub cdi: Vec<Template>,
    /// Whether the files are given by a CDI specification of ours, which can add groups, in place of the kubelet's own way
    /// (default: with `Serve::Dra` alone, which has no other way).
    pub write_cdi: bool,
    /// Groups that the container's user gets, for who isn't root; with `write_cdi` alone, and there
    /// `OfFiles` by default.
    pub groups: Groups,
}

/// Supplementary groups of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Groups {
    /// Those of the files that it gets, except root's.
    OfFiles,
    These(Vec<u32>),
}

/// A file of a device that goes with each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRule {
    pub path: Template,
    /// Path in the container; none: the same.
    pub within: Option<Template>,
    /// Default: read and write.
    pub permissions: Permissions,
    /// A device without it is one all the same (default: it is none).
    pub optional: bool,
}

/// A folder or file of the node that goes with each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRule {
    pub host: Template,
    pub container: Template,
    /// Default: true.
    pub readonly: bool,
    /// A device without it is one all the same (default: it is none).
    pub optional: bool,
}

/// What a container may do with a file of a device: read, write, make one (mknod).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

impl Permissions {
    /// As the kubelet has them: of `r`, `w` and `m`.
    pub fn letters(self) -> String {
        [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')]
            .into_iter()
            .filter_map(|(has, letter)| has.then_some(letter))
            .collect()
    }
}

/// Which of the free devices a container should get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// Near each other: on one NUMA node, below one PCI root, and then as `Pack`.
    Near,
    /// Those that are in use the most, so that whole ones stay free.
    Pack,
    /// Those that are in use the least.
    Spread,
    /// The kubelet chooses.
    Any,
}

/// When a device is healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthRule {
    /// Its files can be opened (default: nobody tries).
    pub open: bool,
    /// A program says so by ending with 0; its deadline is 5 s by default, or `every` if that is shorter.
    pub command: Option<Program>,
    /// Time between two looks by `open` and `command`; presence is seen at once (default: 10 s).
    pub every: Duration,
    /// Looks in a row that must fail until it is unhealthy (default: 2, since a busy moment is no fault).
    pub failures: u32,
    /// Looks in a row that must succeed until it is healthy again (default: 1).
    pub successes: u32,
    /// How long one that is gone is told as unhealthy, before it is forgotten (default: 1 h).
    pub forget: Duration,
}

impl HealthRule {
    /// Whether anything but presence is looked at.
    pub fn has_look(&self) -> bool {
        self.open || self.command.is_some()
    }
}

/// A program of the node, or of the agent's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<Template>,
    pub deadline: Duration,
}

/// By which interface the kubelet gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serve {
    DevicePlugin,
    /// Dynamic Resource Allocation.
    Dra,
}
