//! Against a plain reading of the API, endpoint by endpoint, and after changes against compiling anew.

use super::{
    tests::{cluster, endpoint, service, slice},
    *,
};
use crate::model::{
    EndpointSlice, Hints, Ingress, Node, Service, ServicePort, ServiceType, SliceEndpoint,
    SlicePort,
};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeSet;

fn any_endpoint(v4: bool) -> impl Strategy<Value = SliceEndpoint> {
    let hints = (0u8..8, 0u8..8);
    (0u8..8, any::<[bool; 3]>(), 0u8..3, hints).prop_map(
        move |(ip, [ready, serving, terminating], node, (zones, nodes))| {
            let address = if v4 { "10.1.0." } else { "fd00::" };
            // Often one in all, so that hints are followed often enough.
            let named = |bits: u8, names: [&str; 2]| -> Vec<String> {
                match bits {
                    0 => Vec::new(),
                    1 => names.map(ToOwned::to_owned).to_vec(),
                    n => vec![names[usize::from(n % 2)].to_owned()],
                }
            };
            let hints = Hints {
                zones: named(zones, ["z1", "z2"]),
                nodes: named(nodes, ["n1", "n2"]),
            };
            SliceEndpoint {
                ready,
                serving,
                terminating,
                node: (node < 2).then(|| format!("n{}", node + 1)),
                hints: (nodes < 6).then(|| Box::new(hints)),
                ..endpoint(&format!("{address}{ip}"), "")
            }
        },
    )
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    any::<bool>().prop_flat_map(|v4| {
        let parts = (
            0u8..4,
            0u8..8,
            vec(any_endpoint(v4), 0..5),
            any::<[bool; 2]>(),
        );
        parts.prop_map(|(of, name, endpoints, has)| {
            let port = |(name, protocol, port): (&str, _, _)| SlicePort {
                name: name.into(),
                protocol,
                port,
            };
            let ports = [("http", Protocol::Tcp, 8080), ("dns", Protocol::Udp, 53)];
            EndpointSlice {
                ports: ports
                    .into_iter()
                    .zip(has)
                    .filter(|(_, has)| *has)
                    .map(|(p, _)| port(p))
                    .collect(),
                ..slice(&format!("e{name}"), &format!("s{of}"), endpoints)
            }
        })
    })
}

fn any_service() -> impl Strategy<Value = Service> {
    let ips = (
        0u8..4,
        0u8..4,
        vec(0u8..6, 0..3),
        vec((0u8..6, any::<bool>()), 0..3),
    );
    let flags = any::<[bool; 5]>();
    (0u8..4, ips, flags, 0u8..4, 0u8..3).prop_map(
        |(name, (v4, v6, external, ingress), flags, ranges, node_port)| {
            let [internal_local, external_local, faulty, balancer, dns] = flags;
            // Of one range: addresses of all kinds clash.
            let ip = |n: u8| -> IpAddr {
                let text = if n.is_multiple_of(2) {
                    format!("10.96.0.{n}")
                } else {
                    format!("fd96::{n}")
                };
                text.parse().unwrap()
            };
            let some = [(v4 > 0, 2 * v4), (v6 > 0, 2 * v6 + 1)];
            let port = |name: &str, protocol, port: u16| ServicePort {
                name: name.into(),
                protocol,
                port,
                node_port: (node_port > 0).then(|| 30000 + u16::from(node_port)),
            };
            let ports = [
                port("http", Protocol::Tcp, 80),
                port("dns", Protocol::Udp, 53),
            ];
            Service {
                service_type: if balancer {
                    ServiceType::LoadBalancer
                } else {
                    ServiceType::NodePort
                },
                cluster_ips: some
                    .into_iter()
                    .filter(|(has, _)| *has)
                    .map(|(_, n)| ip(n))
                    .collect(),
                ports: ports.into_iter().take(if dns { 2 } else { 1 }).collect(),
                external_ips: external
                    .iter()
                    .copied()
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .map(ip)
                    .collect(),
                ingress: ingress
                    .into_iter()
                    .map(|(n, proxy)| Ingress { ip: ip(n), proxy })
                    .collect(),
                source_ranges: ["192.0.2.0/24", "2001:db8::/32"]
                    .into_iter()
                    .take(usize::from(ranges))
                    .map(|r| r.parse().unwrap())
                    .collect(),
                source_ranges_faulty: faulty && ranges == 3,
                internal_local,
                external_local,
                health_check_port: Some(31000 + u16::from(node_port)),
                ..service(&format!("s{name}"), &[])
            }
        },
    )
}

