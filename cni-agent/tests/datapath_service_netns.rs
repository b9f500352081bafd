//! Ring 3: sockets of pods that talk to Services. Connected sockets hear nobody but the Service, so
//! that an answer from any other address would be lost or refused.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::{datapath::XdpMode, service::Frontend};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};
use support::{
    cluster::{Cluster, PodNetns},
    flows::{at, frontend},
    frames::{TCP, UDP},
};

const PATIENCE: Duration = Duration::from_secs(5);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 10);

fn address(pod: &PodNetns, v4: bool) -> IpAddr {
    if v4 {
        pod.pod.v4.into()
    } else {
        pod.pod.v6.into()
    }
}

fn vip(v4: bool) -> IpAddr {
    if v4 { VIP.into() } else { VIP_V6.into() }
}

fn serve(cluster: &Cluster, frontends: &[Frontend]) {
    for node in &cluster.nodes {
        if node.datapath.sync_services(frontends).unwrap().unswept {
            node.datapath.sweep_flows().unwrap();
        }
    }
}

fn pattern(i: usize) -> u8 {
    (i % 251) as u8
}

/// A client connected to the Service, and the server's side.
fn connect(
    client: &PodNetns,
    server: &PodNetns,
    listener: &TcpListener,
    to: SocketAddr,
) -> (TcpStream, TcpStream) {
    std::thread::scope(|scope| {
        let accepted = scope.spawn(|| server.netns.within(|| listener.accept().unwrap().0));
        let stream = client
            .netns
            .within(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        assert_eq!(stream.peer_addr().unwrap(), to);
        let accepted = accepted.join().unwrap();
        for end in [&stream, &accepted] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
            end.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        (stream, accepted)
    })
}

/// Sends bytes and checks that they come out whole.
fn transfer(mut from: &TcpStream, mut to: &TcpStream, bytes: usize) {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let all: Vec<u8> = (0..bytes).map(pattern).collect();
            from.write_all(&all).unwrap();
        });
        let mut got = vec![0; bytes];
        to.read_exact(&mut got).unwrap();
        assert!(got.iter().enumerate().all(|(i, b)| *b == pattern(i)));
    });
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn tcp_reaches_every_backend_and_hears_the_service() {
    for xdp in [XdpMode::Off, XdpMode::Generic] {
        let cluster = Cluster::new(xdp, 1500);
        let client = &cluster.pods[0];
        for v4 in [true, false] {
            for server in &cluster.pods {
                let listener = server
                    .netns
                    .within(|| TcpListener::bind((address(server, v4), 0)).unwrap());
                let to = at(vip(v4), 80);
                serve(
                    &cluster,
                    &[frontend(to, TCP, &[listener.local_addr().unwrap()])],
                );
                let (ours, theirs) = connect(client, server, &listener, to);
                let itself = address(client, v4) == address(server, v4);
                let heard = if itself { vip(v4) } else { address(client, v4) };
                assert_eq!(theirs.peer_addr().unwrap().ip(), heard);
                transfer(&ours, &theirs, 1 << 20);
                transfer(&theirs, &ours, 1 << 20);
            }
        }
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn udp_reaches_every_backend_also_in_fragments() {
    for xdp in [XdpMode::Off, XdpMode::Generic] {
        let cluster = Cluster::new(xdp, 1500);
        let client = &cluster.pods[0];
        for v4 in [true, false] {
            for server in &cluster.pods {
                let theirs = server
                    .netns
                    .within(|| UdpSocket::bind((address(server, v4), 0)).unwrap());
                let to = at(vip(v4), 53);
                serve(
                    &cluster,
                    &[frontend(to, UDP, &[theirs.local_addr().unwrap()])],
                );
                let ours = client.netns.within(|| {
                    let socket = UdpSocket::bind((address(client, v4), 0)).unwrap();
                    socket.connect(to).unwrap();
                    socket
                });
                for socket in [&ours, &theirs] {
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                }
                let mut buffer = vec![0; 65_536];
                for bytes in [0, 1, 1400, 4096, 30_000] {
                    let data: Vec<u8> = (0..bytes).map(pattern).collect();
                    ours.send(&data).unwrap();
                    let (len, peer) = theirs.recv_from(&mut buffer).unwrap();
                    assert_eq!(buffer[..len], data, "{xdp:?} {v4} there");
                    theirs.send_to(&data, peer).unwrap();
                    let len = ours.recv(&mut buffer).unwrap();
                    assert_eq!(buffer[..len], data, "{xdp:?} {v4} back");
                }
            }
        }
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_connection_outlives_changes_of_its_service_and_restarts() {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let [client, near, far] = &cluster.pods;
    for v4 in [true, false] {
        let listen = |pod: &PodNetns| {
            let ip = address(pod, v4);
            pod.netns.within(|| TcpListener::bind((ip, 0)).unwrap())
        };
        let (first, second) = (listen(near), listen(far));
        let to = at(vip(v4), 80);
        let with = |listener: &TcpListener| frontend(to, TCP, &[listener.local_addr().unwrap()]);
        serve(&cluster, &[with(&first)]);
        let (ours, theirs) = connect(client, near, &first, to);
        transfer(&ours, &theirs, 1000);
        serve(&cluster, &[with(&second)]);
        transfer(&ours, &theirs, 1 << 20);
        transfer(&theirs, &ours, 1 << 20);
        let (new, at_second) = connect(client, far, &second, to);
        transfer(&new, &at_second, 1000);
        for node in &cluster.nodes {
            let again = node.restart();
            again.sync_services::<Frontend>(&[]).unwrap();
        }
        for (a, b) in [(&ours, &theirs), (&new, &at_second)] {
            transfer(a, b, 100_000);
            transfer(b, a, 100_000);
        }
    }
}

/// Nobody listens: the client hears of it, as from a server that it asked itself.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_closed_port_of_a_backend_is_refused_at_once() {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let client = &cluster.pods[0];
    for v4 in [true, false] {
        for server in &cluster.pods[1..] {
            let to = at(vip(v4), 53);
            serve(
                &cluster,
                &[frontend(to, UDP, &[at(address(server, v4), 5353)])],
            );
            let ours = client.netns.within(|| {
                let socket = UdpSocket::bind((address(client, v4), 0)).unwrap();
                socket.connect(to).unwrap();
                socket
            });
            ours.set_read_timeout(Some(PATIENCE)).unwrap();
            ours.send(b"anybody?").unwrap();
            let fault = ours.recv(&mut [0; 16]).unwrap_err();
            assert_eq!(fault.kind(), std::io::ErrorKind::ConnectionRefused, "{v4}");
        }
    }
}
