//! Which frontends the programs translate, for this node's pods or for everybody.

use super::{Frontend, FrontendKind, WhenEmpty};
use crate::{
    model::{Node, Protocol},
    state::Cluster,
};
use cni_ebpf_common::service::REFUSING_PORT;
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Those that the pods of a node can reach, NodePorts at each of the node's own addresses. Another node's
/// are that node's work: what it does depends on its endpoints. A load balancer's address that not every
/// pod may use is left to kube-proxy, which knows the ranges; so is what nobody answers.
pub fn for_pods(frontends: &[Arc<Frontend>], own: &Node) -> Vec<Arc<Frontend>> {
    let answered = |frontend: &&Arc<Frontend>| !frontend.internal.is_empty();
    let served = frontends.iter().filter(answered);
    let served = served.filter(|frontend| may_use(frontend, own)).cloned();
    let open = served.map(|frontend| match &frontend.source_ranges {
        None => frontend,
        // All who ask may.
        Some(_) => Arc::new(Frontend {
            source_ranges: None,
            ..Frontend::clone(&frontend)
        }),
    });
    at_own_addresses(open.collect(), own)
}

/// Those that everybody reaches by a node. Where nobody answers at all, the node itself refuses.
pub fn for_all(frontends: &[Arc<Frontend>], own: &Node) -> Vec<Arc<Frontend>> {
    let refused = |frontend: &Arc<Frontend>| {
        let nobody = |list: &[SocketAddr], empty| list.is_empty() && empty == WhenEmpty::Pass;
        let (internal, external) = (
            nobody(&frontend.internal, frontend.internal_empty),
            nobody(&frontend.external, frontend.external_empty),
        );
        let mut addresses = own.addresses.iter();
        let refuser = addresses.find(|ip| ip.is_ipv4() == frontend.address.is_ipv4());
        let Some(refuser) = refuser.filter(|_| internal || external) else {
            return frontend.clone();
        };
        let mut frontend = Frontend::clone(frontend);
        let refuser = SocketAddr::new(*refuser, REFUSING_PORT);
        if internal {
            frontend.internal = vec![refuser];
        }
        if external {
            frontend.external = vec![refuser];
        }
        Arc::new(frontend)
    };
    at_own_addresses(frontends.iter().map(refused).collect(), own)
}

fn at_own_addresses(frontends: Vec<Arc<Frontend>>, own: &Node) -> Vec<Arc<Frontend>> {
    let (ports, mut reached): (Vec<_>, Vec<_>) = frontends
        .into_iter()
        .partition(|frontend| frontend.kind == FrontendKind::NodePort);
    let place = |f: &Frontend| (SocketAddr::new(f.address, f.port), f.protocol);
    let taken: BTreeSet<_> = if ports.is_empty() {
        BTreeSet::new()
    } else {
        reached.iter().map(|frontend| place(frontend)).collect()
    };
    for port in ports {
        let same_family = |address: &&IpAddr| address.is_ipv4() == port.address.is_ipv4();
        for address in own.addresses.iter().filter(same_family) {
            let at = Frontend {
                address: *address,
                ..Frontend::clone(&port)
            };
            if !taken.contains(&place(&at)) {
                reached.push(Arc::new(at));
            }
        }
    }
    reached
}

/// Takes out what would take others' packets away, with why: an address that a Service only names
/// (CVE-2020-8554) where pods' addresses are, or where another Service's backends answer. Packets to a
/// ClusterIP are translated once; by sockets they would be here a second time.
pub fn without_thefts(
    frontends: Vec<Arc<Frontend>>,
    cluster: &Cluster,
) -> (Vec<Arc<Frontend>>, Vec<String>) {
    let named = |f: &Frontend| {
        matches!(
            f.kind,
            FrontendKind::ExternalIp | FrontendKind::LoadBalancer
        )
    };
    if !frontends.iter().any(|frontend| named(frontend)) {
        return (frontends, Vec::new());
    }
    let mut backends: BTreeMap<(SocketAddr, Protocol), String> = BTreeMap::new();
    for frontend in frontends.iter().filter(|frontend| !named(frontend)) {
        for backend in frontend.internal.iter().chain(&frontend.external) {
            let place = (*backend, frontend.protocol);
            backends
                .entry(place)
                .or_insert_with(|| frontend.service.clone());
        }
    }
    let mut problems = Vec::new();
    let mut kept = frontends;
    kept.retain(|frontend| {
        let Frontend {
            address,
            port,
            protocol,
            service,
            ..
        } = &**frontend;
        let place = (SocketAddr::new(*address, *port), *protocol);
        let pods = || {
            let mut cidrs = cluster.nodes.values().flat_map(|node| &node.pod_cidrs);
            cidrs.find(|cidr| cidr.contains(*address))
        };
        let whose = if !named(frontend) {
            None
        } else if let Some(cidr) = pods() {
            Some(format!("it is a pod's, of {cidr}"))
        } else {
            let other = backends.get(&place).filter(|other| *other != service);
            other.map(|other| format!("a backend of Service {other} answers there"))
        };
        if let Some(whose) = &whose {
            problems.push(format!(
                "Service {service} is not served at {address} port {port}: {whose}; give it another external address"
            ));
        }
        whose.is_none()
    });
    (kept, problems)
}

