//! Several nodes, and agents that are killed.

use super::{Remembering, bound, claim, cluster, release, start};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tonic::Status;

const V1: &str = "v1";
const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";
const SELECTED: &str = "volume.kubernetes.io/selected-node";

#[tokio::test]
async fn of_many_nodes_one_makes_the_volume_of_a_claim_that_waits_for_none() {
    let names = ["n1", "n2", "n3", "n4", "n5"];
    let fake = cluster(&names).await;
    let drivers = names.map(Remembering::of);
    // The first two have no room.
    for driver in &drivers[..2] {
        driver.pool().room = 1 << 20;
    }
    let _agents: Vec<_> = drivers.iter().map(|driver| start(&fake, driver)).collect();
    let claims: Vec<String> = (0..10).map(|number| format!("c{number}")).collect();
    for name in &claims {
        claim(&fake, name, None, "soon");
    }
    for name in &claims {
        let volume = bound(&fake, name).await;
        let node = &volume["metadata"]["labels"]["t/node"];
        let of = fake.until(V1, CLAIMS, "shop", name, |_| true).await;
        assert_eq!(of["metadata"]["annotations"][SELECTED], *node);
    }
    let made: usize = drivers
        .iter()
        .map(|driver| driver.pool().volumes.len())
        .sum();
    assert_eq!(made, claims.len());
    assert!(
        drivers[..2]
            .iter()
            .all(|driver| driver.pool().volumes.is_empty())
    );
}

#[tokio::test]
async fn a_copy_is_made_on_the_node_that_has_its_source() {
    let fake = cluster(&["n1", "n2"]).await;
    let drivers = ["n1", "n2"].map(Remembering::of);
    let _agents: Vec<_> = drivers.iter().map(|driver| start(&fake, driver)).collect();
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    // The scheduler has chosen another node.
    let mut copy = super::super::plan::tests::claim("b", Some("n2"));
    copy["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "a"});
    fake.put(V1, CLAIMS, copy);
    bound(&fake, "b").await;
    let names = |number: usize| {
        drivers[number]
            .pool()
            .volumes
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names(0), names(1)),
        (vec!["pvc-uid-a".into(), "pvc-uid-b".into()], vec![])
    );
}

#[tokio::test]
async fn a_node_that_leaves_takes_no_volume_with_it() {
    let fake = cluster(&["n1", "n2"]).await;
    let drivers = ["n1", "n2"].map(Remembering::of);
    let agents: Vec<_> = drivers.iter().map(|driver| start(&fake, driver)).collect();
    claim(&fake, "a", Some("n1"), "late");
    bound(&fake, "a").await;
    let mut agents = agents.into_iter();
    agents.next().unwrap().kill().await;
    fake.delete(V1, "nodes", "", "n1");
    // One whose claim is deleted waits for its own node.
    release(&fake, "a");
    claim(&fake, "b", Some("n2"), "late");
    bound(&fake, "b").await;
    assert_eq!(fake.all(V1, VOLUMES).len(), 2);
    assert_eq!(drivers.map(|driver| driver.pool().volumes.len()), [1, 1]);
}

/// Kills the agent when it has written so many times, until all is done.
#[tokio::test]
async fn a_killed_agent_leaves_twenty_claims_with_twenty_volumes_and_none_twice() {
    let (fake, driver) = (cluster(&["n1"]).await, Remembering::of("n1"));
    let names: Vec<String> = (0..20).map(|number| format!("c{number:02}")).collect();
    for name in &names {
        claim(&fake, name, Some("n1"), "late");
    }
    let mut kills = 0;
    for more in (1..).map(|number| 1 + number % 3) {
        let volumes = || fake.all(V1, VOLUMES).len();
        let until = (volumes() + more).min(names.len());
        let agent = start(&fake, &driver);
        // In the midst of the others' calls.
        fake.wait("some volumes", |inner| {
            (inner.count(VOLUMES) >= until).then_some(())
        })
        .await;
        if volumes() == names.len() {
            break;
        }
        agent.kill().await;
        kills += 1;
    }
    assert!(kills > 0);
    let _agent = start(&fake, &driver);
    for name in &names {
        bound(&fake, name).await;
    }
    let handle = |of: &Value| {
        of["spec"]["csi"]["volumeHandle"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let handles: BTreeSet<String> = fake.all(V1, VOLUMES).iter().map(handle).collect();
    assert_eq!((handles.len(), driver.pool().volumes.len()), (20, 20));
    driver.pool().refuses = Some(Status::unavailable("busy"));
    for name in &names {
        release(&fake, name);
    }
    fake.told("VolumeFailedDelete", "pvc-uid-c00").await;
    driver.pool().refuses = None;
    for name in &names {
        fake.gone(V1, VOLUMES, "", &format!("pvc-uid-{name}")).await;
    }
    assert!(driver.pool().volumes.is_empty());
}
