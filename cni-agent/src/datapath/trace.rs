//! Follows the packets of one talk through the programs. While somebody does, another object is on every link in
//! place of the usual one, on the same maps: the same programs, which also tell. A link's program is replaced in
//! one step, so that no packet is without.

use super::{
    Datapath, DatapathError, DropReason, PacketEnds, PacketPath, attach,
    events::{ends, fault},
    flows::now_ns,
    loader::{self, Loaded},
    maps::typed,
    pins::Pins,
    rows::{addr_of, ip_of},
};
use crate::policy::Direction;
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
};
use cni_ebpf_common::{
    addr::Addr,
    policy::EndpointPolicy,
    trace::{
        DIRECTION_SHIFT, FIRST, Judgement, MAX_TRACE_ENDS, Program, SECOND, Step, StepKind,
        TraceSettings, Walk,
    },
};
use etherparse::{LaxSlicedPacket, TransportSlice};
use std::{
    collections::BTreeMap,
    mem::offset_of,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

const SETTINGS: &str = "trace_settings";
const ENDS: &str = "trace_ends";
const LOST: &str = "trace_lost";
const TRACES: &str = "traces";

/// Whose packets are followed: between the ends, in both directions; without a second end all of the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceScope {
    pub first: Vec<IpAddr>,
    pub second: Option<Vec<IpAddr>>,
}

/// A packet's way through one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedWalk {
    /// How long ago.
    pub age: Duration,
    /// The interface of the program.
    pub ifindex: u32,
    pub program: &'static str,
    /// Of the whole packet, in bytes.
    pub length: u32,
    /// As it came; none: what was copied of it doesn't tell.
    pub ends: Option<PacketEnds>,
    /// TCP's, as tcpdump has them: `S`, `S.`, `.`, `P.`, `F.`, `R`.
    pub flags: String,
    pub steps: Vec<TracedStep>,
    /// There were more.
    pub cut: bool,
    pub action: TracedAction,
}

/// What became of a packet at the end of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracedAction {
    /// On by the host's stack.
    Stack,
    Dropped,
    /// To an interface, past the host's stack.
    Redirected,
}

/// Something that a program did or found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracedStep {
    /// A Service's frontend got a backend for it.
    Balanced {
        new: bool,
    },
    /// It has these ends now. The protocol has ports.
    Rewritten {
        source: SocketAddr,
        destination: SocketAddr,
    },
    /// Policies were asked for an endpoint.
    Judged {
        endpoint: u32,
        direction: Direction,
        said: Judgement,
    },
    /// Its other direction came by the host's stack.
    ByStack,
    Path(PacketPath),
    Dropped(DropReason),
}

/// The open maps of a trace.
pub struct TraceReader {
    traces: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
}

impl TraceReader {
    /// Ways that have ended since the last call, in order for each CPU; of many the first, so that who follows a pod with
    /// heavy traffic is answered: what has no room meanwhile is lost, and counted.
    pub fn read(&mut self) -> Vec<TracedWalk> {
        const MOST: usize = 2_000;
        let now = now_ns();
        let mut read = Vec::new();
        for _ in 0..MOST {
            match self.traces.next() {
                Some(item) => read.extend(walk(&item, now)),
                None => break,
            }
        }
        read
    }

    /// How many ways were not told, because nobody had read the others.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn lost(&self) -> Result<u64, DatapathError> {
        let of_cpus = self.lost.get(&0, 0).map_err(fault("read", LOST))?;
        Ok(of_cpus.iter().sum())
    }
}

impl Datapath {
    /// Follows these packets until [`Self::end_trace`]. Loading takes some hundred milliseconds, during which
    /// others go on.
    ///
    /// # Errors
    /// [`DatapathError::Traced`] when somebody does already; too many addresses; the kernel refuses.
    pub fn start_trace(&self, scope: &TraceScope) -> Result<TraceReader, DatapathError> {
        if self.lock().traced.is_some() {
            return Err(DatapathError::Traced);
        }
        let (mut traced, reader) = prepare(&self.pins, scope)?;
        let loaded = &mut *self.lock();
        if loaded.traced.is_some() {
            return Err(DatapathError::Traced);
        }
        if let Err(error) = attach::replace_all(&mut traced, &self.pins) {
            // What has it already gets back what it had.
            return Err(attach::replace_all(&mut loaded.ebpf, &self.pins)
                .err()
                .unwrap_or(error));
        }
        loaded.traced = Some(traced);
        Ok(reader)
    }

