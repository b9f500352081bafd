//! Pods and a host that is no node.

use super::Scene;
use crate::lab::{
    Outside, Underlay,
    probe::{Proto, Server, arrivals},
};

#[test]
#[ignore = "needs root and the built binaries"]
fn a_pod_reaches_outside_under_its_node_s_address() {
    let scene = Scene::new(1, Underlay::Bridge);
    let outside = Outside::new(&scene.lab).unwrap();
    scene.wait_for_nodes(&outside.ns);
    let pod = scene.pod(0, "a");
    let _server = Server::start(&outside.ns).unwrap();
    for v6 in [false, true] {
        let target = outside.addr(v6);
        for proto in Proto::ALL {
            let done = pod.ns.run(|| proto.check(target));
            assert!(done.is_ok(), "{proto} {target}: {done:?}");
        }
        let seen = arrivals((&pod.ns, &outside.ns), target, &[pod.addr(v6)]).unwrap();
        assert_eq!(seen, [scene.node(0).addr(v6)]);
    }
}

#[test]
#[ignore = "needs root and the built binaries"]
fn outside_reaches_a_pod_s_own_address_where_the_network_routes_it() {
    let scene = Scene::new(2, Underlay::Bridge);
    let outside = Outside::new(&scene.lab).unwrap();
    scene.wait_for_nodes(&outside.ns);
    outside.route_pods(&scene.lab).unwrap();
    let pods = [scene.pod(0, "a"), scene.pod(1, "b")];
    let _servers = pods.each_ref().map(|pod| Server::start(&pod.ns).unwrap());
    let mut failures = Vec::new();
    for pod in &pods {
        for (proto, v6) in Proto::ALL.iter().flat_map(|p| [(p, false), (p, true)]) {
            let target = pod.addr(v6);
            if let Err(error) = outside.ns.run(|| proto.check(target)) {
                failures.push(format!("{proto} {target}: {error:#}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
