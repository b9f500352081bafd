//! Policies: who a packet's other end is to a pod's rules, what they allow, and what is remembered of
//! connections so that answers pass. Pointers are the programs'; what is decided from values is decided here.

use crate::{
    addr::Addr,
    flow::{SCTP, TAKEN_IDLE_NS, TCP, UDP, UDP_IDLE_NS, idle_ns},
};

/// The one value of the array `policy_settings`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicySettings {
    /// Bits of [`PolicySettings`].
    pub flags: u32,
    /// Another one after each change: what was allowed before is asked anew.
    pub epoch: u32,
}

impl PolicySettings {
    /// Packets are judged. An endpoint without a row in `endpoint_policies` is closed.
    pub const ENFORCE: u32 = 1;
}

/// Value of `endpoint_policies`, by the endpoint's number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// Part of the keys of `peers` and `peer_blocks`.
    pub generation: u32,
    /// Part of the key of `verdicts`.
    pub class: u32,
    /// Bits of [`EndpointPolicy`].
    pub flags: u32,
    pub pad: u32,
}

impl EndpointPolicy {
    /// Only what rules allow may come.
    pub const INGRESS: u32 = 1;
    /// Only what rules allow may go.
    pub const EGRESS: u32 = 2;
    /// Instead of either, moved by this: what is not allowed passes all the same, and is told.
    pub const AUDIT_SHIFT: u32 = 2;
}

/// Key of `peers`: an address that rules know as a pod's, or as this node's.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerKey {
    pub generation: u32,
    pub addr: Addr,
}

/// Key of the trie `peer_blocks`, after the prefix. The scope counts with all its bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey {
    /// A [`scope`], big endian.
    pub scope_be: u32,
    pub addr: Addr,
}

/// Value of `peers` and of `peer_blocks`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub identity: u32,
}

impl Peer {
    /// Who is no peer of any rule.
    pub const ANYBODY: u32 = 0;
    /// This node, which may always talk with its pods, and they with it.
    pub const NODE: u32 = u32::MAX;
}

/// Key of `verdicts`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VerdictKey {
    pub class: u32,
    pub identity: u32,
    /// [`EndpointPolicy::INGRESS`] or [`EndpointPolicy::EGRESS`].
    pub direction: u32,
}

/// Value of `verdicts`: what is allowed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Part of the key of `port_sets`.
    pub set: u32,
    /// Bits of [`Verdict`].
    pub flags: u32,
}

impl Verdict {
    /// Every port of a protocol.
    pub const TCP: u32 = 1;
    pub const UDP: u32 = 2;
    pub const SCTP: u32 = 4;
    /// Protocols without ports.
    pub const OTHERS: u32 = 8;
    /// Some ports of a protocol: the bits above, moved by this.
    pub const SOME_SHIFT: u32 = 4;
}

/// Key of `port_sets`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortsKey {
    pub set: u32,
    pub protocol: u8,
    pub pad: u8,
    /// [`CHUNK_PORTS`] ports each, from 0; native order.
    pub chunk: u16,
}

/// Value of `port_sets`: a bit for each port, the lowest first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortsChunk {
    pub bits: [u64; 8],
}

/// Ports in a row of `port_sets`.
pub const CHUNK_PORTS: u16 = 512;

/// Key of a map of `connections`: seen from the endpoint, whichever way a packet goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey {
    pub peer: Addr,
    pub own_port_be: u16,
    pub peer_port_be: u16,
    pub protocol: u8,
    pub pad: [u8; 3],
}

/// Value of a map of `connections`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// When a packet was last seen, to the second; nanoseconds of the coarse monotonic clock.
    pub seen_ns: u64,
    /// [`PolicySettings::epoch`] in which it was allowed.
    pub epoch: u32,
    /// Bits of [`Connection`].
    pub flags: u16,
    /// Not 0: one side has ended it.
    pub closing: u8,
    pub pad: u8,
}

impl Connection {
    /// The peer began it: rules for what comes decide. Otherwise those for what goes.
    pub const BY_PEER: u16 = 1;
    /// This node itself is the peer, by any of its addresses: always allowed.
    pub const OF_NODE: u16 = 2;
}

/// Most rows of `peers`: addresses that policies of this node's pods mean, twice while they change.
pub const MAX_PEERS: u32 = 262_144;
/// Most rows of `peer_blocks`.
pub const MAX_BLOCKS: u32 = 65_536;
/// Most rows of `verdicts`.
pub const MAX_VERDICTS: u32 = 524_288;
/// Most rows of `port_sets`.
pub const MAX_PORT_CHUNKS: u32 = 65_536;
/// Rows of a new endpoint's map of `connections`; the least recently used are forgotten first.
pub const CONNECTIONS: u32 = 4096;
/// Most rows that it gets once it needs them.
pub const MOST_CONNECTIONS: u32 = 262_144;
/// Bits of the scope in a key of `peer_blocks`.
pub const SCOPE_BITS: u32 = 32;

