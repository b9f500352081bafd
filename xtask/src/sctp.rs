//! `xtask sctp`: the beginning of an SCTP association (RFC 9260, INIT and INIT ACK) in user space, for kernels
//! that have no SCTP: real packets of that protocol, so that policies about it can be tried by Kubernetes' own
//! tests. IPv4. Not for people: the images of test clusters hold it beside agnhost.

use anyhow::{Context, Result, bail};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrV4, SocketType, ipproto, recvfrom, sendto,
    socket,
    sockopt::{Timeout, set_socket_timeout},
};
use std::{
    net::Ipv4Addr,
    os::fd::OwnedFd,
    process::exit,
    time::{Duration, Instant},
};

/// The hidden verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(clap::Subcommand)]
enum Role {
    /// Answer on this port until ended.
    Serve { port: u16 },
    /// Ask there; prints `TIMEOUT` to standard error if nobody answers, as agnhost does.
    Connect {
        at: SocketAddrV4,
        /// Milliseconds.
        #[arg(long, default_value_t = 3000)]
        timeout: u64,
    },
}

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const CLIENT_TAG: u32 = 0x4641_4952;

/// Plays one end.
///
/// # Errors
/// When the kernel refuses a raw socket.
pub(crate) fn run(args: &Args) -> Result<()> {
    let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::SCTP))
        .context("a raw socket, which needs CAP_NET_RAW")?;
    match args.role {
        Role::Serve { port } => serve(&raw, port),
        Role::Connect { at, timeout } => {
            if !connect(&raw, at, Duration::from_millis(timeout))? {
                eprintln!("TIMEOUT");
                exit(1);
            }
            Ok(())
        }
    }
}

fn serve(raw: &OwnedFd, port: u16) -> Result<()> {
    loop {
        let Some((from, packet)) = receive(raw)? else {
            continue;
        };
        if packet.to == port && packet.chunk == INIT {
            let answer = chunk(port, packet.from, packet.initiate_tag, INIT_ACK);
            let to = SocketAddrV4::new(from, 0);
            // A client that has gone is no fault of the server.
            let _unreachable = sendto(raw, &answer, SendFlags::empty(), &to);
        }
    }
}

fn connect(raw: &OwnedFd, at: SocketAddrV4, limit: Duration) -> Result<bool> {
    let end = Instant::now() + limit;
    let own = 20_000 + u16::try_from(std::process::id() % 40_000)?;
    let ask = chunk(own, at.port(), 0, INIT);
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        if now >= end {
            return Ok(false);
        }
        if now >= next {
            next = now + Duration::from_secs(1);
            let to = SocketAddrV4::new(*at.ip(), 0);
            if let Err(error) = sendto(raw, &ask, SendFlags::empty(), &to) {
                bail!("OTHER: {error}");
            }
        }
        let wait = next.min(end) - now;
        let wait = wait.max(Duration::from_millis(1));
        set_socket_timeout(raw, Timeout::Recv, Some(wait))?;
        let Some((from, packet)) = receive(raw)? else {
            continue;
        };
        let answer = (from, packet.from, packet.to, packet.tag, packet.chunk);
        if answer == (*at.ip(), at.port(), own, CLIENT_TAG, INIT_ACK) {
            return Ok(true);
        }
    }
}

struct Packet {
    from: u16,
    to: u16,
    tag: u32,
    chunk: u8,
    initiate_tag: u32,
}

/// None: nothing in time, or nothing that begins an association.
fn receive(raw: &OwnedFd) -> Result<Option<(Ipv4Addr, Packet)>> {
    let mut bytes = [0u8; 2048];
    let length = match recvfrom(raw, &mut bytes, RecvFlags::empty()) {
        Ok((_, length, _)) => length,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let bytes = bytes.get(..length).unwrap_or_default();
    Ok(parse(bytes))
}

/// A raw socket gives the IP header too.
fn parse(bytes: &[u8]) -> Option<(Ipv4Addr, Packet)> {
    let header = usize::from(bytes.first()? & 0x0f) * 4;
    let from: [u8; 4] = bytes.get(12..16)?.try_into().ok()?;
    let sctp = bytes.get(header..)?;
    let word = |at: usize| Some(u32::from_be_bytes(sctp.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_be_bytes(sctp.get(at..at + 2)?.try_into().ok()?));
    let sent = u32::from_le_bytes(sctp.get(8..12)?.try_into().ok()?);
    let mut unsigned = sctp.to_vec();
    unsigned.get_mut(8..12)?.fill(0);
    (crc32c(&unsigned) == sent).then_some(())?;
    let packet = Packet {
        from: half(0)?,
        to: half(2)?,
        tag: word(4)?,
        chunk: *sctp.get(12)?,
        initiate_tag: word(16)?,
    };
    Some((from.into(), packet))
}

/// A packet with one chunk of type INIT or INIT ACK (RFC 9260, 3.3.2 and 3.3.3; without parameters).
fn chunk(from: u16, to: u16, tag: u32, kind: u8) -> Vec<u8> {
    let mut packet = Vec::with_capacity(32);
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([kind, 0, 0, 20]);
    packet.extend(CLIENT_TAG.to_be_bytes());
    packet.extend(65_535u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(1u32.to_be_bytes());
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(sum & 1))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_rfc() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_packet_is_read_as_it_was_written_and_not_if_it_is_damaged() {
        let mut bytes = vec![0; 20];
        bytes[0] = 0x45;
        bytes[12..16].copy_from_slice(&[192, 0, 2, 7]);
        bytes.extend(chunk(1000, 9003, 7, INIT));
        let (from, packet) = parse(&bytes).unwrap();
        assert_eq!(from, Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!((packet.from, packet.to, packet.tag), (1000, 9003, 7));
        assert_eq!((packet.chunk, packet.initiate_tag), (INIT, CLIENT_TAG));
        bytes[40] ^= 1;
        assert!(parse(&bytes).is_none());
    }
}
