//! Links are made as planned, CHECK names every damage, and nothing stays behind a failure.

use super::node::{Families, Netns, add, plan, try_add};
use cni_agent::netlink::{
    NetlinkError,
    link::{
        Difference, OwnLink, delete_link, inspect, list_host_links, mark_dying, mend, reap, wire,
    },
    netns,
};
use std::{os::fd::AsFd, sync::mpsc, time::Duration};
use tokio::sync::oneshot;

#[test]
#[ignore = "needs root"]
fn a_new_endpoint_is_as_planned() {
    for families in [Families::V4, Families::V6, Families::Both] {
        let (node, pod) = (Netns::new("node"), Netns::new("pod"));
        let plan = plan(5, "net1", families);
        node.run(async || {
            add(&plan, &pod).await;
            assert_eq!(inspect(&plan, pod.fd()).await.unwrap(), [], "{families:?}");
            let links = list_host_links().await.unwrap();
            assert_eq!(links.len(), 1);
            let link = &links[0];
            assert_eq!((&link.name, &link.alias), (&plan.host_ifname, &plan.alias));
            assert_eq!((link.mac, link.mtu), (Some(plan.host_mac), plan.mtu));
            assert!(link.up && !link.dying && link.peer_netns_id.is_some());
        });
        // The host's end speaks of nothing by itself, the pod's is ready without duplicate detection.
        let host = node.sh(&format!("ip address show {}", plan.host_ifname));
        assert!(!host.contains("inet"), "{host}");
        let inside = pod.sh("ip address show net1");
        assert!(!inside.contains("tentative"), "{inside}");
        let folder = format!("/proc/sys/net/ipv4/conf/{}", plan.host_ifname);
        let settings = node.sh(&format!(
            "cd {folder}; cat forwarding rp_filter proxy_arp accept_redirects send_redirects"
        ));
        assert_eq!(
            settings.split_whitespace().collect::<Vec<_>>(),
            ["1", "2", "0", "0", "0"]
        );
    }
}

#[test]
#[ignore = "needs root"]
fn packets_pass_between_node_and_pod() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    node.sh("ip link set lo up; ip address add 192.0.2.1/32 dev lo; \
             ip address add 2001:db8::1/128 dev lo nodad");
    let plan = plan(6, "eth0", Families::Both);
    node.run(async || {
        add(&plan, &pod).await;
    });
    // Here the kernel itself answers for the gateway: the neighbour is permanent, so nobody asks.
    pod.sh("ping -c 1 -W 2 192.0.2.1 && ping -c 1 -W 2 2001:db8::1");
    node.sh("ping -c 1 -W 2 100.11.0.6 && ping -c 1 -W 2 fd00:11::6");
}

#[test]
#[ignore = "needs root"]
fn no_packet_leaves_before_all_is_enforced() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(7, "eth0", Families::Both);
    let (reached, there) = oneshot::channel();
    let (go_on, told) = mpsc::channel();
    let enforce = move |ifindex: u32| {
        reached.send(ifindex).unwrap();
        told.recv()
    };
    let look = async {
        let ifindex = there.await.unwrap();
        // All that a packet needs in the sandbox; only the host's end is not up.
        let by_hand = format!(
            "ip link set eth0 up; ip address add 192.0.2.9/24 dev eth0; \
             ip neighbour add 192.0.2.1 lladdr {} dev eth0",
            plan.host_mac
        );
        pod.sh(&by_hand);
        let (arrived, output) = pod.attempt("ping -c 2 -i 0.05 -W 0.2 192.0.2.1");
        assert!(!arrived, "{output}");
        let counter = format!(
            "cat /sys/class/net/{}/statistics/rx_packets",
            plan.host_ifname
        );
        // A fresh mount of sysfs shows the links of the namespace that it is mounted from.
        let count = node.sh(&format!(
            "unshare -m sh -c 'mount -t sysfs s /sys && {counter}'"
        ));
        assert_eq!(count.trim(), "0");
        let links = list_host_links().await.unwrap();
        assert_eq!(links.len(), 1);
        assert_eq!((links[0].ifindex, links[0].up), (ifindex, false));
        let differences = inspect(&plan, pod.fd()).await.unwrap();
        for what in ["state", "route 100.11.0.7/32", "route fd00:11::7/128"] {
            let object = format!("{what} of {} on the node", plan.host_ifname);
            assert!(
                differences.iter().any(|d| d.object == object),
                "{object}: {differences:?}"
            );
        }
        pod.sh("ip neighbour del 192.0.2.1 dev eth0; ip address del 192.0.2.9/24 dev eth0; ip link set eth0 down");
        go_on.send(()).unwrap();
        ifindex
    };
    node.run(async || {
        let (wired, ifindex) = tokio::join!(wire(&plan, pod.fd(), enforce), look);
        assert_eq!(wired.unwrap(), ifindex);
        assert_eq!(inspect(&plan, pod.fd()).await.unwrap(), []);
    });
}

