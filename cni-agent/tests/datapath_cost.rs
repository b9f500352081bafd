//! Ring 2: what the programs cost: the verifier's work at load and nanoseconds for each packet.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use aya::programs::loaded_programs;
use cni_agent::datapath::{Datapath, DatapathConfig, LogLevel, TraceScope, XdpMode};
use std::{collections::BTreeMap, net::IpAddr};
use support::{
    BpfDir, Netns, flows,
    frames::{self, IPV4, IPV6, TCP, UDP},
    lab::{self, Context, FAR_MAC, HOST_MAC, Lab, Program, UPLINK_MAC, Verdict},
};

/// Instructions that the verifier may walk through, a third of a second; the kernel's own limit is a
/// million.
const VERIFIER_BUDGET: u32 = 350_000;

/// What each program costs at a level: instructions walked and bytes kept.
fn load(level: LogLevel) -> BTreeMap<String, (u32, u32)> {
    attached(level, |_| {})
}

/// The same of what is attached while somebody traces.
fn load_traced() -> BTreeMap<String, (u32, u32)> {
    attached(LogLevel::Off, |datapath| {
        let scope = TraceScope {
            first: vec![IpAddr::from(lab::FAR)],
            second: None,
        };
        let reader = datapath.start_trace(&scope);
        drop(reader.unwrap_or_else(|e| panic!("{e}")));
    })
}

/// Loads and attaches.
fn attached(level: LogLevel, then: impl FnOnce(&Datapath)) -> BTreeMap<String, (u32, u32)> {
    let (bpf, node) = (BpfDir::new(), Netns::new("fl-cost-"));
    node.ip("link add dev fl0 type veth peer name fl1");
    let config = DatapathConfig {
        bpf_dir: bpf.dir(),
        log_level: level,
    };
    let datapath = Datapath::load(&config).unwrap_or_else(|e| panic!("{level:?}: {e}"));
    let (pod, uplink) = (node.ifindex("fl0"), node.ifindex("fl1"));
    node.within(|| {
        datapath.attach_endpoint("fl0", pod).unwrap();
        datapath
            .attach_uplink("fl1", uplink, XdpMode::Generic)
            .unwrap();
    });
    then(&datapath);
    let ids: Vec<u32> = datapath
        .attachments()
        .unwrap()
        .iter()
        .map(|a| a.program_id)
        .collect();
    let ours = loaded_programs()
        .flatten()
        .filter(|info| ids.contains(&info.id()));
    ours.map(|info| {
        let walked = info.verified_instruction_count().unwrap();
        (
            info.name_as_str().unwrap().to_owned(),
            (walked, info.size_translated().unwrap()),
        )
    })
    .collect()
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn every_log_level_passes_the_verifier_and_off_costs_nothing() {
    let off = load(LogLevel::Off);
    println!("program: (instructions verified, bytes translated) {off:?}");
    assert_eq!(off.len(), 4);
    for level in [
        LogLevel::Error,
        LogLevel::Warn,
        LogLevel::Info,
        LogLevel::Debug,
        LogLevel::Trace,
    ] {
        for (program, (walked, size)) in load(level) {
            assert!(walked < VERIFIER_BUDGET, "{program} at {level:?}: {walked}");
            let (_, least) = off[&program];
            if level < LogLevel::Debug {
                assert_eq!(size, least, "{program} logs nothing at {level:?}");
            } else {
                assert!(size > least, "{program} at {level:?}");
            }
        }
    }
}

/// While somebody traces, other programs are attached, which do more.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn what_traces_passes_the_verifier_and_is_not_what_is_attached_otherwise() {
    let (usual, traced) = (load(LogLevel::Off), load_traced());
    println!("traced: (instructions verified, bytes translated) {traced:?}");
    for program in ["from_pod", "to_pod", "from_uplink"] {
        assert!(traced[program].1 > usual[program].1, "{program}");
    }
    assert_eq!(traced["xdp_uplink"], usual["xdp_uplink"]);
}

