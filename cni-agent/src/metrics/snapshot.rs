//! What one scrape found: plain values.

use crate::{
    parts::PartState,
    query::{IpamRow, PathRow},
};
use std::collections::BTreeMap;

/// Everything that a scrape reads beside the counters of this process.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub version: &'static str,
    pub parts: BTreeMap<String, PartState>,
    /// None while the network part isn't running, or can't be read.
    pub network: Option<NetworkSnapshot>,
}

/// What kernel and store hold of the network.
#[derive(Clone, Debug, Default)]
pub struct NetworkSnapshot {
    pub endpoints: usize,
    pub ipam: Vec<IpamRow>,
    /// Reason, packets, bytes; also of pods that are gone.
    pub drops: Vec<(&'static str, u64, u64)>,
    pub paths: Vec<PathRow>,
    pub maps: Vec<MapFill>,
    /// Of living pods; none unless asked for.
    pub pod_drops: Vec<PodDrops>,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFill {
    pub map: &'static str,
    pub entries: usize,
    pub capacity: u32,
}

/// Packets of one pod dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDrops {
    pub namespace: String,
    pub pod: String,
    pub reason: String,
    pub packets: u64,
    pub bytes: u64,
}