fn any_cluster() -> impl Strategy<Value = Cluster> {
    let zone = prop_oneof![
        Just(None),
        Just(Some("z1".to_owned())),
        Just(Some("z3".to_owned()))
    ];
    (vec(any_service(), 0..6), vec(any_slice(), 0..8), zone).prop_map(|(services, slices, zone)| {
        let mut cluster = cluster(services, slices);
        let node = Node {
            name: "n1".into(),
            zone,
            ..Node::default()
        };
        cluster.nodes.insert("n1".into(), node);
        cluster
    })
}

/// Who answers of a Service's endpoints at a port, as the API and kube-proxy's rules say.
fn answers(
    cluster: &Cluster,
    of: &Service,
    port: &str,
    v4: bool,
    local: bool,
) -> BTreeSet<SocketAddr> {
    let number = if port == "http" { 8080 } else { 53 };
    let mut pool: Vec<&SliceEndpoint> = Vec::new();
    for slice in cluster.slices.values() {
        if slice.service == of.name && slice.ports.iter().any(|p| p.name == port) {
            pool.extend(slice.endpoints.iter().filter(|e| e.address.is_ipv4() == v4));
        }
    }
    if local {
        pool.retain(|e| e.node.as_deref() == Some("n1"));
    }
    if pool.iter().any(|e| e.ready) {
        pool.retain(|e| e.ready);
        let zone = cluster.nodes["n1"].zone.clone().unwrap_or_default();
        let nodes = |e: &SliceEndpoint| e.hints.clone().unwrap_or_default().nodes;
        let zones = |e: &SliceEndpoint| e.hints.clone().unwrap_or_default().zones;
        let by_node = pool.iter().all(|e| !nodes(e).is_empty())
            && pool.iter().any(|e| nodes(e).contains(&"n1".to_owned()));
        let by_zone = pool.iter().all(|e| !zones(e).is_empty())
            && pool.iter().any(|e| zones(e).contains(&zone));
        if !local && by_node {
            pool.retain(|e| nodes(e).contains(&"n1".to_owned()));
        } else if !local && by_zone {
            pool.retain(|e| zones(e).contains(&zone));
        }
    } else {
        pool.retain(|e| e.serving && e.terminating);
    }
    pool.iter()
        .map(|e| SocketAddr::new(e.address, number))
        .collect()
}

