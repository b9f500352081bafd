//! Flows: what was decided for the first packet of a connection, so that the others follow it.
//! Pointers are the programs'; what is decided from values is decided here.

use crate::addr::Addr;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// Key of the LRU map `flows`: a direction of a connection as its packets are met.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub src: Addr,
    pub dst: Addr,
    pub sport_be: u16,
    pub dport_be: u16,
    pub protocol: u8,
    pub pad: [u8; 3],
}

/// Value of `flows`. A client's flow to a frontend has two rows: one for its packets, one for the
/// answers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// When a packet was last seen, to the second; nanoseconds of the coarse monotonic clock.
    pub seen_ns: u64,
    /// Addresses and ports that the packets get; none where they stay as they are. The other direction's key
    /// is what they get, with source and destination exchanged.
    pub src: Addr,
    pub dst: Addr,
    pub sport_be: u16,
    pub dport_be: u16,
    /// Bits of [`Flow`], for the life of the row.
    pub flags: u16,
    /// Not 0: one side has ended it, its ports may be used anew. This and the next change while the row
    /// lives: bytes of their own, since CPUs that write bits of one word would undo each other's.
    pub closing: u8,
    /// Not 0: its other direction came by the host's stack from a pod: the stack has to see this one, too.
    pub by_stack: u8,
    /// `OUTSIDE`: the uplink by which the client is reached.
    pub ifindex: u32,
    pub pad: u32,
}

impl Flow {
    /// From a client to a frontend: the destination becomes the backend.
    pub const TO_BACKEND: u16 = 1;
    /// From a backend to a client: the source becomes the frontend.
    pub const ANSWER: u16 = 2;
    /// The client is its own backend and hears the frontend: both addresses are exchanged, and answers
    /// are translated where they leave the pod.
    pub const HAIRPIN: u16 = 4;
    /// The client came by an uplink.
    pub const OUTSIDE: u16 = 8;
    /// Its packets go to the backend's node as they are, which translates them and answers the client: there
    /// is no row of answers here.
    pub const DIRECT: u16 = 16;
}

/// Value of the array `endpoint_flows`, by the endpoint's number modulo the size. The programs set
/// a word when it gets its first flow; a word that is set for nothing costs a look-up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointFlows {
    /// Not 0: the pod has been a client of frontends.
    pub client: u32,
    /// Not 0: pods have reached it by the host's stack.
    pub by_stack: u32,
    /// Not 0: clients outside have reached it by frontends.
    pub outside: u32,
    pub pad: u32,
}

/// Key of the LRU map `fragments`: an IP packet in fragments.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    pub src: Addr,
    pub dst: Addr,
    pub id: u32,
    pub protocol: u8,
    pub pad: [u8; 3],
}

/// Value of `fragments`: what only the first fragment holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPorts {
    pub sport_be: u16,
    pub dport_be: u16,
}

/// Most rows of `flows`: two for each connection through a frontend. When it is full, the least
/// recently used are forgotten: such a connection chooses a backend again.
pub const MAX_FLOWS: u32 = 65_536;
/// Rows of `endpoint_flows`.
pub const ENDPOINT_FLOWS: u32 = 4096;
/// Most packets in fragments at one time; the oldest are forgotten first.
pub const MAX_FRAGMENTS: u32 = 8192;

const SECOND: u64 = 1_000_000_000;
/// A UDP flow without packets for longer chooses a backend anew: as long as conntrack keeps a
/// stream (`nf_conntrack_udp_timeout_stream`).
pub const UDP_IDLE_NS: u64 = 120 * SECOND;
/// Another frontend may take the ports of a connection without packets for longer: beyond two
/// hours the kernel's own keep-alive would have been seen.
pub const TAKEN_IDLE_NS: u64 = 3 * 3600 * SECOND;
/// How long a TCP socket that closed first refuses most connections from the same port: Linux's
/// TIME_WAIT, and a second for the clock.
pub const TIME_WAIT_NS: u64 = 61 * SECOND;
/// `seen_ns` is written at most this often, and the other direction's row looked after.
pub const REFRESH_NS: u64 = SECOND;

/// How long ago a flow was seen; clocks of two CPUs may differ a little.
#[inline(always)]
pub const fn idle_ns(seen_ns: u64, now_ns: u64) -> u64 {
    now_ns.saturating_sub(seen_ns)
}

/// Whether a packet of a known flow to a frontend goes to the backend that the flow has. `begins`:
/// the packet begins a connection (TCP's SYN, SCTP's INIT). `seen_ns`: of either direction.
#[inline(always)]
pub const fn keeps_backend(protocol: u8, begins: bool, seen_ns: u64, now_ns: u64) -> bool {
    if protocol == UDP {
        idle_ns(seen_ns, now_ns) <= UDP_IDLE_NS
    } else {
        !begins
    }
}

