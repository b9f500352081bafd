//! The kernel's side of the network: programs, maps, links. RIM: everything here is a system call
//! on something pinned in a bpf file system, which outlives the agent; the agent only ever replaces
//! programs in place and writes rows, so traffic goes on while it starts, stops or is gone.
//!
//! Start with [`Datapath::load`]. All of it takes microseconds, except for loading (tens of
//! milliseconds); none of it waits for a peer.

mod announcements;
mod attach;
mod cgroup;
mod counters;
mod error;
mod events;
mod fill;
mod flows;
mod grace;
mod intact;
mod kernel;
mod lists;
mod loader;
mod logs;
mod maps;
mod outside;
mod pins;
mod policies;
mod ranges;
mod rows;
mod service_flows;
mod services;
mod trace;
mod trial;
mod upgrade;
mod xdp;

pub use announcements::Announced;
pub use attach::Attachment;
pub use cgroup::{ServedSockets, unified_cgroup};
pub use cni_ebpf_common::{
    endpoint::{Endpoint as EndpointRow, EndpointAddr as AddressRow},
    trace::Judgement,
    verdict::{Counter, DropReason, Path as PacketPath},
};
pub use counters::DropRow;
pub use error::DatapathError;
pub use events::{EventReader, Happened, PacketEnds, PacketEvent};
pub use logs::LogReader;
pub use maps::NodesChange;
pub use outside::ServedOutside;
pub use policies::ConnectionRow;
pub use rows::{EndpointRows, NodeRoute, Via, endpoint_rows, ip_of};
pub use service_flows::FlowCounts;
pub use services::ServicesChange;
pub use trace::{TraceReader, TraceScope, TracedAction, TracedStep, TracedWalk};
pub use trial::{Entry, Fate, Tried, TriedPacket};
pub use xdp::UplinkXdp;

use crate::{model, service::Frontend};
use attach::Interface;
use cni_ebpf_common::LAYOUT_VERSION;
use loader::Loaded;
use pins::Pins;
use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What the programs log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogLevel {
    /// Nothing, at no cost: the verifier removes the code.
    #[default]
    Off = 0,
    Error = 1,
    Warn = 2,
    Info = 3,
    /// Each drop.
    Debug = 4,
    /// Also packets that go to the kernel's stack.
    Trace = 5,
}

/// How XDP is attached to an uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver where it can, else generic; off on a veth pair, where XDP costs more than it
    /// can save, and where another's program is in the way.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's stack, behind the driver.
    Generic,
    /// Not at all; `from_uplink` refuses forged sources as well.
    Off,
}

/// Where and how to load.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// Folder of the pins, on a bpf file system.
    pub bpf_dir: PathBuf,
    pub log_level: LogLevel,
}

/// A pinned map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedMap {
    pub name: &'static str,
    pub path: PathBuf,
    /// Most rows.
    pub size: u32,
}

/// Loaded programs and open maps. Shared by reference between tasks.
pub struct Datapath {
    pins: Pins,
    loaded: Mutex<Loaded>,
    policies: Mutex<policies::Policies>,
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath")
            .field("pins", &self.pins)
            .finish_non_exhaustive()
    }
}

/// Ends what a killed agent left of shortened grace periods (`docs/adr/0005`), and its note; whether there
/// was one.
///
/// # Errors
/// The note can't be removed.
pub fn forget_grace_periods() -> std::io::Result<bool> {
    grace::forget()
}

impl Datapath {
    /// Loads the embedded programs. Maps that are pinned are used again with what they hold; links
    /// go on with the programs they have until they are attached anew. Mounts /sys/fs/bpf if the
    /// folder lies there and nothing is mounted.
    ///
    /// After an agent with another layout of the maps, ours are empty, and its links become ours:
    /// write all rows before attaching anything.
    ///
    /// # Errors
    /// No bpf file system, pinned maps of another layout, or a kernel that refuses the programs.
    pub fn load(config: &DatapathConfig) -> Result<Self, DatapathError> {
        grace::mend();
        let pins = Pins::prepare(&config.bpf_dir, LAYOUT_VERSION)?;
        let loaded = loader::load(&pins, config.log_level)?;
        upgrade::take_over(&pins)?;
        let policies = policies::Policies::open(&pins)?;
        Ok(Self {
            pins,
            loaded: Mutex::new(loaded),
            policies: Mutex::new(policies),
        })
    }

