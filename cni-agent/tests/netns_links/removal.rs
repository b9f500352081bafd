//! DEL: idempotent, only our own, and cheap in numbers.

use super::node::{Families, Netns, add, plan, try_add};
use cni_agent::netlink::{
    NetlinkError,
    link::{LinkPlan, OwnLink, delete_link, inspect, list_host_links, mark_dying, reap},
};

fn own(plan: &LinkPlan) -> OwnLink {
    OwnLink {
        host_ifname: plan.host_ifname.clone(),
        alias: plan.alias.clone(),
    }
}

#[test]
#[ignore = "needs root"]
fn deleting_is_repeatable_and_complete() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(20, "eth0", Families::Both);
    node.run(async || {
        add(&plan, &pod).await;
        assert!(delete_link(&plan.host_ifname, &plan.alias).await.unwrap());
        assert!(!delete_link(&plan.host_ifname, &plan.alias).await.unwrap());
    });
    assert!(!pod.attempt("ip link show eth0").0);
    assert_eq!(node.sh("ip route; ip neigh; ip -6 neigh").trim(), "");
}

#[test]
#[ignore = "needs root"]
fn links_of_others_are_left_alone() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(21, "eth0", Families::V4);
    node.sh(&format!(
        "ip link add {} type veth peer name x0",
        plan.host_ifname
    ));
    node.run(async || {
        let error = delete_link(&plan.host_ifname, &plan.alias)
            .await
            .unwrap_err();
        assert!(matches!(error, NetlinkError::NotOurs { .. }), "{error}");
        let error = mark_dying(&[own(&plan)]).unwrap_err();
        assert!(matches!(error, NetlinkError::NotOurs { .. }), "{error}");
        assert_eq!(list_host_links().await.unwrap(), []);
        let error = try_add(&plan, pod.fd()).await.unwrap_err();
        assert!(matches!(error, NetlinkError::HostExists { .. }), "{error}");
    });
    node.sh(&format!("ip link show {}", plan.host_ifname));
}

#[test]
#[ignore = "needs root"]
fn marked_links_carry_nothing_and_go_together() {
    let node = Netns::new("node");
    node.sh("ip link set lo up; ip address add 192.0.2.1/32 dev lo");
    let pods: Vec<_> = (0..5)
        .map(|n| (plan(30 + n, "eth0", Families::V4), Netns::new("pod")))
        .collect();
    node.run(async || {
        for (plan, pod) in &pods {
            add(plan, pod).await;
            pod.sh("ping -c 1 -W 2 192.0.2.1");
        }
        let dying: Vec<_> = pods.iter().take(4).map(|(plan, _)| own(plan)).collect();
        assert_eq!(mark_dying(&dying).unwrap(), 4);
        assert!(!pods[0].1.attempt("ping -c 1 -W 0.2 192.0.2.1").0);
        let links = list_host_links().await.unwrap();
        assert_eq!(
            links.iter().filter(|link| link.dying && !link.up).count(),
            4
        );

        assert_eq!(reap().await.unwrap(), 4);
        assert_eq!(reap().await.unwrap(), 0);
        assert_eq!(mark_dying(&dying).unwrap(), 0);
        assert_eq!(list_host_links().await.unwrap().len(), 1);
        pods[4].1.sh("ping -c 1 -W 2 192.0.2.1");
    });
}

#[test]
#[ignore = "needs root"]
fn a_foreign_link_in_the_group_survives() {
    // The groups of the marked and of those that the next request deletes.
    for group in [1_179_411_577, GOING] {
        let (node, pod) = (Netns::new("node"), Netns::new("pod"));
        let plan = plan(40, "eth0", Families::V4);
        node.sh(&format!(
            "ip link add x0 type veth peer name x1; ip link set x0 group {group}"
        ));
        node.run(async || {
            add(&plan, &pod).await;
            mark_dying(&[own(&plan)]).unwrap();
            assert_eq!(reap().await.unwrap(), 1);
            assert_eq!(list_host_links().await.unwrap(), []);
        });
        node.sh("ip link show x0");
    }
}

/// "FLgo".
const GOING: u32 = 1_179_412_335;

/// An agent that was killed between setting links apart and deleting them.
#[test]
#[ignore = "needs root"]
fn links_that_were_set_apart_are_deleted_by_the_next_reaping() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(42, "eth0", Families::V4);
    node.run(async || {
        add(&plan, &pod).await;
        node.sh(&format!("ip link set {} group {GOING}", plan.host_ifname));
        assert!(list_host_links().await.unwrap()[0].dying);
        assert_eq!(reap().await.unwrap(), 1);
        assert_eq!(list_host_links().await.unwrap(), []);
    });
}

#[test]
#[ignore = "needs root"]
fn a_name_in_the_sandbox_is_free_once_its_attachment_is_deleted() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let (first, second) = (
        plan(43, "eth0", Families::V4),
        plan(44, "eth0", Families::V4),
    );
    node.run(async || {
        add(&first, &pod).await;
        mark_dying(&[own(&first)]).unwrap();
        add(&second, &pod).await;
        assert_eq!(inspect(&second, pod.fd()).await.unwrap(), []);
    });
}

#[test]
#[ignore = "needs root"]
fn the_same_attachment_may_return_before_reaping() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(41, "eth0", Families::Both);
    node.run(async || {
        for _ in 0..3 {
            add(&plan, &pod).await;
            mark_dying(&[own(&plan)]).unwrap();
        }
        add(&plan, &pod).await;
        assert_eq!(inspect(&plan, pod.fd()).await.unwrap(), []);
    });
}

#[test]
#[ignore = "needs root"]
fn a_sandbox_that_ended_takes_its_link_along() {
    let (node, pod) = (Netns::new("node"), Netns::new("pod"));
    let plan = plan(42, "eth0", Families::V4);
    node.run(async || {
        add(&plan, &pod).await;
        drop(pod);
        // The kernel ends namespaces in deferred work.
        for _ in 0..500 {
            if list_host_links().await.unwrap().is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(list_host_links().await.unwrap(), []);
        assert!(!delete_link(&plan.host_ifname, &plan.alias).await.unwrap());
    });
}
