//! All Services, with work only for those that changed: a rolling update in a cluster of ten
//! thousand Services touches one of them at a time.

use super::{
    Compiled, Frontend, FrontendKind, HealthCheck,
    endpoints::Here,
    table::{Place, Table, place, table},
};
use crate::{
    model::{EndpointSlice, Service},
    state::{Cluster, Objects},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Namespace and name.
type Key = (String, String);

/// Remembers what it compiled last. What it gives depends on the cluster and the node alone.
#[derive(Debug, Default)]
pub struct Compiler {
    /// Name and zone.
    node: Option<(String, Option<String>)>,
    services: Objects<Key, Service>,
    slices: Objects<Key, EndpointSlice>,
    /// Slices by the Service they are of, and their names.
    of_service: BTreeMap<Key, BTreeMap<String, Arc<EndpointSlice>>>,
    tables: BTreeMap<Arc<Key>, Table>,
    places: Claims<Place, Arc<Frontend>>,
    health: Claims<u16, HealthCheck>,
}

impl Compiler {
    /// As [`super::compile`].
    pub fn compile(&mut self, cluster: &Cluster, node: &str) -> Compiled {
        let here = Here::of(cluster, node);
        let own = (here.node.to_owned(), here.zone.map(ToOwned::to_owned));
        if self.node.as_ref() != Some(&own) {
            *self = Self {
                node: Some(own),
                ..Self::default()
            };
        }
        for key in self.changed(cluster) {
            self.renew(key, cluster, here);
        }
        self.compiled()
    }

    /// Takes the cluster's objects over; the Services that this concerns.
    fn changed(&mut self, cluster: &Cluster) -> BTreeSet<Key> {
        let services = cluster.services.differing(&self.services);
        let mut changed: BTreeSet<Key> = services.into_iter().cloned().collect();
        for key in cluster.slices.differing(&self.slices) {
            if let Some(old) = self.slices.get(key) {
                let of = (old.namespace.clone(), old.service.clone());
                if let Some(slices) = self.of_service.get_mut(&of) {
                    slices.remove(&old.name);
                    if slices.is_empty() {
                        self.of_service.remove(&of);
                    }
                }
                changed.insert(of);
            }
            if let Some(new) = cluster.slices.shared(key) {
                let of = (new.namespace.clone(), new.service.clone());
                let slices = self.of_service.entry(of.clone()).or_default();
                slices.insert(new.name.clone(), new);
                changed.insert(of);
            }
        }
        self.services = cluster.services.clone();
        self.slices = cluster.slices.clone();
        changed
    }

    fn renew(&mut self, key: Key, cluster: &Cluster, here: Here<'_>) {
        let key = Arc::new(key);
        let old = self.tables.remove(&key).unwrap_or_default();
        for frontend in &old.frontends {
            self.places.release(&place(frontend), &key);
        }
        if let Some((port, _)) = &old.health {
            self.health.release(port, &key);
        }
        let Some(service) = cluster.services.get(&*key) else {
            return;
        };
        let slices = self.of_service.get(&*key).into_iter();
        let slices: Vec<&EndpointSlice> = slices
            .flat_map(BTreeMap::values)
            .map(AsRef::as_ref)
            .collect();
        let mut new = table(service, &slices, here);
        for frontend in &mut new.frontends {
            if let Some(same) = old.frontends.iter().find(|old| *old == frontend) {
                *frontend = same.clone();
            }
            let rank = frontend.kind.into();
            self.places
                .claim(place(frontend), rank, &key, frontend.clone());
        }
        if let Some((port, check)) = &new.health {
            self.health.claim(*port, Rank::Own, &key, check.clone());
        }
        self.tables.insert(key, new);
    }

    fn compiled(&self) -> Compiled {
        let mut problems: Vec<String> = self
            .tables
            .values()
            .flat_map(|table| table.problems.iter().cloned())
            .collect();
        for (first, frontend) in self.places.refused() {
            problems.push(refusal(frontend, &first.service));
        }
        for (first, check) in self.health.refused() {
            problems.push(format!(
                "the health check of Service {} is not served: Service {} has the same port; give one of them another spec.healthCheckNodePort",
                check.service, first.service
            ));
        }
        let checks = self.health.first();
        Compiled {
            frontends: self.places.first().map(|(_, f)| f.clone()).collect(),
            health_checks: checks.map(|(port, check)| (*port, check.clone())).collect(),
            problems,
        }
    }
}

/// That a place is another Service's.
pub(super) fn refusal(frontend: &Frontend, holder: &str) -> String {
    use super::FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    let Frontend {
        service,
        address,
        port,
        kind,
        ..
    } = frontend;
    let remedy = match kind {
        ClusterIp => "give one of them another spec.clusterIP",
        ExternalIp => "remove the address from spec.externalIPs of one of them",
        LoadBalancer => "give one of them another load balancer's address, or another port",
        NodePort => "give one of them another nodePort",
    };
    match kind {
        NodePort => format!(
            "Service {service} is not served at node port {port}: Service {holder} has the same; {remedy}"
        ),
        _ => format!(
            "Service {service} is not served at {address} port {port}: Service {holder} has the same address and port; {remedy}"
        ),
    }
}

/// Who comes before others, whatever the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// The place is the Service's own: the API server gave it away once.
    Own,
    /// The Service only names it. One that named another's ClusterIP would take its clients away
    /// (CVE-2020-8554).
    Named,
}

impl From<FrontendKind> for Rank {
    fn from(kind: FrontendKind) -> Self {
        match kind {
            FrontendKind::ClusterIp | FrontendKind::NodePort => Self::Own,
            FrontendKind::LoadBalancer | FrontendKind::ExternalIp => Self::Named,
        }
    }
}

/// What Services want and only one can have: the first by rank, namespace and name.
#[derive(Debug)]
struct Claims<P, T>(BTreeMap<P, Vec<Claim<T>>>);

/// Who wants it.
#[derive(Debug)]
struct Claim<T> {
    rank: Rank,
    key: Arc<Key>,
    what: T,
}

impl<P, T> Default for Claims<P, T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<P: Ord, T> Claims<P, T> {
    /// Of one Service that wants a place twice the first stays.
    fn claim(&mut self, place: P, rank: Rank, key: &Arc<Key>, what: T) {
        let claims = self.0.entry(place).or_default();
        let order = |other: &Claim<T>| (other.rank, &other.key).cmp(&(rank, key));
        if let Err(at) = claims.binary_search_by(order) {
            let key = key.clone();
            claims.insert(at, Claim { rank, key, what });
        }
    }

    fn release(&mut self, place: &P, key: &Arc<Key>) {
        if let Some(claims) = self.0.get_mut(place) {
            claims.retain(|claim| claim.key != *key);
            if claims.is_empty() {
                self.0.remove(place);
            }
        }
    }

    /// Who has what, by place.
    fn first(&self) -> impl Iterator<Item = (&P, &T)> {
        let firsts = self.0.iter();
        firsts.filter_map(|(place, claims)| Some((place, &claims.first()?.what)))
    }

    /// Who has it, and each of those who have not.
    fn refused(&self) -> impl Iterator<Item = (&T, &T)> {
        self.0.values().flat_map(|claims| {
            let (first, others) = claims
                .split_first()
                .map_or((None, &[][..]), |(f, o)| (Some(f), o));
            let first = first.map(|first| &first.what);
            others
                .iter()
                .filter_map(move |other| Some((first?, &other.what)))
        })
    }
}
