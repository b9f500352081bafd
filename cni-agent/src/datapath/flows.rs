//! Forgets flows that are over, and what is bound to backends that are gone. The kernel would only do it
//! when the map is full, and then by age: an idle connection would go before one that has just ended.

use super::{
    DatapathError,
    maps::{all, gone, open},
    pins::Pins,
};
use aya::maps::{HashMap as Rows, MapData};
use cni_ebpf_common::{
    addr::Addr,
    flow::{Flow, FlowKey, MAX_FLOWS, TAKEN_IDLE_NS, UDP, UDP_IDLE_NS, idle_ns},
    service::{Affinity, AffinityKey, Backend, FrontendKey, MAX_AFFINITY},
};
use rustix::time::{ClockId, clock_gettime};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

const FLOWS: &str = "flows";
const AFFINITY: &str = "affinity";
/// How long an ended connection is remembered: its last packets may still be under way, as long as in
/// TIME_WAIT.
const ENDED_NS: u64 = 120_000_000_000;

/// What flows are judged by.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// Addresses of this node's pods.
    pub(super) pods: HashSet<Addr>,
    /// Frontends with their backends; none while that is not known.
    pub(super) frontends: Option<BTreeMap<FrontendKey, BTreeSet<Backend>>>,
}

/// Removes the rows of flows that are over; returns how many. By a descriptor of its own: walking
/// thousands of rows must not hold up an ADD.
pub(super) fn sweep(pins: &Pins, present: &Present) -> Result<usize, DatapathError> {
    let mut removed = 0;
    if let Some(frontends) = &present.frontends {
        // First, or a flow that chooses anew would find its old backend here.
        removed += sweep_affinity(pins, frontends)?;
    }
    let mut flows: Rows<MapData, FlowKey, Flow> = open(pins, FLOWS)?;
    // The programs add and evict meanwhile, which may lead the iteration back to its start.
    let most = 2 * MAX_FLOWS as usize;
    let rows: HashMap<_, _> = all(flows.iter().take(most), FLOWS)?.into_iter().collect();
    let now_ns = now_ns();
    for key in over(&rows, present, now_ns) {
        // Seen again in between: it stays.
        if flows.get(&key, 0).ok() == rows.get(&key).copied() {
            gone(flows.remove(&key), FLOWS)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The clock of the programs, in nanoseconds.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// Clients keep no backend that is none any more.
fn sweep_affinity(
    pins: &Pins,
    frontends: &BTreeMap<FrontendKey, BTreeSet<Backend>>,
) -> Result<usize, DatapathError> {
    let mut clients: Rows<MapData, AffinityKey, Affinity> = open(pins, AFFINITY)?;
    let most = 2 * MAX_AFFINITY as usize;
    let mut removed = 0;
    for (key, row) in all(clients.iter().take(most), AFFINITY)? {
        if !answers_for(frontends, &key.frontend, &row.backend) {
            gone(clients.remove(&key), AFFINITY)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// PURE: whether a backend is one of a frontend's.
fn answers_for(
    frontends: &BTreeMap<FrontendKey, BTreeSet<Backend>>,
    frontend: &FrontendKey,
    backend: &Backend,
) -> bool {
    let backends = frontends.get(frontend);
    backends.is_some_and(|backends| backends.contains(backend))
}

/// PURE: the rows that nobody needs any more, both of a flow together.
fn over(rows: &HashMap<FlowKey, Flow>, present: &Present, now_ns: u64) -> Vec<FlowKey> {
    let mut over = Vec::new();
    let mut paired = HashSet::new();
    for (key, row) in rows
        .iter()
        .filter(|(_, row)| row.flags & Flow::TO_BACKEND != 0)
    {
        let answers = other(key, row);
        let own = |flow: &&Flow| flow.flags & Flow::ANSWER != 0 && other(&answers, flow) == *key;
        let answer = rows.get(&answers).filter(own);
        if answer.is_some() {
            paired.insert(answers);
        }
        let both = |answer: &Flow| Flow {
            closing: row.closing | answer.closing,
            seen_ns: row.seen_ns.max(answer.seen_ns),
            ..*row
        };
        let whole = answer.map_or(*row, both);
        if is_over(key.protocol, &whole, key.src, present, now_ns) || lost(key, row, present) {
            over.push(*key);
            over.extend(answer.map(|_| answers));
        }
    }
    for (key, row) in rows
        .iter()
        .filter(|(_, row)| row.flags & Flow::TO_BACKEND == 0)
    {
        // The client of an answer; the pod that answers by the stack.
        let pod = if row.flags & Flow::ANSWER == 0 {
            key.src
        } else {
            key.dst
        };
        if !paired.contains(key) && is_over(key.protocol, row, pod, present, now_ns) {
            over.push(*key);
        }
    }
    over
}

fn is_over(protocol: u8, row: &Flow, pod: Addr, present: &Present, now_ns: u64) -> bool {
    let idle = idle_ns(row.seen_ns, now_ns);
    // A pod that is its own client has the frontend's address in one of the rows; a client outside is no pod.
    let gone = row.flags & (Flow::HAIRPIN | Flow::OUTSIDE) == 0 && !present.pods.contains(&pod);
    let ended = gone || row.closing != 0;
    ended && idle > ENDED_NS || protocol == UDP && idle > UDP_IDLE_NS || idle > TAKEN_IDLE_NS
}

/// Whether a UDP flow's backend is none any more: nobody would tell its client to begin anew.
fn lost(key: &FlowKey, row: &Flow, present: &Present) -> bool {
    let Some(frontends) = &present.frontends else {
        return false;
    };
    let frontend = FrontendKey {
        addr: key.dst,
        port_be: key.dport_be,
        protocol: key.protocol,
        pad: 0,
    };
    let backend = Backend {
        addr: row.dst,
        port_be: row.dport_be,
        pad: 0,
    };
    key.protocol == UDP && !answers_for(frontends, &frontend, &backend)
}

/// The key of a flow's other direction.
fn other(key: &FlowKey, row: &Flow) -> FlowKey {
    FlowKey {
        src: row.dst,
        dst: row.src,
        sport_be: row.dport_be,
        dport_be: row.sport_be,
        ..*key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_ebpf_common::flow::TCP;

    const CLIENT: Addr = [1; 16];
    const SERVICE: Addr = [2; 16];
    const BACKEND: Addr = [3; 16];
    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000_000 * SECOND;

    fn key(protocol: u8) -> FlowKey {
        FlowKey {
            src: CLIENT,
            dst: SERVICE,
            sport_be: 7,
            dport_be: 80,
            protocol,
            pad: [0; 3],
        }
    }

    fn row(flags: u16, closing: u8, to: FlowKey, idle_secs: u64) -> Flow {
        Flow {
            seen_ns: NOW - idle_secs * SECOND,
            src: to.src,
            dst: to.dst,
            sport_be: to.sport_be,
            dport_be: to.dport_be,
            flags,
            closing,
            by_stack: 0,
            ifindex: 0,
            pad: 0,
        }
    }

    fn reversed(key: FlowKey) -> FlowKey {
        FlowKey {
            src: key.dst,
            dst: key.src,
            sport_be: key.dport_be,
            dport_be: key.sport_be,
            ..key
        }
    }

    /// A flow of the client, both rows, idle for so many seconds in each direction.
    fn flow(protocol: u8, closing: u8, there: u64, back: u64) -> HashMap<FlowKey, Flow> {
        let key = key(protocol);
        let translated = FlowKey {
            dst: BACKEND,
            dport_be: 8080,
            ..key
        };
        let to = row(Flow::TO_BACKEND, closing, translated, there);
        let from = row(Flow::ANSWER, closing, reversed(key), back);
        HashMap::from([(key, to), (reversed(translated), from)])
    }

    fn present() -> Present {
        let key = FrontendKey {
            addr: SERVICE,
            port_be: 80,
            protocol: UDP,
            pad: 0,
        };
        let backend = Backend {
            addr: BACKEND,
            port_be: 8080,
            pad: 0,
        };
        Present {
            pods: HashSet::from([CLIENT]),
            frontends: Some(BTreeMap::from([(key, BTreeSet::from([backend]))])),
        }
    }

    #[test]
    fn a_flow_goes_with_both_rows_once_it_is_over_and_not_before() {
        let closing = 1;
        for (what, rows, gone) in [
            ("an idle connection", flow(TCP, 0, 7200, 7200), false),
            ("one that has ended", flow(TCP, closing, 121, 121), true),
            (
                "one that has just ended",
                flow(TCP, closing, 119, 500),
                false,
            ),
            (
                "a server that only sends",
                flow(TCP, closing, 9000, 3),
                false,
            ),
            ("without keep-alive", flow(TCP, 0, 10_801, 10_801), true),
            ("idle datagrams", flow(UDP, 0, 121, 121), true),
            ("datagrams one way", flow(UDP, 0, 500, 1), false),
        ] {
            let over = over(&rows, &present(), NOW);
            assert_eq!(over.len(), if gone { 2 } else { 0 }, "{what}");
        }
    }

    #[test]
    fn what_a_pod_that_is_gone_had_goes_and_a_new_one_starts_clean() {
        let gone = Present {
            pods: HashSet::new(),
            ..present()
        };
        assert_eq!(over(&flow(TCP, 0, 121, 121), &gone, NOW).len(), 2);
        assert_eq!(over(&flow(TCP, 0, 1, 1), &gone, NOW).len(), 0);
        // A row of answers that lost its other one.
        let mut half = flow(TCP, 0, 121, 121);
        half.remove(&key(TCP));
        assert_eq!(over(&half, &gone, NOW).len(), 1);
        assert_eq!(over(&half, &present(), NOW).len(), 0);
    }

    #[test]
    fn datagrams_to_a_backend_that_is_none_any_more_choose_anew() {
        let mut present = present();
        let rows = flow(UDP, 0, 1, 1);
        assert_eq!(over(&rows, &present, NOW).len(), 0);
        present.frontends = Some(BTreeMap::new());
        assert_eq!(over(&rows, &present, NOW).len(), 2);
        assert_eq!(over(&flow(TCP, 0, 1, 1), &present, NOW).len(), 0);
        present.frontends = None;
        assert_eq!(over(&rows, &present, NOW).len(), 0);
    }
}
