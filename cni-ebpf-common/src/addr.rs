//! One address type for both families: IPv4 as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2).

/// An IPv6 or IPv4-mapped address, network byte order.
pub type Addr = [u8; 16];

/// First 12 bytes of an IPv4-mapped address.
pub const V4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Bits in front of the IPv4 part: what an IPv4 prefix length grows by in a map key.
pub const V4_PREFIX_BITS: u32 = 96;

/// Maps an IPv4 address, given in network byte order.
#[inline(always)]
pub const fn from_v4(v4: [u8; 4]) -> Addr {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

/// Whether the address is IPv4-mapped.
#[inline(always)]
pub fn is_v4(addr: &Addr) -> bool {
    let mut i = 0;
    while i < 12 {
        if addr[i] != V4_PREFIX[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// The IPv4 part of a mapped address.
#[inline(always)]
pub const fn v4(addr: &Addr) -> [u8; 4] {
    [addr[12], addr[13], addr[14], addr[15]]
}

/// `fe80::1`, the pods' IPv6 gateway (link scope: the same for every pod on every node).
pub const GATEWAY_V6: Addr = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// `169.254.1.1`, the pods' IPv4 gateway.
pub const GATEWAY_V4: [u8; 4] = [169, 254, 1, 1];
