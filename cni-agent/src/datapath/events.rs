//! Reads what the programs tell of single packets, while somebody listens.

use super::{DatapathError, DropReason, flows::now_ns, maps::open, pins::Pins};
use crate::policy::Direction;
use aya::maps::{Array, MapData, MapError, PerCpuArray, RingBuf};
use cni_ebpf_common::{
    event::{Event, EventBudget, EventSettings},
    flow::{SCTP, TCP, UDP},
};
use etherparse::{Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

const EVENTS: &str = "events";
const SETTINGS: &str = "event_settings";
const BUDGET: &str = "event_budget";

/// What was told of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    Dropped(DropReason),
    /// A connection begins, seen from a pod.
    Begins(Direction),
    /// Policies don't allow it, and only watch.
    Audited(DropReason),
}

/// A packet that was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketEvent {
    /// How long ago.
    pub age: Duration,
    /// The interface of the program.
    pub ifindex: u32,
    pub happened: Happened,
    /// Of the whole packet, in bytes.
    pub length: u32,
    /// Who sends and who receives; none: it is no IP packet.
    pub ends: Option<PacketEnds>,
}

/// Both ends of a packet. Ports are 0 where its protocol has none, and in a fragment that isn't the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketEnds {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// IP's number.
    pub protocol: u8,
}

/// The open maps.
pub struct EventReader {
    events: RingBuf<MapData>,
    settings: Array<MapData, EventSettings>,
    budget: PerCpuArray<MapData, EventBudget>,
}

impl EventReader {
    pub(super) fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            events: open(pins, EVENTS)?,
            settings: open(pins, SETTINGS)?,
            budget: open(pins, BUDGET)?,
        })
    }

    /// Has the programs tell for so long from now on; for no time: not any more.
    ///
    /// # Errors
    /// The map can't be written.
    pub fn listen(&mut self, time: Duration) -> Result<(), DatapathError> {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = match time {
            0 => 0,
            time => now_ns().saturating_add(time),
        };
        let set = self.settings.set(0, EventSettings { until_ns }, 0);
        set.map_err(fault("write", SETTINGS))
    }

    /// What was told since the last call, in order for each CPU.
    pub fn read(&mut self) -> Vec<PacketEvent> {
        let now = now_ns();
        let mut read = Vec::new();
        while let Some(item) = self.events.next() {
            read.extend(event(&item, now));
        }
        read
    }

    /// How many events were not told since the maps were made, because there were too many.
    ///
    /// # Errors
    /// The map can't be read.
    pub fn lost(&self) -> Result<u64, DatapathError> {
        let of_cpus = self.budget.get(&0, 0).map_err(fault("read", BUDGET))?;
        Ok(of_cpus.iter().map(|budget| budget.lost).sum())
    }
}

pub(super) fn fault(action: &'static str, map: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Map {
        action,
        map,
        source,
    }
}

/// Reads the bytes of an [`Event`]; none: of another version.
fn event(bytes: &[u8], now_ns: u64) -> Option<PacketEvent> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let time = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
    let captured = usize::try_from(word(20)?).ok()?.min(Event::HEAD);
    let head = bytes.get(24..24 + captured)?;
    let what = word(12)?;
    let reason = |number| DropReason::try_from(number).ok();
    let happened = match what {
        Event::BEGINS_EGRESS => Happened::Begins(Direction::Egress),
        Event::BEGINS_INGRESS => Happened::Begins(Direction::Ingress),
        audited if audited & Event::AUDITED != 0 => {
            Happened::Audited(reason(audited & !Event::AUDITED)?)
        }
        dropped => Happened::Dropped(reason(dropped)?),
    };
    Some(PacketEvent {
        age: Duration::from_nanos(now_ns.saturating_sub(time)),
        ifindex: word(8)?,
        happened,
        length: word(16)?,
        // A length that says more than was copied is no fault.
        ends: LaxSlicedPacket::from_ethernet(head)
            .ok()
            .as_ref()
            .and_then(ends),
    })
}

