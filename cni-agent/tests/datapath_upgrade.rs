//! Ring 3: an agent whose maps have another layout takes a running node over. The former agent is
//! one of ours whose folder is called by another version's name: nothing in its maps is reused.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use aya::programs::{SchedClassifier, TcAttachType};
use cni_agent::datapath::{Attachment, Datapath, DatapathConfig, LogLevel, XdpMode};
use cni_ebpf_common::LAYOUT_VERSION;
use std::{
    fs,
    net::IpAddr,
    process::{Command, Stdio},
};
use support::{
    BpfDir, Netns,
    cluster::{Cluster, Node},
    lab,
};

const OTHER_VERSION: u32 = LAYOUT_VERSION + 1;

fn folder(bpf: &BpfDir, version: u32) -> std::path::PathBuf {
    bpf.dir().join(format!("v{version}"))
}

/// Makes what is pinned another version's.
fn disguise(bpf: &BpfDir) {
    let (ours, other) = (folder(bpf, LAYOUT_VERSION), folder(bpf, OTHER_VERSION));
    fs::rename(ours, other).unwrap();
}

/// Programs on an interface by hook, as the interface itself says.
fn programs(netns: &Netns, ifname: &str) -> [Vec<u32>; 2] {
    netns.within(|| {
        [TcAttachType::Ingress, TcAttachType::Egress].map(|direction| {
            let (_, there) = SchedClassifier::query_tcx(ifname, direction).unwrap();
            there.iter().map(|info| info.id()).collect()
        })
    })
}

/// Each link is the one that was, with the program that its interface runs alone.
fn assert_same_links(node: &Node, before: &[Attachment], after: &[Attachment], replaced: bool) {
    assert_eq!(before.len(), after.len());
    for (old, new) in before.iter().zip(after) {
        assert_eq!(
            (&old.ifname, &old.program, old.ifindex, old.link_id),
            (&new.ifname, &new.program, new.ifindex, new.link_id)
        );
        assert_eq!(old.program_id != new.program_id, replaced, "{new:?}");
        if new.program.starts_with("xdp") {
            continue;
        }
        let [ingress, egress] = programs(&node.netns, &new.ifname);
        let hook = if new.program == "to_pod" {
            egress
        } else {
            ingress
        };
        assert_eq!(hook, [new.program_id], "{new:?}");
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn another_layout_takes_over_without_losing_a_packet() {
    let cluster = Cluster::new(XdpMode::Native, 1500);
    let [first, second, far] = &cluster.pods;
    let start = |to: IpAddr| {
        let line = first
            .netns
            .wrap(&format!("ping -q -i 0.001 -c 3000 -W 2 {to}"));
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdout(Stdio::piped()).spawn().unwrap()
    };
    let targets = [second.pod.v4.into(), far.pod.v4.into(), far.pod.v6.into()];
    for to in targets {
        // Neighbours are known: what comes has no other reason to be lost.
        first.netns.run(&format!("ping -c 1 -W 2 {to}"));
    }
    let pings = targets.map(start);
    for node in &cluster.nodes {
        let before = node.datapath.attachments().unwrap();
        assert!(!before.is_empty());
        disguise(&node.bpf);
        let datapath = node.load();
        // The links have moved, and still run what they ran, with the maps that it knows.
        let moved = datapath.attachments().unwrap();
        assert_same_links(node, &before, &moved, false);
        assert!(!folder(&node.bpf, OTHER_VERSION).exists());
        assert!(datapath.endpoints().unwrap().is_empty());
        node.fill(&datapath);
        node.attach(&datapath);
        let after = datapath.attachments().unwrap();
        assert_same_links(node, &before, &after, true);
    }
    for ping in pings {
        let output = ping.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("3000 packets transmitted, 3000 received"),
            "{text}"
        );
    }
}

/// An agent that does not know of ours attached beside it: two programs on each hook.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn of_two_links_on_one_hook_one_stays() {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let node = &cluster.nodes[0];
    let pod = &cluster.pods[0].pod;
    let elsewhere = node.bpf.dir().join("elsewhere");
    let beside = node
        .netns
        .within(|| {
            Datapath::load(&DatapathConfig {
                bpf_dir: elsewhere.clone(),
                log_level: LogLevel::Off,
            })
        })
        .unwrap();
    beside
        .upsert_endpoint(&lab::endpoint(pod), pod.ifindex)
        .unwrap();
    node.netns
        .within(|| beside.attach_endpoint(pod.ifname, pod.ifindex))
        .unwrap();
    assert!(
        programs(&node.netns, pod.ifname)
            .iter()
            .all(|hook| hook.len() == 2)
    );
    fs::rename(
        elsewhere.join(format!("v{LAYOUT_VERSION}")),
        folder(&node.bpf, OTHER_VERSION),
    )
    .unwrap();
    let before = node.datapath.attachments().unwrap();
    let datapath = node.load();
    assert_same_links(node, &before, &datapath.attachments().unwrap(), false);
    assert!(!folder(&node.bpf, OTHER_VERSION).exists());
}

/// The other agent's pod ended while no agent ran: its pins are swept like our own.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn stale_links_of_another_layout_are_swept() {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let (node, gone) = (&cluster.nodes[0], &cluster.pods[0].pod);
    node.netns.ip(&format!("link del dev {}", gone.ifname));
    disguise(&node.bpf);
    let datapath = node.load();
    let kept = cluster.pods[1].pod.ifname;
    assert_eq!(datapath.retain_endpoints(&[kept]).unwrap(), [gone.ifname]);
    let left = datapath.attachments().unwrap();
    assert!(left.iter().all(|a| a.ifindex != 0), "{left:?}");
    assert_eq!(left.len(), 3);
}
