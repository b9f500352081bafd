//! TUN: a network interface in a network of this process.
#![expect(unsafe_code, reason = "an ioctl that names an interface")]

use super::own_namespaces;
use anyhow::{Context, Result, ensure};
use rustix::{
    ioctl::{Opcode, Updater, ioctl},
    thread::UnshareFlags,
};
use std::fs::{self, OpenOptions};

const TUNSETIFF: Opcode = 0x4004_54ca;
/// A tap without a header of its own.
const TAP_WITHOUT_HEADER: u16 = 0x1002;
const NAME: &str = "fltap0";

/// As `struct ifreq` has it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

pub(super) fn run() -> Result<String> {
    // Interfaces are made by whoever rules the network: here it is its own.
    own_namespaces(UnshareFlags::NEWNET)?;
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    let mut request = Request {
        name: [0; 16],
        flags: TAP_WITHOUT_HEADER,
        rest: [0; 22],
    };
    request.name[..NAME.len()].copy_from_slice(NAME.as_bytes());
    // SAFETY: the call reads and writes a `struct ifreq`, and that is one.
    unsafe {
        let named = Updater::<{ TUNSETIFF }, _>::new(&mut request);
        ioctl(&tun, named)
    }
    .context("an interface (TUNSETIFF)")?;
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev")?;
    ensure!(
        interfaces.contains(NAME),
        "there is no {NAME}: {interfaces}"
    );
    Ok(format!("TUN: the interface {NAME}"))
}
