//! Puts the programs of sockets on a control group by pinned links. A pinned link is taken over and
//! its program replaced in place, as on interfaces. A link shares the group with those of others:
//! the kernel runs them one after the other.

use super::{
    Datapath, DatapathError, kernel,
    loader::{self, Loaded},
    maps::{all, get, gone, typed, write},
    pins::{self, Pins},
    rows::addr_of,
};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
    programs::{CgroupAttachMode, ProgramError, links::FdLink},
};
use cni_ebpf_common::{
    flow::UDP,
    service::{Backend, FrontendKey},
    socket::{MAX_SOCKET_BACKENDS, SocketKey, SocketPeer, SocketSettings},
};
use std::{
    fs::File,
    io,
    net::SocketAddr,
    os::{fd::AsFd as _, linux::fs::MetadataExt as _},
    path::{Path, PathBuf},
};
use tracing::debug;

/// Names of the programs, as their pins and `bpftool prog` show them.
pub(super) const PROGRAMS: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];
const SETTINGS: &str = "socket_settings";
const BACKENDS: &str = "socket_backends";
const FRONTENDS: &str = "sockets";
/// Where the unified hierarchy is mounted: alone, or beside those of version 1.
const USUAL: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2_FS: rustix::fs::FsWord = 0x6367_7270;

/// Whose sockets get backends when they connect. What has one keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServedSockets {
    /// TCP of all network namespaces but the node's own.
    pub pods: bool,
    /// TCP and UDP of the node's own.
    pub host: bool,
}

/// The root of the unified hierarchy of control groups, which holds every process of the machine, or
/// the folder that holds it beside others; none where the kernel has only version 1.
pub fn unified_cgroup(folder: Option<&Path>) -> Option<PathBuf> {
    let candidates = match folder {
        Some(folder) => [folder.to_owned(), folder.join("unified")],
        None => USUAL.map(PathBuf::from),
    };
    let is_unified =
        |path: &PathBuf| rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == CGROUP2_FS);
    candidates.into_iter().find(is_unified)
}

/// The maps of sockets that the agent writes.
pub(super) struct Sockets {
    settings: Array<MapData, SocketSettings>,
    backends: HashMap<MapData, SocketKey, SocketPeer>,
    frontends: HashMap<MapData, SocketKey, SocketPeer>,
}

