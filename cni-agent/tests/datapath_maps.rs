//! Ring 2: rows and counters in the pinned maps, and what happens when a map is full.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::{
    datapath::{Datapath, DatapathConfig, DatapathError, DropReason, LogLevel, NodeRoute, Via},
    model,
};
use cni_ebpf_common::LAYOUT_VERSION;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use support::{
    BpfDir,
    lab::{self, Lab, Pod, Program, Verdict},
    run,
};

fn load(bpf: &BpfDir) -> Datapath {
    let config = DatapathConfig {
        bpf_dir: bpf.dir(),
        log_level: LogLevel::Off,
    };
    Datapath::load(&config).unwrap_or_else(|e| panic!("{e}"))
}

/// An endpoint with both addresses made from its number.
fn numbered(id: u32) -> model::Endpoint {
    let [_, _, high, low] = id.to_be_bytes();
    lab::endpoint(&Pod {
        ifname: "fl",
        ifindex: id,
        id,
        mac: [2, 0, 0, 0, high, low],
        v4: Ipv4Addr::new(10, 1, high, low),
        v6: Ipv6Addr::from(0xfd00_0000_0000_0000_0000_0000_0000_0000 | u128::from(id)),
    })
}

fn ids(datapath: &Datapath) -> BTreeSet<u32> {
    let rows = datapath.endpoints().unwrap();
    let by_interface: BTreeSet<_> = rows.iter().map(|r| r.1.id).collect();
    let by_address: BTreeSet<_> = datapath
        .addresses()
        .unwrap()
        .iter()
        .map(|r| r.1.id)
        .collect();
    assert_eq!(by_interface, by_address);
    by_interface
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn an_endpoint_is_written_replaced_and_removed_whole() {
    let bpf = BpfDir::new();
    let datapath = load(&bpf);
    for id in [1, 2] {
        datapath.upsert_endpoint(&numbered(id), id + 100).unwrap();
        datapath.upsert_endpoint(&numbered(id), id + 100).unwrap();
    }
    assert_eq!(ids(&datapath), [1, 2].into());
    assert_eq!(datapath.endpoints().unwrap()[0].0, 101);
    let addresses: Vec<IpAddr> = datapath.addresses().unwrap().iter().map(|r| r.0).collect();
    assert!(addresses.contains(&"10.1.0.1".parse().unwrap()));
    assert!(addresses.contains(&"fd00::2".parse().unwrap()));

    // The interface was made again: the row of the old one goes.
    datapath.upsert_endpoint(&numbered(1), 201).unwrap();
    let interfaces: Vec<u32> = datapath.endpoints().unwrap().iter().map(|r| r.0).collect();
    assert_eq!(interfaces, [102, 201]);

    // Another endpoint took the addresses over: removing the first leaves them.
    let mut heir = numbered(1);
    heir.id = 9;
    datapath.upsert_endpoint(&heir, 301).unwrap();
    datapath.remove_endpoint(&numbered(1)).unwrap();
    assert_eq!(ids(&datapath), [2, 9].into());

    // The maps outlive the agent.
    drop(datapath);
    let datapath = load(&bpf);
    assert_eq!(
        datapath.retain_endpoint_rows(&[2].into()).unwrap(),
        [9].into()
    );
    datapath.remove_endpoint(&numbered(2)).unwrap();
    datapath.remove_endpoint(&numbered(2)).unwrap();
    assert!(ids(&datapath).is_empty());
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_full_map_refuses_a_new_endpoint_and_keeps_the_others() {
    let bpf = BpfDir::new();
    let datapath = load(&bpf);
    for id in 1..=4096 {
        datapath.upsert_endpoint(&numbered(id), id).unwrap();
    }
    let fault = datapath.upsert_endpoint(&numbered(5000), 5000).unwrap_err();
    assert!(
        matches!(
            fault,
            DatapathError::MapFull {
                map: "endpoints",
                size: 4096
            }
        ),
        "{fault}"
    );
    assert!(
        fault
            .to_string()
            .contains("endpoints is full: it holds 4096 rows")
    );
    assert_eq!(ids(&datapath).len(), 4096);
    // What is there can still be replaced, and what is removed makes room.
    datapath.upsert_endpoint(&numbered(7), 7).unwrap();
    datapath.remove_endpoint(&numbered(8)).unwrap();
    datapath.upsert_endpoint(&numbered(5000), 5000).unwrap();
    assert!(ids(&datapath).contains(&5000));
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn addresses_without_room_take_the_whole_endpoint_back() {
    let bpf = BpfDir::new();
    let datapath = load(&bpf);
    for id in 1..=4095 {
        datapath.upsert_endpoint(&numbered(id), id).unwrap();
    }
    // An endpoint that lost its interface's row: the addresses are full before the interfaces are.
    datapath.upsert_endpoint(&numbered(4096), 4096).unwrap();
    let folder = bpf.dir().join(format!("v{LAYOUT_VERSION}"));
    let (path, key) = (folder.join("maps/endpoints"), 4096u32.to_ne_bytes());
    let key = key.map(|b| b.to_string()).join(" ");
    run(&format!(
        "bpftool map delete pinned {} key {key}",
        path.display()
    ));
    let fault = datapath.upsert_endpoint(&numbered(5000), 5000).unwrap_err();
    assert!(
        matches!(
            fault,
            DatapathError::MapFull {
                map: "endpoint_addrs",
                size: 8192
            }
        ),
        "{fault}"
    );
    assert!(
        !datapath
            .endpoints()
            .unwrap()
            .iter()
            .any(|row| row.0 == 5000)
    );
    assert!(
        !datapath
            .addresses()
            .unwrap()
            .iter()
            .any(|row| row.1.id == 5000)
    );
}

fn remote(net: u32, next_hop: &str) -> NodeRoute {
    let cidr = Ipv4Addr::from(0x0a00_0000 + (net << 8));
    let next_hop = next_hop.parse().unwrap();
    NodeRoute {
        cidr: format!("{cidr}/24").parse().unwrap(),
        via: Via::Node {
            next_hop,
            ifindex: 2,
            mtu: 1500,
        },
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn nodes_become_the_desired_ones() {
    let bpf = BpfDir::new();
    let datapath = load(&bpf);
    let local = NodeRoute {
        cidr: "fd00:1::/64".parse().unwrap(),
        via: Via::Local,
    };
    let change = datapath
        .sync_nodes(&[remote(1, "192.0.2.1"), remote(2, "192.0.2.2"), local])
        .unwrap();
    assert_eq!((change.added, change.changed, change.removed), (3, 0, 0));
    let desired = [remote(2, "192.0.2.9"), remote(3, "192.0.2.3"), local];
    let change = datapath.sync_nodes(&desired).unwrap();
    assert_eq!((change.added, change.changed, change.removed), (1, 1, 1));
    assert_eq!(datapath.nodes().unwrap(), desired);
    let change = datapath.sync_nodes(&desired).unwrap();
    assert_eq!(change, Default::default());
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn nodes_without_room_are_named_and_take_what_becomes_free() {
    let bpf = BpfDir::new();
    let datapath = load(&bpf);
    let many: Vec<_> = (0..16_386).map(|net| remote(net, "192.0.2.1")).collect();
    let change = datapath.sync_nodes(&many).unwrap();
    assert_eq!(change.added, 16_384);
    assert_eq!(change.refused, [many[16_384].cidr, many[16_385].cidr]);
    // Two leave in the same call in which two wait.
    let change = datapath.sync_nodes(&many[2..]).unwrap();
    assert_eq!(
        (change.added, change.removed, change.refused.len()),
        (2, 2, 0)
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn counters_of_a_removed_interface_go_with_it_and_totals_stay() {
    let lab = Lab::new();
    for pod in [lab.a, lab.b] {
        let outcome = lab.run(Program::FromPod, pod.ifindex, &[0; 60]);
        assert_eq!(outcome.verdict, Verdict::Drop);
        assert_eq!(lab.drops(pod.ifindex), [(DropReason::SourceMac, 1)].into());
    }
    lab.datapath
        .remove_endpoint(&lab::endpoint(&lab.a))
        .unwrap();
    assert!(lab.drops(lab.a.ifindex).is_empty());
    assert!(!lab.drops(lab.b.ifindex).is_empty());
    let totals = lab.datapath.drop_totals().unwrap();
    let total = totals
        .iter()
        .find(|row| row.0 == DropReason::SourceMac)
        .unwrap()
        .1;
    assert_eq!((total.packets, total.bytes), (2, 120));
    // A late packet of the interface, then its programs go.
    lab.node
        .within(|| lab.datapath.attach_endpoint("fla", lab.a.ifindex))
        .unwrap();
    lab.run(Program::FromPod, lab.a.ifindex, &[0; 60]);
    assert!(!lab.drops(lab.a.ifindex).is_empty());
    lab.datapath.detach_endpoint("fla").unwrap();
    assert!(lab.drops(lab.a.ifindex).is_empty());
}

/// More interfaces and reasons than `drops` has rows for are counted in the totals alone.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn drops_without_room_are_counted_in_the_totals() {
    let lab = Lab::new();
    let rows = lab.datapath.pinned();
    let drops = rows.iter().find(|map| map.name == "drops").unwrap();
    let mut batch = String::new();
    let hex = |n: u32| n.to_ne_bytes().map(|b| format!("0x{b:02x}")).join(" ");
    let zeros = "0 ".repeat(16);
    for ifindex in 0..drops.size {
        let (path, key) = (drops.path.display(), hex(ifindex + 100_000));
        batch += &format!(
            "map update pinned {path} key {key} {} value {zeros}\n",
            hex(1)
        );
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, batch).unwrap();
    run(&format!("bpftool batch file {}", file.path().display()));
    assert_eq!(
        lab.run(Program::FromPod, lab.a.ifindex, &[0; 60]).verdict,
        Verdict::Drop
    );
    assert!(lab.drops(lab.a.ifindex).is_empty());
    let totals = lab.datapath.drop_totals().unwrap();
    assert!(
        totals
            .iter()
            .any(|row| row.0 == DropReason::SourceMac && row.1.packets == 1)
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn bpftool_prints_rows_with_field_names() {
    let lab = Lab::new();
    let expected = [
        ("endpoints", "\"ifindex\": ", "\"host_mac\": "),
        ("endpoint_addrs", "\"addr\": ", "\"ifindex\": "),
        ("nodes", "\"prefix_len\": ", "\"next_hop\": "),
        ("paths", "\"key\": ", "\"packets\": "),
        ("drop_totals", "\"key\": ", "\"bytes\": "),
    ];
    for (name, first, second) in expected {
        let map = lab
            .datapath
            .pinned()
            .into_iter()
            .find(|map| map.name == name)
            .unwrap();
        let text = run(&format!("bpftool map dump pinned {}", map.path.display()));
        assert!(
            text.contains(first) && text.contains(second),
            "{name}: {text}"
        );
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pinned_map_of_another_shape_is_refused() {
    let bpf = BpfDir::new();
    let maps = bpf.dir().join(format!("v{LAYOUT_VERSION}/maps"));
    std::fs::create_dir_all(&maps).unwrap();
    let path = maps.join("nodes");
    run(&format!(
        "bpftool map create {} type hash key 20 value 28 entries 16384 name nodes flags 1",
        path.display()
    ));
    let config = DatapathConfig {
        bpf_dir: bpf.dir(),
        log_level: LogLevel::Off,
    };
    let fault = Datapath::load(&config).unwrap_err();
    assert!(
        matches!(
            fault,
            DatapathError::MapShape {
                property: "type",
                ..
            }
        ),
        "{fault}"
    );
}
