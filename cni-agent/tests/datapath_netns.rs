//! Ring 3: packets that really arrive, between namespaces whose kernels don't forward.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::datapath::{DropReason, XdpMode};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use support::{
    cluster::{Cluster, PodNetns},
    frames::{self, IPV4, IPV6, UDP},
    lab::HOST_MAC,
    raw,
};

/// Pings of a pod that must all be answered.
fn ping(from: &PodNetns, to: impl Into<IpAddr>, options: &str) {
    let to = to.into();
    let (success, text) = from
        .netns
        .attempt(&format!("ping -c 2 -i 0.05 -W 2 {options} {to}"));
    assert!(
        success && text.contains(" 0% packet loss"),
        "{} to {to}: {text}",
        from.pod.v4
    );
}

/// What a pod is told about a ping that cannot arrive.
fn told(from: &PodNetns, to: impl Into<IpAddr>, options: &str) -> String {
    from.netns
        .attempt(&format!("ping -c 1 -W 2 {options} {}", to.into()))
        .1
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn every_pod_reaches_every_pod_without_the_kernels_forwarding() {
    for xdp in [XdpMode::Off, XdpMode::Generic, XdpMode::Native] {
        let cluster = Cluster::new(xdp, 1500);
        for from in &cluster.pods {
            for to in cluster.pods.iter().filter(|to| to.pod.v4 != from.pod.v4) {
                ping(from, to.pod.v4, "");
                ping(from, to.pod.v6, "");
                // Fragments, each carried on its own.
                ping(from, to.pod.v4, "-s 4000");
                ping(from, to.pod.v6, "-s 4000");
            }
            for gateway in ["169.254.1.1", "fe80::1"] {
                let text = from.netns.ip(&format!("neigh show {gateway} dev eth0"));
                assert!(text.contains("02:ff:00:00:00:01"), "answered: {text}");
            }
        }
        for node in &cluster.nodes {
            let redirects = node.datapath.drop_totals().unwrap();
            assert!(
                redirects
                    .iter()
                    .all(|r| r.0 != DropReason::Redirect || r.1.packets == 0)
            );
        }
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn the_host_and_its_pods_reach_each_other() {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let node = &cluster.nodes[0];
    for pod in &cluster.pods[..2] {
        for (own, host) in [
            (
                IpAddr::from(pod.pod.v4),
                "10.0.0.1".parse::<IpAddr>().unwrap(),
            ),
            (pod.pod.v6.into(), "fd10::1".parse().unwrap()),
        ] {
            node.netns.run(&format!("ping -c 2 -i 0.05 -W 2 {own}"));
            ping(pod, host, "");
        }
    }
}

/// Everything a TCP stream of this many bytes brings is what was sent.
fn transfer(from: &PodNetns, to: &PodNetns, ip: IpAddr, bytes: usize) {
    let listener = to.netns.within(|| TcpListener::bind((ip, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = from
                .netns
                .within(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap());
            let mut sent = 0;
            while sent < bytes {
                let chunk: Vec<u8> = (sent..bytes.min(sent + 65_536)).map(pattern).collect();
                stream.write_all(&chunk).unwrap();
                sent += chunk.len();
            }
        });
        let mut stream = accept(&listener);
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let (mut buffer, mut got) = (vec![0; 65_536], 0);
        loop {
            let len = stream.read(&mut buffer).unwrap();
            if len == 0 {
                break;
            }
            assert!(
                buffer[..len]
                    .iter()
                    .zip(got..)
                    .all(|(b, i)| *b == pattern(i))
            );
            got += len;
        }
        assert_eq!(got, bytes);
    });
}

/// Waits for one connection, but not for ever.
fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            return stream;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nobody connected to {}", listener.local_addr().unwrap());
}

fn pattern(i: usize) -> u8 {
    (i % 251) as u8
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn tcp_and_udp_arrive_whole_with_every_mode_of_xdp() {
    for xdp in [XdpMode::Off, XdpMode::Generic, XdpMode::Native] {
        let cluster = Cluster::new(xdp, 1500);
        let [first, second, far] = &cluster.pods;
        for to in [second, far] {
            for ip in [IpAddr::from(to.pod.v4), to.pod.v6.into()] {
                for bytes in [0, 1, 1_000_000, 8_000_000] {
                    transfer(first, to, ip, bytes);
                }
                let receiver = to.netns.within(|| UdpSocket::bind((ip, 0)).unwrap());
                receiver
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                let sender = first.netns.within(|| {
                    let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    UdpSocket::bind(any).unwrap()
                });
                let mut buffer = vec![0; 65_536];
                for bytes in [0, 1, 1400, 30_000] {
                    sender
                        .send_to(&vec![7; bytes], receiver.local_addr().unwrap())
                        .unwrap();
                    assert_eq!(receiver.recv(&mut buffer).unwrap(), bytes, "{xdp:?} {ip}");
                }
            }
        }
    }
}

/// Seven new agents, as after restarts or upgrades, and a thousand packets in a second.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn no_packet_is_lost_while_agents_come_and_go() {
    let cluster = Cluster::new(XdpMode::Generic, 1500);
    let [first, second, far] = &cluster.pods;
    ping(first, far.pod.v4, "");
    ping(first, far.pod.v6, "");
    let start = |to: IpAddr| {
        let line = first
            .netns
            .wrap(&format!("ping -q -i 0.001 -c 4000 -W 2 {to}"));
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdout(Stdio::piped()).spawn().unwrap()
    };
    let pings = [
        second.pod.v4.into(),
        far.pod.v4.into(),
        IpAddr::V6(far.pod.v6),
    ]
    .map(start);
    for _ in 0..7 {
        for node in &cluster.nodes {
            drop(node.restart());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    for ping in pings {
        let output = ping.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("4000 packets transmitted, 4000 received"),
            "{text}"
        );
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pod_that_forges_gets_nothing_out() {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let [forger, second, far] = &cluster.pods;
    let (a, b, c) = (&forger.pod, &second.pod, &far.pod);
    let datagram = frames::udp(1, 2, b"forged");
    let v4 = |src, dst| {
        let packet = frames::ip(IpAddr::V4(src), IpAddr::V4(dst), UDP, &datagram);
        frames::ethernet(HOST_MAC, a.mac, IPV4, &packet)
    };
    let v6 = |src: Ipv6Addr, dst: Ipv6Addr| {
        let packet = frames::ip(src.into(), dst.into(), UDP, &datagram);
        frames::ethernet(HOST_MAC, a.mac, IPV6, &packet)
    };
    let group: Ipv6Addr = "ff02::1".parse().unwrap();
    let link_local: Ipv6Addr = "fe80::2".parse().unwrap();
    let advertisement = frames::icmpv6(link_local, group, 134, &[0; 12]);
    let advertisement = frames::ip(
        link_local.into(),
        group.into(),
        frames::ICMPV6,
        &advertisement,
    );
    let mut other_mac = v4(a.v4, b.v4);
    other_mac[11] ^= 1;
    let cases = [
        (
            DropReason::SourceAddress,
            vec![v4(b.v4, c.v4), v4(c.v4, b.v4), v6(b.v6, c.v6)],
        ),
        (DropReason::SourceMac, vec![other_mac]),
        (
            DropReason::RouterAdvertisement,
            vec![frames::ethernet(
                [0x33, 0x33, 0, 0, 0, 1],
                a.mac,
                IPV6,
                &advertisement,
            )],
        ),
        (
            DropReason::Malformed,
            vec![v4(a.v4, b.v4)[..33].to_vec(), v6(a.v6, b.v6)[..53].to_vec()],
        ),
        (
            DropReason::DestinationMac,
            vec![{
                let mut past = v4(a.v4, b.v4);
                past[..6].copy_from_slice(&b.mac);
                past
            }],
        ),
    ];
    let received = [second.received(), far.received()];
    for (reason, frames) in cases {
        // The kernels' own chatter is dropped and counted at any time: look at this reason only.
        let drops = || cluster.nodes[0].drops(a.ifname);
        let count = || drops().get(&reason).copied().unwrap_or_default();
        let before = count();
        raw::inject(&forger.netns, "eth0", &frames);
        assert_eq!(count(), before + frames.len() as u64, "{}", reason.name());
    }
    assert_eq!([second.received(), far.received()], received);
    // The same frame without a lie arrives: the test would see one that got out.
    raw::inject(&forger.netns, "eth0", &[v4(a.v4, b.v4)]);
    assert!(second.received() > received[0]);
}

/// A checksum that is still to be computed behind the answer's end: the kernel lets nobody cut the
/// packet there.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_packet_that_the_kernel_does_not_let_the_programs_change_is_counted() {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let asker = &cluster.pods[0];
    let gateway: Ipv6Addr = "fe80::1".parse().unwrap();
    let mut question = frames::solicitation(asker.pod.v6, gateway, gateway, asker.pod.mac);
    // Further options, as long as they please.
    question.resize(200, 0);
    let length = u16::try_from(question.len() - 40).unwrap();
    question[4..6].copy_from_slice(&length.to_be_bytes());
    let frame = frames::ethernet(HOST_MAC, asker.pod.mac, IPV6, &question);
    let refused = || {
        let drops = cluster.nodes[0].drops(asker.pod.ifname);
        drops.get(&DropReason::Redirect).copied()
    };
    raw::inject(&asker.netns, "eth0", std::slice::from_ref(&frame));
    assert_eq!(refused(), None, "answered");
    raw::inject_with_checksum(&asker.netns, "eth0", &frame, 180);
    assert_eq!(refused(), Some(1));
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_node_that_forges_a_pods_address_is_refused() {
    for xdp in [XdpMode::Off, XdpMode::Generic, XdpMode::Native] {
        let cluster = Cluster::new(xdp, 1500);
        let [first, second, _] = &cluster.pods;
        let (outside, inside) = (&cluster.nodes[1].netns, &cluster.nodes[0]);
        let mac = inside.netns.ip("-j link show dev up0");
        let mac: serde_json::Value = serde_json::from_str(&mac).unwrap();
        let mac: cni_agent::model::Mac = mac[0]["address"].as_str().unwrap().parse().unwrap();
        let datagram = frames::udp(1, 2, b"forged");
        let (from, to) = (IpAddr::V4(first.pod.v4), IpAddr::V4(second.pod.v4));
        let packet = frames::ip(from, to, UDP, &datagram);
        let received = second.received();
        raw::inject(
            outside,
            "up0",
            &[frames::ethernet(mac.0, [2; 6], IPV4, &packet)],
        );
        let deadline = Instant::now() + Duration::from_secs(2);
        while inside.drops("up0").is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(
            inside.drops("up0"),
            [(DropReason::SpoofedFromOutside, 1)].into(),
            "{xdp:?}"
        );
        assert_eq!(second.received(), received);
    }
}

/// What the programs leave to the kernel is answered by it, with the error that a router owes.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn routers_errors_reach_the_pod() {
    let cluster = Cluster::new(XdpMode::Generic, 1400);
    cluster.enable_stack();
    let [first, second, far] = &cluster.pods;
    for to in [second, far] {
        let text = told(first, to.pod.v4, "-t 1");
        assert!(text.contains("Time to live exceeded"), "{text}");
        let text = told(first, to.pod.v6, "-t 1");
        assert!(text.contains("Hop limit"), "{text}");
    }
    let nobody: IpAddr = "100.11.1.77".parse().unwrap();
    let text = told(first, nobody, "");
    assert!(text.contains("Destination Host Unreachable"), "{text}");
    let nobody: IpAddr = "fd00:b:1::77".parse().unwrap();
    let text = told(first, nobody, "");
    assert!(text.contains("unreachable"), "{text}");
    assert_eq!(
        cluster.nodes[0].drops(first.pod.ifname)[&DropReason::NoEndpoint],
        2
    );
    // The way is smaller than the pods' MTU: one is told the size, then keeps to it.
    let text = told(first, far.pod.v4, "-M do -s 1450");
    assert!(text.contains("1400"), "{text}");
    ping(first, far.pod.v4, "-s 1450");
    // Each side learns it for itself: the first question and the first answer are lost.
    told(first, far.pod.v6, "-s 1450");
    told(first, far.pod.v6, "-s 1450");
    ping(first, far.pod.v6, "-s 1450");
    for ip in [IpAddr::from(far.pod.v4), far.pod.v6.into()] {
        transfer(first, far, ip, 4_000_000);
    }
    ping(first, second.pod.v4, "-M do -s 1450");
}
