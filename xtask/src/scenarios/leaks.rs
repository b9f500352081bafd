//! What comes and goes leaves nothing, whatever happens in between.

use super::Scene;
use crate::lab::{Action, Call, NetNs, Underlay};
use anyhow::Result;
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Links are removed after their DEL is answered; this is how long that may take.
const SETTLE: Duration = Duration::from_secs(20);

/// Waits until the node holds exactly what it held before, and fails with the difference.
pub(super) fn until_same(scene: &Scene, index: usize, before: &[String]) {
    let deadline = Instant::now() + SETTLE;
    loop {
        let now = scene.holdings(index);
        if now == before {
            return;
        }
        if Instant::now() > deadline {
            let more: Vec<_> = now.iter().filter(|l| !before.contains(l)).collect();
            let less: Vec<_> = before.iter().filter(|l| !now.contains(l)).collect();
            panic!(
                "left behind: {more:#?}\nlost: {less:#?}\nlog: {}",
                scene.agent(index).log_tail()
            );
        }
        thread::sleep(Duration::from_millis(50));
    }
}

struct Sandbox {
    id: String,
    path: PathBuf,
    _ns: NetNs,
}

fn sandboxes(scene: &Scene, count: usize) -> Vec<Sandbox> {
    (0..count)
        .map(|number| {
            let ns = NetNs::new(scene.lab.session(), &format!("s-p{number}")).unwrap();
            Sandbox {
                id: ns.name().to_owned(),
                path: ns.path().to_owned(),
                _ns: ns,
            }
        })
        .collect()
}

/// Calls the plugin for each sandbox, `lanes` at a time, and returns the answers in order.
fn call_all(scene: &Scene, action: Action, sandboxes: &[Sandbox], lanes: usize) -> Vec<Result<()>> {
    let next = AtomicUsize::new(0);
    let node = scene.node(0);
    let answers = thread::scope(|scope| {
        let lane = || {
            node.ns.enter()?;
            let mut answers = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(sandbox) = sandboxes.get(index) else {
                    return Ok(answers);
                };
                let call = Call {
                    container_id: &sandbox.id,
                    netns: &sandbox.path,
                    ifname: "eth0",
                    args: String::new(),
                };
                let answer = scene.plugins[0].call(action, &call, None);
                answers.push((index, answer.map(|_| ())));
            }
        };
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        let ended = lanes
            .into_iter()
            .map(|lane| lane.join().expect("a lane panicked"));
        ended.collect::<Result<Vec<_>>>()
    });
    let mut answers: Vec<_> = answers.unwrap().into_iter().flatten().collect();
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[test]
#[ignore = "needs root and the built binaries"]
fn two_hundred_adds_and_dels_eight_at_a_time_leave_nothing() {
    let scene = Scene::new(1, Underlay::Bridge);
    let before = scene.holdings(0);
    let sandboxes = sandboxes(&scene, 200);
    for answer in call_all(&scene, Action::Add, &sandboxes, 8) {
        answer.unwrap();
    }
    let listed = scene.ask(0, &["endpoint", "list"]);
    let endpoints = listed.as_array().unwrap();
    assert_eq!(endpoints.len(), 200);
    let mut addresses: Vec<_> = endpoints
        .iter()
        .map(|e| e["addresses"]["v4"].to_string())
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 200, "an address was handed out twice");
    for answer in call_all(&scene, Action::Del, &sandboxes, 8) {
        answer.unwrap();
    }
    until_same(&scene, 0, &before);
}

/// Rounds with a kill amid ADDs, amid DELs, and amid the start of an agent.
const KILLS: [usize; 3] = [30, 10, 10];
/// Pods of a round, and how many calls about them run at a time.
const PODS: usize = 8;
const LANES: usize = 4;

/// The instants of `count` kills: from none on to thrice the usual duration of what is killed, closer
/// together at the beginning, so that most fall within it.
fn instants(count: usize, usual: Duration) -> impl Iterator<Item = Duration> {
    (0..count).map(move |number| {
        let part = number as f64 / (count - 1) as f64;
        usual.mul_f64(3.0 * part * part)
    })
}

