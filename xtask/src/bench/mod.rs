//! `cargo xtask bench`: every path side by side in one run, made for noisy machines.
//!
//! Short runs in alternating order (A B C, C B A, …), both ends on cores of their own, each path
//! compared round by round with the limit of its place, 95 % intervals by bootstrap, and "no
//! difference" where the interval contains 1. The raw figures are kept.

mod chart;
mod cni;
mod devices;
mod figures;
mod paths;
mod policy;
mod report;
mod services;
pub(crate) mod stats;
mod storage;
pub(crate) mod worker;

use crate::{
    build,
    lab::{self, Session, load::Load},
    setup::{self, Extra, Group},
    workspace,
};
use anyhow::{Context, Result, bail, ensure};
use figures::{Figure, LOADS};
use paths::{CORES, Paths};
use report::{Parts, Series};
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

/// Measure every path, CNI calls and memory, and compare with the limits and the aims.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures every path and figure once. Aims are judged from 10 on.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..=200))]
    rounds: u32,
    /// Milliseconds of one run.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(50..=5000))]
    millis: u64,
    /// Pods that are added and deleted in each round of the CNI calls.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(8..=200))]
    calls: u32,
    /// Also measure Fairlead with these modes of --xdp, for example native,generic.
    #[arg(long, value_delimiter = ',', num_args = 1..=4)]
    xdp: Vec<String>,
    /// A smoke run: 2 rounds of 100 ms, 16 pods. Nothing is judged by it.
    #[arg(long, conflicts_with_all = ["rounds", "millis", "calls"])]
    quick: bool,
    /// Only these parts; everything without it.
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<Part>,
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// TCP streams.
    Tcp,
    /// Round trips over one connection.
    Trip,
    /// Connect, request, close.
    Connect,
    /// Small UDP packets.
    Udp,
    /// CNI calls and memory.
    Cni,
    /// Services beside kube-proxy.
    Services,
    /// Policies beside nftables and iptables.
    Policy,
    /// Volumes beside a bare directory.
    Storage,
    /// Devices beside a bare gRPC server.
    Devices,
}

impl Part {
    fn of(load: Load) -> Self {
        match load {
            Load::Stream { .. } => Self::Tcp,
            Load::RoundTrip { .. } => Self::Trip,
            Load::Connect | Load::ConnectReset => Self::Connect,
            Load::Datagrams { .. } => Self::Udp,
        }
    }
}

/// Runs the bench.
///
/// # Errors
/// When something is missing or a path fails. An aim that is not met is a result, not an error.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (rounds, millis, calls, call_rounds) = match args.quick {
        true => (2, 100, 16, 2),
        false => (args.rounds, args.millis, args.calls, cni::ROUNDS),
    };
    ensure!(
        rounds % 2 == 0,
        "--rounds {rounds} is odd: give an even number, so that both orders count the same"
    );
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    setup::ensure(Group::Bench)?;
    if wanted(Part::Services) {
        setup::ensure_extra(Extra::KubeProxy)?;
    }
    if wanted(Part::Policy) {
        setup::ensure_extra(Extra::Iptables)?;
    }
    if wanted(Part::Storage) {
        setup::ensure_extra(Extra::Storage)?;
    }
    let missing = lab::missing();
    if !missing.is_empty() {
        let list: Vec<_> = missing.iter().map(|one| format!("  - {one}")).collect();
        bail!(
            "this machine cannot run the bench yet:\n{}",
            list.join("\n")
        );
    }
    let cores = std::thread::available_parallelism()?.get();
    ensure!(
        cores > CORES.1,
        "the two ends need a core each, and there is {cores}"
    );
    build::ensure_built()?;
    let (binaries, plugins) = (workspace::binaries(), setup::go_tools()?);

    let dir = result_dir()?;
    let start = Instant::now();
    let say = |what: &str| println!("[{:6.1} s] {what}", start.elapsed().as_secs_f64());
    let session = Session::start()?;
    let machine = Machine::now()?;
    say(&format!("on {machine}"));
    say("making labs, agents and pods");
    let loads: Vec<_> = LOADS
        .into_iter()
        .filter(|(load, _)| wanted(Part::of(*load)))
        .collect();
    let time = Duration::from_millis(millis);
    let mut series = Vec::new();
    if !loads.is_empty() {
        let mut paths = Paths::new(&session, &binaries, &plugins, &args.xdp)?;
        series = measure(&mut paths, &loads, rounds, time, &say)?;
    }
    let cni = match wanted(Part::Cni) {
        false => None,
        true => {
            say(&format!(
                "{call_rounds} rounds of {calls} ADDs and DELs, 1 and 8 at a time, in turns with the reference"
            ));
            let pods = usize::try_from(calls)?;
            Some(cni::measure(
                &session,
                &binaries,
                &plugins,
                pods,
                call_rounds,
            )?)
        }
    };
    let services = match wanted(Part::Services) {
        false => None,
        true => {
            say("Services: an API server, two nodes of kube-proxy and one of Fairlead");
            let extent = services::Extent {
                counts: if args.quick {
                    &[1, 100]
                } else {
                    &[1, 1_000, 10_000]
                },
                rounds,
                time,
                changes: if args.quick { 4 } else { 200 },
            };
            Some(services::measure(&session, &binaries, extent, &say)?)
        }
    };
    let policies = match wanted(Part::Policy) {
        false => None,
        true => {
            say("policies: nodes with few and with many rules, of Fairlead, nftables and iptables");
            let extent = policy::Extent {
                rules: if args.quick { [1, 300] } else { [1, 10_000] },
                rounds,
                time,
            };
            Some(policy::measure(&session, &binaries, extent, &say)?)
        }
    };
    let storage = match wanted(Part::Storage) {
        false => None,
        true => {
            let extent = storage::Extent {
                rounds,
                time,
                quick: args.quick,
            };
            Some(storage::measure(&session, &binaries, extent, &say)?)
        }
    };
    let devices = match wanted(Part::Devices) {
        false => None,
        true => {
            let extent = devices::Extent {
                rounds,
                time,
                quick: args.quick,
            };
            Some(devices::measure(&session, &binaries, extent, &say)?)
        }
    };
    say("done");

    let parts = Parts {
        cni,
        services,
        policies,
        storage,
        devices,
    };
    report::write(&dir, &series, &parts, time, &machine)?;
    if !series.is_empty() {
        chart::draw(&dir.join("chart.svg"), &series)?;
    }
    println!("\n{}", report::path_tables(&series));
    if let Some(cni) = &parts.cni {
        println!("CNI calls\n\n{}", report::cni_table(cni));
    }
    if let Some(all) = &parts.services {
        services::draw(&dir.join("services.svg"), all)?;
        println!("Services\n\n{}", services::tables(all));
    }
    if let Some(all) = &parts.policies {
        policy::draw(&dir.join("policies.svg"), all)?;
        println!("Policies\n\n{}", policy::tables(all));
    }
    if let Some(all) = &parts.storage {
        storage::draw(&dir, all)?;
        println!("Volumes\n\n{}", storage::tables(all));
    }
    if let Some(all) = &parts.devices {
        devices::draw(&dir.join("devices.svg"), all)?;
        println!("Devices\n\n{}", devices::tables(all));
    }
    match rounds {
        0..JUDGED => println!("Aims are not judged by fewer than {JUDGED} rounds.\n"),
        _ => println!("Aims\n\n{}", report::aims(&series, parts.cni.as_ref())),
    }
    println!("{METHOD}");
    println!("Raw figures, summary and chart: {}", dir.display());
    Ok(())
}