#[test]
#[ignore = "needs root"]
fn what_cannot_be_enforced_is_told_and_leaves_no_link() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(14, "eth0", Families::Both);
    node.run(async || {
        let refused = wire(&plan, pod.fd(), |_| Err("the map is full")).await;
        let error = refused.unwrap_err();
        assert_eq!(error.to_string(), "the map is full");
        assert_eq!(list_host_links().await.unwrap(), []);
    });
    assert!(!pod.attempt("ip link show eth0").0);
}

#[test]
#[ignore = "needs root"]
fn every_damage_is_named() {
    let plan = plan(8, "eth0", Families::Both);
    let host = plan.host_ifname.as_str();
    let on_node = |object: &str| format!("{object} of {host} on the node");
    let in_pod = |object: &str| format!("{object} of eth0 in the sandbox");
    // Where the damage is made, how, and the objects that are named for it.
    let damages = [
        (
            true,
            format!("ip link set {host} alias other"),
            vec![on_node("alias")],
        ),
        (
            true,
            format!("ip link set {host} mtu 1300"),
            vec![on_node("MTU")],
        ),
        (
            true,
            format!("ip route del 100.11.0.8/32 dev {host}"),
            vec![on_node("route 100.11.0.8/32")],
        ),
        (
            true,
            format!("ip -6 route del fd00:11::8/128 dev {host}"),
            vec![on_node("route fd00:11::8/128")],
        ),
        (
            true,
            format!("ip neigh del 100.11.0.8 dev {host}"),
            vec![on_node("neighbour 100.11.0.8")],
        ),
        (
            true,
            format!(
                "ip neigh replace fd00:11::8 lladdr 02:00:00:00:00:99 dev {host} nud permanent"
            ),
            vec![on_node("neighbour fd00:11::8")],
        ),
        (
            false,
            "ip link set lo down".into(),
            vec!["state of lo in the sandbox".into()],
        ),
        (
            false,
            "ip link set eth0 mtu 1300".into(),
            vec![in_pod("MTU")],
        ),
        (
            false,
            "ip link set eth0 address 02:00:00:00:00:77; \
             ip neigh replace 169.254.1.1 lladdr 02:22:00:00:00:08 dev eth0 nud permanent; \
             ip neigh replace fe80::1 lladdr 02:22:00:00:00:08 dev eth0 nud permanent"
                .into(),
            vec![in_pod("MAC")],
        ),
        (
            false,
            "ip address add 100.11.0.9/32 dev eth0; ip address del 100.11.0.8/32 dev eth0".into(),
            vec![in_pod("address 100.11.0.8")],
        ),
        (
            false,
            "ip address del fd00:11::8/128 dev eth0".into(),
            vec![in_pod("address fd00:11::8")],
        ),
        (
            false,
            "ip route del default".into(),
            vec![in_pod("route 0.0.0.0/0")],
        ),
        (
            false,
            "ip route replace default via 169.254.1.1 dev eth0 proto static metric 1026".into(),
            vec![in_pod("route 0.0.0.0/0")],
        ),
        (
            false,
            "ip -6 route del default".into(),
            vec![in_pod("route ::/0")],
        ),
        (
            false,
            "ip neigh replace 169.254.1.1 lladdr 02:22:00:00:00:08 dev eth0 nud stale".into(),
            vec![in_pod("neighbour 169.254.1.1")],
        ),
        (
            true,
            format!("ip link set {host} name renamed0"),
            vec![format!("link {host} on the node")],
        ),
    ];
    for (at_node, damage, expected) in damages {
        let (node, pod) = (Netns::new("node"), Netns::new("pod"));
        node.run(async || {
            add(&plan, &pod).await;
            let place = if at_node { &node } else { &pod };
            place.sh(&damage);
            let found = inspect(&plan, pod.fd()).await.unwrap();
            let objects: Vec<_> = found.iter().map(|d| d.object.clone()).collect();
            assert_eq!(objects, expected, "{damage}: {found:?}");
        });
    }
}

