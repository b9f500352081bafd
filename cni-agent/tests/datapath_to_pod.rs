//! Ring 2: what `from_uplink`, `xdp_uplink` and `to_pod` make of each kind of frame.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::datapath::DropReason;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use support::{
    frames::{self, ARP, ICMPV6, IPV4, IPV6, TCP, UDP},
    lab::{self, Context, FAR_MAC, HOST_MAC, Lab, Program, UPLINK_MAC, Verdict},
};

/// The loopback interface: where the kernel lets XDP programs run for a test.
const LO: u32 = 1;

/// A frame of another node to the uplink.
fn arriving(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, protocol: u8, data: &[u8]) -> Vec<u8> {
    let (src, dst) = (src.into(), dst.into());
    let kind = if src.is_ipv4() { IPV4 } else { IPV6 };
    frames::ethernet(
        UPLINK_MAC,
        FAR_MAC,
        kind,
        &frames::ip(src, dst, protocol, data),
    )
}

/// A frame of the host to the pod `a`.
fn hosts(lab: &Lab, src: impl Into<IpAddr>, dst: impl Into<IpAddr>, data: &[u8]) -> Vec<u8> {
    let (src, dst) = (src.into(), dst.into());
    let kind = if src.is_ipv4() { IPV4 } else { IPV6 };
    frames::ethernet(lab.a.mac, HOST_MAC, kind, &frames::ip(src, dst, UDP, data))
}

fn changed(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    frame
}

fn check(
    lab: &Lab,
    (program, ifindex): (Program, u32),
    cases: Vec<(&str, Vec<u8>)>,
    verdict: Verdict,
    reason: Option<DropReason>,
) {
    for (name, frame) in cases {
        let mut expected = lab.drops(ifindex);
        let outcome = lab.run(program, ifindex, &frame);
        assert_eq!(outcome.verdict, verdict, "{name}");
        if let Some(reason) = reason {
            *expected.entry(reason).or_default() += 1;
        }
        assert_eq!(lab.drops(ifindex), expected, "{name}");
        if verdict == Verdict::Pass {
            assert_eq!(outcome.frame, frame, "{name}: left alone");
        }
    }
}

