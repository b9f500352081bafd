//! Traffic doesn't notice the agent: stop, start, crash and replacement lose nothing.

use super::Scene;
use crate::lab::{
    Agent, Underlay,
    probe::{Server, Steady, SteadyKind, transfer},
};
use std::{fs, thread};

/// Bytes of the transfer that runs beside the restarts.
const LONG: u64 = 4 << 30;

#[test]
#[ignore = "needs root and the built binaries"]
fn stop_start_crash_and_replacement_lose_no_packet() {
    let mut scene = Scene::new(2, Underlay::Bridge);
    let (a, b) = (scene.pod(0, "a"), scene.pod(1, "b"));
    // Nothing but the programs may carry packets.
    for node in &scene.lab.nodes {
        node.ns
            .sysctl(&[
                ("net/ipv4/ip_forward", "0"),
                ("net/ipv6/conf/all/forwarding", "0"),
            ])
            .unwrap();
    }
    let _server = Server::start(&b.ns).unwrap();
    let pingers = [(SteadyKind::Icmp, false), (SteadyKind::Udp, true)]
        .map(|(kind, v6)| Steady::start(&a.ns, b.addr(v6), kind, 1000).unwrap());
    let target = b.addr(false);
    thread::scope(|scope| {
        let long = scope.spawn(|| a.ns.run(|| transfer(target, LONG)));
        for round in 0..3 {
            for index in 0..2 {
                let agent = scene.take_agent(index);
                if round == 1 {
                    agent.kill().unwrap()
                } else {
                    agent.stop().unwrap()
                }
                scene.agents[index] = Some(if round == 2 {
                    replaced(&scene, index)
                } else {
                    scene.start_agent(index)
                });
                // The agent would switch forwarding on again; the programs must do without.
                let off = [
                    ("net/ipv4/ip_forward", "0"),
                    ("net/ipv6/conf/all/forwarding", "0"),
                ];
                scene.node(index).ns.sysctl(&off).unwrap();
            }
        }
        assert_eq!(long.join().unwrap().unwrap().bytes, LONG);
    });
    for pinger in pingers {
        let report = pinger.finish().unwrap();
        assert!(report.sent > 1000, "{} sent", report.sent);
        assert_eq!(
            (report.lost, report.duplicates),
            (0, 0),
            "of {}",
            report.sent
        );
    }
    let adoption = &scene.ask(0, &["status"])["adoption"];
    assert_eq!(adoption["adopted"], 1, "{adoption}");
}

/// Starts a copy of the binary under another path: an upgrade.
fn replaced(scene: &Scene, index: usize) -> Agent {
    let copy = scene.lab.dir().join(format!("fairlead-{index}"));
    fs::copy(scene.fairlead(), &copy).unwrap();
    Agent::start(&scene.lab, scene.node(index), &copy, &[]).unwrap()
}
