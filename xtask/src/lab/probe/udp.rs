//! UDP echo.

use super::{ANSWER_LIMIT, Port, fill, first_difference};
use crate::lab::NetNs;
use anyhow::{Context, Result, bail, ensure};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::{Duration, Instant},
};

/// A UDP socket of the target's family, connected to its echo port.
pub(super) fn connect(target: IpAddr, port: Port) -> Result<UdpSocket> {
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket
        .connect((target, port as u16))
        .with_context(|| format!("route to {target}"))?;
    Ok(socket)
}

/// Sends one datagram of `size` bytes (more than the MTU means fragments) and checks the answer.
///
/// # Errors
/// When no answer, or a damaged one, comes in time.
pub(crate) fn echo(target: IpAddr, size: usize) -> Result<Duration> {
    let socket = connect(target, Port::Echo)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut payload = vec![0; size];
    fill(&mut payload, 0);
    let start = Instant::now();
    socket
        .send(&payload)
        .with_context(|| format!("sending to {target}"))?;
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer).context("no answer by UDP")?;
    ensure!(length == size, "{size} bytes sent, {length} came back");
    if let Some(at) = first_difference(&buffer[..length], 0) {
        bail!("the answer differs from byte {at} on");
    }
    Ok(start.elapsed())
}

/// Sends one datagram from each of `sources`, in their order, from one namespace to `target`, an
/// address of the other, and answers the sources that the receiver saw. The last is to arrive: what
/// has not come by then was lost or dropped.
///
/// # Errors
/// When the sender lacks one of the addresses, or the last datagram does not arrive.
pub(crate) fn arrivals(
    (from, to): (&NetNs, &NetNs),
    target: IpAddr,
    sources: &[IpAddr],
) -> Result<Vec<IpAddr>> {
    let receiver = to.run(|| Ok(UdpSocket::bind((target, 0))?))?;
    receiver.set_read_timeout(Some(ANSWER_LIMIT))?;
    let port = receiver.local_addr()?.port();
    from.run(|| {
        for (number, source) in (0u8..).zip(sources) {
            let socket = UdpSocket::bind((*source, 0)).with_context(|| format!("as {source}"))?;
            socket.send_to(&[number], (target, port))?;
        }
        Ok(())
    })?;
    let mut seen = Vec::new();
    let mut number = [0];
    loop {
        let (_, source) = receiver
            .recv_from(&mut number)
            .context("the last datagram did not arrive")?;
        seen.push(source.ip());
        if usize::from(number[0]) + 1 == sources.len() {
            return Ok(seen);
        }
    }
}
