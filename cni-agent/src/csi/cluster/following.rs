//! What the agent knows of itself changes: labels and uid of its node, and whether pods wait for attachments of its driver.

use super::{
    Own, PAUSE, Site, attachment,
    watch::{self, Kept},
};
use crate::node::within;
use k8s_openapi::api::{
    core::v1::Node,
    storage::v1::{CSIDriver, VolumeAttachment},
};
use kube::{Api, Client, runtime::watcher::Config};
use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicBool, Ordering},
};
use tokio::{sync::Notify, time::sleep};

/// The node's object, once it is there.
pub(super) async fn own_node(client: &Client, name: &str) -> Node {
    let nodes: Api<Node> = Api::all(client.clone());
    loop {
        match within(nodes.get_opt(name)).await {
            Ok(Some(node)) => return node,
            Ok(None) => tracing::info!(
                node = name,
                "waiting for the node's object, to answer claims"
            ),
            Err(error) => {
                tracing::warn!(%error, "claims wait: the node's object can't be read for now");
            }
        }
        sleep(PAUSE).await;
    }
}

/// Follows the node's object for ever.
pub(super) async fn node(site: Arc<Site>, changed: Arc<Notify>) {
    let news = Arc::new(Notify::new());
    let nodes: Arc<Kept<Node>> = Kept::new(news.clone());
    let watching = watch::watch(
        Api::all(site.client.clone()),
        named(&site.own().node),
        |_| true,
        nodes.clone(),
    );
    let following = async {
        loop {
            news.notified().await;
            let now = nodes.all().into_values().next();
            // While it is gone, it is as it was seen last.
            if now.is_some_and(|now| site.is_news(&now)) {
                changed.notify_one();
                site.room.notify_one();
            }
        }
    };
    tokio::join!(watching, following);
}

impl Site {
    /// Takes over what the node's object says; whether that is something else than before.
    fn is_news(&self, node: &Node) -> bool {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Own {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            node_uid: node.metadata.uid.clone(),
            ..Own::clone(&own)
        };
        let is_other = **own != now;
        *own = Arc::new(now);
        is_other
    }
}

/// Watches the attachments of this node, as long as pods wait for them.
pub(super) async fn attachments(
    site: Arc<Site>,
    kept: Arc<Kept<VolumeAttachment>>,
    attaches: Arc<AtomicBool>,
) {
    let news = Arc::new(Notify::new());
    let drivers: Arc<Kept<CSIDriver>> = Kept::new(news.clone());
    let watching = watch::watch(
        Api::all(site.client.clone()),
        named(&site.own().driver),
        |_| true,
        drivers.clone(),
    );
    let following = async {
        drivers.listed().await;
        loop {
            let required = are_required(&drivers);
            let other = async {
                while are_required(&drivers) == required {
                    news.notified().await;
                }
            };
            if !required {
                attaches.store(false, Ordering::Relaxed);
                kept.none();
                other.await;
                continue;
            }
            // None is known yet.
            kept.forget();
            attaches.store(true, Ordering::Relaxed);
            let own = site.own();
            let is_own = move |one: &VolumeAttachment| attachment::is_own(one, &own);
            let all = Api::all(site.client.clone());
            tokio::select! {
                () = watch::watch(all, Config::default(), is_own, kept.clone()) => {}
                () = other => {}
            }
        }
    };
    tokio::join!(watching, following);
}

/// Whether pods wait until their volumes are attached. Without a CSIDriver object they do.
fn are_required(drivers: &Kept<CSIDriver>) -> bool {
    let driver = drivers.all().into_values().next();
    let required = driver.and_then(|driver| driver.spec.attach_required);
    required.unwrap_or(true)
}

fn named(name: &str) -> Config {
    Config::default().fields(&format!("metadata.name={name}"))
}
