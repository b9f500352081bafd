//! In which order the maps are written, so that no packet is judged by a part of a change.

use super::{EndpointPolicy, PortSet, Tables, Verdict, VerdictKey};
use ipnetwork::IpNetwork;
use std::{net::IpAddr, sync::Arc};

/// What to write, from the first field to the last. Until `endpoints` each row is new to everybody, or an
/// address of a pod that becomes another's peer: one row, one moment. Then each endpoint takes its new rules
/// in one row; what nobody uses any more goes last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub sets: Vec<(u32, Arc<PortSet>)>,
    pub verdicts: Vec<(VerdictKey, Verdict)>,
    /// With the generation that they are of.
    pub prefixes: Vec<(u32, IpNetwork, u32)>,
    pub addresses: Vec<(u32, IpAddr, u32)>,
    pub endpoints: Vec<(u32, EndpointPolicy)>,
    pub gone_endpoints: Vec<u32>,
    pub gone_addresses: Vec<(u32, IpAddr)>,
    pub gone_prefixes: Vec<(u32, IpNetwork)>,
    pub gone_verdicts: Vec<VerdictKey>,
    pub gone_sets: Vec<(u32, Arc<PortSet>)>,
}

impl Plan {
    /// How many rows it writes or removes.
    pub fn rows(&self) -> usize {
        self.sets.len()
            + self.verdicts.len()
            + self.prefixes.len()
            + self.addresses.len()
            + self.endpoints.len()
            + self.gone_endpoints.len()
            + self.gone_addresses.len()
            + self.gone_prefixes.len()
            + self.gone_verdicts.len()
            + self.gone_sets.len()
    }
}

/// From the tables that are in force to others.
pub fn plan(before: &Tables, after: &Tables) -> Plan {
    let same = before.generation == after.generation;
    let mut plan = Plan::default();
    for (number, set) in &after.sets {
        if !before.sets.contains_key(number) {
            plan.sets.push((*number, set.clone()));
        }
    }
    for (number, set) in &before.sets {
        if !after.sets.contains_key(number) {
            plan.gone_sets.push((*number, set.clone()));
        }
    }
    for (key, verdict) in &after.verdicts {
        if before.verdicts.get(key) != Some(verdict) {
            plan.verdicts.push((*key, *verdict));
        }
    }
    plan.gone_verdicts = before
        .verdicts
        .keys()
        .filter(|key| !after.verdicts.contains_key(key))
        .copied()
        .collect();
    for (prefix, identity) in &after.prefixes {
        if !same || before.prefixes.get(prefix) != Some(identity) {
            plan.prefixes.push((after.generation, *prefix, *identity));
        }
    }
    for prefix in before.prefixes.keys() {
        if !same || !after.prefixes.contains_key(prefix) {
            plan.gone_prefixes.push((before.generation, *prefix));
        }
    }
    for (address, identity) in &after.addresses {
        if !same || before.addresses.get(address) != Some(identity) {
            plan.addresses.push((after.generation, *address, *identity));
        }
    }
    for address in before.addresses.keys() {
        if !same || !after.addresses.contains_key(address) {
            plan.gone_addresses.push((before.generation, *address));
        }
    }
    for (endpoint, policy) in &after.endpoints {
        if before.endpoints.get(endpoint) != Some(policy) {
            plan.endpoints.push((*endpoint, *policy));
        }
    }
    plan.gone_endpoints = before
        .endpoints
        .keys()
        .filter(|e| !after.endpoints.contains_key(e))
        .copied()
        .collect();
    plan
}
