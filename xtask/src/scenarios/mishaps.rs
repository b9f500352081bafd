//! What goes wrong around the agent costs no pod its network, and leaves nothing behind.

use super::{Scene, call, leaks::until_same, names_in};
use crate::lab::{Action, CniError, NetNs, Underlay, probe::ping};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;

#[test]
#[ignore = "needs root and the built binaries"]
fn an_add_that_an_agent_slept_through_does_not_undo_the_runtimes_del() {
    let mut scene = Scene::new(1, Underlay::Bridge);
    let before = scene.holdings(0);
    let sandbox = NetNs::new(scene.lab.session(), "s-frozen").unwrap();
    scene.plugins[0].config["timeoutSeconds"] = json!(1);
    let agent = Pid::from_raw(i32::try_from(scene.agent(0).id()).unwrap()).unwrap();
    let ask = |action| {
        let (node, plugin) = (scene.node(0), &scene.plugins[0]);
        call(node, plugin, action, sandbox.name(), sandbox.path())
    };
    kill_process(agent, Signal::STOP).unwrap();
    let late = ask(Action::Add).unwrap_err();
    assert_eq!(late.downcast_ref::<CniError>().map(|e| e.code), Some(11));
    ask(Action::Del).unwrap();
    assert_eq!(names_in(&scene.node(0).spool()).len(), 1);
    kill_process(agent, Signal::CONT).unwrap();
    // It reads what was sent to it meanwhile, before it can answer this.
    scene.ask(0, &["endpoint", "list"]);
    until_same(&scene, 0, &before);
}

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
