//! Restarts of the kubelet and of the agent, in every order, and what else befalls their sockets.

use super::*;
use std::fs;

const NAME: &str = "example.com/serial";

/// Every device of the resource is known and healthy.
async fn has(kubelet: &Kubelet, count: usize) {
    kubelet
        .knows(&format!("{count} devices"), |known| {
            let of = known.get(NAME);
            of.is_some_and(|of| of.len() == count && of.values().all(|healthy| *healthy))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_is_there_and_one_that_comes_later_get_the_devices() {
    for kubelet_first in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(folder.path());
        let mut early = kubelet_first.then(|| kubelet.start());
        let mut agent = Agent::begin(register(&kubelet), offer(NAME, 3));
        if !kubelet_first {
            agent
                .is(|now| matches!(now, Standing::NotTaken(why) if why.contains("not running")))
                .await;
            early = Some(kubelet.start());
        }
        has(&kubelet, 3).await;
        agent.is(|now| *now == Standing::Taken).await;
        assert_eq!(kubelet.registrations(), 1);
        agent.end().await;
        early.unwrap().kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_starts_again_gets_them_again_and_no_pod_loses_its_own() {
    for way in ["register", "watcher"] {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(folder.path());
        let mut process = kubelet.start();
        let way = match way {
            "register" => register(&kubelet),
            _ => watcher(folder.path()),
        };
        let agent = Agent::begin(way, offer(NAME, 4));
        has(&kubelet, 4).await;
        process.admit("first", NAME, 2).await.unwrap();
        let held = kubelet.held(NAME);
        for _ in 0..20 {
            process.kill().await;
            process = kubelet.start();
            has(&kubelet, 4).await;
        }
        assert_eq!(kubelet.held(NAME), held);
        process.admit("second", NAME, 2).await.unwrap();
        assert!(process.admit("third", NAME, 1).await.is_err());
        agent.end().await;
        process.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_again_takes_its_own_socket_over() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path());
    let process = kubelet.start();
    for round in 0..10 {
        let agent = Agent::begin(register(&kubelet), offer(NAME, 2 + round % 2));
        has(&kubelet, 2 + round % 2).await;
        match round % 3 {
            0 => agent.end().await,
            _ => agent.kill().await,
        }
        kubelet
            .knows("none is healthy", |known| {
                known[NAME].values().all(|healthy| !healthy)
            })
            .await;
    }
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_removed_and_a_folder_that_is_wiped_are_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path());
    let mut process = kubelet.start();
    let agent = Agent::begin(register(&kubelet), offer(NAME, 1));
    has(&kubelet, 1).await;
    let socket = kubelet
        .plugins()
        .join(agent.offers.borrow().rule.name.socket());
    let before = kubelet.registrations();
    fs::remove_file(&socket).unwrap();
    let again = async {
        while kubelet.registrations() == before || !socket.exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.expect("registered again");
    has(&kubelet, 1).await;
    process.kill().await;
    fs::remove_dir_all(kubelet.plugins()).unwrap();
    process = kubelet.start();
    has(&kubelet, 1).await;
    process.admit("pod", NAME, 1).await.unwrap();
    agent.end().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_refuses_is_asked_again_and_the_reason_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path());
    kubelet.refuse(true);
    let process = kubelet.start();
    let mut agent = Agent::begin(register(&kubelet), offer(NAME, 1));
    agent
        .is(|now| matches!(now, Standing::NotTaken(why) if why.contains("not today")))
        .await;
    kubelet.refuse(false);
    has(&kubelet, 1).await;
    agent.is(|now| *now == Standing::Taken).await;
    agent.end().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_the_streams_has_it_registered_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path());
    let process = kubelet.start();
    let mut agent = Agent::begin(register(&kubelet), offer(NAME, 1));
    for _ in 0..20 {
        let open = agent.streams.wait_for(|open| *open > 0);
        timeout(PATIENCE, open).await.expect("a stream").unwrap();
        let before = kubelet.registrations();
        agent.until.send_replace(());
        let again = async {
            while kubelet.registrations() == before {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, again).await.expect("registered again");
    }
    has(&kubelet, 1).await;
    agent.end().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_told_and_an_unhealthy_device_is_given_to_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path());
    let process = kubelet.start();
    let agent = Agent::begin(register(&kubelet), offer(NAME, 2));
    has(&kubelet, 2).await;
    agent.change(|offer| offer.items[0].health = unhealthy("it is stuck"));
    kubelet
        .knows("one is unhealthy", |known| {
            known[NAME].values().filter(|is| **is).count() == 1
        })
        .await;
    process.admit("pod", NAME, 1).await.unwrap();
    assert!(kubelet.held(NAME).contains_key("d1"));
    assert!(process.admit("other", NAME, 1).await.is_err());
    agent.change(|offer| offer.items[0].health = Health::Healthy);
    has(&kubelet, 2).await;
    process.admit("other", NAME, 1).await.unwrap();
    assert_eq!(kubelet.registrations(), 1, "a change needs no registration");
    agent.end().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_is_taken_away_is_told_empty_first() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path());
    let process = kubelet.start();
    let agent = Agent::begin(register(&kubelet), offer(NAME, 2));
    has(&kubelet, 2).await;
    let rule = agent.offers.borrow().rule.clone();
    agent
        .offers
        .send_replace(Arc::new(Offer::new(rule, Vec::new())));
    agent.end().await;
    kubelet
        .knows("none at all", |known| known[NAME].is_empty())
        .await;
    assert_eq!(kubelet.known(NAME).len(), 0);
    process.kill().await;
}
