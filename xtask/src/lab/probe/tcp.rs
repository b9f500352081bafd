//! TCP: a transfer of any size, echoed and compared byte by byte.

use super::{Port, fill, first_difference};
use anyhow::{Context, Result, bail, ensure};
use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

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
    let mut reader = connect(target, Port::Echo)?;
    reader.set_read_timeout(Some(STALL_LIMIT))?;
    reader.set_write_timeout(Some(STALL_LIMIT))?;
    let mut writer = reader.try_clone()?;
    let sender = thread::spawn(move || -> Result<()> {
        let mut buffer = vec![0; 65_536];
        let mut offset = 0;
        while offset < size {
            let length = buffer.len().min(usize::try_from(size - offset)?);
            fill(&mut buffer[..length], offset);
            writer
                .write_all(&buffer[..length])
                .with_context(|| format!("sent {offset} bytes"))?;
            offset += length as u64;
        }
        writer
            .shutdown(Shutdown::Write)
            .context("closing the sending side")
    });
    let received = compare(&mut reader, size);
    let sent = sender
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let bytes = received?;
    sent?;
    Ok(Transfer { bytes })
}

/// Connects within [`CONNECT_LIMIT`].
pub(super) fn connect(target: IpAddr, port: Port) -> Result<TcpStream> {
    let address = SocketAddr::new(target, port as u16);
    TcpStream::connect_timeout(&address, CONNECT_LIMIT)
        .with_context(|| format!("connecting to {address}"))
}

fn compare(reader: &mut TcpStream, size: u64) -> Result<u64> {
    let mut buffer = vec![0; 65_536];
    let mut offset = 0;
    loop {
        let length = match reader.read(&mut buffer) {
            Ok(0) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.with_context(|| format!("{offset} of {size} bytes came back"))?,
        };
        if let Some(at) = first_difference(&buffer[..length], offset) {
            bail!("the data differs from byte {at} on");
        }
        offset += length as u64;
    }
    ensure!(offset == size, "{offset} of {size} bytes came back");
    Ok(offset)
}
