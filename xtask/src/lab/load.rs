//! Load generators: the figures of the demo's comparison and of the bench.
//!
//! Each runs in the network namespace of the calling thread against a [`super::probe::Server`]
//! and is bounded by the time given.

use super::probe::Port;
use anyhow::{Context, Result, bail, ensure};
use rustix::net::sockopt::set_socket_linger;
use serde::{Deserialize, Serialize};
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

/// How long a connection may stand still.
const STALL_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a write to a stream.
const BLOCK: usize = 131_072;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Load {
    /// TCP in one direction over some connections; the unit is a byte.
    Stream { connections: u8 },
    /// A request and its answer over one TCP connection, one after the other.
    RoundTrip { bytes: u16 },
    /// Connect, a request of one byte, its answer, close.
    Connect,
    /// The same, ended by a reset: no port stays in TIME_WAIT, where a server would refuse it to clients
    /// that come by another address.
    ConnectReset,
    /// UDP datagrams in one direction; those that arrived are counted.
    Datagrams { bytes: u16 },
}

/// What a run did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Bytes, round trips, connections or datagrams that arrived.
    pub(crate) units: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Median duration of a unit in microseconds, where single units are timed.
    pub(crate) p50_us: Option<f64>,
    /// The duration that 99 % do not exceed, likewise.
    pub(crate) p99_us: Option<f64>,
}

impl Outcome {
    /// Units per second.
    pub(crate) fn rate(&self) -> f64 {
        self.units as f64 / self.seconds
    }
}

impl Load {
    /// Sends the load to `target` for about `time`.
    ///
    /// # Errors
    /// When a connection fails or stands still.
    pub(crate) fn run(self, target: IpAddr, time: Duration) -> Result<Outcome> {
        ensure!(
            time <= Duration::from_secs(60),
            "a load runs for at most a minute"
        );
        match self {
            Self::Stream { connections } => stream(target, connections, time),
            Self::RoundTrip { bytes } => round_trips(target, usize::from(bytes), time),
            Self::Connect => connects(target, time, false),
            Self::ConnectReset => connects(target, time, true),
            Self::Datagrams { bytes } => datagrams(target, usize::from(bytes), time),
        }
    }
}

fn connect(target: IpAddr, port: Port) -> Result<TcpStream> {
    let address = SocketAddr::new(target, port as u16);
    let stream = TcpStream::connect_timeout(&address, STALL_LIMIT)
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL_LIMIT))?;
    stream.set_write_timeout(Some(STALL_LIMIT))?;
    Ok(stream)
}

fn stream(target: IpAddr, connections: u8, time: Duration) -> Result<Outcome> {
    let streams = (0..connections)
        .map(|_| connect(target, Port::Discard))
        .collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let threads: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || -> Result<u64> {
                let block = vec![0x5a; BLOCK];
                while start.elapsed() < time {
                    stream.write_all(&block)?;
                }
                stream.shutdown(Shutdown::Write)?;
                let mut arrived = [0; 8];
                stream
                    .read_exact(&mut arrived)
                    .context("the receiver does not answer")?;
                Ok(u64::from_be_bytes(arrived))
            })
        })
        .collect();
    let mut units = 0;
    for thread in threads {
        let Ok(arrived) = thread.join() else {
            bail!("a sender panicked")
        };
        units += arrived?;
    }
    Ok(Outcome {
        units,
        seconds: start.elapsed().as_secs_f64(),
        p50_us: None,
        p99_us: None,
    })
}

fn round_trips(target: IpAddr, bytes: usize, time: Duration) -> Result<Outcome> {
    let mut stream = connect(target, Port::RoundTrip)?;
    let request = vec![0x5a; bytes];
    let mut answer = vec![0; bytes];
    timed(time, || {
        stream.write_all(&request)?;
        Ok(stream.read_exact(&mut answer)?)
    })
}

fn connects(target: IpAddr, time: Duration, reset: bool) -> Result<Outcome> {
    timed(time, || {
        let mut stream = connect(target, Port::Connect)?;
        stream.write_all(&[0x5a])?;
        // The server closes first, so that no port of this side stays in TIME_WAIT.
        let mut answer = Vec::with_capacity(1);
        stream.read_to_end(&mut answer)?;
        ensure!(answer == [0x5a], "the answer is {answer:?}");
        if reset {
            set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
        Ok(())
    })
}

/// Does something over and over for some time and times each turn.
fn timed(time: Duration, mut turn: impl FnMut() -> Result<()>) -> Result<Outcome> {
    let mut nanos = Vec::with_capacity(65_536);
    let start = Instant::now();
    let mut now = start;
    while now - start < time {
        turn()?;
        let after = Instant::now();
        nanos.push((after - now).as_nanos() as u64);
        now = after;
    }
    let seconds = (now - start).as_secs_f64();
    nanos.sort_unstable();
    let percentile = |percent: usize| {
        let index = (nanos.len() * percent / 100).min(nanos.len() - 1);
        nanos[index] as f64 / 1000.0
    };
    Ok(Outcome {
        units: nanos.len() as u64,
        seconds,
        p50_us: Some(percentile(50)),
        p99_us: Some(percentile(99)),
    })
}

fn datagrams(target: IpAddr, bytes: usize, time: Duration) -> Result<Outcome> {
    ensure!(bytes > 0, "an empty datagram asks for the count");
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((target, Port::Discard as u16))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    ask_count(&socket).context("before the run")?;
    let packet = vec![0x5a; bytes];
    let start = Instant::now();
    while start.elapsed() < time {
        // The clock is read once per 32 packets.
        for _ in 0..32 {
            socket.send(&packet)?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let units = ask_count(&socket).context("after the run")?;
    Ok(Outcome {
        units,
        seconds,
        p50_us: None,
        p99_us: None,
    })
}

/// Asks the receiver how many datagrams came since the last question. The question waits in the
/// same queue as the datagrams, and is lost where that queue is full: so it is repeated.
fn ask_count(socket: &UdpSocket) -> Result<u64> {
    // The second answer to an earlier, repeated question would be taken for this one's.
    socket.set_nonblocking(true)?;
    let mut answer = [0; 8];
    while socket.recv(&mut answer).is_ok() {}
    socket.set_nonblocking(false)?;
    for _ in 0..20 {
        socket.send(&[])?;
        if socket.recv(&mut answer).is_ok() {
            return Ok(u64::from_be_bytes(answer));
        }
    }
    bail!("the receiver does not answer")
}
