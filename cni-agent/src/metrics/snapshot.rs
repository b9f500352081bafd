//! What one scrape found: plain values.

use super::{DevicesSnapshot, VolumesSnapshot};
use crate::{
    parts::PartState,
    query::{IpamRow, PathRow, PolicyRow},
};
use std::collections::BTreeMap;

/// Everything that a scrape reads beside the counters of this process.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub version: &'static str,
    pub parts: BTreeMap<String, PartState>,
    /// None while the network part isn't running, or can't be read.
    pub network: Option<NetworkSnapshot>,
    /// The same of volumes.
    pub volumes: Option<VolumesSnapshot>,
    /// The same of devices.
    pub devices: Option<DevicesSnapshot>,
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
    /// None while they could not be written.
    pub services: Option<ServiceCounts>,
    /// By Service; none unless asked for.
    pub service_flows: Vec<ServiceFlows>,
    /// Every policy.
    pub policies: Vec<PolicyRow>,
}

/// How much the maps hold of Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounts {
    /// With at least one frontend.
    pub services: usize,
    /// Addresses and ports with backends.
    pub frontends: usize,
    /// Of all frontends together.
    pub backends: usize,
    /// Frontends that found no room.
    pub refused: usize,
}

/// Flows of a Service that the programs remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFlows {
    pub namespace: String,
    pub service: String,
    pub flows: u64,
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
