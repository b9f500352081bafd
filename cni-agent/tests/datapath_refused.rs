//! Ring 2: what `from_pod` refuses to a pod.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::datapath::DropReason;
use std::net::{Ipv4Addr, Ipv6Addr};
use support::{
    frames::{self, ARP, ICMPV6, IPV4, IPV6, UDP},
    lab::{self, HOST_MAC, Lab},
    pod::{between, changed, dropped, goes, question, sent, to},
};

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xaa, 0, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

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
fn a_pod_does_not_reach_the_nodes_loopback() {
    let lab = Lab::new();
    let datagram = frames::udp(1, 2, b"x");
    let cases = [
        ("127.0.0.1", to(&lab, Ipv4Addr::LOCALHOST, UDP, &datagram)),
        (
            "the last of 127.0.0.0/8",
            to(&lab, Ipv4Addr::new(127, 255, 255, 255), UDP, &datagram),
        ),
        ("::1", to(&lab, Ipv6Addr::LOCALHOST, UDP, &datagram)),
    ];
    dropped(&lab, DropReason::Loopback, cases.to_vec());
    // What lies beside it is the world.
    let beside = [
        Ipv4Addr::new(126, 255, 255, 255),
        Ipv4Addr::new(128, 0, 0, 1),
    ];
    let cases = beside.map(|dst| ("beside", to(&lab, dst, UDP, &datagram)));
    goes(&lab, "pod_to_stack", cases.to_vec());
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