/// What kills at these instants left, and at more if the machine has become slower since the usual duration
/// was measured: until some came too early for anything to be done and some too late, so that those in
/// between fell amid it.
fn kills(
    count: usize,
    usual: Duration,
    [early, late]: [usize; 2],
    mut kill: impl FnMut(usize, Duration) -> usize,
) -> Vec<usize> {
    const MORE: usize = 5;
    let mut left = Vec::new();
    for pause in instants(count, usual) {
        left.push(kill(left.len(), pause));
    }
    let mut longer = usual * 3;
    for _ in 0..MORE {
        if !left.contains(&early) {
            left.push(kill(left.len(), Duration::ZERO));
        }
        if !left.contains(&late) {
            longer *= 2;
            left.push(kill(left.len(), longer));
        }
    }
    let both = left.contains(&early) && left.contains(&late);
    assert!(both, "no kill before or none after: {left:?}");
    left
}

fn timed(what: impl FnOnce()) -> Duration {
    let start = Instant::now();
    what();
    start.elapsed()
}

/// Calls the plugin for every sandbox while the agent is killed after `pause`, and answers how many
/// calls succeeded.
fn kill_amid(scene: &mut Scene, action: Action, sandboxes: &[Sandbox], pause: Duration) -> usize {
    let agent = scene.take_agent(0);
    let scene = &*scene;
    let answers = thread::scope(|scope| {
        let calls = scope.spawn(|| call_all(scene, action, sandboxes, LANES));
        thread::sleep(pause);
        agent.kill().unwrap();
        calls.join().unwrap()
    });
    answers.iter().filter(|answer| answer.is_ok()).count()
}

#[test]
#[ignore = "needs root and the built binaries"]
fn fifty_kills_of_the_agent_amid_adds_and_dels_and_starts_leave_nothing() {
    let mut scene = Scene::new(1, Underlay::Bridge);
    let before = scene.holdings(0);
    let sandboxes = sandboxes(&scene, PODS);
    let all = |scene: &Scene, action| {
        for answer in call_all(scene, action, &sandboxes, LANES) {
            answer.unwrap();
        }
    };
    // How long each takes when nothing disturbs it: the middle of three times.
    let times = [(); 3].map(|()| {
        let adds = timed(|| all(&scene, Action::Add));
        let dels = timed(|| all(&scene, Action::Del));
        scene.take_agent(0).kill().unwrap();
        [adds, dels, timed(|| scene.restart(0))]
    });
    let [adds, dels, starts] = [0, 1, 2].map(|what| {
        let mut three = times.map(|time| time[what]);
        three.sort_unstable();
        three[1]
    });

    // Some ADDs fail with "try again": the runtime then asks for DEL, as is done here; in half of the
    // rounds while no agent runs, in the other half while it starts.
    let added = kills(KILLS[0], adds, [0, PODS], |round, pause| {
        let added = kill_amid(&mut scene, Action::Add, &sandboxes, pause);
        if round % 2 == 0 {
            all(&scene, Action::Del);
            scene.restart(0);
        } else {
            let mut agent = scene.spawn_agent(0);
            all(&scene, Action::Del);
            agent.wait_ready().unwrap();
            scene.agents[0] = Some(agent);
        }
        until_same(&scene, 0, &before);
        added
    });
    let some = added.iter().any(|count| (1..PODS).contains(count));
    assert!(some, "ADDs that succeeded: {added:?}");

    // A DEL that the agent does not answer is written down by the plugin.
    kills(KILLS[1], dels, [PODS, 0], |_, pause| {
        all(&scene, Action::Add);
        let done = kill_amid(&mut scene, Action::Del, &sandboxes, pause);
        assert_eq!(done, PODS, "a DEL failed");
        let written = spooled(&scene);
        scene.restart(0);
        until_same(&scene, 0, &before);
        written
    });

    // A start adopts pods and does what was written down; it is killed before, amid and after that.
    kills(KILLS[2], starts, [PODS, 0], |_, pause| {
        all(&scene, Action::Add);
        scene.take_agent(0).kill().unwrap();
        all(&scene, Action::Del);
        let starting = scene.spawn_agent(0);
        thread::sleep(pause);
        starting.kill().unwrap();
        let left = spooled(&scene);
        scene.restart(0);
        until_same(&scene, 0, &before);
        left
    });
}

