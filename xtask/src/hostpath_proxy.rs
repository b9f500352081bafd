//! `xtask hostpath-proxy`: what Kubernetes' tests of Dynamic Resource Allocation start in a pod as `/hostpathplugin`. Their
//! driver runs inside the tests: each who connects to a Unix socket on the node is joined with a connection of theirs, which
//! waits at a port of the pod.

use anyhow::{Context, Result};
use std::{
    fs, io,
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    thread,
};

/// As the program has them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The Unix socket.
    #[arg(long)]
    endpoint: PathBuf,
    /// `tcp://:9001`, for example.
    #[arg(long)]
    proxy_endpoint: String,
    /// How much it would say.
    #[arg(long = "v")]
    _verbosity: Option<u8>,
}

/// Joins connections until it is ended.
///
/// # Errors
/// When it can't listen, or no longer.
pub(crate) fn run(args: &Args) -> Result<()> {
    let port = args.proxy_endpoint.rsplit_once(':');
    let port = port.and_then(|(_, port)| port.parse().ok());
    let port: u16 = port.context("--proxy-endpoint has a port, as in tcp://:9001")?;
    let far =
        TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("listening on {port}"))?;
    match fs::remove_file(&args.endpoint) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let near = UnixListener::bind(&args.endpoint)
        .with_context(|| format!("listening on {}", args.endpoint.display()))?;
    for one in near.incoming() {
        join(&one?, &far.accept()?.0)?;
    }
    Ok(())
}

/// Hands on what either says, until one of them is gone.
fn join(near: &UnixStream, far: &TcpStream) -> io::Result<()> {
    let (mut from_near, mut to_far) = (near.try_clone()?, far.try_clone()?);
    let (mut from_far, mut to_near) = (far.try_clone()?, near.try_clone()?);
    thread::spawn(move || {
        // Who hangs up ends both ways.
        let handed = io::copy(&mut from_near, &mut to_far);
        drop(handed.and_then(|_| to_far.shutdown(Shutdown::Both)));
    });
    thread::spawn(move || {
        let handed = io::copy(&mut from_far, &mut to_near);
        drop(handed.and_then(|_| to_near.shutdown(Shutdown::Both)));
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn what_one_says_the_other_hears_and_the_end_too() {
        let far = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut driver = TcpStream::connect(far.local_addr().unwrap()).unwrap();
        let (mut kubelet, near) = UnixStream::pair().unwrap();
        join(&near, &far.accept().unwrap().0).unwrap();
        drop(near);
        let mut heard = [0; 5];
        kubelet.write_all(b"hello").unwrap();
        driver.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        driver.write_all(b"there").unwrap();
        kubelet.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"there");
        drop(driver);
        assert_eq!(kubelet.read(&mut heard).unwrap(), 0);
    }
}
