//! Loads the embedded object: maps re-used from their pins or made and pinned, programs verified.

use super::{
    DatapathError, LogLevel,
    cgroup::{PROGRAMS as SOCKET_PROGRAMS, Sockets},
    maps::Maps,
    pins::Pins,
};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{MapInfo, MapType, lpm_trie::Key as LpmKey},
    programs::{CgroupSockAddr, ProgramError, ProgramType, SchedClassifier, Xdp},
    sys::is_program_supported,
};
use cni_ebpf_common::{
    announcement::{Announcement, AnnouncementKey, MAX_ANNOUNCEMENTS},
    config::LOG_LEVEL,
    endpoint::{
        Endpoint, EndpointAddr, EndpointAddrKey, EndpointKey, MAX_ENDPOINT_ADDRS, MAX_ENDPOINTS,
    },
    event::{EVENTS_BYTES, EventBudget, EventSettings},
    flow::{
        ENDPOINT_FLOWS, EndpointFlows, Flow, FlowKey, FragmentKey, FragmentPorts, MAX_FLOWS,
        MAX_FRAGMENTS,
    },
    node::{MAX_NODES, Node, NodeKey},
    outside::{MAX_RANGES, OutsideFlows, OutsideSettings, RangeKey},
    policy::{
        BlockKey, EndpointPolicy, MAX_BLOCKS, MAX_PEERS, MAX_PORT_CHUNKS, MAX_VERDICTS, Peer,
        PeerKey, PolicySettings, PortsChunk, PortsKey, Verdict, VerdictKey,
    },
    service::{
        Affinity, AffinityKey, Backend, BackendKey, Chunk, ChunkKey, Frontend, FrontendKey,
        MAX_AFFINITY, MAX_BACKENDS, MAX_CHUNKS, MAX_FRONTENDS,
    },
    socket::{MAX_SOCKET_BACKENDS, MAX_SOCKETS, SocketKey, SocketPeer, SocketSettings},
    verdict::{Counter, DropKey, MAX_COUNTERS, MAX_DROPS},
};
use std::io;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fairlead-ebpf"));
/// The same programs, which also tell of the packets that they are asked to follow.
static TRACED: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fairlead-ebpf-traced"));

pub(super) const CONNECTIONS_OF: &str = "connections";

/// The shape of a pinned map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) kind: MapType,
    pub(super) key: usize,
    pub(super) value: usize,
    pub(super) rows: u32,
}

const fn shape<K, V>(name: &'static str, kind: MapType, rows: u32) -> Shape {
    Shape {
        name,
        kind,
        key: size_of::<K>(),
        value: size_of::<V>(),
        rows,
    }
}

