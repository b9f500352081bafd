//! What a sender is told when its packet cannot arrive.

use super::Scene;
use crate::lab::{Pod, Underlay, probe::ANSWER_LIMIT};
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
};

/// A port at which nobody listens.
const CLOSED: u16 = 9;

#[test]
#[ignore = "needs root and the built binaries"]
fn a_packet_whose_ttl_expires_is_answered_by_the_node_where_it_did() {
    let scene = Scene::new(2, Underlay::Bridge);
    let (a, near, far) = (scene.pod(0, "a"), scene.pod(0, "b"), scene.pod(1, "c"));
    for v6 in [false, true] {
        let nodes = [0, 1].map(|index| scene.node(index).addr(v6));
        // Nodes on the way: one to the neighbour, two to the other node's pod.
        for (target, way) in [(near.addr(v6), &nodes[..1]), (far.addr(v6), &nodes)] {
            for (hop, node) in way.iter().enumerate() {
                let text = ping(&a, target, hop + 1).unwrap_err();
                let told = if v6 {
                    "Hop limit"
                } else {
                    "Time to live exceeded"
                };
                let from = format!("From {node} ");
                assert!(
                    text.contains(told) && text.contains(&from),
                    "to {target} with TTL {}, expected {told:?} {from:?}: {text}",
                    hop + 1
                );
            }
            ping(&a, target, way.len() + 1).unwrap();
        }
    }
}

/// One echo request with a TTL; what `ping` printed when no reply came.
fn ping(from: &Pod, to: IpAddr, ttl: usize) -> Result<(), String> {
    let mut ping = Command::new("ping");
    ping.args(["-n", "-c", "1", "-W", "2", "-t", &ttl.to_string()])
        .arg(to.to_string())
        .env("LC_ALL", "C");
    let output = from.ns.output(&mut ping).unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stdout).into_owned()),
    }
}

#[test]
#[ignore = "needs root and the built binaries"]
fn a_closed_port_is_told_by_the_pod_s_own_kernel() {
    let scene = Scene::new(2, Underlay::Bridge);
    let (a, near, far) = (scene.pod(0, "a"), scene.pod(0, "b"), scene.pod(1, "c"));
    for to in [&near, &far] {
        for v6 in [false, true] {
            let closed = SocketAddr::new(to.addr(v6), CLOSED);
            // A reset.
            assert_eq!(
                connect(&a, closed),
                ErrorKind::ConnectionRefused,
                "{closed}"
            );
            // "Port unreachable", an ICMP error.
            let error = a.ns.run(|| {
                let any = if v6 { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(closed)?;
                socket.set_read_timeout(Some(ANSWER_LIMIT))?;
                socket.send(b"is anybody there?")?;
                Ok(socket.recv(&mut [0; 64]).unwrap_err().kind())
            });
            assert_eq!(error.unwrap(), ErrorKind::ConnectionRefused, "{closed}");
        }
    }
}

#[test]
#[ignore = "needs root and the built binaries"]
fn an_address_that_no_pod_has_is_told_unreachable_and_counted() {
    let scene = Scene::new(2, Underlay::Bridge);
    let a = scene.pod(0, "a");
    let before = scene.drops(0, "no_endpoint");
    for missing in [
        "100.11.1.250",
        "fd00:100:11:1::dead",
        "100.11.2.250",
        "fd00:100:11:2::dead",
    ] {
        let kind = connect(&a, SocketAddr::new(missing.parse().unwrap(), CLOSED));
        let told = matches!(
            kind,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
        );
        assert!(told, "{missing}: {kind}");
    }
    // Those of its own podCIDR; the other node leaves the answer to its kernel.
    assert!(scene.drops(0, "no_endpoint") >= before + 2);
}

/// How connecting from a pod fails.
fn connect(from: &Pod, to: SocketAddr) -> ErrorKind {
    let connected = from.ns.run(|| Ok(TcpStream::connect(to)));
    connected.unwrap().unwrap_err().kind()
}
