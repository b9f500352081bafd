//! The slices, whoever changes them and whatever the API server can.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_has_what_the_node_has_and_nothing_is_written_twice() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let mut agent = Agent::begin(folder.path(), &api, serials(100));
    let devices = api.has(100).await;
    assert_eq!(devices[0].name, device("s000"));
    let owner = |inner: &api::Inner| {
        let slice = inner.slices.values().next().unwrap();
        slice["metadata"]["ownerReferences"][0].clone()
    };
    assert_eq!(owner(&api.inner())["uid"], "uid-n1");
    let written = |inner: &api::Inner| (inner.slices.len(), inner.writes.len());
    assert_eq!(written(&api.inner()), (2, 2));
    // The same again, by another look at the node.
    agent.offer(serials(100));
    let first = api.inner().generation();
    let mut changed = serials(100);
    let offer = changed.values_mut().next().unwrap();
    let items = offer.items.iter().map(|item| match &*item.key {
        "s007" => sick("s007"),
        _ => item.clone(),
    });
    *offer = Arc::new(Offer::new(offer.rule.clone(), items.collect()));
    agent.offer(changed);
    let is_tainted = |inner: &api::Inner| {
        let devices = inner.devices()?;
        devices.iter().any(|of| of.taints.is_some()).then_some(())
    };
    api.wait("a taint", is_tainted).await;
    // One slice of two: that is whole by itself.
    assert_eq!(api.inner().writes.len(), 3);
    assert_eq!(api.inner().generation(), first);
    agent.offer(serials(10));
    api.has(10).await;
    assert!(api.inner().generation() > first);
    agent.offer(Offers::new());
    api.has(0).await;
    assert!(api.inner().slices.is_empty());
    agent.is(|now| *now == Standing::Starting).await;
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_changes_deletes_or_adds_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let agent = Agent::begin(folder.path(), &api, serials(70));
    api.has(70).await;
    for round in 0..10 {
        let name = api.inner().slices.keys().next().unwrap().clone();
        let generation = api.inner().generation();
        match round % 4 {
            0 => api.wipe(),
            1 => api.change(&name, |slice| slice["spec"]["devices"] = json!([])),
            2 => api.change(&name, |slice| {
                slice["spec"]["pool"]["generation"] = json!(999)
            }),
            _ => {
                let mut other = api.inner().slices[&name].clone();
                other["metadata"]["name"] = json!("other");
                other["metadata"]["uid"] = json!("uid-other");
                api.put(other);
            }
        }
        api.has(70).await;
        assert!(api.inner().generation() >= generation);
    }
    agent.end().await;
    assert_eq!(
        api.inner().slices.len(),
        2,
        "who comes again soon finds all as it was"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_without_the_new_features_is_told_of_what_it_can_have() {
    for (taints, shares) in [(false, false), (true, false), (false, true)] {
        let folder = tempfile::tempdir().unwrap();
        let api = FakeApi::start().await;
        api.inner().gates = api::Gates { taints, shares };
        let both = offers(3, vec![serial("well"), sick("sick")]);
        let agent = Agent::begin(folder.path(), &api, both);
        let each = if shares { 1 } else { 3 };
        let devices = api.has(if taints { 2 * each } else { each }).await;
        let tainted = devices.iter().filter(|of| of.taints.is_some()).count();
        assert_eq!(tainted, if taints { each } else { 0 });
        let shared = |of: &k8s_openapi::api::resource::v1::Device| of.allow_multiple_allocations;
        assert!(
            devices
                .iter()
                .all(|of| shared(of) == shares.then_some(true))
        );
        // Nobody saw a device that doesn't work as one that does.
        assert_eq!(api.inner().writes.len(), 1);
        agent.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_comes_again_with_other_features_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let agent = Agent::begin(folder.path(), &api, offers(3, vec![serial("s"), sick("t")]));
    api.has(2).await;
    for (features, count) in [(false, 3), (true, 2), (false, 3)] {
        api.start_again(api::Gates {
            taints: features,
            shares: features,
        })
        .await;
        api.has(count).await;
    }
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    api.inner().refuses = Some(403);
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.start();
    let mut agent = Agent::begin(folder.path(), &api, serials(1));
    agent
        .is(|now| matches!(now, Standing::NotTaken(why) if why.contains("the agent's role")))
        .await;
    api.inner().refuses = None;
    api.has(1).await;
    agent.is(|now| *now == Standing::Taken).await;
    agent.end().await;
    kubelet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_that_went_with_their_node_come_with_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let agent = Agent::begin(folder.path(), &api, serials(1));
    api.has(1).await;
    api.inner().node_uid = "uid-later".to_owned();
    api.wipe();
    let owned = |inner: &api::Inner| {
        let slice = inner.slices.values().next()?;
        let uid = &slice["metadata"]["ownerReferences"][0]["uid"];
        (*uid == "uid-later").then_some(())
    };
    api.wait("another owner", owned).await;
    agent.end().await;
}
