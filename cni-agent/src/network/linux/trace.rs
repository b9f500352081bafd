//! Follows packets through the programs for who asks, as long as somebody does, and puts names to it. One at a
//! time: each has the programs of every link replaced.

use super::{Linux, blocking, fault, flows::ago, names::Names, policies::not_found};
use crate::{
    cni::CniError,
    datapath::{
        Datapath, Judgement, PacketEnds, TraceReader, TraceScope, TracedAction, TracedStep,
        TracedWalk,
    },
    network::{
        Network,
        kernel::KernelError,
        policy_ends::{Meant, find},
    },
    query::{Outcome, Said, TraceAnswer, TraceQuestion, WalkRow, WalkStep},
    state::Cluster,
};
use k8s_openapi::jiff::Timestamp;
use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until},
};

/// Who asked once is told for so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer waits so long for something to tell.
const WAIT: Duration = Duration::from_secs(1);
/// The ring holds more than a thousand ways.
const PAUSE: Duration = Duration::from_millis(20);

/// The trace that is on, if one is.
#[derive(Clone, Default)]
pub(super) struct Traces(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The last number that was given.
    last: u64,
    on: Option<On>,
}

struct On {
    trace: u64,
    reader: TraceReader,
    until: Instant,
}

impl Traces {
    /// Begins one; whoever asked may be gone before it has.
    async fn begin(&self, datapath: Arc<Datapath>, scope: TraceScope) -> Result<u64, KernelError> {
        let traces = self.clone();
        let begun = tokio::spawn(async move {
            let mut state = traces.0.lock().await;
            let loaded = datapath.clone();
            let reader = blocking(move || loaded.start_trace(&scope).map_err(fault)).await?;
            state.last += 1;
            let trace = state.last;
            state.on = Some(On {
                trace,
                reader,
                until: Instant::now() + PATIENCE,
            });
            tokio::spawn(traces.clone().watch(datapath, trace));
            Ok(trace)
        });
        begun.await.map_err(fault)?
    }

    /// Ends it when nobody has asked for long.
    async fn watch(self, datapath: Arc<Datapath>, trace: u64) {
        loop {
            let until = match &self.0.lock().await.on {
                Some(on) if on.trace == trace => on.until,
                _ => return,
            };
            if until <= Instant::now() {
                break;
            }
            sleep_until(until).await;
        }
        if let Err(error) = self.end(datapath, trace).await {
            tracing::warn!(%error, "the programs of a trace go on; reconciling puts the usual ones back");
        }
    }

    /// Ends it. One that has ended already is none.
    async fn end(&self, datapath: Arc<Datapath>, trace: u64) -> Result<(), KernelError> {
        let mut state = self.0.lock().await;
        if state.on.take_if(|on| on.trace == trace).is_some() {
            blocking(move || datapath.end_trace().map_err(fault)).await?;
        }
        Ok(())
    }

    /// What is new, once there is something or after a moment; none: it has ended.
    async fn more(&self, trace: u64) -> Result<Option<(Vec<TracedWalk>, u64)>, KernelError> {
        let end = Instant::now() + WAIT;
        loop {
            let mut state = self.0.lock().await;
            let Some(on) = state.on.as_mut().filter(|on| on.trace == trace) else {
                return Ok(None);
            };
            on.until = Instant::now() + PATIENCE;
            let walks = on.reader.read();
            if !walks.is_empty() || Instant::now() >= end {
                return Ok(Some((walks, on.reader.lost().map_err(fault)?)));
            }
            drop(state);
            sleep(PAUSE).await;
        }
    }
}

impl Network<Linux> {
    /// Follows packets on this node, or tells what is new of those that are followed.
    ///
    /// # Errors
    /// An end is nobody; somebody else traces; the trace has ended; the kernel refuses.
    pub async fn trace(&self, asked: TraceQuestion) -> Result<TraceAnswer, CniError> {
        let kernel = |error: KernelError| CniError::kernel(&error);
        let (traces, datapath) = (&self.kernel.traces, self.kernel.datapath.clone());
        match asked {
            TraceQuestion::Begin { from, to } => {
                let scope = self.scope(&from, to.as_deref())?;
                let trace = traces.begin(datapath, scope).await.map_err(kernel)?;
                Ok(TraceAnswer {
                    trace,
                    ..TraceAnswer::default()
                })
            }
            TraceQuestion::More { trace } => {
                let (walks, lost) = traces.more(trace).await.map_err(kernel)?.ok_or_else(|| {
                    CniError::try_again("the trace has ended, since nobody asked; begin anew")
                })?;
                let known = self.known().await.map_err(kernel)?;
                let (mut names, now) = (known.names(), Timestamp::now());
                let walks = walks.iter().map(|walk| row(&mut names, now, walk));
                Ok(TraceAnswer {
                    trace,
                    lost,
                    walks: walks.collect(),
                })
            }
            TraceQuestion::End { trace } => {
                traces.end(datapath, trace).await.map_err(kernel)?;
                Ok(TraceAnswer {
                    trace,
                    ..TraceAnswer::default()
                })
            }
        }
    }

