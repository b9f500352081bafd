//! Restarts of the kubelet and of the agent, in every order, and what else befalls their sockets.

use super::*;
use crate::device::cdi;
use std::{collections::BTreeMap, fs};

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_refuses_is_asked_again_and_the_reason_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.refuse(true);
    kubelet.start();
    let mut agent = Agent::begin(folder.path(), &api, serials(1));
    agent
        .is(|now| matches!(now, Standing::NotTaken(why) if why == "not today"))
        .await;
    kubelet.has_refused(3).await;
    kubelet.refuse(false);
    kubelet.has_driver().await;
    agent.is(|now| *now == Standing::Taken).await;
    agent.end().await;
    kubelet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_comes_later_or_again_has_the_driver_the_slices_and_the_claims() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    let agent = Agent::begin(folder.path(), &api, serials(2));
    api.claim("c", UID, json!([result("a", "s000")]));
    let mut first = None;
    for _ in 0..5 {
        kubelet.start();
        kubelet.has_driver().await;
        let given = kubelet.prepare("c", UID).await.unwrap();
        assert_eq!(*first.get_or_insert_with(|| given.clone()), given);
        api.has(2).await;
        kubelet.knows("both", |known| known.len() == 2).await;
        kubelet.kill().await;
    }
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_again_answers_for_what_the_one_before_prepared() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.start();
    api.claim("c", UID, json!([result("a", "s000")]));
    api.claim("d", OTHER, json!([result("a", "s000")]));
    let specs = folder.path().join("cdi");
    let mut first = None;
    for round in 0..6 {
        // It knows of no device yet.
        let agent = Agent::begin(folder.path(), &api, serials(usize::from(round == 0)));
        let again = async {
            loop {
                // The connection to the one before may be what is known still.
                if let Ok(answer) = kubelet.prepare_all(&[("c", UID), ("d", OTHER)]).await {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let mut answers = timeout(PATIENCE, again).await.unwrap();
        let given = answers.remove(UID).unwrap().unwrap();
        assert_eq!(*first.get_or_insert_with(|| given.clone()), given);
        let why = answers.remove(OTHER).unwrap().unwrap_err();
        assert!(why.contains("still held for claim shop/c"), "{why}");
        assert!(specs.join(cdi::claim_file(UID)).exists());
        match round % 2 {
            0 => agent.end().await,
            _ => agent.kill().await,
        }
        // What nobody keeps, and what was left half done.
        for name in ["fairlead-claim-9.json", "fairlead-claim-9.new"] {
            fs::write(specs.join(name), "{}").unwrap();
        }
        fs::remove_file(specs.join(cdi::claim_file(UID))).unwrap();
    }
    let agent = Agent::begin(folder.path(), &api, serials(1));
    assert!(!specs.join("fairlead-claim-9.json").exists());
    assert!(!specs.join("fairlead-claim-9.new").exists());
    assert!(specs.join(cdi::claim_file(UID)).exists());
    agent.end().await;
    kubelet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_not_looked_at_the_node_yet_takes_nothing_back_that_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.start();
    api.claim("c", UID, json!([result("a", "s000")]));
    api.claim("d", OTHER, json!([result("a", "s001")]));
    let agent = Agent::begin(folder.path(), &api, serials(2));
    kubelet.prepare("c", UID).await.unwrap();
    api.has(2).await;
    kubelet.knows("both", |known| known.len() == 2).await;
    agent.end().await;
    let written = api.inner().writes.clone();
    let generation = api.inner().generation();

    let agent = Agent::begin_with(folder.path(), &api, None);
    let is_watched = |inner: &api::Inner| inner.is_watched().then_some(());
    api.wait("a watch", is_watched).await;
    kubelet.has_driver().await;
    kubelet.prepare("c", UID).await.unwrap();
    let why = kubelet.prepare("d", OTHER).await.unwrap_err();
    assert!(why.contains("looks for the node's devices still"), "{why}");
    // It was told of some change meanwhile, and of no device.
    api.change(&api.first(), |slice| {
        slice["metadata"]["labels"] = json!({"a": "b"})
    });
    let are_well = |known: &BTreeMap<String, Option<String>>| {
        known.len() == 2 && known.values().all(Option::is_none)
    };
    kubelet.knows("both as before", are_well).await;
    agent.offer(serials(2));
    kubelet.prepare("d", OTHER).await.unwrap();
    kubelet.knows("both still", are_well).await;
    assert_eq!(api.inner().writes, written);
    // All are gone, and come again: who reads takes the later ones for the newer.
    agent.offer(Offers::new());
    api.has(0).await;
    agent.offer(serials(2));
    api.has(2).await;
    assert!(api.inner().generation() > generation);
    agent.end().await;
    kubelet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_are_removed_are_made_again_and_go_with_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.start();
    let agent = Agent::begin(folder.path(), &api, serials(1));
    kubelet.has_driver().await;
    let registry = kubelet.registry().join("devices.fairlead.dev-reg.sock");
    let own = folder.path().join("plugins/devices.fairlead.dev/dra.sock");
    for gone in [&registry, &own] {
        fs::remove_file(gone).unwrap();
        let again = async {
            while !(registry.exists() && own.exists()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, again).await.expect("made again");
    }
    agent.end().await;
    assert!(!registry.exists() && !own.exists());
    kubelet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_for_anything_before_there_is_something_to_serve() {
    let folder = tempfile::tempdir().unwrap();
    let offers = watch::Sender::<Looked>::default();
    let standing = watch::Sender::default();
    let mut shown = standing.subscribe();
    let (stop, shutdown) = Shutdown::new();
    let dra = Dra {
        offers: offers.subscribe(),
        host: Arc::new(Host::default()),
        counts: DeviceCounts::default(),
        standing,
    };
    let config = DeviceConfig {
        node_name: "n1".to_owned(),
        kubelet_dir: folder.path().to_owned(),
        state_dir: folder.path().join("state"),
        devices: folder.path().join("none"),
        presets: Vec::new(),
        registration: Registration::Register,
        cdi_dir: folder.path().join("cdi"),
        api: None,
    };
    let task = tokio::spawn(async move { super::super::run(dra, &config, shutdown).await });
    assert!(!shown.has_changed().unwrap());
    offers.send_replace(Some(Arc::default()));
    assert!(!shown.has_changed().unwrap());
    offers.send_replace(Some(Arc::new(serials(1))));
    timeout(PATIENCE, shown.changed()).await.unwrap().unwrap();
    let is_told =
        matches!(&*shown.borrow(), Standing::NotTaken(why) if why.contains("--kubeconfig"));
    assert!(is_told);
    stop.send_replace(true);
    task.await.unwrap();
    assert!(!folder.path().join("plugins_registry").exists());
}
