//! Ring 2: how `from_pod` answers a pod's questions for its gateway.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::datapath::DropReason;
use std::net::{Ipv4Addr, Ipv6Addr};
use support::{
    frames::{self, ARP, ICMPV6, IPV6},
    lab::{HOST_MAC, Lab},
    pod::{GATEWAY, changed, dropped, goes, question, sent},
};

const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xaa, 0, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

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
