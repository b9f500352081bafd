//! Services: which address and port clients use, and which pods answer.

use crate::addr::Addr;

/// Key of the map `frontends`. Port 0 with protocol 0 is the address itself: whether any of its
/// ports is served.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    pub addr: Addr,
    pub port_be: u16,
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    pub pad: u8,
}

/// Value of `frontends`. A row is replaced whole when its backends change, so that a program sees
/// the old list or the new one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Number of the list of backends, [`BackendKey::list`]; never used again for other backends
    /// while a program may read it.
    pub list: u32,
    /// Backends of the list, in slots from 0.
    pub count: u32,
    /// Seconds that a client keeps its backend after it was last heard; 0: each flow chooses.
    pub affinity_secs: u32,
}

/// Key of the map `backends`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    pub list: u32,
    pub slot: u32,
}

/// Value of `backends`, and of `affinity` in part.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    pub addr: Addr,
    pub port_be: u16,
    pub pad: u16,
}

/// Key of the LRU map `affinity`: a client of a frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    pub client: Addr,
    pub frontend: FrontendKey,
}

/// Value of `affinity`: the backend that the client keeps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// When a flow of the client was last seen to begin; nanoseconds of the coarse monotonic clock.
    pub seen_ns: u64,
    pub backend: Backend,
    pub pad: u32,
}

/// Most frontends: a port of a Service counts once for each ClusterIP, and so does each ClusterIP
/// itself. What finds no room is left to kube-proxy, and the agent's status says so.
pub const MAX_FRONTENDS: u32 = 16_384;
/// Most backends of all frontends; both lists of a frontend count while one replaces the other.
pub const MAX_BACKENDS: u32 = 131_072;
/// Most clients with affinity that are remembered; the least recently seen are forgotten first.
pub const MAX_AFFINITY: u32 = 32_768;

/// Backends that a new flow tries while its client's port is taken.
pub const MOST_ATTEMPTS: u32 = 8;

/// The slot to try for a flow; `count` is not 0.
#[inline(always)]
pub const fn slot(hash: u32, attempt: u32, count: u32) -> u32 {
    // Not `hash + attempt`, which may wrap and skip slots.
    (hash % count + attempt) % count
}

const _: () = assert!(size_of::<FrontendKey>() == 20 && align_of::<FrontendKey>() == 2);
const _: () = assert!(size_of::<Frontend>() == 12);
const _: () = assert!(size_of::<BackendKey>() == 8);
const _: () = assert!(size_of::<Backend>() == 20);
const _: () = assert!(size_of::<AffinityKey>() == 36 && size_of::<Affinity>() == 32);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod promises plain bytes")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays only, sizes asserted: no padding, any bits valid.
    unsafe impl aya::Pod for super::FrontendKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Frontend {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::BackendKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Backend {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::AffinityKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Affinity {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_is_tried_once_before_any_is_tried_again() {
        for hash in [0, 1, 7, u32::MAX - 1, u32::MAX] {
            for count in 1..=MOST_ATTEMPTS {
                let mut tried: Vec<u32> = (0..count).map(|i| slot(hash, i, count)).collect();
                tried.sort_unstable();
                assert_eq!(tried, (0..count).collect::<Vec<_>>(), "{hash} of {count}");
            }
        }
    }
}
