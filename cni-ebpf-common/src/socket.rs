//! Sockets that talk to Services: their destination becomes a backend's when they connect, so that
//! their packets need no translation.

use crate::addr::Addr;

/// The one value of the array `socket_settings`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketSettings {
    /// Cookie of the node's own network namespace: sockets of all others are pods'.
    pub host_netns: u64,
    /// Bits of [`SocketSettings`]: whose sockets get a backend from now on. What has one keeps it.
    pub serve: u32,
    pub pad: u32,
}

impl SocketSettings {
    /// TCP of pods. Their datagrams are translated one by one, so that a flow whose backend is gone
    /// can be given another.
    pub const PODS: u32 = 1;
    /// TCP and UDP of processes in the node's own network namespace.
    pub const HOST: u32 = 2;
}

/// Key of the LRU maps `sockets` and `socket_backends`: a socket, and whom it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey {
    /// The kernel's number of the socket, never used again.
    pub cookie: u64,
    pub addr: Addr,
    pub port_be: u16,
    pub pad: [u8; 6],
}

/// Value of both. `sockets`: the frontend that the process means, by the backend that it reaches.
/// `socket_backends`: the backend of a socket that sends datagrams, by the frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketPeer {
    pub addr: Addr,
    pub port_be: u16,
    pub pad: [u8; 6],
}

/// Most sockets of which the frontend is remembered. A forgotten one that is connected goes on, and
/// names its backend when it is asked for its peer.
pub const MAX_SOCKETS: u32 = 65_536;
/// Most frontends of sockets that send datagrams without being connected. A forgotten one chooses
/// again, mostly the same.
pub const MAX_SOCKET_BACKENDS: u32 = 16_384;

/// A client of frontends with affinity, whose address a socket may not have yet: its network
/// namespace, in the prefix of addresses that nobody has (`100::/64`, RFC 6666).
#[inline(always)]
pub const fn client(netns: u64) -> Addr {
    let [a, b, c, d, e, f, g, h] = netns.to_be_bytes();
    [1, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

/// A number for a socket: it stays with a backend as long as the list of backends is the same.
#[inline(always)]
pub const fn hash(cookie: u64) -> u32 {
    // Cookies count up: the folding spreads them over the bits that a modulus looks at (splitmix64).
    let mut h = cookie.wrapping_add(0x9e37_79b9_7f4a_7c15);
    h = (h ^ h >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ h >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (h >> 32) as u32
}

const _: () = assert!(size_of::<SocketSettings>() == 16);
const _: () = assert!(size_of::<SocketKey>() == 32 && align_of::<SocketKey>() == 8);
const _: () = assert!(size_of::<SocketPeer>() == 24);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod promises plain bytes")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays only, sizes asserted: no padding, any bits valid.
    unsafe impl aya::Pod for super::SocketSettings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SocketKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SocketPeer {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_made_one_after_the_other_spread_over_the_backends() {
        for backends in [2u32, 3, 10] {
            let mut counts = vec![0u32; backends as usize];
            for cookie in 1..=10_000 {
                counts[(hash(cookie) % backends) as usize] += 1;
            }
            let fair = 10_000 / backends;
            for count in counts {
                assert!(count.abs_diff(fair) < fair / 5, "{count} of {fair}");
            }
        }
    }

    #[test]
    fn clients_differ_by_their_namespace_and_are_nobodys_address() {
        assert_eq!(client(0x0102)[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(client(0x0102)[14..], [1, 2]);
        assert_ne!(client(1), client(1 << 40));
    }
}
