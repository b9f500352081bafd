//! Direct return: what a client outside sends to a load balancer's address goes on to the backend's node as
//! it is, which answers the client itself. Ring 2 for single packets, ring 3 for sockets.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::{
    datapath::{Datapath, ServedOutside, XdpMode},
    service::Frontend,
};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};
use support::{
    Netns,
    cluster::Cluster,
    flows::{ACK, RST, SYN, at, ends, framed, frontend, payload, pseudo},
    frames::{self, TCP, UDP},
    lab::{self, FAR_MAC, Lab, Program, UPLINK_MAC, Verdict},
};

/// Much longer than any answer takes: reached only where none comes.
const PATIENCE: Duration = Duration::from_secs(5);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 10);

fn by_family(v4: bool, of_v4: impl Into<IpAddr>, of_v6: impl Into<IpAddr>) -> IpAddr {
    if v4 { of_v4.into() } else { of_v6.into() }
}

fn direct(datapath: &Datapath, node: u8) {
    let addresses = [format!("10.0.0.{node}"), format!("fd10::{node}")];
    let served = ServedOutside {
        take: true,
        direct: true,
        addresses: addresses.map(|ip| ip.parse().unwrap()).into(),
        ports: ServedOutside::PORTS,
    };
    datapath.serve_outside(&served).unwrap();
}

fn balanced(place: SocketAddr, protocol: u8, backends: &[SocketAddr]) -> Frontend {
    Frontend {
        same_everywhere: true,
        ..frontend(place, protocol, backends)
    }
}

