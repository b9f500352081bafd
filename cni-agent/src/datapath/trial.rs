//! A packet run through the programs without being sent: what they would do with it now.
//!
//! The same object is loaded once more on the pinned maps that the agent writes, and with maps of its own for
//! what the programs write: nothing is remembered, counted or changed (`BPF_PROG_TEST_RUN`). So an answer can't
//! drift from what the attached programs do.

use super::{
    DatapathError, DropReason, LogLevel,
    loader::{self, FROM_POD, FROM_UPLINK, TO_POD},
    maps::Maps,
    pins::Pins,
};
use aya::programs::{TestRun as _, TestRunOptions};
use etherparse::{IpNumber, PacketBuilder, SlicedPacket, TransportSlice};
use std::net::{IpAddr, SocketAddr};

/// Where a packet comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// From a pod, by the host's end of its link.
    Pod,
    /// From an uplink.
    Uplink,
    /// From the host's own stack, to a pod.
    Host,
}

impl Entry {
    const fn program(self) -> &'static str {
        match self {
            Self::Pod => FROM_POD,
            Self::Uplink => FROM_UPLINK,
            Self::Host => TO_POD,
        }
    }
}

/// A packet that begins a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TriedPacket {
    pub entry: Entry,
    /// The interface that it comes by; for [`Entry::Host`] the one that it goes to.
    pub ifindex: u32,
    /// Of the sender and of who receives the frame.
    pub macs: [[u8; 6]; 2],
    /// Both of one family. Ports of a protocol without are 0.
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// IP's number.
    pub protocol: u8,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Dropped(DropReason),
    /// To an interface, past the host's stack.
    Redirected,
    /// On by the host's stack.
    Stack,
}

/// What the programs made of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    pub fate: Fate,
    /// Who it is for afterwards: a backend, where it was for a Service.
    pub destination: SocketAddr,
}

/// Maps that the programs write: those of a trial are its own, and small.
const OWN: [(&str, Option<u32>); 14] = [
    ("flows", Some(64)),
    ("endpoint_flows", None),
    ("outside_flows", None),
    ("fragments", Some(64)),
    ("affinity", Some(64)),
    ("sockets", Some(64)),
    ("socket_backends", Some(64)),
    (loader::CONNECTIONS_OF, Some(1)),
    ("event_settings", None),
    ("event_budget", None),
    ("events", None),
    ("drops", Some(64)),
    ("drop_totals", None),
    ("paths", None),
];

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Runs it.
pub(super) fn run(pins: &Pins, packet: &TriedPacket) -> Result<Tried, DatapathError> {
    let program = packet.entry.program();
    let fault = |message: String| DatapathError::Trial { program, message };
    let mut ebpf = loader::load_apart(pins, LogLevel::Off, &OWN)?;
    let classifier = loader::load_classifier(&mut ebpf, program)?;
    let frame = frame(packet).map_err(fault)?;
    let mut out = vec![0; frame.len() + 256];
    // `struct __sk_buff`: `ifindex`, and by which the machine received it.
    let mut context = vec![0; 192];
    let ingress = match packet.entry {
        Entry::Host => 0,
        Entry::Pod | Entry::Uplink => packet.ifindex,
    };
    context[36..40].copy_from_slice(&ingress.to_ne_bytes());
    context[40..44].copy_from_slice(&packet.ifindex.to_ne_bytes());
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    options.data_out = Some(&mut out);
    options.ctx_in = Some(&context);
    options.repeat = 1;
    let result = (classifier.test_run(options)).map_err(|error| fault(error.to_string()))?;
    out.truncate(usize::try_from(result.data_size_out).unwrap_or(0));
    // TC_ACT_UNSPEC and TC_ACT_OK go on, TC_ACT_SHOT drops, TC_ACT_REDIRECT has another interface.
    let fate = match result.return_value {
        2 => {
            let drops = Maps::take(&mut ebpf)?.drops()?;
            let drop = drops
                .first()
                .ok_or_else(|| fault("dropped without a reason".into()))?;
            Fate::Dropped(drop.reason)
        }
        7 => Fate::Redirected,
        _ => Fate::Stack,
    };
    let destination = destination(&out).unwrap_or(packet.destination);
    Ok(Tried { fate, destination })
}

fn frame(packet: &TriedPacket) -> Result<Vec<u8>, String> {
    const HOPS: u8 = 64;
    let [from, to] = packet.macs;
    let link = PacketBuilder::ethernet2(from, to);
    let ip = match (packet.source.ip(), packet.destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), HOPS),
        _ => return Err("both ends need an address of the same family".into()),
    };
    let (from, to) = (packet.source.port(), packet.destination.port());
    let mut frame = Vec::new();
    let written = match packet.protocol {
        TCP => ip.tcp(from, to, 1, 64_240).syn().write(&mut frame, &[]),
        UDP => ip.udp(from, to).write(&mut frame, b"?"),
        ICMP => ip.icmpv4_echo_request(1, 1).write(&mut frame, &[]),
        ICMPV6 => ip.icmpv6_echo_request(1, 1).write(&mut frame, &[]),
        other => {
            // The ports come first in every protocol that has them; SCTP: an INIT chunk (RFC 9260).
            let mut payload = [from.to_be_bytes(), to.to_be_bytes()].concat();
            payload.extend([0; 8]);
            payload.extend([
                1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 255, 255, 0, 1, 0, 1, 0, 0, 0, 1,
            ]);
            ip.write(&mut frame, IpNumber(other), &payload)
        }
    };
    written.map_err(|error| error.to_string())?;
    Ok(frame)
}

fn destination(frame: &[u8]) -> Option<SocketAddr> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let net = sliced.net?;
    let ip: IpAddr = match &net {
        etherparse::NetSlice::Ipv4(v4) => v4.header().destination_addr().into(),
        etherparse::NetSlice::Ipv6(v6) => v6.header().destination_addr().into(),
        etherparse::NetSlice::Arp(_) => return None,
    };
    let port = match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.destination_port(),
        Some(TransportSlice::Udp(udp)) => udp.destination_port(),
        Some(_) => 0,
        None => {
            let payload = net.ip_payload_ref()?.payload;
            u16::from_be_bytes(payload.get(2..4)?.try_into().ok()?)
        }
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_for_whom_it_was_built() {
        for (protocol, port) in [(TCP, 80), (UDP, 53), (132, 9003), (ICMP, 0)] {
            let packet = TriedPacket {
                entry: Entry::Pod,
                ifindex: 1,
                macs: [[2; 6], [4; 6]],
                source: "192.0.2.1:1000".parse().unwrap(),
                destination: SocketAddr::new("192.0.2.2".parse().unwrap(), port),
                protocol,
            };
            let frame = frame(&packet).unwrap();
            assert_eq!(destination(&frame), Some(packet.destination), "{protocol}");
            let mixed = TriedPacket {
                source: "[fd00::1]:1".parse().unwrap(),
                ..packet
            };
            assert!(super::frame(&mixed).is_err());
        }
    }
}
