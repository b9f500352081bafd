//! Finds the addresses of the names that policies name, and adds them to the cluster that everybody reads. A name
//! is asked for before anybody connects to it, and again before its answer is too old, so that a first packet
//! finds its address already allowed. Kept on disk: a start asks nobody before it enforces.
//!
//! [`known`] is pure: which name is to be asked for when, and how long an address is one of it.

mod file;
mod known;
mod resolve;
#[cfg(test)]
mod tests;

pub use file::DomainsFile;
pub use resolve::{Answer, Dns, Resolve};

use crate::{
    model::{ClusterPolicy, Peer},
    state::{Cluster, Objects},
};
use known::Known;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

/// Names asked for at a time.
const PARALLEL: usize = 16;
/// Names that are looked after; those beyond are said to be too many.
const MOST_NAMES: usize = 1_000;
/// How long nobody looks where there is nothing to do.
const IDLE: Duration = Duration::from_secs(3600);
/// The Service that answers pods' questions for names, where the cluster has it.
const CLUSTER_DNS: (&str, &str) = ("kube-system", "kube-dns");

/// Tells which of these addresses connections go on to.
pub type InUse = Arc<dyn Fn(&BTreeSet<IpAddr>) -> BTreeSet<IpAddr> + Send + Sync>;

/// What of names can't be had, each with its remedy.
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<Vec<String>>>);

