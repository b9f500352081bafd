//! Writes what policies allow, in the order of a [`Plan`], by descriptors of its own: thousands of rows
//! must not hold up an ADD.

mod connections;

pub use connections::ConnectionRow;

use super::{
    Datapath, DatapathError,
    grace::Expedited,
    loader::CONNECTIONS_OF,
    maps::{all, gone, open, write},
    pins::Pins,
    rows::{addr_of, ip_of},
};
use crate::{
    model::Protocol,
    policy::{Direction, EndpointPolicy, Plan, PortSet, Start, Tables},
};
use aya::maps::{Array, HashMap, HashOfMaps, LpmTrie, MapData, MapError, lpm_trie::Key};
use cni_ebpf_common::{
    addr::V4_PREFIX_BITS,
    endpoint::MAX_ENDPOINTS,
    flow::{SCTP, TCP, UDP},
    policy::{
        BlockKey, CHUNK_PORTS, EndpointPolicy as PolicyRow, MAX_BLOCKS, MAX_PEERS, MAX_PORT_CHUNKS,
        MAX_VERDICTS, Peer, PeerKey, PolicySettings, PortsChunk, PortsKey, SCOPE_BITS,
        Verdict as VerdictRow, VerdictKey as VerdictRowKey, protocol_bit, scope, word_of,
    },
};
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::PoisonError,
};

const SETTINGS: &str = "policy_settings";
const ENDPOINTS: &str = "endpoint_policies";
const PEERS: &str = "peers";
const BLOCKS: &str = "peer_blocks";
const VERDICTS: &str = "verdicts";
const PORTS: &str = "port_sets";

/// The open maps.
pub(super) struct Policies {
    settings: Array<MapData, PolicySettings>,
    endpoints: HashMap<MapData, u32, PolicyRow>,
    peers: HashMap<MapData, PeerKey, Peer>,
    blocks: LpmTrie<MapData, BlockKey, Peer>,
    verdicts: HashMap<MapData, VerdictRowKey, VerdictRow>,
    ports: HashMap<MapData, PortsKey, PortsChunk>,
    connections: HashOfMaps<MapData, u32, MapData>,
    /// A change leaves connections alone that have begun.
    keeps: bool,
}