/// Whether a client that last began a flow at `seen_ns` keeps its backend.
#[inline(always)]
pub const fn keeps_affinity(affinity_secs: u32, seen_ns: u64, now_ns: u64) -> bool {
    idle_ns(seen_ns, now_ns) <= affinity_secs as u64 * SECOND
}

/// Whether a new flow of another frontend may have the row of this one for its answers. `flags`,
/// `closing` and `seen_ns` are the row's. `last`: no other port is left to try; then an ended connection
/// is enough, although its backend may refuse a new one from the same port for a while (TIME_WAIT).
#[inline(always)]
pub const fn is_free(
    protocol: u8,
    flags: u16,
    closing: bool,
    seen_ns: u64,
    now_ns: u64,
    last: bool,
) -> bool {
    let idle = idle_ns(seen_ns, now_ns);
    // Of a direct connection that the host's stack carried nothing is to be turned back.
    flags & (Flow::ANSWER | Flow::TO_BACKEND) == 0
        || closing && (last || idle > TIME_WAIT_NS)
        || idle
            > if protocol == UDP {
                UDP_IDLE_NS
            } else {
                TAKEN_IDLE_NS
            }
}

/// Whether a packet of a backend to a client is an answer to what the row tells of. `accepts`: it
/// accepts a connection (TCP's SYN with ACK, SCTP's INIT ACK). If not, the client uses its port for
/// the backend directly by now.
#[inline(always)]
pub const fn is_answer(
    protocol: u8,
    closing: bool,
    accepts: bool,
    seen_ns: u64,
    now_ns: u64,
) -> bool {
    if protocol == UDP {
        idle_ns(seen_ns, now_ns) <= UDP_IDLE_NS
    } else {
        !accepts || !closing
    }
}

/// Whether packets of a flow are still the host's stack's, which carried their other direction last at
/// `seen_ns`. UDP says nowhere that a new flow begins by another way.
#[inline(always)]
pub const fn is_by_stack(protocol: u8, seen_ns: u64, now_ns: u64) -> bool {
    protocol != UDP || idle_ns(seen_ns, now_ns) <= UDP_IDLE_NS
}

