//! Maps as the programs see them, written row by row.

use super::{Direction, EndpointPolicy, Plan, PortSet, Tables, Verdict, VerdictKey};
use ipnetwork::IpNetwork;
use std::{collections::HashMap, net::IpAddr, sync::Arc};

#[derive(Clone, Debug, Default)]
pub(super) struct Maps {
    /// What was written last.
    pub(super) tables: Tables,
    sets: HashMap<u32, Arc<PortSet>>,
    verdicts: HashMap<VerdictKey, Verdict>,
    prefixes: HashMap<(u32, IpNetwork), u32>,
    addresses: HashMap<(u32, IpAddr), u32>,
    endpoints: HashMap<u32, EndpointPolicy>,
}

impl Maps {
    pub(super) fn write_all(&mut self, plan: &Plan, tables: &Tables) {
        self.write_each(plan, tables, |_| {});
    }

    pub(super) fn write_each(
        &mut self,
        plan: &Plan,
        tables: &Tables,
        mut after: impl FnMut(&Self),
    ) {
        macro_rules! rows {
            ($rows:ident, $row:pat => $write:expr) => {
                for $row in &plan.$rows {
                    $write;
                    after(self);
                }
            };
        }
        rows!(sets, (number, set) => self.sets.insert(*number, set.clone()));
        rows!(verdicts, (key, verdict) => self.verdicts.insert(*key, *verdict));
        rows!(prefixes, (of, prefix, identity) => self.prefixes.insert((*of, *prefix), *identity));
        rows!(addresses, (of, address, identity) => self.addresses.insert((*of, *address), *identity));
        rows!(endpoints, (endpoint, policy) => self.endpoints.insert(*endpoint, *policy));
        rows!(gone_endpoints, endpoint => self.endpoints.remove(endpoint));
        rows!(gone_addresses, key => self.addresses.remove(key));
        rows!(gone_prefixes, key => self.prefixes.remove(key));
        rows!(gone_verdicts, key => self.verdicts.remove(key));
        rows!(gone_sets, (number, _) => self.sets.remove(number));
        self.tables = tables.clone();
    }

    /// Whether exactly these rows are there.
    pub(super) fn is(&self, tables: &Tables) -> bool {
        let of = tables.generation;
        self.sets == tables.sets
            && self.verdicts == tables.verdicts
            && self.prefixes
                == tables
                    .prefixes
                    .iter()
                    .map(|(p, i)| ((of, *p), *i))
                    .collect()
            && self.addresses
                == tables
                    .addresses
                    .iter()
                    .map(|(a, i)| ((of, *a), *i))
                    .collect()
            && self.endpoints == tables.endpoints.iter().map(|(e, p)| (*e, *p)).collect()
    }

    pub(super) fn set(&self, endpoint: u32, direction: Direction, peer: IpAddr) -> Option<PortSet> {
        let policy = self.endpoints.get(&endpoint)?;
        let isolated = match direction {
            Direction::Ingress => policy.ingress,
            Direction::Egress => policy.egress,
        };
        if !isolated {
            return Some(PortSet::all());
        }
        let by_prefix = || {
            let inside = self
                .prefixes
                .iter()
                .filter(|((of, net), _)| *of == policy.generation && net.contains(peer));
            inside
                .max_by_key(|((_, net), _)| net.prefix())
                .map(|(_, identity)| *identity)
        };
        let identity = self
            .addresses
            .get(&(policy.generation, peer))
            .copied()
            .or_else(by_prefix);
        if identity == Some(Tables::NODE) {
            return Some(PortSet::all());
        }
        let row = |identity| {
            self.verdicts.get(&VerdictKey {
                class: policy.class,
                direction,
                identity,
            })
        };
        let verdict = identity.and_then(row).or_else(|| row(Tables::ANYBODY));
        let set = verdict.map(|verdict| PortSet::clone(&self.sets[&verdict.set]));
        Some(set.unwrap_or_default())
    }
}
