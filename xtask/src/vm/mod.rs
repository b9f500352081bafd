//! `cargo xtask vm`: runs a command as root on another kernel than this machine's, in a guest of QEMU's that has this
//! machine's files. Nothing of it stays.
//!
//! The guest's root is this machine's, read only, below a layer in the guest's memory: the command finds what was built
//! here under the same paths, and changes nothing. `/tmp` and `/run` are its own, and empty.

mod guest;
mod initramfs;
#[cfg(test)]
mod tests;
pub(crate) mod trials;

use crate::{lab::Session, setup};
use anyhow::{Context, Result, bail};
use std::{
    ffi::OsString,
    fs::File,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

pub(crate) use guest::Guest;

/// Run a command as root in a guest with Debian's kernel, on this machine's files, which it can't change.
///
/// Output and exit code are the command's. The guest has no network. It takes KVM where there is one, and some
/// ten seconds to start without.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A disk of so many GiB for the guest, /dev/vda and on; it goes with the guest.
    #[arg(long = "disk", value_name = "GIB", value_parser = clap::value_parser!(u32).range(1..=1024))]
    disks: Vec<u32>,
    /// A file that the guest has as a disk, after the others; it stays.
    #[arg(long = "disk-file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Its memory in MiB.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(256..))]
    memory: u32,
    /// Its processors.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Seconds that the command may take.
    #[arg(long, default_value_t = 600)]
    limit: u64,
    /// Debian's package of its kernel.
    #[arg(long, default_value = setup::DEFAULT_KERNEL, value_name = "PACKAGE")]
    kernel: String,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command.
///
/// # Errors
/// When the guest can't be made or doesn't end in time, or the command fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let session = Session::start()?;
    let start = Instant::now();
    let say = |what: &str| eprintln!("[{:6.1} s] {what}", start.elapsed().as_secs_f64());
    let mut guest = Guest {
        kernel: args.kernel.clone(),
        memory_mib: args.memory,
        cpus: args.cpus,
        limit: Duration::from_secs(args.limit),
        ..Guest::new(args.command.clone())
    };
    for (number, &gib) in args.disks.iter().enumerate() {
        let file = session.dir().join(format!("disk{number}"));
        File::create(&file)?.set_len(u64::from(gib) << 30)?;
        guest.disks.push(file);
    }
    for file in &args.files {
        let file = file.canonicalize();
        guest.disks.push(file.context("--disk-file")?);
    }
    let mut running = guest.start(&session, Stdio::inherit())?;
    say(&format!(
        "a guest with Linux {} starts, by {}",
        running.kernel, running.by
    ));
    running.wait_up()?;
    say("the guest is up");
    let code = running.wait()?;
    say(&format!("the command has ended with {code}"));
    match code {
        0 => Ok(()),
        code => bail!("the command failed in the guest, with {code}"),
    }
}
