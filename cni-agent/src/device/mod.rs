//! The node's devices for its pods: any that the configuration finds on it is a resource that the kubelet hands out, by
//! the device plugin API v1beta1, or that the scheduler gives to claims ([`dra`]).
//!
//! One direction: the configuration's text is checked into a [`plan`] (PURE, [`config`]); what the node has is looked up
//! ([`host`]) and becomes devices (PURE, [`inventory`]); the [`keeper`] compares with what was there and tells the kubelet
//! through a plugin of each resource ([`plugin`], [`registration`]). What a container gets is decided from memory (PURE,
//! [`allocate`], [`prefer`]).

mod allocate;
mod announce;
mod cdi;
pub mod config;
pub mod damping;
mod dra;
pub mod found;
mod health;
pub mod host;
mod inventory;
mod keeper;
mod kept;
mod keys;
mod look;
pub mod name;
mod nearest;
pub mod options;
mod pattern;
pub mod plan;
mod plugin;
mod pods;
mod prefer;
pub mod presets;
mod record;
mod registration;
mod resource;
mod rows;
mod slot;
mod tell;
pub mod template;
#[cfg(test)]
mod tests;

use crate::{folder_watch::FolderWatch, metrics::DeviceCounts, parts::Shutdown};
use config::watched::Configuration;
use dra::Dra;
use host::{Host, watch::Changes};
use keeper::Keeper;
use options::{DeviceConfig, Registration};
use plan::{Plan, Serve};
use pods::PodResources;
use registration::{Standing, Way};
use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};
use tell::Teller;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

pub use slot::{DeviceSlot, query, snapshot};

/// What no event tells of the kubelet's folder is seen after so long.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks that events ask for.
const QUIET: Duration = Duration::from_millis(2);

/// Runs the part until `shutdown`.
///
/// # Errors
/// What kept it from starting, worded for people.
pub async fn run(
    config: DeviceConfig,
    slot: DeviceSlot,
    counts: DeviceCounts,
    shutdown: Shutdown,
) -> Result<(), String> {
    run_on(Host::default(), config, slot, counts, shutdown).await
}

/// The same on a node whose /dev and /sys may be elsewhere.
async fn run_on(
    host: Host,
    config: DeviceConfig,
    slot: DeviceSlot,
    counts: DeviceCounts,
    mut shutdown: Shutdown,
) -> Result<(), String> {
    let configuration = Configuration::watch(&config.devices, &config.presets, &config.state_dir);
    let configured = configuration.subscribe();
    sweep(&config, &configured.borrow().plan);
    let (shown, showing) = watch::channel(Arc::default());
    let _running = slot.run(showing, PodResources::new(&config.kubelet_dir));
    let changes = Changes::open(&host);
    let (teller, news) = Teller::new();
    let pods = PodResources::new(&config.kubelet_dir);
    let telling = tell::run(&config.node_name, config.api.as_ref(), pods, news);
    let folder = watch::Sender::new(0);
    let (offers, offered) = watch::channel(None);
    let standing = watch::Sender::new(Standing::default());
    let keeper = Keeper::new(
        &config,
        host,
        counts.clone(),
        folder.subscribe(),
        shown,
        teller,
    )
    .with_claims(offers, standing.subscribe());
    let dra = Dra {
        offers: offered,
        host: keeper.host(),
        counts,
        standing,
    };
    let claims = dra::run(dra, &config, shutdown.clone());
    let eyes = watch_kubelet(Way::of(&config).watched().to_owned(), folder);
    let keeping = keeper.run(configured, changes, shutdown.clone());
    tokio::select! {
        () = eyes => {}
        () = telling => {}
        ((), ()) = async { tokio::join!(keeping, claims) } => return Ok(()),
    }
    shutdown.requested().await;
    Ok(())
}

/// Takes sockets away that an agent left in the kubelet's registry and that this one doesn't make anew.
fn sweep(config: &DeviceConfig, plan: &Plan) {
    let rules = plan.resources.values().filter(|rule| {
        rule.serve == Serve::DevicePlugin && config.registration == Registration::Watcher
    });
    let wanted = rules.map(|rule| rule.name.socket()).collect();
    registration::sweep(&registration::registry(config), &wanted);
}

/// Counts on whenever something in the folder may have changed: a kubelet that starts, sockets that are removed.
async fn watch_kubelet(folder: PathBuf, changes: watch::Sender<u64>) {
    let (mut eyes, changed) = FolderWatch::open(&folder);
    loop {
        if timeout(LOOK, changed.notified()).await.is_ok() {
            changes.send_modify(|count| *count = count.wrapping_add(1));
            sleep(QUIET).await;
        }
        // A folder that was made anew is watched again; what can't be watched is looked at.
        drop(eyes.refresh(&BTreeSet::new()));
    }
}
