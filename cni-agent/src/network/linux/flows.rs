//! Keeps what the programs tell of single packets for who asks, as long as somebody does, and puts names to it.

use super::{Linux, names::Names};
use crate::{
    datapath::{DropReason, EventReader, Happened, PacketEvent},
    network::{Network, kernel::KernelError},
    policy::Direction,
    query::{FlowRow, FlowVerdict, FlowsAnswer},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// Who asked once is told for so long.
const PATIENCE: Duration = Duration::from_secs(15);
/// An answer waits so long for something to tell.
const WAIT: Duration = Duration::from_secs(1);
/// The ring holds more than what may be told in this time.
const PAUSE: Duration = Duration::from_millis(20);
/// Events that wait for who asks; older ones are dropped first.
const KEPT: usize = 16_384;
/// Events of one answer.
const MOST: usize = 2_048;

/// What was told.
pub(super) struct Flows {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    buffer: Mutex<Buffer>,
    wanted: Notify,
    news: Notify,
}

struct Buffer {
    /// With their numbers, in order.
    events: VecDeque<(u64, Timestamp, PacketEvent)>,
    next: u64,
    until: Instant,
    lost: u64,
}

impl Shared {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flows {
    /// Must be called in a tokio runtime.
    pub(super) fn new(reader: EventReader) -> Self {
        let shared = Arc::new(Shared {
            buffer: Mutex::new(Buffer {
                events: VecDeque::new(),
                next: 0,
                until: Instant::now(),
                lost: 0,
            }),
            wanted: Notify::new(),
            news: Notify::new(),
        });
        let task = tokio::spawn(keep(reader, shared.clone()));
        Self { shared, task }
    }

    /// Those from this number on, once there are some or after a moment; `None`: from now on.
    async fn since(&self, from: Option<u64>) -> Told {
        {
            let mut buffer = self.shared.buffer();
            buffer.until = Instant::now() + PATIENCE;
        }
        self.shared.wanted.notify_one();
        let Some(from) = from else {
            let buffer = self.shared.buffer();
            return Told {
                next: buffer.next,
                lost: buffer.lost,
                ..Told::default()
            };
        };
        let mut news = pin!(self.shared.news.notified());
        // Before it is looked: what comes in between is noticed.
        news.as_mut().enable();
        if self.shared.buffer().next <= from {
            let _late = timeout(WAIT, news).await;
        }
        let buffer = self.shared.buffer();
        let first = buffer
            .events
            .front()
            .map_or(buffer.next, |(number, ..)| *number);
        let wanted = buffer.events.iter().filter(|(number, ..)| *number >= from);
        let events: Vec<_> = wanted.take(MOST).cloned().collect();
        Told {
            next: events
                .last()
                .map_or(from.max(first), |(number, ..)| number + 1),
            lost: buffer.lost,
            missed: first.saturating_sub(from),
            events,
        }
    }
}

#[derive(Default)]
struct Told {
    next: u64,
    lost: u64,
    missed: u64,
    events: Vec<(u64, Timestamp, PacketEvent)>,
}

async fn keep(mut reader: EventReader, shared: Arc<Shared>) {
    loop {
        shared.wanted.notified().await;
        let mut listening = None;
        loop {
            let until = shared.buffer().until;
            let now = Instant::now();
            let time = until.saturating_duration_since(now);
            if listening != Some(until) {
                if let Err(error) = reader.listen(time) {
                    tracing::warn!(%error, "packets are not told of");
                    break;
                }
                listening = Some(until);
            }
            take(&mut reader, &shared);
            if time.is_zero() {
                break;
            }
            sleep(PAUSE).await;
        }
    }
}

fn take(reader: &mut EventReader, shared: &Shared) {
    let events = reader.read();
    if events.is_empty() {
        return;
    }
    let now = Timestamp::now();
    let lost = reader.lost().unwrap_or_default();
    let mut buffer = shared.buffer();
    buffer.lost = lost;
    for event in events {
        let at = ago(now, event.age);
        let number = buffer.next;
        buffer.events.push_back((number, at, event));
        buffer.next += 1;
    }
    let over = buffer.events.len().saturating_sub(KEPT);
    buffer.events.drain(..over);
    drop(buffer);
    shared.news.notify_waiters();
}

/// When something was.
pub(super) fn ago(now: Timestamp, age: Duration) -> Timestamp {
    let age = SignedDuration::try_from(age).unwrap_or_default();
    now.checked_sub(age).unwrap_or(now)
}

impl Network<Linux> {
    /// What the programs told of single packets since an earlier answer; they tell while somebody asks.
    ///
    /// # Errors
    /// A map can't be read.
    pub async fn flows(&self, from: Option<u64>) -> Result<FlowsAnswer, KernelError> {
        let told = self.kernel.flows.since(from).await;
        if told.events.is_empty() {
            return Ok(FlowsAnswer {
                next: told.next,
                lost: told.lost,
                missed: told.missed,
                flows: Vec::new(),
            });
        }
        let known = self.known().await?;
        let mut names = known.names();
        let flows = (told.events.iter()).map(|(_, at, event)| names.row(at, event));
        Ok(FlowsAnswer {
            flows: flows.collect(),
            next: told.next,
            lost: told.lost,
            missed: told.missed,
        })
    }
}

impl Names<'_> {
    fn row(&mut self, at: &Timestamp, event: &PacketEvent) -> FlowRow {
        let (verdict, reason, direction) = match event.happened {
            Happened::Dropped(reason) => (FlowVerdict::Dropped, reason.name(), side(reason)),
            Happened::Audited(reason) => (FlowVerdict::Audited, reason.name(), side(reason)),
            Happened::Begins(direction) => (FlowVerdict::Allowed, "", Some(direction)),
        };
        let by_policy = direction.filter(|_| verdict != FlowVerdict::Allowed);
        let policies = by_policy
            .zip(event.ends)
            .map(|(direction, ends)| self.policies(direction, &ends));
        FlowRow {
            at: format!("{at:.3}"),
            verdict,
            reason: reason.to_owned(),
            direction: direction
                .map_or_else(String::new, |direction| direction.as_str().to_owned()),
            ends: event.ends.map(|ends| self.ends(&ends)),
            length: event.length,
            seen_by: self.seen_by(event.ifindex),
            policies: policies.unwrap_or_default(),
        }
    }
}

/// Whose rules a drop by policy was asked of.
const fn side(reason: DropReason) -> Option<Direction> {
    match reason {
        DropReason::PolicyIngress => Some(Direction::Ingress),
        DropReason::PolicyEgress => Some(Direction::Egress),
        _ => None,
    }
}
