//! Addresses as registers hold them: comparing and copying is a few instructions, where byte
//! arrays would become loops. The byte order is that of the wire.

use cni_ebpf_common::addr::Addr;

/// An IPv6 or IPv4-mapped address; in memory its 16 bytes are a map key's.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ip {
    high: u64,
    low: u64,
}

impl Ip {
    /// `::`, also what a map row holds for "no address in this family".
    pub(crate) const UNSPECIFIED: Self = Self { high: 0, low: 0 };

    /// From two halves as they lie in memory.
    #[inline(always)]
    pub(crate) const fn from_words([high, low]: [u64; 2]) -> Self {
        Self { high, low }
    }

    /// The halves as they lie in memory.
    #[inline(always)]
    pub(crate) const fn words(self) -> [u64; 2] {
        [self.high, self.low]
    }

    /// Maps an IPv4 address, given as it lies in memory.
    #[inline(always)]
    pub(crate) const fn from_v4(raw: u32) -> Self {
        let [a, b, c, d] = raw.to_ne_bytes();
        Self {
            high: 0,
            low: u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d]),
        }
    }

    /// From a map row.
    #[inline(always)]
    pub(crate) const fn from_addr(addr: &Addr) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *addr;
        Self {
            high: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            low: u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
        }
    }

    /// The IPv4 part of a mapped address, as it lies in memory.
    #[inline(always)]
    pub(crate) const fn v4(self) -> u32 {
        let [_, _, _, _, a, b, c, d] = self.low.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    /// Whether it is IPv4-mapped.
    #[inline(always)]
    pub(crate) const fn is_v4(self) -> bool {
        self.high == 0 && Self::from_v4(self.v4()).low == self.low
    }

    /// Several receivers: IPv4 224.0.0.0/4 or 255.255.255.255, IPv6 ff00::/8.
    #[inline(always)]
    pub(crate) const fn is_group(self) -> bool {
        if self.is_v4() {
            let v4 = u32::from_be(self.v4());
            v4 >> 28 == 0xe || v4 == u32::MAX
        } else {
            u64::from_be(self.high) >> 56 == 0xff
        }
    }

    /// IPv4 127.0.0.0/8 or IPv6 `::1`: never on a wire (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3).
    #[inline(always)]
    pub(crate) const fn is_loopback(self) -> bool {
        if self.is_v4() {
            u32::from_be(self.v4()) >> 24 == 127
        } else {
            self.high == 0 && self.low == 1u64.to_be()
        }
    }

    /// IPv6 fe80::/10.
    #[inline(always)]
    pub(crate) const fn is_link_local(self) -> bool {
        u64::from_be(self.high) >> 54 == 0xfe80 >> 6
    }

    /// What every kernel sends from before it has an address: unspecified or link-local.
    #[inline(always)]
    pub(crate) const fn is_of_start_up(self) -> bool {
        let unspecified = self.high == 0 && (self.low == 0 || self.low == Self::from_v4(0).low);
        unspecified || self.is_link_local()
    }

    /// Ones' complement sum of its 16-bit words, not folded.
    #[inline(always)]
    pub(crate) const fn sum(self) -> u64 {
        let mask = 0xffff_ffff;
        (self.high & mask) + (self.high >> 32) + (self.low & mask) + (self.low >> 32)
    }
}

/// What ones' complement sums change by when a pair of addresses takes another's place; both pairs
/// are of one family.
#[inline(always)]
pub(crate) const fn sum_change(old: [Ip; 2], new: [Ip; 2]) -> u32 {
    let plus = fold(new[0].sum() + new[1].sum());
    let minus = fold(old[0].sum() + old[1].sum());
    fold(plus as u64 + !minus as u64)
}

/// What they change by when a word, as it lies in memory, takes another's place.
#[inline(always)]
pub(crate) const fn word_change(old: u32, new: u32) -> u32 {
    add_changes(new, !old)
}

/// What they change by in all.
#[inline(always)]
pub(crate) const fn add_changes(a: u32, b: u32) -> u32 {
    fold(a as u64 + b as u64)
}

/// Folds to 32 bits.
#[inline(always)]
const fn fold(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac {
    a: u16,
    b: u16,
    c: u16,
}

impl Mac {
    /// From three words as they lie in memory.
    #[inline(always)]
    pub(crate) const fn from_words([a, b, c]: [u16; 3]) -> Self {
        Self { a, b, c }
    }

    /// Three words as they lie in memory.
    #[inline(always)]
    pub(crate) const fn words(self) -> [u16; 3] {
        [self.a, self.b, self.c]
    }

    /// From a map row.
    #[inline(always)]
    pub(crate) const fn from_bytes([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self {
            a: u16::from_ne_bytes([a, b]),
            b: u16::from_ne_bytes([c, d]),
            c: u16::from_ne_bytes([e, f]),
        }
    }

    /// Ones' complement sum of its words, not folded.
    #[inline(always)]
    pub(crate) const fn sum(self) -> u64 {
        self.a as u64 + self.b as u64 + self.c as u64
    }
}