    /// Puts `from_pod` and `to_pod` on a pod's host-side interface, or replaces them in place.
    /// From then on an interface without rows lets nothing pass.
    ///
    /// # Errors
    /// The interface is missing or another one, or the kernel refuses.
    pub fn attach_endpoint(&self, ifname: &str, ifindex: u32) -> Result<(), DatapathError> {
        attach::endpoint(
            self.lock().current(),
            &self.pins,
            Interface { ifname, ifindex },
        )
    }

    /// Takes the programs off an endpoint's interface, removes their pins and the interface's
    /// counters. Does nothing when there are none.
    ///
    /// # Errors
    /// A pin can't be removed.
    pub fn detach_endpoint(&self, ifname: &str) -> Result<(), DatapathError> {
        self.detach(ifname)
    }

    /// Puts `from_uplink` and, unless off, `xdp_uplink` on an uplink, or replaces them in place.
    /// Returns the mode of XDP that was taken. `Auto` may end in `Off`.
    ///
    /// # Errors
    /// As [`Self::attach_endpoint`]; `Native` where the driver has no XDP.
    pub fn attach_uplink(
        &self,
        ifname: &str,
        ifindex: u32,
        xdp: XdpMode,
    ) -> Result<UplinkXdp, DatapathError> {
        attach::uplink(
            &mut self.lock(),
            &self.pins,
            Interface { ifname, ifindex },
            xdp,
        )
    }

    /// Takes the programs off an uplink, as [`Self::detach_endpoint`].
    ///
    /// # Errors
    /// A pin can't be removed.
    pub fn detach_uplink(&self, ifname: &str) -> Result<(), DatapathError> {
        self.detach(ifname)
    }

    fn detach(&self, ifname: &str) -> Result<(), DatapathError> {
        let mut loaded = self.lock();
        if let Some(ifindex) = attach::detach(&self.pins, ifname)? {
            loaded.maps.forget_drops(ifindex)?;
        }
        Ok(())
    }

    /// Detaches every endpoint's interface that is not named, and removes the counters of interfaces
    /// that have no program any more; returns those that were detached.
    ///
    /// # Errors
    /// A pin can't be removed; those before it are gone.
    pub fn retain_endpoints(&self, keep: &[&str]) -> Result<Vec<String>, DatapathError> {
        let mut removed = Vec::new();
        for ifname in self.pins.interfaces()? {
            if !keep.contains(&ifname.as_str()) && attach::is_endpoint(&self.pins, &ifname)? {
                self.detach(&ifname)?;
                removed.push(ifname);
            }
        }
        // Of an interface that vanished, the pin doesn't tell the index any more.
        let attached: BTreeSet<u32> = self.attachments()?.iter().map(|a| a.ifindex).collect();
        self.lock()
            .maps
            .retain_drops(|ifindex| attached.contains(&ifindex))?;
        Ok(removed)
    }