/// Fewer rounds give intervals that mean nothing.
const JUDGED: u32 = 10;

/// How the figures came about, printed below them.
const METHOD: &str = "\
Limit: a bare veth pair on the same node, host ↔ host (uplinks joined by one veth pair) to the
other; each limit is measured once more as a path of its own, which shows the noise. Each ratio is the median over the rounds of path/limit within a round; 95 % interval by
bootstrap over the rounds. Loading end on core 0, serving end on core 1, IPv4. CPU: what the
scheduler accounts to both ends and to ksoftirqd; other processes of the machine are not in it.
That time holds soft interrupts too, unless the kernel accounts them apart
(CONFIG_IRQ_TIME_ACCOUNTING). CNI calls: from before the exec to the parsed answer; whole rounds are
resampled. Shim: peak (VmHWM) while it waits for the agent. Volumes: fio with libaio and direct I/O on
written blocks, the pool's file system in a file of the machine's. Devices: calls over Unix sockets, one
after the other, from the request to the decoded answer; each percentile is one round's, and compared with
the bare server's in it.";

/// What the figures depend on beside the code.
#[derive(serde::Serialize)]
struct Machine {
    kernel: String,
    cpu: String,
    cores: usize,
    /// Processes that were running or waiting, averaged over the minute before the bench.
    load_before: f64,
}

impl Machine {
    fn now() -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpus.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()));
        let load = fs::read_to_string("/proc/loadavg")?;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Ok(Self {
            kernel: kernel.trim().to_owned(),
            cpu: model.unwrap_or_else(|| "a CPU without a model name".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            load_before: load.split(' ').next().unwrap_or_default().parse()?,
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kernel,
            cpu,
            cores,
            load_before,
        } = self;
        write!(
            f,
            "{cores} cores of {cpu}, Linux {kernel}, load before {load_before}"
        )
    }
}

/// `target/bench/<seconds since 1970>`.
fn result_dir() -> Result<PathBuf> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs();
    let dir = workspace::root().join("target/bench").join(now.to_string());
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

/// All rounds of the loads over all paths.
fn measure(
    paths: &mut Paths,
    loads: &[(Load, &[Figure])],
    rounds: u32,
    time: Duration,
    say: &dyn Fn(&str),
) -> Result<Vec<Series>> {
    let mut series: Vec<_> = paths
        .list
        .iter()
        .map(|path| Series {
            path: path.key.clone(),
            place: path.place,
            limit: path.limit,
            ours: path.ours,
            values: BTreeMap::new(),
        })
        .collect();
    for round in 0..rounds {
        let runs = loads.len() * paths.list.len();
        say(&format!(
            "round {} of {rounds}, {runs} runs of {} ms",
            round + 1,
            time.as_millis()
        ));
        for &(load, figures) in loads {
            let mut order: Vec<_> = (0..paths.list.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let run = paths
                    .run(index, load, time)
                    .with_context(|| format!("{load:?} over {}", series[index].path))?;
                for &figure in figures {
                    series[index]
                        .values
                        .entry(figure)
                        .or_default()
                        .push(figure.of(&run));
                }
            }
        }
    }
    Ok(series)
}
