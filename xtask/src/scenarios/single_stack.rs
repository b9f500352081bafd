//! Clusters with one family of addresses.

use super::{Scene, call};
use crate::lab::{
    Action, Families, NetNs, Underlay,
    probe::{Proto, Server},
};
use std::net::IpAddr;

/// A pod with one address.
struct Single {
    ns: NetNs,
    address: IpAddr,
}

fn pod(scene: &Scene, index: usize, name: &str) -> Single {
    let ns = NetNs::new(scene.lab.session(), &format!("s-{name}")).unwrap();
    let (node, plugin) = (scene.node(index), &scene.plugins[index]);
    let result = call(node, plugin, Action::Add, ns.name(), ns.path()).unwrap();
    let ips = result["ips"].as_array().unwrap();
    assert_eq!(ips.len(), 1, "{result}");
    let (address, _) = ips[0]["address"].as_str().unwrap().split_once('/').unwrap();
    let address = address.parse().unwrap();
    Single { ns, address }
}

fn pods_and_hosts_talk(families: Families) {
    let scene = Scene::with_families(2, Underlay::Bridge, families);
    let pods = [
        pod(&scene, 0, "a"),
        pod(&scene, 0, "b"),
        pod(&scene, 1, "c"),
    ];
    let _servers = pods.each_ref().map(|pod| Server::start(&pod.ns).unwrap());
    let hosts = scene.lab.nodes.iter().map(|node| &node.ns);
    let sources: Vec<_> = pods.iter().map(|pod| &pod.ns).chain(hosts).collect();
    for to in &pods {
        let target = to.address;
        assert_eq!(target.is_ipv6(), families == Families::V6);
        for from in &sources {
            for proto in Proto::ALL {
                let done = from.run(|| proto.check(target));
                assert!(done.is_ok(), "{} → {target} {proto}: {done:?}", from.name());
            }
        }
    }
    let host = scene.node(0).addr(families == Families::V6);
    let _server = Server::start(&scene.node(0).ns).unwrap();
    for pod in &pods {
        let done = pod.ns.run(|| Proto::Tcp.check(host));
        assert!(done.is_ok(), "{} → {host}: {done:?}", pod.ns.name());
    }
    for pod in &pods[..2] {
        let node = scene.node(0);
        let (id, netns) = (pod.ns.name(), pod.ns.path());
        call(node, &scene.plugins[0], Action::Del, id, netns).unwrap();
    }
    assert_eq!(scene.ask(0, &["endpoint", "list"]), serde_json::json!([]));
}

#[test]
#[ignore = "needs root and the built binaries"]
fn nodes_with_only_ipv4_serve_pods_and_hosts() {
    pods_and_hosts_talk(Families::V4);
}

#[test]
#[ignore = "needs root and the built binaries"]
fn nodes_with_only_ipv6_serve_pods_and_hosts() {
    pods_and_hosts_talk(Families::V6);
}