/// What a Service would have at an address of it if it were alone; none: not its address.
fn reading(
    cluster: &Cluster,
    of: &Service,
    address: IpAddr,
    port: u16,
    protocol: Protocol,
) -> Option<Frontend> {
    let v4 = address.is_ipv4();
    of.cluster_ips.iter().find(|ip| ip.is_ipv4() == v4)?;
    let any = address.is_unspecified();
    let entry = of.ports.iter().find(|p| {
        p.protocol == protocol
            && if any {
                p.node_port == Some(port)
            } else {
                p.port == port
            }
    })?;
    let kind = if any {
        FrontendKind::NodePort
    } else if of.cluster_ips.contains(&address) {
        FrontendKind::ClusterIp
    } else if of.ingress.iter().any(|i| i.ip == address && !i.proxy) {
        FrontendKind::LoadBalancer
    } else if of.external_ips.contains(&address) {
        FrontendKind::ExternalIp
    } else {
        return None;
    };
    let inner = kind == FrontendKind::ClusterIp;
    let list = |local| -> Vec<SocketAddr> {
        answers(cluster, of, &entry.name, v4, local)
            .into_iter()
            .collect()
    };
    let internal = list(inner && of.internal_local);
    let external = list(if inner {
        of.internal_local
    } else {
        of.external_local
    });
    let mut known = cluster
        .slices
        .values()
        .filter(|s| s.service == of.name && s.ports.iter().any(|p| p.name == entry.name))
        .flat_map(|s| &s.endpoints)
        .filter(|e| e.address.is_ipv4() == v4);
    let hinted = known
        .clone()
        .filter_map(|e| e.hints.as_ref())
        .any(|hints| !hints.zones.is_empty() || !hints.nodes.is_empty());
    let anywhere = known.any(|e| e.ready || e.serving && e.terminating);
    let empty = |list: &Vec<_>| {
        if list.is_empty() && anywhere {
            WhenEmpty::Drop
        } else {
            WhenEmpty::Pass
        }
    };
    let ranges: Vec<_> = of
        .source_ranges
        .iter()
        .filter(|r| r.is_ipv4() == v4)
        .copied()
        .collect();
    let limited =
        kind == FrontendKind::LoadBalancer && (!ranges.is_empty() || of.source_ranges_faulty);
    Some(Frontend {
        address,
        port,
        protocol,
        kind,
        service: format!("default/{}", of.name),
        port_name: entry.name.clone(),
        affinity_secs: 0,
        internal_empty: empty(&internal),
        internal,
        external_empty: empty(&external),
        external,
        source_ranges: limited.then_some(ranges),
        same_everywhere: !inner && !any && !of.external_local && !hinted,
    })
}

