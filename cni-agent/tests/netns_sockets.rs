//! Ring 3: sockets that get their backend when they connect. The programs are on a control group of
//! the test's own; a node's processes are threads in its network namespace, pods' in theirs.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use aya::maps::{HashMap as Rows, Map, MapData};
use cni_agent::{
    datapath::{Datapath, DatapathConfig, LogLevel, ServedSockets, XdpMode},
    netlink::sock_diag,
    service::Frontend,
};
use cni_ebpf_common::{
    flow::{Flow, FlowKey},
    service::{Frontend as Row, FrontendKey},
    socket::{SocketKey, SocketPeer},
};
use std::{
    collections::BTreeSet,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};
use support::{
    BpfDir, Netns,
    cgroup::Cgroup,
    cluster::{Cluster, PodNetns},
    flows::{at, frontend},
    frames::{TCP, UDP},
};

const PATIENCE: Duration = Duration::from_secs(5);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 10);
const PODS: ServedSockets = ServedSockets {
    pods: true,
    host: false,
};
const ALL: ServedSockets = ServedSockets {
    pods: true,
    host: true,
};

/// A node with two pods, one elsewhere, and the programs of sockets on the test's control group.
struct Lab {
    cluster: Cluster,
    cgroup: Cgroup,
}

impl Lab {
    fn new(served: ServedSockets) -> Self {
        let cgroup = Cgroup::enter();
        let cluster = Cluster::new(XdpMode::Off, 1500);
        let lab = Self { cluster, cgroup };
        lab.serve_sockets(served);
        lab
    }

    fn serve_sockets(&self, served: ServedSockets) {
        attach(self.datapath(), self.node(), &self.cgroup, served);
    }

    fn datapath(&self) -> &Datapath {
        &self.cluster.nodes[0].datapath
    }

    /// Where the node's processes are.
    fn node(&self) -> &Netns {
        &self.cluster.nodes[0].netns
    }

    fn serve(&self, frontends: &[Frontend]) {
        if self.datapath().sync_services(frontends).unwrap().unswept {
            self.datapath().sweep_flows().unwrap();
        }
    }

    /// Frontends that sockets were given backends for.
    fn sockets(&self) -> usize {
        rows::<SocketKey, SocketPeer>(self.datapath(), "sockets").len()
    }

    /// Flows of packets that were translated one by one.
    fn flows(&self) -> usize {
        let rows = rows::<FlowKey, Flow>(self.datapath(), "flows");
        let translated = |(_, row): &&(FlowKey, Flow)| row.flags & Flow::TO_BACKEND != 0;
        rows.iter().filter(translated).count()
    }
}

fn attach(datapath: &Datapath, node: &Netns, cgroup: &Cgroup, served: ServedSockets) {
    node.within(|| datapath.serve_sockets(&cgroup.path, served))
        .unwrap_or_else(|e| panic!("{e}"));
}

fn open(datapath: &Datapath, name: &str) -> MapData {
    let pinned = datapath.pinned();
    let map = pinned.iter().find(|map| map.name == name).unwrap();
    MapData::from_pin(&map.path).unwrap()
}

fn rows<K: aya::Pod, V: aya::Pod>(datapath: &Datapath, name: &str) -> Vec<(K, V)> {
    let map = Map::LruHashMap(open(datapath, name));
    let map = Rows::<MapData, K, V>::try_from(map).unwrap();
    map.iter().map(Result::unwrap).collect()
}

fn address(pod: &PodNetns, v4: bool) -> IpAddr {
    if v4 {
        pod.pod.v4.into()
    } else {
        pod.pod.v6.into()
    }
}

fn vip(v4: bool, port: u16) -> SocketAddr {
    if v4 { at(VIP, port) } else { at(VIP_V6, port) }
}

fn listen(pod: &PodNetns, v4: bool) -> TcpListener {
    pod.netns
        .within(|| TcpListener::bind((address(pod, v4), 0)).unwrap())
}