/// A generation with a family: `::/0` means no IPv4 address, although they lie in it.
#[inline(always)]
pub const fn scope(generation: u32, v4: bool) -> u32 {
    generation << 1 | v4 as u32
}

const SECOND: u64 = 1_000_000_000;
/// An ended connection's last packets may still be under way for so long.
const CLOSING_NS: u64 = 120 * SECOND;
/// Answers of protocols without ports come by then (as `nf_conntrack_icmp_timeout`).
const OTHERS_NS: u64 = 30 * SECOND;

/// The bit of [`Verdict`] for a protocol.
#[inline(always)]
pub const fn protocol_bit(protocol: u8) -> u32 {
    match protocol {
        TCP => Verdict::TCP,
        UDP => Verdict::UDP,
        SCTP => Verdict::SCTP,
        _ => Verdict::OTHERS,
    }
}

/// What a verdict says of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    Yes,
    No,
    /// The port decides.
    Some,
}

/// What a verdict says before ports are looked at.
#[inline(always)]
pub const fn says(flags: u32, protocol: u8) -> Says {
    let bit = protocol_bit(protocol);
    if flags & bit != 0 {
        Says::Yes
    } else if flags & bit << Verdict::SOME_SHIFT != 0 {
        Says::Some
    } else {
        Says::No
    }
}

/// Whether a port is in its chunk.
#[inline(always)]
pub const fn has_port(bits: u64, port: u16) -> bool {
    bits >> (port % 64) & 1 != 0
}

/// The word of a chunk that has a port's bit.
#[inline(always)]
pub const fn word_of(port: u16) -> usize {
    (port % CHUNK_PORTS / 64) as usize
}

/// Whether a packet that begins nothing belongs to what is remembered.
#[inline(always)]
pub const fn is_live(protocol: u8, closing: bool, seen_ns: u64, now_ns: u64) -> bool {
    let idle = idle_ns(seen_ns, now_ns);
    let most = match protocol {
        TCP | SCTP if closing => CLOSING_NS,
        TCP | SCTP => TAKEN_IDLE_NS,
        UDP => UDP_IDLE_NS,
        _ => OTHERS_NS,
    };
    idle <= most
}

const _: () = assert!(size_of::<PolicySettings>() == 8 && size_of::<EndpointPolicy>() == 16);
const _: () = assert!(size_of::<PeerKey>() == 20 && size_of::<BlockKey>() == 20);
const _: () = assert!(size_of::<VerdictKey>() == 12 && size_of::<Verdict>() == 8);
const _: () = assert!(size_of::<PortsKey>() == 8 && size_of::<PortsChunk>() == 64);
const _: () = assert!(size_of::<ConnectionKey>() == 24 && size_of::<Connection>() == 16);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod promises plain bytes")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays only, sizes asserted: no padding, any bits valid.
    unsafe impl aya::Pod for super::PolicySettings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::EndpointPolicy {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PeerKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::BlockKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Peer {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::VerdictKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Verdict {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PortsKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PortsChunk {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ConnectionKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Connection {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_says_no_of_what_it_does_not_name() {
        let flags = Verdict::UDP | Verdict::TCP << Verdict::SOME_SHIFT;
        assert_eq!(says(flags, TCP), Says::Some);
        assert_eq!(says(flags, UDP), Says::Yes);
        assert_eq!(says(flags, SCTP), Says::No);
        assert_eq!(says(flags, 1), Says::No);
        assert_eq!(says(Verdict::OTHERS, 1), Says::Yes);
    }

    #[test]
    fn what_is_remembered_lasts_as_long_as_its_protocol_lets_it() {
        let now = 100_000 * SECOND;
        let live =
            |protocol, closing, idle: u64| is_live(protocol, closing, now - idle * SECOND, now);
        assert!(live(TCP, false, 3 * 3600) && !live(TCP, false, 3 * 3600 + 1));
        assert!(live(TCP, true, 120) && !live(TCP, true, 121));
        assert!(live(UDP, false, 120) && !live(UDP, false, 121));
        assert!(live(1, false, 30) && !live(1, false, 31));
    }

    #[test]
    fn each_port_has_its_bit() {
        let mut chunk = PortsChunk::default();
        for port in [0u16, 63, 64, 511] {
            chunk.bits[word_of(port)] |= 1 << (port % 64);
        }
        for port in 0..CHUNK_PORTS {
            let expected = [0, 63, 64, 511].contains(&port);
            assert_eq!(has_port(chunk.bits[word_of(port)], port), expected);
            assert_eq!(word_of(port + 1024), word_of(port));
        }
    }
}