/// A number for a flow, the same for each of its packets: a retransmitted SYN must not choose
/// another backend. The words are those of [`FlowKey`].
#[inline(always)]
pub const fn hash(words: [u64; 5]) -> u32 {
    // Multiply and fold, with the odd constants of the golden ratio and of splitmix64.
    let mut h = 0x9e37_79b9_7f4a_7c15u64;
    let mut i = 0;
    while i < 5 {
        h = (h ^ words[i]).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h ^= h >> 32;
        i += 1;
    }
    // A port lies in the last word's upper half, which only the folding has brought down: once more,
    // so that each bit of it reaches those that a modulus looks at.
    (h.wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
}

/// SCTP's checksum (RFC 9260 appendix A) after a change of 4 bytes that `trailing` bytes follow.
/// Both values are as the bytes lie in memory, read as little endian; `delta` is old xor new. CRCs
/// are linear, so that the change is the CRC of the difference: no byte of the packet is read.
#[inline(always)]
pub const fn crc32c_changed(crc: u32, delta: u32, trailing: u32) -> u32 {
    // The difference, moved to the end of the packet: times x^(32 + 8 * trailing).
    let mut change = times(delta, X32);
    let mut power = 0;
    while power < POWERS.len() {
        if trailing >> power & 1 != 0 {
            change = times(change, POWERS[power]);
        }
        power += 1;
    }
    crc ^ change
}

/// CRC32c's polynomial, lowest power first (bit 31 is x^0).
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^32.
const X32: u32 = POLYNOMIAL;
/// x^(8 * 2^n).
const POWERS: [u32; 16] = {
    let mut powers = [0; 16];
    powers[0] = 0x8000_0000 >> 8;
    let mut i = 1;
    while i < 16 {
        powers[i] = times(powers[i - 1], powers[i - 1]);
        i += 1;
    }
    powers
};

/// Product of two polynomials modulo CRC32c's.
#[inline(always)]
const fn times(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 32 {
        // a's coefficient of x^bit, without a branch: the verifier walks each way.
        let mask = 0u32.wrapping_sub(a >> (31 - bit) & 1);
        product ^= b & mask;
        b = b >> 1 ^ (POLYNOMIAL & 0u32.wrapping_sub(b & 1));
        bit += 1;
    }
    product
}

const _: () = assert!(size_of::<FlowKey>() == 40 && align_of::<FlowKey>() == 2);
const _: () = assert!(size_of::<Flow>() == 56 && align_of::<Flow>() == 8);
const _: () = assert!(size_of::<EndpointFlows>() == 16);
const _: () = assert!(size_of::<FragmentKey>() == 40 && size_of::<FragmentPorts>() == 4);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod promises plain bytes")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays only, sizes asserted: no padding, any bits valid.
    unsafe impl aya::Pod for super::FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::EndpointFlows {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FragmentKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FragmentPorts {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_keeps_its_backend_until_it_begins_anew_and_udp_until_it_was_idle() {
        let now = 1000 * SECOND;
        let long_ago = now - UDP_IDLE_NS - 1;
        assert!(keeps_backend(TCP, false, 0, now));
        assert!(!keeps_backend(TCP, true, now, now));
        assert!(!keeps_backend(SCTP, true, now, now));
        assert!(keeps_backend(UDP, false, long_ago + 1, now));
        assert!(!keeps_backend(UDP, false, long_ago, now));
        assert!(keeps_backend(UDP, false, now + 5, now), "a clock behind");
    }

    #[test]
    fn ports_are_free_when_their_flow_ended_or_was_idle_for_long() {
        let now = 100_000 * SECOND;
        let free = |protocol, flags, idle| is_free(protocol, flags, false, now - idle, now, true);
        assert!(!free(TCP, Flow::ANSWER, TAKEN_IDLE_NS));
        assert!(free(TCP, Flow::ANSWER, TAKEN_IDLE_NS + 1));
        let ended = |idle, last| is_free(TCP, Flow::ANSWER, true, now - idle, now, last);
        assert!(ended(0, true), "no other port is left");
        assert!(!ended(TIME_WAIT_NS, false), "the server may refuse it");
        assert!(ended(TIME_WAIT_NS + 1, false));
        assert!(!free(UDP, Flow::ANSWER, UDP_IDLE_NS));
        assert!(free(UDP, Flow::ANSWER, UDP_IDLE_NS + 1));
        assert!(free(TCP, 0, 0), "of the host's stack");
        assert!(!free(TCP, Flow::TO_BACKEND, 0));
    }

    #[test]
    fn a_client_keeps_its_backend_for_the_seconds_of_its_service() {
        let now = 1000 * SECOND;
        assert!(keeps_affinity(10, now - 10 * SECOND, now));
        assert!(!keeps_affinity(10, now - 10 * SECOND - 1, now));
        assert!(keeps_affinity(u32::MAX, 0, now));
    }

    #[test]
    fn datagrams_go_by_the_stack_until_it_has_carried_none_for_long() {
        let now = 1000 * SECOND;
        assert!(is_by_stack(UDP, now - UDP_IDLE_NS, now));
        assert!(!is_by_stack(UDP, now - UDP_IDLE_NS - 1, now));
        assert!(is_by_stack(TCP, 0, now), "its SYN tells");
    }

    #[test]
    fn an_ended_flow_answers_no_new_connection() {
        let now = 1000 * SECOND;
        assert!(is_answer(TCP, true, false, now, now), "the last segments");
        assert!(is_answer(TCP, false, true, 0, now), "its own beginning");
        assert!(!is_answer(TCP, true, true, now, now));
        assert!(is_answer(UDP, false, false, now - UDP_IDLE_NS, now));
        assert!(!is_answer(UDP, false, false, now - UDP_IDLE_NS - 1, now));
    }

    #[test]
    fn ports_in_a_row_spread_over_backends() {
        for count in [2u32, 3, 7, 8, 16] {
            let mut hits = vec![0u32; count as usize];
            for port in 30_000..37_000u16 {
                let [a, b] = port.to_be_bytes();
                let ports = u64::from(u32::from_ne_bytes([a, b, 0, 80]));
                hits[(hash([1, 2, 3, 4, ports << 32 | 6]) % count) as usize] += 1;
            }
            let fair = 7000 / count;
            let even = |hits: &u32| hits.abs_diff(fair) < fair / 5;
            assert!(hits.iter().all(even), "{hits:?}");
        }
    }

    /// Bit by bit, as RFC 9260 defines it.
    fn crc32c(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1));
            }
        }
        !crc
    }

    #[test]
    fn the_changed_checksum_is_that_of_the_changed_packet() {
        assert_eq!(
            crc32c(b"123456789"),
            0xe306_9283,
            "the check value of CRC32c"
        );
        for len in [4usize, 5, 12, 13, 100, 1480, 65_535] {
            let before: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let mut after = before.clone();
            after[..4].copy_from_slice(&[0x9c, 0x40, 0x00, 0x35]);
            let word = |p: &[u8]| u32::from_le_bytes([p[0], p[1], p[2], p[3]]);
            let delta = word(&before) ^ word(&after);
            let changed = crc32c_changed(crc32c(&before), delta, len as u32 - 4);
            assert_eq!(changed, crc32c(&after), "{len} bytes");
        }
    }
}