/// Every pinned map, as `cni-ebpf/src/maps.rs` declares it.
pub(super) const SHAPES: [Shape; 30] = [
    shape::<EndpointKey, Endpoint>("endpoints", MapType::Hash, MAX_ENDPOINTS),
    shape::<EndpointAddrKey, EndpointAddr>("endpoint_addrs", MapType::Hash, MAX_ENDPOINT_ADDRS),
    shape::<NodeKey, Node>("nodes", MapType::LpmTrie, MAX_NODES),
    shape::<FrontendKey, Frontend>("frontends", MapType::Hash, MAX_FRONTENDS),
    shape::<BackendKey, Backend>("backends", MapType::Hash, MAX_BACKENDS),
    shape::<ChunkKey, Chunk>("maglev", MapType::Hash, MAX_CHUNKS),
    shape::<FlowKey, Flow>("flows", MapType::LruHash, MAX_FLOWS),
    shape::<u32, EndpointFlows>("endpoint_flows", MapType::Array, ENDPOINT_FLOWS),
    shape::<FragmentKey, FragmentPorts>("fragments", MapType::LruHash, MAX_FRAGMENTS),
    shape::<AffinityKey, Affinity>("affinity", MapType::LruHash, MAX_AFFINITY),
    shape::<u32, SocketSettings>("socket_settings", MapType::Array, 1),
    shape::<SocketKey, SocketPeer>("sockets", MapType::LruHash, MAX_SOCKETS),
    shape::<SocketKey, SocketPeer>("socket_backends", MapType::LruHash, MAX_SOCKET_BACKENDS),
    shape::<u32, OutsideSettings>("outside_settings", MapType::Array, 1),
    shape::<u32, OutsideFlows>("outside_flows", MapType::Array, 1),
    shape::<LpmKey<RangeKey>, u32>("source_ranges", MapType::LpmTrie, MAX_RANGES),
    shape::<AnnouncementKey, Announcement>("announcements", MapType::Hash, MAX_ANNOUNCEMENTS),
    shape::<u32, PolicySettings>("policy_settings", MapType::Array, 1),
    shape::<u32, EndpointPolicy>("endpoint_policies", MapType::Hash, MAX_ENDPOINTS),
    shape::<PeerKey, Peer>("peers", MapType::Hash, MAX_PEERS),
    shape::<LpmKey<BlockKey>, Peer>("peer_blocks", MapType::LpmTrie, MAX_BLOCKS),
    shape::<VerdictKey, Verdict>("verdicts", MapType::Hash, MAX_VERDICTS),
    shape::<PortsKey, PortsChunk>("port_sets", MapType::Hash, MAX_PORT_CHUNKS),
    shape::<u32, u32>(CONNECTIONS_OF, MapType::HashOfMaps, MAX_ENDPOINTS),
    shape::<u32, EventSettings>("event_settings", MapType::Array, 1),
    shape::<u32, EventBudget>("event_budget", MapType::PerCpuArray, 1),
    shape::<(), ()>("events", MapType::RingBuf, EVENTS_BYTES),
    shape::<DropKey, Counter>("drops", MapType::PerCpuHash, MAX_DROPS),
    shape::<u32, Counter>("drop_totals", MapType::PerCpuArray, MAX_COUNTERS),
    shape::<u32, Counter>("paths", MapType::PerCpuArray, MAX_COUNTERS),
];

/// Names of the programs, as their pins and `bpftool prog` show them.
pub(super) const FROM_POD: &str = "from_pod";
pub(super) const TO_POD: &str = "to_pod";
pub(super) const FROM_UPLINK: &str = "from_uplink";
pub(super) const TO_UPLINK: &str = "to_uplink";
pub(super) const XDP_UPLINK: &str = "xdp_uplink";
/// Those of tcx.
pub(super) const CLASSIFIERS: [&str; 4] = [FROM_POD, TO_POD, FROM_UPLINK, TO_UPLINK];

/// What was loaded: programs that the kernel has verified and typed maps.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) maps: Maps,
    pub(super) sockets: Sockets,
    /// The object that is attached in place of `ebpf` while somebody traces.
    pub(super) traced: Option<Ebpf>,
}

impl Loaded {
    /// Whose tcx programs belong on links now.
    pub(super) fn current(&mut self) -> &mut Ebpf {
        self.traced.as_mut().unwrap_or(&mut self.ebpf)
    }
}

/// Loads with maps re-used from their pins.
pub(super) fn load(pins: &Pins, log_level: LogLevel) -> Result<Loaded, DatapathError> {
    for shape in &SHAPES {
        check_pinned(pins, shape)?;
    }
    let level = log_level as u8;
    let mut loader = EbpfLoader::new();
    // The programs use nothing of the kernel's own types.
    loader.btf(None).override_global(LOG_LEVEL, &level, true);
    for shape in &SHAPES {
        loader.map_pin_path(shape.name, pins.map(shape.name));
    }
    let mut ebpf = loader.load(OBJECT)?;
    for program in CLASSIFIERS {
        load_classifier(&mut ebpf, program)?;
    }
    let program = xdp(&mut ebpf, XDP_UPLINK)?;
    let loaded = uninterrupted(|| program.load());
    loaded.map_err(|source| DatapathError::Program {
        program: XDP_UPLINK,
        source,
    })?;
    // Without them packets are translated: no reason to serve no pod.
    let has_sockets = is_program_supported(ProgramType::CgroupSockAddr).unwrap_or(true);
    for name in SOCKET_PROGRAMS.into_iter().filter(|_| has_sockets) {
        let program = socket(&mut ebpf, name)?;
        let loaded = uninterrupted(|| program.load());
        loaded.map_err(|source| DatapathError::Program {
            program: name,
            source,
        })?;
    }
    let maps = Maps::take(&mut ebpf)?;
    let sockets = Sockets::take(&mut ebpf)?;
    Ok(Loaded {
        ebpf,
        maps,
        sockets,
        traced: None,
    })
}

