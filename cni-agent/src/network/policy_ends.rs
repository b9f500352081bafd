//! PURE: who people mean by the ends of a connection.

use crate::{
    model::{Node, Pod},
    query::End,
    state::Cluster,
};
use std::net::IpAddr;

/// What the words of an end lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meant {
    pub(super) name: String,
    /// One of each family at most.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) node: Option<String>,
}

impl Meant {
    /// Its end in a family.
    pub(super) fn end(&self, v4: bool) -> Option<End> {
        let address = self.addresses.iter().find(|a| a.is_ipv4() == v4)?;
        Some(End {
            name: self.name.clone(),
            address: *address,
            node: self.node.clone(),
        })
    }
}

/// Finds a pod (namespace/name), an address, or a Service (service/namespace/name).
///
/// # Errors
/// Says what to write instead.
pub(super) fn find(cluster: &Cluster, words: &str) -> Result<Meant, String> {
    if let Ok(address) = words.parse() {
        return Ok(at(cluster, address));
    }
    let parts: Vec<&str> = words.split('/').collect();
    let key = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
    match parts[..] {
        [namespace, name] => {
            let Some(pod) = cluster.pods.get(&key(namespace, name)) else {
                return Err(format!(
                    "no pod {words} is known on this node; `kubectl get pods -n {namespace} -o wide` shows them (pods of other nodes are known where there are policies)"
                ));
            };
            let meant = of_pod(pod);
            match meant.addresses.is_empty() {
                true => Err(format!(
                    "pod {words} has no address yet; ask again when it runs"
                )),
                false => Ok(meant),
            }
        }
        ["service" | "svc", namespace, name] => {
            let service = cluster.services.get(&key(namespace, name));
            let service = service.ok_or_else(|| {
                format!(
                    "no Service {namespace}/{name}; `fairlead service list -n {namespace}` shows them"
                )
            })?;
            match service.cluster_ips.is_empty() {
                true => Err(format!(
                    "Service {namespace}/{name} is headless: its clients connect to its pods; name one of them"
                )),
                false => Ok(Meant {
                    name: format!("service {namespace}/{name}"),
                    addresses: service.cluster_ips.clone(),
                    node: None,
                }),
            }
        }
        _ => Err(format!(
            "{words:?} is nobody; write a pod as namespace/name, an address, or service/namespace/name"
        )),
    }
}

/// Who has an address.
pub(super) fn at(cluster: &Cluster, address: IpAddr) -> Meant {
    let mut pods = cluster.pods.values().filter(|pod| !pod.host_network);
    if let Some(pod) = pods.find(|pod| pod.ips.contains(&address)) {
        return Meant {
            addresses: vec![address],
            ..of_pod(pod)
        };
    }
    let has = |node: &&Node| {
        node.addresses.contains(&address) || node.further_addresses.contains(&address)
    };
    let node = cluster.nodes.values().find(has);
    let mut services = cluster.services.values();
    let service = services.find(|service| service.cluster_ips.contains(&address));
    let name = match (node, service) {
        (Some(node), _) => format!("node {}", node.name),
        (None, Some(service)) => format!("service {}/{}", service.namespace, service.name),
        (None, None) => String::new(),
    };
    Meant {
        name,
        addresses: vec![address],
        node: None,
    }
}

fn of_pod(pod: &Pod) -> Meant {
    Meant {
        name: format!("pod {}/{}", pod.namespace, pod.name),
        addresses: pod.ips.clone(),
        node: pod.node.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn cluster() -> Cluster {
        let pod = |name: &str, ips: &[&str], host_network| Pod {
            namespace: "shop".into(),
            name: name.into(),
            uid: None,
            labels: Arc::default(),
            node: Some("n1".into()),
            host_network,
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ports: Vec::new(),
        };
        let pods = [
            pod("web", &["10.1.0.2", "fd00::2"], false),
            pod("agent", &["192.0.2.1"], true),
            pod("new", &[], false),
        ];
        let node = Node {
            name: "n1".into(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            ..Node::default()
        };
        Cluster {
            nodes: [("n1".to_owned(), node)].into_iter().collect(),
            pods: pods
                .into_iter()
                .map(|pod| ((pod.namespace.clone(), pod.name.clone()), pod))
                .collect(),
            ..Cluster::default()
        }
    }

    #[test]
    fn a_pod_is_found_by_its_name_and_by_its_addresses() {
        for words in ["shop/web", "10.1.0.2", "fd00::2"] {
            let meant = find(&cluster(), words).unwrap();
            assert_eq!(meant.name, "pod shop/web", "{words}");
            assert_eq!(meant.node.as_deref(), Some("n1"));
        }
        let web = find(&cluster(), "shop/web").unwrap();
        assert_eq!(
            web.end(true).unwrap().address,
            "10.1.0.2".parse::<IpAddr>().unwrap()
        );
        assert!(find(&cluster(), "10.1.0.2").unwrap().end(false).is_none());
    }

    #[test]
    fn a_nodes_address_is_the_nodes_though_pods_share_it() {
        assert_eq!(find(&cluster(), "192.0.2.1").unwrap().name, "node n1");
        assert_eq!(find(&cluster(), "198.51.100.1").unwrap().name, "");
    }

    #[test]
    fn who_is_not_there_is_said_with_a_remedy() {
        for (words, remedy) in [
            ("shop/none", "kubectl get pods -n shop"),
            ("shop/new", "ask again"),
            ("web", "write a pod as namespace/name"),
            ("service/shop/web", "fairlead service list -n shop"),
        ] {
            let error = find(&cluster(), words).unwrap_err();
            assert!(error.contains(remedy), "{words}: {error}");
        }
    }
}