    /// Takes the programs off every uplink that is not named, also off one that an agent before this
    /// one used; returns those that were. Goes on after a failure, which the next call tries again.
    ///
    /// # Errors
    /// The first pin that can't be removed.
    pub fn retain_uplinks(&self, keep: &[&str]) -> Result<Vec<String>, DatapathError> {
        let mut removed = Vec::new();
        let mut failed = None;
        for ifname in self.pins.interfaces()? {
            if keep.contains(&ifname.as_str()) || attach::is_endpoint(&self.pins, &ifname)? {
                continue;
            }
            match self.detach(&ifname) {
                Ok(()) => removed.push(ifname),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(removed), Err)
    }

    /// What is attached where, read back from the kernel.
    ///
    /// # Errors
    /// A pin can't be read.
    pub fn attachments(&self) -> Result<Vec<Attachment>, DatapathError> {
        attach::list(&self.pins)
    }

    /// The first thing in which an endpoint's rows and programs on its host-side interface are not as
    /// [`Self::upsert_endpoint`] and [`Self::attach_endpoint`] left them; both put it right. `None`:
    /// it is enforced. In the network namespace of the calling thread, for a periodic look: a few
    /// system calls for an endpoint.
    ///
    /// # Errors
    /// The interface is missing or another one, or the kernel can't be asked.
    pub fn intact(
        &self,
        endpoint: &model::Endpoint,
        ifindex: u32,
    ) -> Result<Option<String>, DatapathError> {
        let ifname = &endpoint.host_ifname;
        intact::difference(
            &mut self.lock(),
            Interface { ifname, ifindex },
            &rows::endpoint_rows(endpoint, ifindex),
        )
    }

    /// Writes the rows of an endpoint whose host-side interface has this index, or replaces them.
    ///
    /// # Errors
    /// [`DatapathError::MapFull`] when no room is left: then no row of a new endpoint stays.
    pub fn upsert_endpoint(
        &self,
        endpoint: &model::Endpoint,
        ifindex: u32,
    ) -> Result<(), DatapathError> {
        self.lock()
            .maps
            .upsert_endpoint(&rows::endpoint_rows(endpoint, ifindex))
    }

    /// Removes the rows of an endpoint and the counters of its interface. Does nothing when there
    /// are none, and leaves rows alone that another endpoint has by now.
    ///
    /// # Errors
    /// A map can't be read or written.
    pub fn remove_endpoint(&self, endpoint: &model::Endpoint) -> Result<(), DatapathError> {
        let addresses: Vec<_> = endpoint.addresses.iter().collect();
        self.lock().maps.remove_endpoint(endpoint.id, &addresses)?;
        self.forget_policies(endpoint.id)
    }

    /// Removes the rows of every endpoint whose number is not named; returns the numbers of those
    /// that were.
    ///
    /// # Errors
    /// A map can't be read or written.
    pub fn retain_endpoint_rows(
        &self,
        keep: &BTreeSet<u32>,
    ) -> Result<BTreeSet<u32>, DatapathError> {
        self.lock().maps.retain_endpoints(keep)
    }

    /// Rows of `endpoints` with the index of the host-side interface.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn endpoints(&self) -> Result<Vec<(u32, EndpointRow)>, DatapathError> {
        self.lock().maps.endpoints()
    }