/// A packet from the uplink: what becomes of it.
fn arrives(
    lab: &Lab,
    src: SocketAddr,
    dst: SocketAddr,
    kind: u8,
) -> (Verdict, SocketAddr, SocketAddr) {
    let bytes = payload(src, dst, TCP, kind, b"hello");
    let frame = framed(UPLINK_MAC, FAR_MAC, src, dst, TCP, &bytes);
    let outcome = lab.run(Program::FromUplink, lab.uplink, &frame);
    let (src, dst) = ends(&outcome.frame);
    (outcome.verdict, src, dst)
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn packets_for_a_backend_elsewhere_go_on_as_they_are_and_keep_their_way() {
    let lab = Lab::new();
    direct(&lab.datapath, 1);
    for v4 in [true, false] {
        let client = at(by_family(v4, lab::WORLD, lab::WORLD_V6), 40_000);
        let (far, local) = (
            at(by_family(v4, lab::FAR, lab::FAR_V6), 8080),
            at(by_family(v4, lab.b.v4, lab.b.v6), 8080),
        );
        let vip = at(by_family(v4, VIP, VIP_V6), 80);
        let serve = |backend| {
            let change = lab
                .datapath
                .sync_services(&[balanced(vip, TCP, &[backend])]);
            change.unwrap();
        };
        serve(far);
        let as_it_is = (Verdict::Redirect, client, vip);
        assert_eq!(arrives(&lab, client, vip, SYN), as_it_is);
        assert_eq!(arrives(&lab, client, vip, ACK), as_it_is);
        // A connection keeps its backend, a new one from the same port chooses.
        serve(local);
        assert_eq!(arrives(&lab, client, vip, ACK), as_it_is);
        let translated = (Verdict::Redirect, client, local);
        assert_eq!(arrives(&lab, client, vip, SYN), translated);
        // Back to where this began.
        arrives(&lab, client, vip, RST);
        serve(far);
        assert_eq!(arrives(&lab, client, vip, SYN), as_it_is);
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn an_error_about_an_answer_goes_on_to_the_node_that_sent_it() {
    let lab = Lab::new();
    direct(&lab.datapath, 1);
    for v4 in [true, false] {
        let client = at(by_family(v4, lab::WORLD, lab::WORLD_V6), 40_000);
        let vip = at(by_family(v4, VIP, VIP_V6), 80);
        let far = at(by_family(v4, lab::FAR, lab::FAR_V6), 8080);
        lab.datapath
            .sync_services(&[balanced(vip, TCP, &[far])])
            .unwrap();
        arrives(&lab, client, vip, SYN);
        // "Too big", from a router on the way to the client.
        let answer = payload(vip, client, TCP, ACK, b"much");
        let quoted = frames::ip(vip.ip(), client.ip(), TCP, &answer);
        let router = by_family(
            v4,
            Ipv4Addr::new(198, 51, 100, 254),
            "2001:db8::fe".parse::<Ipv6Addr>().unwrap(),
        );
        let (kind, protocol, number) = if v4 {
            ([3, 4], 1, frames::IPV4)
        } else {
            ([2, 0], 58, frames::IPV6)
        };
        let mut bytes = [&kind[..], &[0, 0, 0, 0, 5, 0], &quoted].concat();
        let sum = if v4 {
            frames::checksum(&bytes)
        } else {
            pseudo(router, vip.ip(), protocol, &bytes)
        };
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        let packet = frames::ip(router, vip.ip(), protocol, &bytes);
        let frame = frames::ethernet(UPLINK_MAC, FAR_MAC, number, &packet);
        let outcome = lab.run(Program::FromUplink, lab.uplink, &frame);
        assert_eq!(outcome.verdict, Verdict::Redirect);
        let after_ip = if v4 { 34 } else { 54 };
        assert_eq!(outcome.frame[after_ip..], frame[after_ip..], "untouched");
    }
}

/// A client behind the first node, which is the address's; the backend is the second node's pod.
fn client_behind_the_first_node(cluster: &Cluster) -> Netns {
    cluster.enable_stack();
    let client = Netns::new("fl-client-");
    let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
    first.netns.ip(&format!(
        "link add dev up1 type veth peer name eth0 netns {}",
        client.path().display()
    ));
    for (netns, link, number) in [(&first.netns, "up1", 1), (&client, "eth0", 2)] {
        netns.ip(&format!("link set dev {link} up"));
        netns.ip(&format!("addr add 198.51.100.{number}/24 dev {link}"));
        netns.ip(&format!(
            "addr add 2001:db8:9::{number}/64 dev {link} nodad"
        ));
    }
    client.ip("route add default via 198.51.100.1");
    client.ip("route add default via 2001:db8:9::1");
    second.netns.ip("route add 198.51.100.0/24 via 10.0.0.1");
    second.netns.ip("route add 2001:db8:9::/64 via fd10::1");
    let index = first.netns.ifindex("up1");
    first.netns.within(|| {
        first
            .datapath
            .attach_uplink("up1", index, XdpMode::Off)
            .unwrap();
    });
    for (number, node) in (1..).zip(&cluster.nodes) {
        direct(&node.datapath, number);
    }
    client
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_backend_elsewhere_hears_the_client_and_answers_it_by_its_own_node() {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let client = client_behind_the_first_node(&cluster);
    let server = &cluster.pods[2];
    for v4 in [true, false] {
        let own: IpAddr = if v4 { "198.51.100.2" } else { "2001:db8:9::2" }
            .parse()
            .unwrap();
        let place = by_family(v4, server.pod.v4, server.pod.v6);
        let vip = at(by_family(v4, VIP, VIP_V6), 80);
        let listener = server
            .netns
            .within(|| TcpListener::bind((place, 0)).unwrap());
        let answerer = server.netns.within(|| UdpSocket::bind((place, 0)).unwrap());
        let frontends = [
            balanced(vip, TCP, &[listener.local_addr().unwrap()]),
            balanced(vip, UDP, &[answerer.local_addr().unwrap()]),
        ];
        for node in &cluster.nodes {
            node.datapath.sync_services(&frontends).unwrap();
        }

        let mut asker = client
            .within(|| TcpStream::connect_timeout(&vip, PATIENCE))
            .unwrap_or_else(|e| panic!("TCP to {vip}: {e}"));
        let (mut answering, by_tcp) = listener.accept().unwrap();
        assert_eq!(by_tcp.ip(), own);
        for stream in [&asker, &answering] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let much: Vec<u8> = (0..200_000).map(|i| (i % 251) as u8).collect();
        let mut got = vec![0; much.len()];
        for (from, to) in [(&mut asker, &mut answering)] {
            for _both_ways in 0..2 {
                std::thread::scope(|scope| {
                    scope.spawn(|| from.write_all(&much).unwrap());
                    to.read_exact(&mut got).unwrap();
                });
                assert_eq!(got, much);
                std::mem::swap(from, to);
            }
        }

        let asker = client.within(|| UdpSocket::bind((own, 0)).unwrap());
        for socket in [&asker, &answerer] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        // Connected: an answer from any other address is not taken.
        asker.connect(vip).unwrap();
        let mut buffer = [0; 4000];
        // The later one in fragments.
        for question in [&b"question"[..], &[7; 3000]] {
            asker.send(question).unwrap();
            let (len, from) = answerer
                .recv_from(&mut buffer)
                .unwrap_or_else(|e| panic!("UDP to {vip}: {e}"));
            assert_eq!((&buffer[..len], from.ip()), (question, own));
            answerer.send_to(question, from).unwrap();
            let len = asker
                .recv(&mut buffer)
                .unwrap_or_else(|e| panic!("UDP back from {vip}: {e}"));
            assert_eq!(&buffer[..len], question);
        }
    }
    // The first node has nothing to turn back: it knows each flow by one row.
    let flows = cluster.nodes[0].datapath.flow_counts().unwrap();
    assert_eq!(flows.values().sum::<u64>(), 4, "{flows:?}");
}
