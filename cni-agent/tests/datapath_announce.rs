//! Ring 2: how `from_uplink` answers for addresses of Services that this node announces.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::{datapath::Announced, model};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};
use support::{
    frames::{self, ARP, ICMPV6, IPV6, Mac},
    lab::{FAR_MAC, Lab, Outcome, Program, UPLINK_MAC, Verdict},
    pod::changed,
};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 200);
const ASKER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 1, 0x0200);
const ASKER_V6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 9);
/// The solicited-node group of the address.
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff01, 0x0200);
const GROUP_MAC: Mac = [0x33, 0x33, 0xff, 1, 2, 0];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const LASTING: Duration = Duration::from_secs(3600);

fn announced(lab: &Lab, address: impl Into<IpAddr>) -> Announced {
    Announced {
        address: address.into(),
        ifindex: lab.uplink,
        mac: model::Mac(UPLINK_MAC),
    }
}

/// A node that answers for both addresses.
fn announcing() -> Lab {
    let lab = Lab::new();
    let both = [announced(&lab, ADDRESS), announced(&lab, ADDRESS_V6)];
    lab.datapath.announce(&both, LASTING).unwrap();
    lab
}

fn run(lab: &Lab, frame: &[u8]) -> Outcome {
    lab.run(Program::FromUplink, lab.uplink, frame)
}

fn ask_arp(to: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let question = frames::arp(1, (FAR_MAC, sender), ([0; 6], target));
    frames::ethernet(to, FAR_MAC, ARP, &question)
}

fn ask_ndp(to: (Mac, Ipv6Addr), from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let question = frames::solicitation(from, to.1, target, FAR_MAC);
    frames::ethernet(to.0, FAR_MAC, IPV6, &question)
}

/// Runs frames that are not answered: they go to the kernel as they are.
fn left_alone(lab: &Lab, cases: Vec<(&str, Vec<u8>)>) {
    for (name, frame) in cases {
        let paths = lab.paths();
        let outcome = run(lab, &frame);
        assert_eq!(outcome.verdict, Verdict::Pass, "{name}");
        assert_eq!(outcome.frame, frame, "{name}");
        assert_eq!(lab.paths(), paths, "{name}");
        assert!(lab.drops(lab.uplink).is_empty(), "{name}");
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn arp_for_an_announced_address_is_answered() {
    let lab = announcing();
    let broadcast = [0xff; 6];
    // A probe (RFC 5227) comes from nobody: it asks whether the address is taken.
    for (n, (name, to, sender)) in [
        ("broadcast", broadcast, ASKER),
        ("unicast", UPLINK_MAC, ASKER),
        ("probe", broadcast, Ipv4Addr::UNSPECIFIED),
    ]
    .into_iter()
    .enumerate()
    {
        let outcome = run(&lab, &ask_arp(to, sender, ADDRESS));
        assert_eq!(outcome.verdict, Verdict::Redirect, "{name}");
        let answer = frames::arp(2, (UPLINK_MAC, ADDRESS), (FAR_MAC, sender));
        let answer = frames::ethernet(FAR_MAC, UPLINK_MAC, ARP, &answer);
        assert_eq!(outcome.frame, answer, "{name}");
        assert_eq!(lab.paths()["answered"], n as u64 + 1, "{name}");
    }
    let other = Ipv4Addr::new(10, 0, 0, 201);
    let reply = frames::arp(2, (FAR_MAC, ASKER), (UPLINK_MAC, ADDRESS));
    left_alone(
        &lab,
        vec![
            ("another address", ask_arp(broadcast, ASKER, other)),
            ("answer", frames::ethernet(UPLINK_MAC, FAR_MAC, ARP, &reply)),
            (
                "for another station",
                ask_arp([0x02, 0xee, 0, 0, 0, 7], ASKER, ADDRESS),
            ),
            (
                "cut off",
                changed(ask_arp(broadcast, ASKER, ADDRESS), |f| f.truncate(38)),
            ),
        ],
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_solicitation_for_an_announced_address_is_answered() {
    let lab = announcing();
    let nobody = Ipv6Addr::UNSPECIFIED;
    let group = (GROUP_MAC, GROUP);
    let without_option = changed(ask_ndp(group, nobody, ADDRESS_V6), |f| {
        f.truncate(78);
        f[19] = 24;
    });
    // Solicited and override; who has no address can't be answered but by telling everybody.
    let (to_asker, to_all) = ((FAR_MAC, ASKER_V6, 0x60), (ALL_NODES_MAC, ALL_NODES, 0x20));
    for (name, asked, (mac, to, flags)) in [
        ("group", ask_ndp(group, ASKER_V6, ADDRESS_V6), to_asker),
        (
            "unicast",
            ask_ndp((UPLINK_MAC, ADDRESS_V6), ASKER_V6, ADDRESS_V6),
            to_asker,
        ),
        ("whether it is taken", without_option, to_all),
    ] {
        let outcome = run(&lab, &asked);
        assert_eq!(outcome.verdict, Verdict::Redirect, "{name}");
        assert_eq!(outcome.frame[..12], [mac, UPLINK_MAC].concat(), "{name}");
        let body = [
            &[flags, 0, 0, 0][..],
            &ADDRESS_V6.octets(),
            &[2, 1],
            &UPLINK_MAC,
        ]
        .concat();
        let message = frames::icmpv6(ADDRESS_V6, to, 136, &body);
        let mut packet = frames::ip(ADDRESS_V6.into(), to.into(), ICMPV6, &message);
        packet[7] = 255;
        assert_eq!(outcome.frame[14..], packet, "{name}");
    }
    assert_eq!(lab.paths()["answered"], 3);
    let other: Ipv6Addr = "fd10::1:201".parse().unwrap();
    left_alone(
        &lab,
        vec![
            ("another address", ask_ndp(group, ASKER_V6, other)),
            (
                "from afar",
                changed(ask_ndp(group, ASKER_V6, ADDRESS_V6), |f| f[21] = 254),
            ),
            (
                "with a code",
                changed(ask_ndp(group, ASKER_V6, ADDRESS_V6), |f| f[55] = 1),
            ),
            (
                "advertisement",
                changed(ask_ndp(group, ASKER_V6, ADDRESS_V6), |f| f[54] = 136),
            ),
        ],
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn an_address_is_answered_for_until_its_row_ends_and_on_its_own_link() {
    let lab = announcing();
    let arp = ask_arp([0xff; 6], ASKER, ADDRESS);
    let ndp = ask_ndp((GROUP_MAC, GROUP), ASKER_V6, ADDRESS_V6);
    let asked = || vec![("ARP", arp.clone()), ("NDP", ndp.clone())];
    let both = [announced(&lab, ADDRESS), announced(&lab, ADDRESS_V6)];
    assert_eq!(lab.datapath.announced().unwrap(), both);
    lab.datapath.announce(&both, Duration::ZERO).unwrap();
    left_alone(&lab, asked());
    assert_eq!(lab.datapath.announced().unwrap(), []);
    lab.datapath.announce(&both[..1], LASTING).unwrap();
    assert_eq!(run(&lab, &arp).verdict, Verdict::Redirect);
    left_alone(&lab, vec![("given up", ndp.clone())]);
    let elsewhere = both.map(|row| Announced {
        ifindex: lab.uplink + 100,
        ..row
    });
    lab.datapath.announce(&elsewhere, LASTING).unwrap();
    left_alone(&lab, asked());
}