#[test]
#[ignore = "needs root and the built binaries"]
fn deletions_while_the_agent_is_down_are_done_when_it_is_back() {
    let mut scene = Scene::new(1, Underlay::Bridge);
    let before = scene.holdings(0);
    let sandboxes = sandboxes(&scene, 20);
    for answer in call_all(&scene, Action::Add, &sandboxes, 8) {
        answer.unwrap();
    }
    scene.take_agent(0).kill().unwrap();
    for answer in call_all(&scene, Action::Del, &sandboxes, 8) {
        answer.unwrap();
    }
    assert_eq!(spooled(&scene), 20);
    scene.restart(0);
    until_same(&scene, 0, &before);
    assert_eq!(spooled(&scene), 0);
}

#[test]
#[ignore = "needs root and the built binaries"]
fn an_add_that_a_frozen_agent_gets_to_after_its_del_leaves_nothing() {
    let mut scene = Scene::new(1, Underlay::Bridge);
    let before = scene.holdings(0);
    let sandboxes = sandboxes(&scene, 2);
    let (late, other) = sandboxes.split_at(1);
    let patient = scene.plugins[0].clone();
    scene.plugins[0].config["timeoutSeconds"] = 1.into();
    scene.agent(0).freeze().unwrap();
    let add = call_all(&scene, Action::Add, late, 1).remove(0);
    assert_eq!(super::code(&add.unwrap_err()), 11);
    call_all(&scene, Action::Del, late, 1).remove(0).unwrap();
    assert_eq!(spooled(&scene), 1);
    scene.plugins[0] = patient;
    scene.agent(0).thaw().unwrap();
    // Asked for later, so the agent has seen the other two; its end waits for what it has begun.
    for action in [Action::Add, Action::Del] {
        call_all(&scene, action, other, 1).remove(0).unwrap();
    }
    until(&scene, "the spool is empty", || spooled(&scene) == 0);
    scene.take_agent(0).stop().unwrap();
    scene.restart(0);
    until_same(&scene, 0, &before);
    let listed = scene.ask(0, &["endpoint", "list"]);
    assert_eq!(listed, serde_json::json!([]));
}

/// Waits for something that the agent does by itself.
fn until(scene: &Scene, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SETTLE;
    while !is_so() {
        let late = Instant::now() > deadline;
        assert!(!late, "not so: {what}\n{}", scene.agent(0).log_tail());
        thread::sleep(Duration::from_millis(5));
    }
}

fn spooled(scene: &Scene) -> usize {
    let folder: &Path = &scene.node(0).spool();
    super::names_in(folder).len()
}

#[test]
#[ignore = "needs root and the built binaries"]
fn pods_that_ended_while_the_agent_was_down_are_freed_at_its_start() {
    let mut scene = Scene::new(1, Underlay::Bridge);
    let before = scene.holdings(0);
    let pods = [scene.pod(0, "a"), scene.pod(0, "b")];
    scene.take_agent(0).kill().unwrap();
    drop(pods);
    // The kernel takes a namespace's links away some time after its name is gone.
    let deadline = Instant::now() + SETTLE;
    while scene.links(0).contains("fairlead:") {
        assert!(Instant::now() < deadline, "{}", scene.links(0));
        thread::sleep(Duration::from_millis(5));
    }
    scene.restart(0);
    until_same(&scene, 0, &before);
    let status = scene.ask(0, &["status"]);
    assert_eq!(
        status["adoption"]["freed"].as_array().unwrap().len(),
        2,
        "{status}"
    );
}
