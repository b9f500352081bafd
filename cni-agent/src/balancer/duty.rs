//! PURE: which Services get addresses of the pool, and which addresses a node answers for.

use super::pool::{Claim, Range};
use crate::{
    model::{Service, ServiceType},
    state::Cluster,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// `spec.loadBalancerClass` of Services that get an address of the pool; none means the same.
pub const CLASS: &str = "fairlead.dev/pool";

/// Namespace and name of a Service.
pub type Key = (String, String);

/// What concerns the pool in a cluster, as a node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Duties {
    /// Those that get addresses, by namespace and name.
    pub claims: Vec<Claim>,
    /// Addresses of the pool that are in use otherwise, with by whom: nodes', and those that other Services
    /// have by `externalIPs` or from elsewhere.
    pub others: BTreeMap<IpAddr, String>,
    /// Addresses of the pool that are to be taken back, by the Service that has them no more; with all
    /// that it keeps.
    pub freed: BTreeMap<Key, Vec<IpAddr>>,
    /// Addresses that whoever holds the common Lease answers for.
    pub common: BTreeSet<IpAddr>,
    /// Addresses that one node with ready endpoints answers for, by Service (externalTrafficPolicy
    /// Local); with whether this node has such endpoints.
    pub local: BTreeMap<Key, (BTreeSet<IpAddr>, bool)>,
}

/// What there is to do by the cluster, for the node of that name.
pub fn duties(cluster: &Cluster, node: &str, pool: &[Range]) -> Duties {
    let mut duties = Duties::default();
    let inside = |ip: &IpAddr| pool.iter().any(|range| range.holds(*ip));
    for node in cluster.nodes.values() {
        for ip in node.addresses.iter().filter(|ip| inside(ip)) {
            duties.others.insert(*ip, format!("node {}", node.name));
        }
    }
    for (key, service) in cluster.services.iter() {
        let current: Vec<IpAddr> = service.ingress.iter().map(|ingress| ingress.ip).collect();
        let of_another = service.service_type == ServiceType::LoadBalancer && !is_ours(service);
        let foreign = current.iter().filter(|_| of_another);
        for ip in foreign.chain(&service.external_ips).filter(|ip| inside(ip)) {
            let by = format!("the Service {}/{}", key.0, key.1);
            duties.others.insert(*ip, by);
        }
        if service.service_type != ServiceType::LoadBalancer {
            if current.iter().any(inside) {
                let kept = current.into_iter().filter(|ip| !inside(ip)).collect();
                duties.freed.insert(key.clone(), kept);
            }
            continue;
        }
        if !is_ours(service) {
            continue;
        }
        // Those outside of the pool are another's: nobody could say who answers for them.
        let answered = current.iter().copied().filter(inside).collect();
        if service.external_local {
            duties.local.insert(key.clone(), (answered, false));
        } else {
            duties.common.extend(answered);
        }
        duties.claims.push(Claim {
            service: key.clone(),
            families: families(service, pool),
            current,
            wanted: service.wanted_ips.clone(),
        });
    }
    if duties.local.is_empty() {
        return duties;
    }
    for slice in cluster.slices.values() {
        let key = (slice.namespace.clone(), slice.service.clone());
        if let Some((_, here)) = duties.local.get_mut(&key) {
            let own = |e: &crate::model::SliceEndpoint| e.ready && e.node.as_deref() == Some(node);
            *here |= slice.endpoints.iter().any(own);
        }
    }
    duties
}

fn is_ours(service: &Service) -> bool {
    let class = service.load_balancer_class.as_deref();
    class.is_none_or(|class| class == CLASS) && !service.cluster_ips.is_empty()
}

