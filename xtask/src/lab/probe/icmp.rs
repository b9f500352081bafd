//! ICMP and ICMPv6 echo through a raw socket.

use super::{ANSWER_LIMIT, fill, first_difference};
use anyhow::{Context, Result, bail, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// Bytes before the payload of an echo message.
pub(super) const HEADER: usize = 8;

/// Echo request and reply types of the family.
fn types(v6: bool) -> (u8, u8) {
    if v6 { (128, 129) } else { (8, 0) }
}

/// A raw socket connected to one target, with an identifier of its own.
pub(super) struct Echo {
    pub(super) socket: UdpSocket,
    v6: bool,
    id: u16,
}

impl Echo {
    /// # Errors
    /// Without CAP_NET_RAW, and without a route to the target.
    pub(super) fn connect(target: IpAddr) -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let v6 = target.is_ipv6();
        let (family, proto) = match v6 {
            false => (AddressFamily::INET, ipproto::ICMP),
            true => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let raw = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(proto))
            .context("making a raw socket")?;
        // A UdpSocket is any datagram socket to the standard library; raw ones behave alike.
        let socket = UdpSocket::from(raw);
        socket
            .connect(SocketAddr::new(target, 0))
            .with_context(|| format!("route to {target}"))?;
        Ok(Self {
            socket,
            v6,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Sends one request.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn send(&self, seq: u16, payload: &[u8]) -> std::io::Result<()> {
        let mut packet = vec![0; HEADER + payload.len()];
        packet[0] = types(self.v6).0;
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        packet[6..8].copy_from_slice(&seq.to_be_bytes());
        packet[HEADER..].copy_from_slice(payload);
        if !self.v6 {
            // The kernel fills in the checksum for ICMPv6 only.
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        self.socket.send(&packet).map(|_| ())
    }

    /// Sequence number and payload, if a received packet is an answer to this socket.
    pub(super) fn answer<'a>(&self, packet: &'a [u8]) -> Option<(u16, &'a [u8])> {
        // Raw IPv4 sockets deliver the IP header, raw IPv6 ones do not.
        let start = if self.v6 {
            0
        } else {
            usize::from(packet.first()? & 15) * 4
        };
        let message = packet.get(start..)?;
        let header = message.get(..HEADER)?;
        let ours = header[0] == types(self.v6).1 && header[4..6] == self.id.to_be_bytes();
        ours.then(|| {
            (
                u16::from_be_bytes([header[6], header[7]]),
                &message[HEADER..],
            )
        })
    }
}

/// Sends one echo request with `size` bytes and checks the answer.
///
/// # Errors
/// When no answer, or a damaged one, comes in time.
pub(crate) fn ping(target: IpAddr, size: usize) -> Result<Duration> {
    let echo = Echo::connect(target)?;
    let mut payload = vec![0; size];
    fill(&mut payload, 0);
    let start = Instant::now();
    echo.send(1, &payload)
        .with_context(|| format!("sending to {target}"))?;
    let mut buffer = vec![0; 65_536];
    loop {
        let left = ANSWER_LIMIT.saturating_sub(start.elapsed());
        if left.is_zero() {
            bail!("no echo reply within {ANSWER_LIMIT:?}");
        }
        echo.socket.set_read_timeout(Some(left))?;
        let length = match echo.socket.recv(&mut buffer) {
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                continue;
            }
            received => received.context("waiting for an echo reply")?,
        };
        if let Some((1, answer)) = echo.answer(&buffer[..length]) {
            ensure!(
                answer.len() == size,
                "{size} bytes sent, {} came back",
                answer.len()
            );
            if let Some(at) = first_difference(answer, 0) {
                bail!("the echo differs from byte {at} on");
            }
            return Ok(start.elapsed());
        }
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(packet: &[u8]) -> u16 {
    let sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn a_packet_with_its_checksum_sums_to_zero() {
        for length in [8, 9, 64, 1501] {
            let mut packet: Vec<u8> = (0..length).map(|n: u32| (n * 7) as u8).collect();
            packet[2..4].fill(0);
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(checksum(&packet), 0, "{length}");
        }
    }
}