    /// The addresses of both ends; of a Service also its backends'.
    fn scope(&self, from: &str, to: Option<&str>) -> Result<TraceScope, CniError> {
        let cluster = self.cluster.borrow().clone();
        let meant = |end, words: &str| {
            find(&cluster, words)
                .map(|meant| self.addresses(&cluster, meant))
                .map_err(|error| not_found(end, &error))
        };
        Ok(TraceScope {
            first: meant("FROM", from)?,
            second: to.map(|to| meant("TO", to)).transpose()?,
        })
    }

    fn addresses(&self, cluster: &Cluster, meant: Meant) -> Vec<IpAddr> {
        let mut all: BTreeSet<IpAddr> = meant.addresses.into_iter().collect();
        let mut of_services = cluster
            .services
            .values()
            .map(|service| &service.cluster_ips);
        if of_services.any(|ips| ips.iter().any(|ip| all.contains(ip))) {
            let desired = self.view().desired;
            let frontends = desired.iter().flat_map(|desired| &desired.frontends);
            let backends: Vec<IpAddr> = frontends
                .filter(|frontend| all.contains(&frontend.address))
                .flat_map(|frontend| frontend.internal.iter().chain(&frontend.external))
                .map(|backend| backend.ip())
                .collect();
            all.extend(backends);
        }
        all.into_iter().collect()
    }
}

fn row(names: &mut Names<'_>, now: Timestamp, walk: &TracedWalk) -> WalkRow {
    let mut ends = walk.ends;
    let steps = walk.steps.iter().map(|told| step(names, &mut ends, told));
    let steps = steps.collect();
    WalkRow {
        at: format!("{:.3}", ago(now, walk.age)),
        program: walk.program.to_owned(),
        seen_by: names.seen_by(walk.ifindex),
        ends: walk.ends.map(|ends| names.ends(&ends)),
        flags: walk.flags.clone(),
        length: walk.length,
        steps,
        cut: walk.cut,
        outcome: match walk.action {
            TracedAction::Stack => Outcome::Stack,
            TracedAction::Dropped => Outcome::Dropped,
            TracedAction::Redirected => Outcome::Redirected,
        },
    }
}

/// `ends`: those that the packet has by now.
fn step(names: &mut Names<'_>, ends: &mut Option<PacketEnds>, step: &TracedStep) -> WalkStep {
    match *step {
        TracedStep::Balanced { new } => WalkStep::Balanced { new },
        TracedStep::Rewritten {
            source,
            destination,
        } => {
            let now = PacketEnds {
                source,
                destination,
                protocol: ends.map_or(0, |ends| ends.protocol),
            };
            *ends = Some(now);
            WalkStep::Rewritten(names.ends(&now))
        }
        TracedStep::Judged {
            endpoint,
            direction,
            said,
        } => {
            let said = said_of(said);
            let begins = matches!(said, Said::Begins | Said::Audited | Said::Denied);
            let asked = ends.filter(|_| begins);
            WalkStep::Judged {
                pod: names.endpoint(endpoint),
                direction: direction.as_str().to_owned(),
                said,
                policies: asked.map_or_else(Vec::new, |ends| names.policies(direction, &ends)),
            }
        }
        TracedStep::ByStack => WalkStep::ByStack,
        TracedStep::Path(path) => WalkStep::Path {
            path: path.name().to_owned(),
        },
        TracedStep::Dropped(reason) => WalkStep::Dropped {
            reason: reason.name().to_owned(),
        },
    }
}

const fn said_of(judgement: Judgement) -> Said {
    match judgement {
        Judgement::NotAsked => Said::NotAsked,
        Judgement::Known => Said::Known,
        Judgement::Begins => Said::Begins,
        Judgement::Audited => Said::Audited,
        Judgement::Denied => Said::Denied,
        Judgement::NotKnown => Said::NotKnown,
    }
}
