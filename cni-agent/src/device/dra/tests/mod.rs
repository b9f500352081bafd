//! The driver between a kubelet and an API server of ours, in every order of restarts.

mod api;
mod claims;
mod kubelet;
mod publishing;
mod restarts;

use super::{Dra, Looked, Offers, prepared::Claims, serve, slices};
use crate::{
    device::{
        found::{DeviceFile, FileKind},
        host::Host,
        inventory::{Health, Item, Offer},
        options::{DeviceConfig, Registration},
        plan::Serve,
        registration::Standing,
        tests::{item, rule},
    },
    metrics::DeviceCounts,
    parts::Shutdown,
};
use api::FakeApi;
use kubelet::Kubelet;
use serde_json::{Value, json};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

/// Longer than anything takes; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "example.com/serial";
const UID: &str = "5f6e1c3a-0000-4000-8000-000000000001";
const OTHER: &str = "5f6e1c3a-0000-4000-8000-000000000002";

/// A serial adapter with its file.
fn serial(key: &str) -> Item {
    Item {
        files: vec![DeviceFile {
            path: format!("/dev/{key}").into(),
            kind: FileKind::Character,
            major: 188,
            minor: 0,
            group: 20,
        }],
        ..item(key)
    }
}

fn sick(key: &str) -> Item {
    Item {
        health: Health::Unhealthy {
            reason: "it is stuck".to_owned(),
            since: 1,
        },
        ..serial(key)
    }
}

/// One resource that is given to claims.
fn offers(count: u32, items: Vec<Item>) -> Offers {
    let mut rule = rule(NAME);
    rule.serve = Serve::Dra;
    rule.give.write_cdi = true;
    rule.count = count;
    let name = rule.name.clone();
    [(name, Arc::new(Offer::new(Arc::new(rule), items)))].into()
}

fn serials(count: usize) -> Offers {
    offers(1, (0..count).map(|n| serial(&format!("s{n:03}"))).collect())
}

/// What the scheduler says that a claim has.
fn result(request: &str, key: &str) -> Value {
    json!({"driver": "devices.fairlead.dev", "pool": "n1", "request": request, "device": device(key)})
}

/// The name of a serial adapter in the pool.
fn device(key: &str) -> String {
    let resource = NAME.to_owned().try_into().unwrap();
    slices::name(&resource, key, None)
}

/// An agent's share in it; its end is as if the agent was killed.
struct Agent {
    offers: watch::Sender<Looked>,
    standing: watch::Receiver<Standing>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    fn begin(folder: &Path, api: &FakeApi, first: Offers) -> Self {
        Self::begin_with(folder, api, Some(Arc::new(first)))
    }

    /// None: the node wasn't looked at yet.
    fn begin_with(folder: &Path, api: &FakeApi, first: Looked) -> Self {
        let config = DeviceConfig {
            node_name: "n1".to_owned(),
            kubelet_dir: folder.to_owned(),
            state_dir: folder.join("state"),
            devices: folder.join("none"),
            presets: Vec::new(),
            registration: Registration::Register,
            cdi_dir: folder.join("cdi"),
            api: None,
        };
        let offers = watch::Sender::new(first);
        let standing = watch::Sender::default();
        let (stop, shutdown) = Shutdown::new();
        let dra = Dra {
            offers: offers.subscribe(),
            host: Arc::new(Host::default()),
            counts: DeviceCounts::default(),
            standing: standing.clone(),
        };
        let claims = Claims::open(&config.state_dir, &config.cdi_dir);
        let client = api.client();
        Self {
            offers,
            standing: standing.subscribe(),
            stop,
            task: tokio::spawn(async move {
                serve(client, dra, claims, &config, shutdown).await;
            }),
        }
    }

    /// Ends as by SIGTERM.
    async fn end(mut self) {
        self.stop.send_replace(true);
        (&mut self.task).await.unwrap();
    }

    /// Ends as by SIGKILL: sockets stay where they are.
    async fn kill(mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
    }

    fn offer(&self, offers: Offers) {
        self.offers.send_replace(Some(Arc::new(offers)));
    }

    /// Waits until it stands as wanted.
    async fn is(&mut self, wanted: impl Fn(&Standing) -> bool) {
        let waited = timeout(PATIENCE, self.standing.wait_for(|now| wanted(now))).await;
        let failed = waited.is_err();
        drop(waited);
        if failed {
            panic!("the standing is {:?}", self.standing.borrow());
        }
    }
}