fn datagram() -> Vec<u8> {
    frames::udp(9, 9, b"hello")
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_packet_from_another_node_is_routed_into_the_pod() {
    let lab = Lab::new();
    let cases = [
        ("IPv4 UDP", arriving(lab::FAR, lab.a.v4, UDP, &datagram())),
        (
            "IPv4 TCP",
            arriving(lab::FAR, lab.a.v4, TCP, &frames::tcp(b"x")),
        ),
        (
            "IPv4 with padding",
            changed(arriving(lab::FAR, lab.a.v4, 253, b"x"), |f| f.resize(60, 0)),
        ),
        (
            "IPv6 UDP",
            arriving(lab::FAR_V6, lab.a.v6, UDP, &datagram()),
        ),
        (
            "IPv6 later fragment",
            arriving(lab::FAR_V6, lab.a.v6, 44, &[UDP, 0, 0, 8, 0, 0, 0, 1, 1]),
        ),
    ];
    for (name, frame) in cases {
        let before = lab
            .paths()
            .get("uplink_to_pod")
            .copied()
            .unwrap_or_default();
        let outcome = lab.run(Program::FromUplink, lab.uplink, &frame);
        assert_eq!(outcome.verdict, Verdict::Redirect, "{name}");
        let mut expected = frame;
        frames::set_ttl(&mut expected, 63);
        expected[..6].copy_from_slice(&lab.a.mac);
        expected[6..12].copy_from_slice(&HOST_MAC);
        assert_eq!(outcome.frame, expected, "{name}");
        assert_eq!(lab.paths()["uplink_to_pod"], before + 1, "{name}");
    }
    assert!(lab.drops(lab.uplink).is_empty());
}

/// What is not for a pod, or must be answered, is the kernel's: no way is counted for it.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn the_rest_of_the_uplinks_traffic_is_the_kernels() {
    let lab = Lab::new();
    let expired = |mut frame: Vec<u8>| {
        frames::set_ttl(&mut frame, 1);
        frame
    };
    let to_pod = arriving(lab::FAR, lab.a.v4, UDP, &datagram());
    let cases = vec![
        (
            "for the host",
            arriving(lab::FAR, lab::WORLD, UDP, &datagram()),
        ),
        (
            "for the host, IPv6",
            arriving(lab::FAR_V6, lab::WORLD_V6, UDP, &datagram()),
        ),
        (
            "for an address without a pod",
            arriving(lab::FAR, lab::NOBODY, UDP, &datagram()),
        ),
        (
            "of the world for a pod",
            arriving(lab::WORLD, lab.a.v4, UDP, &datagram()),
        ),
        (
            "of the world for a pod, IPv6",
            arriving(lab::WORLD_V6, lab.a.v6, TCP, &frames::tcp(b"x")),
        ),
        (
            "of another node itself for a pod",
            arriving(Ipv4Addr::new(10, 0, 0, 2), lab.a.v4, UDP, &datagram()),
        ),
        (
            "of an address without a pod for a pod",
            arriving(lab::NOBODY, lab.a.v4, UDP, &datagram()),
        ),
        ("TTL 1", expired(to_pod.clone())),
        (
            "hop limit 1",
            expired(arriving(lab::FAR_V6, lab.a.v6, UDP, &datagram())),
        ),
        (
            "for another station",
            changed(to_pod.clone(), |f| f[5] = 0x77),
        ),
        ("for all", changed(to_pod.clone(), |f| f[..6].fill(0xff))),
        ("ARP", frames::ethernet(UPLINK_MAC, FAR_MAC, ARP, &[0; 46])),
        (
            "LLDP",
            frames::ethernet(UPLINK_MAC, FAR_MAC, 0x88cc, &[0; 46]),
        ),
    ];
    check(
        &lab,
        (Program::FromUplink, lab.uplink),
        cases,
        Verdict::Pass,
        None,
    );
    assert!(lab.paths().is_empty());
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn packets_from_outside_with_a_pods_source_are_dropped() {
    let lab = Lab::new();
    let cases = || {
        vec![
            (
                "as the pod itself",
                arriving(lab.a.v4, lab.a.v4, UDP, &datagram()),
            ),
            (
                "as its neighbour",
                arriving(lab.b.v4, lab.a.v4, UDP, &datagram()),
            ),
            (
                "as its neighbour, IPv6",
                arriving(lab.b.v6, lab.a.v6, UDP, &datagram()),
            ),
            (
                "to the host",
                arriving(lab.b.v4, lab::WORLD, UDP, &datagram()),
            ),
            (
                "to the host, IPv6",
                arriving(lab.b.v6, lab::WORLD_V6, UDP, &datagram()),
            ),
        ]
    };
    let spoofed = Some(DropReason::SpoofedFromOutside);
    check(
        &lab,
        (Program::FromUplink, lab.uplink),
        cases(),
        Verdict::Drop,
        spoofed,
    );
    check(
        &lab,
        (Program::XdpUplink, LO),
        cases(),
        Verdict::Drop,
        spoofed,
    );
}

/// By another interface than the uplink and the pod's own nothing honest comes with its source.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pods_source_reaches_another_pod_by_its_own_interface_only() {
    let lab = Lab::new();
    for (src, dst) in [
        (IpAddr::from(lab.b.v4), IpAddr::from(lab.a.v4)),
        (lab.b.v6.into(), lab.a.v6.into()),
    ] {
        let frame = hosts(&lab, src, dst, &datagram());
        for (ingress, verdict) in [
            (lab.b.ifindex, Verdict::Pass), // the kernel translated an address, or read options
            (0, Verdict::Pass),             // a transparent proxy of the host
            (lab.uplink, Verdict::Drop),
            (lab.a.ifindex, Verdict::Drop),
        ] {
            let mut expected = lab.drops(lab.a.ifindex);
            if verdict == Verdict::Drop {
                *expected.entry(DropReason::SpoofedFromOutside).or_default() += 1;
            }
            let context = Context {
                ifindex: lab.a.ifindex,
                ingress,
                ..Context::default()
            };
            let outcome = lab.run_as(Program::ToPod, context, &frame);
            assert_eq!(outcome.verdict, verdict, "{src} by {ingress}");
            assert_eq!(lab.drops(lab.a.ifindex), expected, "{src} by {ingress}");
        }
    }
    // Others' sources come by any.
    let context = Context {
        ifindex: lab.a.ifindex,
        ingress: lab.uplink,
        ..Context::default()
    };
    let frame = hosts(&lab, lab::WORLD, lab.a.v4, &datagram());
    let outcome = lab.run_as(Program::ToPod, context, &frame);
    assert_eq!(outcome.verdict, Verdict::Pass);
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn malformed_packets_from_outside_are_dropped() {
    let lab = Lab::new();
    let v4 = arriving(lab::FAR, lab.a.v4, UDP, &datagram());
    let v6 = arriving(lab::FAR_V6, lab.a.v6, UDP, &datagram());
    let cases = || {
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
            (
                "IPv6 to the pod's IPv4, mapped",
                arriving(lab::FAR_V6, lab.a.v4.to_ipv6_mapped(), UDP, &datagram()),
            ),
            (
                "IPv6 from another node's IPv4, mapped",
                arriving(lab::FAR.to_ipv6_mapped(), lab.a.v6, UDP, &datagram()),
            ),
        ]
    };
    let malformed = Some(DropReason::Malformed);
    check(
        &lab,
        (Program::FromUplink, lab.uplink),
        cases(),
        Verdict::Drop,
        malformed,
    );
    check(
        &lab,
        (Program::XdpUplink, LO),
        cases(),
        Verdict::Drop,
        malformed,
    );
    let short = vec![
        ("IPv4 header cut short", v4[..33].to_vec()),
        ("IPv6 header cut short", v6[..53].to_vec()),
    ];
    check(
        &lab,
        (Program::XdpUplink, LO),
        short,
        Verdict::Drop,
        malformed,
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn xdp_lets_everything_legitimate_pass() {
    let lab = Lab::new();
    let cases = vec![
        ("to a pod", arriving(lab::FAR, lab.a.v4, UDP, &datagram())),
        (
            "to a pod, IPv6",
            arriving(lab::FAR_V6, lab.a.v6, TCP, &frames::tcp(b"x")),
        ),
        (
            "to the host",
            arriving(lab::WORLD, lab::WORLD, UDP, &datagram()),
        ),
        (
            "from an address without a pod",
            arriving(lab::NOBODY, lab.a.v4, UDP, &datagram()),
        ),
        (
            "with padding",
            changed(arriving(lab::FAR, lab.a.v4, 253, b"x"), |f| f.resize(60, 0)),
        ),
        ("ARP", frames::ethernet([0xff; 6], FAR_MAC, ARP, &[0; 46])),
        (
            "a VLAN tag",
            frames::ethernet(UPLINK_MAC, FAR_MAC, 0x8100, &[0; 46]),
        ),
    ];
    check(&lab, (Program::XdpUplink, LO), cases, Verdict::Pass, None);
}

/// The agent leaves the pod's kernel listening to routers: none may be heard.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn nobody_plays_router_towards_a_pod() {
    let lab = Lab::new();
    let gateway: Ipv6Addr = "fe80::1".parse().unwrap();
    let says = |kind: u8, chain: &[u8], first: u8| {
        let message = frames::icmpv6(gateway, lab.a.v6, kind, &[0; 12]);
        let payload = [chain, &message].concat();
        let packet = frames::ip(gateway.into(), lab.a.v6.into(), first, &payload);
        frames::ethernet(lab.a.mac, HOST_MAC, IPV6, &packet)
    };
    let a = (Program::ToPod, lab.a.ifindex);
    let options = [ICMPV6, 0, 1, 4, 0, 0, 0, 0];
    let router = vec![
        ("advertisement", says(134, &[], ICMPV6)),
        ("redirect", says(137, &[], ICMPV6)),
        ("behind options", says(134, &options, 60)),
    ];
    let reason = Some(DropReason::RouterAdvertisement);
    check(&lab, a, router, Verdict::Drop, reason);
    let others = vec![
        ("too big", says(2, &[], ICMPV6)),
        ("echo", says(128, &options, 60)),
    ];
    check(&lab, a, others, Verdict::Pass, None);
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn the_host_reaches_a_pod_by_its_own_address_only() {
    let lab = Lab::new();
    let a = (Program::ToPod, lab.a.ifindex);
    let own = vec![
        ("IPv4", hosts(&lab, lab::WORLD, lab.a.v4, &datagram())),
        ("IPv6", hosts(&lab, lab::WORLD_V6, lab.a.v6, &datagram())),
    ];
    check(&lab, a, own, Verdict::Pass, None);
    assert_eq!(lab.paths(), [("stack_to_pod", 2)].into());
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let gateway: Ipv6Addr = "fe80::1".parse().unwrap();
    let report = frames::ip(
        gateway.into(),
        all_nodes.into(),
        ICMPV6,
        &[143, 0, 0, 0, 0, 0, 0, 0],
    );
    let others = vec![
        (
            "another pod's",
            hosts(&lab, lab::WORLD, lab.b.v4, &datagram()),
        ),
        (
            "another pod's, IPv6",
            hosts(&lab, lab::WORLD_V6, lab.b.v6, &datagram()),
        ),
        (
            "multicast of the host",
            frames::ethernet([0x33, 0x33, 0, 0, 0, 1], HOST_MAC, IPV6, &report),
        ),
    ];
    check(
        &lab,
        a,
        others,
        Verdict::Drop,
        Some(DropReason::NotForEndpoint),
    );
    let loopback = vec![
        (
            "loopback",
            hosts(&lab, Ipv4Addr::LOCALHOST, lab.a.v4, &datagram()),
        ),
        (
            "loopback, IPv6",
            hosts(&lab, Ipv6Addr::LOCALHOST, lab.a.v6, &datagram()),
        ),
    ];
    check(&lab, a, loopback, Verdict::Drop, Some(DropReason::Loopback));
    let mapped = vec![
        (
            "its IPv4, mapped",
            hosts(&lab, lab::WORLD_V6, lab.a.v4.to_ipv6_mapped(), &datagram()),
        ),
        (
            "from IPv4, mapped",
            hosts(&lab, lab::WORLD.to_ipv6_mapped(), lab.a.v6, &datagram()),
        ),
    ];
    check(&lab, a, mapped, Verdict::Drop, Some(DropReason::Malformed));
    let arp = vec![("ARP", frames::ethernet(lab.a.mac, HOST_MAC, ARP, &[0; 46]))];
    check(&lab, a, arp, Verdict::Drop, Some(DropReason::Neighbor));
    let lldp = vec![(
        "LLDP",
        frames::ethernet(lab.a.mac, HOST_MAC, 0x88cc, &[0; 46]),
    )];
    check(&lab, a, lldp, Verdict::Drop, Some(DropReason::EtherType));
    lab.datapath
        .remove_endpoint(&lab::endpoint(&lab.a))
        .unwrap();
    let gone = vec![("IPv4", hosts(&lab, lab::WORLD, lab.a.v4, &datagram()))];
    check(
        &lab,
        a,
        gone,
        Verdict::Drop,
        Some(DropReason::UnknownEndpoint),
    );
}
