//! Ring 3: pods and the world outside of the cluster, with the masquerade and a firewall that drops
//! what the kernel's connection tracking calls invalid, as kube-proxy's does: the kernel has to see
//! both directions of every such connection.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::{datapath::XdpMode, netlink::masquerade};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};
use support::{Netns, cluster::Cluster, lab};

/// Much longer than any answer takes: reached only where none comes.
const PATIENCE: Duration = Duration::from_secs(5);

/// The second node's machine plays the world as well, on addresses of no podCIDR.
fn cluster_with_a_world(xdp: XdpMode) -> Cluster {
    let cluster = Cluster::new(xdp, 1500);
    cluster.enable_stack();
    let [node, far] = [&cluster.nodes[0].netns, &cluster.nodes[1].netns];
    far.ip(&format!("addr add {}/32 dev lo", lab::WORLD));
    far.ip(&format!("addr add {}/128 dev lo nodad", lab::WORLD_V6));
    node.ip("route add default via 10.0.0.2");
    node.ip("route add default via fd10::2");
    node.run("nft add table inet firewall");
    node.run("nft add chain inet firewall forward { type filter hook forward priority filter ; }");
    node.run("nft add rule inet firewall forward ct state invalid drop");
    let own = ["100.11.1.0/24", "fd00:b:1::/64"].map(|cidr| cidr.parse().unwrap());
    let inside = ["100.11.2.0/24", "fd00:b:2::/64"].map(|cidr| cidr.parse().unwrap());
    node.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(masquerade::sync(&own, &inside))
            .unwrap_or_else(|e| panic!("{e}"));
    });
    cluster
}

/// A question and an answer by TCP and by UDP; the client's address as the server sees it.
fn talk((client, from): (&Netns, IpAddr), (server, to): (&Netns, IpAddr)) -> [IpAddr; 2] {
    let listener = server.within(|| TcpListener::bind((to, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let mut asker = client
        .within(|| TcpStream::connect_timeout(&address, PATIENCE))
        .unwrap_or_else(|e| panic!("TCP from {from} to {to}: {e}"));
    let (mut answerer, by_tcp) = listener.accept().unwrap();
    for stream in [&asker, &answerer] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut buffer = [0; 8];
    asker.write_all(b"question").unwrap();
    answerer.read_exact(&mut buffer).unwrap();
    answerer.write_all(b"answered").unwrap();
    asker.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"answered");

    let open = |netns: &Netns, ip: IpAddr| {
        let socket = netns.within(|| UdpSocket::bind(SocketAddr::new(ip, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let (asker, answerer) = (open(client, from), open(server, to));
    // Connected: an answer from any other address is not taken.
    asker.connect(answerer.local_addr().unwrap()).unwrap();
    asker.send(b"question").unwrap();
    let (_, by_udp) = answerer
        .recv_from(&mut buffer)
        .unwrap_or_else(|e| panic!("UDP from {from} to {to}: {e}"));
    answerer.send_to(b"answered", by_udp).unwrap();
    asker
        .recv(&mut buffer)
        .unwrap_or_else(|e| panic!("UDP from {to} back to {from}: {e}"));
    assert_eq!(&buffer, b"answered");
    [by_tcp.ip(), by_udp.ip()]
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_client_outside_talks_to_a_pod_past_a_firewall() {
    for xdp in [XdpMode::Off, XdpMode::Generic, XdpMode::Native] {
        let cluster = cluster_with_a_world(xdp);
        let (pod, world) = (&cluster.pods[0], &cluster.nodes[1].netns);
        for (client, server) in [
            (IpAddr::from(lab::WORLD), IpAddr::from(pod.pod.v4)),
            (lab::WORLD_V6.into(), pod.pod.v6.into()),
        ] {
            // Sockets choose their source by the route.
            world.ip(&format!(
                "route replace {server} via {} src {client}",
                if client.is_ipv4() {
                    "10.0.0.1"
                } else {
                    "fd10::1"
                }
            ));
            let seen = talk((world, client), (&pod.netns, server));
            assert_eq!(seen, [client; 2], "{xdp:?}");
        }
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pod_talks_to_a_server_outside_past_a_firewall() {
    for xdp in [XdpMode::Off, XdpMode::Generic, XdpMode::Native] {
        let cluster = cluster_with_a_world(xdp);
        let (pod, world) = (&cluster.pods[0], &cluster.nodes[1].netns);
        for (client, server, hidden) in [
            (
                IpAddr::from(pod.pod.v4),
                IpAddr::from(lab::WORLD),
                "10.0.0.1",
            ),
            (pod.pod.v6.into(), lab::WORLD_V6.into(), "fd10::1"),
        ] {
            let seen = talk((&pod.netns, client), (world, server));
            assert_eq!(seen, [hidden.parse::<IpAddr>().unwrap(); 2], "{xdp:?}");
        }
    }
}