/// The Service's families, as its ClusterIPs have them. One that the pool has nothing of is left out,
/// unless the Service has no other: it may have only preferred to have both.
fn families(service: &Service, pool: &[Range]) -> BTreeSet<bool> {
    let all: BTreeSet<bool> = service.cluster_ips.iter().map(IpAddr::is_ipv4).collect();
    let had = |v4: &bool| pool.iter().any(|range| range.is_ipv4() == *v4);
    let served: BTreeSet<bool> = all.iter().copied().filter(had).collect();
    if served.is_empty() { all } else { served }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EndpointSlice, Ingress, SliceEndpoint};

    fn pool() -> Vec<Range> {
        vec!["192.0.2.0/24".parse().unwrap()]
    }

    fn service(name: &str, ingress: &[&str]) -> Service {
        Service {
            namespace: "default".into(),
            name: name.into(),
            service_type: ServiceType::LoadBalancer,
            cluster_ips: vec!["10.96.0.7".parse().unwrap()],
            ingress: (ingress.iter())
                .map(|ip| Ingress {
                    ip: ip.parse().unwrap(),
                    proxy: false,
                })
                .collect(),
            ..Service::default()
        }
    }

    fn cluster(services: Vec<Service>) -> Cluster {
        let keyed = services
            .into_iter()
            .map(|s| ((s.namespace.clone(), s.name.clone()), s));
        Cluster {
            services: keyed.collect(),
            ..Cluster::default()
        }
    }

    fn names(duties: &Duties) -> Vec<&str> {
        let claims = duties.claims.iter();
        claims.map(|claim| claim.service.1.as_str()).collect()
    }

    #[test]
    fn services_of_another_class_or_type_get_none() {
        let other = Service {
            load_balancer_class: Some("example.com/other".into()),
            ..service("other", &["192.0.2.9"])
        };
        let named = Service {
            load_balancer_class: Some(CLASS.into()),
            ..service("named", &[])
        };
        let node_port = Service {
            service_type: ServiceType::NodePort,
            ..service("port", &["198.51.100.1"])
        };
        let cluster = cluster(vec![other, named, node_port, service("unset", &[])]);
        let duties = duties(&cluster, "n1", &pool());
        assert_eq!(names(&duties), ["named", "unset"]);
        assert!(duties.common.is_empty() && duties.freed.is_empty());
    }

    #[test]
    fn addresses_of_nodes_and_of_others_services_are_not_the_pool_s_to_give() {
        let other = Service {
            load_balancer_class: Some("example.com/other".into()),
            ..service("other", &["192.0.2.9", "198.51.100.9"])
        };
        let external = Service {
            service_type: ServiceType::ClusterIp,
            external_ips: vec!["192.0.2.8".parse().unwrap()],
            ..service("external", &[])
        };
        let node = crate::model::Node {
            name: "n1".into(),
            addresses: vec!["192.0.2.7".parse().unwrap()],
            ..crate::model::Node::default()
        };
        let mut cluster = cluster(vec![other, external]);
        cluster.nodes = [(node.name.clone(), node)].into_iter().collect();
        let others = duties(&cluster, "n1", &pool()).others;
        let told: Vec<_> = (others.iter())
            .map(|(ip, by)| format!("{ip} {by}"))
            .collect();
        assert_eq!(
            told,
            [
                "192.0.2.7 node n1",
                "192.0.2.8 the Service default/external",
                "192.0.2.9 the Service default/other"
            ]
        );
    }

    #[test]
    fn a_service_that_is_no_load_balancer_any_more_loses_what_is_of_the_pool() {
        let former = Service {
            service_type: ServiceType::ClusterIp,
            ..service("former", &["192.0.2.1", "198.51.100.1"])
        };
        let duties = duties(&cluster(vec![former]), "n1", &pool());
        let key = ("default".to_owned(), "former".to_owned());
        let kept = vec!["198.51.100.1".parse().unwrap()];
        assert_eq!(duties.freed, BTreeMap::from([(key, kept)]));
        assert!(names(&duties).is_empty());
    }

    #[test]
    fn only_nodes_with_ready_endpoints_answer_for_a_service_of_the_policy_local() {
        let local = Service {
            external_local: true,
            ..service("local", &["192.0.2.2", "198.51.100.2"])
        };
        let mut cluster = cluster(vec![local, service("common", &["192.0.2.1"])]);
        let endpoint = |node: &str, ready| SliceEndpoint {
            address: "100.11.1.2".parse().unwrap(),
            ready,
            serving: ready,
            terminating: false,
            node: Some(node.into()),
            zone: None,
            hints: None,
        };
        let slice = EndpointSlice {
            namespace: "default".into(),
            name: "local-x".into(),
            service: "local".into(),
            ports: vec![],
            endpoints: vec![endpoint("n1", true), endpoint("n2", false)],
        };
        let key = ("default".to_owned(), "local-x".to_owned());
        cluster.slices = [(key, slice)].into_iter().collect();
        for (node, here) in [("n1", true), ("n2", false), ("n3", false)] {
            let duties = duties(&cluster, node, &pool());
            assert_eq!(
                duties.common,
                BTreeSet::from(["192.0.2.1".parse().unwrap()])
            );
            let answered = BTreeSet::from(["192.0.2.2".parse().unwrap()]);
            let key = ("default".to_owned(), "local".to_owned());
            assert_eq!(
                duties.local,
                BTreeMap::from([(key, (answered, here))]),
                "{node}"
            );
        }
    }

    #[test]
    fn a_family_without_a_range_is_no_problem_beside_one_that_has_some() {
        let both = Service {
            cluster_ips: vec!["10.96.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            ..service("both", &[])
        };
        let v6 = Service {
            cluster_ips: vec!["fd00::8".parse().unwrap()],
            ..service("v6", &[])
        };
        let duties = duties(&cluster(vec![both, v6]), "n1", &pool());
        let families: Vec<_> = duties.claims.iter().map(|c| c.families.clone()).collect();
        assert_eq!(families, [BTreeSet::from([true]), BTreeSet::from([false])]);
    }
}
