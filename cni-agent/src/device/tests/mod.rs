//! The part against a kubelet of ours, in every order of restarts.

mod kubelet;
mod restarts;
mod whole;

use super::{
    host::{Host, program::Turns},
    inventory::{Health, Item, Offer},
    name::ResourceName,
    plan::{Give, Groups, HealthRule, Permissions, Prefer, Rule, Serve},
    plugin::Plugin,
    registration::{self, Served, Standing, Way},
    watch_kubelet,
};
use crate::{metrics::DeviceCounts, parts::Shutdown};
use kubelet::Kubelet;
pub(super) use kubelet::PATIENCE;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

/// A rule that gives nothing but the device.
pub(super) fn rule(name: &str) -> Rule {
    Rule {
        name: ResourceName::try_from(name.to_owned()).unwrap(),
        origin: "a test".to_owned(),
        description: None,
        find: Vec::new(),
        group_by: None,
        id: None,
        count: 1,
        numa: None,
        give: Give {
            own: Vec::new(),
            nodes: Vec::new(),
            permissions: Permissions {
                read: true,
                write: true,
                mknod: false,
            },
            environment: [].into(),
            mounts: Vec::new(),
            annotations: [].into(),
            cdi: Vec::new(),
            write_cdi: false,
            groups: Groups::OfFiles,
        },
        prefer: Prefer::Near,
        health: HealthRule {
            open: false,
            command: None,
            every: Duration::from_secs(10),
            failures: 1,
            successes: 1,
            forget: Duration::from_secs(3600),
        },
        before_start: None,
        serve: Serve::DevicePlugin,
    }
}

/// An item without files.
pub(super) fn item(key: &str) -> Item {
    Item {
        key: key.to_owned(),
        ..Item::default()
    }
}

/// An offer of so many devices.
fn offer(name: &str, count: usize) -> Offer {
    let items = (0..count).map(|n| item(&format!("d{n}"))).collect();
    Offer::new(Arc::new(rule(name)), items)
}

/// One resource as an agent serves it.
struct Agent {
    offers: watch::Sender<Arc<Offer>>,
    until: Arc<watch::Sender<()>>,
    streams: watch::Receiver<usize>,
    standing: watch::Receiver<Standing>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    eyes: JoinHandle<()>,
}

impl Agent {
    fn begin(way: Way, offer: Offer) -> Self {
        let folder = watch::Sender::new(0);
        let changes = folder.subscribe();
        let eyes = tokio::spawn(watch_kubelet(way.watched().to_owned(), folder));
        let offers = watch::Sender::new(Arc::new(offer));
        let until = Arc::new(watch::Sender::new(()));
        let streams = watch::Sender::new(0);
        let open = streams.subscribe();
        let standing = watch::Sender::new(Standing::default());
        let shown = standing.subscribe();
        let (stop, stopped) = Shutdown::new();
        let served = Served {
            way,
            plugin: Plugin {
                offers: offers.subscribe(),
                host: Arc::new(Host::default()),
                counts: DeviceCounts::default(),
                streams,
                until: until.subscribe(),
                turns: Turns::default(),
            },
            until: until.clone(),
            standing,
            changes,
            counts: DeviceCounts::default(),
        };
        Self {
            offers,
            until,
            streams: open,
            standing: shown,
            stop,
            task: tokio::spawn(registration::run(served, stopped)),
            eyes,
        }
    }

    /// Ends as by SIGTERM.
    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        self.eyes.abort();
    }

    /// Ends as by SIGKILL: sockets stay where they are.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        self.eyes.abort();
    }

    /// Waits until the kubelet listens, or doesn't.
    async fn is(&mut self, wanted: impl Fn(&Standing) -> bool) {
        let waited = timeout(PATIENCE, self.standing.wait_for(|now| wanted(now))).await;
        let failed = waited.is_err();
        drop(waited);
        if failed {
            panic!("the standing is {:?}", self.standing.borrow());
        }
    }

    fn change(&self, change: impl FnOnce(&mut Offer)) {
        self.offers.send_modify(|offer| {
            let mut changed = Offer::clone(offer);
            change(&mut changed);
            *offer = Arc::new(changed);
        });
    }
}

fn register(kubelet: &Kubelet) -> Way {
    Way::Register {
        folder: kubelet.plugins(),
    }
}

fn watcher(folder: &Path) -> Way {
    Way::Watcher {
        registry: folder.join("plugins_registry"),
        folder: folder.join("plugins/fairlead-devices"),
    }
}

pub(super) fn unhealthy(reason: &str) -> Health {
    Health::Unhealthy {
        reason: reason.to_owned(),
        since: 1,
    }
}