/// Of the beginning of a packet, which may end early, also within the header that has the ports.
pub(super) fn ends(lax: &LaxSlicedPacket<'_>) -> Option<PacketEnds> {
    const WITH_PORTS: [u8; 3] = [TCP, UDP, SCTP];
    let (source, destination, payload): (IpAddr, IpAddr, _) = match lax.net.as_ref()? {
        LaxNetSlice::Ipv4(v4) => {
            let header = v4.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                v4.payload(),
            )
        }
        LaxNetSlice::Ipv6(v6) => {
            let header = v6.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                v6.payload(),
            )
        }
        LaxNetSlice::Arp(_) => return None,
    };
    let protocol = payload.ip_number.0;
    let ports = match (first_of_packet(lax), payload.payload) {
        (true, [a, b, c, d, ..]) if WITH_PORTS.contains(&protocol) => {
            (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
        }
        _ => (0, 0),
    };
    Some(PacketEnds {
        source: SocketAddr::new(source, ports.0),
        destination: SocketAddr::new(destination, ports.1),
        protocol,
    })
}

/// Whether it is no later fragment.
fn first_of_packet(lax: &LaxSlicedPacket<'_>) -> bool {
    match &lax.net {
        Some(LaxNetSlice::Ipv4(v4)) => v4.header().fragments_offset().value() == 0,
        Some(LaxNetSlice::Ipv6(v6)) => {
            let mut extensions = v6.extensions().clone().into_iter();
            extensions.all(|extension| match extension {
                Ipv6ExtensionSlice::Fragment(fragment) => fragment.fragment_offset().value() == 0,
                _ => true,
            })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, TcpOptionElement};

    fn told(what: u32, frame: &[u8]) -> Vec<u8> {
        let captured = frame.len().min(Event::HEAD);
        let mut bytes = 1_000u64.to_ne_bytes().to_vec();
        for word in [7, what, frame.len() as u32, captured as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&frame[..captured]);
        bytes.resize(size_of::<Event>(), 0);
        bytes
    }

    #[test]
    fn the_beginning_of_a_long_packet_says_who_sends() {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let builder = builder.ipv4([10, 1, 0, 2], [10, 1, 0, 3], 64);
        let mut frame = Vec::new();
        let tcp = builder.tcp(40_000, 80, 1, 1);
        tcp.write(&mut frame, &[7; 1200]).unwrap();
        let read = event(&told(DropReason::PolicyIngress as u32, &frame), 3_000).unwrap();
        assert_eq!(read.happened, Happened::Dropped(DropReason::PolicyIngress));
        assert_eq!(
            (read.ifindex, read.length, read.age),
            (7, 1254, Duration::from_nanos(2_000))
        );
        let ends = read.ends.unwrap();
        assert_eq!(ends.source, "10.1.0.2:40000".parse().unwrap());
        assert_eq!(ends.destination, "10.1.0.3:80".parse().unwrap());
        assert_eq!(ends.protocol, 6);
    }

    #[test]
    fn ports_are_read_where_their_header_is_cut() {
        let packet = |v4: bool| {
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let builder = match v4 {
                true => builder.ipv4([10, 1, 0, 2], [10, 1, 0, 3], 64),
                false => builder.ipv6([7; 16], [8; 16], 64),
            };
            let mut frame = Vec::new();
            let options = [TcpOptionElement::Timestamp(1, 2)];
            let tcp = builder.tcp(40_000, 80, 1, 1).options(&options).unwrap();
            tcp.write(&mut frame, &[]).unwrap();
            frame
        };
        for (frame, copied) in [(packet(true), 54), (packet(false), 74)] {
            assert!(frame.len() > copied);
            let read = event(&told(1, &frame[..copied]), 3_000).unwrap();
            let ends = read.ends.unwrap();
            assert_eq!((ends.source.port(), ends.destination.port()), (40_000, 80));
        }
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let udp = builder.ipv4([10, 1, 0, 2], [10, 1, 0, 3], 64).udp(9, 53);
        udp.write(&mut frame, &[7; 64]).unwrap();
        frame[21] = 8;
        let read = event(&told(1, &frame), 3_000).unwrap();
        assert_eq!(read.ends.unwrap().destination.port(), 0);
    }

    #[test]
    fn what_happened_is_read_from_its_number() {
        let happened = |what| event(&told(what, &[0; 20]), 3_000).map(|event| event.happened);
        assert_eq!(
            happened(Event::BEGINS_EGRESS),
            Some(Happened::Begins(Direction::Egress))
        );
        assert_eq!(
            happened(Event::BEGINS_INGRESS),
            Some(Happened::Begins(Direction::Ingress))
        );
        let audited = Event::AUDITED | DropReason::PolicyEgress as u32;
        assert_eq!(
            happened(audited),
            Some(Happened::Audited(DropReason::PolicyEgress))
        );
        assert_eq!(happened(99), None, "of a newer program");
        assert_eq!(event(&[0; 10], 0), None);
    }
}
