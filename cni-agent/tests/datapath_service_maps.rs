//! Ring 2: the tables of Services as the agent writes them, over restarts and when they are full.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use aya::maps::{HashMap, Map, MapData};
use cni_agent::{
    datapath::{Datapath, DatapathConfig, LogLevel},
    service::Frontend,
};
use cni_ebpf_common::service::{
    Backend, BackendKey, Chunk, ChunkKey, Frontend as Row, FrontendKey, MAX_BACKENDS, MAX_FRONTENDS,
};
use std::{collections::BTreeMap, net::Ipv4Addr};
use support::{
    BpfDir,
    flows::{at, frontend},
    frames::{TCP, UDP},
};

fn load(bpf: &BpfDir) -> Datapath {
    let config = DatapathConfig {
        bpf_dir: bpf.dir(),
        log_level: LogLevel::Off,
    };
    Datapath::load(&config).unwrap_or_else(|e| panic!("{e}"))
}

/// Every frontend's list with what the list holds, and how many rows `backends` has.
fn tables(datapath: &Datapath) -> (BTreeMap<FrontendKey, (u32, Vec<Backend>)>, usize) {
    let open = |name: &str| {
        let pinned = datapath.pinned();
        let map = pinned.iter().find(|map| map.name == name).unwrap();
        Map::HashMap(MapData::from_pin(&map.path).unwrap())
    };
    let frontends = HashMap::<_, FrontendKey, Row>::try_from(open("frontends")).unwrap();
    let backends = HashMap::<_, BackendKey, Backend>::try_from(open("backends")).unwrap();
    let rows = frontends.iter().map(|row| {
        let (key, row) = row.unwrap();
        let slots = 0..row.internal.count;
        let list = slots.map(|slot| {
            let key = BackendKey {
                list: row.internal.number,
                slot,
            };
            backends.get(&key, 0).expect("a list has no gap")
        });
        (key, (row.internal.number, list.collect()))
    });
    (rows.collect(), backends.iter().count())
}

