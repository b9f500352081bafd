//! Why a Service is served as it is: each of its frontends with every endpoint, and why those that don't
//! answer don't.

use super::{
    Frontend,
    compiler::{Rank, refusal},
    endpoints::{Endpoints, Here, Topology, Unused, candidate},
    table::{self, places, policies, table},
};
use crate::{
    model::{EndpointSlice, Service, ServicePort},
    state::Cluster,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A Service, explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `namespace/name`.
    pub service: String,
    pub frontends: Vec<ExplainedFrontend>,
    /// What of it is not in force, each with its remedy.
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedFrontend {
    pub frontend: Frontend,
    /// The Service that is served here instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
    /// Which hints are followed where no policy `Local` holds.
    pub topology: Topology,
    /// Of all slices, in their order.
    pub endpoints: Vec<ExplainedEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedEndpoint {
    pub address: IpAddr,
    /// Name of its EndpointSlice.
    pub slice: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Why it does not answer clients of the cluster; none: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal: Option<Unused>,
    /// Why it does not answer everybody else; none: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<Unused>,
}

/// Explains how a node serves a Service, by namespace and name; none if there is no such Service.
pub fn explain(cluster: &Cluster, node: &str, service: &(String, String)) -> Option<Explanation> {
    let here = Here::of(cluster, node);
    let wanted = cluster.services.get(service)?;
    let own = |s: &&EndpointSlice| s.namespace == wanted.namespace && s.service == wanted.name;
    let slices: Vec<&EndpointSlice> = cluster.slices.values().filter(own).collect();
    let compiled = table(wanted, &slices, here);
    let mut problems = compiled.problems;
    for entry in wanted.ingress.iter().filter(|entry| entry.proxy) {
        problems.push(format!(
            "{} of status.loadBalancer.ingress has ipMode Proxy: its load balancer sends to addresses of the nodes, and pods reach it by the network; nothing to do",
            entry.ip
        ));
    }
    let mut frontends = Vec::with_capacity(compiled.frontends.len());
    for frontend in compiled.frontends {
        let held_by = holder(cluster, wanted, &frontend);
        problems.extend(held_by.iter().map(|by| refusal(&frontend, by)));
        let (topology, endpoints) = endpoints(wanted, &frontend, &slices, here);
        frontends.push(ExplainedFrontend {
            held_by,
            topology,
            endpoints,
            frontend: (*frontend).clone(),
        });
    }
    Some(Explanation {
        service: table::name(wanted),
        frontends,
        problems,
    })
}

/// The first Service before this one that wants the same place.
fn holder(cluster: &Cluster, wanted: &Service, frontend: &Frontend) -> Option<String> {
    let key = |s: &Service| (s.namespace.clone(), s.name.clone());
    let own = key(wanted);
    let others = cluster.services.values().filter(|s| key(s) != own);
    let wants = |other: &Service| {
        let same = |p: &&ServicePort| p.protocol == frontend.protocol;
        let ports = || other.ports.iter().filter(same);
        let ips = other.cluster_ips.iter();
        let places = ips.flat_map(|ip| ports().flat_map(|port| places(other, *ip, port)));
        let there = places.filter(|(_, at, n)| (*at, *n) == (frontend.address, frontend.port));
        there.map(|(kind, ..)| Rank::from(kind)).min()
    };
    let claims = others.filter_map(|other| Some((wants(other)?, key(other), other)));
    let first = claims.min_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)))?;
    let before = (first.0, first.1) < (frontend.kind.into(), own);
    before.then(|| table::name(first.2))
}

fn endpoints(
    service: &Service,
    frontend: &Frontend,
    slices: &[&EndpointSlice],
    here: Here<'_>,
) -> (Topology, Vec<ExplainedEndpoint>) {
    let v4 = frontend.address.is_ipv4();
    let port = service
        .ports
        .iter()
        .find(|p| p.name == frontend.port_name && p.protocol == frontend.protocol);
    let Some(port) = port else {
        return (Topology::Anywhere, Vec::new());
    };
    let all = Endpoints::new(slices, port, v4, here);
    let (internal, external) = policies(service, frontend.kind);
    let explained = slices.iter().flat_map(|slice| {
        let all = &all;
        slice.endpoints.iter().map(move |endpoint| {
            let found = candidate(slice, endpoint, port, v4, here);
            let why = |policy| match &found {
                Ok(candidate) => all.unused(candidate, policy),
                Err(why) => Some(*why),
            };
            ExplainedEndpoint {
                address: endpoint.address,
                slice: slice.name.clone(),
                node: endpoint.node.clone(),
                zone: endpoint.zone.clone(),
                internal: why(internal),
                external: why(external),
            }
        })
    });
    let explained = explained.collect();
    (all.topology(), explained)
}
