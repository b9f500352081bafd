//! What compiling policies costs: a large cluster from nothing, one pod's label, one policy.
//! `cargo run --release -p cni-agent --example policy`

use cni_agent::{
    model::{
        Namespace, NetworkPolicy, Operator, Peer, Pod, PortChoice, Ports, Protocol, Requirement,
        Rule, Selector,
    },
    policy::{Compiler, LocalPod, Start, plan},
    state::Cluster,
};
use std::{collections::BTreeMap, sync::Arc, time::Instant};

const NODE: &str = "n1";
const NAMESPACES: u32 = 50;
const PODS: u32 = 10_000;
const LOCAL: u32 = 110;
const POLICIES: u32 = 1_000;

fn app(value: u32) -> Selector {
    Selector(vec![Requirement {
        key: "app".into(),
        is: Operator::In([format!("app{value}")].into()),
    }])
}

fn pod(number: u32) -> Pod {
    let namespace = format!("ns{}", number % NAMESPACES);
    Pod {
        name: format!("p{number}"),
        namespace,
        uid: None,
        labels: Arc::new(BTreeMap::from([
            ("app".to_owned(), format!("app{}", number / NAMESPACES % 40)),
            ("pod-template-hash".to_owned(), format!("h{}", number / 7)),
        ])),
        // The node's own are of every namespace.
        node: Some(if number < LOCAL { NODE } else { "other" }.into()),
        host_network: false,
        ips: vec![[10, (number >> 16) as u8, (number >> 8) as u8, number as u8].into()],
        ports: Vec::new(),
    }
}

/// Twenty for each namespace: pods of one app hear those of two others, one of them in every namespace, and
/// a block.
fn policy(number: u32) -> NetworkPolicy {
    let of = number / NAMESPACES;
    let peers = vec![
        Peer::Pods {
            namespaces: None,
            pods: app(of + 1),
        },
        Peer::Pods {
            namespaces: Some(Selector::default()),
            pods: app(of + 2),
        },
        Peer::Block {
            cidr: format!("192.0.{}.0/24", number % 200)
                .parse()
                .expect("a prefix"),
            except: Vec::new(),
        },
    ];
    let port = Ports {
        protocol: Protocol::Tcp,
        port: PortChoice::Range(8000, 8000 + (number % 100) as u16),
    };
    NetworkPolicy {
        namespace: format!("ns{}", number % NAMESPACES),
        name: format!("r{number}"),
        pods: if of.is_multiple_of(4) {
            Selector::default()
        } else {
            app(of)
        },
        ingress: Some(vec![Rule {
            peers: Some(peers),
            ports: Some(vec![port]),
        }]),
        egress: None,
    }
}

fn main() {
    let mut cluster = Cluster::default();
    for number in 0..NAMESPACES {
        let name = format!("ns{number}");
        let labels = BTreeMap::new();
        cluster
            .namespaces
            .insert(name.clone(), Namespace { name, labels });
    }
    for number in 0..PODS {
        let pod = pod(number);
        cluster
            .pods
            .insert((pod.namespace.clone(), pod.name.clone()), pod);
    }
    for number in 0..POLICIES {
        let policy = policy(number);
        cluster
            .policies
            .insert((policy.namespace.clone(), policy.name.clone()), policy);
    }
    let locals: Vec<LocalPod> = (0..LOCAL)
        .map(|number| LocalPod {
            endpoint: number + 1,
            namespace: format!("ns{}", number % NAMESPACES),
            name: format!("p{number}"),
            addresses: Vec::new(),
        })
        .collect();
    let mut compiler = Compiler::new(NODE, Start::default());
    let mut before = Arc::default();
    let mut step = |what: &str, cluster: &Cluster| {
        let begin = Instant::now();
        let tables = compiler.update(cluster, &locals);
        let rows = plan(&before, &tables).rows();
        let took = begin.elapsed();
        before = compiler.settle();
        println!(
            "{what}: {:.1} ms, {rows} rows; {} addresses, {} verdicts, {} sets",
            took.as_secs_f64() * 1e3,
            tables.addresses.len(),
            tables.verdicts.len(),
            tables.sets.len()
        );
    };
    step("everything", &cluster);
    for number in [5_000, 5_001, 5_002] {
        let mut pod = pod(number);
        Arc::make_mut(&mut pod.labels).insert("app".into(), "app1".into());
        let key = (pod.namespace.clone(), pod.name.clone());
        cluster.pods.insert(key, pod);
        step("a label of one pod", &cluster);
    }
    let mut changed = policy(20);
    changed.ingress = Some(Vec::new());
    cluster
        .policies
        .insert((changed.namespace.clone(), changed.name.clone()), changed);
    step("one policy", &cluster);
}
