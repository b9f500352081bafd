//! Ring 3: real packets that are followed through the programs, while others pass by.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::{
    datapath::{
        Datapath, DatapathError, DropReason, Judgement, PacketPath, TraceReader, TraceScope,
        TracedAction, TracedStep, TracedWalk, XdpMode,
    },
    model::{
        self, NetworkPolicy, Operator, Peer, PortChoice, Ports, Protocol, Requirement, Rule,
        Selector,
    },
    policy::{Compiler, Direction, LocalPod, Tables, plan},
    state,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use support::{
    cluster::{Cluster, PodNetns},
    flows::{at, frontend},
    frames::TCP,
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

fn between(first: &[IpAddr], second: &[IpAddr]) -> TraceScope {
    TraceScope {
        first: first.to_vec(),
        second: Some(second.to_vec()),
    }
}

fn of(first: impl Into<IpAddr>) -> TraceScope {
    TraceScope {
        first: vec![first.into()],
        second: None,
    }
}

fn ping(from: &PodNetns, to: impl Into<IpAddr>) -> bool {
    let line = format!("ping -c 1 -W 2 {}", to.into());
    from.netns.attempt(&line).0
}

/// A connection that is made, or not within a moment.
fn connects(from: &PodNetns, to: SocketAddr) -> bool {
    let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok();
    from.netns.within(connect)
}

fn listen(on: &PodNetns, port: u16) -> TcpListener {
    let address = SocketAddr::new(on.pod.v4.into(), port);
    on.netns.within(|| TcpListener::bind(address).unwrap())
}

/// Of each walk: program, who sends to whom, what it did.
fn told(
    reader: &mut TraceReader,
) -> Vec<(&'static str, [IpAddr; 2], Vec<TracedStep>, TracedAction)> {
    let walks = reader.read();
    assert_eq!(reader.lost().unwrap(), 0);
    let told = walks.into_iter().map(|walk: TracedWalk| {
        let ends = walk.ends.unwrap();
        let ends = [ends.source.ip(), ends.destination.ip()];
        (walk.program, ends, walk.steps, walk.action)
    });
    told.collect()
}

/// What was told until a client has acknowledged its connection, which it may do after it has been told that
/// it has one.
fn connected(reader: &mut TraceReader) -> Vec<TracedWalk> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut walks = Vec::new();
    while walks.iter().all(|walk: &TracedWalk| walk.flags != ".") {
        assert!(Instant::now() < deadline, "{walks:?}");
        walks.extend(reader.read());
    }
    walks
}

