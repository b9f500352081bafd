//! Ring 2: what `from_pod` makes of each kind of frame that a pod can send.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::datapath::DropReason;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use support::{
    frames::{self, ARP, ICMPV6, IPV4, IPV6, TCP, UDP},
    lab::{self, Context, HOST_MAC, Lab, Program, Verdict},
};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xaa, 0, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A frame as the pod `a` sends it.
fn sent(lab: &Lab, kind: u16, payload: &[u8]) -> Vec<u8> {
    frames::ethernet(HOST_MAC, lab.a.mac, kind, payload)
}

/// An IP packet of the pod `a`, of the destination's family.
fn to(lab: &Lab, dst: impl Into<IpAddr>, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match dst.into() {
        dst @ IpAddr::V4(_) => sent(
            lab,
            IPV4,
            &frames::ip(lab.a.v4.into(), dst, protocol, payload),
        ),
        dst @ IpAddr::V6(_) => sent(
            lab,
            IPV6,
            &frames::ip(lab.a.v6.into(), dst, protocol, payload),
        ),
    }
}

/// An IPv4 packet between any addresses in the pod's frame.
fn between(lab: &Lab, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    sent(
        lab,
        IPV4,
        &frames::ip(src.into(), dst.into(), UDP, &frames::udp(1, 2, b"x")),
    )
}

fn changed(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    frame
}

/// Runs frames that must be dropped for a reason and counted for it: by interface and in total.
fn dropped(lab: &Lab, reason: DropReason, cases: Vec<(&str, Vec<u8>)>) {
    for (name, frame) in cases {
        let (before, total) = (lab.drops(lab.a.ifindex), total(lab, reason));
        let outcome = lab.run(Program::FromPod, lab.a.ifindex, &frame);
        assert_eq!(outcome.verdict, Verdict::Drop, "{name}");
        let mut expected = before;
        *expected.entry(reason).or_default() += 1;
        assert_eq!(lab.drops(lab.a.ifindex), expected, "{name}");
        let (packets, bytes) = self::total(lab, reason);
        assert_eq!(
            (packets, bytes),
            (total.0 + 1, total.1 + frame.len() as u64),
            "{name}"
        );
    }
}

fn total(lab: &Lab, reason: DropReason) -> (u64, u64) {
    let totals = lab.datapath.drop_totals().unwrap();
    let (_, counter) = totals
        .iter()
        .find(|row| row.0 == reason)
        .expect("each reason has a row");
    (counter.packets, counter.bytes)
}

/// Runs frames that must go a way; returns what became of them.
fn goes(lab: &Lab, path: &str, cases: Vec<(&str, Vec<u8>)>) -> Vec<Vec<u8>> {
    let verdict = if path.ends_with("stack") {
        Verdict::Pass
    } else {
        Verdict::Redirect
    };
    let mut results = Vec::new();
    for (name, frame) in cases {
        let (mut expected, drops) = (lab.paths(), lab.drops(lab.a.ifindex));
        let outcome = lab.run(Program::FromPod, lab.a.ifindex, &frame);
        assert_eq!(outcome.verdict, verdict, "{name}");
        *expected
            .entry(PATHS.into_iter().find(|p| *p == path).unwrap())
            .or_default() += 1;
        assert_eq!(lab.paths(), expected, "{name}");
        assert_eq!(lab.drops(lab.a.ifindex), drops, "{name}");
        results.push(outcome.frame);
    }
    results
}

