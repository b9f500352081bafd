//! Keeps what the programs tell of single packets for who asks, as long as somebody does, and puts names to it.

use super::{Linux, blocking, fault, policy_plan::protocol};
use crate::{
    datapath::{DropReason, EventReader, Happened, PacketEnds, PacketEvent},
    model::Endpoint,
    network::{Network, kernel::KernelError, policies::local},
    policy::{Because, Direction, Explanation, Port, explain},
    query::{End, FlowEnds, FlowRow, FlowVerdict, FlowsAnswer},
    state::Cluster,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
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
/// Explanations of one answer: those of other packets name no policy.
const MOST_EXPLAINED: usize = 256;

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
        let age = SignedDuration::try_from(event.age).unwrap_or_default();
        let at = now.checked_sub(age).unwrap_or(now);
        let number = buffer.next;
        buffer.events.push_back((number, at, event));
        buffer.next += 1;
    }
    let over = buffer.events.len().saturating_sub(KEPT);
    buffer.events.drain(..over);
    drop(buffer);
    shared.news.notify_waiters();
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
        let datapath = self.kernel.datapath.clone();
        let rows = blocking(move || datapath.endpoints().map_err(fault)).await?;
        let endpoints = self.book.list();
        let cluster = self.cluster.borrow().clone();
        let mut names = Names {
            pods: by_address(&cluster),
            cluster: &cluster,
            node: &self.config.node_name,
            endpoints: &endpoints,
            interfaces: rows
                .iter()
                .map(|(ifindex, row)| (*ifindex, row.id))
                .collect(),
            explained: HashMap::new(),
        };
        let uplinks = self.view().desired.map(|desired| desired.uplinks.clone());
        let flows = told.events.iter().map(|(_, at, event)| {
            let mut row = names.row(at, event);
            let uplink = uplinks
                .iter()
                .flatten()
                .find(|uplink| uplink.ifindex == event.ifindex);
            if let Some(uplink) = uplink {
                row.seen_by = format!("uplink {}", uplink.name);
            }
            row
        });
        Ok(FlowsAnswer {
            flows: flows.collect(),
            next: told.next,
            lost: told.lost,
            missed: told.missed,
        })
    }
}

type Asked = (u32, Direction, IpAddr, String);

/// Puts names to addresses and numbers.
struct Names<'a> {
    cluster: &'a Cluster,
    node: &'a str,
    endpoints: &'a [Endpoint],
    /// Endpoints' numbers by interface.
    interfaces: BTreeMap<u32, u32>,
    pods: HashMap<IpAddr, End>,
    explained: HashMap<Asked, Vec<String>>,
}

/// Everybody with a name.
fn by_address(cluster: &Cluster) -> HashMap<IpAddr, End> {
    let mut all = HashMap::new();
    let mut put =
        |name: String, addresses: &mut dyn Iterator<Item = &IpAddr>, node: Option<&String>| {
            for address in addresses {
                let end = End {
                    name: name.clone(),
                    address: *address,
                    node: node.cloned(),
                };
                all.insert(*address, end);
            }
        };
    for service in cluster.services.values() {
        let name = format!("service {}/{}", service.namespace, service.name);
        put(name, &mut service.cluster_ips.iter(), None);
    }
    for node in cluster.nodes.values() {
        let mut addresses = node.addresses.iter().chain(&node.further_addresses);
        put(format!("node {}", node.name), &mut addresses, None);
    }
    for pod in cluster.pods.values().filter(|pod| !pod.host_network) {
        let name = format!("pod {}/{}", pod.namespace, pod.name);
        put(name, &mut pod.ips.iter(), pod.node.as_ref());
    }
    all
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

    fn seen_by(&self, ifindex: u32) -> String {
        let id = self.interfaces.get(&ifindex);
        let endpoint = id.and_then(|id| self.endpoints.iter().find(|e| e.id == *id));
        match endpoint.and_then(|endpoint| endpoint.pod.as_ref()) {
            Some(pod) => format!("pod {}/{}", pod.namespace, pod.name),
            None => format!("interface {ifindex}"),
        }
    }

    fn end(&self, address: IpAddr) -> End {
        let known = self.pods.get(&address).cloned();
        known.unwrap_or_else(|| End {
            name: String::new(),
            address,
            node: None,
        })
    }

    fn ends(&self, ends: &PacketEnds) -> FlowEnds {
        FlowEnds {
            from: self.end(ends.source.ip()),
            from_port: ends.source.port(),
            to: self.end(ends.destination.ip()),
            to_port: ends.destination.port(),
            protocol: protocol_name(ends.protocol),
        }
    }

    /// Which policies say so, as `fairlead policy explain` has it.
    fn policies(&mut self, direction: Direction, ends: &PacketEnds) -> Vec<String> {
        let (own, peer) = match direction {
            Direction::Ingress => (ends.destination, ends.source),
            Direction::Egress => (ends.source, ends.destination),
        };
        let has = |endpoint: &&Endpoint| endpoint.addresses.iter().any(|a| a == own.ip());
        let Some(endpoint) = self.endpoints.iter().find(has) else {
            return Vec::new();
        };
        let port = match protocol(ends.protocol) {
            Some(protocol) => Port::Of(protocol, ends.destination.port()),
            None => Port::None,
        };
        let asked = (endpoint.id, direction, peer.ip(), port.to_string());
        if let Some(known) = self.explained.get(&asked) {
            return known.clone();
        }
        if self.explained.len() >= MOST_EXPLAINED {
            return Vec::new();
        }
        let pod = local(endpoint);
        let said = explain(self.cluster, self.node, &pod, direction, peer.ip(), port);
        let policies = deciders(&said);
        self.explained.insert(asked, policies.clone());
        policies
    }
}

/// The rule that denies, or the policies that select the pod and allow something else.
fn deciders(said: &Explanation) -> Vec<String> {
    let mut policies: Vec<String> = match said.because {
        Because::Rule => {
            let decides = said.rules.iter().rfind(|rule| rule.decides);
            let named = decides.map(|rule| format!("{} {}", rule.object, rule.rule));
            named.into_iter().collect()
        }
        Because::NoRule => {
            let own = said
                .rules
                .iter()
                .filter(|rule| rule.tier == "NetworkPolicy");
            own.map(|rule| rule.object.clone()).collect()
        }
        Because::NoPolicy | Because::OwnNode | Because::NotKnown => Vec::new(),
    };
    policies.dedup();
    policies
}

/// Whose rules a drop by policy was asked of.
const fn side(reason: DropReason) -> Option<Direction> {
    match reason {
        DropReason::PolicyIngress => Some(Direction::Ingress),
        DropReason::PolicyEgress => Some(Direction::Egress),
        _ => None,
    }
}

fn protocol_name(number: u8) -> String {
    match (protocol(number), number) {
        (Some(protocol), _) => protocol.as_str().to_owned(),
        (None, 1 | 58) => "ICMP".to_owned(),
        (None, other) => other.to_string(),
    }
}
