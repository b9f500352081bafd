//! PURE: which address of the node's podCIDRs a pod gets. Time, durability and locking belong to
//! the caller (`store::Book`), so every decision here is a function of the calls made before.
//!
//! The order of choice: an address that was never used, from low to high; when none is left, the
//! one released longest ago. Reuse is thereby delayed as far as the prefix allows, which gives
//! everything that still remembers the old pod (connection tracking, DNS, peers) time to forget.
//!
//! A cool-down says how long a released address should rest. As the longest rested address is
//! always taken first, a cooling one is only ever handed out when every other address of the prefix
//! is in use or has rested for less: refusing it would turn the mere chance of a stale peer into a
//! certain outage of the new pod. It is handed out, and the caller is told so that it can warn.

mod pool;
mod pools;
#[cfg(test)]
mod tests;

pub use pool::{Choice, MAX_RELEASED, Pool};
pub use pools::{Allocation, Pools};

use crate::model::AttachmentId;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// When an address was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Order of release on this node; wall clocks may jump, this may not.
    pub sequence: u64,
    /// Unix time in seconds.
    pub at: u64,
}

/// How full the pool of one prefix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolUsage {
    pub prefix: IpNetwork,
    /// Addresses that pods can have; `u64::MAX` for more, the largest number that JSON readers take.
    pub total: u128,
    /// Addresses of living pods and of pods being added.
    pub used: u128,
    /// Released addresses that have not yet rested for the cool-down.
    pub cooling: u128,
}

/// Why no address was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error(
        "this node has no podCIDR yet: set spec.podCIDRs of its Node object, addresses follow at once"
    )]
    NoPrefix,
    #[error(
        "{used} of {total} addresses of podCIDR {prefix} are in use, none is free: delete pods or give the node a larger podCIDR"
    )]
    Exhausted {
        prefix: IpNetwork,
        used: u128,
        total: u128,
    },
    #[error("requested address {address} is outside of this node's podCIDRs ({})", list(.prefixes))]
    Outside {
        address: IpAddr,
        prefixes: Vec<IpNetwork>,
    },
    #[error(
        "requested address {address} is the network, broadcast or subnet-router address of podCIDR {prefix}, which no pod can have"
    )]
    Unusable { address: IpAddr, prefix: IpNetwork },
    #[error("requested address {address} is in use by {by}")]
    InUse { address: IpAddr, by: AttachmentId },
    #[error(
        "addresses {first} and {second} were both requested; a pod has one address of each family"
    )]
    TwoOfAFamily { first: IpAddr, second: IpAddr },
    #[error("podCIDR {0} has host bits set; {net} is meant", net = network(.0))]
    HostBits(IpNetwork),
    #[error("podCIDRs {first} and {second} are of the same family; a node has one of each")]
    TwoPrefixesOfAFamily { first: IpNetwork, second: IpNetwork },
    #[error("{0} already has addresses, or is being added by another call")]
    AlreadyHeld(AttachmentId),
}

fn list(prefixes: &[IpNetwork]) -> String {
    prefixes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The prefix with its host bits cleared.
fn network(prefix: &IpNetwork) -> String {
    format!("{}/{}", prefix.network(), prefix.prefix())
}
