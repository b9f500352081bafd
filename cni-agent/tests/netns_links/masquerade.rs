//! Real packets are hidden or not as planned, and the `nft` tool reads the table as meant.

use super::node::{Families, Netns, add, plan};
use cni_agent::netlink::masquerade::{remove, sync};
use ipnetwork::IpNetwork;
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

fn prefixes(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn pods() -> Vec<IpNetwork> {
    prefixes(&["100.11.0.0/24", "fd00:11::/64"])
}

/// All podCIDRs and node addresses of the cluster of these tests.
fn inside() -> Vec<IpNetwork> {
    prefixes(&[
        "100.11.0.0/24",
        "100.11.1.0/24",
        "100.11.5.0/24",
        "fd00:11::/64",
        "fd00:12::/64",
        "192.0.2.1/32",
        "192.0.2.2/32",
        "2001:db8::1/128",
        "2001:db8::2/128",
    ])
}

fn open(netns: &Netns, address: IpAddr) -> UdpSocket {
    netns.run(async || {
        let socket = UdpSocket::bind(SocketAddr::new(address, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket
    })
}

/// The source that `target` (an address of `other`) sees when the pod talks to it.
fn seen_source(pod: &Netns, own: IpAddr, other: &Netns, target: IpAddr) -> IpAddr {
    let server = open(other, target);
    let client = open(pod, own);
    client
        .send_to(b"hello", server.local_addr().unwrap())
        .unwrap();
    let mut buffer = [0; 8];
    let (_, from) = server.recv_from(&mut buffer).unwrap();
    // The answer finds its way back, too.
    server.send_to(b"hello", from).unwrap();
    client.recv_from(&mut buffer).unwrap();
    from.ip()
}

#[test]
#[ignore = "needs root"]
fn pods_are_hidden_from_the_outside_only() {
    let (node, pod, other) = (Netns::new("node"), Netns::new("pod"), Netns::new("other"));
    node.sh(&format!(
        "ip link add up0 type veth peer name up0 netns {}; ip link set up0 up; ip link set lo up; \
         ip address add 192.0.2.1/24 dev up0; ip address add 2001:db8::1/64 dev up0 nodad; \
         ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8::2",
        other.name()
    ));
    node.set("ipv4/ip_forward", 1);
    node.set("ipv6/conf/all/forwarding", 1);
    // One namespace plays another node, a pod there, and the world outside.
    other.sh(
        "ip link set up0 up; ip link set lo up; \
         ip address add 192.0.2.2/24 dev up0; ip address add 2001:db8::2/64 dev up0 nodad; \
         for a in 198.51.100.1 169.254.169.254 100.11.1.7 100.11.2.7; do ip address add $a/32 dev lo; done; \
         for a in 2001:db8:1::1 fd00:12::7 fd00:13::7; do ip address add $a/128 dev lo nodad; done; \
         ip route add 100.11.0.0/24 via 192.0.2.1; ip -6 route add fd00:11::/64 via 2001:db8::1",
    );
    let endpoint = plan(5, "eth0", Families::Both);
    let (own4, own6) = (
        endpoint.addresses.v4.unwrap(),
        endpoint.addresses.v6.unwrap(),
    );
    node.run(async || {
        add(&endpoint, &pod).await;
        assert!(sync(&pods(), &inside()).await.unwrap());
    });
    let hidden4: IpAddr = [192, 0, 2, 1].into();
    let hidden6: IpAddr = "2001:db8::1".parse().unwrap();
    for (own, target, expected) in [
        (own4.into(), "198.51.100.1", hidden4),
        // 100.11.2.0/24 lies between two prefixes of the cluster but is none.
        (own4.into(), "100.11.2.7", hidden4),
        // A cloud's metadata, which answers nodes only.
        (own4.into(), "169.254.169.254", hidden4),
        (own4.into(), "100.11.1.7", own4.into()),
        (own4.into(), "192.0.2.2", own4.into()),
        (own6.into(), "2001:db8:1::1", hidden6),
        (own6.into(), "fd00:13::7", hidden6),
        (own6.into(), "fd00:12::7", own6.into()),
        (own6.into(), "2001:db8::2", own6.into()),
    ] {
        let seen = seen_source(&pod, own, &other, target.parse().unwrap());
        assert_eq!(seen, expected, "to {target}");
    }
    node.run(async || assert!(remove().await.unwrap()));
    let seen = seen_source(&pod, own4.into(), &other, "198.51.100.1".parse().unwrap());
    assert_eq!(seen, IpAddr::from(own4));
}

#[test]
#[ignore = "needs root"]
fn the_table_is_replaced_only_when_it_differs() {
    let node = Netns::new("node");
    let foreign = "table inet other {\n\tchain c {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n";
    node.sh(&format!("echo '{foreign}' | nft -f -"));
    node.run(async || {
        assert!(!remove().await.unwrap());
        assert!(sync(&pods(), &inside()).await.unwrap());
        let handles = node.sh("nft -a list table inet fairlead");
        assert!(!sync(&pods(), &inside()).await.unwrap());
        assert_eq!(node.sh("nft -a list table inet fairlead"), handles);

        let text = node.sh("nft list table inet fairlead");
        for expected in [
            "ip saddr 100.11.0.0/24 ip daddr != @inside4 masquerade fully-random",
            "ip6 saddr fd00:11::/64 ip6 daddr != @inside6 masquerade fully-random",
            "type nat hook postrouting priority srcnat; policy accept;",
            "100.11.0.0/23",
            "100.11.5.0/24",
            "169.254.1.1",
            "224.0.0.0/4",
            "192.0.2.1",
            "fe80::/10",
            "ff00::/8",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }

        for damage in [
            "flush chain inet fairlead postrouting",
            "delete element inet fairlead inside4 { 100.11.5.0/24 }",
            "add element inet fairlead inside6 { fd00:99::/64 }",
            "add rule inet fairlead postrouting accept",
            "add chain inet fairlead extra",
            "add table inet fairlead { flags dormant; }",
            "delete table inet fairlead",
        ] {
            node.sh(&format!("nft '{damage}'"));
            assert!(sync(&pods(), &inside()).await.unwrap(), "{damage}");
            assert_eq!(node.sh("nft list table inet fairlead"), text, "{damage}");
            assert!(!sync(&pods(), &inside()).await.unwrap(), "{damage}");
        }

        // Many nodes: more elements than one message takes.
        let mut big = inside();
        big.extend((0..5000u32).map(|number| {
            format!("10.{}.{}.0/25", number / 256, number % 256)
                .parse::<IpNetwork>()
                .unwrap()
        }));
        assert!(sync(&pods(), &big).await.unwrap());
        assert!(!sync(&pods(), &big).await.unwrap());

        assert!(sync(&[], &[]).await.unwrap());
        assert!(!sync(&[], &[]).await.unwrap());
        assert!(remove().await.unwrap());
        assert_eq!(node.sh("nft list ruleset"), foreign);
    });
}
