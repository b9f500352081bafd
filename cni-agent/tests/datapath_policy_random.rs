//! Ring 2: random clusters of policies, told to the programs, and packets that they judge, against the oracle
//! of the compiler's tests: what the API's text says, in code that the compiler has no part in.
#![allow(clippy::unwrap_used, reason = "a fault is the test's")]

#[path = "../src/policy/tests/oracle.rs"]
mod oracle;
#[path = "../src/policy/tests/random.rs"]
mod random;
mod support;

/// Under the names that the oracle knows.
mod model {
    pub(crate) use cni_agent::model::*;
}
mod state {
    pub(crate) use cni_agent::state::*;
}

use cni_agent::{
    datapath::DropReason,
    model::{
        NamedPort, Namespace, NetworkPolicy, Operator, Peer, Pod, PortChoice, Ports, Protocol,
        Requirement, Rule, Selector,
    },
    policy::{Compiler, Direction, LocalPod, Tables, plan},
    state::Cluster,
};
use oracle::{Question, allowed, questions};
use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use support::{
    flows::{SCTP, SYN, framed, payload},
    frames::{self, TCP, UDP},
    lab::{self, Context, HOST_MAC, Lab, Program, Verdict},
};

const NODE: &str = "n1";
/// Four clusters in a row each.
const CASES: u32 = 2_500;
/// Packets for each cluster.
const PACKETS: usize = 12;

/// The lab's two endpoints play two pods of each cluster.
struct Stage {
    lab: Lab,
    compiler: RefCell<Compiler>,
    written: RefCell<Arc<Tables>>,
    /// No two packets are of one connection.
    port: Cell<u16>,
}

impl Stage {
    /// The pods that are played, with the endpoints that do.
    fn cast(&self, cluster: &Cluster) -> Vec<(lab::Pod, Pod)> {
        let here = |pod: &&Pod| {
            pod.node.as_deref() == Some(NODE) && !pod.host_network && !pod.ips.is_empty()
        };
        let pods = cluster.pods.values().filter(here).cloned();
        [self.lab.a, self.lab.b].into_iter().zip(pods).collect()
    }

    fn show(&self, cluster: &Cluster) {
        let datapath = &self.lab.datapath;
        datapath.retain_endpoint_rows(&BTreeSet::new()).unwrap();
        let mut locals = Vec::new();
        for (endpoint, pod) in self.cast(cluster) {
            let mut row = lab::endpoint(&endpoint);
            let of = |v4: bool| pod.ips.iter().find(|ip| ip.is_ipv4() == v4).copied();
            row.addresses.v4 = of(true).map(|ip| match ip {
                IpAddr::V4(v4) => v4,
                IpAddr::V6(_) => unreachable!(),
            });
            row.addresses.v6 = of(false).map(|ip| match ip {
                IpAddr::V6(v6) => v6,
                IpAddr::V4(_) => unreachable!(),
            });
            datapath.upsert_endpoint(&row, endpoint.ifindex).unwrap();
            locals.push(LocalPod {
                endpoint: endpoint.id,
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                addresses: Vec::new(),
            });
        }
        let mut compiler = self.compiler.borrow_mut();
        let tables = compiler.update(cluster, &locals);
        let change = plan(&self.written.borrow(), &tables);
        datapath.write_policies(&change, &tables, false).unwrap();
        let settled = compiler.settle();
        datapath.clear_policies(&plan(&tables, &settled)).unwrap();
        *self.written.borrow_mut() = settled;
    }

