//! A PersistentVolume can't be written: no volume is left over.

use super::{Fake, Remembering, Site, claim, cluster, seen, site};
use crate::csi::cluster::{
    plan::{Seen, Task, plan, tests::own},
    work::{Outcome, Work},
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const V1: &str = "v1";
const STORAGE: &str = "storage.k8s.io/v1";
const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";

fn another(handle: &str) -> Value {
    json!({"metadata": {"name": "pvc-uid-a"}, "spec": {"csi": {"driver": "d", "volumeHandle": handle}}})
}

async fn one() -> (Fake, Arc<Remembering>) {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    claim(&fake, "a", Some("n1"), "late");
    (fake, driver)
}

/// Asks for the volume of the claim; what is told of it.
async fn provision(site: &Site, fake: &Fake) -> (Outcome, String) {
    let class = seen(fake, STORAGE, "storageclasses", "late");
    let done = site.provision(&seen(fake, V1, CLAIMS, "a"), &class).await;
    let failure = done.unwrap_err();
    (failure.outcome, failure.text)
}

/// Discards the volume of the claim.
async fn discard(site: &Site) {
    let of = site.unwritten()["pvc-uid-a"].clone();
    site.discard(&of).await.unwrap();
}

/// How many volumes are remembered, and how many the driver has.
fn left(site: &Site, driver: &Remembering) -> (usize, usize) {
    (site.unwritten().len(), driver.pool().volumes.len())
}

#[tokio::test]
async fn what_is_refused_leaves_no_volume() {
    let (fake, driver) = one().await;
    fake.change(|inner| inner.refuses.insert(VOLUMES, 422));
    let site = site(&fake, &driver);
    let (outcome, told) = provision(&site, &fake).await;
    assert!(
        outcome == Outcome::Hopeless && told.contains("refused"),
        "{told}"
    );
    // Its claim may have it yet.
    assert_eq!(driver.pool().volumes.len(), 1);
    discard(&site).await;
    assert_eq!(left(&site, &driver), (0, 0));
}

#[tokio::test]
async fn a_claim_that_has_another_volume_leaves_none() {
    let (fake, driver) = one().await;
    fake.put(V1, VOLUMES, another("vol-n2-0"));
    let site = site(&fake, &driver);
    let (outcome, told) = provision(&site, &fake).await;
    assert!(
        outcome == Outcome::Hopeless && told.contains("vol-n2-0"),
        "{told}"
    );
    discard(&site).await;
    assert_eq!(left(&site, &driver), (0, 0));
}

#[tokio::test]
async fn a_volume_that_somebody_has_written_by_hand_stays() {
    let (fake, driver) = one().await;
    fake.put(V1, VOLUMES, another("vol-n2-0"));
    let mut by_hand = another("vol-n1-0");
    by_hand["metadata"]["name"] = json!("mine");
    fake.put(V1, VOLUMES, by_hand);
    let site = site(&fake, &driver);
    provision(&site, &fake).await;
    discard(&site).await;
    assert_eq!(left(&site, &driver), (0, 1));
}

#[tokio::test]
async fn what_is_written_is_not_remembered() {
    let (fake, driver) = one().await;
    let site = site(&fake, &driver);
    let class = seen(&fake, STORAGE, "storageclasses", "late");
    let of = seen(&fake, V1, CLAIMS, "a");
    site.provision(&of, &class).await.unwrap();
    assert!(site.unwritten().is_empty());
    // By an agent that was ended before it heard of it.
    site.provision(&of, &class).await.unwrap();
    assert!(site.unwritten().is_empty());
    fake.change(|inner| inner.refuses.insert(VOLUMES, 503));
    site.provision(&of, &class).await.unwrap_err();
    let there = |handle: &str| {
        let volume = serde_json::from_value(another(handle)).unwrap();
        [((String::new(), "pvc-uid-a".to_owned()), Arc::new(volume))].into()
    };
    site.written(&there("vol-n1-9"));
    assert_eq!(site.unwritten().len(), 1, "another of its name");
    site.written(&there("vol-n1-0"));
    assert!(site.unwritten().is_empty());
    assert_eq!(driver.pool().volumes.len(), 1);
}

#[tokio::test]
async fn what_may_not_have_been_written_goes_after_its_claim() {
    let (fake, driver) = one().await;
    fake.change(|inner| inner.refuses.insert(VOLUMES, 500));
    let site = site(&fake, &driver);
    let (of, class) = (
        Arc::new(seen(&fake, V1, CLAIMS, "a")),
        Arc::new(seen(&fake, STORAGE, "storageclasses", "late")),
    );
    let failure = site.provision(&of, &class).await.unwrap_err();
    assert_eq!(
        (failure.outcome, driver.pool().volumes.len()),
        (Outcome::Failed, 1)
    );
    let name = |name: &str| (String::new(), name.to_owned());
    let mut cluster = Seen {
        claims: [(("shop".to_owned(), "a".to_owned()), of)].into(),
        classes: [(name("late"), class)].into(),
        unwritten: site.unwritten().clone(),
        ..Seen::default()
    };
    let tasks = |seen: &Seen| -> Vec<_> { plan(seen, &own("n1")).iter().map(Task::key).collect() };
    assert_eq!(tasks(&cluster), [("provision", "uid-a".to_owned())]);
    cluster.claims.clear();
    let of = site.unwritten()["pvc-uid-a"].clone();
    assert_eq!(plan(&cluster, &own("n1")), [Task::Discard(of.clone())]);
    // It was written after all.
    fake.put(V1, VOLUMES, another("vol-n1-0"));
    discard(&site).await;
    assert_eq!(left(&site, &driver), (0, 1));
    // It was not.
    fake.delete(V1, VOLUMES, "", "pvc-uid-a");
    site.unwritten().insert("pvc-uid-a".into(), of);
    discard(&site).await;
    assert_eq!(left(&site, &driver), (0, 0));
}

#[tokio::test]
async fn a_volume_is_not_asked_for_while_it_is_deleted() {
    let (fake, driver) = one().await;
    fake.change(|inner| inner.refuses.insert(VOLUMES, 500));
    let site = site(&fake, &driver);
    let (of, class) = (
        Arc::new(seen(&fake, V1, CLAIMS, "a")),
        Arc::new(seen(&fake, STORAGE, "storageclasses", "late")),
    );
    site.provision(&of, &class).await.unwrap_err();
    let left = Seen {
        classes: [((String::new(), "late".to_owned()), class.clone())].into(),
        unwritten: site.unwritten().clone(),
        ..Seen::default()
    };
    let again = Seen {
        claims: [(("shop".to_owned(), "a".to_owned()), of.clone())].into(),
        ..left.clone()
    };
    let (discard, provision) = (
        Task::Discard(left.unwritten["pvc-uid-a"].clone()),
        Task::Provision(of, class),
    );
    let (mut work, now) = (Work::default(), Instant::now());
    let mut begun = |seen: &Seen, now| work.plan(plan(seen, &own("n1")), now);
    // Its claim was here, left, came again, and left: each time it is waited for anew.
    assert_eq!(begun(&again, now), std::slice::from_ref(&provision));
    assert!(begun(&left, now).is_empty());
    work.ended(&provision.key(), Outcome::Failed, now);
    let mut begun = |seen: &Seen, now| work.plan(plan(seen, &own("n1")), now);
    let (wait, moment) = (discard.delay(), Duration::from_millis(1));
    assert!(begun(&left, now).is_empty());
    assert!(begun(&left, now + wait - moment).is_empty());
    assert_eq!(begun(&left, now + wait), std::slice::from_ref(&discard));
    // It comes again meanwhile.
    let later = now + wait + moment;
    assert!(begun(&again, later).is_empty(), "both at once");
    work.ended(&discard.key(), Outcome::Done, later);
    let mut begun = |seen: &Seen, now| work.plan(plan(seen, &own("n1")), now);
    assert_eq!(begun(&again, later), [provision]);
}