/// Every address and port that anybody could mean.
fn everywhere() -> impl Iterator<Item = (IpAddr, u16, Protocol)> {
    let v4 = (0..16).map(|n| format!("10.96.0.{n}"));
    let v6 = (0..16).map(|n| format!("fd96::{n}"));
    let any = ["0.0.0.0".to_owned(), "::".to_owned()].into_iter();
    v4.chain(v6).chain(any).flat_map(|ip| {
        let ip: IpAddr = ip.parse().unwrap();
        [80, 53, 30001, 30002]
            .into_iter()
            .flat_map(move |port| [Protocol::Tcp, Protocol::Udp].map(move |p| (ip, port, p)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_tables_are_what_a_plain_reading_gives(cluster in any_cluster()) {
        let compiled = compile(&cluster, "n1");
        prop_assert!(compiled.frontends.is_sorted_by_key(|f| (f.address, f.port, f.protocol)));
        let mut expected = BTreeMap::new();
        let mut refused = 0;
        for (address, port, protocol) in everywhere() {
            let mut wanted: Vec<_> = cluster.services.values().filter_map(|s| reading(&cluster, s, address, port, protocol)).collect();
            // Nobody takes another's own address by naming it; else the first by name has it.
            wanted.sort_by_key(|f| matches!(f.kind, FrontendKind::LoadBalancer | FrontendKind::ExternalIp));
            if !wanted.is_empty() {
                refused += wanted.len() - 1;
                expected.insert((address, port, protocol), wanted.swap_remove(0));
            }
        }
        let found: Vec<&Frontend> = compiled.frontends.iter().map(AsRef::as_ref).collect();
        prop_assert_eq!(found, expected.values().collect::<Vec<_>>());
        let alien = |s: &Service| s.external_ips.iter().filter(|ip| !s.cluster_ips.iter().any(|c| c.is_ipv4() == ip.is_ipv4())).count();
        let alien: usize = cluster.services.values().map(alien).sum();
        let checked: Vec<&Service> = cluster.services.values()
            .filter(|s| s.service_type == ServiceType::LoadBalancer && s.external_local).collect();
        let ports: BTreeSet<u16> = checked.iter().filter_map(|s| s.health_check_port).collect();
        prop_assert_eq!(compiled.problems.len(), refused + alien + checked.len() - ports.len());
        for (port, check) in &compiled.health_checks {
            let first = checked.iter().find(|s| s.health_check_port == Some(*port)).unwrap();
            prop_assert_eq!(&check.service, &format!("default/{}", first.name));
            let pods = |v4: bool| cluster.slices.values().filter(|s| s.service == first.name && !s.ports.is_empty()).flat_map(|s| &s.endpoints)
                .filter(|e| e.ready && e.node.as_deref() == Some("n1") && e.address.is_ipv4() == v4)
                .map(|e| e.address).collect::<BTreeSet<_>>().len();
            prop_assert_eq!(check.local_endpoints, pods(true).max(pods(false)));
        }
        prop_assert_eq!(compiled.health_checks.len(), ports.len());
    }

    #[test]
    fn what_is_explained_is_what_is_compiled(cluster in any_cluster()) {
        let compiled = compile(&cluster, "n1");
        let mut served = 0;
        for key in cluster.services.keys() {
            let explanation = explain(&cluster, "n1", key).unwrap();
            for explained in explanation.frontends {
                let frontend = explained.frontend;
                let at = |f: &&Arc<Frontend>| (f.address, f.port, f.protocol) == (frontend.address, frontend.port, frontend.protocol);
                let there = compiled.frontends.iter().find(at).unwrap();
                match &explained.held_by {
                    None => { served += 1; prop_assert_eq!(&**there, &frontend) }
                    Some(by) => prop_assert_eq!(by, &there.service),
                }
                let answering = |why: fn(&ExplainedEndpoint) -> Option<Unused>| -> BTreeSet<IpAddr> {
                    explained.endpoints.iter().filter(|e| why(e).is_none()).map(|e| e.address).collect()
                };
                let listed = |list: &[SocketAddr]| list.iter().map(SocketAddr::ip).collect::<BTreeSet<_>>();
                prop_assert_eq!(answering(|e| e.internal), listed(&frontend.internal));
                prop_assert_eq!(answering(|e| e.external), listed(&frontend.external));
            }
        }
        prop_assert_eq!(served, compiled.frontends.len());
    }

    #[test]
    fn after_changes_the_tables_are_those_of_compiling_anew(
        first in any_cluster(),
        other in any_cluster(),
        edits in vec((any::<bool>(), 0u8..8, any::<bool>()), 1..12),
        zone in any::<bool>(),
    ) {
        let mut compiler = Compiler::default();
        let mut now = first;
        let mut before = compiler.compile(&now, "n1");
        prop_assert_eq!(&before, &compile(&now, "n1"));
        let last = edits.len() - 1;
        for (n, (service, which, remove)) in edits.into_iter().enumerate() {
            let key = ("default".to_owned(), format!("{}{which}", if service { "s" } else { "e" }));
            match (service, remove) {
                (true, true) => drop(now.services.remove(&key)),
                (true, false) => drop(other.services.shared(&key).map(|s| now.services.insert(key, s))),
                (false, true) => drop(now.slices.remove(&key)),
                (false, false) => drop(other.slices.shared(&key).map(|s| now.slices.insert(key, s))),
            }
            if zone && n == last {
                now.nodes = other.nodes.clone();
            }
            let after = compiler.compile(&now, "n1");
            prop_assert_eq!(&after, &compile(&now, "n1"));
            // Who writes the maps looks only at what is another allocation.
            let moved = now.nodes["n1"].zone != other.nodes["n1"].zone;
            for f in after.frontends.iter().filter(|_| !(zone && n == last) || moved) {
                let same = before.frontends.iter().find(|old| *old == f);
                prop_assert!(same.is_none_or(|old| Arc::ptr_eq(old, f)) || n == last && zone);
            }
            before = after;
        }
    }
}