    /// Whether a packet passes, and what the policies say.
    fn ask(&self, cluster: &Cluster, question: &Question, of: usize) -> Option<(bool, bool)> {
        let cast = self.cast(cluster);
        let (endpoint, pod) = cast.get(of % cast.len().max(1))?;
        let v4 = question.peer.is_ipv4();
        let own = *pod.ips.iter().find(|ip| ip.is_ipv4() == v4)?;
        // To itself it may always talk.
        if own == question.peer {
            return None;
        }
        let mut says = allowed(cluster, &local(pod), question);
        let other = cast
            .iter()
            .find(|(_, pod)| pod.ips.contains(&question.peer));
        let (from, to) = match question.direction {
            Direction::Ingress => (question.peer, own),
            Direction::Egress => (own, question.peer),
        };
        // Both have a say.
        if let Some((_, other)) = other {
            let (direction, peer) = match question.direction {
                Direction::Ingress => (Direction::Egress, own),
                Direction::Egress => (Direction::Ingress, own),
            };
            let back = Question {
                direction,
                peer,
                port: question.port,
            };
            says &= allowed(cluster, &local(other), &back);
        }
        let sender = match (question.direction, other) {
            (Direction::Egress, _) => Some(endpoint),
            (Direction::Ingress, Some((other, _))) => Some(other),
            (Direction::Ingress, None) => None,
        };
        let port = self.port.get();
        self.port
            .set(if port == 60_000 { 10_000 } else { port + 1 });
        let packet = packet(from, to, port, question.port);
        let (program, context, frame) = match sender {
            Some(sender) => {
                let frame = ethernet(HOST_MAC, sender.mac, v4, &packet);
                (Program::FromPod, sender.ifindex, frame)
            }
            None => {
                let frame = ethernet(endpoint.mac, HOST_MAC, v4, &packet);
                (Program::ToPod, endpoint.ifindex, frame)
            }
        };
        let context = Context {
            ifindex: context,
            ingress: self.lab.uplink,
            ..Context::default()
        };
        let outcome = self.lab.run_as(program, context, &frame);
        Some((outcome.verdict != Verdict::Drop, says))
    }
}

fn local(pod: &Pod) -> LocalPod {
    LocalPod {
        endpoint: 0,
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        addresses: Vec::new(),
    }
}

fn ethernet(to: frames::Mac, from: frames::Mac, v4: bool, packet: &[u8]) -> Vec<u8> {
    let kind = if v4 { frames::IPV4 } else { frames::IPV6 };
    frames::ethernet(to, from, kind, packet)
}

/// The first packet of a connection from a port of its own.
fn packet(from: IpAddr, to: IpAddr, port: u16, what: Option<(Protocol, u16)>) -> Vec<u8> {
    let Some((protocol, number)) = what else {
        let (protocol, echo) = if from.is_ipv4() { (1, 8) } else { (58, 128) };
        let [high, low] = port.to_be_bytes();
        return frames::ip(from, to, protocol, &[echo, 0, 0, 0, high, low, 0, 1]);
    };
    let (wire, kind) = match protocol {
        Protocol::Tcp => (TCP, SYN),
        Protocol::Udp => (UDP, 0),
        Protocol::Sctp => (SCTP, 1),
    };
    let (from, to) = (SocketAddr::new(from, port), SocketAddr::new(to, number));
    let whole = framed(
        [0; 6],
        [0; 6],
        from,
        to,
        wire,
        &payload(from, to, wire, kind, b"x"),
    );
    whole[14..].to_vec()
}

#[test]
#[ignore = "needs root and CAP_BPF"]
fn packets_of_ten_thousand_random_clusters_fare_as_the_policies_say() {
    let lab = Lab::new();
    let start = lab.datapath.policy_start().unwrap();
    let stage = Stage {
        lab,
        compiler: RefCell::new(Compiler::new(NODE, start)),
        written: RefCell::default(),
        port: Cell::new(10_000),
    };
    let (passed, dropped) = (Cell::new(0u32), Cell::new(0u32));
    let config = ProptestConfig {
        cases: CASES,
        // What was written stays written: a case can't be made smaller by running others.
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let asked = proptest::collection::vec((any::<Index>(), any::<usize>()), PACKETS);
    let outcome =
        TestRunner::new(config).run(&(random::clusters(4), asked), |(clusters, asked)| {
            for cluster in &clusters {
                stage.show(cluster);
                let questions: Vec<Question> = questions(cluster).into_iter().collect();
                for (index, of) in &asked {
                    let question = index.get(&questions);
                    let Some((passes, says)) = stage.ask(cluster, question, *of) else {
                        continue;
                    };
                    prop_assert_eq!(passes, says, "{:?} {:?}", question, cluster);
                    let count = if passes { &passed } else { &dropped };
                    count.set(count.get() + 1);
                }
            }
            Ok(())
        });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    // Both happen, and for no other reason.
    println!("{} passed, {} dropped", passed.get(), dropped.get());
    assert!(passed.get() > 10_000 && dropped.get() > 10_000);
    let of_policies = [DropReason::PolicyIngress, DropReason::PolicyEgress];
    for endpoint in [stage.lab.a, stage.lab.b] {
        for reason in stage.lab.drops(endpoint.ifindex).keys() {
            assert!(of_policies.contains(reason), "{reason:?}");
        }
    }
}
