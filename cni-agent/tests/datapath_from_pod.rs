//! Ring 2: where `from_pod` sends what a pod may send, and what it takes for malformed.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::datapath::DropReason;
use std::net::{IpAddr, Ipv6Addr};
use support::{
    frames::{self, ARP, ICMPV6, IPV4, IPV6, TCP, UDP},
    lab::{self, Context, HOST_MAC, Lab, Program, Verdict},
    pod::{changed, dropped, goes, question, sent, to},
};

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_packet_to_a_local_pod_is_routed_into_it() {
    let lab = Lab::new();
    let first_fragment = |f: &mut Vec<u8>| {
        f[20] = 0x20;
        frames::fix_ipv4(f);
    };
    let later_fragment = |f: &mut Vec<u8>| {
        f[21] = 100;
        frames::fix_ipv4(f);
    };
    let fragment_v6 = |offset: u8| {
        [
            &[UDP, 0, offset, 1, 0, 0, 0, 1][..],
            &frames::udp(9, 9, b"x"),
        ]
        .concat()
    };
    let cases = vec![
        (
            "IPv4 UDP",
            to(&lab, lab.b.v4, UDP, &frames::udp(9, 9, b"hello")),
        ),
        ("IPv4 TCP", to(&lab, lab.b.v4, TCP, &frames::tcp(b"hello"))),
        (
            "IPv4 ICMP",
            to(&lab, lab.b.v4, 1, &[8, 0, 0, 0, 0, 0, 0, 0]),
        ),
        ("IPv4, protocol nobody knows", to(&lab, lab.b.v4, 253, b"x")),
        ("IPv4 without payload", to(&lab, lab.b.v4, 253, b"")),
        (
            "IPv4 with padding",
            changed(to(&lab, lab.b.v4, 253, b"x"), |f| f.resize(60, 0)),
        ),
        (
            "IPv4 first fragment",
            changed(
                to(&lab, lab.b.v4, UDP, &frames::udp(9, 9, b"x")),
                first_fragment,
            ),
        ),
        (
            "IPv4 later fragment",
            changed(to(&lab, lab.b.v4, UDP, b"x"), later_fragment),
        ),
        (
            "IPv4, TTL 2",
            changed(to(&lab, lab.b.v4, UDP, &frames::udp(9, 9, b"x")), |f| {
                frames::set_ttl(f, 2)
            }),
        ),
        (
            "DHCP client",
            to(&lab, lab.b.v4, UDP, &frames::udp(68, 67, b"x")),
        ),
        (
            "IPv6 UDP",
            to(&lab, lab.b.v6, UDP, &frames::udp(9, 9, b"hello")),
        ),
        ("IPv6 TCP", to(&lab, lab.b.v6, TCP, &frames::tcp(b"hello"))),
        (
            "IPv6 echo",
            to(&lab, lab.b.v6, ICMPV6, &[128, 0, 0, 0, 0, 0, 0, 0]),
        ),
        (
            "IPv6 first fragment",
            to(&lab, lab.b.v6, 44, &fragment_v6(0)),
        ),
        (
            "IPv6 later fragment",
            to(&lab, lab.b.v6, 44, &fragment_v6(8)),
        ),
        ("IPv6 no next header", to(&lab, lab.b.v6, 59, b"")),
        (
            "IPv6 options",
            to(
                &lab,
                lab.b.v6,
                60,
                &[&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &frames::udp(9, 9, b"x")].concat(),
            ),
        ),
    ];
    let inputs: Vec<_> = cases.clone();
    for ((name, mut expected), result) in inputs.into_iter().zip(goes(&lab, "pod_to_pod", cases)) {
        let ttl = if expected[12..14] == IPV4.to_be_bytes() {
            expected[22]
        } else {
            expected[21]
        };
        frames::set_ttl(&mut expected, ttl - 1);
        expected[..6].copy_from_slice(&lab.b.mac);
        expected[6..12].copy_from_slice(&HOST_MAC);
        assert_eq!(result, expected, "{name}");
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_packet_to_another_node_is_sent_there() {
    let lab = Lab::new();
    let exact = usize::try_from(lab::UPLINK_MTU).unwrap() - 28;
    let cases = vec![
        (
            "IPv4",
            to(&lab, lab::FAR, UDP, &frames::udp(9, 9, b"hello")),
        ),
        (
            "IPv4 as large as the way",
            to(&lab, lab::FAR, UDP, &frames::udp(9, 9, &vec![1; exact])),
        ),
        (
            "IPv6",
            to(&lab, lab::FAR_V6, UDP, &frames::udp(9, 9, b"hello")),
        ),
        (
            "IPv6 as large as the way",
            to(
                &lab,
                lab::FAR_V6,
                UDP,
                &frames::udp(9, 9, &vec![1; exact - 20]),
            ),
        ),
    ];
    for ((name, mut expected), result) in
        cases
            .clone()
            .into_iter()
            .zip(goes(&lab, "pod_to_node", cases))
    {
        frames::set_ttl(&mut expected, 63);
        assert_eq!(result, expected, "{name}");
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn what_a_router_must_answer_or_knows_goes_to_the_stack_unchanged() {
    let lab = Lab::new();
    let datagram = frames::udp(9, 9, b"x");
    let large = frames::udp(
        9,
        9,
        &vec![1; usize::try_from(lab::UPLINK_MTU).unwrap() - 27],
    );
    let options = |frame: &mut Vec<u8>| {
        frame[14] = 0x46;
        frame.splice(34..34, [1, 1, 1, 0]);
        let total = u16::try_from(frame.len() - 14).unwrap();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frames::fix_ipv4(frame);
    };
    let expired = |dst: IpAddr| changed(to(&lab, dst, UDP, &datagram), |f| frames::set_ttl(f, 1));
    let cases = vec![
        ("the world, IPv4", to(&lab, lab::WORLD, UDP, &datagram)),
        ("the world, IPv6", to(&lab, lab::WORLD_V6, UDP, &datagram)),
        ("TTL 1 to a local pod", expired(lab.b.v4.into())),
        ("hop limit 1 to a local pod", expired(lab.b.v6.into())),
        ("TTL 1 to another node", expired(lab::FAR.into())),
        ("hop limit 1 to another node", expired(lab::FAR_V6.into())),
        ("too large, IPv4", to(&lab, lab::FAR, UDP, &large)),
        ("too large, IPv6", to(&lab, lab::FAR_V6, UDP, &large)),
        (
            "options to a local pod",
            changed(to(&lab, lab.b.v4, UDP, &datagram), options),
        ),
        (
            "options to another node",
            changed(to(&lab, lab::FAR, UDP, &datagram), options),
        ),
    ];
    for ((name, frame), result) in cases
        .clone()
        .into_iter()
        .zip(goes(&lab, "pod_to_stack", cases))
    {
        assert_eq!(result, frame, "{name}");
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn segments_that_are_too_large_for_the_way_go_to_the_stack() {
    let lab = Lab::new();
    let frame = to(&lab, lab::FAR, TCP, &frames::tcp(&vec![1; 2800]));
    let context = Context {
        ifindex: lab.a.ifindex,
        segments: 2,
        segment_size: 1400,
        ..Context::default()
    };
    let outcome = lab.run_as(Program::FromPod, context, &frame);
    assert_eq!(outcome.verdict, Verdict::Pass);
    // To a local pod the size does not matter; packets are counted as a wire would see them.
    let frame = to(&lab, lab.b.v4, TCP, &frames::tcp(&vec![1; 2800]));
    let before = lab.paths().get("pod_to_pod").copied().unwrap_or_default();
    assert_eq!(
        lab.run_as(Program::FromPod, context, &frame).verdict,
        Verdict::Redirect
    );
    assert_eq!(lab.paths()["pod_to_pod"], before + 2);
    // Beyond 64 KiB the length field holds 0.
    let jumbo = changed(frame, |f| {
        f[16..18].fill(0);
        frames::fix_ipv4(f);
    });
    assert_eq!(
        lab.run_as(Program::FromPod, context, &jumbo).verdict,
        Verdict::Redirect
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn an_address_of_the_own_prefix_without_a_pod_is_counted_and_left_to_the_stack() {
    let lab = Lab::new();
    let frame = to(&lab, lab::NOBODY, UDP, &frames::udp(9, 9, b"x"));
    let outcome = lab.run(Program::FromPod, lab.a.ifindex, &frame);
    assert_eq!((outcome.verdict, &outcome.frame), (Verdict::Pass, &frame));
    assert_eq!(
        lab.drops(lab.a.ifindex),
        [(DropReason::NoEndpoint, 1)].into()
    );
    // Once, by the reason: a packet that goes nowhere took no way.
    assert!(lab.paths().is_empty());
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn malformed_packets_are_dropped() {
    // Headers that are cut short are `datapath_netns`'s: the kernel does not take them for a run.
    let lab = Lab::new();
    let v4 = to(&lab, lab.b.v4, UDP, &frames::udp(9, 9, b"hello"));
    let v6 = to(&lab, lab.b.v6, UDP, &frames::udp(9, 9, b"hello"));
    let mapped = |src: Ipv6Addr, dst: Ipv6Addr| {
        let packet = frames::ip(src.into(), dst.into(), UDP, &frames::udp(9, 9, b"x"));
        sent(&lab, IPV6, &packet)
    };
    let endless = [60, 0, 1, 4, 0, 0, 0, 0].repeat(7);
    dropped(
        &lab,
        DropReason::Malformed,
        vec![
            ("IPv4 payload cut short", v4[..v4.len() - 1].to_vec()),
            ("IPv6 payload cut short", v6[..v6.len() - 1].to_vec()),
            (
                "IPv4 type, version 6",
                changed(v4.clone(), |f| f[14] = 0x65),
            ),
            (
                "IPv6 type, version 4",
                changed(v6.clone(), |f| f[14] = 0x40),
            ),
            (
                "IPv4 header length 16",
                changed(v4.clone(), |f| f[14] = 0x44),
            ),
            (
                "IPv4 total below header",
                changed(v4.clone(), |f| f[16..18].copy_from_slice(&[0, 19])),
            ),
            ("IPv4 total 0", changed(v4.clone(), |f| f[16..18].fill(0))),
            (
                "IPv4 header beyond total",
                changed(v4.clone(), |f| f[14] = 0x4f),
            ),
            ("IPv4 UDP without ports", to(&lab, lab.b.v4, UDP, b"x")),
            // Padding is no part of the packet, whatever it looks like.
            (
                "IPv4 UDP with ports in the padding",
                changed(to(&lab, lab.b.v4, UDP, b""), |f| {
                    f.extend(frames::udp(9, 9, b"padding of the frame"));
                }),
            ),
            (
                "IPv6 ICMP with its type in the padding",
                changed(to(&lab, lab.b.v6, ICMPV6, b""), |f| {
                    f.extend([128, 0, 0, 0, 0, 0, 0, 0]);
                }),
            ),
            (
                "IPv6 from its own IPv4, mapped",
                mapped(lab.a.v4.to_ipv6_mapped(), lab.b.v6),
            ),
            (
                "IPv6 to a pod's IPv4, mapped",
                mapped(lab.a.v6, lab.b.v4.to_ipv6_mapped()),
            ),
            (
                "IPv6 to the world's IPv4, mapped",
                mapped(lab.a.v6, lab::WORLD.to_ipv6_mapped()),
            ),
            (
                "IPv6 extensions beyond the end",
                to(&lab, lab.b.v6, 60, &[UDP, 9, 0, 0, 0, 0, 0, 0]),
            ),
            ("IPv6 extension not there", to(&lab, lab.b.v6, 0, b"")),
            (
                "IPv6 extensions without end",
                to(&lab, lab.b.v6, 60, &endless),
            ),
            ("IPv6 ICMP without type", to(&lab, lab.b.v6, ICMPV6, b"")),
            (
                "IPv6 fragment header cut short",
                to(&lab, lab.b.v6, 44, b"x"),
            ),
            (
                "ARP cut short",
                changed(sent(&lab, ARP, &question(&lab)), |f| f.truncate(41)),
            ),
        ],
    );
}
