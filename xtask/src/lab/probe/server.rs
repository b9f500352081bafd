//! The answering side of all probes and loads: one thread per port, dual-stack.

use super::super::NetNs;
use anyhow::{Context, Result};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt},
};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// A connection without traffic is closed after this.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// The ports of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Port {
    /// TCP and UDP: what comes goes back.
    Echo = 7007,
    /// TCP: swallows everything until the end, then answers the number of bytes. UDP: counts; an
    /// empty datagram asks for the count (big-endian), which begins anew then.
    Discard = 7009,
    /// TCP, one connection at a time without a thread of its own: what comes goes back.
    RoundTrip = 7010,
    /// TCP: reads once, writes the same back, closes.
    Connect = 7011,
}

/// A running server; dropping it ends its threads.
pub(crate) struct Server {
    running: Arc<AtomicBool>,
    /// The threads wait for their sockets and for the end of this pair.
    _stop: UnixStream,
}

impl Server {
    /// Starts a server in a namespace.
    ///
    /// # Errors
    /// When a port is taken.
    pub(crate) fn start(ns: &NetNs) -> Result<Self> {
        ns.run(Self::start_here)
    }

    /// Starts a server in the namespace of the calling thread.
    ///
    /// # Errors
    /// When a port is taken.
    pub(crate) fn start_here() -> Result<Self> {
        let (stop, keep) = UnixStream::pair()?;
        let stop = Arc::new(stop);
        let running = Arc::new(AtomicBool::new(true));
        for (port, serve) in [
            (Port::Echo, echo as fn(TcpStream)),
            (Port::Discard, discard),
            (Port::RoundTrip, echo),
            (Port::Connect, answer_once),
        ] {
            let listener = TcpListener::from(socket(port, SocketType::STREAM)?);
            let stop = Arc::clone(&stop);
            let threads = matches!(port, Port::Echo | Port::Discard);
            thread::spawn(move || accept(&listener, &stop, threads, serve));
        }
        let udp = UdpSocket::from(socket(Port::Echo, SocketType::DGRAM)?);
        // A late turn of this thread on a busy machine must not look like loss.
        sockopt::set_socket_recv_buffer_size_force(&udp, 4 << 20)?;
        thread::spawn(move || udp_echo(&udp, &stop));
        let sink = UdpSocket::from(socket(Port::Discard, SocketType::DGRAM)?);
        let still_running = Arc::clone(&running);
        thread::spawn(move || udp_discard(&sink, &still_running));
        Ok(Self {
            running,
            _stop: keep,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
    }
}

/// A socket bound to all addresses of both families.
fn socket(port: Port, kind: SocketType) -> Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET6, kind, SocketFlags::CLOEXEC, None)?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port as u16));
    bind(&socket, &address).with_context(|| format!("binding port {}", port as u16))?;
    if kind == SocketType::STREAM {
        listen(&socket, 1024)?;
    }
    Ok(socket)
}

/// Waits until `socket` is readable; false when the server stops.
fn readable(socket: &impl AsFd, stop: &UnixStream) -> bool {
    let mut fds = [
        PollFd::new(socket, PollFlags::IN),
        PollFd::new(stop, PollFlags::IN),
    ];
    loop {
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
            Ok(_) => return fds[1].revents().is_empty(),
        }
    }
}

fn accept(listener: &TcpListener, stop: &UnixStream, threads: bool, serve: fn(TcpStream)) {
    while readable(listener, stop) {
        // A connection that its client has already reset is not worth a word.
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        let limits = stream
            .set_read_timeout(Some(IDLE_LIMIT))
            .and_then(|()| stream.set_write_timeout(Some(IDLE_LIMIT)))
            .and_then(|()| stream.set_nodelay(true));
        match (limits, threads) {
            (Err(_), _) => {}
            (Ok(()), true) => drop(thread::spawn(move || serve(stream))),
            (Ok(()), false) => serve(stream),
        }
    }
}

/// Errors end the connection; the client reports them from its side.
fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 65_536];
    while let Some(length) = read(&mut stream, &mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn discard(mut stream: TcpStream) {
    let mut buffer = vec![0; 262_144];
    let mut total = 0u64;
    while let Some(length) = read(&mut stream, &mut buffer) {
        if length == 0 {
            // A client that is gone does not want the number.
            drop(stream.write_all(&total.to_be_bytes()));
            return;
        }
        total += length as u64;
    }
}

fn answer_once(mut stream: TcpStream) {
    let mut buffer = [0; 2048];
    if let Some(length) = read(&mut stream, &mut buffer) {
        drop(stream.write_all(&buffer[..length]));
    }
}

/// `None` on any error but an interruption.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read.ok(),
        }
    }
}

fn udp_echo(socket: &UdpSocket, stop: &UnixStream) {
    let mut buffer = vec![0; 65_536];
    while readable(socket, stop) {
        // An ICMP error of an earlier answer is reported here; it concerns nobody any more.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&buffer[..length], from));
        }
    }
}

fn udp_discard(socket: &UdpSocket, running: &AtomicBool) {
    // A plain blocking read is the cheapest receiver; the limit is for the end of the server.
    if socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .is_err()
    {
        return;
    }
    let mut buffer = [0; 2048];
    let mut count = 0u64;
    while running.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((0, from)) => {
                drop(socket.send_to(&count.to_be_bytes(), from));
                count = 0;
            }
            Ok(_) => count += 1,
            Err(_) => {}
        }
    }
}
