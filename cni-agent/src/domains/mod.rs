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
        looks: JoinSet::new(),
        asked: BTreeSet::new(),
        in_use,
        file,
        problems,
        policies: Objects::default(),
        too_many: 0,
        domains: Objects::default(),
        servers: None,
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
    /// Looks which of these addresses are in use: that reads all connections, and nobody waits for it.
    looks: JoinSet<(BTreeSet<IpAddr>, BTreeSet<IpAddr>)>,
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
    /// None: the cluster has its own, and none of them is ready.
    servers: Option<Vec<SocketAddr>>,
}

impl<R: Resolve> Follower<R> {
    async fn run(mut self) {
        loop {
            self.ask();
            let full = self.asked.len() >= PARALLEL;
            let looking = !self.looks.is_empty();
            let wake = self.known.next(&self.asked, full, looking, Instant::now());
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
                Some(done) = self.looks.join_next() => {
                    if let Ok((over, in_use)) = done {
                        self.known.forget(&over, &in_use, Instant::now());
                        self.give_on();
                    }
                }
                () = sleep_until(wake) => self.look(),
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
                    let answer = match servers {
                        Some(servers) => resolver.resolve(&name, &servers).await,
                        // The node's own would deny the cluster's names.
                        None => Err("no pod of the cluster's DNS is ready".to_owned()),
                    };
                    (name, answer)
                });
            }
        }
    }

    /// Begins to look whether connections go on to addresses that a name has no more.
    fn look(&mut self) {
        let over = self.known.expired(Instant::now());
        if !over.is_empty() && self.looks.is_empty() {
            let in_use = self.in_use.clone();
            self.looks.spawn_blocking(move || {
                let busy = in_use(&over);
                (over, busy)
            });
        }
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
        match self.known.changed() {
            true => {
                let cluster = self.clusters.borrow().clone();
                self.known_to_all(cluster);
            }
            false => self.tell_problems(),
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
pub fn names(policies: &Objects<(String, String), ClusterPolicy>) -> BTreeSet<String> {
    let judgements = policies.values().flat_map(|policy| &policy.egress);
    let peers = judgements.flat_map(|judgement| judgement.rule.peers.iter().flatten());
    let names = peers.filter_map(|peer| match peer {
        Peer::Domain(pattern) => pattern.exact().map(ToOwned::to_owned),
        _ => None,
    });
    names.collect()
}

/// PURE: who answers the pods' questions for names, one by one; empty: the cluster has no such Service, and the node's own
/// servers do. None: it has, and nobody is ready to answer.
fn servers(cluster: &Cluster) -> Option<Vec<SocketAddr>> {
    const PORT: u16 = 53;
    let (namespace, name) = CLUSTER_DNS;
    let is_there = cluster
        .services
        .contains_key(&(namespace.to_owned(), name.to_owned()));
    let slices = cluster.slices.values();
    let own =
        slices.filter(|slice| (slice.namespace.as_str(), slice.service.as_str()) == CLUSTER_DNS);
    let own: Vec<_> = own.collect();
    let mut servers: Vec<SocketAddr> = own
        .iter()
        .flat_map(|slice| {
            // A pod may listen at another port than its Service.
            let port = slice.ports.iter().find(|port| port.name == "dns");
            let port = port.map_or(PORT, |port| port.port);
            let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
            ready.map(move |endpoint| SocketAddr::new(endpoint.address, port))
        })
        .collect();
    servers.sort_unstable();
    (!servers.is_empty() || !is_there && own.is_empty()).then_some(servers)
}