fn datagrams(pod: &PodNetns, v4: bool) -> UdpSocket {
    let socket = pod
        .netns
        .within(|| UdpSocket::bind((address(pod, v4), 0)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn ends<'a>(servers: impl IntoIterator<Item = &'a TcpListener>) -> Vec<SocketAddr> {
    let ends = servers.into_iter().map(|s| s.local_addr().unwrap());
    ends.collect()
}

fn udp_ends<'a>(servers: impl IntoIterator<Item = &'a UdpSocket>) -> Vec<SocketAddr> {
    let ends = servers.into_iter().map(|s| s.local_addr().unwrap());
    ends.collect()
}

fn connect(client: &Netns, to: SocketAddr) -> io::Result<TcpStream> {
    client.within(|| TcpStream::connect_timeout(&to, PATIENCE))
}

/// The number of the server that got a connection: it says so by its first byte.
fn connected_to(client: &Netns, to: SocketAddr, servers: &[&TcpListener]) -> usize {
    std::thread::scope(|scope| {
        let stream = connect(client, to).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), to, "the peer that is seen");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let local = stream.local_addr().unwrap();
        for (i, server) in servers.iter().enumerate() {
            server.set_nonblocking(true).unwrap();
            let local = SocketAddr::new(local.ip().to_canonical(), local.port());
            scope.spawn(move || {
                while let Ok((mut accepted, peer)) = server.accept() {
                    if peer == local {
                        accepted.write_all(&[u8::try_from(i).unwrap()]).unwrap();
                    }
                }
            });
        }
        let mut byte = [0];
        (&stream).read_exact(&mut byte).unwrap();
        byte[0].into()
    })
}

fn exchange(mut a: &TcpStream, mut b: &TcpStream) {
    for end in [a, b] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut word = [0; 5];
    a.write_all(b"there").unwrap();
    b.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"there");
    b.write_all(b"again").unwrap();
    a.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"again");
}

/// Sends a datagram; the number of the server that got it. Its answer must come from the frontend.
fn asked(client: &UdpSocket, to: SocketAddr, servers: &[&UdpSocket]) -> usize {
    client.send_to(b"question", to).unwrap();
    let number = answer(servers);
    let mut buffer = [0; 16];
    let (len, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from), (&b"answer"[..], to));
    number
}

/// Answers the one datagram that has come.
fn answer(servers: &[&UdpSocket]) -> usize {
    let mut buffer = [0; 16];
    // What was sent has arrived: veth pairs carry a packet within the system call that sends it, or
    // shortly after.
    let begin = std::time::Instant::now();
    while begin.elapsed() < PATIENCE {
        for (i, server) in servers.iter().enumerate() {
            server.set_nonblocking(true).unwrap();
            if let Ok((_, peer)) = server.recv_from(&mut buffer) {
                server.send_to(b"answer", peer).unwrap();
                return i;
            }
        }
        std::thread::yield_now();
    }
    panic!("no server got the datagram");
}

