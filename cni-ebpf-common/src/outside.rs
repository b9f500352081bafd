//! What comes to Services from outside of the node, by its uplinks.

use crate::addr::Addr;

/// The one value of the array `outside_settings`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutsideSettings {
    /// The node's address of each family, from which backends of other nodes are asked; zeros where it
    /// has none.
    pub ipv4: Addr,
    pub ipv6: Addr,
    /// Bits of [`OutsideSettings`].
    pub flags: u32,
    /// The first of the source ports for that, in native order.
    pub first_port: u16,
    /// How many they are; 0: none is given.
    pub ports: u16,
}

impl OutsideSettings {
    /// New flows are taken.
    pub const TAKE: u32 = 1;
    /// Flows that were taken are followed. Set with the first `TAKE`, and never unset: they live on when
    /// kube-proxy takes the new ones.
    pub const FOLLOW: u32 = 2;
    /// A client of a backend elsewhere is answered by that backend's node itself, where that node knows the
    /// Service by the same address ([`crate::service::Frontend::SAME_EVERYWHERE`]).
    pub const DIRECT: u32 = 4;
}

/// The one value of the array `outside_flows`, set by the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutsideFlows {
    /// Not 0: the host itself has been a backend; what it sends may be an answer.
    pub host: u32,
    pub pad: u32,
}

/// Source ports of packets to backends of other nodes, unless the operator gives others: above those that
/// Linux gives to sockets (`net.ipv4.ip_local_port_range`).
pub const FIRST_PORT: u16 = 61_000;
pub const LAST_PORT: u16 = 65_535;

/// Source ports of a pod whose own is taken at a backend: below those that Linux gives to sockets, so that a
/// direct connection of the pod doesn't meet them.
pub const POD_FIRST_PORT: u16 = 1_024;
pub const POD_PORTS: u16 = 31_744;

/// Key of the trie `source_ranges`, after the prefix: the frontend's number of ranges, then the client. The
/// number counts with all its bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RangeKey {
    /// [`crate::service::Frontend::ranges`], big endian.
    pub ranges_be: u32,
    pub client: Addr,
}

/// Bits of the number in a key of `source_ranges`.
pub const RANGES_BITS: u32 = 32;
/// Most ranges of all frontends; equal sets of ranges count once. A frontend whose ranges find no room is
/// left to the host's stack.
pub const MAX_RANGES: u32 = 65_536;

/// The source port of an attempt, in native order: another one for each flow and attempt.
#[inline(always)]
pub const fn source_port(first: u16, ports: u16, hash: u32, attempt: u32) -> u16 {
    if ports == 0 {
        return first;
    }
    // A prime: attempts of flows with neighbouring numbers don't follow each other.
    let place = hash.wrapping_add(attempt.wrapping_mul(7919)) % ports as u32;
    first.wrapping_add(place as u16)
}

const _: () = assert!(size_of::<OutsideSettings>() == 40);
const _: () = assert!(size_of::<OutsideFlows>() == 8);
const _: () = assert!(size_of::<RangeKey>() == 20);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod promises plain bytes")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays only, sizes asserted: no padding, any bits valid.
    unsafe impl aya::Pod for super::OutsideSettings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::OutsideFlows {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::RangeKey {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_ports_stay_in_their_range_and_attempts_differ() {
        let ports = LAST_PORT - FIRST_PORT + 1;
        for hash in [0, 1, 4_535, 4_536, u32::MAX, u32::MAX - 7919] {
            let mut seen = [0u16; 8];
            for (attempt, port) in (0..).zip(&mut seen) {
                *port = source_port(FIRST_PORT, ports, hash, attempt);
                assert!((FIRST_PORT..=LAST_PORT).contains(port));
            }
            seen.sort_unstable();
            assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
        }
        assert_eq!(source_port(7, 0, 5, 5), 7);
    }
}
