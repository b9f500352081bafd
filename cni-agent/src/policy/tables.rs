//! What the programs look up.

use super::PortSet;
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// Seen from the pod whose rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// As policies write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Key of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerdictKey {
    pub class: u32,
    pub direction: Direction,
    /// [`Tables::ANYBODY`]: of everybody who has no verdict of their own.
    pub identity: u32,
}

/// What may be used: a number of [`Tables::sets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub set: u32,
}

/// What is asked about a local pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// Whose addresses the pod's class knows: a number of the addresses' generation.
    pub generation: u32,
    pub class: u32,
    /// Only what rules allow may come, or go; otherwise everything.
    pub ingress: bool,
    pub egress: bool,
    /// What is not allowed passes all the same, and is told.
    pub audit: bool,
}

/// Numbers that nobody has used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub generation: u32,
    pub class: u32,
    pub set: u32,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            generation: 1,
            class: 1,
            set: 1,
        }
    }
}

/// Everything that is to be in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Of the addresses. Another one has other peers, and shares no number with this one.
    pub generation: u32,
    /// Identities of pods that policies mean.
    pub addresses: HashMap<IpAddr, u32>,
    /// Identities of all other addresses in a prefix, the longest first.
    pub prefixes: BTreeMap<IpNetwork, u32>,
    pub verdicts: HashMap<VerdictKey, Verdict>,
    /// By number; each is in use.
    pub sets: HashMap<u32, Arc<PortSet>>,
    /// By the endpoint's number.
    pub endpoints: BTreeMap<u32, EndpointPolicy>,
}

impl Tables {
    /// The identity of who is no peer of any rule.
    pub const ANYBODY: u32 = 0;
    /// This node's: it may always talk with its pods, and they with it.
    pub const NODE: u32 = u32::MAX;

    /// As the programs look it up: whether an endpoint may talk with an address. Of an endpoint that has
    /// no entry it is not known.
    pub fn set(&self, endpoint: u32, direction: Direction, peer: IpAddr) -> Option<PortSet> {
        self.set_with(endpoint, direction, self.identity(peer))
    }

    /// Whose an address is to the rules; none: nobody's.
    pub fn identity(&self, peer: IpAddr) -> Option<u32> {
        let by_prefix = || {
            let holds = |net: &&IpNetwork| net.contains(peer);
            let longest = self
                .prefixes
                .keys()
                .filter(holds)
                .max_by_key(|net| net.prefix());
            longest.and_then(|net| self.prefixes.get(net))
        };
        self.addresses.get(&peer).or_else(by_prefix).copied()
    }

    /// As `set`, of who has an identity.
    pub fn set_with(
        &self,
        endpoint: u32,
        direction: Direction,
        identity: Option<u32>,
    ) -> Option<PortSet> {
        let policy = self.endpoints.get(&endpoint)?;
        let isolated = match direction {
            Direction::Ingress => policy.ingress,
            Direction::Egress => policy.egress,
        };
        if !isolated || identity == Some(Self::NODE) {
            return Some(PortSet::all());
        }
        let row = |identity| {
            let key = VerdictKey {
                class: policy.class,
                direction,
                identity,
            };
            self.verdicts.get(&key)
        };
        let set = identity.and_then(row).or_else(|| row(Self::ANYBODY));
        let set = set.and_then(|verdict| self.sets.get(&verdict.set));
        Some(set.map(|set| PortSet::clone(set)).unwrap_or_default())
    }
}