/// The object that tells, on the pinned maps, with its tcx programs.
pub(super) fn load_traced(pins: &Pins) -> Result<Ebpf, DatapathError> {
    let mut ebpf = load_object(TRACED, pins, LogLevel::Off, &[])?;
    for program in CLASSIFIERS {
        load_classifier(&mut ebpf, program)?;
    }
    Ok(ebpf)
}

/// The object without its programs, on the pinned maps but for these, which are its own, with so many rows.
pub(super) fn load_apart(
    pins: &Pins,
    log_level: LogLevel,
    own: &[(&'static str, Option<u32>)],
) -> Result<Ebpf, DatapathError> {
    load_object(OBJECT, pins, log_level, own)
}

fn load_object(
    object: &[u8],
    pins: &Pins,
    log_level: LogLevel,
    own: &[(&'static str, Option<u32>)],
) -> Result<Ebpf, DatapathError> {
    let level = log_level as u8;
    let mut loader = EbpfLoader::new();
    loader.btf(None).override_global(LOG_LEVEL, &level, true);
    for shape in &SHAPES {
        match own.iter().find(|(name, _)| *name == shape.name) {
            None => {
                loader.map_pin_path(shape.name, pins.map(shape.name));
            }
            Some((name, Some(rows))) => {
                loader.map_max_entries(name, *rows);
            }
            Some((_, None)) => {}
        }
    }
    Ok(loader.load(object)?)
}

/// A tcx program, which the kernel has verified then.
pub(super) fn load_classifier<'a>(
    ebpf: &'a mut Ebpf,
    program: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let classifier = classifier(ebpf, program)?;
    let loaded = uninterrupted(|| classifier.load());
    loaded.map_err(|source| DatapathError::Program { program, source })?;
    Ok(classifier)
}

/// The verifier gives up with EAGAIN when a signal waits for the thread.
fn uninterrupted(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const ATTEMPTS: usize = 10;
    for _ in 1..ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
    load()
}

/// A tcx program of the object.
pub(super) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let program = ebpf.program_mut(name).and_then(|p| p.try_into().ok());
    program.ok_or(DatapathError::Missing {
        kind: "tcx program",
        name,
    })
}

/// A program of sockets of the object.
pub(super) fn socket<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut CgroupSockAddr, DatapathError> {
    let program = ebpf.program_mut(name).and_then(|p| p.try_into().ok());
    program.ok_or(DatapathError::Missing {
        kind: "program of sockets",
        name,
    })
}

/// An XDP program of the object.
pub(super) fn xdp<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut Xdp, DatapathError> {
    let program = ebpf.program_mut(name).and_then(|p| p.try_into().ok());
    program.ok_or(DatapathError::Missing {
        kind: "XDP program",
        name,
    })
}

/// A map of another shape under our name would be read as something it is not.
fn check_pinned(pins: &Pins, shape: &Shape) -> Result<(), DatapathError> {
    let path = pins.map(shape.name);
    if !path.exists() {
        return Ok(());
    }
    let info = MapInfo::from_pin(&path).map_err(|source| DatapathError::Map {
        action: "open",
        map: shape.name,
        source,
    })?;
    let kind = info.map_type().unwrap_or(MapType::Unspecified);
    for (property, found, expected) in [
        ("type", kind as u32, shape.kind as u32),
        ("key size", info.key_size(), shape.key as u32),
        ("value size", info.value_size(), shape.value as u32),
        ("size", info.max_entries(), shape.rows),
    ] {
        if found != expected {
            return Err(DatapathError::MapShape {
                path,
                property,
                found,
                expected,
            });
        }
    }
    Ok(())
}
