//! Ring 2: packets of pods to Services and what comes back.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::{datapath::DropReason, service::Frontend};
use cni_ebpf_common::{
    flow::MAX_FLOWS,
    outside::{POD_FIRST_PORT, POD_PORTS},
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use support::{
    flows::{
        ACK, FIN, RST, SCTP, SYN, SYN_ACK, addresses, at, change_flows, ends, framed, from,
        frontend, payload,
    },
    frames::{self, TCP, UDP},
    lab::{self, Context, FAR_MAC, HOST_MAC, Lab, Pod, Program, UPLINK_MAC, Verdict},
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 10);
const CPORT: u16 = 40_001;

/// Pod `a`, pod `b`, another node's pod, a host and the Service, in one family.
struct Family {
    a: IpAddr,
    b: IpAddr,
    far: IpAddr,
    host: IpAddr,
    vip: IpAddr,
}

fn families(lab: &Lab) -> [Family; 2] {
    [
        Family {
            a: lab.a.v4.into(),
            b: lab.b.v4.into(),
            far: lab::FAR.into(),
            host: lab::WORLD.into(),
            vip: VIP.into(),
        },
        Family {
            a: lab.a.v6.into(),
            b: lab.b.v6.into(),
            far: lab::FAR_V6.into(),
            host: lab::WORLD_V6.into(),
            vip: VIP_V6.into(),
        },
    ]
}

fn serve(lab: &Lab, frontends: &[Frontend]) {
    let change = lab.datapath.sync_services(frontends).unwrap();
    assert!(change.refused.is_empty());
    if change.unswept {
        lab.datapath.sweep_flows().unwrap();
    }
}

/// What a pod's packet became.
fn sends(lab: &Lab, pod: &Pod, frame: &[u8]) -> (Verdict, SocketAddr, SocketAddr) {
    let outcome = lab.run(Program::FromPod, pod.ifindex, frame);
    let (src, dst) = ends(&outcome.frame);
    (outcome.verdict, src, dst)
}

/// The same for what arrives from another node, and from the host's stack.
fn arrives(
    lab: &Lab,
    src: SocketAddr,
    dst: SocketAddr,
    protocol: u8,
) -> (Verdict, SocketAddr, SocketAddr) {
    let bytes = payload(src, dst, protocol, ACK, b"answer");
    let frame = framed(UPLINK_MAC, FAR_MAC, src, dst, protocol, &bytes);
    let outcome = lab.run(Program::FromUplink, lab.uplink, &frame);
    let (src, dst) = ends(&outcome.frame);
    (outcome.verdict, src, dst)
}

fn comes_by_stack(
    lab: &Lab,
    pod: &Pod,
    src: SocketAddr,
    dst: SocketAddr,
    protocol: u8,
) -> (Verdict, SocketAddr, SocketAddr) {
    let bytes = payload(src, dst, protocol, ACK, b"answer");
    let frame = framed(pod.mac, HOST_MAC, src, dst, protocol, &bytes);
    let outcome = lab.run(Program::ToPod, pod.ifindex, &frame);
    let (src, dst) = ends(&outcome.frame);
    (outcome.verdict, src, dst)
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_local_backend_gets_the_packet_and_its_answer_comes_from_the_service() {
    let lab = Lab::new();
    for f in families(&lab) {
        for protocol in [TCP, UDP, SCTP] {
            let (client, service, backend) = (at(f.a, CPORT), at(f.vip, 80), at(f.b, 8080));
            serve(&lab, &[frontend(service, protocol, &[backend])]);
            for kind in [SYN, ACK] {
                let frame = from(&lab.a, client, service, protocol, kind);
                let outcome = lab.run(Program::FromPod, lab.a.ifindex, &frame);
                assert_eq!(ends(&outcome.frame), (client, backend), "{protocol}");
                assert_eq!(outcome.verdict, Verdict::Redirect);
                assert_eq!(outcome.frame[..12], [lab.b.mac, HOST_MAC].concat());
                let answer = from(&lab.b, backend, client, protocol, ACK);
                let outcome = lab.run(Program::FromPod, lab.b.ifindex, &answer);
                assert_eq!(ends(&outcome.frame), (service, client), "{protocol}");
                assert_eq!(outcome.verdict, Verdict::Redirect);
                assert_eq!(outcome.frame[..12], [lab.a.mac, HOST_MAC].concat());
            }
            // What was no answer is left alone.
            let other = from(&lab.b, at(f.b, 8081), client, protocol, ACK);
            assert_eq!(
                sends(&lab, &lab.b, &other),
                (Verdict::Redirect, at(f.b, 8081), client)
            );
        }
    }
    assert!(lab.drops(lab.a.ifindex).is_empty() && lab.drops(lab.b.ifindex).is_empty());
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn answers_of_another_node_and_by_the_hosts_stack_come_from_the_service() {
    let lab = Lab::new();
    for f in families(&lab) {
        for protocol in [TCP, UDP, SCTP] {
            let (client, service) = (at(f.a, CPORT), at(f.vip, 443));
            let far = at(f.far, 6443);
            serve(&lab, &[frontend(service, protocol, &[far])]);
            let frame = from(&lab.a, client, service, protocol, SYN);
            assert_eq!(
                sends(&lab, &lab.a, &frame),
                (Verdict::Redirect, client, far)
            );
            assert_eq!(
                arrives(&lab, far, client, protocol),
                (Verdict::Redirect, service, client)
            );
            // As when the packet was too large for the short cut.
            assert_eq!(
                comes_by_stack(&lab, &lab.a, far, client, protocol),
                (Verdict::Pass, service, client)
            );
            let (client, host) = (at(f.a, CPORT + 1), at(f.host, 6443));
            serve(&lab, &[frontend(service, protocol, &[host])]);
            let frame = from(&lab.a, client, service, protocol, SYN);
            assert_eq!(sends(&lab, &lab.a, &frame), (Verdict::Pass, client, host));
            assert_eq!(
                comes_by_stack(&lab, &lab.a, host, client, protocol),
                (Verdict::Pass, service, client)
            );
            let other = at(f.host, 6444);
            assert_eq!(
                comes_by_stack(&lab, &lab.a, other, client, protocol),
                (Verdict::Pass, other, client)
            );
        }
    }
    assert!(lab.drops(lab.a.ifindex).is_empty());
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn checksums_that_are_not_there_stay_away() {
    let lab = Lab::new();
    let (client, service, backend) = (at(lab.a.v4, CPORT), at(VIP, 53), at(lab.b.v4, 5353));
    serve(
        &lab,
        &[
            frontend(service, UDP, &[backend]),
            frontend(service, SCTP, &[backend]),
        ],
    );
    for (protocol, at, len) in [(UDP, 34 + 6, 2), (SCTP, 34 + 8, 4)] {
        let mut frame = from(&lab.a, client, service, protocol, SYN);
        frame[at..at + len].fill(0);
        let outcome = lab.run(Program::FromPod, lab.a.ifindex, &frame);
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(outcome.frame[at..at + len], [0; 4][..len]);
        assert_eq!(
            outcome.frame[34..38],
            [CPORT.to_be_bytes(), 5353u16.to_be_bytes()].concat()
        );
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pod_that_is_its_own_backend_hears_the_service() {
    let lab = Lab::new();
    for f in families(&lab) {
        for protocol in [TCP, UDP, SCTP] {
            let (client, service, own) = (at(f.a, CPORT), at(f.vip, 80), at(f.a, 8080));
            serve(&lab, &[frontend(service, protocol, &[own])]);
            let asked = at(f.vip, CPORT);
            for kind in [SYN, ACK] {
                let frame = from(&lab.a, client, service, protocol, kind);
                assert_eq!(sends(&lab, &lab.a, &frame), (Verdict::Redirect, asked, own));
                let answer = from(&lab.a, own, asked, protocol, ACK);
                assert_eq!(
                    sends(&lab, &lab.a, &answer),
                    (Verdict::Redirect, service, client)
                );
            }
        }
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn what_came_by_the_hosts_stack_from_a_pod_is_answered_by_it() {
    let lab = Lab::new();
    for f in families(&lab) {
        for protocol in [TCP, UDP, SCTP] {
            for peer in [f.b, f.far] {
                let (server, client) = (at(f.a, 8080), at(peer, CPORT));
                let answer = from(&lab.a, server, client, protocol, ACK);
                assert_eq!(
                    sends(&lab, &lab.a, &answer).0,
                    Verdict::Redirect,
                    "the short cut"
                );
                let passed = comes_by_stack(&lab, &lab.a, client, server, protocol);
                assert_eq!(passed, (Verdict::Pass, client, server));
                assert_eq!(
                    sends(&lab, &lab.a, &answer),
                    (Verdict::Pass, server, client)
                );
                // Others of the same pods go on as before.
                let other = from(&lab.a, at(f.a, 8081), client, protocol, ACK);
                assert_eq!(sends(&lab, &lab.a, &other).0, Verdict::Redirect);
            }
        }
    }
    // The stack reads options of connections that take the short cut otherwise.
    let (server, client) = (at(lab.a.v4, 9), at(lab.b.v4, CPORT));
    let bytes = payload(client, server, UDP, 0, b"x");
    let mut packet = frames::ip(client.ip(), server.ip(), UDP, &bytes);
    packet.splice(20..20, [1, 1, 1, 0]);
    (packet[0], packet[3]) = (0x46, packet[3] + 4);
    let mut frame = frames::ethernet(lab.a.mac, HOST_MAC, frames::IPV4, &packet);
    frames::fix_ipv4(&mut frame);
    assert_eq!(
        lab.run(Program::ToPod, lab.a.ifindex, &frame).verdict,
        Verdict::Pass
    );
    let answer = from(&lab.a, server, client, UDP, 0);
    assert_eq!(sends(&lab, &lab.a, &answer).0, Verdict::Redirect);
}

/// The answer of a backend that the stack carried, too: the stack hears both directions, and the
/// client still hears the Service.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_translated_flow_by_the_hosts_stack_is_answered_by_it_and_turned_back() {
    let lab = Lab::new();
    let (client, service, backend) = (at(lab.a.v4, CPORT), at(VIP, 80), at(lab.b.v4, 8080));
    serve(&lab, &[frontend(service, TCP, &[backend])]);
    assert_eq!(
        sends(&lab, &lab.a, &from(&lab.a, client, service, TCP, SYN)).2,
        backend
    );
    let context = Context {
        ifindex: lab.b.ifindex,
        ingress: lab.a.ifindex,
        ..Context::default()
    };
    let bytes = payload(client, backend, TCP, SYN, b"");
    let frame = framed(lab.b.mac, HOST_MAC, client, backend, TCP, &bytes);
    assert_eq!(
        lab.run_as(Program::ToPod, context, &frame).verdict,
        Verdict::Pass
    );
    let answer = from(&lab.b, backend, client, TCP, ACK);
    assert_eq!(
        sends(&lab, &lab.b, &answer),
        (Verdict::Pass, backend, client)
    );
    assert_eq!(
        comes_by_stack(&lab, &lab.a, backend, client, TCP),
        (Verdict::Pass, service, client)
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn what_nobody_serves_is_the_hosts_stacks() {
    let lab = Lab::new();
    for f in families(&lab) {
        let client = at(f.a, CPORT);
        serve(
            &lab,
            &[
                frontend(at(f.vip, 80), TCP, &[at(f.b, 8080)]),
                frontend(at(f.vip, 81), TCP, &[]),
            ],
        );
        for (port, protocol) in [(81, TCP), (82, TCP), (80, UDP)] {
            let frame = from(&lab.a, client, at(f.vip, port), protocol, SYN);
            let outcome = lab.run(Program::FromPod, lab.a.ifindex, &frame);
            assert_eq!(
                (outcome.verdict, outcome.frame),
                (Verdict::Pass, frame),
                "{port}"
            );
        }
    }
    assert_eq!(lab.paths(), [("pod_to_stack", 6)].into());
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_connection_keeps_its_backend_and_a_new_one_chooses_anew() {
    let lab = Lab::new();
    for f in families(&lab) {
        for protocol in [TCP, SCTP] {
            let (client, service) = (at(f.a, CPORT), at(f.vip, 80));
            let (old, new) = (at(f.b, 8080), at(f.far, 9090));
            let begin = if protocol == TCP { SYN } else { 1 };
            let sent = |kind| sends(&lab, &lab.a, &from(&lab.a, client, service, protocol, kind)).2;
            serve(&lab, &[frontend(service, protocol, &[old])]);
            assert_eq!(sent(begin), old);
            serve(&lab, &[frontend(service, protocol, &[new])]);
            assert_eq!(sent(ACK), old, "established");
            let answer = from(&lab.b, old, client, protocol, ACK);
            assert_eq!(sends(&lab, &lab.b, &answer).1, service);
            // The Service is gone: what was begun goes on.
            serve(&lab, &[]);
            assert_eq!(sent(ACK), old);
            serve(&lab, &[frontend(service, protocol, &[new])]);
            assert_eq!(sent(begin), new, "a new one");
            assert_eq!(sent(ACK), new);
            assert_eq!(
                sends(&lab, &lab.b, &answer).1,
                old,
                "the old backend is none of it"
            );
            assert_eq!(arrives(&lab, new, client, protocol).1, service);
        }
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_udp_flow_keeps_its_backend_until_it_was_idle_or_the_backend_is_gone() {
    let lab = Lab::new();
    for f in families(&lab) {
        let (client, service) = (at(f.a, CPORT), at(f.vip, 53));
        let (old, new) = (at(f.b, 5353), at(f.far, 53));
        let sent = || sends(&lab, &lab.a, &from(&lab.a, client, service, UDP, 0)).2;
        let both = [old, new];
        serve(&lab, &[frontend(service, UDP, &both)]);
        let first = sent();
        assert_eq!(sent(), first);
        let other = if first == old { new } else { old };
        // Gone: its flow goes with it.
        let change = lab
            .datapath
            .sync_services(&[frontend(service, UDP, &[other])])
            .unwrap();
        assert!(change.unswept);
        assert_eq!(lab.datapath.sweep_flows().unwrap(), 2, "both directions");
        assert_eq!(sent(), other);
        // A further backend moves nobody.
        serve(&lab, &[frontend(service, UDP, &both)]);
        assert_eq!(sent(), other);
        change_flows(&lab, |flow| {
            flow.seen_ns = flow.seen_ns.saturating_sub(110_000_000_000)
        });
        assert_eq!(sent(), other, "not idle for long enough");
        change_flows(&lab, |flow| {
            flow.seen_ns = flow.seen_ns.saturating_sub(125_000_000_000)
        });
        assert_eq!(sent(), first, "chosen anew, as at first");
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_clients_port_that_is_taken_at_the_backend_is_exchanged_for_another() {
    let lab = Lab::new();
    for f in families(&lab) {
        for protocol in [TCP, UDP] {
            let client = at(f.a, CPORT);
            let (first, second) = (at(f.vip, 80), at(f.vip, 81));
            let near = at(f.b, 8080);
            let sent = |to| from(&lab.a, client, to, protocol, SYN);
            serve(
                &lab,
                &[first, second].map(|at| frontend(at, protocol, &[near])),
            );
            assert_eq!(sends(&lab, &lab.a, &sent(first)).2, near);
            let (_, hidden, to) = sends(&lab, &lab.a, &sent(second));
            assert_eq!(to, near);
            assert_eq!(hidden.ip(), client.ip());
            let pods = POD_FIRST_PORT..POD_FIRST_PORT + POD_PORTS;
            assert!(pods.contains(&hidden.port()), "{hidden}");
            let again = from(&lab.a, client, second, protocol, ACK);
            assert_eq!(
                sends(&lab, &lab.a, &again).1,
                hidden,
                "the same for each packet"
            );
            // Each answer gets its own Service and the client's port.
            for (to, port) in [(hidden, second), (client, first)] {
                let answer = from(&lab.b, near, to, protocol, ACK);
                let (_, src, dst) = sends(&lab, &lab.b, &answer);
                assert_eq!((src, dst), (port, client));
            }
            // An ended connection's port is taken for a minute more at the server (TIME_WAIT).
            let last = if protocol == TCP { FIN } else { 0 };
            sends(&lab, &lab.a, &from(&lab.a, client, first, protocol, last));
            sends(&lab, &lab.b, &from(&lab.b, near, client, protocol, last));
            sends(&lab, &lab.a, &from(&lab.a, client, second, protocol, last));
            assert_ne!(sends(&lab, &lab.a, &sent(second)).1, client);
            change_flows(&lab, |flow| {
                flow.seen_ns = flow.seen_ns.saturating_sub(125_000_000_000);
            });
            assert_eq!(sends(&lab, &lab.a, &sent(second)).1, client);
        }
    }
}

/// Splits an upper payload into two fragments of one packet.
fn fragments(
    to: frames::Mac,
    mac: frames::Mac,
    src: SocketAddr,
    dst: SocketAddr,
    id: u32,
    bytes: &[u8],
) -> [Vec<u8>; 2] {
    let (first, later) = bytes.split_at(64);
    let parts = [(first, 0u16, true), (later, 64, false)];
    parts.map(|(part, offset, more)| {
        if src.is_ipv4() {
            let mut frame = framed(to, mac, src, dst, UDP, part);
            frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
            let word = (offset / 8) | if more { 0x2000 } else { 0 };
            frame[20..22].copy_from_slice(&word.to_be_bytes());
            frames::fix_ipv4(&mut frame);
            frame
        } else {
            let word = offset | u16::from(more);
            let header = [&[UDP, 0][..], &word.to_be_bytes(), &id.to_be_bytes()].concat();
            framed(to, mac, src, dst, 44, &[&header, part].concat())
        }
    })
}

/// The packet that two fragments make.
fn reassembled(frames: &[Vec<u8>; 2]) -> (SocketAddr, SocketAddr) {
    let [first, later] = frames;
    assert_eq!(addresses(first), addresses(later));
    let (src, dst) = addresses(first);
    let at = if src.is_ipv4() { 34 } else { 62 };
    let bytes = [&first[at..], &later[at..]].concat();
    assert_eq!(
        support::flows::pseudo(src, dst, UDP, &bytes),
        0,
        "UDP's checksum"
    );
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    (SocketAddr::new(src, port(0)), SocketAddr::new(dst, port(2)))
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn fragments_follow_their_first_in_both_directions() {
    let lab = Lab::new();
    for f in families(&lab) {
        let (client, service) = (at(f.a, CPORT), at(f.vip, 53));
        let (near, far) = (at(f.b, 5353), at(f.far, 5353));
        for backend in [near, far] {
            serve(&lab, &[frontend(service, UDP, &[backend])]);
            let bytes = payload(client, service, UDP, 0, &[7; 200]);
            let sent = fragments(HOST_MAC, lab.a.mac, client, service, 77, &bytes);
            let run = |program, ifindex, frame: &Vec<u8>| {
                let outcome = lab.run(program, ifindex, frame);
                assert_eq!(outcome.verdict, Verdict::Redirect);
                outcome.frame
            };
            let got = sent
                .each_ref()
                .map(|frame| run(Program::FromPod, lab.a.ifindex, frame));
            assert_eq!(reassembled(&got), (client, backend));
            let bytes = payload(backend, client, UDP, 0, &[8; 200]);
            let got = if backend == near {
                let sent = fragments(HOST_MAC, lab.b.mac, backend, client, 78, &bytes);
                sent.each_ref()
                    .map(|frame| run(Program::FromPod, lab.b.ifindex, frame))
            } else {
                let sent = fragments(UPLINK_MAC, FAR_MAC, backend, client, 78, &bytes);
                sent.each_ref()
                    .map(|frame| run(Program::FromUplink, lab.uplink, frame))
            };
            assert_eq!(reassembled(&got), (service, client));
        }
        // Without its first one it can't be translated.
        let bytes = payload(client, service, UDP, 0, &[7; 200]);
        let [_, later] = fragments(HOST_MAC, lab.a.mac, client, service, 99, &bytes);
        let before = lab
            .drops(lab.a.ifindex)
            .get(&DropReason::FragmentUnknown)
            .copied()
            .unwrap_or(0);
        assert_eq!(
            lab.run(Program::FromPod, lab.a.ifindex, &later).verdict,
            Verdict::Drop
        );
        assert_eq!(
            lab.drops(lab.a.ifindex)[&DropReason::FragmentUnknown],
            before + 1
        );
        // Elsewhere nothing would have been.
        for dst in [f.b, f.far, f.host] {
            let [_, later] = fragments(HOST_MAC, lab.a.mac, client, at(dst, 53), 99, &bytes);
            assert_ne!(
                lab.run(Program::FromPod, lab.a.ifindex, &later).verdict,
                Verdict::Drop
            );
        }
    }
}

/// A node's address is a frontend by its NodePorts alone: fragments to its other ports pass.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn fragments_to_other_ports_of_a_frontends_address_are_the_hosts_stacks() {
    let lab = Lab::new();
    for f in families(&lab) {
        let (client, other) = (at(f.a, CPORT), at(f.host, 2049));
        serve(&lab, &[frontend(at(f.host, 30_053), UDP, &[at(f.b, 5353)])]);
        let bytes = payload(client, other, UDP, 0, &[7; 200]);
        let sent = fragments(HOST_MAC, lab.a.mac, client, other, 77, &bytes);
        for frame in sent {
            let outcome = lab.run(Program::FromPod, lab.a.ifindex, &frame);
            assert_eq!((outcome.verdict, outcome.frame), (Verdict::Pass, frame));
        }
    }
    assert!(lab.drops(lab.a.ifindex).is_empty());
}

/// Between a frontend and its list a program may find neither: no packet goes to a ClusterIP on its own.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_list_that_is_gone_at_every_attempt_is_a_clash() {
    use cni_ebpf_common::service::{Backend, BackendKey};
    let lab = Lab::new();
    let (client, service) = (at(lab.a.v4, CPORT), at(VIP, 80));
    serve(&lab, &[frontend(service, TCP, &[at(lab.b.v4, 8080)])]);
    let pinned = lab.datapath.pinned();
    let path = &pinned
        .iter()
        .find(|map| map.name == "backends")
        .unwrap()
        .path;
    let map = aya::maps::Map::HashMap(aya::maps::MapData::from_pin(path).unwrap());
    let mut rows = aya::maps::HashMap::<_, BackendKey, Backend>::try_from(map).unwrap();
    let keys: Vec<_> = rows.keys().map(Result::unwrap).collect();
    for key in keys {
        rows.remove(&key).unwrap();
    }
    let frame = from(&lab.a, client, service, TCP, SYN);
    assert_eq!(
        lab.run(Program::FromPod, lab.a.ifindex, &frame).verdict,
        Verdict::Drop
    );
    assert_eq!(lab.drops(lab.a.ifindex)[&DropReason::TranslationClash], 1);
}

/// The stack may still know the former connection, and would translate the answer.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_connection_that_begins_by_the_short_cut_is_answered_by_it() {
    let lab = Lab::new();
    for f in families(&lab) {
        for (protocol, begin) in [(TCP, SYN), (SCTP, 1)] {
            for peer in [f.b, f.far] {
                let (server, client) = (at(f.a, 8080), at(peer, CPORT));
                let answers = || {
                    let answer = from(&lab.a, server, client, protocol, ACK);
                    sends(&lab, &lab.a, &answer).0
                };
                let comes = |kind| {
                    let bytes = payload(client, server, protocol, kind, b"");
                    let (program, ifindex, frame) = if peer == f.b {
                        let frame = framed(HOST_MAC, lab.b.mac, client, server, protocol, &bytes);
                        (Program::FromPod, lab.b.ifindex, frame)
                    } else {
                        let frame = framed(UPLINK_MAC, FAR_MAC, client, server, protocol, &bytes);
                        (Program::FromUplink, lab.uplink, frame)
                    };
                    assert_eq!(lab.run(program, ifindex, &frame).verdict, Verdict::Redirect);
                };
                comes_by_stack(&lab, &lab.a, client, server, protocol);
                assert_eq!(answers(), Verdict::Pass);
                comes(ACK);
                assert_eq!(answers(), Verdict::Pass, "not begun anew");
                comes(begin);
                assert_eq!(answers(), Verdict::Redirect, "{protocol}");
                comes_by_stack(&lab, &lab.a, client, server, protocol);
                assert_eq!(answers(), Verdict::Pass, "by the stack again");
            }
        }
        let (server, client) = (at(f.a, 53), at(f.b, CPORT));
        comes_by_stack(&lab, &lab.a, client, server, UDP);
        let answer = from(&lab.a, server, client, UDP, 0);
        assert_eq!(sends(&lab, &lab.a, &answer).0, Verdict::Pass);
        change_flows(&lab, |flow| {
            flow.seen_ns = flow.seen_ns.saturating_sub(125_000_000_000)
        });
        assert_eq!(
            sends(&lab, &lab.a, &answer).0,
            Verdict::Redirect,
            "idle for long"
        );
    }
}

/// A translated flow whose answers the stack carried keeps its translation.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn one_that_begins_anew_by_the_short_cut_is_still_turned_back() {
    let lab = Lab::new();
    for f in families(&lab) {
        let (client, service, backend) = (at(f.a, CPORT), at(f.vip, 80), at(f.b, 8080));
        serve(&lab, &[frontend(service, TCP, &[backend])]);
        let sent = |kind| sends(&lab, &lab.a, &from(&lab.a, client, service, TCP, kind));
        let answer = |kind| sends(&lab, &lab.b, &from(&lab.b, backend, client, TCP, kind));
        sent(SYN);
        let context = Context {
            ifindex: lab.b.ifindex,
            ingress: lab.a.ifindex,
            ..Context::default()
        };
        let bytes = payload(client, backend, TCP, ACK, b"");
        let frame = framed(lab.b.mac, HOST_MAC, client, backend, TCP, &bytes);
        lab.run_as(Program::ToPod, context, &frame);
        assert_eq!(answer(ACK), (Verdict::Pass, backend, client));
        sent(SYN);
        assert_eq!(answer(SYN_ACK), (Verdict::Redirect, service, client));
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_new_endpoint_has_no_flows_of_the_former_with_its_number() {
    use cni_ebpf_common::flow::EndpointFlows;
    let lab = Lab::new();
    let pinned = lab.datapath.pinned();
    let path = &pinned
        .iter()
        .find(|map| map.name == "endpoint_flows")
        .unwrap()
        .path;
    let map = aya::maps::Map::Array(aya::maps::MapData::from_pin(path).unwrap());
    let words = aya::maps::Array::<_, EndpointFlows>::try_from(map).unwrap();
    let of = |pod: &Pod| words.get(&pod.id, 0).unwrap();
    serve(&lab, &[frontend(at(VIP, 80), TCP, &[at(lab.b.v4, 8080)])]);
    let a = at(lab.a.v4, CPORT);
    sends(&lab, &lab.a, &from(&lab.a, a, at(VIP, 80), TCP, SYN));
    comes_by_stack(&lab, &lab.a, at(lab.b.v4, CPORT), a, TCP);
    let both = EndpointFlows {
        client: 1,
        by_stack: 1,
        ..EndpointFlows::default()
    };
    assert_eq!(of(&lab.a), both);
    // As after a restart: it is the same one.
    let endpoint = lab::endpoint(&lab.a);
    lab.datapath
        .upsert_endpoint(&endpoint, lab.a.ifindex)
        .unwrap();
    assert_eq!(of(&lab.a), both);
    lab.datapath.remove_endpoint(&endpoint).unwrap();
    lab.datapath
        .upsert_endpoint(&endpoint, lab.a.ifindex)
        .unwrap();
    assert_eq!(of(&lab.a), EndpointFlows::default());
    // One whose number has the same place, while the other lives.
    sends(&lab, &lab.a, &from(&lab.a, a, at(VIP, 80), TCP, SYN));
    let mut other = lab::endpoint(&lab.b);
    lab.datapath.remove_endpoint(&other).unwrap();
    other.id = lab.a.id + cni_ebpf_common::flow::ENDPOINT_FLOWS;
    lab.datapath.upsert_endpoint(&other, lab.b.ifindex).unwrap();
    assert_eq!(of(&lab.a).client, 1);
}

/// The client's port is free again, and it uses it for the backend itself.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn an_ended_connection_turns_no_answer_of_a_direct_one() {
    let lab = Lab::new();
    for f in families(&lab) {
        for protocol in [TCP, UDP] {
            let (client, service, backend) = (at(f.a, CPORT), at(f.vip, 80), at(f.b, 8080));
            serve(&lab, &[frontend(service, protocol, &[backend])]);
            let sent = |kind| sends(&lab, &lab.a, &from(&lab.a, client, service, protocol, kind));
            let answer = |kind| {
                let frame = from(&lab.b, backend, client, protocol, kind);
                sends(&lab, &lab.b, &frame).1
            };
            sent(SYN);
            assert_eq!(answer(SYN_ACK), service);
            sent(FIN);
            assert_eq!(answer(ACK), service, "the last segments");
            if protocol == UDP {
                let long = 121_000_000_000;
                change_flows(&lab, |flow| {
                    flow.seen_ns = flow.seen_ns.saturating_sub(long)
                });
            }
            assert_eq!(answer(SYN_ACK), backend);
            assert_eq!(answer(ACK), backend);
            assert_eq!(sent(SYN).2, backend, "and by the Service again");
            assert_eq!(answer(SYN_ACK), service);
        }
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_client_with_affinity_keeps_its_backend_until_it_is_gone() {
    let lab = Lab::new();
    for f in families(&lab) {
        for protocol in [TCP, UDP] {
            let service = at(f.vip, 80);
            let all: Vec<SocketAddr> = (0..8).map(|i| at(f.b, 8080 + i)).collect();
            let with = |backends: &[SocketAddr], affinity_secs| Frontend {
                affinity_secs,
                ..frontend(service, protocol, backends)
            };
            let chosen = || -> Vec<SocketAddr> {
                let ports = CPORT..CPORT + 20;
                let frames = ports.map(|p| from(&lab.a, at(f.a, p), service, protocol, SYN));
                let mut chosen: Vec<_> =
                    frames.map(|frame| sends(&lab, &lab.a, &frame).2).collect();
                chosen.dedup();
                chosen
            };
            serve(&lab, &[with(&all, 3600)]);
            let kept = chosen();
            assert_eq!(kept.len(), 1, "{kept:?}");
            // Others come and go.
            let half: Vec<_> = all
                .iter()
                .filter(|b| b.port() % 2 == kept[0].port() % 2)
                .copied()
                .collect();
            serve(&lab, &[with(&half, 3600)]);
            assert_eq!(chosen(), kept);
            let rest: Vec<_> = all.iter().filter(|b| **b != kept[0]).copied().collect();
            serve(&lab, &[with(&rest, 3600)]);
            let next = chosen();
            assert!(next.len() == 1 && next != kept, "{next:?}");
            // Flows of UDP go on with what they have.
            if protocol == TCP {
                serve(&lab, &[with(&all, 0)]);
                assert!(chosen().len() > 1, "each connection chooses");
            }
        }
    }
}

/// Of a full map the kernel frees rows that no look-up has touched, the newest ones too. Rows of ended
/// connections are touched when later ones want their ports, until none is left but a new connection's.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_full_map_of_flows_forgets_none_that_has_just_begun() {
    let lab = Lab::new();
    let backend = at(lab.b.v4, 8080);
    let services: Vec<_> = (0..40).map(|n| at(VIP, 80 + n)).collect();
    let frontends: Vec<_> = services
        .iter()
        .map(|place| frontend(*place, TCP, &[backend]))
        .collect();
    serve(&lab, &frontends);
    // The ports that Linux gives to clients.
    let ports = (32_768..=60_999).cycle();
    for (number, port) in (0..3 * MAX_FLOWS).zip(ports) {
        let client = at(lab.a.v4, port);
        let service = services[number as usize / 4_000 % services.len()];
        let sent = |kind| {
            let frame = from(&lab.a, client, service, TCP, kind);
            sends(&lab, &lab.a, &frame).1
        };
        let answer = from(&lab.b, backend, sent(SYN), TCP, SYN_ACK);
        let (_, src, dst) = sends(&lab, &lab.b, &answer);
        assert_eq!((src, dst), (service, client), "connection {number}");
        sent(RST);
    }
}