fn numbered(service: u32, backends: u32) -> Frontend {
    let [a, b, c, d] = (0x0a60_0000 + service).to_be_bytes();
    let backend = |i: u32| {
        let [a, b, c, d] = (0x0a01_0000 + i).to_be_bytes();
        // Of its own: frontends with the same backends share a list.
        at(Ipv4Addr::new(a, b, c, d), 1000 + (service % 60_000) as u16)
    };
    let backends: Vec<_> = (0..backends).map(backend).collect();
    frontend(at(Ipv4Addr::new(a, b, c, d), 80), TCP, &backends)
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_restart_renumbers_nothing_and_only_differences_are_written() {
    let bpf = BpfDir::new();
    let (one, two) = (numbered(1, 3), numbered(2, 2));
    let datapath = load(&bpf);
    let change = datapath.sync_services(&[one.clone(), two.clone()]).unwrap();
    // Each has a row for its address, too.
    assert_eq!((change.added, change.changed, change.removed), (4, 0, 0));
    let (before, rows) = tables(&datapath);
    assert_eq!((before.len(), rows), (4, 5));
    drop(datapath);
    let datapath = load(&bpf);
    let change = datapath.sync_services(&[one.clone(), two]).unwrap();
    assert_eq!((change.added, change.changed, change.removed), (0, 0, 0));
    assert_eq!(tables(&datapath), (before.clone(), 5));
    let more = numbered(2, 4);
    let change = datapath
        .sync_services(&[one.clone(), more.clone()])
        .unwrap();
    assert_eq!((change.added, change.changed, change.removed), (0, 1, 0));
    let (after, rows) = tables(&datapath);
    assert_eq!(rows, 7, "the old list is gone");
    let lists = |tables: &BTreeMap<FrontendKey, (u32, Vec<Backend>)>| {
        let lists = tables.values().filter(|list| !list.1.is_empty());
        lists.map(|list| list.0).collect::<Vec<_>>()
    };
    let (old, new) = (lists(&before), lists(&after));
    assert_eq!(old[0], new[0], "the list of the other frontend");
    assert!(!old.contains(&new[1]), "a number of its own");
    let change = datapath.sync_services(&[more]).unwrap();
    assert_eq!((change.added, change.changed, change.removed), (0, 0, 2));
    assert_eq!(tables(&datapath).1, 4);
    datapath.sync_services::<Frontend>(&[]).unwrap();
    assert_eq!(tables(&datapath), (BTreeMap::new(), 0));
}

/// A killed agent leaves a list that no frontend has yet: the next one removes it.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn what_a_killed_agent_had_half_written_is_mended() {
    let bpf = BpfDir::new();
    let datapath = load(&bpf);
    let one = numbered(1, 3);
    datapath.sync_services(std::slice::from_ref(&one)).unwrap();
    let (before, _) = tables(&datapath);
    let (list, backends) = before.values().find(|l| !l.1.is_empty()).unwrap().clone();
    let pinned = datapath.pinned();
    let path = &pinned
        .iter()
        .find(|map| map.name == "backends")
        .unwrap()
        .path;
    let map = Map::HashMap(MapData::from_pin(path).unwrap());
    let mut map = HashMap::<_, BackendKey, Backend>::try_from(map).unwrap();
    let stray = BackendKey {
        list: list + 7,
        slot: 0,
    };
    map.insert(stray, backends[0], 0).unwrap();
    map.remove(&BackendKey { list, slot: 1 }).unwrap();
    drop(datapath);
    let datapath = load(&bpf);
    datapath.sync_services(&[one]).unwrap();
    let (after, rows) = tables(&datapath);
    assert_eq!(rows, 3);
    let (mended, whole) = after.values().find(|l| !l.1.is_empty()).unwrap().clone();
    assert_eq!(whole, backends);
    assert!(mended > list + 7, "no number is used again");
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn frontends_without_room_are_left_out_and_named() {
    let bpf = BpfDir::new();
    let datapath = load(&bpf);
    // Too many backends in all: the last one has no room for its list.
    let each = MAX_BACKENDS / 4;
    let mut wanted: Vec<Frontend> = (1..=4).map(|i| numbered(i, each)).collect();
    wanted.push(numbered(5, 2));
    let change = datapath.sync_services(&wanted).unwrap();
    assert_eq!(change.refused, [numbered(5, 2)]);
    assert_eq!(tables(&datapath).1, MAX_BACKENDS as usize, "nothing half");
    // Whoever can't have its new backends is not left with its old ones.
    wanted[0] = numbered(1, each + 1);
    let change = datapath.sync_services(&wanted).unwrap();
    assert_eq!(change.refused, [numbered(1, each + 1)]);
    wanted.truncate(3);
    let change = datapath.sync_services(&wanted).unwrap();
    assert!(change.refused.is_empty());
    // Too many frontends: an address with one port takes two rows.
    let many: Vec<Frontend> = (1..=MAX_FRONTENDS / 2 + 1)
        .map(|i| numbered(i, 1))
        .collect();
    let change = datapath.sync_services(&many).unwrap();
    assert_eq!(change.refused.len(), 1);
    assert_eq!(tables(&datapath).0.len(), MAX_FRONTENDS as usize);
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn one_port_serves_two_protocols() {
    let bpf = BpfDir::new();
    let datapath = load(&bpf);
    let place = at(Ipv4Addr::new(10, 96, 0, 1), 53);
    let dns = [UDP, TCP].map(|protocol| {
        let port = 5300 + u16::from(protocol);
        frontend(place, protocol, &[at(Ipv4Addr::new(10, 1, 0, 2), port)])
    });
    datapath.sync_services(&dns).unwrap();
    let (tables, _) = tables(&datapath);
    let ports: Vec<_> = tables
        .iter()
        .flat_map(|(key, list)| {
            list.1
                .iter()
                .map(|b| (key.protocol, u16::from_be(b.port_be)))
        })
        .collect();
    assert_eq!(ports, [(TCP, 5306), (UDP, 5317)]);
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn frontends_with_the_same_backends_share_a_list_and_its_table() {
    let bpf = BpfDir::new();
    let datapath = load(&bpf);
    let chunks = |datapath: &Datapath| {
        let pinned = datapath.pinned();
        let map = pinned.iter().find(|map| map.name == "maglev").unwrap();
        let map = Map::HashMap(MapData::from_pin(&map.path).unwrap());
        let chunks = HashMap::<_, ChunkKey, Chunk>::try_from(map).unwrap();
        chunks.keys().count()
    };
    let one = numbered(1, 3);
    let same = Frontend {
        address: Ipv4Addr::new(192, 0, 2, 1).into(),
        ..one.clone()
    };
    let both = [one.clone(), same];
    datapath.sync_services(&both).unwrap();
    let (before, rows) = tables(&datapath);
    let numbers: Vec<u32> = before
        .values()
        .filter(|list| !list.1.is_empty())
        .map(|list| list.0)
        .collect();
    assert_eq!((rows, numbers.len(), numbers[0]), (3, 2, numbers[1]));
    assert_eq!(chunks(&datapath), 8, "509 places");
    drop(datapath);
    // The next agent finds them shared, and removes the list with the last frontend only.
    let datapath = load(&bpf);
    let change = datapath.sync_services(&both).unwrap();
    assert_eq!((change.added, change.changed, change.removed), (0, 0, 0));
    datapath.sync_services(&[one]).unwrap();
    assert_eq!((tables(&datapath).1, chunks(&datapath)), (3, 8));
    datapath.sync_services(&[numbered(2, 1)]).unwrap();
    assert_eq!((tables(&datapath).1, chunks(&datapath)), (1, 0));
}
