//! Kubernetes' own end-to-end tests, and what came of each.

mod devices;
mod expected;
mod report;
mod storage;

use super::{
    images, node,
    place::{Cluster, kubernetes},
    plan::{Cni, Member},
};
use crate::{setup, workspace};
use anyhow::{Context, Result, bail, ensure};
use expected::{Expected, LEFT_OUT, LIST, Run};
use report::{Outcome, Spec};
use serde_json::Value;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// All specs of the network.
const NETWORK: &str = r"\[sig-network\]";

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Specs whose whole name matches this regular expression.
    #[arg(
        long,
        value_name = "REGEX",
        required_unless_present_any = ["all", "storage", "devices"],
        conflicts_with = "all"
    )]
    focus: Option<String>,
    /// But not these.
    #[arg(long, value_name = "REGEX", conflicts_with = "all")]
    skip: Option<String>,
    /// Start a cluster, run every spec of the network that can run here, compare with what is
    /// expected (docs/e2e.md), and remove the cluster.
    #[arg(long)]
    pub(super) all: bool,
    /// The tests of external CSI drivers, with ours, where `cluster storage` has installed it [default focus: all of
    /// them].
    #[arg(long, conflicts_with = "all")]
    storage: bool,
    /// The tests of claims for devices that can run here, with the driver that they bring along [default focus: all of
    /// them].
    #[arg(long, conflicts_with_all = ["all", "storage"])]
    devices: bool,
    /// With --all: the network of that cluster.
    #[arg(long, value_enum, default_value_t = Cni::Fairlead, requires = "all")]
    pub(super) cni: Cni,
    /// With --all: take the results as what is expected from now on. With --storage: write them to
    /// docs/e2e-storage.md. With --devices: write them to docs/e2e-devices.md.
    #[arg(long)]
    accept: bool,
    /// How many specs run at a time.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=50))]
    procs: u8,
    /// Only list what would run.
    #[arg(long, conflicts_with = "all")]
    dry_run: bool,
    /// Passed to e2e.test.
    #[arg(last = true)]
    words: Vec<OsString>,
}

impl Args {
    fn focus(&self) -> &str {
        let all = match self {
            Self { storage: true, .. } => storage::FOCUS,
            Self { devices: true, .. } => devices::FOCUS,
            _ => NETWORK,
        };
        self.focus.as_deref().unwrap_or(all)
    }

    /// What of the focus is left out.
    fn left_out(&self) -> Option<String> {
        let parts = |parts: &[(&str, &str)]| {
            let quoted: Vec<_> = parts.iter().map(|(part, _)| quote(part)).collect();
            quoted.join("|")
        };
        match self {
            Self { all: true, .. } => Some(parts(&LEFT_OUT)),
            Self {
                devices: true,
                skip: None,
                ..
            } => Some(parts(&devices::LEFT_OUT)),
            _ => self.skip.clone(),
        }
    }
}

/// Runs the specs against the cluster that is up and prints each with its result.
///
/// # Errors
/// When one failed, or none ran; with `--all` when a result is not as expected.
pub(super) fn run(cluster: &Cluster, args: &Args) -> Result<()> {
    let nodes = cluster.plan()?.nodes.len();
    let report = ask_ginkgo(cluster, args, nodes)?;
    let specs = report::ran(&report);
    println!("\nresults:");
    for spec in &specs {
        let seconds = spec.millis as f64 / 1000.0;
        let Spec { name, reason, .. } = spec;
        println!("{:8} {seconds:7.1} s  {name}", spec.outcome.name());
        if !reason.is_empty() {
            println!("{:20} {reason}", "");
        }
    }
    let count = |outcome| specs.iter().filter(|spec| spec.outcome == outcome).count();
    println!(
        "{} of {} specs passed, {} skipped themselves, {} were left out",
        count(Outcome::Passed),
        specs.len(),
        count(Outcome::Skipped),
        report::left_out(&report).len(),
    );
    ensure!(
        args.all || args.storage || args.devices || !args.accept,
        "--accept goes with --all, --storage or --devices"
    );
    ensure!(
        !specs.is_empty(),
        "no spec matches --focus {:?}: nothing was tested",
        args.focus()
    );
    if args.accept && !args.all {
        accept(cluster, args, &report, &specs)?;
    }
    match args.all {
        true => judge(cluster, args, &report, &specs),
        false => {
            let failed = count(Outcome::Failed);
            ensure!(failed == 0, "{failed} end-to-end tests failed, see above");
            Ok(())
        }
    }
}

