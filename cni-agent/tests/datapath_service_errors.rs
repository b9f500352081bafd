//! Ring 2: ICMP errors about packets of pods to Services: the client has to find its own packet in them.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use support::{
    flows::{SCTP, SYN, addresses, at, ends, framed, from, frontend, payload, pseudo},
    frames::{self, TCP, UDP},
    lab::{self, FAR_MAC, HOST_MAC, Lab, Program, UPLINK_MAC, Verdict},
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 10);
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Bytes of a quoted packet's upper header and data that an error holds.
#[derive(Clone, Copy, Debug)]
enum Quote {
    All,
    /// What RFC 792 asks for.
    Least,
}

/// "Port unreachable" about a packet of the client.
fn error(
    reporter: IpAddr,
    client: SocketAddr,
    to: SocketAddr,
    protocol: u8,
    quote: Quote,
) -> Vec<u8> {
    let mut bytes = payload(client, to, protocol, 0, b"hello!");
    let whole = frames::ip(client.ip(), to.ip(), protocol, &bytes);
    let cut = match quote {
        Quote::All => 0,
        Quote::Least => bytes.len() - 8,
    };
    let quoted = &whole[..whole.len() - cut];
    let (kind, icmp) = if client.is_ipv4() {
        ([3, 3], ICMP)
    } else {
        ([1, 4], ICMPV6)
    };
    bytes = [&kind[..], &[0; 6], quoted].concat();
    let sum = icmp_sum(reporter, client.ip(), &bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    frames::ip(reporter, client.ip(), icmp, &bytes)
}

/// 0 when the one in it is right.
fn icmp_sum(src: IpAddr, dst: IpAddr, bytes: &[u8]) -> u16 {
    if src.is_ipv4() {
        frames::checksum(bytes)
    } else {
        pseudo(src, dst, ICMPV6, bytes)
    }
}

/// From whom an error comes and what packet it quotes. Panics when a checksum is wrong.
fn quoted(frame: &[u8], quote: Quote) -> (IpAddr, SocketAddr, SocketAddr) {
    let (src, dst) = addresses(frame);
    let at = if src.is_ipv4() { 34 } else { 54 };
    assert_eq!(icmp_sum(src, dst, &frame[at..]), 0, "ICMP's checksum");
    let inner = [&frame[..14], &frame[at + 8..]].concat();
    let (from, to) = match quote {
        Quote::All => ends(&inner),
        Quote::Least => {
            let (from, to) = addresses(&inner);
            let at = inner.len() - 8;
            let port = |at: usize| u16::from_be_bytes([inner[at], inner[at + 1]]);
            (
                SocketAddr::new(from, port(at)),
                SocketAddr::new(to, port(at + 2)),
            )
        }
    };
    (src, from, to)
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn an_error_about_a_packet_to_a_backend_quotes_the_one_to_the_service() {
    let lab = Lab::new();
    let families: [[IpAddr; 5]; 2] = [
        [
            lab.a.v4.into(),
            lab.b.v4.into(),
            lab::FAR.into(),
            lab::WORLD.into(),
            VIP.into(),
        ],
        [
            lab.a.v6.into(),
            lab.b.v6.into(),
            lab::FAR_V6.into(),
            lab::WORLD_V6.into(),
            VIP_V6.into(),
        ],
    ];
    for [a, b, far, router, vip] in families {
        // SCTP's checksum covers the quoted ports, and can't be checked in a quote.
        for (protocol, quotes) in [
            (TCP, vec![Quote::All, Quote::Least]),
            (UDP, vec![Quote::All]),
            (SCTP, vec![Quote::Least]),
        ] {
            for quote in quotes {
                for (port, backend) in [(40_001, b), (40_002, far), (40_003, far)] {
                    let (client, service, backend) = (at(a, port), at(vip, 80), at(backend, 8080));
                    serve(&lab, service, protocol, backend);
                    let sent = from(&lab.a, client, service, protocol, SYN);
                    lab.run(Program::FromPod, lab.a.ifindex, &sent);
                    let kind = if a.is_ipv4() {
                        frames::IPV4
                    } else {
                        frames::IPV6
                    };
                    let says = |reporter, about, to, mac| {
                        let packet = error(reporter, client, about, protocol, quote);
                        frames::ethernet(to, mac, kind, &packet)
                    };
                    // The backend's kernel, or a router on the way, which the stack brings.
                    let by_backend = if backend.ip() == b {
                        let frame = |about| says(b, about, HOST_MAC, lab.b.mac);
                        let run = |about| lab.run(Program::FromPod, lab.b.ifindex, &frame(about));
                        [run(backend), run(at(b, 9))]
                    } else {
                        let frame = |about| says(far, about, UPLINK_MAC, FAR_MAC);
                        let run = |about| lab.run(Program::FromUplink, lab.uplink, &frame(about));
                        [run(backend), run(at(far, 9))]
                    };
                    assert!(by_backend.iter().all(|o| o.verdict == Verdict::Redirect));
                    let what = format!("{protocol} {quote:?}");
                    let [ours, other] = by_backend.map(|outcome| quoted(&outcome.frame, quote));
                    assert_eq!(ours, (vip, client, service), "{what}");
                    assert_eq!(other.2.port(), 9, "of no flow");
                    assert_eq!(other.0, backend.ip());
                    let frame = says(router, backend, lab.a.mac, HOST_MAC);
                    let outcome = lab.run(Program::ToPod, lab.a.ifindex, &frame);
                    assert_eq!(outcome.verdict, Verdict::Pass);
                    assert_eq!(
                        quoted(&outcome.frame, quote),
                        (router, client, service),
                        "{what}"
                    );
                }
            }
        }
    }
    assert!(lab.drops(lab.a.ifindex).is_empty() && lab.drops(lab.b.ifindex).is_empty());
}

/// A question is no error, whatever its data looks like; an error that is cut short tells nobody's port.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn other_icmp_is_left_alone() {
    let lab = Lab::new();
    let (client, service, backend) = (at(lab.a.v4, 40_001), at(VIP, 80), at(lab.b.v4, 8080));
    serve(&lab, service, UDP, backend);
    let sent = from(&lab.a, client, service, UDP, 0);
    lab.run(Program::FromPod, lab.a.ifindex, &sent);
    let whole = error(backend.ip(), client, backend, UDP, Quote::All);
    let mut question = whole[20..].to_vec();
    question[0] = 8;
    for bytes in [&question[..], &whole[20..20 + 8 + 20 + 2], &whole[20..22]] {
        let (b, a) = (at(backend.ip(), 0), at(client.ip(), 0));
        let frame = framed(HOST_MAC, lab.b.mac, b, a, ICMP, bytes);
        let outcome = lab.run(Program::FromPod, lab.b.ifindex, &frame);
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(outcome.frame[34..], frame[34..], "{} bytes", bytes.len());
    }
}

fn serve(lab: &Lab, service: SocketAddr, protocol: u8, backend: SocketAddr) {
    let change = lab
        .datapath
        .sync_services(&[frontend(service, protocol, &[backend])]);
    assert!(change.unwrap().refused.is_empty());
}
