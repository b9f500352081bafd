//! TUN: a network interface in a network of this process.

use super::{kernel, own_namespaces};
use anyhow::{Context, Result, ensure};
use rustix::thread::UnshareFlags;
use std::fs::{self, OpenOptions};

const NAME: &str = "fltap0";

pub(super) fn run() -> Result<String> {
    // Interfaces are made by whoever rules the network: here it is its own.
    own_namespaces(UnshareFlags::NEWNET)?;
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    kernel::interface(&tun, NAME).context("an interface (TUNSETIFF)")?;
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev")?;
    ensure!(
        interfaces.contains(NAME),
        "there is no {NAME}: {interfaces}"
    );
    Ok(format!("TUN: the interface {NAME}"))
}
