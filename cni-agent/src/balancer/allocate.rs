//! Writes which addresses of the pool Services have, while this node leads.

use super::{
    duty::{Key, duties},
    pool::{Grant, distribute},
};
use crate::{network::part::Running, node::within, state::Cluster};
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::{
    Api, Client, Error,
    api::{Patch, PatchParams},
    runtime::{
        events::{Event, EventType, Recorder, Reporter},
        utils::Backoff,
        watcher::DefaultBackoff,
    },
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// How long a Service that was written may take to be seen so; afterwards what is seen counts.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Allocator {
    client: Client,
    running: Arc<Running>,
    /// As `Told` has it.
    leads: watch::Receiver<Option<Instant>>,
    events: Recorder,
    /// What was written and when, until it is seen: another must not get it meanwhile.
    written: BTreeMap<Key, (Vec<IpAddr>, Instant)>,
    /// What was told of a Service.
    problems: BTreeMap<Key, String>,
}

impl Allocator {
    pub(super) fn new(
        client: Client,
        running: Arc<Running>,
        leads: watch::Receiver<Option<Instant>>,
    ) -> Self {
        Self {
            events: Recorder::new(client.clone(), Reporter::from("fairlead-agent".to_owned())),
            client,
            running,
            leads,
            written: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// Writes what differs, until nobody tells of the cluster any more.
    pub(super) async fn allocate(mut self) {
        let mut cluster = self.running.network.cluster.clone();
        let mut pause = DefaultBackoff::default();
        loop {
            if self.leads.wait_for(Option::is_some).await.is_err() {
                return;
            }
            let seen = cluster.borrow_and_update().clone();
            if let Err(error) = self.pass(&seen).await {
                let wait = pause.next().unwrap_or(SEEN_WITHIN);
                tracing::warn!(%error, again_in = ?wait, "Services are without their addresses");
                sleep(wait).await;
                continue;
            }
            pause.reset();
            tokio::select! {
                changed = cluster.changed() => if changed.is_err() { return },
                // A leader that is new may find what the last one left.
                lost = self.leads.wait_for(Option::is_none) => {
                    if lost.is_err() { return }
                    drop(lost);
                    self.written.clear();
                    self.problems.clear();
                }
                () = sleep(SEEN_WITHIN) => {}
            }
        }
    }

    /// No other node can give addresses away now.
    fn leads(&self) -> bool {
        self.leads
            .borrow()
            .is_some_and(|until| Instant::now() < until)
    }

    async fn pass(&mut self, cluster: &Cluster) -> Result<(), Error> {
        let config = &self.running.network.config;
        let pool = &config.load_balancer_pool;
        let mut duties = duties(cluster, &config.node_name, pool);
        // What is refused for one Service keeps no other from its addresses.
        let mut outcome = Ok(());
        for (key, kept) in &duties.freed {
            match self.write(key, kept).await {
                Ok(_) => {}
                Err(refused @ Error::Api(_)) => outcome = Err(refused),
                Err(error) => return Err(error),
            }
        }
        for claim in &mut duties.claims {
            let Some((written, at)) = self.written.get(&claim.service) else {
                continue;
            };
            if same(written, &claim.current) || at.elapsed() > SEEN_WITHIN {
                self.written.remove(&claim.service);
            } else {
                claim.current.clone_from(written);
            }
        }
        let grants = distribute(pool, &duties.others, &duties.claims);
        for (claim, grant) in duties.claims.iter().zip(&grants) {
            if !same(&claim.current, &grant.addresses) {
                match self.write(&grant.service, &grant.addresses).await {
                    Ok(true) => {
                        let written = (grant.addresses.clone(), Instant::now());
                        self.written.insert(grant.service.clone(), written);
                    }
                    Ok(false) => {}
                    Err(refused @ Error::Api(_)) => outcome = Err(refused),
                    Err(error) => return Err(error),
                }
            }
            self.tell(grant).await;
        }
        self.problems
            .retain(|key, _| cluster.services.contains_key(key));
        outcome
    }

    /// Writes the addresses that a Service has, and answers whether it did: only a leader does. A Service
    /// that is gone is fine.
    async fn write(&self, (namespace, name): &Key, addresses: &[IpAddr]) -> Result<bool, Error> {
        if !self.leads() {
            return Ok(false);
        }
        tracing::info!(namespace, name, ?addresses, "a Service gets its addresses");
        let ingress: Vec<_> = addresses
            .iter()
            .map(|ip| json!({"ip": ip, "ipMode": "VIP"}))
            .collect();
        let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
        let services: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams::default();
        match within(services.patch_status(name, &params, &patch)).await {
            Err(Error::Api(status)) if status.code == 404 => Ok(true),
            done => done.map(|_| true),
        }
    }

    /// Tells why a Service lacks an address, once for each reason. That it can't be told keeps nobody from
    /// an address.
    async fn tell(&mut self, grant: &Grant) {
        let key = &grant.service;
        let Some(problem) = &grant.problem else {
            self.problems.remove(key);
            return;
        };
        if self.problems.get(key) == Some(problem) || !self.leads() {
            return;
        }
        tracing::warn!(
            namespace = key.0,
            name = key.1,
            problem,
            "a Service lacks an address"
        );
        if let Err(error) = within(self.event(key, problem)).await {
            tracing::warn!(%error, "the Event could not be written");
        }
        self.problems.insert(key.clone(), problem.clone());
    }

    async fn event(&self, (namespace, name): &Key, problem: &str) -> Result<(), Error> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        // Who describes a Service is shown the Events of its UID.
        let uid = services.get_metadata(name).await?.metadata.uid;
        let event = Event {
            type_: EventType::Warning,
            reason: "NoLoadBalancerAddress".to_owned(),
            note: Some(crate::node::fitting(problem.to_owned())),
            action: "Allocate".to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid,
            ..ObjectReference::default()
        };
        self.events.publish(&event, &about).await
    }
}

/// Whatever the order.
fn same(a: &[IpAddr], b: &[IpAddr]) -> bool {
    let set = |addresses: &[IpAddr]| addresses.iter().copied().collect::<BTreeSet<_>>();
    set(a) == set(b)
}
