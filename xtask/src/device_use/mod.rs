//! `xtask device-use`: uses a device for what it is there for, as a program in a pod does. Not for people: images of test
//! clusters hold it.

mod fuse;
mod kernel;
mod kvm;
mod tun;

use anyhow::{Context, Result};
use rustix::{
    process::{getegid, geteuid},
    thread::UnshareFlags,
};
use std::fs;

/// The hidden verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(value_enum)]
    device: Device,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Device {
    /// A virtual machine with a processor.
    Kvm,
    /// A file system of this process, with a file that is read.
    Fuse,
    /// A network interface.
    Tun,
}

/// Uses it, and says by whom and how.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let seen = match args.device {
        Device::Kvm => kvm::run(),
        Device::Fuse => fuse::run(),
        Device::Tun => tun::run(),
    }?;
    println!("user {user} group {group}: {seen}");
    Ok(())
}

/// A user namespace of this process, in which it is root, and others that belong to it: without any right outside.
fn own_namespaces(others: UnshareFlags) -> Result<()> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    kernel::unshare(UnshareFlags::NEWUSER | others)
        .context("a user namespace of its own (unshare)")?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    Ok(())
}