const PATHS: [&str; 4] = ["pod_to_pod", "pod_to_node", "pod_to_stack", "answered"];

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
        repeat: 1,
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
    assert_eq!(lab.paths(), [("pod_to_stack", 1)].into());
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn malformed_packets_are_dropped() {
    // Headers that are cut short are `datapath_netns`'s: the kernel does not take them for a run.
    let lab = Lab::new();
    let v4 = to(&lab, lab.b.v4, UDP, &frames::udp(9, 9, b"hello"));
    let v6 = to(&lab, lab.b.v6, UDP, &frames::udp(9, 9, b"hello"));
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

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pod_sends_from_its_own_addresses_only() {
    let lab = Lab::new();
    let far_v6 = |src: Ipv6Addr| {
        sent(
            &lab,
            IPV6,
            &frames::ip(src.into(), lab.b.v6.into(), UDP, &frames::udp(1, 2, b"x")),
        )
    };
    let server = frames::ip(
        lab::NOBODY.into(),
        lab.b.v4.into(),
        UDP,
        &frames::udp(1, 2, b"x"),
    );
    dropped(
        &lab,
        DropReason::SourceAddress,
        vec![
            ("another pod's", between(&lab, lab.b.v4, lab::FAR)),
            ("nobody's", sent(&lab, IPV4, &server)),
            (
                "the world's, to the world",
                between(&lab, lab::WORLD, lab::WORLD),
            ),
            ("none", between(&lab, Ipv4Addr::UNSPECIFIED, lab.b.v4)),
            (
                "another pod's, to all",
                between(&lab, lab.b.v4, Ipv4Addr::BROADCAST),
            ),
            ("loopback", between(&lab, Ipv4Addr::LOCALHOST, lab.b.v4)),
            ("another pod's, IPv6", far_v6(lab.b.v6)),
            ("link-local, IPv6", far_v6(LINK_LOCAL)),
            ("none, IPv6", far_v6(Ipv6Addr::UNSPECIFIED)),
            ("its own IPv4, mapped", far_v6(lab.a.v4.to_ipv6_mapped())),
        ],
    );
    let own = between(&lab, lab.a.v4, lab.b.v4);
    dropped(
        &lab,
        DropReason::SourceMac,
        vec![
            ("another MAC", changed(own.clone(), |f| f[11] ^= 1)),
            (
                "the gateway's MAC",
                changed(own.clone(), |f| f[6..12].copy_from_slice(&HOST_MAC)),
            ),
            (
                "another MAC in ARP's frame",
                changed(sent(&lab, ARP, &question(&lab)), |f| f[6] ^= 2),
            ),
            (
                "another MAC in ARP's packet",
                changed(sent(&lab, ARP, &question(&lab)), |f| f[22] ^= 2),
            ),
        ],
    );
    dropped(
        &lab,
        DropReason::DestinationMac,
        vec![(
            "past the gateway",
            changed(own, |f| f[..6].copy_from_slice(&lab.b.mac)),
        )],
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn an_endpoint_without_an_address_in_a_family_sends_nothing_in_it() {
    let lab = Lab::new();
    let mut endpoint = lab::endpoint(&lab.a);
    endpoint.addresses.v6 = None;
    lab.datapath.remove_endpoint(&endpoint).unwrap();
    lab.datapath
        .upsert_endpoint(&endpoint, lab.a.ifindex)
        .unwrap();
    let unspecified = frames::ip(
        Ipv6Addr::UNSPECIFIED.into(),
        lab.b.v6.into(),
        UDP,
        &frames::udp(1, 2, b"x"),
    );
    dropped(
        &lab,
        DropReason::SourceAddress,
        vec![
            (
                "the address it had",
                to(&lab, lab.b.v6, UDP, &frames::udp(1, 2, b"x")),
            ),
            ("the unspecified address", sent(&lab, IPV6, &unspecified)),
        ],
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pod_is_neither_router_nor_dhcp_server() {
    let lab = Lab::new();
    let router = |kind: u8, src: Ipv6Addr, dst: Ipv6Addr| {
        let message = frames::icmpv6(src, dst, kind, &[0; 12]);
        sent(
            &lab,
            IPV6,
            &frames::ip(src.into(), dst.into(), ICMPV6, &message),
        )
    };
    let message = frames::icmpv6(LINK_LOCAL, ALL_NODES, 134, &[0; 12]);
    let hidden = |chain: &[u8], first: u8| {
        let payload = [chain, &message].concat();
        sent(
            &lab,
            IPV6,
            &frames::ip(LINK_LOCAL.into(), ALL_NODES.into(), first, &payload),
        )
    };
    dropped(
        &lab,
        DropReason::RouterAdvertisement,
        vec![
            ("advertisement to all", router(134, LINK_LOCAL, ALL_NODES)),
            ("advertisement to a pod", router(134, lab.a.v6, lab.b.v6)),
            ("redirect", router(137, LINK_LOCAL, lab.b.v6)),
            ("behind options", hidden(&[ICMPV6, 0, 1, 4, 0, 0, 0, 0], 60)),
            (
                "behind a first fragment",
                hidden(&[ICMPV6, 0, 0, 1, 0, 0, 0, 1], 44),
            ),
            (
                "behind authentication",
                hidden(&[ICMPV6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 51),
            ),
        ],
    );
    let broadcast = |src: Ipv4Addr, payload: &[u8]| {
        let packet = frames::ip(src.into(), Ipv4Addr::BROADCAST.into(), UDP, payload);
        changed(sent(&lab, IPV4, &packet), |f| f[..6].fill(0xff))
    };
    dropped(
        &lab,
        DropReason::DhcpServer,
        vec![
            (
                "offer to all",
                broadcast(lab.a.v4, &frames::udp(67, 68, b"x")),
            ),
            (
                "offer to a pod",
                to(&lab, lab.b.v4, UDP, &frames::udp(67, 68, b"x")),
            ),
            (
                "DHCPv6",
                to(&lab, lab.b.v6, UDP, &frames::udp(547, 546, b"x")),
            ),
        ],
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn groups_and_other_protocols_get_nowhere() {
    let lab = Lab::new();
    let datagram = frames::udp(9, 9, b"x");
    let report = frames::icmpv6(lab.a.v6, ALL_NODES, 143, &[0; 4]);
    let start = frames::ip(LINK_LOCAL.into(), ALL_NODES.into(), ICMPV6, &report);
    let unicast = to(&lab, lab.b.v4, UDP, &datagram);
    dropped(
        &lab,
        DropReason::Multicast,
        vec![
            (
                "IPv4 multicast",
                to(&lab, Ipv4Addr::new(224, 0, 0, 251), UDP, &datagram),
            ),
            (
                "IPv4 broadcast",
                to(&lab, Ipv4Addr::BROADCAST, UDP, &datagram),
            ),
            ("IPv6 multicast", to(&lab, ALL_NODES, UDP, &datagram)),
            (
                "DHCP discover",
                between(&lab, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST),
            ),
            ("listener report at start", sent(&lab, IPV6, &start)),
            ("listener report", to(&lab, ALL_NODES, ICMPV6, &report)),
            (
                "one pod in a broadcast frame",
                changed(unicast, |f| f[..6].fill(0xff)),
            ),
        ],
    );
    dropped(
        &lab,
        DropReason::EtherType,
        vec![
            ("LLDP", sent(&lab, 0x88cc, &[0; 46])),
            ("a VLAN tag", sent(&lab, 0x8100, &[0; 46])),
            ("IEEE 802.3 length", sent(&lab, 0x0026, &[0; 46])),
        ],
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn an_interface_without_rows_lets_nothing_pass() {
    let lab = Lab::new();
    lab.datapath
        .remove_endpoint(&lab::endpoint(&lab.a))
        .unwrap();
    dropped(
        &lab,
        DropReason::UnknownEndpoint,
        vec![
            ("IPv4", to(&lab, lab.b.v4, UDP, &frames::udp(9, 9, b"x"))),
            ("IPv6", to(&lab, lab.b.v6, UDP, &frames::udp(9, 9, b"x"))),
            ("ARP", sent(&lab, ARP, &question(&lab))),
        ],
    );
}

/// The pod's ARP question for its gateway.
fn question(lab: &Lab) -> Vec<u8> {
    frames::arp(1, (lab.a.mac, lab.a.v4), ([0; 6], GATEWAY))
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn arp_for_the_gateway_is_answered() {
    let lab = Lab::new();
    let asked = changed(sent(&lab, ARP, &question(&lab)), |f| f[..6].fill(0xff));
    let answer = frames::arp(2, (HOST_MAC, GATEWAY), (lab.a.mac, lab.a.v4));
    let answer = frames::ethernet(lab.a.mac, HOST_MAC, ARP, &answer);
    assert_eq!(goes(&lab, "answered", vec![("broadcast", asked)]), [answer]);
    let asking = |sender: (frames::Mac, Ipv4Addr), target: Ipv4Addr, operation: u16| {
        sent(&lab, ARP, &frames::arp(operation, sender, ([0; 6], target)))
    };
    let own = (lab.a.mac, lab.a.v4);
    dropped(
        &lab,
        DropReason::Neighbor,
        vec![
            ("for another pod", asking(own, lab.b.v4, 1)),
            ("announcement", asking(own, lab.a.v4, 1)),
            ("reply", asking(own, GATEWAY, 2)),
            (
                "not for IPv4",
                changed(sent(&lab, ARP, &question(&lab)), |f| f[17] = 1),
            ),
        ],
    );
    dropped(
        &lab,
        DropReason::SourceAddress,
        vec![
            ("as another pod", asking((lab.a.mac, lab.b.v4), GATEWAY, 1)),
            ("as the gateway", asking((lab.a.mac, GATEWAY), GATEWAY, 1)),
        ],
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_solicitation_for_the_gateway_is_answered() {
    let lab = Lab::new();
    let group: Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
    let ask = |src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr| {
        sent(
            &lab,
            IPV6,
            &frames::solicitation(src, dst, target, lab.a.mac),
        )
    };
    let without_option = changed(ask(lab.a.v6, group, GATEWAY_V6), |f| {
        f.truncate(78);
        f[19] = 24;
    });
    let long = changed(ask(lab.a.v6, group, GATEWAY_V6), |f| {
        f.extend([14, 1, 1, 2, 3, 4, 5, 6]);
        f[19] = 40;
    });
    let cases = vec![
        (
            "of its link-local address",
            ask(LINK_LOCAL, group, GATEWAY_V6),
        ),
        ("of its own address", ask(lab.a.v6, group, GATEWAY_V6)),
        ("unicast", ask(LINK_LOCAL, GATEWAY_V6, GATEWAY_V6)),
        ("without option", without_option),
        ("with a nonce", long),
    ];
    for ((name, asked), answer) in cases.clone().into_iter().zip(goes(&lab, "answered", cases)) {
        let asker = Ipv6Addr::from(<[u8; 16]>::try_from(&asked[22..38]).unwrap());
        assert_eq!(answer[..12], [lab.a.mac, HOST_MAC].concat(), "{name}");
        let body = [
            &[0xe0, 0, 0, 0][..],
            &GATEWAY_V6.octets(),
            &[2, 1],
            &HOST_MAC,
        ]
        .concat();
        let message = frames::icmpv6(GATEWAY_V6, asker, 136, &body);
        let mut packet = frames::ip(GATEWAY_V6.into(), asker.into(), ICMPV6, &message);
        packet[7] = 255;
        assert_eq!(answer[14..], packet, "{name}");
    }
    let advertisement = frames::icmpv6(lab.a.v6, ALL_NODES, 136, &[0; 20]);
    let advertisement = frames::ip(lab.a.v6.into(), ALL_NODES.into(), ICMPV6, &advertisement);
    dropped(
        &lab,
        DropReason::Neighbor,
        vec![
            ("for another pod", ask(lab.a.v6, group, lab.b.v6)),
            (
                "whether an address is taken",
                ask(Ipv6Addr::UNSPECIFIED, group, lab.a.v6),
            ),
            (
                "whether the gateway's is taken",
                ask(Ipv6Addr::UNSPECIFIED, group, GATEWAY_V6),
            ),
            (
                "from afar",
                changed(ask(lab.a.v6, group, GATEWAY_V6), |f| f[21] = 64),
            ),
            (
                "with a code",
                changed(ask(lab.a.v6, group, GATEWAY_V6), |f| f[55] = 1),
            ),
            ("advertisement", sent(&lab, IPV6, &advertisement)),
        ],
    );
    dropped(
        &lab,
        DropReason::SourceAddress,
        vec![("of another pod's address", ask(lab.b.v6, group, GATEWAY_V6))],
    );
}