impl Policies {
    pub(super) fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            settings: open(pins, SETTINGS)?,
            endpoints: open(pins, ENDPOINTS)?,
            peers: open(pins, PEERS)?,
            blocks: open(pins, BLOCKS)?,
            verdicts: open(pins, VERDICTS)?,
            ports: open(pins, PORTS)?,
            connections: open(pins, CONNECTIONS_OF)?,
            keeps: false,
        })
    }

    fn settings(&self) -> Result<PolicySettings, DatapathError> {
        self.settings
            .get(&0, 0)
            .map_err(|source| DatapathError::Map {
                action: "read",
                map: SETTINGS,
                source,
            })
    }

    /// Has everything that is remembered asked anew, unless that is kept, and packets judged from now on.
    fn begin_epoch(&mut self, enforce: bool) -> Result<(), DatapathError> {
        let before = self.settings()?;
        let row = PolicySettings {
            flags: if enforce { PolicySettings::ENFORCE } else { 0 },
            epoch: before.epoch.wrapping_add(u32::from(!self.keeps)),
        };
        write(self.settings.set(0, row, 0), SETTINGS, 1)
    }

    /// What is asked of an endpoint. Its connections go with the next `tidy`: removing them waits for the
    /// kernel, and its number is nobody's again.
    fn forget(&mut self, endpoint: u32) -> Result<(), DatapathError> {
        gone(self.endpoints.remove(&endpoint), ENDPOINTS)
    }

    fn tidy(&mut self) -> Result<usize, DatapathError> {
        let mut removed = 0;
        let now_ns = super::flows::now_ns();
        let known: BTreeSet<u32> = keys(self.endpoints.keys(), ENDPOINTS)?.collect();
        for endpoint in keys(self.connections.keys(), CONNECTIONS_OF)? {
            if !known.contains(&endpoint) {
                let _short = Expedited::begin();
                gone(self.connections.remove(&endpoint), CONNECTIONS_OF)?;
                removed += 1;
            } else {
                self.grow(endpoint, now_ns)?;
            }
        }
        Ok(removed)
    }

    fn write(&mut self, plan: &Plan, after: &Tables) -> Result<(), DatapathError> {
        for (number, set) in &plan.sets {
            for (key, chunk) in chunks(*number, set) {
                write(self.ports.insert(key, chunk, 0), PORTS, MAX_PORT_CHUNKS)?;
            }
        }
        for (key, verdict) in &plan.verdicts {
            let flags = after.sets.get(&verdict.set).map_or(0, |set| flags(set));
            let row = VerdictRow {
                set: verdict.set,
                flags,
            };
            let done = self.verdicts.insert(verdict_key(key), row, 0);
            write(done, VERDICTS, MAX_VERDICTS)?;
        }
        for (of, prefix, identity) in &plan.prefixes {
            let peer = Peer {
                identity: *identity,
            };
            let done = self.blocks.insert(&block(*of, *prefix), peer, 0);
            write(done, BLOCKS, MAX_BLOCKS)?;
        }
        for (generation, address, identity) in &plan.addresses {
            let key = PeerKey {
                generation: *generation,
                addr: addr_of(*address),
            };
            let peer = Peer {
                identity: *identity,
            };
            write(self.peers.insert(key, peer, 0), PEERS, MAX_PEERS)?;
        }
        for (endpoint, policy) in &plan.endpoints {
            self.prepare(*endpoint)?;
            let done = self.endpoints.insert(endpoint, policy_row(policy), 0);
            write(done, ENDPOINTS, MAX_ENDPOINTS)?;
        }
        Ok(())
    }

    fn remove(&mut self, plan: &Plan) -> Result<(), DatapathError> {
        for endpoint in &plan.gone_endpoints {
            self.forget(*endpoint)?;
        }
        for (generation, address) in &plan.gone_addresses {
            let key = PeerKey {
                generation: *generation,
                addr: addr_of(*address),
            };
            gone(self.peers.remove(&key), PEERS)?;
        }
        for (generation, prefix) in &plan.gone_prefixes {
            gone(self.blocks.remove(&block(*generation, *prefix)), BLOCKS)?;
        }
        for key in &plan.gone_verdicts {
            gone(self.verdicts.remove(&verdict_key(key)), VERDICTS)?;
        }
        for (number, set) in &plan.gone_sets {
            for key in chunks(*number, set).keys() {
                gone(self.ports.remove(key), PORTS)?;
            }
        }
        Ok(())
    }

    /// Removes every row that is not of these tables: an agent before this one left it.
    fn sweep(&mut self, tables: &Tables) -> Result<(), DatapathError> {
        let endpoints: BTreeSet<u32> = tables.endpoints.keys().copied().collect();
        for endpoint in keys(self.endpoints.keys(), ENDPOINTS)? {
            if !endpoints.contains(&endpoint) {
                self.forget(endpoint)?;
            }
        }
        let _removed = self.tidy()?;
        for key in keys(self.peers.keys(), PEERS)? {
            let ours = key.generation == tables.generation
                && tables.addresses.contains_key(&ip_of(&key.addr));
            if !ours {
                gone(self.peers.remove(&key), PEERS)?;
            }
        }
        let prefixes = tables.prefixes.keys();
        let prefixes: HashSet<(u32, BlockKey)> = prefixes
            .map(|prefix| block(tables.generation, *prefix))
            .map(|key| (key.prefix_len(), key.data()))
            .collect();
        for key in keys(self.blocks.keys(), BLOCKS)? {
            if !prefixes.contains(&(key.prefix_len(), key.data())) {
                gone(self.blocks.remove(&key), BLOCKS)?;
            }
        }
        let verdicts: HashSet<VerdictRowKey> = tables.verdicts.keys().map(verdict_key).collect();
        for key in keys(self.verdicts.keys(), VERDICTS)? {
            if !verdicts.contains(&key) {
                gone(self.verdicts.remove(&key), VERDICTS)?;
            }
        }
        for key in keys(self.ports.keys(), PORTS)? {
            if !tables.sets.contains_key(&key.set) {
                gone(self.ports.remove(&key), PORTS)?;
            }
        }
        Ok(())
    }

    fn start(&self) -> Result<Start, DatapathError> {
        let rows = all(self.endpoints.iter(), ENDPOINTS)?;
        let generations = rows.iter().map(|(_, row)| row.generation);
        let peers = keys(self.peers.keys(), PEERS)?.map(|key| key.generation);
        let blocks = keys(self.blocks.keys(), BLOCKS)?;
        let blocks = blocks.map(|key| u32::from_be(key.data().scope_be) >> 1);
        let verdicts = all(self.verdicts.iter(), VERDICTS)?;
        let classes = verdicts.iter().map(|(key, _)| key.class);
        let sets = keys(self.ports.keys(), PORTS)?.map(|key| key.set);
        let next = |used: Option<u32>| used.map_or(1, |used| used + 1);
        Ok(Start {
            generation: next(generations.chain(peers).chain(blocks).max()),
            class: next(classes.chain(rows.iter().map(|(_, row)| row.class)).max()),
            set: next(sets.chain(verdicts.iter().map(|(_, row)| row.set)).max()),
        })
    }
}

