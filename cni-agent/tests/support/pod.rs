//! Runs `from_pod` on frames of the lab's pod `a` and checks what became of them: verdict and every
//! counter.

use super::{
    frames::{self, IPV4, IPV6, UDP},
    lab::{HOST_MAC, Lab, Program, Verdict},
};
use cni_agent::datapath::DropReason;
use std::net::{IpAddr, Ipv4Addr};

/// A frame as the pod `a` sends it.
pub fn sent(lab: &Lab, kind: u16, payload: &[u8]) -> Vec<u8> {
    frames::ethernet(HOST_MAC, lab.a.mac, kind, payload)
}

/// An IP packet of the pod `a`, of the destination's family.
pub fn to(lab: &Lab, dst: impl Into<IpAddr>, protocol: u8, payload: &[u8]) -> Vec<u8> {
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
pub fn between(lab: &Lab, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    sent(
        lab,
        IPV4,
        &frames::ip(src.into(), dst.into(), UDP, &frames::udp(1, 2, b"x")),
    )
}

pub fn changed(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    frame
}

/// Runs frames that must be dropped for a reason and counted for it: by interface and in total.
pub fn dropped(lab: &Lab, reason: DropReason, cases: Vec<(&str, Vec<u8>)>) {
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

pub fn total(lab: &Lab, reason: DropReason) -> (u64, u64) {
    let totals = lab.datapath.drop_totals().unwrap();
    let (_, counter) = totals
        .iter()
        .find(|row| row.0 == reason)
        .expect("each reason has a row");
    (counter.packets, counter.bytes)
}

/// Runs frames that must go a way; returns what became of them.
pub fn goes(lab: &Lab, path: &str, cases: Vec<(&str, Vec<u8>)>) -> Vec<Vec<u8>> {
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

pub const PATHS: [&str; 4] = ["pod_to_pod", "pod_to_node", "pod_to_stack", "answered"];

/// The pod's ARP question for its gateway.
pub fn question(lab: &Lab) -> Vec<u8> {
    frames::arp(1, (lab.a.mac, lab.a.v4), ([0; 6], GATEWAY))
}

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
