//! Nodes against a small API server, each with a driver that remembers what it was asked for.

mod driver;
mod fake;
mod following;
mod growing;
mod leaving;
mod life;
mod nodes;
mod places;
mod stale;
mod unwritten;

use super::{Options, Own, Site, run};
use crate::parts::Shutdown;
use driver::Remembering;
use fake::Fake;
use node_api::csi::controller_server::ControllerServer;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tonic::service::Routes;

/// Longer than anything takes that is waited for.
const LONG: Duration = Duration::from_secs(60);

/// An agent's part; its end is as if the agent was killed.
struct Agent(
    JoinHandle<()>,
    #[allow(dead_code, reason = "it ends the agent when dropped")] tokio::sync::watch::Sender<bool>,
);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Agent {
    async fn kill(mut self) {
        self.0.abort();
        assert!((&mut self.0).await.unwrap_err().is_cancelled());
    }
}

fn services(driver: &Arc<Remembering>) -> axum::Router {
    Routes::new(ControllerServer::from_arc(driver.clone())).into_axum_router()
}

fn start(fake: &Fake, driver: &Arc<Remembering>) -> Agent {
    let (stop, shutdown) = Shutdown::new();
    let options = Options {
        node: driver.node.clone(),
        driver: "d".into(),
        topology: [("t/node".to_owned(), driver.node.clone())].into(),
        namespace: None,
    };
    let running = run(fake.client(), services(driver), options, shutdown);
    Agent(tokio::spawn(running), stop)
}

/// What tasks of a node work with, without who begins them.
fn site(fake: &Fake, driver: &Arc<Remembering>) -> Site {
    let own: Own = super::plan::tests::own(&driver.node);
    Site::new(fake.client(), services(driver), own, "kube-system")
}

/// An object as the cluster has it now.
fn seen<K: serde::de::DeserializeOwned>(fake: &Fake, api: &str, plural: &str, name: &str) -> K {
    let mut all = fake.all(api, plural).into_iter();
    let found = all.find(|of| of["metadata"]["name"] == name);
    serde_json::from_value(found.unwrap()).unwrap()
}

/// A cluster of these nodes, with the usual classes.
async fn cluster(nodes: &[&str]) -> Fake {
    let fake = Fake::start().await;
    for node in nodes {
        fake.put(
            "v1",
            "nodes",
            json!({"metadata": {"name": node, "uid": format!("uid-{node}")}}),
        );
    }
    let driver = json!({"metadata": {"name": "d"}, "spec": {"attachRequired": false}});
    fake.put("storage.k8s.io/v1", "csidrivers", driver);
    for (name, mode) in [("late", "WaitForFirstConsumer"), ("soon", "Immediate")] {
        fake.put(
            "storage.k8s.io/v1",
            "storageclasses",
            super::plan::tests::class(name, mode),
        );
    }
    for kind in ["contents", "classes"] {
        let name = format!("volumesnapshot{kind}.snapshot.storage.k8s.io");
        fake.put(
            "apiextensions.k8s.io/v1",
            "customresourcedefinitions",
            json!({"metadata": {"name": name}}),
        );
    }
    fake
}

fn claim(fake: &Fake, name: &str, node: Option<&str>, class: &str) {
    let mut claim = super::plan::tests::claim(name, node);
    claim["spec"]["storageClassName"] = json!(class);
    fake.put("v1", "persistentvolumeclaims", claim);
}

/// What the controller manager does when the PersistentVolume is there.
async fn bound(fake: &Fake, name: &str) -> Value {
    let volume = format!("pvc-uid-{name}");
    let made = fake
        .until("v1", "persistentvolumes", "", &volume, |_| true)
        .await;
    fake.merge(
        "v1",
        "persistentvolumes",
        "",
        &volume,
        json!({"status": {"phase": "Bound"}}),
    );
    let capacity = made["spec"]["capacity"].clone();
    let claim =
        json!({"spec": {"volumeName": volume}, "status": {"phase": "Bound", "capacity": capacity}});
    fake.merge("v1", "persistentvolumeclaims", "shop", name, claim);
    made
}

/// What it does when the claim is deleted.
fn release(fake: &Fake, name: &str) {
    fake.delete("v1", "persistentvolumeclaims", "shop", name);
    let volume = format!("pvc-uid-{name}");
    fake.merge(
        "v1",
        "persistentvolumes",
        "",
        &volume,
        json!({"status": {"phase": "Released"}}),
    );
}
