//! `cargo xtask vm-volumes`: volumes on another kernel, in guests: growth of a mounted ext4, for which this machine may lack the
//! right, and power cuts.

mod cut;
pub(crate) mod within;

use super::Guest;
use crate::{
    build,
    lab::Session,
    setup::{self, Extra, Group},
    workspace,
};
use anyhow::{Context, Result, ensure};
use std::{
    ffi::OsString,
    fs::File,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Instant,
};

/// Try volumes in guests with Debian's kernel: growth of a mounted ext4, power cuts.
///
/// Some minutes: without virtualization QEMU translates.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these trials.
    #[arg(long, value_delimiter = ',', value_name = "TRIAL")]
    only: Vec<Trial>,
    /// How often the power is cut.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    cuts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Trial {
    /// An ext4 grows while a pod has it.
    Growth,
    /// Nothing acknowledged is lost, and nothing is left over.
    Cut,
}

/// How the guest's disk becomes a pool: volumes are files of an XFS, and of one that the driver makes in a file of ext4.
const DISKS: [(&str, &str); 2] = [
    ("xfs", "mkfs.xfs -q -m reflink=1 /dev/vda"),
    ("ext4", "mkfs.ext4 -q -F /dev/vda"),
];
const DISK_BYTES: u64 = 20 << 30;

/// Runs the trials.
///
/// # Errors
/// The first trial that fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted = |trial| args.only.is_empty() || args.only.contains(&trial);
    setup::ensure(Group::Test)?;
    setup::ensure_extra(Extra::Guest)?;
    build::ensure_built()?;
    let trials = Trials::start()?;
    if wanted(Trial::Growth) {
        trials.growth()?;
    }
    if wanted(Trial::Cut) {
        trials.cuts(args.cuts)?;
    }
    trials.say("everything passed");
    Ok(())
}

struct Trials {
    session: Arc<Session>,
    /// Seen by guests, which the run's own folder is not: their `/tmp` is their own.
    shared: tempfile::TempDir,
    start: Instant,
}

impl Trials {
    fn start() -> Result<Self> {
        let shared = tempfile::Builder::new()
            .prefix("vm-volumes")
            .tempdir_in(workspace::target_dir())?;
        Ok(Self {
            session: Session::start()?,
            shared,
            start: Instant::now(),
        })
    }

    fn say(&self, what: &str) {
        println!("[{:6.1} s] {what}", self.start.elapsed().as_secs_f64());
    }

    /// An empty disk of a guest.
    fn disk(&self) -> Result<PathBuf> {
        let file = self.session.dir().join("disk");
        File::create(&file)?.set_len(DISK_BYTES)?;
        Ok(file)
    }

    /// This program, as guests run it, with the agent's folder.
    fn within(words: &[&str]) -> Result<Vec<OsString>> {
        let program = std::env::current_exe()?.into_os_string();
        let binaries = workspace::binaries().into_os_string();
        let mut command = vec![program, "vm-within".into(), "--binaries".into(), binaries];
        command.extend(words.iter().map(OsString::from));
        Ok(command)
    }

    /// Has the guest's disk mounted at `/pool` first.
    fn on_pool(mkfs: &str, options: &str, command: Vec<OsString>) -> Vec<OsString> {
        let script = format!(
            "set -e; {mkfs}; mkdir -p /pool; mount -o {options} /dev/vda /pool; exec \"$@\""
        );
        let mut words: Vec<OsString> = ["sh", "-c", &script, "sh"].map(OsString::from).into();
        words.extend(command);
        words
    }

    /// Runs a command in a guest; every line that it prints is seen by `look`. Its exit code.
    fn guest(&self, guest: &Guest, mut look: impl FnMut(&str)) -> Result<i32> {
        let mut running = guest.start(&self.session, Stdio::piped())?;
        let pipe = running.process().child().stdout.take();
        for line in BufReader::new(pipe.context("the guest's output")?).lines() {
            let line = line?;
            println!("           {line}");
            look(&line);
        }
        running.wait()
    }

    fn growth(&self) -> Result<()> {
        self.say("an ext4 grows while a pod has it");
        let guest = Guest {
            disks: vec![self.disk()?],
            ..Guest::new(Self::on_pool(
                DISKS[0].1,
                "noatime",
                Self::within(&["grow"])?,
            ))
        };
        let code = self.guest(&guest, |_| {})?;
        ensure!(code == 0, "it failed, with {code}");
        Ok(())
    }
}