#[test]
#[ignore = "needs root"]
fn a_set_down_or_deleted_end_is_named_first() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(9, "eth0", Families::V4);
    node.run(async || {
        add(&plan, &pod).await;
        node.sh(&format!("ip link set {} down", plan.host_ifname));
        let first = inspect(&plan, pod.fd()).await.unwrap().remove(0);
        let expected = Difference {
            object: format!("state of {} on the node", plan.host_ifname),
            expected: "up".into(),
            found: "down".into(),
        };
        assert_eq!(first, expected);
        pod.sh("ip link del eth0");
        let objects: Vec<_> = inspect(&plan, pod.fd())
            .await
            .unwrap()
            .into_iter()
            .map(|d| d.object)
            .collect();
        let missing = format!("link {} on the node", plan.host_ifname);
        assert_eq!(objects, [missing.as_str(), "link eth0 in the sandbox"]);
    });
}

#[test]
#[ignore = "needs root"]
fn a_taken_name_is_told_and_nothing_is_left() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(10, "eth0", Families::Both);
    pod.sh("ip link add eth0 type veth peer name other0");
    node.run(async || {
        let error = try_add(&plan, pod.fd()).await.unwrap_err();
        assert!(
            matches!(&error, NetlinkError::Exists { ifname } if ifname == "eth0"),
            "{error}"
        );
        assert_eq!(list_host_links().await.unwrap(), []);
    });
    pod.sh("ip link del eth0");
    node.run(async || {
        add(&plan, &pod).await;
        let second = Netns::new("pod");
        let error = try_add(&plan, second.fd()).await.unwrap_err();
        assert!(matches!(&error, NetlinkError::HostExists { .. }), "{error}");
        assert!(!second.attempt("ip link show eth0").0);
        assert_eq!(inspect(&plan, pod.fd()).await.unwrap(), []);
    });
}

#[test]
#[ignore = "needs root"]
fn a_foreign_link_of_our_name_is_left_alone() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(25, "eth0", Families::Both);
    let host = &plan.host_ifname;
    let settings = format!(
        "ip -d link show {host}; cd /proc/sys/net/ipv4/conf/{host}; grep . rp_filter forwarding send_redirects"
    );
    node.sh(&format!(
        "ip link add {host} type veth peer name theirs0; ip link set {host} alias theirs"
    ));
    let before = node.sh(&settings);
    node.run(async || {
        let error = try_add(&plan, pod.fd()).await.unwrap_err();
        assert!(
            matches!(&error, NetlinkError::HostExists { alias, .. } if alias == "theirs"),
            "{error}"
        );
    });
    assert_eq!(node.sh(&settings), before);
}

/// An agent that was killed after the link's birth and before its alias.
#[test]
#[ignore = "needs root"]
fn a_link_that_was_left_unfinished_is_ours() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(26, "eth0", Families::Both);
    let own = OwnLink {
        host_ifname: plan.host_ifname.clone(),
        alias: plan.alias.clone(),
    };
    let leave = || {
        node.sh(&format!(
            "ip link add {} group {} type veth peer name eth0 netns {}",
            plan.host_ifname,
            0x464c_6e77,
            pod.name()
        ));
    };
    node.run(async || {
        // Nobody asks for it again: swept as it is listed, or by its attachment.
        for alias in ["", &own.alias] {
            leave();
            let listed = list_host_links().await.unwrap();
            assert_eq!(
                (listed.len(), listed[0].alias.as_str(), listed[0].up),
                (1, "", false)
            );
            let own = OwnLink {
                alias: alias.into(),
                ..own.clone()
            };
            // Swept and deleted by its attachment before it is reaped: both succeed.
            assert_eq!(mark_dying(std::slice::from_ref(&own)).unwrap(), 1);
            assert_eq!(mark_dying(&[own]).unwrap(), 1);
            assert_eq!(reap().await.unwrap(), 1);
            assert_eq!(list_host_links().await.unwrap(), []);
        }
        // The same attachment again.
        leave();
        add(&plan, &pod).await;
        assert_eq!(inspect(&plan, pod.fd()).await.unwrap(), []);
        assert_eq!(list_host_links().await.unwrap()[0].alias, plan.alias);
    });
    let shown = node.sh(&format!("ip -d link show {}", plan.host_ifname));
    assert!(shown.contains("group default"), "{shown}");
}

