//! What a connection and a packet cost under policies of few and of many rules, beside the same rules in nftables
//! and iptables.
//!
//! Each path is a client and a server on one node of its own. The rule that lets the client in is the last one: a
//! walk over all meets it at the end. Both firewalls take packets of connections that go on first, as everybody
//! writes them. Before anything is measured, somebody whom no rule means is refused on each path that has rules.

mod report;
mod rig;
mod rules;

use crate::lab::{Session, load::Load};
use anyhow::{Context, Result};
use rig::Rig;
use std::{path::Path, sync::Arc, time::Duration};

pub(super) use report::{draw, tables};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Numbers of rules that are compared: few and many.
    pub(super) rules: [u32; 2],
    pub(super) rounds: u32,
    pub(super) time: Duration,
}

/// Bytes of a round trip.
const SMALL: u16 = 1;

/// The figures.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Policies {
    rules: [u32; 2],
    paths: Vec<Rates>,
    agents: Vec<Agents>,
    /// What `iptables` calls itself: which of its two backends it is.
    iptables: String,
}

/// An agent with some number of rules.
#[derive(Clone, Debug, serde::Serialize)]
struct Agents {
    rules: u32,
    /// From the manifests' last byte to the first connection that they let in, in milliseconds, one value for each
    /// time that they were written; nothing without rules.
    in_force_millis: Vec<f64>,
    /// Resident memory after all runs, in KiB.
    resident_kib: u64,
}

/// One path's rates, one value a round.
#[derive(Clone, Debug, serde::Serialize)]
struct Rates {
    path: String,
    /// Who judges.
    by: &'static str,
    rules: u32,
    connections: Vec<f64>,
    trips: Vec<f64>,
}

/// Measures everything.
///
/// # Errors
/// When a path can't be made, or a connection fails.
pub(super) fn measure(
    session: &Arc<Session>,
    binaries: &Path,
    extent: Extent,
    say: &dyn Fn(&str),
) -> Result<Policies> {
    let mut rig = Rig::new(session, binaries, extent.rules, say)?;
    let mut paths: Vec<Rates> = rig.rates();
    for round in 0..extent.rounds {
        let mut order: Vec<_> = (0..paths.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let mut rate = |load| -> Result<f64> {
                let run = rig.run(index, load, extent.time);
                let run = run.with_context(|| paths[index].path.clone())?;
                Ok(run.outcome.rate())
            };
            let connections = rate(Load::ConnectReset)?;
            let trips = rate(Load::RoundTrip { bytes: SMALL })?;
            paths[index].connections.push(connections);
            paths[index].trips.push(trips);
        }
    }
    Ok(Policies {
        rules: extent.rules,
        paths,
        agents: rig.agents()?,
        iptables: rig::iptables_version()?,
    })
}
