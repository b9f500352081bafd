//! What is sent through a lab to see that it works: small probes in plain blocking Rust, each
//! bounded in time, with the answering side in [`Server`].
//!
//! A probe runs in the network namespace of the calling thread ([`super::NetNs::run`]).

mod icmp;
mod server;
mod steady;
mod tcp;
mod udp;

pub(crate) use icmp::ping;
pub(crate) use server::{Port, Server};
pub(crate) use steady::{Kind as SteadyKind, Steady};
pub(crate) use tcp::{Endless, transfer};
pub(crate) use udp::{arrivals, echo as udp_echo};

use anyhow::Result;
use std::{fmt, net::IpAddr, time::Duration};

/// How long a single answer may take.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The protocols of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proto {
    Icmp,
    Tcp,
    Udp,
}

impl Proto {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 3] = [Self::Icmp, Self::Tcp, Self::Udp];

    /// Sends something to `target`, where a [`Server`] runs, and checks what comes back.
    ///
    /// # Errors
    /// When nothing or something else comes back.
    pub(crate) fn check(self, target: IpAddr) -> Result<()> {
        match self {
            Self::Icmp => ping(target, 56).map(|_| ()),
            // More than one segment, so that offloads and checksums are in it.
            Self::Tcp => transfer(target, 100_000).map(|_| ()),
            Self::Udp => udp_echo(target, 512).map(|_| ()),
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Icmp => "ICMP",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// The byte at an offset of everything that probes send: any slip of a block, byte or offset
/// shows, and no buffer has to hold the data.
fn pattern(offset: u64) -> u8 {
    let mixed = (offset ^ (offset >> 17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

/// Fills a buffer with the pattern that begins at `offset`.
fn fill(buffer: &mut [u8], offset: u64) {
    for (byte, at) in buffer.iter_mut().zip(offset..) {
        *byte = pattern(at);
    }
}

/// The first offset at which a buffer differs from the pattern that begins at `offset`.
fn first_difference(buffer: &[u8], offset: u64) -> Option<u64> {
    buffer
        .iter()
        .zip(offset..)
        .find(|&(&byte, at)| byte != pattern(at))
        .map(|(_, at)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_or_shifted_pattern_is_found() {
        let mut buffer = [0; 4096];
        fill(&mut buffer, 1 << 33);
        assert_eq!(first_difference(&buffer, 1 << 33), None);
        assert!(first_difference(&buffer, (1 << 33) + 1).is_some());
        buffer[4000] ^= 1;
        assert_eq!(first_difference(&buffer, 1 << 33), Some((1 << 33) + 4000));
    }
}
