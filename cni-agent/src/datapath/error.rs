//! What can go wrong with the kernel's side of the datapath.

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};
use std::{
    io,
    path::{Path, PathBuf},
};

/// An operation on programs, maps or links failed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// Pins need a bpf file system, and only the usual place is mounted by itself.
    #[error(
        "{} is not on a bpf file system; mount one there (mount -t bpf bpf DIR) or choose a folder \
         under /sys/fs/bpf",
        dir.display()
    )]
    NotBpffs { dir: PathBuf },
    /// Mounting /sys/fs/bpf failed.
    #[error("cannot mount a bpf file system on {}: {source}", dir.display())]
    Mount { dir: PathBuf, source: io::Error },
    /// A folder or pin can't be made, listed or removed.
    #[error("cannot {action} {}: {source}", path.display())]
    Pin {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A pinned map is of another shape than this agent's.
    #[error(
        "the pinned map {} has {property} {found}, this agent needs {expected}: it belongs to \
         another version; remove it while no pod runs, or use another --bpf-dir",
        path.display()
    )]
    MapShape {
        path: PathBuf,
        property: &'static str,
        found: u32,
        expected: u32,
    },
    /// The object can't be loaded.
    #[error("cannot load the kernel programs: {0}")]
    Load(#[from] EbpfError),
    /// The object lacks a part: a fault of the build.
    #[error("the embedded object has no {kind} {name}")]
    Missing {
        kind: &'static str,
        name: &'static str,
    },
    /// A packet can't be tried.
    #[error("a packet can't be run through {program}: {message}")]
    Trial {
        program: &'static str,
        message: String,
    },
    /// Packets are followed for one at a time.
    #[error("somebody traces on this node already; try again when that has ended")]
    Traced,
    /// The kernel refuses a program.
    #[error("the kernel refuses the program {program}: {source}")]
    Program {
        program: &'static str,
        source: ProgramError,
    },
    /// No interface of this name.
    #[error("there is no interface {ifname} to attach to")]
    NoInterface { ifname: String },
    /// Interfaces can't be looked up.
    #[error("cannot ask the kernel for interfaces: {source}")]
    Socket { source: io::Error },
    /// The name belongs to another interface than the caller means.
    #[error("interface {ifname} has index {found}, not {expected}: it was made again")]
    OtherInterface {
        ifname: String,
        expected: u32,
        found: u32,
    },
    /// A program can't be attached to an interface.
    #[error("cannot attach {program} to {ifname}: {source}")]
    Attach {
        program: &'static str,
        ifname: String,
        source: ProgramError,
    },
    /// A control group can't be opened.
    #[error("cannot open the control group {}: {source}", path.display())]
    Cgroup { path: PathBuf, source: io::Error },
    /// The programs of sockets were not loaded.
    #[error(
        "this kernel has no programs on control groups (CONFIG_CGROUP_BPF): packets to Services are translated one by one, and with --services all the node's own processes reach none; set --cgroup to off"
    )]
    NoSockets,
    /// Programs of sockets live on control groups of version 2.
    #[error(
        "{} is no control group of version 2; give the folder where cgroup2 is mounted",
        path.display()
    )]
    NotCgroup2 { path: PathBuf },
    /// A program can't be attached to a control group.
    #[error(
        "cannot attach {program} to the control group {}: {source}; another's program that tolerates \
         no second one may be there (bpftool cgroup show)",
        cgroup.display()
    )]
    AttachCgroup {
        program: &'static str,
        cgroup: Box<Path>,
        source: ProgramError,
    },
    /// The kernel attached, but not by a link that can be pinned.
    #[error("{program} on {ifname} has no link to pin: the kernel is too old (needs 6.6)")]
    NoLink {
        program: &'static str,
        ifname: String,
    },
    /// A pinned link can't be used.
    #[error("the pinned link {} cannot be used: {source}", path.display())]
    Link { path: PathBuf, source: LinkError },
    /// A link can't be pinned.
    #[error("cannot pin the link {}: {source}", path.display())]
    PinLink { path: PathBuf, source: PinError },
    /// The kernel says that what was attached is not there.
    #[error("{program} is not attached to {ifname} although its link says so")]
    NotAttached {
        program: &'static str,
        ifname: String,
    },
    /// No room in a map.
    #[error("the map {map} is full: it holds {size} rows and all are in use")]
    MapFull { map: &'static str, size: u32 },
    /// Any other failure of a map.
    #[error("cannot {action} the map {map}: {source}")]
    Map {
        action: &'static str,
        map: &'static str,
        source: MapError,
    },
    /// Reading the programs' log is not possible.
    #[error("cannot read the log of the kernel programs: {0}")]
    Log(String),
}