#[test]
#[ignore = "needs root"]
fn a_failure_inside_the_sandbox_leaves_nothing() {
    // The default route that would be added is there already, in one family or the other.
    for (damage, expected) in [
        (
            "ip link set lo up; ip route add default dev lo metric 1026",
            "add route 0.0.0.0/0",
        ),
        (
            "ip link set lo up; ip -6 route add default dev lo metric 1026",
            "add route ::/0",
        ),
    ] {
        let (node, pod) = (Netns::new("node"), Netns::new("pod"));
        let plan = plan(11, "eth0", Families::Both);
        pod.sh(damage);
        node.run(async || {
            let error = try_add(&plan, pod.fd()).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(list_host_links().await.unwrap(), []);
        });
        assert!(!pod.attempt("ip link show eth0").0);
    }
}

#[test]
#[ignore = "needs root"]
fn ipv6_switched_off_by_default_is_on_where_it_is_needed() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    node.set("ipv6/conf/default/disable_ipv6", 1);
    pod.set("ipv6/conf/default/disable_ipv6", 1);
    let plan = plan(14, "eth0", Families::V6);
    node.run(async || {
        add(&plan, &pod).await;
        assert_eq!(inspect(&plan, pod.fd()).await.unwrap(), []);
    });
}

#[test]
#[ignore = "needs root"]
fn a_further_interface_answers_by_itself() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let (first, further) = (
        plan(21, "eth0", Families::Both),
        plan(22, "net1", Families::Both),
    );
    let rules = "ip rule; ip -6 rule";
    node.run(async || add(&first, &pod).await);
    let untouched = pod.sh(rules);
    assert!(!untouched.contains("100.11.0.21"), "{untouched}");
    node.run(async || {
        add(&further, &pod).await;
        for plan in [&first, &further] {
            assert_eq!(inspect(plan, pod.fd()).await.unwrap(), []);
        }
    });
    // Each answer leaves by the interface that was asked.
    let sent = |ifname: &str| -> u64 {
        // Not from /sys, which shows the namespace that it was mounted in.
        let column = format!("awk '$1 == \"{ifname}:\" {{print $11}}' /proc/net/dev");
        pod.sh(&column).trim().parse().unwrap()
    };
    node.sh("ip link set lo up; ip address add 192.0.2.1/32 dev lo; \
             ip address add 2001:db8::1/128 dev lo nodad");
    let before = [sent("eth0"), sent("net1")];
    node.sh("ping -c 4 -i 0.01 -W 2 100.11.0.22 && ping -c 4 -i 0.01 -W 2 fd00:11::16");
    let after = [sent("eth0"), sent("net1")];
    assert!(after[1] >= before[1] + 8, "{before:?} {after:?}");
    for (target, from, ifname) in [
        ("192.0.2.1", "100.11.0.21", "eth0"),
        ("192.0.2.1", "100.11.0.22", "net1"),
        ("2001:db8::1", "fd00:11::15", "eth0"),
        ("2001:db8::1", "fd00:11::16", "net1"),
    ] {
        let route = pod.sh(&format!("ip route get {target} from {from}"));
        assert!(route.contains(&format!("dev {ifname}")), "{route}");
    }
    // CHECK names what is missing.
    for (damage, object) in [
        ("ip rule del from 100.11.0.22", "rule from 100.11.0.22"),
        ("ip -6 rule del from fd00:11::16", "rule from fd00:11::16"),
        (
            "ip route flush table 1027",
            "route 169.254.1.1/32 in table 1027",
        ),
    ] {
        pod.sh(damage);
        node.run(async || {
            let found = inspect(&further, pod.fd()).await.unwrap();
            assert!(
                found.iter().any(|d| d.object.starts_with(object)),
                "{found:?}"
            );
        });
    }
}

