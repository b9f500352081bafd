//! Numbered packets at a steady rate, each echoed: what is lost while something happens.

use super::{Port, icmp::Echo, udp};
use crate::lab::NetNs;
use anyhow::{Context, Result, bail};
use std::{
    net::{IpAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// No run is longer, whatever happens to its owner.
const LONGEST: Duration = Duration::from_secs(900);
/// Answers that are later than this are lost.
const LATE: Duration = Duration::from_secs(1);
/// Bytes of each packet: its number and the time it was sent.
const SIZE: usize = 16;

/// What the packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Icmp,
    Udp,
}

/// What became of the packets.
#[derive(Clone, Debug)]
pub(crate) struct SteadyReport {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    /// Packets that came back more than once.
    pub(crate) duplicates: u64,
    /// Round-trip times in order.
    pub(crate) rtts: Vec<Duration>,
}

impl SteadyReport {
    /// The round-trip time that `percent` of the packets do not exceed; zero if none came back.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let index = (self.rtts.len() * percent / 100).min(self.rtts.len().saturating_sub(1));
        self.rtts.get(index).copied().unwrap_or_default()
    }
}

enum Channel {
    Icmp(Echo),
    Udp(UdpSocket),
}

impl Channel {
    fn socket(&self) -> &UdpSocket {
        match self {
            Self::Icmp(echo) => &echo.socket,
            Self::Udp(socket) => socket,
        }
    }

    fn send(&self, number: u64, packet: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Icmp(echo) => echo.send(number as u16, packet),
            Self::Udp(socket) => socket.send(packet).map(|_| ()),
        }
    }

    fn answer<'a>(&self, packet: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Icmp(echo) => echo.answer(packet).map(|(_, payload)| payload),
            Self::Udp(_) => Some(packet),
        }
    }
}

/// A running pinger.
pub(crate) struct Steady {
    running: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<(Vec<u32>, Vec<Duration>)>,
}

impl Steady {
    /// Starts sending from a namespace to `target`, where a [`super::Server`] runs for UDP.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn start(ns: &NetNs, target: IpAddr, kind: Kind, per_second: u32) -> Result<Self> {
        let channel = ns.run(|| {
            Ok(match kind {
                Kind::Icmp => Channel::Icmp(Echo::connect(target)?),
                Kind::Udp => Channel::Udp(udp::connect(target, Port::Echo)?),
            })
        })?;
        channel
            .socket()
            .set_read_timeout(Some(Duration::from_millis(50)))?;
        let channel = Arc::new(channel);
        let running = Arc::new(AtomicBool::new(true));
        let sent = Arc::new(AtomicU64::new(0));
        let (done, all_sent) = mpsc::channel();
        let epoch = Instant::now();
        let sender = {
            let (channel, running, sent) = (channel.clone(), running.clone(), sent.clone());
            let interval = Duration::from_secs(1) / per_second.max(1);
            thread::spawn(move || {
                let result = send(&channel, &running, &sent, epoch, interval);
                drop(done);
                result.map(|()| sent.load(Ordering::Relaxed))
            })
        };
        let receiver = thread::spawn(move || receive(&channel, &sent, epoch, &all_sent));
        Ok(Self {
            running,
            sender,
            receiver,
        })
    }

    /// Stops sending, waits for late answers and counts.
    ///
    /// # Errors
    /// When a packet could not be sent at all.
    pub(crate) fn finish(self) -> Result<SteadyReport> {
        self.running.store(false, Ordering::Relaxed);
        let Ok(sent) = self.sender.join() else {
            bail!("the sender panicked")
        };
        let Ok((seen, mut rtts)) = self.receiver.join() else {
            bail!("the receiver panicked")
        };
        let sent = sent?;
        rtts.sort_unstable();
        let arrived = seen.iter().filter(|&&times| times > 0).count() as u64;
        let duplicates = seen
            .iter()
            .map(|times| u64::from(times.saturating_sub(1)))
            .sum();
        Ok(SteadyReport {
            sent,
            lost: sent.saturating_sub(arrived),
            duplicates,
            rtts,
        })
    }
}

fn send(
    channel: &Channel,
    running: &AtomicBool,
    sent: &AtomicU64,
    epoch: Instant,
    interval: Duration,
) -> Result<()> {
    let mut next = Instant::now();
    while running.load(Ordering::Relaxed) && epoch.elapsed() < LONGEST {
        let number = sent.load(Ordering::Relaxed);
        let mut packet = [0; SIZE];
        packet[..8].copy_from_slice(&number.to_be_bytes());
        packet[8..].copy_from_slice(&(epoch.elapsed().as_nanos() as u64).to_be_bytes());
        // Counted first: the answer may be there before this thread runs again.
        sent.store(number + 1, Ordering::Relaxed);
        match channel.send(number, &packet) {
            // An ICMP error for an earlier packet surfaces here; this packet counts as lost.
            Err(error) if error.raw_os_error().is_some_and(is_report_of_loss) => {}
            result => result.with_context(|| format!("sending packet {number}"))?,
        }
        next += interval;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Errors that tell of the network, not of the program.
fn is_report_of_loss(errno: i32) -> bool {
    use rustix::io::Errno;
    [
        Errno::CONNREFUSED,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::NOBUFS,
        Errno::NETDOWN,
    ]
    .contains(&Errno::from_raw_os_error(errno))
}

fn receive(
    channel: &Channel,
    sent: &AtomicU64,
    epoch: Instant,
    all_sent: &mpsc::Receiver<()>,
) -> (Vec<u32>, Vec<Duration>) {
    let (mut seen, mut rtts) = (Vec::new(), Vec::new());
    let mut buffer = [0; 2048];
    let mut deadline = None;
    loop {
        if deadline.is_none() && all_sent.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
            deadline = Some(Instant::now() + LATE);
        }
        let complete = rtts.len() as u64 >= sent.load(Ordering::Relaxed);
        if deadline.is_some_and(|deadline| complete || Instant::now() > deadline) {
            return (seen, rtts);
        }
        let Ok(length) = channel.socket().recv(&mut buffer) else {
            continue;
        };
        let now = epoch.elapsed();
        let Some(packet) = channel.answer(&buffer[..length]) else {
            continue;
        };
        let Ok(packet) = <[u8; SIZE]>::try_from(packet) else {
            continue;
        };
        let (number, at) = packet.split_at(8);
        let read = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0u64, |sum, &byte| sum << 8 | u64::from(byte))
        };
        let (number, at) = (read(number), Duration::from_nanos(read(at)));
        if number >= sent.load(Ordering::Relaxed) {
            continue;
        }
        let index = number as usize;
        if seen.len() <= index {
            seen.resize(index + 1, 0);
        }
        seen[index] += 1;
        if seen[index] == 1 {
            rtts.push(now.saturating_sub(at));
        }
    }
}