impl Datapath {
    fn policies(&self) -> std::sync::MutexGuard<'_, Policies> {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers that no row of the maps has.
    ///
    /// # Errors
    /// A map can't be read.
    pub fn policy_start(&self) -> Result<Start, DatapathError> {
        self.policies().start()
    }

    /// Writes what is new of `after`, and from then on judges packets by it: no packet is judged by a part.
    /// `sweep`: removes what agents before this one left, too. After an error what was in force is, or
    /// another try ends what was begun.
    ///
    /// # Errors
    /// A map is full or can't be written.
    pub fn write_policies(
        &self,
        plan: &Plan,
        after: &Tables,
        sweep: bool,
    ) -> Result<(), DatapathError> {
        let mut policies = self.policies();
        policies.write(plan, after)?;
        policies.begin_epoch(true)?;
        if sweep {
            policies.sweep(after)?;
        }
        policies.remove(plan)
    }

    /// Whether a change of policies cuts connections that it doesn't allow any more, as it does by itself.
    pub fn cut_connections(&self, cut: bool) {
        self.policies().keeps = !cut;
    }

    /// Removes what a plan says is gone, when nothing else of it is to be done.
    ///
    /// # Errors
    /// A map can't be written.
    pub fn clear_policies(&self, plan: &Plan) -> Result<(), DatapathError> {
        self.policies().remove(plan)
    }

    /// Judges no packet any more.
    ///
    /// # Errors
    /// The map can't be written.
    pub fn ignore_policies(&self) -> Result<(), DatapathError> {
        let mut policies = self.policies();
        if policies.settings()?.flags & PolicySettings::ENFORCE != 0 {
            policies.begin_epoch(false)?;
        }
        Ok(())
    }

    /// Connections of an endpoint that go on, as they are remembered: walks up to 262,144 rows.
    ///
    /// # Errors
    /// A map can't be read.
    pub fn connections(&self, endpoint: u32) -> Result<Vec<ConnectionRow>, DatapathError> {
        self.policies().connections_of(endpoint)
    }

    /// Forgets connections of endpoints that are no more, and answers of how many; gives others more room
    /// where they need it.
    ///
    /// # Errors
    /// A map can't be read or written.
    pub fn tidy_connections(&self) -> Result<usize, DatapathError> {
        self.policies().tidy()
    }

    /// Forgets an endpoint's policies.
    pub(super) fn forget_policies(&self, endpoint: u32) -> Result<(), DatapathError> {
        self.policies().forget(endpoint)
    }
}

fn keys<K>(
    keys: impl Iterator<Item = Result<K, MapError>>,
    map: &'static str,
) -> Result<std::vec::IntoIter<K>, DatapathError> {
    let keys: Result<Vec<K>, MapError> = keys.collect();
    let keys = keys.map_err(|source| DatapathError::Map {
        action: "list",
        map,
        source,
    })?;
    Ok(keys.into_iter())
}

fn policy_row(policy: &EndpointPolicy) -> PolicyRow {
    let bit = |is_set, bit| if is_set { bit } else { 0 };
    let flags = bit(policy.ingress, PolicyRow::INGRESS) | bit(policy.egress, PolicyRow::EGRESS);
    PolicyRow {
        generation: policy.generation,
        class: policy.class,
        flags: if policy.audit {
            flags << PolicyRow::AUDIT_SHIFT
        } else {
            flags
        },
        pad: 0,
    }
}