#[test]
#[ignore = "needs root"]
fn what_others_removed_on_the_node_comes_back() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(23, "eth0", Families::Both);
    let gone = crate::node::plan(24, "eth0", Families::Both);
    node.run(async || {
        add(&plan, &pod).await;
        // One of them has no link: it ended.
        let plans = || vec![plan.clone(), gone.clone()];
        assert_eq!(mend(plans()).await.unwrap(), 0);
        for (damage, missing) in [
            ("ip route flush proto 157; ip -6 route flush proto 157", 2),
            ("ip neigh flush nud permanent", 2),
            ("ip link set DEV down; ip link set DEV up", 4),
        ] {
            node.sh(&damage.replace("DEV", &plan.host_ifname));
            assert_ne!(inspect(&plan, pod.fd()).await.unwrap(), [], "{damage}");
            assert_eq!(mend(plans()).await.unwrap(), missing, "{damage}");
            assert_eq!(inspect(&plan, pod.fd()).await.unwrap(), [], "{damage}");
        }
    });
}

#[test]
#[ignore = "needs root"]
fn an_abandoned_call_leaves_nothing() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(12, "eth0", Families::Both);
    node.run(async || {
        let mut given_up = 0;
        for _ in 0..20 {
            // Polled once: the work has begun; then the caller gives up.
            let work = try_add(&plan, pod.fd());
            match tokio::time::timeout(Duration::ZERO, work).await {
                Err(_) => given_up += 1,
                // The thread was faster than this one.
                Ok(made) => {
                    made.unwrap();
                    assert!(delete_link(&plan.host_ifname, &plan.alias).await.unwrap());
                }
            }
            // The link may still be about to come, so it must be gone and stay so.
            let mut quiet = 0;
            for _ in 0..400 {
                let gone = list_host_links().await.unwrap().is_empty();
                quiet = if gone { quiet + 1 } else { 0 };
                if quiet == 20 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(quiet, 20, "the link stays");
        }
        assert!(given_up > 0, "the kernel was too fast for this test");
    });
}

#[test]
#[ignore = "needs root"]
fn what_is_no_sandbox_is_refused() {
    let node = Netns::new("node");
    let plan = plan(13, "eth0", Families::V4);
    node.run(async || {
        let error = try_add(&plan, node.fd()).await.unwrap_err();
        assert!(matches!(error, NetlinkError::HostNetns(_)), "{error}");
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let error = try_add(&plan, file.as_fd()).await.unwrap_err();
        assert!(matches!(error, NetlinkError::NotNetns(_)), "{error}");
        let other_kind = std::fs::File::open("/proc/self/ns/uts").unwrap();
        let error = try_add(&plan, other_kind.as_fd()).await.unwrap_err();
        assert!(
            matches!(error.errno(), Some(libc::EINVAL))
                || matches!(error, NetlinkError::NotNetns(_)),
            "{error}"
        );
        assert_eq!(list_host_links().await.unwrap(), []);
    });
}

#[test]
#[ignore = "needs root"]
fn work_elsewhere_leaves_the_caller_where_it_is() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let pod_id = netns::identify(pod.fd()).unwrap();
    node.run(async || {
        let before = netns::current().unwrap();
        let inside = netns::run(pod.fd(), netns::current).await.unwrap();
        assert_eq!(inside, pod_id);
        assert_eq!(netns::current().unwrap(), before);
        assert_ne!(before, pod_id);
    });
}

#[test]
#[ignore = "needs root"]
fn fifty_at_once_are_all_whole() {
    let node = Netns::new("node");
    let pods: Vec<_> = (0..50)
        .map(|n| (plan(100 + n, "eth0", Families::Both), Netns::new("pod")))
        .collect();
    node.run(async || {
        let all = pods.iter().map(|(plan, pod)| async move {
            add(plan, pod).await;
            inspect(plan, pod.fd()).await.unwrap()
        });
        for differences in futures_util::future::join_all(all).await {
            assert_eq!(differences, []);
        }
        assert_eq!(list_host_links().await.unwrap().len(), 50);
    });
}
