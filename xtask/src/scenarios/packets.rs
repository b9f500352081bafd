//! What packets must survive, and what must not get out.

use super::Scene;
use crate::lab::{
    Underlay,
    probe::{Proto, Server, arrivals, ping, transfer, udp_echo},
};
use std::net::IpAddr;

#[test]
#[ignore = "needs root and the built binaries"]
fn transfers_of_every_size_arrive_intact_on_both_paths() {
    let scene = Scene::new(2, Underlay::Bridge);
    let pods = [scene.pod(0, "a"), scene.pod(0, "b"), scene.pod(1, "c")];
    let _servers: Vec<_> = pods
        .iter()
        .map(|pod| Server::start(&pod.ns).unwrap())
        .collect();
    for to in &pods[1..] {
        for v6 in [false, true] {
            for size in [0, 1, 1_447, 65_536, 10_000_000, 1 << 30] {
                let target = to.addr(v6);
                let done = pods[0].ns.run(|| transfer(target, size)).unwrap();
                assert_eq!(done.bytes, size, "to {target}");
            }
        }
    }
}

#[test]
#[ignore = "needs root and the built binaries"]
fn path_mtu_discovery_and_fragments_work_through_a_narrow_path() {
    let scene = Scene::new(2, Underlay::Routers { mtu: 1300 });
    let (a, b) = (scene.pod(0, "a"), scene.pod(1, "b"));
    let _server = Server::start(&b.ns).unwrap();
    for v6 in [false, true] {
        let target = b.addr(v6);
        a.ns.run(|| transfer(target, 1_000_000)).unwrap();
        // The first datagram finds out the path's MTU and may be lost with the ICMP error.
        let first = a.ns.run(|| udp_echo(target, 8_000));
        if first.is_err() {
            a.ns.run(|| udp_echo(target, 8_000)).unwrap();
        }
        a.ns.run(|| ping(target, 4_000)).unwrap();
    }
}

#[test]
#[ignore = "needs root and the built binaries"]
fn a_forged_source_gets_nothing_out_and_the_counter_names_it() {
    let scene = Scene::new(2, Underlay::Bridge);
    let (a, b) = (scene.pod(0, "a"), scene.pod(1, "b"));
    let _server = Server::start(&b.ns).unwrap();
    for v6 in [false, true] {
        let target = b.addr(v6);
        a.ns.run(|| Proto::Udp.check(target)).unwrap();
    }
    // Another address on the pod's own interface.
    a.ns.ip(
        "address add 100.11.1.99/32 dev eth0\naddress add fd00:100:11:1::99/128 dev eth0 nodad",
    )
    .unwrap();
    for v6 in [false, true] {
        let forged: IpAddr = if v6 {
            "fd00:100:11:1::99"
        } else {
            "100.11.1.99"
        }
        .parse()
        .unwrap();
        let before = scene.drops(0, "source_address");
        // True ones first and last: the way is open, and what came in between has had its time.
        let own = a.addr(v6);
        let sources = [own, forged, forged, forged, forged, forged, own];
        let arrived = arrivals((&a.ns, &b.ns), b.addr(v6), &sources).unwrap();
        assert_eq!(arrived, [own, own]);
        assert_eq!(scene.drops(0, "source_address") - before, 5, "{forged}");
    }
    // Another MAC; the change takes the permanent neighbour away.
    let gateway = a.result["interfaces"][0]["mac"].as_str().unwrap();
    a.ns.ip(&format!(
        "link set dev eth0 address 02:00:00:00:00:09\n\
         route replace 169.254.1.1/32 dev eth0 scope link\n\
         neigh replace 169.254.1.1 lladdr {gateway} dev eth0 nud permanent\n\
         route replace default via 169.254.1.1 dev eth0"
    ))
    .unwrap();
    let (before, target) = (scene.drops(0, "source_mac"), b.addr(false));
    a.ns.run(|| {
        let socket = std::net::UdpSocket::bind((IpAddr::from(a.v4), 0))?;
        socket.send_to(b"forged", (target, 7))?;
        Ok(())
    })
    .unwrap();
    assert!(scene.drops(0, "source_mac") > before);
    let rows = scene.ask(0, &["drops"]);
    let row = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["reason"] == "source_mac")
        .unwrap();
    assert_eq!(row["endpoint"], "default/a", "{row}");
}