    /// Puts the usual programs back on every link. Does nothing when nobody traces.
    ///
    /// # Errors
    /// A link can't be replaced: then it goes on with what it has, until it is attached anew.
    pub fn end_trace(&self) -> Result<(), DatapathError> {
        let Loaded { ebpf, traced, .. } = &mut *self.lock();
        match traced.take() {
            Some(_) => attach::replace_all(ebpf, &self.pins),
            None => Ok(()),
        }
    }
}

fn prepare(pins: &Pins, scope: &TraceScope) -> Result<(Ebpf, TraceReader), DatapathError> {
    let mut ebpf = loader::load_traced(pins)?;
    let both = u32::from(scope.second.is_some());
    let mut settings: Array<MapData, TraceSettings> = typed(&mut ebpf, SETTINGS)?;
    let set = settings.set(0, TraceSettings { both, pad: 0 }, 0);
    set.map_err(fault("write", SETTINGS))?;
    let mut bits: BTreeMap<Addr, u32> = BTreeMap::new();
    let second = scope.second.iter().flatten().map(|ip| (ip, SECOND));
    for (ip, bit) in scope.first.iter().map(|ip| (ip, FIRST)).chain(second) {
        *bits.entry(addr_of(*ip)).or_default() |= bit;
    }
    if bits.len() > MAX_TRACE_ENDS as usize {
        return Err(DatapathError::MapFull {
            map: ENDS,
            size: MAX_TRACE_ENDS,
        });
    }
    let mut ends: HashMap<MapData, Addr, u32> = typed(&mut ebpf, ENDS)?;
    for (addr, bits) in bits {
        ends.insert(addr, bits, 0).map_err(fault("write", ENDS))?;
    }
    let reader = TraceReader {
        traces: typed(&mut ebpf, TRACES)?,
        lost: typed(&mut ebpf, LOST)?,
    };
    Ok((ebpf, reader))
}

