//! `fairlead trace`, and that it leaves nothing behind however it ends.

use super::{Scene, bpftool};
use crate::lab::{Underlay, probe::ping};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The program of each link of the node's pods and uplinks, by its number.
fn attached(scene: &Scene) -> BTreeMap<String, u64> {
    let mut attached = BTreeMap::new();
    for interface in fs::read_dir(scene.pins(0).join("links")).unwrap() {
        for link in fs::read_dir(interface.unwrap().path()).unwrap() {
            let path = link.unwrap().path();
            let shown = bpftool(&["link", "show", "pinned", path.to_str().unwrap()]);
            let program = shown["prog_id"].as_u64().unwrap();
            attached.insert(path.display().to_string(), program);
        }
    }
    attached
}

/// Waits until every link has another program than these, or again these.
fn wait(scene: &Scene, usual: &BTreeMap<String, u64>, other: bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = attached(scene);
        let is_other = now.iter().all(|(link, program)| usual[link] != *program);
        if if other { is_other } else { now == *usual } {
            return;
        }
        assert!(Instant::now() < deadline, "{usual:?}, now {now:?}");
    }
}

fn trace(scene: &Scene, words: &[&str]) -> Child {
    let mut command = Command::new(scene.fairlead());
    command.arg("--socket").arg(scene.node(0).socket());
    command.arg("trace").args(words);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().unwrap()
}

#[test]
#[ignore = "needs root and the built binaries"]
fn packets_are_traced_step_by_step_and_the_usual_programs_come_back() {
    let scene = Scene::new(1, Underlay::Bridge);
    let (a, b) = (scene.pod(0, "a"), scene.pod(0, "b"));
    let usual = attached(&scene);
    let (from, to) = (a.v4.to_string(), b.v4.to_string());
    let words = [&from, &to, "icmp", "--seconds", "5", "-o", "json"];
    let tracing = trace(&scene, &words);
    wait(&scene, &usual, true);
    a.ns.run(|| ping(b.v4.into(), 56)).unwrap();
    a.ns.run(|| ping(scene.node(0).addr(false), 56)).unwrap();
    let output = tracing.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(attached(&scene), usual, "at once, when it has ended");
    let text = String::from_utf8(output.stdout).unwrap();
    let walks: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(walks.len(), 2, "a question and its answer: {text}");
    let judged = |pod: &str, direction: &str, said: &str| json!({"step": "judged", "pod": format!("pod default/{pod}"), "direction": direction, "said": said});
    let path = json!({"step": "path", "path": "pod_to_pod"});
    for (walk, sender, receiver, said) in [
        (&walks[0], &a, &b, "begins"),
        (&walks[1], &b, &a, "not-asked"),
    ] {
        assert_eq!(walk["ends"]["from"]["address"], sender.v4.to_string());
        assert_eq!(walk["seenBy"], format!("pod default/{}", sender.name));
        assert_eq!(walk["program"], "from_pod");
        assert_eq!(walk["outcome"], "redirected");
        let steps = json!([
            judged(&sender.name, "egress", said),
            judged(&receiver.name, "ingress", said),
            path
        ]);
        assert_eq!(walk["steps"], steps);
    }
}

#[test]
#[ignore = "needs root and the built binaries"]
fn a_trace_whose_client_or_whose_agent_goes_ends_by_itself() {
    let mut scene = Scene::new(1, Underlay::Bridge);
    let a = scene.pod(0, "a");
    let usual = attached(&scene);
    let words = [&a.v4.to_string(), "--follow"].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();

    let mut killed = trace(&scene, &words);
    wait(&scene, &usual, true);
    let second = trace(&scene, &words).wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(2));
    assert!(
        told.contains("somebody traces on this node already"),
        "{told}"
    );
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait(&scene, &usual, false);

    let mut left = trace(&scene, &words);
    wait(&scene, &usual, true);
    scene.take_agent(0).stop().unwrap();
    assert_eq!(attached(&scene), usual, "before the agent has ended");
    left.wait().unwrap();

    scene.restart(0);
    let usual = attached(&scene);
    let mut left = trace(&scene, &words);
    wait(&scene, &usual, true);
    scene.take_agent(0).kill().unwrap();
    left.wait().unwrap();
    // The next one puts its own in the place of what it finds.
    let traced = attached(&scene);
    scene.restart(0);
    wait(&scene, &traced, true);
    a.ns.run(|| ping(scene.node(0).addr(false), 56)).unwrap();
}