impl Sockets {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            settings: typed(ebpf, SETTINGS)?,
            backends: typed(ebpf, BACKENDS)?,
            frontends: typed(ebpf, FRONTENDS)?,
        })
    }

    /// Forgets backends that are none any more: the next datagram chooses anew. Returns how many.
    pub(super) fn retain(
        &mut self,
        serves: impl Fn(&FrontendKey, &Backend) -> bool,
    ) -> Result<usize, DatapathError> {
        // The programs add and evict meanwhile, which may lead the iteration back to its start.
        let most = 2 * MAX_SOCKET_BACKENDS as usize;
        let mut removed = 0;
        for (key, row) in all(self.backends.iter().take(most), BACKENDS)? {
            let frontend = FrontendKey {
                addr: key.addr,
                port_be: key.port_be,
                protocol: UDP,
                pad: 0,
            };
            let backend = Backend {
                addr: row.addr,
                port_be: row.port_be,
                pad: 0,
            };
            if !serves(&frontend, &backend) {
                gone(self.backends.remove(&key), BACKENDS)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl Datapath {
    /// Lets sockets of a control group and of those below it get a backend when they connect to a
    /// Service, or changes whose do. The node's own network namespace is that of the calling thread.
    /// Puts the programs there, or replaces them in place; does nothing when all is so.
    ///
    /// # Errors
    /// The folder is no control group of version 2, or the kernel refuses.
    pub fn serve_sockets(&self, cgroup: &Path, served: ServedSockets) -> Result<(), DatapathError> {
        let host_netns =
            kernel::netns_cookie().map_err(|source| DatapathError::Socket { source })?;
        let Loaded { ebpf, sockets, .. } = &mut *self.lock();
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        let settings = SocketSettings {
            host_netns,
            serve: bit(served.pods, SocketSettings::PODS) | bit(served.host, SocketSettings::HOST),
            pad: 0,
        };
        write(sockets.settings.set(0, settings, 0), SETTINGS, 1)?;
        attach(ebpf, &self.pins, cgroup)
    }

    /// Whether a connected UDP socket got a backend of a Service that is none of that Service's any more.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn is_lost(&self, cookie: u64, peer: SocketAddr) -> Result<bool, DatapathError> {
        let Loaded { maps, sockets, .. } = &mut *self.lock();
        let (addr, port_be) = (addr_of(peer.ip()), peer.port().to_be());
        let key = SocketKey {
            cookie,
            addr,
            port_be,
            pad: [0; 6],
        };
        let frontend = get(sockets.frontends.get(&key, 0), FRONTENDS)?.map(|means| FrontendKey {
            addr: means.addr,
            port_be: means.port_be,
            protocol: UDP,
            pad: 0,
        });
        let backend = Backend {
            addr,
            port_be,
            pad: 0,
        };
        Ok(frontend.is_some_and(|frontend| !maps.services.has(&frontend, &backend)))
    }

    /// Takes the programs of sockets off their control group. Connections keep their backends, but
    /// processes see those as their peers.
    ///
    /// # Errors
    /// A pin can't be removed.
    pub fn detach_sockets(&self) -> Result<(), DatapathError> {
        let _one_at_a_time = self.lock();
        PROGRAMS
            .iter()
            .try_for_each(|program| remove(&self.pins.socket(program)))
    }
}

/// Attaches all programs to a group, those that answer before those that ask: a process must not see
/// a backend as its peer.
fn attach(ebpf: &mut Ebpf, pins: &Pins, cgroup: &Path) -> Result<(), DatapathError> {
    let fault = |source| DatapathError::Cgroup {
        path: cgroup.to_owned(),
        source,
    };
    let group = File::open(cgroup).map_err(fault)?;
    let is_unified = rustix::fs::fstatfs(&group).is_ok_and(|fs| fs.f_type == CGROUP2_FS);
    if !is_unified {
        return Err(DatapathError::NotCgroup2 {
            path: cgroup.to_owned(),
        });
    }
    let number = group.metadata().map_err(fault)?.st_ino();
    for program in PROGRAMS.into_iter().rev() {
        attach_program(
            ebpf,
            &pins.socket(program),
            program,
            (cgroup, &group, number),
        )?;
    }
    Ok(())
}

fn attach_program(
    ebpf: &mut Ebpf,
    pin: &Path,
    program: &'static str,
    (cgroup, group, number): (&Path, &File, u64),
) -> Result<(), DatapathError> {
    let attach = |source| DatapathError::AttachCgroup {
        program,
        cgroup: cgroup.into(),
        source,
    };
    let loaded = loader::socket(ebpf, program)?;
    let ours = match loaded.info() {
        Ok(info) => info.id(),
        Err(ProgramError::NotLoaded) => return Err(DatapathError::NoSockets),
        Err(source) => return Err(attach(source)),
    };
    match state(pin)? {
        Some(link) if link.cgroup == number && link.program_id == ours => return Ok(()),
        Some(link) if link.cgroup == number => {
            let fd = loaded.fd().map_err(attach)?.as_fd();
            return kernel::replace_program(pin, fd).map_err(|source| DatapathError::Pin {
                action: "replace the program of",
                path: pin.to_owned(),
                source,
            });
        }
        Some(_) | None => {}
    }
    let former = pin.exists();
    // The kernel lets links share a group by themselves and refuses to be told so.
    let id = loaded
        .attach(group, CgroupAttachMode::Single)
        .map_err(attach)?;
    let link = FdLink::try_from(loaded.take_link(id).map_err(attach)?).map_err(|source| {
        DatapathError::Link {
            path: pin.to_owned(),
            source,
        }
    })?;
    // On another group: the new one is there before the old one goes.
    if former {
        remove(pin)?;
    }
    link.pin(pin)
        .map(drop)
        .map_err(|source| DatapathError::PinLink {
            path: pin.to_owned(),
            source,
        })
}

/// Moves the links of an agent with another layout of the maps, as `upgrade` does with those of
/// interfaces.
pub(super) fn take_over(pins: &Pins, former: &Pins) -> Result<usize, DatapathError> {
    let mut moved = 0;
    for program in PROGRAMS {
        let (from, to) = (former.socket(program), pins.socket(program));
        if state(&from)?.is_none() {
            continue;
        }
        if state(&to)?.is_some_and(|link| link.cgroup != 0) {
            remove(&from)?;
            continue;
        }
        std::fs::rename(&from, &to).map_err(|source| DatapathError::Pin {
            action: "move",
            path: from.clone(),
            source,
        })?;
        moved += 1;
    }
    Ok(moved)
}

fn state(pin: &Path) -> Result<Option<kernel::CgroupLink>, DatapathError> {
    match kernel::cgroup_link(pin) {
        Ok(state) => Ok(Some(state)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DatapathError::Pin {
            action: "read",
            path: pin.to_owned(),
            source,
        }),
    }
}

/// Detaches at once, then removes the pin.
fn remove(pin: &Path) -> Result<(), DatapathError> {
    if pin.exists()
        && let Err(e) = kernel::detach(pin)
    {
        // The group is gone and took the attachment along; the pin is what is left.
        debug!(pin = %pin.display(), "the link was not attached any more: {e}");
    }
    pins::remove(pin)
}
