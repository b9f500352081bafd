//! Ring 2: packets of pods under policies.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

mod support;

use cni_agent::{
    datapath::{DropReason, Entry, EventReader, Fate, Happened, TriedPacket},
    model::{
        self, NetworkPolicy, Operator, Peer, PortChoice, Ports, Protocol, Requirement, Rule,
        Selector,
    },
    policy::{Compiler, Direction, LocalPod, Start, Tables, plan},
    state::Cluster,
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use support::{
    flows::{ACK, RST, SCTP, SYN, SYN_ACK, at, ends, framed, from, frontend, payload},
    frames::{self, TCP, UDP},
    lab::{self, Context, FAR_MAC, HOST_MAC, Lab, Pod, Program, UPLINK_MAC, Verdict},
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 10);
const NODE: &str = "n1";

/// The lab with pods that have labels: `app=a`, `app=b` here, and `app=far` on another node.
struct Policed {
    lab: Lab,
    state: RefCell<(Compiler, Arc<Tables>)>,
    /// Whether the pods' namespace only has policies watched.
    audit: Cell<bool>,
}

fn selector(app: &str) -> Selector {
    Selector(vec![Requirement {
        key: "app".into(),
        is: Operator::In([app.to_owned()].into()),
    }])
}

fn pods(app: &str) -> Peer {
    Peer::Pods {
        namespaces: None,
        pods: selector(app),
    }
}

fn ports(protocol: Protocol, first: u16, last: u16) -> Ports {
    Ports {
        protocol,
        port: PortChoice::Range(first, last),
    }
}

fn rule(peers: &[Peer], ports: &[Ports]) -> Rule {
    Rule {
        peers: (!peers.is_empty()).then(|| peers.to_vec()),
        ports: (!ports.is_empty()).then(|| ports.to_vec()),
    }
}

/// About the pods of an app: what may come, and what may go.
fn policy(app: &str, ingress: Option<Vec<Rule>>, egress: Option<Vec<Rule>>) -> NetworkPolicy {
    NetworkPolicy {
        namespace: "shop".into(),
        name: format!("{app}{}{}", ingress.is_some(), egress.is_some()),
        pods: selector(app),
        ingress,
        egress,
    }
}

impl Policed {
    fn new() -> Self {
        let lab = Lab::new();
        let start = lab.datapath.policy_start().unwrap();
        assert_eq!(start, Start::default());
        Self {
            lab,
            state: RefCell::new((Compiler::new(NODE, start), Arc::default())),
            audit: Cell::new(false),
        }
    }

    fn cluster(&self, policies: &[NetworkPolicy]) -> Cluster {
        let (a, b) = (&self.lab.a, &self.lab.b);
        let all: [(&str, [IpAddr; 2]); 3] = [
            ("a", [a.v4.into(), a.v6.into()]),
            ("b", [b.v4.into(), b.v6.into()]),
            ("far", [lab::FAR.into(), lab::FAR_V6.into()]),
        ];
        let pods = all.map(|(app, ips)| model::Pod {
            namespace: "shop".into(),
            name: app.into(),
            uid: None,
            labels: Arc::new([("app".to_owned(), app.to_owned())].into()),
            node: Some(if app == "far" { "n2" } else { NODE }.into()),
            host_network: false,
            ips: ips.into(),
            ports: Vec::new(),
        });
        let key = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        let node = model::Node {
            name: NODE.into(),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd10::1".parse().unwrap()],
            ..model::Node::default()
        };
        let mut labels = BTreeMap::new();
        if self.audit.get() {
            labels.insert("fairlead.dev/network-policy".into(), "audit".into());
        }
        let namespace = model::Namespace {
            name: "shop".into(),
            labels,
        };
        Cluster {
            namespaces: [("shop".to_owned(), namespace)].into_iter().collect(),
            nodes: [(NODE.to_owned(), node)].into_iter().collect(),
            pods: pods
                .into_iter()
                .map(|pod| (key(&pod.namespace, &pod.name), pod))
                .collect(),
            policies: policies
                .iter()
                .map(|policy| (key(&policy.namespace, &policy.name), policy.clone()))
                .collect(),
            ..Cluster::default()
        }
    }

    fn locals(&self) -> Vec<LocalPod> {
        let pods = [("a", self.lab.a.id), ("b", self.lab.b.id)];
        let local = |(name, endpoint): (&str, u32)| LocalPod {
            endpoint,
            namespace: "shop".into(),
            name: name.into(),
            addresses: Vec::new(),
        };
        pods.map(local).into()
    }

    fn apply(&self, policies: &[NetworkPolicy]) {
        let (compiler, written) = &mut *self.state.borrow_mut();
        let tables = compiler.update(&self.cluster(policies), &self.locals());
        let change = plan(written, &tables);
        self.lab
            .datapath
            .write_policies(&change, &tables, false)
            .unwrap();
        let settled = compiler.settle();
        let rest = plan(&tables, &settled);
        self.lab.datapath.clear_policies(&rest).unwrap();
        *written = settled;
    }

    /// As a new agent does it that knows nothing of the one before.
    fn apply_anew(&self, policies: &[NetworkPolicy]) {
        let start = self.lab.datapath.policy_start().unwrap();
        let mut compiler = Compiler::new(NODE, start);
        let tables = compiler.update(&self.cluster(policies), &self.locals());
        let change = plan(&Tables::default(), &tables);
        self.lab
            .datapath
            .write_policies(&change, &tables, true)
            .unwrap();
        *self.state.borrow_mut() = (compiler, tables);
    }

    /// Whether a local pod's packet goes on; if not, for which reason.
    fn sends(
        &self,
        pod: &Pod,
        src: SocketAddr,
        dst: SocketAddr,
        protocol: u8,
        kind: u8,
    ) -> Result<(), DropReason> {
        let frame = from(pod, src, dst, protocol, kind);
        self.outcome(Program::FromPod, pod.ifindex, &frame)
    }

    fn outcome(&self, program: Program, ifindex: u32, frame: &[u8]) -> Result<(), DropReason> {
        let context = Context {
            ifindex,
            // By the uplink, where the host's stack hands it over.
            ingress: if program == Program::ToPod {
                self.lab.uplink
            } else {
                0
            },
            ..Context::default()
        };
        self.outcome_as(program, context, frame)
    }

    fn outcome_as(
        &self,
        program: Program,
        context: Context,
        frame: &[u8],
    ) -> Result<(), DropReason> {
        let before = self.lab.drops(context.ifindex);
        let outcome = self.lab.run_as(program, context, frame);
        if outcome.verdict != Verdict::Drop {
            return Ok(());
        }
        let after: BTreeMap<DropReason, u64> = self.lab.drops(context.ifindex);
        let new = after
            .iter()
            .find(|(reason, count)| before.get(reason) != Some(count));
        Err(*new.unwrap().0)
    }

    /// What another node's pod sends to a local one.
    fn arrives(
        &self,
        src: SocketAddr,
        dst: SocketAddr,
        protocol: u8,
        kind: u8,
    ) -> Result<(), DropReason> {
        let bytes = payload(src, dst, protocol, kind, b"hello");
        let frame = framed(UPLINK_MAC, FAR_MAC, src, dst, protocol, &bytes);
        self.outcome(Program::FromUplink, self.lab.uplink, &frame)
    }

    /// What the host's stack hands to a local pod: received by an interface, or made here (0).
    fn handed(
        &self,
        ingress: u32,
        pod: &Pod,
        src: SocketAddr,
        dst: SocketAddr,
        kind: u8,
    ) -> Result<(), DropReason> {
        let bytes = payload(src, dst, TCP, kind, b"hello");
        let frame = framed(pod.mac, HOST_MAC, src, dst, TCP, &bytes);
        let context = Context {
            ifindex: pod.ifindex,
            ingress,
            ..Context::default()
        };
        self.outcome_as(Program::ToPod, context, &frame)
    }

    /// Addresses in both families: pod a, pod b, another node's pod, a stranger, the Service.
    fn families(&self) -> [[IpAddr; 5]; 2] {
        let (a, b) = (&self.lab.a, &self.lab.b);
        [
            [
                a.v4.into(),
                b.v4.into(),
                lab::FAR.into(),
                lab::WORLD.into(),
                VIP.into(),
            ],
            [
                a.v6.into(),
                b.v6.into(),
                lab::FAR_V6.into(),
                lab::WORLD_V6.into(),
                VIP_V6.into(),
            ],
        ]
    }
}

const CLOSED: Result<(), DropReason> = Err(DropReason::PolicyIngress);
const KEPT: Result<(), DropReason> = Err(DropReason::PolicyEgress);

#[test]
#[ignore = "needs root and CAP_BPF"]
fn only_named_peers_reach_named_ports_and_their_answers_pass() {
    let policed = Policed::new();
    let (a, b) = (policed.lab.a, policed.lab.b);
    let web = ports(Protocol::Tcp, 80, 600);
    // b may send nothing by itself.
    policed.apply(&[policy(
        "b",
        Some(vec![rule(&[pods("a")], &[web])]),
        Some(Vec::new()),
    )]);
    for [ip_a, ip_b, far, world, _] in policed.families() {
        for (port, open) in [
            (79, false),
            (80, true),
            (511, true),
            (512, true),
            (600, true),
            (601, false),
        ] {
            let (client, server) = (at(ip_a, 40_000), at(ip_b, port));
            let sent = policed.sends(&a, client, server, TCP, SYN);
            assert_eq!(sent, if open { Ok(()) } else { CLOSED }, "{server}");
            // Nothing of a connection that was not let in.
            let answered = policed.sends(&b, server, client, TCP, SYN_ACK);
            assert_eq!(answered, if open { Ok(()) } else { KEPT }, "{server}");
        }
        // Of other protocols and peers nothing comes in.
        for protocol in [UDP, SCTP] {
            let sent = policed.sends(&a, at(ip_a, 1), at(ip_b, 80), protocol, 1);
            assert_eq!(sent, CLOSED, "{protocol}");
        }
        assert_eq!(policed.arrives(at(far, 1), at(ip_b, 80), TCP, SYN), CLOSED);
        let handed = policed.handed(policed.lab.uplink, &b, at(world, 1), at(ip_b, 80), SYN);
        assert_eq!(handed, CLOSED);
        // Nor goes anything out.
        for to in [ip_a, far, world] {
            assert_eq!(policed.sends(&b, at(ip_b, 1), at(to, 80), TCP, SYN), KEPT);
        }
        // The others are free.
        assert_eq!(policed.arrives(at(far, 1), at(ip_a, 80), TCP, SYN), Ok(()));
        assert_eq!(
            policed.sends(&a, at(ip_a, 1), at(world, 80), TCP, SYN),
            Ok(())
        );
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn answers_pass_to_a_pod_that_lets_nobody_in() {
    let policed = Policed::new();
    let a = policed.lab.a;
    policed.apply(&[policy("a", Some(Vec::new()), None)]);
    for [ip_a, ip_b, far, world, _] in policed.families() {
        for protocol in [TCP, UDP, SCTP] {
            let (begin, accept) = if protocol == TCP {
                (SYN, SYN_ACK)
            } else {
                (1, 2)
            };
            let (client, server) = (at(ip_a, 40_000), at(far, 53));
            assert_eq!(policed.arrives(server, client, protocol, ACK), CLOSED);
            assert_eq!(policed.sends(&a, client, server, protocol, begin), Ok(()));
            assert_eq!(policed.arrives(server, client, protocol, accept), Ok(()));
            // Of the same server by another port it is none.
            assert_eq!(policed.arrives(at(far, 54), client, protocol, ACK), CLOSED);
            // Nor is what begins a connection of its own.
            if protocol != UDP {
                assert_eq!(policed.arrives(server, client, protocol, begin), CLOSED);
            }
            let local = at(ip_b, 53);
            assert_eq!(policed.sends(&a, client, local, protocol, begin), Ok(()));
            let b = policed.lab.b;
            assert_eq!(policed.sends(&b, local, client, protocol, accept), Ok(()));
        }
        // By the host's stack, as from outside.
        let (client, server) = (at(ip_a, 40_001), at(world, 443));
        assert_eq!(policed.sends(&a, client, server, TCP, SYN), Ok(()));
        let uplink = policed.lab.uplink;
        assert_eq!(policed.handed(uplink, &a, server, client, SYN_ACK), Ok(()));
        assert_eq!(
            policed.handed(uplink, &a, at(world, 444), client, ACK),
            CLOSED
        );
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_change_cuts_what_is_allowed_no_more_and_nothing_else() {
    let policed = Policed::new();
    let (a, b) = (policed.lab.a, policed.lab.b);
    let lets = |peers: &[Peer]| policy("b", Some(vec![rule(peers, &[])]), Some(Vec::new()));
    policed.apply(&[lets(&[pods("a"), pods("far")])]);
    for [ip_a, ip_b, far, ..] in policed.families() {
        let (client, server) = (at(ip_a, 40_000), at(ip_b, 80));
        assert_eq!(policed.sends(&a, client, server, TCP, SYN), Ok(()));
        assert_eq!(policed.arrives(at(far, 7), server, TCP, SYN), Ok(()));
    }
    let both = |policed: &Policed, of_a: Result<(), DropReason>| {
        for [ip_a, ip_b, far, ..] in policed.families() {
            let (client, server) = (at(ip_a, 40_000), at(ip_b, 80));
            let answer = policed.sends(&b, server, client, TCP, ACK);
            assert_eq!(answer, of_a.and(Ok(())));
            assert_eq!(policed.sends(&a, client, server, TCP, ACK), of_a);
            assert_eq!(policed.arrives(at(far, 7), server, TCP, ACK), Ok(()));
            assert_eq!(policed.sends(&b, server, at(far, 7), TCP, ACK), Ok(()));
        }
    };
    both(&policed, Ok(()));
    // An agent that starts anew disturbs nothing.
    policed.apply_anew(&[lets(&[pods("a"), pods("far")])]);
    both(&policed, Ok(()));
    policed.apply(&[lets(&[pods("far")])]);
    both(&policed, CLOSED);
    // It has to begin again.
    policed.apply(&[lets(&[pods("a"), pods("far")])]);
    for [ip_a, ip_b, ..] in policed.families() {
        let (client, server) = (at(ip_a, 40_000), at(ip_b, 80));
        assert_eq!(policed.sends(&b, server, client, TCP, ACK), KEPT);
        assert_eq!(policed.sends(&a, client, server, TCP, SYN), Ok(()));
        assert_eq!(policed.sends(&b, server, client, TCP, ACK), Ok(()));
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pod_of_which_nothing_is_said_is_closed_once_policies_are_in_force() {
    let policed = Policed::new();
    let (a, b) = (policed.lab.a, policed.lab.b);
    let (client, server) = (at(a.v4, 40_000), at(b.v4, 80));
    assert_eq!(
        policed.sends(&a, client, server, TCP, SYN),
        Ok(()),
        "not yet"
    );
    let (compiler, written) = &mut *policed.state.borrow_mut();
    let only_b = &policed.locals()[1..];
    let tables = compiler.update(&policed.cluster(&[]), only_b);
    let change = plan(written, &tables);
    let datapath = &policed.lab.datapath;
    datapath.write_policies(&change, &tables, true).unwrap();
    let unknown = Err(DropReason::PolicyUnknown);
    assert_eq!(policed.sends(&a, client, server, TCP, SYN), unknown);
    assert_eq!(policed.sends(&b, server, client, TCP, SYN), unknown);
    datapath.ignore_policies().unwrap();
    assert_eq!(policed.sends(&a, client, server, TCP, SYN), Ok(()));
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn the_node_and_the_pod_itself_are_never_kept_out() {
    let policed = Policed::new();
    let b = policed.lab.b;
    policed.apply(&[policy("b", Some(Vec::new()), Some(Vec::new()))]);
    let nodes: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "fd10::1".parse().unwrap()];
    for ([_, ip_b, _, world, vip], node) in policed.families().into_iter().zip(nodes) {
        let probed = at(ip_b, 8080);
        assert_eq!(policed.handed(0, &b, at(node, 5), probed, SYN), Ok(()));
        assert_eq!(policed.sends(&b, probed, at(node, 5), TCP, SYN_ACK), Ok(()));
        assert_eq!(
            policed.sends(&b, at(ip_b, 9), at(node, 10_250), TCP, SYN),
            Ok(())
        );
        // By an address of the node that its Node object doesn't have.
        assert_eq!(policed.handed(0, &b, at(world, 5), probed, SYN), Ok(()));
        assert_eq!(
            policed.sends(&b, probed, at(world, 5), TCP, SYN_ACK),
            Ok(())
        );
        policed.apply(&[
            policy("b", Some(Vec::new()), Some(Vec::new())),
            policy("a", Some(Vec::new()), None),
        ]);
        assert_eq!(policed.sends(&b, probed, at(world, 5), TCP, ACK), Ok(()));
        // But not who only comes by its stack.
        let handed = policed.handed(policed.lab.uplink, &b, at(world, 6), probed, SYN);
        assert_eq!(handed, CLOSED);
        // By a Service to itself.
        let service = frontend(at(vip, 80), TCP, &[probed]);
        policed.lab.datapath.sync_services(&[service]).unwrap();
        assert_eq!(
            policed.sends(&b, at(ip_b, 7), at(vip, 80), TCP, SYN),
            Ok(())
        );
        assert_eq!(policed.sends(&b, probed, at(vip, 7), TCP, SYN_ACK), Ok(()));
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_service_is_judged_by_who_answers() {
    let policed = Policed::new();
    let (a, b) = (policed.lab.a, policed.lab.b);
    let to_b = rule(&[pods("b")], &[ports(Protocol::Tcp, 8080, 8080)]);
    policed.apply(&[policy("a", Some(Vec::new()), Some(vec![to_b]))]);
    for [ip_a, ip_b, far, _, vip] in policed.families() {
        let client = at(ip_a, 40_000);
        let serve = |backend| {
            let service = frontend(at(vip, 80), TCP, &[backend]);
            policed.lab.datapath.sync_services(&[service]).unwrap();
            policed.sends(&a, client, at(vip, 80), TCP, SYN)
        };
        assert_eq!(serve(at(ip_b, 8081)), KEPT);
        assert_eq!(serve(at(far, 8080)), KEPT);
        assert_eq!(serve(at(ip_b, 8080)), Ok(()));
        // Its answer is judged before it gets the Service's address.
        let answer = from(&b, at(ip_b, 8080), client, TCP, SYN_ACK);
        let outcome = policed.lab.run(Program::FromPod, b.ifindex, &answer);
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(ends(&outcome.frame), (at(vip, 80), client));
        policed.sends(&a, client, at(vip, 80), TCP, RST).unwrap();
    }
}

/// An ICMP packet in a frame.
fn icmp(
    to: frames::Mac,
    mac: frames::Mac,
    src: IpAddr,
    dst: IpAddr,
    kind: [u8; 2],
    rest: &[u8],
) -> Vec<u8> {
    let (protocol, number) = if src.is_ipv4() {
        (1, frames::IPV4)
    } else {
        (58, frames::IPV6)
    };
    let bytes = [&kind[..], &[0, 0], rest].concat();
    frames::ethernet(to, mac, number, &frames::ip(src, dst, protocol, &bytes))
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn pings_need_a_rule_without_ports_and_errors_a_connection() {
    let policed = Policed::new();
    let (a, b) = (policed.lab.a, policed.lab.b);
    for (ports, open) in [
        (vec![ports(Protocol::Tcp, 1, 65_535)], false),
        (vec![], true),
    ] {
        policed.apply(&[policy(
            "b",
            Some(vec![rule(&[pods("a")], &ports)]),
            Some(Vec::new()),
        )]);
        for [ip_a, ip_b, far, ..] in policed.families() {
            let (ask, answer) = if ip_a.is_ipv4() { (8, 0) } else { (128, 129) };
            let ping = icmp(HOST_MAC, a.mac, ip_a, ip_b, [ask, 0], &[0, 9, 0, 1]);
            let pong = icmp(HOST_MAC, b.mac, ip_b, ip_a, [answer, 0], &[0, 9, 0, 1]);
            let asked = policed.outcome(Program::FromPod, a.ifindex, &ping);
            assert_eq!(asked, if open { Ok(()) } else { CLOSED });
            let answered = policed.outcome(Program::FromPod, b.ifindex, &pong);
            assert_eq!(answered, if open { Ok(()) } else { KEPT });
            // Of another number it is no answer.
            let other = icmp(HOST_MAC, b.mac, ip_b, ip_a, [answer, 0], &[0, 8, 0, 1]);
            assert_eq!(policed.outcome(Program::FromPod, b.ifindex, &other), KEPT);
            // "Port unreachable" about a packet that was let in, and about one that was not.
            let kind = if ip_a.is_ipv4() { [3, 3] } else { [1, 4] };
            let about = |client: SocketAddr| {
                let server = at(ip_b, 80);
                let sent = payload(client, server, TCP, SYN, b"");
                let quoted = frames::ip(client.ip(), server.ip(), TCP, &sent);
                icmp(
                    HOST_MAC,
                    b.mac,
                    ip_b,
                    client.ip(),
                    kind,
                    &[&[0; 4], &quoted[..]].concat(),
                )
            };
            policed
                .sends(&a, at(ip_a, 40_000), at(ip_b, 80), TCP, SYN)
                .unwrap();
            let told = policed.outcome(Program::FromPod, b.ifindex, &about(at(ip_a, 40_000)));
            assert_eq!(told, Ok(()));
            let made_up = policed.outcome(Program::FromPod, b.ifindex, &about(at(far, 40_000)));
            assert_eq!(made_up, KEPT);
        }
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn later_fragments_follow_their_first_one() {
    let policed = Policed::new();
    let (a, b) = (policed.lab.a, policed.lab.b);
    let dns = ports(Protocol::Udp, 53, 53);
    policed.apply(&[policy("b", Some(vec![rule(&[pods("a")], &[dns])]), None)]);
    let send = |frame: &[u8]| policed.outcome(Program::FromPod, a.ifindex, frame);
    for (id, port, expected) in [(1u16, 53, Ok(())), (2, 54, CLOSED)] {
        let whole = payload(at(a.v4, 7), at(b.v4, port), UDP, 0, &[1; 64]);
        let part = |bytes: &[u8], offset: u16, more: bool| {
            let mut packet = frames::ip(a.v4.into(), b.v4.into(), UDP, bytes);
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            let bits = (offset / 8) | if more { 0x2000 } else { 0 };
            packet[6..8].copy_from_slice(&bits.to_be_bytes());
            packet[10..12].fill(0);
            let sum = frames::checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            frames::ethernet(HOST_MAC, a.mac, frames::IPV4, &packet)
        };
        let later = part(&whole[32..], 32, false);
        let unknown = Err(DropReason::FragmentUnknown);
        assert_eq!(send(&later), unknown, "before its first one");
        assert_eq!(send(&part(&whole[..32], 0, true)), expected);
        assert_eq!(send(&later), expected);
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pod_that_is_gone_leaves_no_connections() {
    let policed = Policed::new();
    policed.apply(&[policy("b", Some(Vec::new()), None)]);
    let datapath = &policed.lab.datapath;
    assert_eq!(datapath.tidy_connections().unwrap(), 0);
    let gone = lab::endpoint(&policed.lab.b);
    datapath.remove_endpoint(&gone).unwrap();
    assert_eq!(datapath.tidy_connections().unwrap(), 1);
    assert_eq!(datapath.tidy_connections().unwrap(), 0);
}

/// A server with more connections than a new endpoint has room for.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_pod_with_many_connections_gets_room_for_them() {
    let policed = Policed::new();
    let b = policed.lab.b;
    policed.apply(&[policy("b", Some(Vec::new()), None)]);
    let server = at(lab::FAR, 443);
    let begin = |ports: std::ops::Range<u16>| {
        for port in ports {
            let sent = policed.sends(&b, at(b.v4, port), server, TCP, SYN);
            assert_eq!(sent, Ok(()));
        }
    };
    begin(10_000..13_500);
    policed.lab.datapath.tidy_connections().unwrap();
    begin(13_500..17_000);
    for port in 10_000..17_000 {
        let answer = policed.arrives(server, at(b.v4, port), TCP, SYN_ACK);
        assert_eq!(answer, Ok(()), "{port}");
    }
}

/// IPv4 addresses lie within `::/0` where both families have one length.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn all_of_ipv6_is_nothing_of_ipv4() {
    let policed = Policed::new();
    let a = policed.lab.a;
    let block = |cidr: &str| Peer::Block {
        cidr: cidr.parse().unwrap(),
        except: Vec::new(),
    };
    for (cidr, open) in [("::/0", [false, true]), ("0.0.0.0/0", [true, false])] {
        let egress = vec![rule(&[block(cidr)], &[])];
        policed.apply(&[policy("a", None, Some(egress))]);
        for ([ip_a, _, _, world, _], open) in policed.families().into_iter().zip(open) {
            let sent = policed.sends(&a, at(ip_a, 7), at(world, 80), TCP, SYN);
            assert_eq!(sent, if open { Ok(()) } else { KEPT }, "{cidr} {world}");
        }
    }
}

/// A flood of one pod makes no other forget its connections.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_flood_of_one_pod_costs_no_other_its_connections() {
    let policed = Policed::new();
    let (a, b) = (policed.lab.a, policed.lab.b);
    policed.apply(&[policy("b", Some(Vec::new()), None)]);
    let (client, server) = (at(b.v4, 40_000), at(lab::FAR, 443));
    policed.sends(&b, client, server, TCP, SYN).unwrap();
    for number in 0..20_000u16 {
        let stranger = at(Ipv4Addr::new(100, 11, 3, 7), 1 + number % 50_000);
        policed
            .sends(&a, at(a.v4, number + 1), stranger, TCP, SYN)
            .unwrap();
    }
    assert_eq!(policed.arrives(server, client, TCP, SYN_ACK), Ok(()));
}

/// `fairlead policy explain` asks so: what would become of a packet, without it.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_packet_that_is_tried_fares_as_one_that_is_sent_and_leaves_no_trace() {
    let policed = Policed::new();
    let (a, b) = (policed.lab.a, policed.lab.b);
    let in_b = rule(&[pods("a")], &[ports(Protocol::Tcp, 8080, 8080)]);
    policed.apply(&[policy("b", Some(vec![in_b]), None)]);
    let datapath = &policed.lab.datapath;
    for [ip_a, ip_b, far, _, vip] in policed.families() {
        let service = frontend(at(vip, 80), TCP, &[at(ip_b, 8080)]);
        datapath.sync_services(&[service]).unwrap();
        let tried = |entry, source, destination, protocol| {
            let (ifindex, macs) = match entry {
                Entry::Pod => (a.ifindex, [a.mac, HOST_MAC]),
                Entry::Uplink => (policed.lab.uplink, [FAR_MAC, UPLINK_MAC]),
                Entry::Host => (b.ifindex, [HOST_MAC, b.mac]),
            };
            let packet = TriedPacket {
                entry,
                ifindex,
                macs,
                source,
                destination,
                protocol,
            };
            policed
                .lab
                .node
                .within(|| datapath.try_packet(&packet))
                .unwrap()
        };
        let before = (datapath.drops().unwrap(), datapath.paths().unwrap());
        let client = at(ip_a, 40_000);
        for (port, fate) in [
            (8080, Fate::Redirected),
            (8081, Fate::Dropped(DropReason::PolicyIngress)),
        ] {
            let outcome = tried(Entry::Pod, client, at(ip_b, port), TCP);
            assert_eq!(outcome.fate, fate);
            let sctp = tried(Entry::Pod, client, at(ip_b, port), SCTP);
            assert_eq!(sctp.fate, Fate::Dropped(DropReason::PolicyIngress));
        }
        let outcome = tried(Entry::Pod, client, at(vip, 80), TCP);
        assert_eq!(outcome.fate, Fate::Redirected);
        assert_eq!(outcome.destination, at(ip_b, 8080), "the backend");
        let strange = tried(Entry::Uplink, at(far, 7), at(ip_b, 8080), TCP);
        assert_eq!(strange.fate, Fate::Dropped(DropReason::PolicyIngress));
        let own = at(
            if ip_a.is_ipv4() {
                "10.0.0.1".parse::<IpAddr>().unwrap()
            } else {
                "fd10::1".parse().unwrap()
            },
            7,
        );
        assert_eq!(tried(Entry::Host, own, at(ip_b, 9), TCP).fate, Fate::Stack);
        // What was allowed is no connection that answers could belong to.
        let after = (datapath.drops().unwrap(), datapath.paths().unwrap());
        assert_eq!(before, after);
        assert!(datapath.flow_counts().unwrap().is_empty());
        policed.apply(&[
            policy("a", Some(Vec::new()), None),
            policy("b", None, Some(Vec::new())),
        ]);
        assert_eq!(
            policed.sends(&b, at(ip_b, 8080), client, TCP, SYN_ACK),
            Err(DropReason::PolicyEgress)
        );
        let in_b = rule(&[pods("a")], &[ports(Protocol::Tcp, 8080, 8080)]);
        policed.apply(&[policy("b", Some(vec![in_b]), None)]);
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn who_listens_hears_what_is_dropped_and_what_begins_and_nobody_else_costs_anything() {
    let policed = Policed::new();
    let a = policed.lab.a;
    let in_b = rule(&[pods("a")], &[ports(Protocol::Tcp, 8080, 8080)]);
    policed.apply(&[policy("b", Some(vec![in_b]), None)]);
    let mut reader = policed.lab.datapath.event_reader().unwrap();
    let told = |reader: &mut EventReader| -> Vec<(Happened, SocketAddr, u16)> {
        let events = reader.read().into_iter();
        let told = events.map(|event| {
            assert_eq!(event.ifindex, a.ifindex);
            let ends = event.ends.unwrap();
            assert_eq!(ends.protocol, 6);
            (event.happened, ends.source, ends.destination.port())
        });
        told.collect()
    };
    for [ip_a, ip_b, ..] in policed.families() {
        let client = at(ip_a, 40_000);
        let send = |port| policed.sends(&a, client, at(ip_b, port), TCP, SYN);
        assert_eq!(send(8081), Err(DropReason::PolicyIngress));
        assert_eq!(reader.read(), [], "nobody listened");
        reader.listen(Duration::from_secs(60)).unwrap();
        assert_eq!(send(8081), Err(DropReason::PolicyIngress));
        let expected = vec![
            (Happened::Begins(Direction::Egress), client, 8081),
            (Happened::Dropped(DropReason::PolicyIngress), client, 8081),
        ];
        assert_eq!(told(&mut reader), expected);
        assert_eq!(send(8080), Ok(()));
        let both = [Direction::Egress, Direction::Ingress];
        assert_eq!(
            told(&mut reader),
            both.map(|d| (Happened::Begins(d), client, 8080))
        );
        // More of it is no news.
        assert_eq!(policed.sends(&a, client, at(ip_b, 8080), TCP, ACK), Ok(()));
        assert_eq!(reader.read(), []);
        reader.listen(Duration::ZERO).unwrap();
    }
}

/// So many that nobody could follow: a sample is told, and how many were left out.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn a_flood_of_drops_is_told_by_a_sample() {
    let policed = Policed::new();
    let a = policed.lab.a;
    policed.apply(&[policy("a", None, Some(Vec::new()))]);
    let mut reader = policed.lab.datapath.event_reader().unwrap();
    reader.listen(Duration::from_secs(600)).unwrap();
    let [[ip_a, ip_b, ..], _] = policed.families();
    let frame = from(&a, at(ip_a, 7), at(ip_b, 80), TCP, SYN);
    let context = Context {
        ifindex: a.ifindex,
        repeat: 100_000,
        ..Context::default()
    };
    policed.lab.run_as(Program::FromPod, context, &frame);
    let (told, lost) = (reader.read().len() as u64, reader.lost().unwrap());
    assert_eq!(told + lost, 100_000);
    assert!(told > 0 && told < 50_000, "{told}");
}

/// A namespace may have its policies watched before they count.
#[test]
#[ignore = "needs root and CAP_BPF"]
fn what_is_only_watched_passes_and_is_told_and_counted() {
    let policed = Policed::new();
    let a = policed.lab.a;
    policed.audit.set(true);
    policed.apply(&[policy("a", None, Some(Vec::new()))]);
    let mut reader = policed.lab.datapath.event_reader().unwrap();
    reader.listen(Duration::from_secs(60)).unwrap();
    for [ip_a, ip_b, ..] in policed.families() {
        let (client, server) = (at(ip_a, 40_000), at(ip_b, 80));
        assert_eq!(policed.sends(&a, client, server, TCP, SYN), Ok(()));
        let events = reader.read();
        let audited = Happened::Audited(DropReason::PolicyEgress);
        assert_eq!(events[0].happened, audited);
        assert_eq!(policed.lab.drops(a.ifindex), BTreeMap::new());
        assert!(policed.lab.paths()["audited"] > 0);
        // The rest of the connection is asked about no more.
        assert_eq!(policed.sends(&a, client, server, TCP, ACK), Ok(()));
        assert_eq!(
            reader
                .read()
                .iter()
                .filter(|e| e.happened == audited)
                .count(),
            0
        );
    }
    policed.audit.set(false);
    policed.apply(&[policy("a", None, Some(Vec::new()))]);
    for [ip_a, ip_b, ..] in policed.families() {
        let sent = policed.sends(&a, at(ip_a, 40_000), at(ip_b, 80), TCP, ACK);
        assert_eq!(sent, KEPT, "what went on is asked about again");
    }
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn what_has_begun_goes_on_where_changes_are_not_to_cut_it() {
    let policed = Policed::new();
    let (a, b) = (policed.lab.a, policed.lab.b);
    policed.lab.datapath.cut_connections(false);
    let open = |port| {
        let ingress = vec![rule(&[pods("a")], &[ports(Protocol::Tcp, port, port)])];
        policed.apply(&[policy("b", Some(ingress), None)]);
    };
    open(80);
    for [ip_a, ip_b, ..] in policed.families() {
        open(80);
        let (client, server) = (at(ip_a, 40_000), at(ip_b, 80));
        assert_eq!(policed.sends(&a, client, server, TCP, SYN), Ok(()));
        open(81);
        assert_eq!(policed.sends(&a, client, server, TCP, ACK), Ok(()));
        assert_eq!(policed.sends(&b, server, client, TCP, ACK), Ok(()));
        let new = at(ip_a, 40_001);
        assert_eq!(
            policed.sends(&a, new, server, TCP, SYN),
            Err(DropReason::PolicyIngress)
        );
    }
}
