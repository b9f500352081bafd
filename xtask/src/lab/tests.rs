//! The lab tested on what needs no agent: reference paths, probes, clean-up.
//!
//! Run by `cargo xtask test`; a plain `cargo test` leaves them out.

use super::{probe::*, reference, *};

fn lab(session: &Arc<Session>, nodes: u8, underlay: Underlay) -> Lab {
    Lab::new(
        session,
        LabOptions {
            name: "t",
            nodes,
            underlay,
        },
    )
    .unwrap()
}

/// Everything in the machine's shared places that belongs to a run.
fn traces(session: &str) -> Vec<String> {
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let mut traces: Vec<_> = namespaces
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(session))
        .collect();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    traces.extend(
        mounts
            .lines()
            .filter(|line| line.contains(session))
            .map(str::to_owned),
    );
    traces
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn kernel_routed_pods_reach_each_other_on_every_underlay() {
    for underlay in [
        Underlay::Bridge,
        Underlay::Direct,
        Underlay::Routers { mtu: 1400 },
    ] {
        let session = Session::start().unwrap();
        let lab = lab(&session, 2, underlay);
        reference::route_nodes(&lab.nodes).unwrap();
        let pods: Vec<_> = lab
            .nodes
            .iter()
            .map(|node| reference::routed_pod(node, 0).unwrap())
            .collect();
        let _server = Server::start(&pods[1].ns).unwrap();
        for v6 in [false, true] {
            for proto in Proto::ALL {
                let target = pods[1].addr(v6);
                let result = pods[0].ns.run(|| proto.check(target));
                assert!(result.is_ok(), "{underlay:?} {proto} {target}: {result:?}");
            }
        }
    }
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn path_mtu_fragments_and_sizes_survive_a_narrow_path() {
    let session = Session::start().unwrap();
    let lab = lab(&session, 2, Underlay::Routers { mtu: 1300 });
    reference::route_nodes(&lab.nodes).unwrap();
    let a = reference::routed_pod(&lab.nodes[0], 0).unwrap();
    let b = reference::routed_pod(&lab.nodes[1], 0).unwrap();
    let _server = Server::start(&b.ns).unwrap();
    for v6 in [false, true] {
        let target = b.addr(v6);
        for size in [0, 1, 1_000_000] {
            let done = a.ns.run(|| transfer(target, size)).unwrap();
            assert_eq!(done.bytes, size);
        }
        // The first datagram tells the sender the path's MTU and is lost, as UDP is.
        drop(a.ns.run(|| udp_echo(target, 8000)));
        a.ns.run(|| udp_echo(target, 8000)).unwrap();
    }
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_steady_pinger_counts_what_is_lost_while_a_route_is_away() {
    let session = Session::start().unwrap();
    let lab = lab(&session, 2, Underlay::Direct);
    reference::route_nodes(&lab.nodes).unwrap();
    let a = reference::routed_pod(&lab.nodes[0], 0).unwrap();
    let b = reference::routed_pod(&lab.nodes[1], 0).unwrap();
    let _server = Server::start(&b.ns).unwrap();
    for kind in [SteadyKind::Icmp, SteadyKind::Udp] {
        let pinger = Steady::start(&a.ns, b.v4.into(), kind, 1000).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        let whole = pinger.finish().unwrap();
        assert!(whole.sent > 200, "{whole:?}");
        assert_eq!((whole.lost, whole.duplicates), (0, 0), "{kind:?}");

        let pinger = Steady::start(&a.ns, b.v4.into(), kind, 1000).unwrap();
        let away = format!("route replace blackhole {}/32", b.v4);
        let back = format!("route replace {}/32 dev {}", b.v4, b.name);
        lab.nodes[1].ns.ip(&away).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        lab.nodes[1].ns.ip(&back).unwrap();
        let broken = pinger.finish().unwrap();
        assert!(
            broken.lost > 50,
            "{kind:?}: {} of {} lost",
            broken.lost,
            broken.sent
        );
    }
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_forged_source_is_seen_where_nothing_drops_it() {
    let session = Session::start().unwrap();
    let lab = lab(&session, 2, Underlay::Direct);
    reference::route_nodes(&lab.nodes).unwrap();
    let a = reference::routed_pod(&lab.nodes[0], 0).unwrap();
    let b = reference::routed_pod(&lab.nodes[1], 0).unwrap();
    a.ns.ip("addr add 100.11.1.250/32 dev eth0").unwrap();
    let (own, forged) = (a.addr(false), "100.11.1.250".parse().unwrap());
    let sources = [own, forged, own];
    let seen = arrivals((&a.ns, &b.ns), b.addr(false), &sources).unwrap();
    assert_eq!(seen, sources);
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn nothing_is_left_when_a_run_ends_or_panics() {
    let session = Session::start().unwrap();
    let name = session.name().to_owned();
    let dir = session.dir().to_owned();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let lab = lab(&session, 2, Underlay::Bridge);
        let mut sleep = std::process::Command::new("sleep");
        let process = lab.nodes[0]
            .ns
            .spawn("a sleeper", sleep.arg("1000"))
            .unwrap();
        let pid = process.id();
        assert!(!traces(session.name()).is_empty());
        std::panic::panic_any(pid);
    }));
    let pid = *panicked.unwrap_err().downcast::<u32>().unwrap();
    assert_eq!(traces(&name), Vec::<String>::new());
    assert!(!dir.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn what_a_killed_run_left_is_swept() {
    // A folder and a namespace as a run leaves them that was killed; its pid is free again.
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    let pid = gone.id();
    gone.wait().unwrap();
    let name = format!("flab{pid}-test");
    let dir = std::env::temp_dir().join(&name);
    fs::create_dir_all(dir.join("children")).unwrap();
    fs::create_dir_all(dir.join("bpf")).unwrap();
    fs::write(dir.join("owner"), "1").unwrap();
    mount("bpf", dir.join("bpf"), "bpf", MountFlags::empty(), None).unwrap();
    session::run("ip", &["netns", "add", &format!("{name}-n1")]).unwrap();

    // And what a killed test of the agent leaves.
    let (other, folder) = (format!("fl-t-{pid:x}-0"), format!("fairlead-bpf-{pid:x}-0"));
    session::run("ip", &["netns", "add", &other]).unwrap();
    let folder_path = std::env::temp_dir().join(&folder);
    fs::create_dir_all(&folder_path).unwrap();
    mount("bpf", &folder_path, "bpf", MountFlags::empty(), None).unwrap();

    let swept = sweep().unwrap();
    for gone in [&name, &other, &folder] {
        assert!(swept.removed.contains(gone), "{gone}: {swept:?}");
    }
    assert_eq!(traces(&other), Vec::<String>::new());
    assert!(!folder_path.exists());
    assert_eq!(traces(&name), Vec::<String>::new());
    assert!(!dir.exists());
}
