//! Addresses of Services that a node answers for on its link.

use crate::addr::Addr;

/// Key of the map `announcements`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnnouncementKey {
    pub addr: Addr,
    /// The uplink.
    pub ifindex: u32,
}

/// Value of `announcements`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// From then on it is not answered for; nanoseconds of the coarse monotonic clock.
    pub until_ns: u64,
    /// The uplink's MAC.
    pub mac: [u8; 6],
    pub pad: [u8; 2],
}

/// Most addresses that are announced, of all Services.
pub const MAX_ANNOUNCEMENTS: u32 = 8192;

const _: () = assert!(size_of::<AnnouncementKey>() == 20);
const _: () = assert!(size_of::<Announcement>() == 16 && align_of::<Announcement>() == 8);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod promises plain bytes")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays only, sizes asserted: no padding, any bits valid.
    unsafe impl aya::Pod for super::AnnouncementKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Announcement {}
}