    /// Rows of `endpoint_addrs`.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn addresses(&self) -> Result<Vec<(IpAddr, AddressRow)>, DatapathError> {
        self.lock().maps.addresses()
    }

    /// Makes `nodes` hold these podCIDRs and no others: what is new or changed first, what is to
    /// go last. podCIDRs without room are left out and named in the answer.
    ///
    /// # Errors
    /// The map can't be read or written.
    pub fn sync_nodes(&self, desired: &[NodeRoute]) -> Result<NodesChange, DatapathError> {
        self.lock().maps.sync_nodes(desired)
    }

    /// Rows of `nodes`, by podCIDR.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn nodes(&self) -> Result<Vec<NodeRoute>, DatapathError> {
        self.lock().maps.nodes()
    }

    /// Makes the tables of Services hold these frontends and no others; each keeps its list where
    /// nothing changed, also over a restart. Connections keep the backend that they have. Frontends
    /// without room are left out and named in the answer, which also says whether
    /// [`Self::sweep_flows`] is due at once.
    ///
    /// # Errors
    /// A map can't be read or written.
    pub fn sync_services<F: Clone + Into<Arc<Frontend>>>(
        &self,
        desired: &[F],
    ) -> Result<ServicesChange, DatapathError> {
        let Loaded { maps, sockets, .. } = &mut *self.lock();
        let change = maps.services.sync(desired)?;
        if change.changed + change.removed > 0 {
            sockets.retain(|frontend, backend| maps.services.has(frontend, backend))?;
        }
        Ok(change)
    }

    /// What the programs would do with a packet now; nothing is sent, remembered or counted. Loads one of them
    /// once more, which takes tens of milliseconds. In the network namespace of the calling thread.
    ///
    /// # Errors
    /// An interface is missing, or the kernel refuses.
    pub fn try_packet(&self, packet: &TriedPacket) -> Result<Tried, DatapathError> {
        trial::run(&self.pins, packet)
    }

    /// Makes this node answer for these addresses on its uplinks' links and for no others, for so long
    /// from now on: whoever wants it to go on calls again before. What needs a MAC of an address is
    /// asked for by ARP or neighbour discovery.
    ///
    /// # Errors
    /// [`DatapathError::MapFull`] when no room is left, or the map can't be read or written.
    pub fn announce(&self, desired: &[Announced], lasts: Duration) -> Result<(), DatapathError> {
        self.lock().maps.announcements.sync(desired, lasts)
    }

    /// What this node answers for now, in order.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn announced(&self) -> Result<Vec<Announced>, DatapathError> {
        self.lock().maps.announcements.list()
    }

    /// Forgets flows that are over, and UDP flows and clients with affinity whose backend is none any
    /// more; returns how many rows went. For a periodic call, and one after a change of Services.
    /// Walks tens of thousands of rows; others wait for it only to read the frontends.
    ///
    /// # Errors
    /// A map can't be read or written.
    pub fn sweep_flows(&self) -> Result<usize, DatapathError> {
        let present = {
            let Loaded { maps, sockets, .. } = &mut *self.lock();
            sockets.retain(|frontend, backend| maps.services.has(frontend, backend))?;
            let addresses = maps.addresses()?;
            let frontends = maps.services.present();
            if frontends.is_some() {
                maps.services.unswept = false;
            }
            flows::Present {
                pods: addresses.iter().map(|(ip, _)| rows::addr_of(*ip)).collect(),
                frontends,
            }
        };
        flows::sweep(&self.pins, &present).inspect_err(|_| self.lock().maps.services.unswept = true)
    }

    /// Drops by interface and reason.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn drops(&self) -> Result<Vec<DropRow>, DatapathError> {
        self.lock().maps.drops()
    }

    /// Drops by reason since the maps were made, also of interfaces that are gone.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn drop_totals(&self) -> Result<Vec<(DropReason, Counter)>, DatapathError> {
        self.lock().maps.drop_totals()
    }

    /// Packets by the way they took.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn paths(&self) -> Result<Vec<(PacketPath, Counter)>, DatapathError> {
        self.lock().maps.paths()
    }

    /// Rows in use of each map that can be full, and how many it takes: name, rows, most rows. Doesn't
    /// take the lock.
    ///
    /// # Errors
    /// A pin is gone or a map can't be read.
    pub fn fills(&self) -> Result<Vec<(&'static str, usize, u32)>, DatapathError> {
        fill::fills(&self.pins)
    }

    /// The pinned maps, for `bpftool map dump pinned`.
    pub fn pinned(&self) -> Vec<PinnedMap> {
        let map = |shape: &loader::Shape| PinnedMap {
            name: shape.name,
            path: self.pins.map(shape.name),
            size: shape.rows,
        };
        loader::SHAPES.iter().map(map).collect()
    }

    /// The programs' log. Call once, when the log level is above off.
    ///
    /// # Errors
    /// The log was taken before.
    pub fn log_reader(&self) -> Result<LogReader, DatapathError> {
        LogReader::take(&mut self.lock().ebpf)
    }

    /// Reads what the programs tell of single packets; each event goes to one reader.
    ///
    /// # Errors
    /// A map can't be opened.
    pub fn event_reader(&self) -> Result<EventReader, DatapathError> {
        EventReader::open(&self.pins)
    }

    /// A panic while the lock was held leaves nothing half done that the kernel does not know.
    fn lock(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