fn with_flags<'a>(walks: &'a [TracedWalk], flags: &str) -> &'a TracedWalk {
    let found = walks.iter().find(|walk| walk.flags == flags);
    found.unwrap_or_else(|| panic!("{flags} in {walks:?}"))
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_talk_is_told_in_both_directions_and_nobody_elses() {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let [a, b, far] = &cluster.pods;
    let node = &cluster.nodes[0].datapath;
    let families: [[IpAddr; 3]; 2] = [
        [a.pod.v4.into(), b.pod.v4.into(), far.pod.v4.into()],
        [a.pod.v6.into(), b.pod.v6.into(), far.pod.v6.into()],
    ];
    for [ip_a, ip_b, ip_far] in families {
        let mut reader = node.start_trace(&between(&[ip_a], &[ip_b])).unwrap();
        assert!(ping(a, ip_b) && ping(a, ip_far) && ping(b, ip_far));
        let way = vec![TracedStep::Path(PacketPath::PodToPod)];
        let expected = [
            (
                "from_pod",
                [ip_a, ip_b],
                way.clone(),
                TracedAction::Redirected,
            ),
            ("from_pod", [ip_b, ip_a], way, TracedAction::Redirected),
        ];
        let mut seen = told(&mut reader);
        seen.sort_by_key(|(_, ends, ..)| *ends != [ip_a, ip_b]);
        assert_eq!(seen, expected);
        node.end_trace().unwrap();
        assert!(ping(a, ip_b));
        assert_eq!(told(&mut reader), [], "nobody asks any more");

        // Of one end all that it has, also by the uplink.
        let mut reader = node.start_trace(&of(ip_far)).unwrap();
        assert!(ping(a, ip_far) && ping(a, ip_b));
        let mut seen = told(&mut reader);
        seen.sort_by_key(|(_, ends, ..)| *ends != [ip_a, ip_far]);
        let steps = |path| vec![TracedStep::Path(path)];
        let (there, back) = (steps(PacketPath::PodToNode), steps(PacketPath::UplinkToPod));
        let expected = [
            ("from_pod", [ip_a, ip_far], there, TracedAction::Redirected),
            (
                "from_uplink",
                [ip_far, ip_a],
                back,
                TracedAction::Redirected,
            ),
        ];
        assert_eq!(seen, expected);
        node.end_trace().unwrap();
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_service_is_seen_to_get_a_backend_and_its_answer_the_services_address() {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let [a, b, _] = &cluster.pods;
    let node = &cluster.nodes[0].datapath;
    let (service, backend) = (at(VIP, 80), at(b.pod.v4, 8080));
    let frontend = frontend(service, TCP, &[backend]);
    node.sync_services(&[frontend]).unwrap();
    let _listener = listen(b, 8080);
    let ends = between(&[a.pod.v4.into()], &[VIP.into(), b.pod.v4.into()]);
    let mut reader = node.start_trace(&ends).unwrap();
    assert!(connects(a, service));
    let walks = connected(&mut reader);
    let of = |flags| with_flags(&walks, flags);
    let (syn, syn_ack, ack) = (of("S"), of("S."), of("."));
    let client = syn.ends.unwrap().source;
    let to_backend = TracedStep::Rewritten {
        source: client,
        destination: backend,
    };
    let way = TracedStep::Path(PacketPath::PodToPod);
    assert_eq!(
        syn.steps,
        [TracedStep::Balanced { new: true }, to_backend, way]
    );
    assert_eq!(
        ack.steps,
        [TracedStep::Balanced { new: false }, to_backend, way]
    );
    let to_client = TracedStep::Rewritten {
        source: service,
        destination: client,
    };
    assert_eq!(syn_ack.ends.unwrap().source, backend);
    assert_eq!(syn_ack.steps, [to_client, way]);
    node.end_trace().unwrap();
}

/// The pods a and b, of which b lets in only what comes to TCP's port 80.
fn police(node: &Datapath, a: &PodNetns, b: &PodNetns) {
    let pods = [("a", a), ("b", b)];
    let selector = |app: &str| {
        Selector(vec![Requirement {
            key: "app".into(),
            is: Operator::In([app.to_owned()].into()),
        }])
    };
    let policy = NetworkPolicy {
        namespace: "shop".into(),
        name: "b".into(),
        pods: selector("b"),
        ingress: Some(vec![Rule {
            peers: Some(vec![Peer::Pods {
                namespaces: None,
                pods: selector("a"),
            }]),
            ports: Some(vec![Ports {
                protocol: Protocol::Tcp,
                port: PortChoice::Range(80, 80),
            }]),
        }]),
        egress: None,
    };
    let key = |name: &str| ("shop".to_owned(), name.to_owned());
    let pod = |(name, pod): (&str, &PodNetns)| model::Pod {
        namespace: "shop".into(),
        name: name.into(),
        uid: None,
        labels: Arc::new([("app".to_owned(), name.to_owned())].into()),
        node: Some("n1".into()),
        host_network: false,
        ips: vec![pod.pod.v4.into(), pod.pod.v6.into()],
        ports: Vec::new(),
    };
    let namespace = model::Namespace {
        name: "shop".into(),
        labels: [].into(),
    };
    let cluster = state::Cluster {
        namespaces: [("shop".to_owned(), namespace)].into_iter().collect(),
        pods: pods.map(|of| (key(of.0), pod(of))).into_iter().collect(),
        policies: [(key("b"), policy)].into_iter().collect(),
        ..state::Cluster::default()
    };
    let locals = pods.map(|(name, pod)| LocalPod {
        endpoint: pod.pod.id,
        namespace: "shop".into(),
        name: name.into(),
        addresses: Vec::new(),
    });
    let mut compiler = Compiler::new("n1", node.policy_start().unwrap());
    let tables = compiler.update(&cluster, &locals);
    let change = plan(&Tables::default(), &tables);
    node.write_policies(&change, &tables, false).unwrap();
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn what_policies_say_is_told_for_both_pods_and_a_drop_with_its_reason() {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let [a, b, _] = &cluster.pods;
    let node = &cluster.nodes[0].datapath;
    police(node, a, b);
    let _listener = listen(b, 80);
    let ends = between(&[a.pod.v4.into()], &[b.pod.v4.into()]);
    let mut reader = node.start_trace(&ends).unwrap();
    let judged = |endpoint, direction, said| TracedStep::Judged {
        endpoint,
        direction,
        said,
    };
    let sends = |said| judged(a.pod.id, Direction::Egress, said);
    let comes = |said| judged(b.pod.id, Direction::Ingress, said);
    let way = TracedStep::Path(PacketPath::PodToPod);

    assert!(connects(a, at(b.pod.v4, 80)));
    let walks = connected(&mut reader);
    let of = |flags| with_flags(&walks, flags);
    assert_eq!(
        of("S").steps,
        [sends(Judgement::Begins), comes(Judgement::Begins), way]
    );
    let answer = [
        judged(b.pod.id, Direction::Egress, Judgement::NotAsked),
        judged(a.pod.id, Direction::Ingress, Judgement::NotAsked),
        way,
    ];
    assert_eq!(of("S.").steps, answer);
    assert_eq!(
        of(".").steps,
        [sends(Judgement::NotAsked), comes(Judgement::Known), way]
    );

    assert!(!connects(a, at(b.pod.v4, 81)));
    // The last of the connection before may come in between.
    let mut walks = reader.read();
    walks.retain(|walk| walk.ends.unwrap().destination.port() == 81);
    assert!(!walks.is_empty());
    for walk in walks {
        assert_eq!(walk.action, TracedAction::Dropped);
        let denied = comes(Judgement::Denied);
        let dropped = TracedStep::Dropped(DropReason::PolicyIngress);
        assert_eq!(walk.steps, [sends(Judgement::Begins), denied, dropped]);
    }
    node.end_trace().unwrap();
}

fn programs(node: &Datapath) -> BTreeSet<(String, String, u32)> {
    let all = node.attachments().unwrap().into_iter();
    all.map(|at| (at.ifname, at.program, at.program_id))
        .collect()
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn switching_it_on_and_off_loses_no_packet_and_leaves_the_usual_programs() {
    const PINGS: u32 = 2_000;
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let [a, b, far] = &cluster.pods;
    let node = &cluster.nodes[0].datapath;
    let usual = programs(node);
    assert!(
        ping(a, b.pod.v4) && ping(a, far.pod.v4),
        "neighbours are known"
    );
    let pings = [b.pod.v4, far.pod.v4].map(|to| {
        let line = a.netns.wrap(&format!("ping -q -i 0.001 -c {PINGS} {to}"));
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdout(Stdio::piped());
        command.spawn().unwrap()
    });
    let mut pings = pings.map(Some);
    let mut switched = 0;
    // As long as there is traffic, or what is shown is nothing.
    while pings
        .iter_mut()
        .flatten()
        .all(|ping| ping.try_wait().unwrap().is_none())
    {
        let mut reader = node.start_trace(&of(a.pod.v4)).unwrap();
        assert!(programs(node).is_disjoint(&usual));
        assert!(ping(a, b.pod.v4));
        assert!(!reader.read().is_empty());
        node.end_trace().unwrap();
        assert_eq!(programs(node), usual);
        switched += 1;
    }
    assert!(switched > 1, "the pings were over before");
    for ping in &mut pings {
        let output = ping.take().unwrap().wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(" 0% packet loss"), "{switched} times: {text}");
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn one_at_a_time_and_a_new_pod_and_a_new_agent_have_the_right_programs() {
    let cluster = Cluster::new(XdpMode::Off, 1500);
    let (a, node) = (&cluster.pods[0], &cluster.nodes[0]);
    let usual = programs(&node.datapath);
    let _reader = node.datapath.start_trace(&of(a.pod.v4)).unwrap();
    let second = node.datapath.start_trace(&of(a.pod.v4)).err().unwrap();
    assert!(matches!(second, DatapathError::Traced), "{second}");
    let many = (0..2_000u32).map(|i| IpAddr::from(Ipv4Addr::from(i)));
    let traced = programs(&node.datapath);
    // What is attached now is what is looked for, and attaching again changes nothing.
    node.attach(&node.datapath);
    assert_eq!(programs(&node.datapath), traced);
    // An agent that was killed meanwhile leaves them to the next one.
    let next = node.restart();
    assert!(programs(&next).is_disjoint(&traced) && programs(&next).is_disjoint(&usual));
    let full = next.start_trace(&TraceScope {
        first: many.collect(),
        second: None,
    });
    assert!(matches!(full.err().unwrap(), DatapathError::MapFull { .. }));
    next.end_trace().unwrap();
    assert!(ping(a, cluster.pods[1].pod.v4));
}
