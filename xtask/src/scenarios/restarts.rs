//! Traffic doesn't notice the agent: stop, start, crash and replacement lose nothing.

use super::Scene;
use crate::lab::{
    Agent, Node, Underlay,
    probe::{Endless, Server, Steady, SteadyKind},
};
use std::{fs, time::Instant};

/// Each ends the agents of both nodes and starts them anew.
const ROUNDS: u32 = 6;
/// Packets that each pinger sends in a second.
const PER_SECOND: u32 = 1000;

#[test]
#[ignore = "needs root and the built binaries"]
fn stop_start_crash_and_replacement_lose_no_packet() {
    let mut scene = Scene::new(2, Underlay::Bridge);
    let (a, b) = (scene.pod(0, "a"), scene.pod(1, "b"));
    scene.lab.nodes.iter().for_each(stop_forwarding);
    let _server = Server::start(&b.ns).unwrap();
    let pingers = [(SteadyKind::Icmp, false), (SteadyKind::Udp, true)]
        .map(|(kind, v6)| Steady::start(&a.ns, b.addr(v6), kind, PER_SECOND).unwrap());
    let transfers = [false, true].map(|v6| Endless::start(&a.ns, b.addr(v6)).unwrap());
    let go_on = || {
        transfers
            .iter()
            .for_each(|one| one.wait_progress().unwrap())
    };

    go_on();
    let start = Instant::now();
    for round in 0..ROUNDS {
        for index in 0..2 {
            let agent = scene.take_agent(index);
            match round % 3 {
                1 => agent.kill().unwrap(),
                _ => agent.stop().unwrap(),
            }
            scene.agents[index] = Some(match round % 3 {
                2 => replaced(&scene, index),
                _ => scene.start_agent(index),
            });
            stop_forwarding(scene.node(index));
            go_on();
        }
    }
    let restarts = start.elapsed();

    // All of them were running from before the first restart until now.
    for transfer in transfers {
        assert!(transfer.finish().unwrap().bytes > 0);
    }
    // The pingers catch up when they were late; half of what is due allows for the last turn.
    let due = restarts.as_secs_f64() * f64::from(PER_SECOND);
    for pinger in pingers {
        let report = pinger.finish().unwrap();
        assert!(
            report.sent as f64 > due / 2.0,
            "{} packets sent in {restarts:?}",
            report.sent
        );
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

/// Nothing but the programs may carry packets; an agent switches this on when it starts.
fn stop_forwarding(node: &Node) {
    let off = [
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv6/conf/all/forwarding", "0"),
    ];
    node.ns.sysctl(&off).unwrap();
}

/// Starts a copy of the binary under another path: an upgrade.
fn replaced(scene: &Scene, index: usize) -> Agent {
    let copy = scene.lab.dir().join(format!("fairlead-{index}"));
    let new = copy.with_extension("new");
    // A running binary is not written to.
    fs::copy(scene.fairlead(), &new).unwrap();
    fs::rename(&new, &copy).unwrap();
    Agent::start(&scene.lab, scene.node(index), &copy, &[]).unwrap()
}
