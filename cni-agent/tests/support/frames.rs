//! Builds frames by hand, so that they can be wrong in a chosen place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub type Mac = [u8; 6];

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const ARP: u16 = 0x0806;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// An Ethernet frame.
pub fn ethernet(dst: Mac, src: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &kind.to_be_bytes(), payload].concat()
}

/// An IP packet between two addresses of one family, TTL 64.
pub fn ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(src, dst, protocol, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6(src, dst, protocol, payload),
        _ => panic!("{src} and {dst} are of different families"),
    }
}

fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + payload.len()).expect("a short packet");
    let [high, low] = total.to_be_bytes();
    let mut header = vec![0x45, 0, high, low, 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
    header.extend(src.octets());
    header.extend(dst.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(payload);
    header
}

fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("a short packet");
    let [high, low] = len.to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, high, low, next, 64];
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

/// A UDP datagram; IPv4 allows it to have no checksum, and nothing on the way looks.
pub fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + data.len()).expect("a short packet");
    let words = [from, to, len, 0];
    [&words.map(u16::to_be_bytes).concat()[..], data].concat()
}

/// A TCP segment without options.
pub fn tcp(data: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..4].copy_from_slice(&[0x80, 0, 0, 80]);
    segment[12] = 5 << 4;
    segment[13] = 0x10;
    segment.extend(data);
    segment
}

/// An ARP packet for IPv4 over Ethernet.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    for (mac, ip) in [sender, target] {
        packet.extend(mac);
        packet.extend(ip.octets());
    }
    packet
}

/// An ICMPv6 message with its checksum.
pub fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], body].concat();
    let sum = icmpv6_checksum(src, dst, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The checksum of an ICMPv6 message; 0 when the one in it is right.
pub fn icmpv6_checksum(src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) -> u16 {
    let len = u32::try_from(message.len()).expect("a short message");
    let pseudo = [
        &src.octets()[..],
        &dst.octets(),
        &len.to_be_bytes(),
        &[0, 0, 0, ICMPV6],
    ];
    checksum(&[&pseudo.concat()[..], message].concat())
}

/// A neighbour solicitation for `target` with the asker's MAC.
pub fn solicitation(src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let body = [&[0; 4][..], &target.octets(), &[1, 1], &mac].concat();
    let mut packet = ipv6(src, dst, ICMPV6, &icmpv6(src, dst, 135, &body));
    packet[7] = 255;
    packet
}

/// Sets the TTL or hop limit of a frame and corrects the checksum.
pub fn set_ttl(frame: &mut [u8], ttl: u8) {
    if frame[12..14] == IPV4.to_be_bytes() {
        frame[22] = ttl;
        fix_ipv4(frame);
    } else {
        frame[21] = ttl;
    }
}

/// Corrects the checksum of a frame's IPv4 header after a change.
pub fn fix_ipv4(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 0xf) * 4;
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..end]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// Whether the checksum of a frame's IPv4 header is right.
pub fn ipv4_is_sound(frame: &[u8]) -> bool {
    let end = 14 + usize::from(frame[14] & 0xf) * 4;
    checksum(&frame[14..end]) == 0
}

/// The Internet's checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}
