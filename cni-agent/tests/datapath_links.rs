//! Ring 3: pinned links of real interfaces: taken over, replaced, found stale, removed.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::datapath::{Datapath, DatapathConfig, DatapathError, LogLevel, XdpMode};
use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use support::{
    BpfDir, Netns, attempt,
    lab::{self, Lab},
    raw, run,
};

/// A node with one pair of interfaces, `fl1` (the host's end) and `eth1`.
struct Node {
    netns: Netns,
    bpf: BpfDir,
}

impl Node {
    fn new() -> Self {
        let node = Self {
            netns: Netns::new("fl-links-"),
            bpf: BpfDir::new(),
        };
        node.add("fl1");
        node
    }

    fn add(&self, ifname: &str) {
        self.netns.ip(&format!(
            "link add dev {ifname} type veth peer name {ifname}p"
        ));
        self.netns.ip(&format!("link set dev {ifname} up"));
    }

    fn load(&self) -> Datapath {
        let config = DatapathConfig {
            bpf_dir: self.bpf.dir(),
            log_level: LogLevel::Off,
        };
        self.netns
            .within(|| Datapath::load(&config))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    fn attach(&self, datapath: &Datapath, ifname: &str) -> Result<(), DatapathError> {
        let ifindex = self.netns.ifindex(ifname);
        self.netns
            .within(|| datapath.attach_endpoint(ifname, ifindex))
    }

    fn uplink(&self, datapath: &Datapath, xdp: XdpMode) -> Result<XdpMode, DatapathError> {
        let ifindex = self.netns.ifindex("fl1");
        self.netns
            .within(|| datapath.attach_uplink("fl1", ifindex, xdp))
            .map(|taken| taken.mode)
    }
}

/// Interface, program, index and link of everything that is attached.
fn links(datapath: &Datapath) -> Vec<(String, String, u32, u32)> {
    let all = datapath.attachments().unwrap();
    all.into_iter()
        .map(|a| (a.ifname, a.program, a.ifindex, a.link_id))
        .collect()
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_new_agent_takes_links_over_and_replaces_their_programs() {
    let node = Node::new();
    let first = node.load();
    node.attach(&first, "fl1").unwrap();
    let before = first.attachments().unwrap();
    assert_eq!(before.len(), 2);
    assert!(
        before
            .iter()
            .all(|a| a.ifindex == node.netns.ifindex("fl1"))
    );
    drop(first);
    let second = node.load();
    assert_eq!(
        second.attachments().unwrap(),
        before,
        "what was attached stays attached"
    );
    node.attach(&second, "fl1").unwrap();
    let after = second.attachments().unwrap();
    for (old, new) in before.iter().zip(&after) {
        assert_eq!((old.link_id, &old.program), (new.link_id, &new.program));
        assert_ne!(old.program_id, new.program_id);
    }
    // Attaching again changes nothing.
    node.attach(&second, "fl1").unwrap();
    assert_eq!(second.attachments().unwrap(), after);
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_link_of_an_interface_that_was_made_again_is_replaced() {
    let node = Node::new();
    let datapath = node.load();
    node.attach(&datapath, "fl1").unwrap();
    let before = links(&datapath);
    node.netns.ip("link del dev fl1");
    assert!(
        links(&datapath).iter().all(|link| link.2 == 0),
        "the pins are stale"
    );
    node.add("fl1");
    node.attach(&datapath, "fl1").unwrap();
    let after = links(&datapath);
    assert_eq!(after.len(), 2);
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(new.2, node.netns.ifindex("fl1"));
        assert_ne!((old.2, old.3), (new.2, new.3));
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn detaching_is_at_once_and_may_be_repeated() {
    let node = Node::new();
    let datapath = node.load();
    node.attach(&datapath, "fl1").unwrap();
    datapath.detach_endpoint("fl1").unwrap();
    assert!(datapath.attachments().unwrap().is_empty());
    datapath.detach_endpoint("fl1").unwrap();
    datapath.detach_endpoint("never-there").unwrap();
    // An interface that is gone took its attachments along; the pins go as well.
    node.attach(&datapath, "fl1").unwrap();
    node.netns.ip("link del dev fl1");
    datapath.detach_endpoint("fl1").unwrap();
    assert!(datapath.attachments().unwrap().is_empty());
}

/// Attaching shortens the kernel's waiting by a switch of the machine.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn the_machines_grace_periods_are_left_as_they_were() {
    let node = Node::new();
    let datapath = node.load();
    for _ in 0..20 {
        node.attach(&datapath, "fl1").unwrap();
        datapath.detach_endpoint("fl1").unwrap();
    }
    // Other tests attach as well: it is off whenever nobody does.
    let off = || {
        let text = std::fs::read_to_string("/sys/kernel/rcu_expedited").unwrap();
        text.trim() == "0"
    };
    let give_up = Instant::now() + Duration::from_secs(10);
    while !off() {
        assert!(Instant::now() < give_up, "left switched on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn lost_enforcement_is_named_and_put_right() {
    let lab = Lab::new();
    let endpoint = lab::endpoint(&lab.a);
    let (datapath, ifindex) = (&lab.datapath, lab.a.ifindex);
    let attach = |datapath: &Datapath| {
        let attached = lab.node.within(|| datapath.attach_endpoint("fla", ifindex));
        attached.unwrap();
    };
    let look = || {
        let found = lab.node.within(|| datapath.intact(&endpoint, ifindex));
        found.unwrap().unwrap_or_default()
    };
    assert_eq!(look(), "program from_pod on fla: expected, not attached");
    attach(datapath);
    assert_eq!(look(), "");
    for hook in ["from_pod", "to_pod"] {
        let all = datapath.attachments().unwrap();
        let link = all.iter().find(|link| link.program == hook).unwrap();
        run(&format!("bpftool link detach id {}", link.link_id));
        let expected = format!("program {hook} on fla: expected, not attached");
        assert_eq!(look(), expected);
        attach(datapath);
        assert_eq!(look(), "");
    }
    // Somebody removes a row, and somebody else's endpoint has the address.
    let write = || datapath.upsert_endpoint(&endpoint, ifindex).unwrap();
    let map = |name: &str| {
        let maps = datapath.pinned();
        let map = maps.into_iter().find(|map| map.name == name).unwrap();
        map.path.display().to_string()
    };
    let [a, b, c, d] = ifindex.to_ne_bytes();
    run(&format!(
        "bpftool map delete pinned {} key {a} {b} {c} {d}",
        map("endpoints")
    ));
    assert!(look().starts_with(&format!("map endpoints, interface {ifindex}: expected")));
    write();
    assert_eq!(look(), "");
    let mut other = lab::endpoint(&lab.b);
    other.addresses = endpoint.addresses;
    datapath.upsert_endpoint(&other, lab.b.ifindex).unwrap();
    let found = look();
    let expected = format!("map endpoint_addrs, {}: expected", lab.a.v4);
    assert!(found.starts_with(&expected), "{found}");
    write();
    assert_eq!(look(), "");
    // An interface that was made again is not the one that is meant.
    lab.node.ip("link del dev fla");
    lab.node
        .within(|| datapath.intact(&endpoint, ifindex))
        .unwrap_err();
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn names_that_are_not_what_the_caller_means_are_refused() {
    let node = Node::new();
    let datapath = node.load();
    let missing = node
        .netns
        .within(|| datapath.attach_endpoint("fl2", 77))
        .unwrap_err();
    assert!(
        matches!(missing, DatapathError::NoInterface { .. }),
        "{missing}"
    );
    let other = node
        .netns
        .within(|| datapath.attach_endpoint("fl1", 77))
        .unwrap_err();
    assert!(
        matches!(other, DatapathError::OtherInterface { expected: 77, .. }),
        "{other}"
    );
    assert!(datapath.attachments().unwrap().is_empty());
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn stale_endpoints_are_swept_and_uplinks_stay() {
    let node = Node::new();
    node.add("fl2");
    node.add("fl3");
    let datapath = node.load();
    node.attach(&datapath, "fl2").unwrap();
    node.attach(&datapath, "fl3").unwrap();
    node.uplink(&datapath, XdpMode::Off).unwrap();
    assert_eq!(datapath.retain_endpoints(&["fl2"]).unwrap(), ["fl3"]);
    let names: Vec<_> = links(&datapath).into_iter().map(|l| (l.0, l.1)).collect();
    let expected = [
        ("fl1", "from_uplink"),
        ("fl2", "from_pod"),
        ("fl2", "to_pod"),
    ];
    assert_eq!(names, expected.map(|(i, p)| (i.to_owned(), p.to_owned())));
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn xdp_follows_the_mode_that_is_asked_for() {
    let node = Node::new();
    let datapath = node.load();
    let program = |name: &str| {
        links(&datapath)
            .into_iter()
            .find(|l| l.1 == name)
            .map(|l| l.3)
    };
    let asked = |mode| node.uplink(&datapath, mode).unwrap();
    assert_eq!(asked(XdpMode::Native), XdpMode::Native);
    let native = program("xdp_uplink_native").unwrap();
    assert_eq!(asked(XdpMode::Native), XdpMode::Native);
    assert_eq!(program("xdp_uplink_native"), Some(native), "taken over");
    assert_eq!(asked(XdpMode::Generic), XdpMode::Generic);
    assert_eq!(program("xdp_uplink_native"), None);
    assert!(program("xdp_uplink_generic").is_some());
    // On a veth pair it costs more than it saves.
    assert_eq!(asked(XdpMode::Auto), XdpMode::Off);
    assert_eq!(program("xdp_uplink_generic"), None);
    assert_eq!(asked(XdpMode::Generic), XdpMode::Generic);
    assert_eq!(asked(XdpMode::Off), XdpMode::Off);
    assert_eq!(program("xdp_uplink_generic"), None);
    assert!(program("from_uplink").is_some());
    datapath.detach_uplink("fl1").unwrap();
    assert!(links(&datapath).is_empty());
    // Loopback's driver has no XDP.
    let on_lo = |mode| {
        let taken = node.netns.within(|| datapath.attach_uplink("lo", 1, mode));
        taken.map(|taken| taken.mode)
    };
    assert_eq!(on_lo(XdpMode::Auto).unwrap(), XdpMode::Generic);
    let generic = program("xdp_uplink_generic").unwrap();
    assert_eq!(on_lo(XdpMode::Auto).unwrap(), XdpMode::Generic);
    assert_eq!(program("xdp_uplink_generic"), Some(generic), "taken over");
    let fault = on_lo(XdpMode::Native).unwrap_err();
    let program = "xdp_uplink";
    assert!(
        matches!(&fault, DatapathError::Attach { program: p, .. } if *p == program),
        "{fault}"
    );
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn anothers_xdp_program_leaves_an_uplink_that_serves() {
    let (node, another) = (Node::new(), Node::new());
    let (ours, theirs) = (node.load(), another.load());
    // Loopback: its driver has no XDP, and the mode is ours to find.
    let on_lo =
        |datapath: &Datapath, mode| node.netns.within(|| datapath.attach_uplink("lo", 1, mode));
    on_lo(&theirs, XdpMode::Generic).unwrap();
    let taken = on_lo(&ours, XdpMode::Auto).unwrap();
    assert_eq!(taken.mode, XdpMode::Off);
    let refused = taken.refused.expect("the kernel says no").to_string();
    assert!(refused.contains("xdp_uplink to lo"), "{refused}");
    let programs = |datapath| links(datapath).into_iter().map(|l| l.1).collect::<Vec<_>>();
    assert_eq!(programs(&ours), ["from_uplink"]);
    // Who asks for a mode is told that it is not there.
    on_lo(&ours, XdpMode::Generic).unwrap_err();
    // It is taken when the other has gone.
    theirs.detach_uplink("lo").unwrap();
    let taken = on_lo(&ours, XdpMode::Auto).unwrap();
    assert!(taken.mode == XdpMode::Generic && taken.refused.is_none());
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn an_interface_may_have_a_dot_in_its_name() {
    let node = Node::new();
    node.add("up0.100");
    let datapath = node.load();
    let ifindex = node.netns.ifindex("up0.100");
    node.netns
        .within(|| datapath.attach_uplink("up0.100", ifindex, XdpMode::Off))
        .unwrap();
    assert_eq!(links(&datapath)[0].0, "up0.100");
    datapath.detach_uplink("up0.100").unwrap();
    assert!(links(&datapath).is_empty());
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn the_usual_place_is_mounted_once_when_nothing_is() {
    raw::with_own_mounts(|| {
        while attempt("umount -l /sys/fs/bpf").0 {}
        let dir = "/sys/fs/bpf/fairlead-test";
        let config = DatapathConfig {
            bpf_dir: dir.into(),
            log_level: LogLevel::Off,
        };
        for _ in 0..2 {
            let datapath = Datapath::load(&config).unwrap_or_else(|e| panic!("{e}"));
            assert!(
                datapath
                    .pinned()
                    .iter()
                    .all(|map| map.path.starts_with(dir))
            );
        }
        let mounts = std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
        assert_eq!(mounts.matches(" /sys/fs/bpf bpf ").count(), 1, "{mounts}");
    });
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn drops_are_logged_when_asked_for() {
    let lab = Lab::with_log(LogLevel::Debug);
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let reader = lab.datapath.log_reader().unwrap();
    lab.node
        .within(|| lab.datapath.attach_endpoint("fla", lab.a.ifindex))
        .unwrap();
    raw::inject(&lab.pods, "poda", &[vec![0; 60]]);
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let second = std::time::Duration::from_secs(1);
        runtime
            .block_on(async { tokio::time::timeout(second, reader.run()).await })
            .unwrap_err();
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let expected = format!("interface {}: dropped, reason 4, 60 bytes", lab.a.ifindex);
    assert!(text.contains(&expected), "{text}");
}
