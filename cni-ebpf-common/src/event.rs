//! What the programs tell of single packets, to who listens.

use crate::{policy::EndpointPolicy, verdict::DropReason};

/// The one value of the array `event_settings`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventSettings {
    /// Until then somebody listens; nanoseconds of the coarse monotonic clock.
    pub until_ns: u64,
}

/// Value of the per-CPU array `event_budget`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventBudget {
    /// Which second, counted as the clock does.
    pub second: u64,
    /// Events told in it.
    pub told: u64,
    /// Events that were not told, since the map was made: beyond the budget, or without room.
    pub lost: u64,
}

/// One packet, in the ring buffer `events`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds of the coarse monotonic clock.
    pub time_ns: u64,
    /// The interface of the program.
    pub ifindex: u32,
    /// A [`DropReason`], or what of [`Event`] is none; with [`Event::AUDITED`] what would have been one.
    pub what: u32,
    /// Bytes of the whole packet.
    pub length: u32,
    /// Bytes of `head` that hold its beginning.
    pub captured: u32,
    pub head: [u8; Event::HEAD],
}

impl Event {
    /// Bytes of a packet that are told: Ethernet, IP with some options, ports.
    pub const HEAD: usize = 96;
    /// A connection begins that goes from the pod.
    pub const BEGINS_EGRESS: u32 = 0x100;
    /// A connection begins that comes to the pod.
    pub const BEGINS_INGRESS: u32 = 0x101;
    /// Policies don't allow it, and only watch.
    pub const AUDITED: u32 = 0x200;
}

/// Bytes of `events`: a power of two of pages.
pub const EVENTS_BYTES: u32 = 1 << 20;
/// Events that a CPU tells in a second: what happens more often is sampled.
pub const EVENTS_A_SECOND: u64 = 2_000;
/// What the programs try to copy of a packet, the most first: a helper takes sizes that are known.
pub const HEAD_SIZES: [u32; 5] = [Event::HEAD as u32, 74, 54, 42, 34];

const _: () = assert!(size_of::<EventSettings>() == 8 && size_of::<EventBudget>() == 24);
const _: () = assert!(size_of::<Event>() == 24 + Event::HEAD);
const _: () = assert!(DropReason::LEN < Event::BEGINS_EGRESS);
const _: () = assert!(Event::BEGINS_INGRESS == Event::BEGINS_EGRESS | EndpointPolicy::INGRESS);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod promises plain bytes")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays only, sizes asserted: no padding, any bits valid.
    unsafe impl aya::Pod for super::EventSettings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::EventBudget {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Event {}
}