/// Prints; nothing is asserted of times. A run may change the packet for the next one, so each
/// case is made to stay the same case: the TTL lasts for all runs of a call.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn time_for_a_packet() {
    let lab = Lab::new();
    // Its MAC is its gateway's, so that a rewritten frame is still one of its own.
    let mut endpoint = lab::endpoint(&lab.a);
    endpoint.mac = cni_agent::model::Mac(HOST_MAC);
    lab.datapath
        .upsert_endpoint(&endpoint, lab.a.ifindex)
        .unwrap();
    let frame = |src: IpAddr, dst: IpAddr, (to, from): (frames::Mac, frames::Mac), tcp: bool| {
        let kind = if src.is_ipv4() { IPV4 } else { IPV6 };
        let (protocol, data) = if tcp {
            (TCP, frames::tcp(b"x"))
        } else {
            (UDP, frames::udp(9, 9, b"x"))
        };
        let mut frame = frames::ethernet(to, from, kind, &frames::ip(src, dst, protocol, &data));
        frames::set_ttl(&mut frame, 255);
        frame
    };
    let (pod, net) = ((HOST_MAC, HOST_MAC), (UPLINK_MAC, FAR_MAC));
    let (a4, a6) = (IpAddr::from(lab.a.v4), IpAddr::from(lab.a.v6));
    let (b4, b6) = (IpAddr::from(lab.b.v4), IpAddr::from(lab.b.v6));
    let (far4, far6) = (IpAddr::from(lab::FAR), IpAddr::from(lab::FAR_V6));
    let (from_pod, from_net) = (Program::FromPod, Program::FromUplink);
    let cases = [
        (
            "pod to pod, IPv4 TCP",
            from_pod,
            lab.a.ifindex,
            frame(a4, b4, pod, true),
        ),
        (
            "pod to pod, IPv4 UDP",
            from_pod,
            lab.a.ifindex,
            frame(a4, b4, pod, false),
        ),
        (
            "pod to pod, IPv6 TCP",
            from_pod,
            lab.a.ifindex,
            frame(a6, b6, pod, true),
        ),
        (
            "pod to node, IPv4 TCP",
            from_pod,
            lab.a.ifindex,
            frame(a4, far4, pod, true),
        ),
        (
            "pod to node, IPv6 TCP",
            from_pod,
            lab.a.ifindex,
            frame(a6, far6, pod, true),
        ),
        (
            "pod to world, IPv4 TCP",
            from_pod,
            lab.a.ifindex,
            frame(a4, lab::WORLD.into(), pod, true),
        ),
        (
            "pod forging, IPv4",
            from_pod,
            lab.a.ifindex,
            frame(b4, far4, pod, true),
        ),
        (
            "uplink to pod, IPv4 TCP",
            from_net,
            lab.uplink,
            frame(far4, a4, net, true),
        ),
        (
            "uplink to pod, IPv6 TCP",
            from_net,
            lab.uplink,
            frame(far6, a6, net, true),
        ),
        (
            "uplink to host",
            from_net,
            lab.uplink,
            frame(far4, lab::WORLD.into(), net, true),
        ),
        (
            "uplink to pod, of the world",
            from_net,
            lab.uplink,
            frame(lab::WORLD.into(), a4, net, true),
        ),
        (
            "XDP, legitimate",
            Program::XdpUplink,
            1,
            frame(far4, a4, net, true),
        ),
        (
            "XDP, forged",
            Program::XdpUplink,
            1,
            frame(b4, a4, net, true),
        ),
        (
            "host to pod",
            Program::ToPod,
            lab.a.ifindex,
            frame(lab::WORLD.into(), a4, pod, true),
        ),
        (
            "forwarded by the host to pod",
            Program::ToPod,
            lab.a.ifindex,
            frame(lab::WORLD.into(), a4, pod, true),
        ),
    ];
    for (name, program, ifindex, frame) in cases {
        let context = Context {
            ifindex,
            ingress: if name.contains("forwarded") {
                lab.uplink
            } else {
                0
            },
            repeat: 250,
            ..Context::default()
        };
        let mut times: Vec<u128> = (0..41)
            .map(|_| lab.run_as(program, context, &frame).duration.as_nanos())
            .collect();
        times.sort_unstable();
        let verdict = lab.run(program, ifindex, &frame).verdict;
        println!(
            "{name:28} {:4} ns (least {}) {verdict:?}",
            times[20], times[0]
        );
        let expected = match name {
            name if name.contains("forg") => Verdict::Drop,
            name if name.contains("world") || name.contains("host") || name.contains("XDP") => {
                Verdict::Pass
            }
            _ => Verdict::Redirect,
        };
        assert_eq!(verdict, expected, "{name}");
    }
}

/// A run translates its packet once, so that repeats would time another packet: here each run is one
/// call, whose own cost is known by a packet that goes another way. Prints; nothing is asserted.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn time_for_a_packet_of_a_service() {
    let lab = Lab::new();
    for (v4, a, b, vip) in [
        (
            true,
            IpAddr::from(lab.a.v4),
            IpAddr::from(lab.b.v4),
            "10.96.0.10",
        ),
        (false, lab.a.v6.into(), lab.b.v6.into(), "fd96::10"),
    ] {
        let service = flows::at(vip.parse::<IpAddr>().unwrap(), 80);
        let (client, backend) = (flows::at(a, 40_000), flows::at(b, 8080));
        let frontend = flows::frontend(service, TCP, &[backend]);
        lab.datapath.sync_services(&[frontend]).unwrap();
        let cases = [
            ("begins", lab.a, client, service, flows::SYN),
            ("follows", lab.a, client, service, flows::ACK),
            ("answer", lab.b, backend, client, flows::ACK),
            ("no Service", lab.a, client, backend, flows::ACK),
        ];
        for (name, pod, src, dst, kind) in cases {
            let frame = flows::from(&pod, src, dst, TCP, kind);
            let run = |_| {
                lab.run(Program::FromPod, pod.ifindex, &frame)
                    .duration
                    .as_nanos()
            };
            let mut times: Vec<u128> = (0..1001).map(run).collect();
            times.sort_unstable();
            println!("{name:12} v4 {v4}: {} ns (least {})", times[500], times[0]);
        }
    }
}
