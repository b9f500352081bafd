//! What goes wrong around the agent costs no pod its network, and leaves nothing behind.

use super::{Scene, leaks::until_same};
use crate::lab::{Action, Underlay, probe::ping};
use std::fs;

#[test]
#[ignore = "needs root and the built binaries"]
fn a_lost_store_and_a_link_set_down_cost_no_pod_its_network() {
    let mut scene = Scene::new(1, Underlay::Bridge);
    let before = scene.holdings(0);
    let (a, b) = (scene.pod(0, "a"), scene.pod(0, "b"));
    let known = scene.ask(0, &["endpoint", "list"]);
    // Ended in order, so that the store knows that both were finished.
    scene.take_agent(0).stop().unwrap();
    let link = known[0]["hostIfname"].as_str().unwrap().to_owned();
    scene.ip(0, &["link", "set", &link, "down"]);
    scene.restart(0);
    let status = scene.ask(0, &["status"]);
    assert_eq!(status["adoption"]["adopted"], 2, "{status}");
    scene.ip(0, &["link", "set", &link, "up"]);

    scene.take_agent(0).kill().unwrap();
    fs::remove_file(scene.node(0).state_dir().join("state.redb")).unwrap();
    scene.restart(0);
    let status = scene.ask(0, &["status"]);
    assert_eq!(status["adoption"]["recovered"], 2, "{status}");
    let found = scene.ask(0, &["endpoint", "list"]);
    for (found, known) in found
        .as_array()
        .unwrap()
        .iter()
        .zip(known.as_array().unwrap())
    {
        for field in ["id", "containerId", "addresses", "mac", "hostMac", "mtu"] {
            assert_eq!(found[field], known[field], "{field}");
        }
    }
    a.ns.run(|| ping(b.addr(false), 56)).unwrap();
    for pod in [a, b] {
        pod.call(scene.node(0), &scene.plugins[0], Action::Del)
            .unwrap();
    }
    // The address that a new store remembers as released is nothing that a node holds.
    until_same(&scene, 0, &before);
}