impl Problems {
    /// By name.
    pub fn snapshot(&self) -> Vec<String> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems.clone()
    }

    fn set(&self, new: Vec<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

/// A task that ends with this.
#[derive(Debug)]
pub struct Following(JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The same clusters with the addresses of the names that their policies name.
pub fn follow(
    clusters: watch::Receiver<Arc<Cluster>>,
    resolver: impl Resolve,
    in_use: InUse,
    file: DomainsFile,
    problems: Problems,
) -> (watch::Receiver<Arc<Cluster>>, Following) {
    let mut follower = Follower {
        known: Known::new(file.read()),
        clusters,
        out: watch::Sender::new(Arc::default()),
        resolver: Arc::new(resolver),
        lookups: JoinSet::new(),
        asked: BTreeSet::new(),
        in_use,
        file,
        problems,
        policies: Objects::default(),
        too_many: 0,
        domains: Objects::default(),
        servers: Vec::new(),
    };
    // Before anybody reads it.
    follower.take_cluster();
    let out = follower.out.subscribe();
    (out, Following(tokio::spawn(follower.run())))
}

struct Follower<R> {
    known: Known,
    clusters: watch::Receiver<Arc<Cluster>>,
    out: watch::Sender<Arc<Cluster>>,
    resolver: Arc<R>,
    lookups: JoinSet<(String, Result<Answer, String>)>,
    /// Names whose answers are awaited.
    asked: BTreeSet<String>,
    in_use: InUse,
    file: DomainsFile,
    problems: Problems,
    /// Those whose names are known.
    policies: Objects<(String, String), ClusterPolicy>,
    /// Names that are not looked after.
    too_many: usize,
    /// As they were given on last.
    domains: Objects<String, BTreeSet<IpAddr>>,
    servers: Vec<SocketAddr>,
}

impl<R: Resolve> Follower<R> {
    async fn run(mut self) {
        loop {
            self.ask();
            let wake = self.known.next(&self.asked);
            let wake = wake.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                changed = self.clusters.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take_cluster();
                }
                Some(done) = self.lookups.join_next() => {
                    if let Ok((name, answer)) = done {
                        self.asked.remove(&name);
                        self.known.told(&name, answer, Instant::now());
                        self.give_on();
                    }
                }
                () = sleep_until(wake) => {
                    self.expire().await;
                    self.give_on();
                }
            }
        }
    }

    /// Begins to ask for what is due.
    fn ask(&mut self) {
        let due = self.known.due(Instant::now());
        for name in due {
            if self.asked.len() >= PARALLEL {
                return;
            }
            if self.asked.insert(name.clone()) {
                let (resolver, servers) = (self.resolver.clone(), self.servers.clone());
                self.lookups.spawn(async move {
                    let answer = resolver.resolve(&name, &servers).await;
                    (name, answer)
                });
            }
        }
    }

    /// Forgets addresses that a name has no more, unless connections go on to them.
    async fn expire(&mut self) {
        let old = self.known.expired(Instant::now());
        if old.is_empty() {
            return;
        }
        let in_use = self.in_use.clone();
        let asked = old.clone();
        let busy = tokio::task::spawn_blocking(move || in_use(&asked)).await;
        // Who can't be asked about may be in use.
        let busy = busy.unwrap_or(old);
        self.known.forget_expired(&busy, Instant::now());
    }

    fn take_cluster(&mut self) {
        let cluster = self.clusters.borrow_and_update().clone();
        if !cluster.cluster_policies.is_copy_of(&self.policies) {
            self.policies = cluster.cluster_policies.clone();
            let mut names = names(&self.policies);
            self.too_many = names.len().saturating_sub(MOST_NAMES);
            while names.len() > MOST_NAMES {
                names.pop_last();
            }
            self.known.want(&names, Instant::now());
        }
        if !self.known.is_empty() {
            self.servers = servers(&cluster);
        }
        self.known_to_all(cluster);
    }

    /// Gives the cluster on if names have other addresses than before.
    fn give_on(&mut self) {
        let cluster = self.clusters.borrow().clone();
        self.tell_problems();
        if self.known.changed() {
            self.known_to_all(cluster);
        }
    }

    fn known_to_all(&mut self, cluster: Arc<Cluster>) {
        if self.known.take_changed() {
            self.domains = self.known.domains();
            if let Err(error) = self.file.write(&self.known.saved()) {
                tracing::warn!(%error, "addresses of names are not kept for the next start");
            }
        }
        self.tell_problems();
        // Most clusters name no names: theirs are passed on as they are.
        let cluster = match self.domains.is_empty() {
            true => cluster,
            false => Arc::new(Cluster {
                domains: self.domains.clone(),
                ..Cluster::clone(&cluster)
            }),
        };
        self.out.send_replace(cluster);
    }

    fn tell_problems(&self) {
        let mut problems = self.known.problems();
        if self.too_many > 0 {
            problems.push(format!(
                "policies name {} domain names more than the {MOST_NAMES} that are looked after: nobody gets through by those; name fewer",
                self.too_many
            ));
        }
        self.problems.set(problems);
    }
}

/// PURE: every name that a policy names by itself.
fn names(policies: &Objects<(String, String), ClusterPolicy>) -> BTreeSet<String> {
    let judgements = policies.values().flat_map(|policy| &policy.egress);
    let peers = judgements.flat_map(|judgement| judgement.rule.peers.iter().flatten());
    let names = peers.filter_map(|peer| match peer {
        Peer::Domain(pattern) => pattern.exact().map(ToOwned::to_owned),
        _ => None,
    });
    names.collect()
}

/// PURE: who answers the pods' questions for names, one by one; none: the cluster has no such Service.
fn servers(cluster: &Cluster) -> Vec<SocketAddr> {
    const PORT: u16 = 53;
    let slices = cluster.slices.values();
    let own =
        slices.filter(|slice| (slice.namespace.as_str(), slice.service.as_str()) == CLUSTER_DNS);
    let mut servers: Vec<SocketAddr> = own
        .flat_map(|slice| {
            // A pod may listen at another port than its Service.
            let port = slice.ports.iter().find(|port| port.name == "dns");
            let port = port.map_or(PORT, |port| port.port);
            let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
            ready.map(move |endpoint| SocketAddr::new(endpoint.address, port))
        })
        .collect();
    servers.sort_unstable();
    servers
}
