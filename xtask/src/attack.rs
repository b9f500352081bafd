//! `xtask attack`: what a hostile pod sends, for the trial of policies: floods, scans, and fragments made to
//! slip past who looks at the first of them only (RFC 1858, RFC 3128). Not for people, and only inside a pod of
//! a test cluster.

use anyhow::{Context, Result, ensure};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, TcpHeader};
use rustix::{
    io::Errno,
    net::{AddressFamily, SendFlags, SocketAddrV4, SocketType, ipproto, sendto, socket},
};
use std::{net::Ipv4Addr, os::fd::OwnedFd, thread, time::Duration};

/// The hidden verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The pod's own address.
    #[arg(long)]
    from: Ipv4Addr,
    #[arg(long)]
    to: Ipv4Addr,
    #[command(subcommand)]
    kind: Kind,
}

#[derive(clap::Subcommand)]
enum Kind {
    /// So many SYNs to a port, each from another one.
    Flood { port: u16, count: u32 },
    /// A SYN to each port.
    Scan,
    /// Connections to `forbidden` in fragments that look like ones to `allowed`.
    Fragments { allowed: u16, forbidden: u16 },
}

/// Sends it and prints how many packets that were.
///
/// # Errors
/// When the kernel refuses a raw socket.
pub(crate) fn run(args: &Args) -> Result<()> {
    let sender = Sender {
        raw: socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))
            .context("a raw socket, which needs CAP_NET_RAW")?,
        from: args.from,
        to: args.to,
    };
    let sent = match args.kind {
        Kind::Flood { port, count } => {
            let mut sent = 0;
            for number in 0..count {
                let own = u16::try_from(1 + number % 65_535)?;
                sent += sender.whole(&sender.syn(own, port, number)?)?;
            }
            sent
        }
        Kind::Scan => {
            let mut sent = 0;
            for port in 1..=u16::MAX {
                sent += sender.whole(&sender.syn(50_000, port, 1)?)?;
            }
            sent
        }
        Kind::Fragments { allowed, forbidden } => {
            let mut sent = 0;
            for round in 0..50u16 {
                sent += evade(&sender, allowed, forbidden, round)?;
                // Reassembly has few places for unfinished packets.
                thread::sleep(Duration::from_millis(2));
            }
            sent
        }
    };
    ensure!(sent > 0, "nothing could be sent");
    println!("{sent}");
    Ok(())
}

/// One packet or fragment.
#[derive(Clone, Copy)]
struct Piece<'a> {
    /// In units of 8 bytes.
    offset: u16,
    more: bool,
    payload: &'a [u8],
}

/// Each way once; returns how many packets that were.
fn evade(sender: &Sender, allowed: u16, forbidden: u16, round: u16) -> Result<u32> {
    let own = 30_000 + round;
    let good = sender.syn(own, allowed, 1)?;
    let bad = sender.syn(own, forbidden, 1)?;
    let piece = |offset, more, payload| Piece {
        offset,
        more,
        payload,
    };
    let ways: [&[Piece<'_>]; 8] = [
        // The first holds the ports and nothing else.
        &[piece(0, true, &bad[..8]), piece(1, false, &bad[8..])],
        // The rest comes first.
        &[piece(1, false, &bad[8..]), piece(0, true, &bad[..8])],
        // The second rewrites the ports of the first.
        &[piece(0, true, &good), piece(0, false, &bad)],
        &[
            piece(0, true, &good),
            piece(0, true, &bad[..8]),
            piece(3, false, &bad[..8]),
        ],
        // The same the other way round.
        &[
            piece(0, true, &bad[..16]),
            piece(0, true, &good[..16]),
            piece(2, false, &good[16..]),
        ],
        // From the flags on.
        &[piece(0, true, &good[..16]), piece(1, false, &bad[8..])],
        // A whole packet that says that more comes, then the forbidden one as if it belonged to it.
        &[piece(0, true, &good), piece(0, false, &bad[..16])],
        // Nothing but ports.
        &[piece(0, true, &bad[..8])],
    ];
    let mut sent = 0;
    for (number, way) in (0..).zip(ways) {
        for piece in way {
            sent += sender.piece(*piece, 100 * round + number, &[])?;
        }
    }
    // Behind options, so that the ports lie elsewhere; and whole, by its true name.
    for options in [[1u8; 4].as_slice(), &[1; 40]] {
        sent += sender.piece(piece(0, false, &bad), 100 * round + 90, options)?;
    }
    Ok(sent + sender.whole(&bad)?)
}

struct Sender {
    raw: OwnedFd,
    from: Ipv4Addr,
    to: Ipv4Addr,
}

impl Sender {
    fn syn(&self, from: u16, to: u16, sequence: u32) -> Result<Vec<u8>> {
        let mut tcp = TcpHeader::new(from, to, sequence, 64_240);
        tcp.syn = true;
        let ip = self.header(TcpHeader::MIN_LEN)?;
        tcp.checksum = tcp.calc_checksum_ipv4(&ip, &[])?;
        Ok(tcp.to_bytes().to_vec())
    }

    fn header(&self, payload: usize) -> Result<Ipv4Header> {
        let length = u16::try_from(payload)?;
        let (from, to) = (self.from.octets(), self.to.octets());
        Ok(Ipv4Header::new(length, 64, IpNumber::TCP, from, to)?)
    }

    fn whole(&self, payload: &[u8]) -> Result<u32> {
        let piece = Piece {
            offset: 0,
            more: false,
            payload,
        };
        self.piece(piece, 0, &[])
    }

    /// How many packets were sent: none where there is no room for it now.
    fn piece(&self, piece: Piece<'_>, identification: u16, options: &[u8]) -> Result<u32> {
        let mut header = self.header(piece.payload.len() + options.len())?;
        header.identification = identification;
        header.dont_fragment = false;
        header.more_fragments = piece.more;
        header.fragment_offset = IpFragOffset::try_new(piece.offset)?;
        header.options = Ipv4Options::try_from(options)?;
        header.header_checksum = header.calc_header_checksum();
        let mut packet = header.to_bytes().to_vec();
        packet.extend_from_slice(piece.payload);
        let to = SocketAddrV4::new(self.to, 0);
        match sendto(&self.raw, &packet, SendFlags::empty(), &to) {
            Ok(_) => Ok(1),
            Err(Errno::NOBUFS | Errno::AGAIN) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}
