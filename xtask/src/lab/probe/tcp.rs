//! TCP: a transfer of any size, echoed and compared byte by byte.

use super::{Port, fill, first_difference};
use crate::lab::NetNs;
use anyhow::{Context, Result, bail, ensure};
use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Bytes of a write and of a read.
const BLOCK: usize = 65_536;

/// How long a connection may take to be made: the first SYN finds no neighbour resolved on any hop,
/// and the kernel repeats it after 1, 3 and 7 seconds.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A transfer that stands still for this long has failed.
const STALL_LIMIT: Duration = Duration::from_secs(20);

/// What a transfer did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// Bytes sent, and received back unchanged.
    pub(crate) bytes: u64,
}

/// Connects to the echo port, sends `size` bytes and compares what comes back.
///
/// # Errors
/// When the connection fails or stands still, or a byte differs, lacks or is too many.
pub(crate) fn transfer(target: IpAddr, size: u64) -> Result<Transfer> {
    let stream = connect(target, Port::Echo)?;
    let bytes = exchange(stream, move |sent| size - sent, &AtomicU64::new(0))?;
    Ok(Transfer { bytes })
}

/// A transfer that goes on until it is told to end.
pub(crate) struct Endless {
    running: Arc<AtomicBool>,
    back: Arc<AtomicU64>,
    thread: JoinHandle<Result<u64>>,
}

impl Endless {
    /// Starts sending from a namespace to `target`, where a [`super::Server`] runs.
    ///
    /// # Errors
    /// When the connection fails.
    pub(crate) fn start(ns: &NetNs, target: IpAddr) -> Result<Self> {
        let stream = ns.run(|| connect(target, Port::Echo))?;
        let running = Arc::new(AtomicBool::new(true));
        let back = Arc::new(AtomicU64::new(0));
        let (still, count) = (Arc::clone(&running), Arc::clone(&back));
        let more = move |_| u64::from(still.load(Ordering::Relaxed)) * BLOCK as u64;
        let thread = thread::spawn(move || exchange(stream, more, &count));
        Ok(Self {
            running,
            back,
            thread,
        })
    }

    /// Waits until more has come back than when it was called.
    ///
    /// # Errors
    /// When the transfer has ended or stands still.
    pub(crate) fn wait_progress(&self) -> Result<()> {
        let (before, start) = (self.back.load(Ordering::Relaxed), Instant::now());
        while self.back.load(Ordering::Relaxed) == before {
            ensure!(!self.thread.is_finished(), "it ended after {before} bytes");
            ensure!(
                start.elapsed() < STALL_LIMIT,
                "it stands still after {before} bytes"
            );
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ends the transfer and compares the last of it.
    ///
    /// # Errors
    /// Those of [`transfer`].
    pub(crate) fn finish(self) -> Result<Transfer> {
        self.running.store(false, Ordering::Relaxed);
        let ended = self.thread.join();
        let bytes = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Transfer { bytes })
    }
}

/// Sends as long as `more` says how many bytes are still to go, and compares what comes back, of
/// which `back` holds the number.
fn exchange(
    mut reader: TcpStream,
    more: impl Fn(u64) -> u64 + Send + 'static,
    back: &AtomicU64,
) -> Result<u64> {
    reader.set_read_timeout(Some(STALL_LIMIT))?;
    reader.set_write_timeout(Some(STALL_LIMIT))?;
    let mut writer = reader.try_clone()?;
    let sender = thread::spawn(move || -> Result<u64> {
        let mut buffer = vec![0; BLOCK];
        let mut offset = 0;
        loop {
            let length = buffer.len().min(usize::try_from(more(offset))?);
            if length == 0 {
                break;
            }
            fill(&mut buffer[..length], offset);
            writer
                .write_all(&buffer[..length])
                .with_context(|| format!("sent {offset} bytes"))?;
            offset += length as u64;
        }
        let closed = writer.shutdown(Shutdown::Write);
        closed.context("closing the sending side").map(|()| offset)
    });
    let received = compare(&mut reader, back);
    let sent = sender
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let (received, sent) = (received?, sent?);
    ensure!(sent == received, "{received} of {sent} bytes came back");
    Ok(received)
}

/// Connects within [`CONNECT_LIMIT`].
pub(super) fn connect(target: IpAddr, port: Port) -> Result<TcpStream> {
    let address = SocketAddr::new(target, port as u16);
    TcpStream::connect_timeout(&address, CONNECT_LIMIT)
        .with_context(|| format!("connecting to {address}"))
}

/// Reads to the end and answers the number of bytes.
fn compare(reader: &mut TcpStream, back: &AtomicU64) -> Result<u64> {
    let mut buffer = vec![0; BLOCK];
    let mut offset = 0;
    loop {
        let length = match reader.read(&mut buffer) {
            Ok(0) => return Ok(offset),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.with_context(|| format!("{offset} bytes came back"))?,
        };
        if let Some(at) = first_difference(&buffer[..length], offset) {
            bail!("the data differs from byte {at} on");
        }
        offset += length as u64;
        back.store(offset, Ordering::Relaxed);
    }
}
