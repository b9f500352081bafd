//! Ring 3: clients outside of the node that talk to its Services, by sockets: no kube-proxy is there, and
//! an answer from any other address or port than the Service's would be lost.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::{
    datapath::{DropReason, ServedOutside, XdpMode},
    service::{Frontend, WhenEmpty},
};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};
use support::{
    Netns,
    cluster::Cluster,
    flows::{at, frontend},
    frames::{TCP, UDP},
    lab,
};

/// Much longer than any answer takes: reached only where none comes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Reached where none may come.
const SILENCE: Duration = Duration::from_millis(300);
const NODE_PORT: u16 = 30_080;

fn world(v4: bool) -> IpAddr {
    if v4 {
        lab::WORLD.into()
    } else {
        lab::WORLD_V6.into()
    }
}

/// The first node's address.
fn node(v4: bool) -> IpAddr {
    if v4 { "10.0.0.1" } else { "fd10::1" }.parse().unwrap()
}

fn service(v4: bool) -> SocketAddr {
    SocketAddr::new(node(v4), NODE_PORT)
}

/// The second node's machine plays the world, whose address is in no podCIDR.
fn cluster() -> Cluster {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    cluster.enable_stack();
    let (first, far) = (&cluster.nodes[0], &cluster.nodes[1].netns);
    for v4 in [true, false] {
        let (world, node) = (world(v4), node(v4));
        let (prefix, gateway) = if v4 {
            (32, "10.0.0.2")
        } else {
            (128, "fd10::2")
        };
        far.ip(&format!("addr add {world}/{prefix} dev lo nodad"));
        // Sockets choose their source by the route.
        far.ip(&format!(
            "route replace {node}/{prefix} dev up0 src {world}"
        ));
        first
            .netns
            .ip(&format!("route add {world}/{prefix} via {gateway}"));
    }
    take(&cluster, true);
    let index = first.netns.ifindex("up0");
    first
        .netns
        .within(|| first.datapath.attach_answers("up0", index))
        .unwrap();
    cluster
}

fn take(cluster: &Cluster, take: bool) {
    let served = ServedOutside {
        take,
        direct: false,
        addresses: vec![node(true), node(false)],
        ports: ServedOutside::PORTS,
    };
    cluster.nodes[0].datapath.serve_outside(&served).unwrap();
}

fn serve(cluster: &Cluster, frontends: &[Frontend]) {
    let change = cluster.nodes[0].datapath.sync_services(frontends).unwrap();
    assert!(change.refused.is_empty());
}

/// A client and its server's end of one connection.
fn connect(
    client: &Netns,
    server: &Netns,
    listener: &TcpListener,
    to: SocketAddr,
) -> (TcpStream, TcpStream) {
    std::thread::scope(|scope| {
        let accepted = scope.spawn(|| server.within(|| listener.accept().unwrap().0));
        let stream = client
            .within(|| TcpStream::connect_timeout(&to, PATIENCE))
            .unwrap_or_else(|e| panic!("TCP to {to}: {e}"));
        let accepted = accepted.join().unwrap();
        for end in [&stream, &accepted] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
            end.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        (stream, accepted)
    })
}

/// Sends bytes and checks that they come out whole.
fn transfer(mut from: &TcpStream, mut to: &TcpStream) {
    let pattern = |i: usize| (i % 251) as u8;
    const BYTES: usize = 1 << 20;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let all: Vec<u8> = (0..BYTES).map(pattern).collect();
            from.write_all(&all).unwrap();
        });
        let mut got = vec![0; BYTES];
        to.read_exact(&mut got).unwrap();
        assert!(got.iter().enumerate().all(|(i, b)| *b == pattern(i)));
    });
}

