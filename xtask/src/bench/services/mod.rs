//! What a new connection to a Service costs with 1, 1,000 and 10,000 of them, beside kube-proxy with
//! iptables and nftables, and how soon a change of an EndpointSlice is followed.
//!
//! One API server tells three nodes of the same Services: two of kube-proxy and one of Fairlead. A client
//! and a server are on each. The Service is another one in each round, the same for all paths; each path is
//! compared with connections to the server itself in the same round, so that what the machine does between
//! the steps falls out.

mod change;
mod report;
mod rig;

use crate::{lab::Session, lab::load::Load};
use anyhow::{Context, Result};
use rig::Rig;
use std::{path::Path, sync::Arc, time::Duration};

pub(super) use report::{draw, tables};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Numbers of Services, rising.
    pub(super) counts: &'static [u32],
    pub(super) rounds: u32,
    pub(super) time: Duration,
    /// Changes of an EndpointSlice.
    pub(super) changes: u32,
}

/// The figures.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Services {
    /// For each number of Services, each path's connections a second, one value a round.
    steps: Vec<Step>,
    /// From the request that changes an EndpointSlice to the first connection that follows it.
    changes: Vec<Changes>,
    /// Bytes of Fairlead's maps for Services, with the most of them.
    map_bytes: Vec<(String, u64)>,
    /// Resident memory of the agent then, in KiB.
    agent_kib: u64,
}

#[derive(Clone, Debug, serde::Serialize)]
struct Step {
    services: u32,
    paths: Vec<Rates>,
}

#[derive(Clone, Debug, serde::Serialize)]
struct Rates {
    path: &'static str,
    per_second: Vec<f64>,
}

#[derive(Clone, Debug, serde::Serialize)]
struct Changes {
    path: &'static str,
    millis: Vec<f64>,
}

/// Measures everything.
///
/// # Errors
/// When a part doesn't start or a connection fails.
pub(super) fn measure(
    session: &Arc<Session>,
    binaries: &Path,
    extent: Extent,
    say: &dyn Fn(&str),
) -> Result<Services> {
    let mut rig = Rig::new(session, binaries)?;
    let mut steps = Vec::new();
    let mut made = 0;
    for &services in extent.counts {
        rig.create(made, services)?;
        made = services;
        for (path, took) in rig.wait(services - 1)? {
            say(&format!(
                "{services} Services, {path} has them {took:.1} s after the last"
            ));
        }
        let mut paths: Vec<_> = rig::PATHS
            .into_iter()
            .map(|path| Rates {
                path: path.name(),
                per_second: Vec::new(),
            })
            .collect();
        for round in 0..extent.rounds {
            // Any but the ones that a walk over all would meet first or last.
            let service = (round * 7919 + services / 3) % services;
            let mut order: Vec<_> = (0..rig::PATHS.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let path = rig::PATHS[index];
                let run = rig
                    .run(path, service, Load::ConnectReset, extent.time)
                    .with_context(|| format!("{} with {services} Services", path.name()))?;
                paths[index].per_second.push(run.outcome.rate());
            }
        }
        say(&format!("{services} Services are measured"));
        steps.push(Step { services, paths });
    }
    let changes = change::measure(&mut rig, made, extent.changes)?;
    say("changes are measured");
    Ok(Services {
        steps,
        changes,
        map_bytes: rig.map_bytes()?,
        agent_kib: rig.agent_kib()?,
    })
}