fn verdict_key(key: &crate::policy::VerdictKey) -> VerdictRowKey {
    VerdictRowKey {
        class: key.class,
        identity: key.identity,
        direction: match key.direction {
            Direction::Ingress => PolicyRow::INGRESS,
            Direction::Egress => PolicyRow::EGRESS,
        },
    }
}

fn block(generation: u32, prefix: IpNetwork) -> Key<BlockKey> {
    let shift = if prefix.is_ipv4() { V4_PREFIX_BITS } else { 0 };
    let data = BlockKey {
        scope_be: scope(generation, prefix.is_ipv4()).to_be(),
        addr: addr_of(prefix.network()),
    };
    Key::new(SCOPE_BITS + shift + u32::from(prefix.prefix()), data)
}

const PROTOCOLS: [(Protocol, u8); 3] = [
    (Protocol::Tcp, TCP),
    (Protocol::Udp, UDP),
    (Protocol::Sctp, SCTP),
];

/// Whether every port is in it; port 0 is none.
fn has_all(ranges: &[(u16, u16)]) -> bool {
    matches!(ranges, [(0 | 1, u16::MAX)])
}

fn flags(set: &PortSet) -> u32 {
    let of = |(protocol, number): (Protocol, u8)| match set.ranges(protocol) {
        [] => 0,
        ranges if has_all(ranges) => protocol_bit(number),
        _ => protocol_bit(number) << VerdictRow::SOME_SHIFT,
    };
    let others = if set.others { VerdictRow::OTHERS } else { 0 };
    PROTOCOLS
        .map(of)
        .into_iter()
        .fold(others, |all, bit| all | bit)
}

/// The rows of a set's ports.
fn chunks(number: u32, set: &PortSet) -> BTreeMap<PortsKey, PortsChunk> {
    let mut chunks: BTreeMap<PortsKey, PortsChunk> = BTreeMap::new();
    for (protocol, wire) in PROTOCOLS {
        let ranges = set.ranges(protocol);
        if has_all(ranges) {
            continue;
        }
        for port in ranges.iter().flat_map(|(first, last)| *first..=*last) {
            let key = PortsKey {
                set: number,
                protocol: wire,
                pad: 0,
                chunk: port / CHUNK_PORTS,
            };
            chunks.entry(key).or_default().bits[word_of(port)] |= 1 << (port % 64);
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_ebpf_common::policy::{Says, has_port, says};
    use proptest::prelude::*;

    proptest! {
        /// What the programs make of the rows is what the set holds.
        #[test]
        fn rows_of_ports_say_what_their_set_says(
            ranges in proptest::collection::vec((any::<u16>(), 0..3000u16), 0..4),
            asked in proptest::collection::vec(any::<u16>(), 20)
        ) {
            let mut set = PortSet::default();
            for (first, more) in &ranges {
                set.add(Protocol::Udp, *first, first.saturating_add(*more));
            }
            let (flags, chunks) = (flags(&set), chunks(7, &set));
            let edges = ranges.iter().flat_map(|(a, m)| [*a, a.saturating_add(*m), a.saturating_add(*m).saturating_add(1)]);
            for port in asked.into_iter().chain(edges) {
                let key = PortsKey { set: 7, protocol: UDP, pad: 0, chunk: port / CHUNK_PORTS };
                let word = chunks.get(&key).map_or(0, |chunk| chunk.bits[word_of(port)]);
                let says = match says(flags, UDP) {
                    Says::Yes => true,
                    Says::No => false,
                    Says::Some => has_port(word, port),
                };
                prop_assert_eq!(says, set.has(Protocol::Udp, port), "{}", port);
            }
            prop_assert_eq!(says(flags, TCP), Says::No);
        }
    }

    #[test]
    fn everything_needs_no_rows_of_ports() {
        assert!(chunks(1, &PortSet::all()).is_empty());
        let mut set = PortSet::default();
        set.add(Protocol::Tcp, 1, u16::MAX);
        assert!(chunks(1, &set).is_empty());
        assert_eq!(flags(&set), VerdictRow::TCP);
    }
}
