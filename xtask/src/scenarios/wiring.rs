//! ADD, CHECK, DEL, GC, STATUS: what a runtime sees.

use super::{Scene, call, code};
use crate::lab::{
    Action, NetNs, Underlay,
    probe::{Proto, Server},
};
use serde_json::json;
use std::path::Path;

#[test]
#[ignore = "needs root and the built binaries"]
fn pods_of_one_node_and_of_two_talk_and_hosts_reach_them() {
    let scene = Scene::new(2, Underlay::Bridge);
    let pods = [scene.pod(0, "a"), scene.pod(0, "b"), scene.pod(1, "c")];
    let _servers: Vec<_> = pods
        .iter()
        .map(|pod| Server::start(&pod.ns).unwrap())
        .collect();
    for from in &pods {
        for to in &pods {
            for (proto, v6) in Proto::ALL.iter().flat_map(|p| [(p, false), (p, true)]) {
                let target = to.addr(v6);
                let result = from.ns.run(|| proto.check(target));
                assert!(
                    result.is_ok(),
                    "{} → {} {proto} {target}: {result:?}",
                    from.name,
                    to.name
                );
            }
        }
    }
    for node in &scene.lab.nodes {
        for to in &pods {
            for v6 in [false, true] {
                let target = to.addr(v6);
                let result = node.ns.run(|| Proto::Tcp.check(target));
                assert!(
                    result.is_ok(),
                    "{} → {} {target}: {result:?}",
                    node.name,
                    to.name
                );
            }
        }
    }
    for node in &scene.lab.nodes {
        let _server = Server::start(&node.ns).unwrap();
        for v6 in [false, true] {
            let target = node.addr(v6);
            let result = pods[0].ns.run(|| Proto::Tcp.check(target));
            assert!(result.is_ok(), "{} → {target}: {result:?}", pods[0].name);
        }
    }
}

#[test]
#[ignore = "needs root and the built binaries"]
fn any_interface_name_and_a_second_interface_work() {
    let scene = Scene::new(1, Underlay::Bridge);
    let pod = scene.pod(0, "a");
    let second = crate::lab::Call {
        container_id: pod.container_id(),
        netns: pod.ns.path(),
        ifname: "net1",
        args: String::new(),
    };
    let result = scene
        .node(0)
        .ns
        .run(|| scene.plugins[0].call(Action::Add, &second, None))
        .unwrap();
    assert!(
        result["ips"].as_array().is_some_and(|ips| ips.len() == 2),
        "{result}"
    );
    assert_eq!(
        scene
            .ask(0, &["endpoint", "list"])
            .as_array()
            .unwrap()
            .len(),
        2
    );
    scene
        .node(0)
        .ns
        .run(|| scene.plugins[0].call(Action::Del, &second, Some(&result)))
        .unwrap();
    pod.call(scene.node(0), &scene.plugins[0], Action::Check)
        .unwrap();
}

#[test]
#[ignore = "needs root and the built binaries"]
fn add_again_answers_the_same_and_del_again_succeeds() {
    let scene = Scene::new(1, Underlay::Bridge);
    let pod = scene.pod(0, "a");
    let again = call(
        scene.node(0),
        &scene.plugins[0],
        Action::Add,
        pod.container_id(),
        pod.ns.path(),
    );
    assert_eq!(again.unwrap(), pod.result);
    for _ in 0..2 {
        pod.call(scene.node(0), &scene.plugins[0], Action::Del)
            .unwrap();
    }
}

#[test]
#[ignore = "needs root and the built binaries"]
fn del_succeeds_when_the_namespace_is_gone() {
    let scene = Scene::new(1, Underlay::Bridge);
    let empty = scene.holdings(0);
    let pod = scene.pod(0, "a");
    let id = pod.container_id().to_owned();
    drop(pod);
    call(
        scene.node(0),
        &scene.plugins[0],
        Action::Del,
        &id,
        Path::new(""),
    )
    .unwrap();
    super::leaks::until_same(&scene, 0, &empty);
}

#[test]
#[ignore = "needs root and the built binaries"]
fn gc_removes_what_is_not_valid_and_keeps_the_rest() {
    let scene = Scene::new(1, Underlay::Bridge);
    let (keep, stale) = (scene.pod(0, "keep"), scene.pod(0, "stale"));
    let mut plugin = scene.plugins[0].clone();
    plugin.config["cni.dev/valid-attachments"] =
        json!([{"containerID": keep.container_id(), "ifname": "eth0"}]);
    call(scene.node(0), &plugin, Action::Gc, "", Path::new("")).unwrap();
    keep.call(scene.node(0), &scene.plugins[0], Action::Check)
        .unwrap();
    let gone = stale.call(scene.node(0), &scene.plugins[0], Action::Check);
    assert_eq!(code(&gone.unwrap_err()), 3);
}

#[test]
#[ignore = "needs root and the built binaries"]
fn without_an_agent_add_says_try_again_and_status_not_available() {
    let mut scene = Scene::new(1, Underlay::Bridge);
    let plugin = scene.plugins[0].clone();
    call(scene.node(0), &plugin, Action::Status, "", Path::new("")).unwrap();
    scene.take_agent(0).stop().unwrap();
    let netns = NetNs::new(scene.lab.session(), "s-late").unwrap();
    let add = call(scene.node(0), &plugin, Action::Add, "late", netns.path());
    assert_eq!(code(&add.unwrap_err()), 11);
    let status = call(scene.node(0), &plugin, Action::Status, "", Path::new(""));
    assert_eq!(code(&status.unwrap_err()), 50);
}

#[test]
#[ignore = "needs root and the built binaries"]
fn a_requested_address_and_mac_are_honoured_or_refused_with_the_reason() {
    let scene = Scene::new(1, Underlay::Bridge);
    let mut plugin = scene.plugins[0].clone();
    plugin.config["runtimeConfig"] = json!({"ips": ["100.11.1.77"], "mac": "02:00:5e:10:00:01"});
    let netns = NetNs::new(scene.lab.session(), "s-asked").unwrap();
    let result = call(scene.node(0), &plugin, Action::Add, "asked", netns.path()).unwrap();
    let text = result.to_string();
    assert!(
        text.contains("100.11.1.77/32") && text.contains("02:00:5e:10:00:01"),
        "{text}"
    );
    let other = NetNs::new(scene.lab.session(), "s-other").unwrap();
    let taken = call(scene.node(0), &plugin, Action::Add, "other", other.path()).unwrap_err();
    assert!(
        format!("{taken:#}").contains("in use by asked/eth0"),
        "{taken:#}"
    );
    plugin.config["runtimeConfig"] = json!({"ips": ["10.0.0.1"]});
    let outside = call(scene.node(0), &plugin, Action::Add, "other", other.path()).unwrap_err();
    assert!(
        format!("{outside:#}").contains("100.11.1.0/24"),
        "{outside:#}"
    );
}
