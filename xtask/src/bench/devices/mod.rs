//! Devices: 1,000 of them over 50 resources. How soon the kubelet has all, what Allocate and GetPreferredAllocation take
//! beside a bare gRPC server that answers the same calls from constants, how soon the kubelet is told of a device that
//! goes, and the agent's memory.
//!
//! The agent sees a /dev of its own, in a mount namespace of its own: the machine's is neither seen nor changed.

pub(super) mod bare;
mod calls;
mod changes;
mod kubelet;
mod report;
mod rig;
mod starts;

use crate::lab::Session;
use anyhow::Result;
use calls::Calls;
use changes::Told;
use rig::{Rig, Who};
use starts::Start;
use std::{path::Path, sync::Arc, time::Duration};

pub(super) use report::{draw, tables};

/// Half of the resources have few devices, the others many; a tenth of each goes and comes while calls are made.
const RESOURCES: usize = 50;
const FEW: usize = 10;
const MANY: usize = 30;
const DEVICES: usize = RESOURCES / 2 * (FEW + MANY);
/// Devices of the larger calls: those of the many that stay are more.
const AT_ONCE: usize = 20;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) rounds: u32,
    /// Of the calls of one kind in a round; twice as long while devices change.
    pub(super) time: Duration,
    pub(super) quick: bool,
}

/// The figures; all values are kept by rounds.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Devices {
    resources: usize,
    devices: usize,
    /// Whether the bare server and the asking side are as optimized as the agent.
    optimized: bool,
    memory: Vec<Memory>,
    starts: Vec<Start>,
    calls: Vec<Calls>,
    told: Vec<Told>,
}

/// What the agent has resident, and the most that it had since it began.
#[derive(Clone, Debug, serde::Serialize)]
struct Memory {
    when: &'static str,
    resident_kib: u64,
    peak_kib: u64,
}

/// How many devices a resource has.
fn size(resource: usize) -> usize {
    match resource.is_multiple_of(2) {
        true => MANY,
        false => FEW,
    }
}

/// The first of each resource are those that go.
fn leaves(resource: usize, device: usize) -> bool {
    device < size(resource) / 10
}

/// What pods would ask for.
fn name(resource: usize) -> String {
    format!("bench.fairlead.dev/r{resource:02}")
}

/// Measures everything.
///
/// # Errors
/// When something doesn't start, a call is refused, or the kubelet is not told.
pub(super) fn measure(
    session: &Arc<Session>,
    binaries: &Path,
    extent: Extent,
    say: &dyn Fn(&str),
) -> Result<Devices> {
    say(&format!("{DEVICES} devices over {RESOURCES} resources"));
    let mut rig = Rig::new(session, binaries)?;
    let mut memory = starts::memory(&mut rig)?;
    let mut starts = starts::KINDS.map(Start::new);
    let mut calls = calls::kinds();
    let mut told = changes::KINDS.map(Told::new);
    for round in 0..extent.rounds {
        say(&format!(
            "devices: round {} of {}",
            round + 1,
            extent.rounds
        ));
        let order = match round % 2 {
            0 => [Who::Agent, Who::Bare],
            _ => [Who::Bare, Who::Agent],
        };
        for start in &mut starts {
            start.measure(&mut rig, order)?;
        }
        for one in calls.iter_mut().filter(|one| !one.changing) {
            one.measure(&rig, order, extent)?;
        }
        for one in &mut told {
            one.measure(&rig, extent)?;
        }
        let churn = changes::Churn::start(&rig)?;
        for one in calls.iter_mut().filter(|one| one.changing) {
            one.measure(&rig, order, extent)?;
        }
        churn.end(&rig)?;
        if round + 1 == extent.rounds {
            memory.push(rig.memory("after a round's calls and changes")?);
        }
    }
    Ok(Devices {
        resources: RESOURCES,
        devices: DEVICES,
        optimized: !cfg!(debug_assertions),
        memory,
        starts: starts.into(),
        calls,
        told: told.into(),
    })
}
