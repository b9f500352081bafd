//! What the kernel programs and the agent agree on: map keys and values, verdicts, counters.
//!
//! Rules: `#[repr(C)]`, integers and byte arrays only, no hidden padding (sizes are asserted),
//! network byte order where a name ends in `_be` and in every address, native order elsewhere.
//! IPv4 travels as an IPv4-mapped IPv6 address, so that both families share one code path.
#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod announcement;
pub mod config;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod node;
pub mod outside;
pub mod policy;
pub mod service;
pub mod socket;
pub mod trace;
pub mod verdict;

/// Version of the maps' layout. Pins live below a folder of this number, so that an agent with
/// another layout builds its maps beside the old ones and then swaps the links.
pub const LAYOUT_VERSION: u32 = 4;