fn may_use(frontend: &Frontend, own: &Node) -> bool {
    let Some(ranges) = &frontend.source_ranges else {
        return true;
    };
    let inside = |cidr: &IpNetwork| {
        let holds =
            |range: &IpNetwork| range.prefix() <= cidr.prefix() && range.contains(cidr.network());
        ranges.iter().any(holds)
    };
    let same_family = |cidr: &&IpNetwork| cidr.is_ipv4() == frontend.address.is_ipv4();
    own.pod_cidrs.iter().filter(same_family).all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontend(kind: FrontendKind, address: &str, port: u16) -> Arc<Frontend> {
        Arc::new(Frontend {
            address: address.parse().unwrap(),
            port,
            protocol: Protocol::Tcp,
            kind,
            service: "default/web".into(),
            port_name: String::new(),
            affinity_secs: 0,
            internal: vec!["10.1.0.2:8080".parse().unwrap()],
            internal_empty: WhenEmpty::Pass,
            external: Vec::new(),
            external_empty: WhenEmpty::Pass,
            source_ranges: None,
            same_everywhere: false,
        })
    }

    fn node() -> Node {
        let texts = |texts: &[&str]| texts.iter().map(|ip| ip.parse().unwrap()).collect();
        Node {
            name: "n1".into(),
            addresses: texts(&["172.16.0.1", "fd10::1"]),
            pod_cidrs: ["10.1.0.0/24", "fd00::/64"]
                .map(|c| c.parse().unwrap())
                .into(),
            zone: None,
            ..Node::default()
        }
    }

    fn places(reached: &[Arc<Frontend>]) -> Vec<String> {
        let text = |f: &Arc<Frontend>| SocketAddr::new(f.address, f.port).to_string();
        reached.iter().map(text).collect()
    }

    #[test]
    fn node_ports_are_those_of_the_nodes_own_addresses() {
        use FrontendKind::{ClusterIp, ExternalIp, NodePort};
        let compiled = [
            frontend(NodePort, "0.0.0.0", 30_080),
            frontend(ClusterIp, "10.96.0.1", 80),
            frontend(ExternalIp, "172.16.0.1", 30_081),
            frontend(NodePort, "0.0.0.0", 30_081),
            frontend(NodePort, "::", 30_080),
        ];
        let expected = [
            "10.96.0.1:80",
            "172.16.0.1:30081",
            "172.16.0.1:30080",
            "[fd10::1]:30080",
        ];
        let reached = for_pods(&compiled, &node());
        assert_eq!(places(&reached), expected);
        assert_eq!(reached[1].kind, ExternalIp, "who names the address has it");
    }

    #[test]
    fn a_load_balancers_address_is_left_to_others_where_not_every_pod_may_use_it() {
        for (ranges, expected) in [
            (None, true),
            (Some(vec!["10.1.0.0/16"]), true),
            (Some(vec!["192.0.2.0/24", "10.1.0.0/24"]), true),
            (Some(vec!["10.1.0.0/25"]), false),
            (Some(vec![]), false),
        ] {
            let ranges = ranges.map(|r| r.iter().map(|r| r.parse().unwrap()).collect());
            let balanced = Arc::new(Frontend {
                source_ranges: ranges.clone(),
                ..Frontend::clone(&frontend(FrontendKind::LoadBalancer, "192.0.2.2", 80))
            });
            let reached = for_pods(&[balanced], &node());
            assert_eq!(!reached.is_empty(), expected, "{ranges:?}");
        }
    }

    #[test]
    fn where_nobody_answers_the_node_refuses_unless_a_policy_hides_who_does() {
        use FrontendKind::{ClusterIp, NodePort};
        let nobody = |kind, address| {
            Arc::new(Frontend {
                internal: Vec::new(),
                ..Frontend::clone(&frontend(kind, address, 80))
            })
        };
        let hidden = Arc::new(Frontend {
            external_empty: WhenEmpty::Drop,
            ..Frontend::clone(&frontend(NodePort, "0.0.0.0", 30_080))
        });
        let all = [
            nobody(ClusterIp, "10.96.0.1"),
            nobody(ClusterIp, "fd96::1"),
            hidden,
        ];
        assert!(
            for_pods(&all[..2], &node()).is_empty(),
            "kube-proxy refuses"
        );
        let reached = for_all(&all, &node());
        let refuser = |ip: &str| vec![SocketAddr::new(ip.parse().unwrap(), REFUSING_PORT)];
        for (reached, refuser) in reached
            .iter()
            .zip([refuser("172.16.0.1"), refuser("fd10::1")])
        {
            assert_eq!((&reached.internal, &reached.external), (&refuser, &refuser));
        }
        let hidden = reached.last().unwrap();
        assert_eq!(places(&reached)[2], "172.16.0.1:30080");
        assert!(hidden.external.is_empty(), "dropped, not refused");
        assert_eq!(hidden.internal.len(), 1);
    }

    #[test]
    fn nobody_takes_packets_of_pods_or_of_other_services_backends() {
        use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer};
        let mut cluster = Cluster::default();
        cluster.nodes.insert("n1".into(), node());
        let api = Frontend {
            service: "default/kubernetes".into(),
            internal: vec!["172.16.0.9:6443".parse().unwrap()],
            ..Frontend::clone(&frontend(ClusterIp, "10.96.0.1", 443))
        };
        let all = vec![
            Arc::new(api),
            frontend(ExternalIp, "172.16.0.9", 6443),
            frontend(ExternalIp, "172.16.0.9", 80),
            frontend(LoadBalancer, "10.1.0.7", 80),
            frontend(ExternalIp, "fd00::7", 80),
        ];
        let (kept, problems) = without_thefts(all, &cluster);
        assert_eq!(places(&kept), ["10.96.0.1:443", "172.16.0.9:80"]);
        let told = problems.join("\n");
        for part in [
            "172.16.0.9 port 6443: a backend of Service default/kubernetes",
            "10.1.0.7 port 80: it is a pod's, of 10.1.0.0/24",
            "fd00::7 port 80",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }
}
