//! The Leases by which nodes agree who answers for which addresses, and who gives them away.

use super::{
    Told,
    duty::{Duties, Key, duties},
    lease::{RENEWED, Share},
};
use crate::{network::part::Running, state::Cluster};
use futures_util::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Its holder gives addresses away, and answers for those of Services that any node may serve.
const COMMON: &str = "fairlead-load-balancer";

/// Name of the Lease of a Service that only nodes with endpoints may serve.
fn lease_of((namespace, name): &Key) -> String {
    format!("fairlead-lb.{namespace}.{name}")
}

/// This node's shares in the Leases.
pub(super) struct Elections {
    leases: Api<Lease>,
    running: Arc<Running>,
    common: Share,
    /// Of Services that this node has or had ready endpoints of.
    local: BTreeMap<Key, Share>,
}

impl Elections {
    pub(super) fn new(client: Client, running: Arc<Running>) -> Self {
        let leases: Api<Lease> = Api::namespaced(client, super::NAMESPACE);
        let me = running.network.config.node_name.clone();
        Self {
            common: Share::new(leases.clone(), COMMON.to_owned(), me),
            leases,
            running,
            local: BTreeMap::new(),
        }
    }

    /// Tells what is held, until nobody tells of the cluster any more.
    pub(super) async fn hold(&mut self, told: &Told) {
        let mut cluster = self.running.network.cluster.clone();
        let mut next = Instant::now();
        let (mut revision, mut duties) = (None, Duties::default());
        loop {
            let seen = cluster.borrow_and_update().clone();
            if revision.replace(seen.revision) != Some(seen.revision) {
                duties = self.duties(&seen);
            }
            if Instant::now() >= next {
                self.look(&duties).await;
                next = self.next();
            }
            publish(&told.answered, Some(self.answered(&duties)));
            publish(&told.leads, self.common.sure_until());
            tokio::select! {
                changed = cluster.changed() => if changed.is_err() { return },
                () = sleep_until(next) => {}
            }
        }
    }

    fn duties(&self, cluster: &Cluster) -> Duties {
        let config = &self.running.network.config;
        duties(cluster, &config.node_name, &config.load_balancer_pool)
    }

    async fn look(&mut self, duties: &Duties) {
        // A node without an uplink can't answer anybody.
        let able = self.running.network.view().desired.is_some();
        for (key, (_, here)) in &duties.local {
            if *here && !self.local.contains_key(key) {
                let me = self.running.network.config.node_name.clone();
                let share = Share::new(self.leases.clone(), lease_of(key), me);
                self.local.insert(key.clone(), share);
            }
        }
        let wants = |key: &Key| duties.local.get(key).is_some_and(|(_, here)| *here && able);
        let local = self.local.iter_mut();
        let locals = local.map(|(key, share)| look_at(share, wants(key)));
        tokio::join!(look_at(&mut self.common, able), join_all(locals));
        // Released by now.
        let over = |key: &Key, share: &Share| !wants(key) && !share.holds();
        let mut gone = Vec::new();
        self.local.retain(|key, share| {
            let over = over(key, share);
            if over && !duties.local.contains_key(key) {
                gone.push(lease_of(key));
            }
            !over
        });
        // Whose Service is no more: nobody needs its Lease.
        for name in gone {
            if let Err(error) = super::lease::remove_free(&self.leases, &name).await {
                tracing::debug!(%error, name, "a Lease stays that nobody needs");
            }
        }
    }

    fn next(&self) -> Instant {
        let shares = self.local.values().chain([&self.common]);
        let now = Instant::now();
        // What is past was looked at in vain: again at the usual time.
        let due = shares.filter_map(Share::due).filter(|due| *due > now).min();
        let latest = now + RENEWED;
        due.map_or(latest, |due| due.min(latest))
    }

    fn answered(&self, duties: &Duties) -> BTreeSet<IpAddr> {
        let mut answered = BTreeSet::new();
        if self.common.holds() {
            answered.extend(&duties.common);
        }
        for (key, (addresses, _)) in &duties.local {
            if self.local.get(key).is_some_and(Share::holds) {
                answered.extend(addresses);
            }
        }
        answered
    }

    /// Lets others have all of it.
    pub(super) async fn give_up(&mut self) {
        let shares = self.local.values_mut().chain([&mut self.common]);
        join_all(shares.map(Share::give_up)).await;
    }
}

async fn look_at(share: &mut Share, candidate: bool) {
    let (before, failing) = (share.holds(), share.failing());
    match share.look(candidate).await {
        Ok(()) if failing => {
            tracing::info!(lease = share.name(), "the Lease can be looked at again")
        }
        Ok(()) => {}
        Err(error) if failing => {
            tracing::debug!(%error, lease = share.name(), "still");
        }
        Err(error) => {
            let holds = share.holds();
            tracing::warn!(%error, lease = share.name(), holds, "the Lease can't be looked at");
        }
    }
    match (before, share.holds()) {
        (false, true) => tracing::info!(lease = share.name(), "this node holds the Lease"),
        (true, false) => tracing::info!(lease = share.name(), "this node has the Lease no more"),
        _ => {}
    }
}

fn publish<T: PartialEq>(channel: &watch::Sender<T>, value: T) {
    channel.send_if_modified(|old| {
        let differs = *old != value;
        *old = value;
        differs
    });
}