/// Writes the page of what ran.
fn accept(cluster: &Cluster, args: &Args, report: &Value, specs: &[Spec]) -> Result<()> {
    let git = ["rev-parse", "--short", "HEAD"];
    let commit = workspace::output(Command::new("git").args(git).current_dir(workspace::root()))?;
    let (day, kubernetes) = (&report::day(report), &kubernetes_version(cluster)?);
    let commit = commit.trim();
    if args.devices {
        let seen = devices::Seen {
            day,
            kubernetes,
            commit,
        };
        return write(&from_root(devices::PAGE), &devices::page(&seen, specs));
    }
    let seen = storage::Seen {
        day,
        kubernetes,
        commit,
        sidecars: storage::has_sidecars(cluster)?,
    };
    write(&from_root(storage::PAGE), &storage::page(&seen, specs))
}

/// Runs Ginkgo and returns its report.
fn ask_ginkgo(cluster: &Cluster, args: &Args, nodes: usize) -> Result<Value> {
    // Outlives the cluster.
    let folder = workspace::binaries().join("e2e").join(network(args.cni));
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let path = folder.join("report.json");
    if path.exists() {
        fs::remove_file(&path)?;
    }
    let skip = args.left_out();
    // Ginkgo lists only where nothing runs side by side.
    let procs = if args.dry_run { 1 } else { args.procs };
    let mut ginkgo = cluster.inside(Member::ControlPlane, setup::ginkgo()?);
    ginkgo
        .args(["run", "--no-color", "--succinct", "--timeout=3h"])
        .arg(format!("--procs={procs}"))
        .arg(format!("--output-dir={}", folder.display()))
        .arg("--json-report=report.json")
        .arg(format!("--focus={}", args.focus()))
        .args(skip.map(|skip| format!("--skip={skip}")))
        .args(args.dry_run.then_some("--dry-run"))
        .arg(kubernetes("e2e.test")?)
        .arg("--")
        .arg("--kubeconfig")
        .arg(cluster.dir().join("admin.json"))
        .arg("--kubectl-path")
        .arg(kubernetes("kubectl")?)
        .arg("--provider=local")
        // Untold, most checks of Services skip themselves.
        .arg(format!("--num-nodes={nodes}"));
    if args.storage {
        node::give(cluster, &cluster.plan()?, &images::of_storage_tests()?)?;
        let driver = storage::driver(cluster)?;
        ginkgo.arg(format!("-storage.testdriver={}", driver.display()));
    }
    if args.devices {
        node::give(cluster, &cluster.plan()?, &images::of_device_tests()?)?;
    }
    ginkgo.args(&args.words);
    let status = workspace::status(&mut ginkgo)?;
    let text = fs::read(&path)
        .with_context(|| format!("no report was written ({status}); the output is above"))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
}

/// Compares with what is expected, or makes it that.
fn judge(cluster: &Cluster, args: &Args, report: &Value, specs: &[Spec]) -> Result<()> {
    let mut expected: Expected = serde_json::from_str(LIST).context("reading expected.json")?;
    let network = network(args.cni);
    if args.accept {
        let run = Run {
            day: report::day(report),
            kubernetes: kubernetes_version(cluster)?,
        };
        expected.accept(network, run, specs);
        let list = serde_json::to_string_pretty(&expected)? + "\n";
        write(&from_root("xtask/src/cluster/e2e/expected.json"), &list)?;
        return write(&from_root("docs/e2e.md"), &expected.page());
    }
    let differences = expected.differences(network, specs);
    if differences.is_empty() {
        println!("all as expected");
        return Ok(());
    }
    bail!(
        "{} results are not as expected:\n{}",
        differences.len(),
        differences.join("\n")
    )
}

fn kubernetes_version(cluster: &Cluster) -> Result<String> {
    let version = cluster.ask(&["version", "-o", "json"])?;
    let version: Value = serde_json::from_str(&version)?;
    let kubernetes = version["serverVersion"]["gitVersion"].as_str();
    Ok(kubernetes.unwrap_or("unknown").to_owned())
}

fn from_root(path: &str) -> PathBuf {
    workspace::root().join(path)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    println!("{} is written", path.display());
    Ok(())
}

/// Under which name a network's results are kept.
fn network(cni: Cni) -> &'static str {
    match cni {
        Cni::Fairlead => "fairlead",
        Cni::Reference => "reference",
        Cni::None => "none",
    }
}

/// A regular expression for exactly this text.
fn quote(text: &str) -> String {
    text.replace('[', r"\[").replace(']', r"\]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_a_name_are_no_class_of_characters() {
        assert_eq!(quote("[Serial] x"), r"\[Serial\] x");
    }
}
