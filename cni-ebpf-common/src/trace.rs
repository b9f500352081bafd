//! Packets of one talk, followed through the programs. Only the traced object has this: the one that is
//! attached otherwise pays nothing for it.

use crate::addr::Addr;

/// The one value of the array `trace_settings`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceSettings {
    /// Not 0: only what goes between one of the first end and one of the second.
    pub both: u32,
    pub pad: u32,
}

/// Bits of a value of `trace_ends`: which ends of the talk have the address.
pub const FIRST: u32 = 1;
pub const SECOND: u32 = 2;

/// Whether a packet is of the talk. `source` and `destination`: the bits of its addresses.
#[inline(always)]
pub const fn is_meant(both: bool, source: u32, destination: u32) -> bool {
    if both {
        source & FIRST != 0 && destination & SECOND != 0
            || source & SECOND != 0 && destination & FIRST != 0
    } else {
        (source | destination) & FIRST != 0
    }
}

/// A packet's way through one program, in the ring buffer `traces`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Nanoseconds of the coarse monotonic clock.
    pub time_ns: u64,
    /// The interface of the program.
    pub ifindex: u32,
    /// A [`Program`].
    pub program: u32,
    /// What the program gave back, as the kernel has it (`TC_ACT_…`).
    pub action: i32,
    /// Bytes of the whole packet.
    pub length: u32,
    /// Bytes of `head` that hold the beginning of its IP packet, as it came.
    pub captured: u32,
    /// How many steps there were; those beyond [`Walk::STEPS`] are not told.
    pub count: u32,
    pub head: [u8; Walk::HEAD],
    pub steps: [Step; Walk::STEPS],
}

impl Walk {
    /// Bytes of a packet that are told: IP with some extensions, and ports.
    pub const HEAD: usize = 80;
    /// Steps that are told.
    pub const STEPS: usize = 12;
}

/// Something that the program did or found out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// A [`StepKind`].
    pub kind: u32,
    /// What `kind` says it is.
    pub value: u32,
    /// The endpoint that it is about, where it is about one.
    pub endpoint: u32,
    pub sport_be: u16,
    pub dport_be: u16,
    pub src: Addr,
    pub dst: Addr,
}

/// Where a walk was.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    FromPod = 0,
    ToPod = 1,
    FromUplink = 2,
    ToUplink = 3,
}

impl Program {
    /// All, in order of their numbers.
    pub const ALL: [Self; 4] = [Self::FromPod, Self::ToPod, Self::FromUplink, Self::ToUplink];
}

/// Kinds of steps.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// A Service's frontend got a backend for it; `value`: 1 the one that its flow has, 2 a new one.
    Balanced = 0,
    /// It got other addresses and ports: those of the step.
    Rewritten = 1,
    /// Policies were asked for the endpoint. `value`: a [`Judgement`], and a direction in the upper half.
    Judged = 2,
    /// Its other direction came by the host's stack, which has to see this one, too.
    ByStack = 3,
    /// It goes this way; `value`: a `Path`.
    Path = 4,
    /// It is dropped, or for the host's stack to refuse; `value`: a `DropReason`.
    Dropped = 5,
}

impl StepKind {
    /// All, in order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Balanced,
        Self::Rewritten,
        Self::Judged,
        Self::ByStack,
        Self::Path,
        Self::Dropped,
    ];
}

/// What policies said.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nobody asks anything of this endpoint, and the packet neither begins nor ends anything.
    NotAsked = 0,
    /// It is of a connection that is allowed.
    Known = 1,
    /// It begins a connection that is allowed.
    Begins = 2,
    /// It is not allowed, and policies only watch.
    Audited = 3,
    /// It is not allowed.
    Denied = 4,
    /// Only what is remembered was asked for, and it is not remembered.
    NotKnown = 5,
}

impl Judgement {
    /// All, in order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::NotAsked,
        Self::Known,
        Self::Begins,
        Self::Audited,
        Self::Denied,
        Self::NotKnown,
    ];
}

/// Bits that a direction is moved by in [`StepKind::Judged`].
pub const DIRECTION_SHIFT: u32 = 16;
/// Rows of `trace_ends`: addresses of both ends.
pub const MAX_TRACE_ENDS: u32 = 1024;
/// Bytes of `traces`: a power of two of pages.
pub const TRACES_BYTES: u32 = 1 << 20;

const _: () = assert!(size_of::<TraceSettings>() == 8 && size_of::<Step>() == 48);
const _: () = assert!(size_of::<Walk>() == 32 + Walk::HEAD + Walk::STEPS * size_of::<Step>());

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod promises plain bytes")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays only, sizes asserted: no padding, any bits valid.
    unsafe impl aya::Pod for super::TraceSettings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Walk {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_talk_is_both_directions_between_its_ends_and_of_one_end_all_it_has() {
        assert!(is_meant(true, FIRST, SECOND) && is_meant(true, SECOND, FIRST));
        assert!(is_meant(true, FIRST | SECOND, FIRST | SECOND), "itself");
        for (source, destination) in [(FIRST, FIRST), (SECOND, SECOND), (FIRST, 0), (0, SECOND)] {
            assert!(!is_meant(true, source, destination));
        }
        assert!(is_meant(false, FIRST, 0) && is_meant(false, 0, FIRST));
        assert!(!is_meant(false, 0, 0));
    }
}