/// Reads the bytes of a [`Walk`]; none: of another version.
fn walk(bytes: &[u8], now_ns: u64) -> Option<TracedWalk> {
    const TC_ACT_SHOT: u32 = 2;
    const TC_ACT_REDIRECT: u32 = 7;
    let time = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
    let word = |at| word(bytes, at);
    let captured = usize::try_from(word(offset_of!(Walk, captured))?).ok()?;
    let head = offset_of!(Walk, head);
    let head = bytes.get(head..head + captured.min(Walk::HEAD))?;
    let lax = LaxSlicedPacket::from_ip(head).ok();
    let flags = match lax.as_ref().and_then(|lax| lax.transport.as_ref()) {
        Some(TransportSlice::Tcp(tcp)) => [
            (tcp.syn(), 'S'),
            (tcp.fin(), 'F'),
            (tcp.rst(), 'R'),
            (tcp.psh(), 'P'),
            (tcp.ack(), '.'),
        ]
        .into_iter()
        .filter_map(|(set, letter)| set.then_some(letter))
        .collect(),
        _ => String::new(),
    };
    let program = usize::try_from(word(offset_of!(Walk, program))?).ok()?;
    let program = match Program::ALL.get(program)? {
        Program::FromPod => loader::FROM_POD,
        Program::ToPod => loader::TO_POD,
        Program::FromUplink => loader::FROM_UPLINK,
        Program::ToUplink => loader::TO_UPLINK,
    };
    let count = usize::try_from(word(offset_of!(Walk, count))?).ok()?;
    let first = offset_of!(Walk, steps);
    let steps = (0..count.min(Walk::STEPS)).map(|at| {
        let at = first + at * size_of::<Step>();
        step(bytes.get(at..at + size_of::<Step>())?)
    });
    Some(TracedWalk {
        age: Duration::from_nanos(now_ns.saturating_sub(time)),
        ifindex: word(offset_of!(Walk, ifindex))?,
        program,
        length: word(offset_of!(Walk, length))?,
        ends: lax.as_ref().and_then(ends),
        flags,
        steps: steps.collect::<Option<_>>()?,
        cut: count > Walk::STEPS,
        action: match word(offset_of!(Walk, action))? {
            TC_ACT_SHOT => TracedAction::Dropped,
            TC_ACT_REDIRECT => TracedAction::Redirected,
            _ => TracedAction::Stack,
        },
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn step(bytes: &[u8]) -> Option<TracedStep> {
    let kind = usize::try_from(word(bytes, offset_of!(Step, kind))?).ok()?;
    let value = word(bytes, offset_of!(Step, value))?;
    let socket = |addr: usize, port: usize| {
        let addr: Addr = bytes.get(addr..addr + 16)?.try_into().ok()?;
        let port = bytes.get(port..port + 2)?.try_into().ok()?;
        Some(SocketAddr::new(ip_of(&addr), u16::from_be_bytes(port)))
    };
    Some(match StepKind::ALL.get(kind)? {
        StepKind::Balanced => TracedStep::Balanced { new: value == 2 },
        StepKind::Rewritten => TracedStep::Rewritten {
            source: socket(offset_of!(Step, src), offset_of!(Step, sport_be))?,
            destination: socket(offset_of!(Step, dst), offset_of!(Step, dport_be))?,
        },
        StepKind::Judged => TracedStep::Judged {
            endpoint: word(bytes, offset_of!(Step, endpoint))?,
            direction: match value >> DIRECTION_SHIFT {
                EndpointPolicy::INGRESS => Direction::Ingress,
                _ => Direction::Egress,
            },
            said: *Judgement::ALL.get(usize::from(value as u16))?,
        },
        StepKind::ByStack => TracedStep::ByStack,
        StepKind::Path => TracedStep::Path(PacketPath::try_from(value).ok()?),
        StepKind::Dropped => TracedStep::Dropped(DropReason::try_from(value).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn told(program: u32, action: u32, head: &[u8], count: u32, steps: &[Vec<u8>]) -> Vec<u8> {
        let captured = head.len().min(Walk::HEAD);
        let mut bytes = 1_000u64.to_ne_bytes().to_vec();
        for word in [
            7,
            program,
            action,
            head.len() as u32 + 14,
            captured as u32,
            count,
        ] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&head[..captured]);
        bytes.resize(offset_of!(Walk, steps), 0);
        bytes.extend(steps.concat());
        bytes.resize(size_of::<Walk>(), 0);
        bytes
    }

    fn made(kind: StepKind, value: u32, endpoint: u32) -> Vec<u8> {
        let words = [kind as u32, value, endpoint].map(u32::to_ne_bytes);
        let mut bytes = words.concat();
        bytes.extend([0x9c, 0x40, 0, 80]);
        bytes.extend(addr_of("10.1.0.2".parse().unwrap()));
        bytes.extend(addr_of("10.1.0.3".parse().unwrap()));
        bytes
    }

    fn syn() -> Vec<u8> {
        let builder = PacketBuilder::ipv4([10, 1, 0, 2], [10, 96, 0, 10], 64);
        let mut packet = Vec::new();
        let tcp = builder.tcp(40_000, 80, 1, 1).syn();
        tcp.write(&mut packet, &[]).unwrap();
        packet
    }

    #[test]
    fn a_way_is_read_with_its_packet_and_each_step() {
        let denied = EndpointPolicy::INGRESS << DIRECTION_SHIFT | Judgement::Denied as u32;
        let steps = [
            made(StepKind::Balanced, 2, 5),
            made(StepKind::Rewritten, 0, 0),
            made(StepKind::Judged, denied, 9),
            made(StepKind::Dropped, DropReason::PolicyIngress as u32, 0),
        ];
        let bytes = told(Program::FromPod as u32, 2, &syn(), 4, &steps);
        let read = walk(&bytes, 3_000).unwrap();
        assert_eq!(
            (read.program, read.ifindex, read.length),
            ("from_pod", 7, 54)
        );
        assert_eq!(read.age, Duration::from_nanos(2_000));
        let ends = read.ends.unwrap();
        assert_eq!(ends.source, "10.1.0.2:40000".parse().unwrap());
        assert_eq!(ends.destination, "10.96.0.10:80".parse().unwrap());
        assert_eq!((ends.protocol, read.flags.as_str()), (6, "S"));
        assert_eq!((read.action, read.cut), (TracedAction::Dropped, false));
        assert_eq!(
            read.steps,
            [
                TracedStep::Balanced { new: true },
                TracedStep::Rewritten {
                    source: "10.1.0.2:40000".parse().unwrap(),
                    destination: "10.1.0.3:80".parse().unwrap(),
                },
                TracedStep::Judged {
                    endpoint: 9,
                    direction: Direction::Ingress,
                    said: Judgement::Denied,
                },
                TracedStep::Dropped(DropReason::PolicyIngress),
            ]
        );
    }

    #[test]
    fn steps_beyond_the_room_are_said_to_be_missing() {
        let steps = vec![made(StepKind::Path, 0, 0); Walk::STEPS];
        let read = walk(&told(0, 7, &syn(), 14, &steps), 3_000).unwrap();
        assert_eq!((read.steps.len(), read.cut), (Walk::STEPS, true));
    }

    #[test]
    fn what_a_newer_program_tells_is_no_way() {
        for bytes in [
            told(9, 0, &syn(), 0, &[]),
            told(0, 0, &syn(), 1, &[vec![0xff; 48]]),
            vec![0; 10],
        ] {
            assert_eq!(walk(&bytes, 0), None);
        }
    }
}