/// By TCP and UDP from a client to the Service whose only backend is at `place` in `server`; the clients'
/// addresses as it sees them.
fn talk(
    cluster: &Cluster,
    client: &Netns,
    (server, place): (&Netns, IpAddr),
    v4: bool,
) -> [IpAddr; 2] {
    let to = service(v4);
    let listener = server.within(|| TcpListener::bind((place, 0)).unwrap());
    let answerer = server.within(|| UdpSocket::bind((place, 0)).unwrap());
    answerer.set_read_timeout(Some(PATIENCE)).unwrap();
    serve(
        cluster,
        &[
            frontend(to, TCP, &[listener.local_addr().unwrap()]),
            frontend(to, UDP, &[answerer.local_addr().unwrap()]),
        ],
    );
    let (ours, theirs) = connect(client, server, &listener, to);
    assert_eq!(ours.peer_addr().unwrap(), to);
    transfer(&ours, &theirs);
    transfer(&theirs, &ours);
    let by_tcp = theirs.peer_addr().unwrap().ip();

    let any: IpAddr = if v4 { "0.0.0.0" } else { "::" }.parse().unwrap();
    let asker = client.within(|| UdpSocket::bind((any, 0)).unwrap());
    asker.set_read_timeout(Some(PATIENCE)).unwrap();
    // Connected: an answer from any other address is not taken.
    asker.connect(to).unwrap();
    let mut buffer = [0; 4000];
    // The later one in fragments.
    for question in [&b"question"[..], &[7; 3000]] {
        asker.send(question).unwrap();
        let (len, from) = answerer
            .recv_from(&mut buffer)
            .unwrap_or_else(|e| panic!("UDP to {to}: {e}"));
        assert_eq!(&buffer[..len], question);
        answerer.send_to(question, from).unwrap();
        let len = asker
            .recv(&mut buffer)
            .unwrap_or_else(|e| panic!("UDP back from {to}: {e}"));
        assert_eq!(&buffer[..len], question);
    }
    asker.send(b"last").unwrap();
    let (_, by_udp) = answerer.recv_from(&mut buffer).unwrap();
    [by_tcp, by_udp.ip()]
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_backend_on_the_node_hears_the_client_itself() {
    let cluster = cluster();
    let (pod, far) = (&cluster.pods[0], &cluster.nodes[1].netns);
    for v4 in [true, false] {
        let place = if v4 {
            pod.pod.v4.into()
        } else {
            pod.pod.v6.into()
        };
        let seen = talk(&cluster, far, (&pod.netns, place), v4);
        assert_eq!(seen, [world(v4); 2]);
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_backend_elsewhere_hears_the_node_and_is_answered_back_by_it() {
    let cluster = cluster();
    let (pod, far) = (&cluster.pods[2], &cluster.nodes[1].netns);
    for v4 in [true, false] {
        let place = if v4 {
            pod.pod.v4.into()
        } else {
            pod.pod.v6.into()
        };
        // What comes back to the world must not leave by the short way.
        let seen = talk(&cluster, far, (&pod.netns, place), v4);
        assert_eq!(seen, [node(v4); 2]);
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn the_host_itself_as_backend_hears_the_client_itself() {
    let cluster = cluster();
    let [own, far] = [&cluster.nodes[0].netns, &cluster.nodes[1].netns];
    for v4 in [true, false] {
        let seen = talk(&cluster, far, (own, node(v4)), v4);
        assert_eq!(seen, [world(v4); 2]);
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pod_of_another_node_reaches_every_backend_also_itself() {
    let cluster = cluster();
    let client = &cluster.pods[2];
    for v4 in [true, false] {
        let of = |pod: &lab::Pod| -> IpAddr { if v4 { pod.v4.into() } else { pod.v6.into() } };
        for (server, heard) in [(&cluster.pods[0], of(&client.pod)), (client, node(v4))] {
            let seen = talk(
                &cluster,
                &client.netns,
                (&server.netns, of(&server.pod)),
                v4,
            );
            assert_eq!(seen, [heard; 2]);
        }
    }
}

/// What a new connection of the world meets.
fn attempt(cluster: &Cluster, v4: bool) -> ErrorKind {
    let far = &cluster.nodes[1].netns;
    let outcome = far.within(|| TcpStream::connect_timeout(&service(v4), SILENCE));
    outcome.unwrap_err().kind()
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn who_may_not_ask_or_finds_nobody_here_hears_nothing_and_is_counted() {
    let cluster = cluster();
    for v4 in [true, false] {
        let pod = &cluster.pods[0].pod;
        let backend = at(
            if v4 {
                IpAddr::from(pod.v4)
            } else {
                pod.v6.into()
            },
            80,
        );
        let count = |reason| {
            cluster.nodes[0]
                .drops("up0")
                .get(&reason)
                .copied()
                .unwrap_or(0)
        };
        let other: &str = if v4 {
            "203.0.113.0/24"
        } else {
            "2001:db8:ffff::/48"
        };
        let restricted = Frontend {
            source_ranges: Some(vec![other.parse().unwrap()]),
            ..frontend(service(v4), TCP, &[backend])
        };
        let elsewhere = Frontend {
            external: Vec::new(),
            external_empty: WhenEmpty::Drop,
            ..frontend(service(v4), TCP, &[backend])
        };
        for (wanted, reason) in [
            (restricted, DropReason::SourceRange),
            (elsewhere, DropReason::NoLocalBackend),
        ] {
            serve(&cluster, &[wanted]);
            let before = count(reason);
            assert_eq!(attempt(&cluster, v4), ErrorKind::TimedOut, "{reason:?}");
            assert!(count(reason) > before, "{reason:?}");
        }
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn who_is_in_a_range_is_let_in() {
    let cluster = cluster();
    let (pod, far) = (&cluster.pods[0], &cluster.nodes[1].netns);
    let listener = pod
        .netns
        .within(|| TcpListener::bind((pod.pod.v4, 0)).unwrap());
    let open = Frontend {
        source_ranges: Some(vec![
            "203.0.113.0/24".parse().unwrap(),
            "198.51.100.0/24".parse().unwrap(),
        ]),
        ..frontend(service(true), TCP, &[listener.local_addr().unwrap()])
    };
    serve(&cluster, std::slice::from_ref(&open));
    connect(far, &pod.netns, &listener, service(true));
    // As after a restart, and with others' ranges beside.
    let datapath = cluster.nodes[0].restart();
    let other = Frontend {
        port: NODE_PORT + 1,
        source_ranges: Some(vec!["203.0.113.0/24".parse().unwrap()]),
        ..open.clone()
    };
    let change = datapath.sync_services(&[open, other]).unwrap();
    assert_eq!(
        (change.added, change.changed),
        (1, 0),
        "read back as it was"
    );
    connect(far, &pod.netns, &listener, service(true));
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn the_node_refuses_for_a_service_that_nobody_answers() {
    let cluster = cluster();
    for v4 in [true, false] {
        let refuser = at(node(v4), 0);
        // An address of the Service's own, not the node's, whose stack would refuse anyway.
        let vip: IpAddr = if v4 { "192.0.2.7" } else { "2001:db8:7::7" }
            .parse()
            .unwrap();
        let far = &cluster.nodes[1].netns;
        let way = if v4 { "10.0.0.1" } else { "fd10::1" };
        far.ip(&format!("route add {vip} via {way} src {}", world(v4)));
        let to = SocketAddr::new(vip, 80);
        serve(
            &cluster,
            &[frontend(to, TCP, &[refuser]), frontend(to, UDP, &[refuser])],
        );
        let outcome = far.within(|| TcpStream::connect_timeout(&to, PATIENCE));
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let pod = &cluster.pods[0].netns;
        let outcome = pod.within(|| TcpStream::connect_timeout(&to, PATIENCE));
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn connections_live_on_when_others_take_the_new_ones_and_over_a_restart() {
    let cluster = cluster();
    let (pod, far) = (&cluster.pods[0], &cluster.nodes[1].netns);
    let listener = pod
        .netns
        .within(|| TcpListener::bind((pod.pod.v4, 0)).unwrap());
    let served = frontend(service(true), TCP, &[listener.local_addr().unwrap()]);
    serve(&cluster, std::slice::from_ref(&served));
    let (ours, theirs) = connect(far, &pod.netns, &listener, service(true));
    take(&cluster, false);
    transfer(&ours, &theirs);
    transfer(&theirs, &ours);
    // Nobody else is there who would take it.
    assert_eq!(attempt(&cluster, true), ErrorKind::ConnectionRefused);
    let datapath = cluster.nodes[0].restart();
    datapath.sync_services(&[served]).unwrap();
    transfer(&ours, &theirs);
    datapath.sweep_flows().unwrap();
    transfer(&theirs, &ours);
    // Not even the Service's end ends it: its backend does.
    datapath.sync_services::<Frontend>(&[]).unwrap();
    transfer(&ours, &theirs);
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_client_hears_of_a_closed_port_in_terms_of_the_service() {
    let cluster = cluster();
    let far = &cluster.nodes[1].netns;
    for v4 in [true, false] {
        let of = |i: usize| -> IpAddr {
            let pod = &cluster.pods[i].pod;
            if v4 { pod.v4.into() } else { pod.v6.into() }
        };
        // A local pod, one of another node, the host, and who refuses.
        for backend in [at(of(0), 9), at(of(2), 9), at(node(v4), 9), at(node(v4), 0)] {
            let to = service(v4);
            serve(&cluster, &[frontend(to, UDP, &[backend])]);
            // Of the backend before, whose flow would be kept.
            cluster.nodes[0].datapath.sweep_flows().unwrap();
            let any: IpAddr = if v4 { "0.0.0.0" } else { "::" }.parse().unwrap();
            let asker = far.within(|| UdpSocket::bind((any, 0)).unwrap());
            asker.set_read_timeout(Some(PATIENCE)).unwrap();
            asker.connect(to).unwrap();
            asker.send(b"anybody?").unwrap();
            let heard = asker.recv(&mut [0; 8]).unwrap_err();
            assert_eq!(heard.kind(), ErrorKind::ConnectionRefused, "{backend}");
        }
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn connections_that_the_hosts_stack_translates_stay_its_own_when_the_programs_take_the_new_ones() {
    let cluster = cluster();
    let (pod, far) = (&cluster.pods[0], &cluster.nodes[1].netns);
    let listener = pod
        .netns
        .within(|| TcpListener::bind((pod.pod.v4, 0)).unwrap());
    let backend = listener.local_addr().unwrap();
    take(&cluster, false);
    // As kube-proxy has it.
    let host = &cluster.nodes[0].netns;
    host.run("nft add table ip proxy");
    host.run("nft add chain ip proxy prerouting { type nat hook prerouting priority dstnat ; }");
    host.run(&format!(
        "nft add rule ip proxy prerouting tcp dport {NODE_PORT} dnat to {backend}"
    ));
    let translated = || {
        let text = host.run("nft -j list table ip proxy");
        assert!(text.contains("dnat"), "{text}");
        cluster.nodes[0].datapath.flow_counts().unwrap().len()
    };
    let (ours, theirs) = connect(far, &pod.netns, &listener, service(true));
    transfer(&ours, &theirs);
    assert_eq!(translated(), 0, "no flow of the programs");
    serve(&cluster, &[frontend(service(true), TCP, &[backend])]);
    take(&cluster, true);
    transfer(&ours, &theirs);
    transfer(&theirs, &ours);
    assert_eq!(translated(), 0, "it has not become one");
    let (new, accepted) = connect(far, &pod.netns, &listener, service(true));
    transfer(&new, &accepted);
    assert_eq!(translated(), 1);
    transfer(&ours, &theirs);
    transfer(&theirs, &ours);
    transfer(&accepted, &new);
}
