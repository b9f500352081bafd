//! CHECK compares the kernel with what ADD made, and names the first difference.

use super::{Scene, bpftool, call, code};
use crate::lab::{Action, Plugin, Pod, Underlay};
use serde_json::Value;
use std::fs;

/// CHECK found a difference.
const DIFFERENCE: u64 = 102;

fn check(scene: &Scene, pod: &Pod) -> anyhow::Result<Value> {
    pod.call(scene.node(0), &scene.plugins[0], Action::Check)
}

/// CHECK fails and names something.
fn names(scene: &Scene, pod: &Pod, named: &str) {
    let error = check(scene, pod).unwrap_err();
    assert_eq!(code(&error), DIFFERENCE, "{error:#}");
    assert!(format!("{error:#}").contains(named), "{named}: {error:#}");
}

/// The host's end of a pod's link, as the ADD answered.
fn host_interface(pod: &Pod) -> &str {
    pod.result["interfaces"][0]["name"].as_str().unwrap()
}

#[test]
#[ignore = "needs root and the built binaries"]
fn check_names_what_was_changed_by_hand_in_the_pod() {
    let scene = Scene::new(1, Underlay::Bridge);
    let pod = scene.pod(0, "a");
    check(&scene, &pod).unwrap();
    for (damage, mend, named) in [
        ("link set eth0 mtu 1400", "link set eth0 mtu 1500", "1400"),
        (
            "route del default",
            "route add default via 169.254.1.1 dev eth0 proto 157",
            "0.0.0.0/0",
        ),
    ] {
        pod.ns.ip(damage).unwrap();
        names(&scene, &pod, named);
        pod.ns.ip(mend).unwrap();
        check(&scene, &pod).unwrap();
    }
    let mut plugin: Plugin = scene.plugins[0].clone();
    plugin.config["prevResult"] = pod.result.clone();
    let node = scene.node(0);
    let unknown = call(node, &plugin, Action::Check, "nobody", pod.ns.path());
    assert_eq!(code(&unknown.unwrap_err()), 3);
}

#[test]
#[ignore = "needs root and the built binaries"]
fn check_names_a_lost_map_row() {
    for (map, row) in [
        ("endpoints", 0),
        ("endpoint_addrs", 0),
        ("endpoint_addrs", 1),
    ] {
        let scene = Scene::new(1, Underlay::Bridge);
        let pod = scene.pod(0, "a");
        check(&scene, &pod).unwrap();
        let key = scene.map(0, map)[row]["key"].clone();
        let bytes = key.as_array().unwrap().iter();
        let path = scene.pins(0).join("maps").join(map);
        let mut words = vec!["map", "delete", "pinned", path.to_str().unwrap(), "key"];
        words.extend(bytes.map(|byte| byte.as_str().unwrap()));
        bpftool(&words);
        names(&scene, &pod, map);
    }
}

#[test]
#[ignore = "needs root and the built binaries"]
fn check_names_a_lost_route_of_the_host() {
    for v6 in [false, true] {
        let scene = Scene::new(1, Underlay::Bridge);
        let pod = scene.pod(0, "a");
        let (address, interface) = (pod.addr(v6), host_interface(&pod));
        let lost = format!("route del {address} dev {interface}");
        scene.node(0).ns.ip(&lost).unwrap();
        names(&scene, &pod, &address.to_string());
    }
}

#[test]
#[ignore = "needs root and the built binaries"]
fn check_names_a_detached_program() {
    for program in ["from_pod", "to_pod"] {
        let scene = Scene::new(1, Underlay::Bridge);
        let pod = scene.pod(0, "a");
        let interface = host_interface(&pod);
        let pinned = scene.pins(0).join("links").join(interface).join(program);
        bpftool(&["link", "detach", "pinned", pinned.to_str().unwrap()]);
        names(&scene, &pod, program);
        // The same when also the pin is gone.
        fs::remove_file(&pinned).unwrap();
        names(&scene, &pod, program);
    }
}
