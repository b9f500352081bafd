//! Who answers at one port of a Service, in one family. Compiling and explaining ask the same
//! question, [`Endpoints::unused`], so that what is told is what is done.

use crate::{
    model::{EndpointSlice, ServicePort, SliceEndpoint, SlicePort},
    state::Cluster,
};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The node that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Here<'a> {
    pub(super) node: &'a str,
    /// None if its Node has no such label, or is not there.
    pub(super) zone: Option<&'a str>,
}

impl<'a> Here<'a> {
    pub(super) fn of(cluster: &'a Cluster, node: &'a str) -> Self {
        let own = cluster.nodes.get(node);
        Self {
            node,
            zone: own.and_then(|own| own.zone.as_deref()),
        }
    }
}

/// Which endpoints may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Cluster,
    Local,
}

impl Policy {
    pub(super) fn local(local: bool) -> Self {
        if local { Self::Local } else { Self::Cluster }
    }
}

/// Which hints are followed; a policy `Local` follows none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Topology {
    #[default]
    Anywhere,
    /// Each ready endpoint has hints for zones, one of them for this node's.
    SameZone,
    /// Each ready endpoint has hints for nodes, one of them for this node.
    SameNode,
}

/// Why an endpoint does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Unused {
    NotReady,
    /// It ends, and others are ready, or it answers no more.
    Terminating,
    /// Its hints are for other zones.
    OtherZone,
    /// Its hints are for other nodes.
    OtherNode,
    /// It is not on this node, and the traffic policy is `Local`.
    NotLocal,
    /// The frontend's address is of the other family.
    WrongFamily,
    /// Its slice has no number for this port.
    NoPort,
}

/// An endpoint that has the port, of the right family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    at: SocketAddr,
    endpoint: &'a SliceEndpoint,
    local: bool,
}

/// All of them, and what follows from them together.
#[derive(Debug)]
pub(super) struct Endpoints<'a> {
    all: Vec<Candidate<'a>>,
    here: Here<'a>,
    topology: Topology,
    ready: Scope,
    ending: Scope,
}

/// Whether there are such endpoints.
#[derive(Clone, Copy, Debug, Default)]
struct Scope {
    anywhere: bool,
    local: bool,
}

impl Scope {
    fn of(self, policy: Policy) -> bool {
        match policy {
            Policy::Cluster => self.anywhere,
            Policy::Local => self.local,
        }
    }
}

/// An endpoint for a port and family: the candidate, or why it is none.
pub(super) fn candidate<'a>(
    slice: &EndpointSlice,
    endpoint: &'a SliceEndpoint,
    port: &ServicePort,
    v4: bool,
    here: Here<'_>,
) -> Result<Candidate<'a>, Unused> {
    if endpoint.address.is_ipv4() != v4 {
        return Err(Unused::WrongFamily);
    }
    let same = |p: &&SlicePort| p.name == port.name && p.protocol == port.protocol;
    let target = slice.ports.iter().find(same).ok_or(Unused::NoPort)?;
    Ok(Candidate {
        at: SocketAddr::new(endpoint.address, target.port),
        endpoint,
        local: endpoint.node.as_deref() == Some(here.node),
    })
}

impl<'a> Endpoints<'a> {
    pub(super) fn new(
        slices: &[&'a EndpointSlice],
        port: &ServicePort,
        v4: bool,
        here: Here<'a>,
    ) -> Self {
        let all: Vec<Candidate<'a>> = slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().map(move |e| (slice, e)))
            .filter_map(|(slice, e)| candidate(slice, e, port, v4, here).ok())
            .collect();
        let (mut ready, mut ending) = (Scope::default(), Scope::default());
        for candidate in &all {
            let scope = match candidate.endpoint {
                e if e.ready => &mut ready,
                e if e.serving && e.terminating => &mut ending,
                _ => continue,
            };
            scope.anywhere = true;
            scope.local |= candidate.local;
        }
        Self {
            topology: topology(&all, here),
            all,
            here,
            ready,
            ending,
        }
    }

    pub(super) fn topology(&self) -> Topology {
        self.topology
    }

    /// Whether other nodes may choose among others of them than this one.
    pub(super) fn has_hints(&self) -> bool {
        let hinted = |e: &SliceEndpoint| !e.node_hints().is_empty() || !e.zone_hints().is_empty();
        self.all.iter().any(|candidate| hinted(candidate.endpoint))
    }

    /// Whether somebody answers on any node.
    pub(super) fn anybody(&self) -> bool {
        self.ready.anywhere || self.ending.anywhere
    }

    /// Those that answer, by address, each once.
    pub(super) fn list(&self, policy: Policy) -> Vec<SocketAddr> {
        let used = self.all.iter().filter(|c| self.unused(c, policy).is_none());
        let mut list: Vec<SocketAddr> = used.map(|c| c.at).collect();
        list.sort_unstable();
        list.dedup();
        list
    }

    /// Why one of them does not answer; none: it does.
    pub(super) fn unused(&self, candidate: &Candidate<'_>, policy: Policy) -> Option<Unused> {
        let Candidate {
            endpoint, local, ..
        } = candidate;
        if policy == Policy::Local && !local {
            return Some(Unused::NotLocal);
        }
        // All of them end: those that still answer are better than none.
        let fallback = !self.ready.of(policy) && endpoint.serving && endpoint.terminating;
        if !endpoint.ready && !fallback {
            return Some(if endpoint.terminating {
                Unused::Terminating
            } else {
                Unused::NotReady
            });
        }
        match self.topology {
            _ if policy == Policy::Local || fallback => None,
            Topology::SameNode if !meant_for(endpoint.node_hints(), Some(self.here.node)) => {
                Some(Unused::OtherNode)
            }
            Topology::SameZone if !meant_for(endpoint.zone_hints(), self.here.zone) => {
                Some(Unused::OtherZone)
            }
            _ => None,
        }
    }
}

fn meant_for(hints: &[String], name: Option<&str>) -> bool {
    hints.iter().any(|hint| Some(hint.as_str()) == name)
}

/// Hints count only where all ready endpoints have them and one is for this node: otherwise the slices
/// are in the middle of a change, or nobody would be left.
fn topology(all: &[Candidate<'_>], here: Here<'_>) -> Topology {
    let by = |hints: fn(&SliceEndpoint) -> &[String], name| {
        let mut ready = all.iter().map(|c| c.endpoint).filter(|e| e.ready);
        let everywhere = ready.clone().all(|e| !hints(e).is_empty());
        everywhere && ready.any(|e| meant_for(hints(e), name))
    };
    if by(SliceEndpoint::node_hints, Some(here.node)) {
        Topology::SameNode
    } else if by(SliceEndpoint::zone_hints, here.zone) {
        Topology::SameZone
    } else {
        Topology::Anywhere
    }
}
