//! Numbered packets at a steady rate, each echoed: what is lost while something happens.

use super::{Port, icmp::Echo, udp};
use crate::lab::NetNs;
use anyhow::{Context, Result, bail};
use rustix::net::sockopt;
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
/// Receive buffer: a busy machine may keep the receiver waiting, which is no loss of the network.
const BUFFER: usize = 4 << 20;

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
    receiver: JoinHandle<Vec<u32>>,
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
        sockopt::set_socket_recv_buffer_size_force(channel.socket(), BUFFER)?;
        let channel = Arc::new(channel);
        let running = Arc::new(AtomicBool::new(true));
        let sent = Arc::new(AtomicU64::new(0));
        let (done, all_sent) = mpsc::channel();
        let sender = {
            let (channel, running, sent) = (channel.clone(), running.clone(), sent.clone());
            let interval = Duration::from_secs(1) / per_second.max(1);
            thread::spawn(move || {
                let result = send(&channel, &running, &sent, interval);
                drop(done);
                result.map(|()| sent.load(Ordering::Relaxed))
            })
        };
        let receiver = thread::spawn(move || receive(&channel, &sent, &all_sent));
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
        let Ok(seen) = self.receiver.join() else {
            bail!("the receiver panicked")
        };
        let sent = sent?;
        let arrived = seen.iter().filter(|&&times| times > 0).count() as u64;
        let duplicates = seen
            .iter()
            .map(|times| u64::from(times.saturating_sub(1)))
            .sum();
        Ok(SteadyReport {
            sent,
            lost: sent.saturating_sub(arrived),
            duplicates,
        })
    }
}

fn send(
    channel: &Channel,
    running: &AtomicBool,
    sent: &AtomicU64,
    interval: Duration,
) -> Result<()> {
    let begin = Instant::now();
    let mut next = begin;
    while running.load(Ordering::Relaxed) && begin.elapsed() < LONGEST {
        let number = sent.load(Ordering::Relaxed);
        let packet = number.to_be_bytes();
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

/// How often each number came back, until all have or the last are late.
fn receive(channel: &Channel, sent: &AtomicU64, all_sent: &mpsc::Receiver<()>) -> Vec<u32> {
    let mut seen = Vec::new();
    let mut arrived = 0;
    let mut buffer = [0; 2048];
    let mut deadline = None;
    loop {
        if deadline.is_none() && all_sent.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
            deadline = Some(Instant::now() + LATE);
        }
        let complete = arrived >= sent.load(Ordering::Relaxed);
        if deadline.is_some_and(|deadline| complete || Instant::now() > deadline) {
            return seen;
        }
        // Errors are the time limit, which lets the loop look around, and reports of loss.
        let Ok(length) = channel.socket().recv(&mut buffer) else {
            continue;
        };
        let Some(packet) = channel.answer(&buffer[..length]) else {
            continue;
        };
        let Ok(number) = packet.try_into().map(u64::from_be_bytes) else {
            continue;
        };
        if number >= sent.load(Ordering::Relaxed) {
            continue;
        }
        let index = number as usize;
        if seen.len() <= index {
            seen.resize(index + 1, 0);
        }
        seen[index] += 1;
        arrived += u64::from(seen[index] == 1);
    }
}