fn host_socket(node: &Netns, v4: bool) -> UdpSocket {
    let any: IpAddr = if v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = node.within(|| UdpSocket::bind((any, 0)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pods_connections_spread_and_see_the_service_and_no_packet_is_translated() {
    let lab = Lab::new(PODS);
    let [client, near, far] = &lab.cluster.pods;
    for v4 in [true, false] {
        let (first, second) = (listen(near, v4), listen(far, v4));
        let to = vip(v4, 80);
        lab.serve(&[frontend(to, TCP, &ends([&first, &second]))]);
        let reached: BTreeSet<_> = (0..40)
            .map(|_| connected_to(&client.netns, to, &[&first, &second]))
            .collect();
        assert_eq!(reached, BTreeSet::from([0, 1]));
    }
    assert_eq!(lab.sockets(), 80);
    assert_eq!(lab.flows(), 0);
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn an_ipv6_socket_that_connects_to_a_mapped_address_reaches_the_ipv4_service() {
    let lab = Lab::new(ALL);
    let [client, near, _] = &lab.cluster.pods;
    let server = listen(near, true);
    lab.serve(&[frontend(at(VIP, 80), TCP, &ends([&server]))]);
    let to = at(VIP.to_ipv6_mapped(), 80);
    for process in [&client.netns, lab.node()] {
        assert_eq!(connected_to(process, to, &[&server]), 0);
    }
    assert_eq!((lab.sockets(), lab.flows()), (2, 0));

    let server = datagrams(near, true);
    lab.serve(&[frontend(at(VIP, 53), UDP, &udp_ends([&server]))]);
    let socket = host_socket(lab.node(), false);
    assert_eq!(asked(&socket, at(VIP.to_ipv6_mapped(), 53), &[&server]), 0);
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pod_that_is_its_own_backend_reaches_itself() {
    let lab = Lab::new(PODS);
    let client = &lab.cluster.pods[0];
    for v4 in [true, false] {
        let server = listen(client, v4);
        let to = vip(v4, 80);
        lab.serve(&[frontend(to, TCP, &ends([&server]))]);
        let ours = connect(&client.netns, to).unwrap();
        assert_eq!(ours.peer_addr().unwrap(), to);
        let (theirs, _) = server.accept().unwrap();
        exchange(&ours, &theirs);
    }
    assert_eq!(lab.flows(), 0);
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn datagrams_of_pods_are_translated_packet_by_packet() {
    let lab = Lab::new(ALL);
    let [client, near, _] = &lab.cluster.pods;
    for v4 in [true, false] {
        let server = datagrams(near, v4);
        let to = vip(v4, 53);
        lab.serve(&[frontend(to, UDP, &udp_ends([&server]))]);
        let socket = datagrams(client, v4);
        assert_eq!(asked(&socket, to, &[&server]), 0);
        assert_eq!((lab.sockets(), lab.flows()), (0, 1));
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn processes_of_the_node_are_served_only_where_they_shall_be() {
    let lab = Lab::new(PODS);
    let (near, node) = (&lab.cluster.pods[1], lab.node());
    for v4 in [true, false] {
        let (tcp, udp) = (listen(near, v4), datagrams(near, v4));
        let (web, dns) = (vip(v4, 80), vip(v4, 53));
        lab.serve(&[
            frontend(web, TCP, &ends([&tcp])),
            frontend(dns, UDP, &udp_ends([&udp])),
        ]);
        // The node has no route to it.
        lab.serve_sockets(PODS);
        assert!(connect(node, web).is_err());
        let early = host_socket(node, v4);
        assert!(early.send_to(b"question", dns).is_err());
        lab.serve_sockets(ALL);
        assert_eq!(connected_to(node, web, &[&tcp]), 0);
        assert_eq!(asked(&early, dns, &[&udp]), 0);
        let connected = host_socket(node, v4);
        connected.connect(dns).unwrap();
        assert_eq!(connected.peer_addr().unwrap(), dns);
        // What has a backend keeps it.
        lab.serve_sockets(PODS);
        assert_eq!(asked(&early, dns, &[&udp]), 0);
        connected.send(b"question").unwrap();
        assert_eq!(answer(&[&udp]), 0);
        let mut buffer = [0; 16];
        assert_eq!(connected.recv_from(&mut buffer).unwrap(), (6, dns));
        assert!(host_socket(node, v4).send_to(b"question", dns).is_err());
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_nodes_connected_socket_ends_with_its_backend_and_no_other_does() {
    let lab = Lab::new(ALL);
    let [one, another, _] = &lab.cluster.pods;
    let datapath = &lab.cluster.nodes[0].datapath;
    for v4 in [true, false] {
        let (gone, stays) = (datagrams(one, v4), datagrams(another, v4));
        let (dns, time) = (vip(v4, 53), vip(v4, 123));
        lab.serve(&[
            frontend(dns, UDP, &udp_ends([&gone])),
            frontend(time, UDP, &udp_ends([&stays])),
        ]);
        let [lost, kept, direct] = [(); 3].map(|()| host_socket(lab.node(), v4));
        lost.connect(dns).unwrap();
        kept.connect(time).unwrap();
        // To the same place, but not by a Service.
        direct.connect(udp_ends([&gone])[0]).unwrap();
        lab.serve(&[
            frontend(dns, UDP, &udp_ends([&stays])),
            frontend(time, UDP, &udp_ends([&stays])),
        ]);
        let ended = lab.node().within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(async {
                let all = sock_diag::connected_udp().await.unwrap();
                assert_eq!(all.len(), 3);
                let is_lost = |s: &sock_diag::Connected| datapath.is_lost(s.cookie(), s.peer());
                let lost: Vec<_> = all.into_iter().filter(|s| is_lost(s).unwrap()).collect();
                let count = lost.len();
                sock_diag::end(lost).await.unwrap();
                count
            })
        });
        assert_eq!(ended, 1);
        let heard = lost.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(heard.kind(), ErrorKind::ConnectionAborted);
        kept.send(b"question").unwrap();
        assert_eq!(answer(&[&stays]), 0);
        direct.send(b"question").unwrap();
        assert_eq!(answer(&[&gone]), 0);
        // As a process does after an error.
        lost.connect(dns).unwrap();
        lost.send(b"question").unwrap();
        assert_eq!(answer(&[&stays]), 0);
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_nodes_socket_keeps_its_backend_until_that_is_none_any_more() {
    let lab = Lab::new(ALL);
    let [one, another, _] = &lab.cluster.pods;
    for v4 in [true, false] {
        let (first, second) = (datagrams(one, v4), datagrams(another, v4));
        let servers = [&first, &second];
        let to = vip(v4, 53);
        let both = [frontend(to, UDP, &udp_ends(servers))];
        lab.serve(&both);
        let sockets: Vec<_> = (0..40).map(|_| host_socket(lab.node(), v4)).collect();
        let chosen: Vec<_> = sockets.iter().map(|s| asked(s, to, &servers)).collect();
        assert!(chosen.contains(&0) && chosen.contains(&1), "{chosen:?}");
        let again: Vec<_> = sockets.iter().map(|s| asked(s, to, &servers)).collect();
        assert_eq!(again, chosen);

        lab.serve(&[frontend(to, UDP, &udp_ends([&second]))]);
        for socket in &sockets {
            assert_eq!(asked(socket, to, &servers), 1);
        }
        // Nor does it go back when the other returns.
        lab.serve(&both);
        for socket in &sockets {
            assert_eq!(asked(socket, to, &servers), 1);
        }
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pod_with_affinity_connects_to_one_backend_until_that_is_none_any_more() {
    let lab = Lab::new(PODS);
    let [client, near, far] = &lab.cluster.pods;
    let (first, second) = (listen(near, true), listen(far, true));
    let servers = [&first, &second];
    let to = vip(true, 80);
    let with = |backends: &[SocketAddr]| Frontend {
        affinity_secs: 3600,
        ..frontend(to, TCP, backends)
    };
    lab.serve(&[with(&ends(servers))]);
    let kept = connected_to(&client.netns, to, &servers);
    for _ in 0..40 {
        assert_eq!(connected_to(&client.netns, to, &servers), kept);
    }
    let other = 1 - kept;
    lab.serve(&[with(&ends([servers[other]]))]);
    assert_eq!(connected_to(&client.netns, to, &servers), other);
    lab.serve(&[with(&ends(servers))]);
    for _ in 0..40 {
        assert_eq!(connected_to(&client.netns, to, &servers), other);
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_frontend_whose_row_has_no_backends_refuses_connections() {
    let lab = Lab::new(ALL);
    let mut frontends =
        Rows::<_, FrontendKey, Row>::try_from(Map::HashMap(open(lab.datapath(), "frontends")))
            .unwrap();
    for (protocol, port) in [(TCP, 80u16), (UDP, 53)] {
        let key = FrontendKey {
            addr: cni_ebpf_common::addr::from_v4(VIP.octets()),
            port_be: port.to_be(),
            protocol,
            pad: 0,
        };
        frontends.insert(key, Row::default(), 0).unwrap();
    }
    let refused = |result: io::Result<()>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
    };
    for process in [&lab.cluster.pods[0].netns, lab.node()] {
        refused(connect(process, at(VIP, 80)).map(drop));
    }
    let socket = host_socket(lab.node(), true);
    refused(socket.send_to(b"question", at(VIP, 53)).map(drop));
    refused(socket.connect(at(VIP, 53)));
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_restart_keeps_connections_and_what_processes_see_of_them() {
    let lab = Lab::new(ALL);
    let [client, near, far] = &lab.cluster.pods;
    let (first, second) = (listen(near, true), listen(far, true));
    let udp = datagrams(near, true);
    let (web, dns) = (vip(true, 80), vip(true, 53));
    let with = |server| {
        [
            frontend(web, TCP, &ends([server])),
            frontend(dns, UDP, &udp_ends([&udp])),
        ]
    };
    lab.serve(&with(&first));
    let ours = connect(&client.netns, web).unwrap();
    let theirs = first.accept().unwrap().0;
    let socket = host_socket(lab.node(), true);
    assert_eq!(asked(&socket, dns, &[&udp]), 0);

    let again = lab.cluster.nodes[0].restart();
    attach(&again, lab.node(), &lab.cgroup, ALL);
    again.sync_services(&with(&second)).unwrap();
    exchange(&ours, &theirs);
    assert_eq!(ours.peer_addr().unwrap(), web);
    assert_eq!(asked(&socket, dns, &[&udp]), 0);
    assert_eq!(connected_to(&client.netns, web, &[&first, &second]), 1);
    assert_eq!(lab.flows(), 0);
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn programs_of_another_on_the_same_group_stay_and_work() {
    let lab = Lab::new(PODS);
    let client = &lab.cluster.pods[0];
    let server = listen(&lab.cluster.pods[1], true);
    let (ours, theirs) = (at(VIP, 80), at([10, 97, 0, 1], 80));
    lab.serve(&[frontend(ours, TCP, &ends([&server]))]);
    let bpf = BpfDir::new();
    let config = DatapathConfig {
        bpf_dir: bpf.dir(),
        log_level: LogLevel::Off,
    };
    let other = lab.node().within(|| Datapath::load(&config)).unwrap();
    attach(&other, lab.node(), &lab.cgroup, PODS);
    other
        .sync_services(&[frontend(theirs, TCP, &ends([&server]))])
        .unwrap();
    for to in [ours, theirs] {
        assert_eq!(connected_to(&client.netns, to, &[&server]), 0);
    }
    lab.datapath().detach_sockets().unwrap();
    assert_eq!(connected_to(&client.netns, theirs, &[&server]), 0);
    assert_eq!(lab.flows(), 0);
    // Ours are gone: packets are translated again.
    assert_eq!(connected_to(&client.netns, ours, &[&server]), 0);
    assert_eq!(lab.flows(), 1);
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_group_that_was_removed_is_replaced_by_another() {
    let lab = Lab::new(PODS);
    let gone = lab.cgroup.path.join("gone");
    std::fs::create_dir(&gone).unwrap();
    let serve = |path| {
        lab.node()
            .within(|| lab.datapath().serve_sockets(path, PODS))
    };
    serve(&gone).unwrap();
    std::fs::remove_dir(&gone).unwrap();
    assert!(serve(&gone).unwrap_err().to_string().contains("gone"));
    let fault = serve(std::path::Path::new("/proc")).unwrap_err();
    assert!(fault.to_string().contains("version 2"), "{fault}");
    serve(&lab.cgroup.path).unwrap();
    let server = listen(&lab.cluster.pods[1], true);
    lab.serve(&[frontend(vip(true, 80), TCP, &ends([&server]))]);
    let client = &lab.cluster.pods[0].netns;
    assert_eq!(connected_to(client, vip(true, 80), &[&server]), 0);
    assert_eq!(lab.flows(), 0);
}

/// Prints what a connection to a Service costs, against one without a Service; nothing is asserted.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn cost_of_connections_by_sockets_and_by_packets() {
    const CONNECTIONS: u32 = 500;
    let lab = Lab::new(PODS);
    let [client, near, _] = &lab.cluster.pods;
    // A server of its own for each: it must not know a port from a connection that came another way.
    let measure = |to_service: bool| {
        let server = listen(near, true);
        let direct = server.local_addr().unwrap();
        lab.serve(&[frontend(vip(true, 80), TCP, &[direct])]);
        let to = if to_service { vip(true, 80) } else { direct };
        client.netns.within(|| {
            let begin = std::time::Instant::now();
            for _ in 0..CONNECTIONS {
                let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
                drop((server.accept().unwrap(), stream));
            }
            begin.elapsed() / CONNECTIONS
        })
    };
    for _ in 0..3 {
        lab.serve_sockets(PODS);
        let (none, sockets) = (measure(false), measure(true));
        lab.datapath().detach_sockets().unwrap();
        let (bare, packets) = (measure(false), measure(true));
        println!(
            "connect and accept: with programs of sockets {none:?} directly, {sockets:?} to a \
             Service; without {bare:?} directly, {packets:?} to a Service"
        );
    }
}
