//! `xtask lab-probe`: one end of a measured path, a process of its own on a core of its own.
//!
//! Both ends are processes so that each has its own memory, descriptors and CPU clock, like two
//! pods. Not for people: the bench starts it.

use crate::lab::{NetNs, Process, load, probe::Server};
use anyhow::{Context, Result, bail, ensure};
use rustix::{
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

/// The hidden verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(clap::Subcommand)]
enum Role {
    /// Serve until standard input ends; answers each line with the CPU time used so far.
    Serve {
        #[arg(long)]
        cpu: usize,
    },
    /// Serve devices from constants to a kubelet's folder, until ended.
    Devices {
        #[arg(long)]
        kubelet: PathBuf,
    },
    /// Send one load and print its outcome.
    Load {
        #[arg(long)]
        cpu: usize,
        #[arg(long)]
        target: IpAddr,
        #[arg(long)]
        millis: u64,
        /// As JSON.
        #[arg(long)]
        load: String,
    },
}

/// What the loading end prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Report {
    outcome: load::Outcome,
    cpu_nanos: u64,
}

/// Runs one end.
///
/// # Errors
/// Those of the load, or when the process cannot be pinned.
pub(crate) fn run(args: Args) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match args.role {
        Role::Serve { cpu } => {
            pin(cpu)?;
            let _server = Server::start_here()?;
            writeln!(out, "ready")?;
            for line in std::io::stdin().lock().lines() {
                line?;
                writeln!(out, "{}", cpu_nanos())?;
            }
        }
        Role::Devices { kubelet } => super::devices::bare::serve(&kubelet)?,
        Role::Load {
            cpu,
            target,
            millis,
            load,
        } => {
            pin(cpu)?;
            let load: load::Load = serde_json::from_str(&load)?;
            let before = cpu_nanos();
            let outcome = load.run(target, Duration::from_millis(millis))?;
            let report = Report {
                outcome,
                cpu_nanos: cpu_nanos() - before,
            };
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
        }
    }
    Ok(())
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("pinning to CPU {cpu}"))
}

/// CPU time of this process, all threads, user and kernel, in nanoseconds.
fn cpu_nanos() -> u64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A serving end.
pub(super) struct Serving {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _process: Process,
}

impl Serving {
    /// Starts it in a namespace on a core and waits until it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn start(ns: &NetNs, cpu: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["lab-probe", "serve", "--cpu", &cpu.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = ns.spawn("a serving end", &mut command)?;
        let stdin = process
            .child()
            .stdin
            .take()
            .context("no pipe to the server")?;
        let stdout = process
            .child()
            .stdout
            .take()
            .context("no pipe from the server")?;
        let mut serving = Self {
            stdin,
            stdout: BufReader::new(stdout),
            _process: process,
        };
        let ready = serving.line()?;
        ensure!(ready == "ready", "a serving end said {ready:?}");
        Ok(serving)
    }

    /// CPU time that it has used, in nanoseconds.
    ///
    /// # Errors
    /// When it has ended.
    fn cpu_nanos(&mut self) -> Result<u64> {
        writeln!(self.stdin)?;
        Ok(self.line()?.parse()?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

/// One measured run.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) outcome: load::Outcome,
    /// CPU time of both ends, and of the kernel's soft interrupt threads meanwhile.
    pub(super) cpu_nanos: u64,
}

/// Sends a load from a namespace on a core, and in a control group if one is given, to a serving end.
///
/// CPU time is what the scheduler accounts to both processes, to the nanosecond, and to the
/// kernel's ksoftirqd threads. A soft interrupt that runs on top of a process counts as that
/// process's time; this is so on both sides of each comparison. Other processes of the machine
/// are not in it, as they would be in `/proc/stat`.
///
/// # Errors
/// When the load fails.
pub(super) fn measure(
    ns: &NetNs,
    cpu: usize,
    group: Option<&Path>,
    serving: &mut Serving,
    target: IpAddr,
    load: load::Load,
    time: Duration,
) -> Result<Measured> {
    let this = std::env::current_exe()?;
    let mut command = match group {
        None => Command::new(this),
        Some(group) => {
            let mut shell = Command::new("sh");
            let enter = r#"echo 0 > "$0" && exec "$@""#;
            shell.args(["-euc", enter]);
            shell.arg(group.join("cgroup.procs")).arg(this);
            shell
        }
    };
    command
        .args(["lab-probe", "load", "--cpu", &cpu.to_string()])
        .args([
            "--target",
            &target.to_string(),
            "--millis",
            &time.as_millis().to_string(),
        ])
        .args(["--load", &serde_json::to_string(&load)?]);
    let before = serving.cpu_nanos()? + softirq_nanos();
    let output = ns.output(&mut command)?;
    if !output.status.success() {
        bail!(
            "{load:?} to {target}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let serving_nanos = (serving.cpu_nanos()? + softirq_nanos()).saturating_sub(before);
    let report: Report = serde_json::from_slice(&output.stdout)?;
    Ok(Measured {
        outcome: report.outcome,
        cpu_nanos: serving_nanos + report.cpu_nanos,
    })
}

/// CPU time of all ksoftirqd threads in nanoseconds; zero where the kernel does not tell.
fn softirq_nanos() -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_pid = entry
            .file_name()
            .as_encoded_bytes()
            .first()
            .is_some_and(u8::is_ascii_digit);
        let read = |name| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if is_pid && read("comm").starts_with("ksoftirqd/") {
            let schedule = read("schedstat");
            sum += schedule
                .split(' ')
                .next()
                .and_then(|nanos| nanos.parse().ok())
                .unwrap_or(0);
        }
    }
    sum
}
