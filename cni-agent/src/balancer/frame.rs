//! Tells a link, unasked, where an address is from now on: gratuitous ARP (RFC 5227 §3) and unsolicited
//! neighbour advertisements (RFC 4861 §7.2.6).
#![expect(
    unsafe_code,
    reason = "rustix has packet sockets, but no type for their addresses"
)]

use crate::{datapath::Announced, model::Mac};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType,
    addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
    sendto, socket_with,
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr,
};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;

/// Sends it once, from the interface's MAC.
///
/// # Errors
/// The interface is gone or down, or packet sockets are not allowed (CAP_NET_RAW).
pub(super) fn tell(row: &Announced) -> io::Result<()> {
    let frame = match row.address {
        IpAddr::V4(address) => gratuitous_arp(address, row.mac),
        IpAddr::V6(address) => unsolicited_advertisement(address, row.mac),
    };
    // Without a protocol it receives nothing.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    let interface = Interface::new(row.ifindex)?;
    sendto(&socket, &frame, SendFlags::empty(), &interface)?;
    Ok(())
}

/// In the form of a request, which more devices heed than the other.
fn gratuitous_arp(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], mac, 0x0806);
    // Ethernet, IPv4, the lengths of their addresses, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

fn unsolicited_advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    // Type 136, override; then the target's MAC.
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(mac.0);
    let [high, low] = checksum(address, &message).to_be_bytes();
    (message[2], message[3]) = (high, low);
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, 0x86dd);
    frame.extend([0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: [u8; 6], from: Mac, kind: u16) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(from.0);
    frame.extend(kind.to_be_bytes());
    frame
}

/// Of an ICMPv6 message of even length to all nodes (RFC 4443 §2.3).
fn checksum(from: Ipv6Addr, message: &[u8]) -> u16 {
    let words = message.chunks_exact(2);
    let words = words.map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let addresses = from.segments().into_iter().chain(ALL_NODES.segments());
    let more = [32, u16::from(ICMPV6)];
    let sum: u32 = words.chain(addresses).chain(more).map(u32::from).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or_default()
}

/// Address of a packet socket.
struct Interface(libc::sockaddr_ll);

impl Interface {
    fn new(ifindex: u32) -> io::Result<Self> {
        Ok(Self(libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: i32::try_from(ifindex).map_err(io::Error::other)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        }))
    }
}

// SAFETY: the pointer is to a `sockaddr_ll` that lives during the call, and the length is its size.
unsafe impl SocketAddrArg for Interface {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        let len = size_of::<libc::sockaddr_ll>() as SocketAddrLen;
        f(ptr::from_ref(&self.0).cast(), len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0xee, 0, 0, 0, 1]);

    #[test]
    fn gratuitous_arp_asks_for_the_address_that_it_comes_from() {
        let expected = [
            &[0xff; 6][..],
            &MAC.0,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &MAC.0,
            &[192, 0, 2, 7],
            &[0; 6],
            &[192, 0, 2, 7],
        ]
        .concat();
        assert_eq!(gratuitous_arp(Ipv4Addr::new(192, 0, 2, 7), MAC), expected);
    }

    #[test]
    fn an_unsolicited_advertisement_has_a_sum_that_its_receivers_take() {
        let address: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let frame = unsolicited_advertisement(address, MAC);
        assert_eq!(frame.len(), 14 + 40 + 32);
        let message = &frame[54..];
        // With the sum in it the sum is none.
        assert_eq!(checksum(address, message), 0);
        assert_ne!(message[2..4], [0, 0]);
        assert_eq!(message[4..8], [0x20, 0, 0, 0], "override");
        assert_eq!(message[24..], [&[2, 1][..], &MAC.0].concat());
        assert_eq!(frame[20..22], [ICMPV6, 255]);
    }
}
