//! Claims, as the kubelet has them prepared and taken back.

use super::*;
use crate::device::{cdi, plan::Program, template::Template};
use std::fs;

fn spec(folder: &Path, uid: &str) -> Option<Value> {
    let text = fs::read(folder.join("cdi").join(cdi::claim_file(uid))).ok()?;
    Some(serde_json::from_slice(&text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_prepared_and_taken_back_as_often_as_the_kubelet_likes() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.start();
    let agent = Agent::begin(folder.path(), &api, serials(3));
    api.claim(
        "c",
        UID,
        json!([result("one", "s000"), result("two/first", "s001")]),
    );
    let first = kubelet.prepare("c", UID).await.unwrap();
    let short: Vec<_> = first
        .iter()
        .map(|of| (&*of.request_names[0], &*of.pool_name, &*of.device_name))
        .collect();
    let (one, two) = (device("s000"), device("s001"));
    assert_eq!(short, [("one", "n1", &*one), ("two", "n1", &*two)]);
    let own = format!("devices.fairlead.dev/claim={UID}-{one}");
    assert_eq!(first[0].cdi_device_ids, [own]);
    let written = spec(folder.path(), UID).unwrap();
    let nodes = &written["devices"][0]["containerEdits"]["deviceNodes"];
    assert_eq!(nodes[0]["path"], "/dev/s000");
    assert_eq!(kubelet.prepare("c", UID).await.unwrap(), first);
    // Somebody cleans up what isn't theirs, and the device is gone: the claim has it all the same.
    fs::remove_file(folder.path().join("cdi").join(cdi::claim_file(UID))).unwrap();
    agent.offer(serials(0));
    assert_eq!(kubelet.prepare("c", UID).await.unwrap(), first);
    assert_eq!(spec(folder.path(), UID), Some(written));
    // The claim itself may be gone by then.
    api.delete_claim("c");
    for _ in 0..2 {
        kubelet.unprepare("c", UID).await.unwrap();
        assert_eq!(spec(folder.path(), UID), None);
    }
    agent.end().await;
    kubelet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_prepared_is_told_for_each_claim_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.start();
    let both = offers(1, vec![serial("s000"), sick("s001"), serial("s002")]);
    let agent = Agent::begin(folder.path(), &api, both);
    api.claim("good", UID, json!([result("a", "s000")]));
    api.claim("taken", OTHER, json!([result("a", "s000")]));
    api.claim(
        "sick",
        "3",
        json!([result("a", "s002"), result("a", "s001")]),
    );
    api.claim("unknown", "4", json!([result("a", "s009")]));
    api.claim("anew", "5", json!([result("a", "s002")]));
    let mut elsewhere = result("a", "s002");
    elsewhere["pool"] = json!("n2");
    api.claim("elsewhere", "6", json!([elsewhere]));
    let asked = [
        ("good", UID),
        ("taken", OTHER),
        ("sick", "3"),
        ("unknown", "4"),
        ("anew", "55"),
        ("elsewhere", "6"),
        ("none", "7"),
        ("good", "../../x"),
    ];
    let mut answers = kubelet.prepare_all(&asked).await.unwrap();
    assert_eq!(answers.remove(UID).unwrap().unwrap().len(), 1);
    for (uid, word) in [
        (OTHER, "is still held for claim shop/good"),
        ("3", "it is stuck"),
        ("4", "isn't known on this node"),
        ("55", "made anew"),
        ("6", "this is n1"),
        ("7", "no such claim"),
        ("../../x", "is no uid"),
    ] {
        let why = answers.remove(uid).unwrap().unwrap_err();
        assert!(why.contains(word), "{why}");
        assert_eq!(spec(folder.path(), &uid.replace('/', "-")), None);
    }
    // It is free once the pod before it has ended.
    kubelet.unprepare("good", UID).await.unwrap();
    kubelet.prepare("taken", OTHER).await.unwrap();
    agent.end().await;
    kubelet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_given_another_device_gets_that_one() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.start();
    let agent = Agent::begin(folder.path(), &api, serials(2));
    api.claim("c", UID, json!([result("a", "s000")]));
    kubelet.prepare("c", UID).await.unwrap();
    // Nobody told that the pod had ended.
    api.claim("c", UID, json!([result("a", "s001")]));
    let given = kubelet.prepare("c", UID).await.unwrap();
    assert_eq!(given[0].device_name, device("s001"));
    let written = spec(folder.path(), UID).unwrap();
    let nodes = &written["devices"][0]["containerEdits"]["deviceNodes"];
    assert_eq!(nodes[0]["path"], "/dev/s001");
    api.claim("d", OTHER, json!([result("a", "s000")]));
    kubelet.prepare("d", OTHER).await.unwrap();
    agent.end().await;
    kubelet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_are_given_to_several_claims_by_either_name() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.start();
    let agent = Agent::begin(folder.path(), &api, offers(2, vec![serial("s000")]));
    let resource = NAME.to_owned().try_into().unwrap();
    for (number, uid) in [UID, OTHER].into_iter().enumerate() {
        let mut share = result("a", "s000");
        share["shareID"] = json!(format!("share-{number}"));
        api.claim("c", uid, json!([share]));
        let given = kubelet.prepare("c", uid).await.unwrap();
        assert_eq!(given[0].share_id, Some(format!("share-{number}")));
    }
    // As an API server without shares was told.
    let mut alone = result("a", "s000");
    alone["device"] = json!(slices::name(&resource, "s000", Some(1)));
    api.claim("c", "3", json!([alone]));
    kubelet.prepare("c", "3").await.unwrap();
    agent.end().await;
    kubelet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_knows_how_each_device_is() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.start();
    let agent = Agent::begin(folder.path(), &api, serials(2));
    api.claim("c", UID, json!([result("a", "s001")]));
    kubelet.prepare("c", UID).await.unwrap();
    let (one, two) = (device("s000"), device("s001"));
    kubelet
        .knows("both are healthy", |known| {
            known.len() == 2 && known.values().all(Option::is_none)
        })
        .await;
    agent.offer(offers(1, vec![serial("s000"), sick("s001")]));
    kubelet
        .knows("the second is stuck", |known| {
            known[&one].is_none() && known[&two].as_deref() == Some("it is stuck")
        })
        .await;
    agent.offer(serials(0));
    kubelet
        .knows("it is gone, and a claim has it", |known| {
            known.len() == 1
                && known[&two]
                    .as_ref()
                    .is_some_and(|why| why.contains("isn't known"))
        })
        .await;
    kubelet.unprepare("c", UID).await.unwrap();
    kubelet
        .knows("nothing is left", |known| known.is_empty())
        .await;
    agent.end().await;
    kubelet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gives_nothing_has_no_specification() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.start();
    let mut offers = offers(1, vec![item("s000")]);
    let offer = offers.values_mut().next().unwrap();
    let mut rule = offer.rule.as_ref().clone();
    rule.give.cdi = vec![Template::parse("vendor.com/x=1").unwrap()];
    rule.before_start = None::<Program>;
    *offer = Arc::new(Offer::new(Arc::new(rule), offer.items.clone()));
    let agent = Agent::begin(folder.path(), &api, offers);
    api.claim("c", UID, json!([result("a", "s000")]));
    let given = kubelet.prepare("c", UID).await.unwrap();
    assert_eq!(given[0].cdi_device_ids, ["vendor.com/x=1"]);
    assert_eq!(spec(folder.path(), UID), None);
    agent.end().await;
    kubelet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_taken_back_while_it_is_read_is_not_prepared_after_that() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.start();
    let agent = Agent::begin(folder.path(), &api, serials(1));
    api.claim("c", UID, json!([result("a", "s000")]));
    let held = api.hold_claims();
    let late = kubelet.clone();
    let late = tokio::spawn(async move { late.prepare("c", UID).await });
    api.was_asked_for_claims(1).await;
    kubelet.unprepare("c", UID).await.unwrap();
    drop(held);
    let why = late.await.unwrap().unwrap_err();
    assert!(why.contains("taken back"), "{why}");
    assert_eq!(spec(folder.path(), UID), None);
    // The pod after it has the device.
    api.delete_claim("c");
    api.claim("d", OTHER, json!([result("a", "s000")]));
    kubelet.prepare("d", OTHER).await.unwrap();
    agent.end().await;
    kubelet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_nobody_knows_holds_its_device_only_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    let kubelet = Kubelet::new(folder.path(), &api);
    kubelet.start();
    let agent = Agent::begin(folder.path(), &api, serials(1));
    api.claim("c", UID, json!([result("a", "s000")]));
    api.claim("d", OTHER, json!([result("a", "s000")]));
    kubelet.prepare("c", UID).await.unwrap();
    let again = async || {
        for _ in 0..20 {
            let why = kubelet.prepare("d", OTHER).await.unwrap_err();
            assert!(why.contains("still held for claim shop/c"), "{why}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    again().await;
    // Its pod may run on, as far as anybody says.
    api.delete_claim("c");
    again().await;
    kubelet.knows_no_claim();
    let given = async {
        while kubelet.prepare("d", OTHER).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, given).await.expect("given in the end");
    assert_eq!(spec(folder.path(), UID), None);
    agent.end().await;
    kubelet.kill().await;
}
