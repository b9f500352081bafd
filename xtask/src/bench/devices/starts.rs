//! How soon the kubelet has all resources with all devices: after a start of the agent, the first one and another, and
//! after a start of the kubelet. And what the agent has resident then.

use super::{
    Memory,
    rig::{Rig, Who},
};
use anyhow::Result;
use serde::Serialize;
use std::{thread, time::Duration};

/// Between the kubelet's end and its start, about what a real one takes.
const GAP: Duration = Duration::from_secs(1);
/// After which nothing of a start goes on any more.
const SETTLE: Duration = Duration::from_secs(1);

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Kind {
    First,
    Again,
    Kubelet,
}

/// In the order that they are measured.
pub(super) const KINDS: [Kind; 3] = [Kind::First, Kind::Again, Kind::Kubelet];

impl Kind {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::First => "the agent's first start",
            Self::Again => "another start of the agent",
            Self::Kubelet => "a start of the kubelet",
        }
    }
}

/// Times of one kind, one a round, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Start {
    pub(super) kind: Kind,
    /// Until all devices of all resources are listed.
    pub(super) ours_ms: Vec<f64>,
    pub(super) bare_ms: Vec<f64>,
    /// For each resource, from its call of Register to its first list.
    pub(super) each_ours_ms: Vec<Vec<f64>>,
    pub(super) each_bare_ms: Vec<Vec<f64>>,
}

impl Start {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            ours_ms: Vec::new(),
            bare_ms: Vec::new(),
            each_ours_ms: Vec::new(),
            each_bare_ms: Vec::new(),
        }
    }

    /// One round of both; they go on serving.
    pub(super) fn measure(&mut self, rig: &mut Rig, order: [Who; 2]) -> Result<()> {
        for who in order {
            let begin = match (self.kind, who) {
                // The bare server registers once.
                (Kind::Kubelet, Who::Bare) => continue,
                (Kind::Kubelet, Who::Agent) => rig.restart_kubelet(who, GAP)?,
                (kind, _) => rig.start(who, kind == Kind::First)?,
            };
            let known = rig.whole(who)?;
            let told = known.values().map(|plugin| plugin.told - begin).max();
            let each = known
                .values()
                .filter_map(|plugin| Some(ms(plugin.listed? - plugin.asked)));
            let (all, of_each) = match who {
                Who::Agent => (&mut self.ours_ms, &mut self.each_ours_ms),
                Who::Bare => (&mut self.bare_ms, &mut self.each_bare_ms),
            };
            all.extend(told.map(ms));
            of_each.push(each.collect());
        }
        Ok(())
    }
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// An agent without resources, which then gets all of them.
pub(super) fn memory(rig: &mut Rig) -> Result<Vec<Memory>> {
    rig.start(Who::Agent, true)?;
    thread::sleep(SETTLE);
    let before = rig.memory("without resources")?;
    rig.configure()?;
    rig.whole(Who::Agent)?;
    thread::sleep(SETTLE);
    Ok(vec![before, rig.memory("with all of them")?])
}
