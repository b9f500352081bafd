//! `cargo xtask test`: the whole test suite, ring by ring, the quickest first.
//!
//! A ring that cannot run has failed, and so has one in which no test ran: nothing is skipped
//! silently. A full run also finds tests that belong to no ring.

mod outcome;

use crate::{
    build, lab,
    setup::{self, Extra, Group},
    table::Table,
    workspace,
};
use anyhow::{Result, bail, ensure};
use clap::builder::PossibleValuesParser;
use outcome::Outcome;
use std::time::{Duration, Instant};

/// Run every test: formatting, lints, house rules, pure tests, kernel programs, namespaces, whole
/// nodes, a real container runtime, a real Kubernetes. As root; what is missing on the machine is set up first.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this ring; may be given again.
    #[arg(long = "ring", value_name = "NAME", value_parser = PossibleValuesParser::new(RINGS.map(|ring| ring.name)))]
    rings: Vec<String>,
}

/// One ring of tests.
struct Ring {
    name: &'static str,
    what: &'static str,
    /// Makes ready what the ring needs, or says what is missing.
    prepare: fn() -> Result<()>,
    work: Work,
}

enum Work {
    /// A verb of ours that succeeds or not.
    Verb(&'static [&'static str]),
    /// A cargo command that succeeds or not.
    Check(&'static [&'static str]),
    /// Options of `cargo test`, for commands that each run at least one test. Without `--package`:
    /// a selection of packages changes features of dependencies, and all would be compiled again.
    Tests(&'static [&'static [&'static str]]),
}

#[rustfmt::skip] // one ring, one line
const RINGS: [Ring; 13] = [
    Ring { name: "fmt", what: "formatting", prepare: checkers, work: Work::Check(&["fmt", "--all", "--check"]) },
    Ring { name: "tidy", what: "rules of the house", prepare: checkers, work: Work::Verb(&["tidy"]) },
    Ring { name: "clippy", what: "lints", prepare: clippy, work: Work::Check(&["clippy", "--locked", "--all-targets", "--", "-D", "warnings"]) },
    Ring { name: "pure", what: "decisions, without the kernel", prepare: compiler, work: Work::Tests(&[&[]]) },
    Ring { name: "program", what: "kernel programs, built packets", prepare: kernel, work: Work::Tests(&[&["--test", "datapath_*", "--", "--ignored"]]) },
    Ring { name: "netns", what: "links, routes, packets between namespaces", prepare: kernel, work: Work::Tests(&[&["--test", "netns_*", "--", "--ignored"], &["--bin", "xtask", "--", "--ignored", "lab::"]]) },
    // One after another: they watch running transfers and count what a node holds.
    Ring { name: "scenario", what: "plugin and agents on whole nodes", prepare: binaries, work: Work::Tests(&[&["--bin", "xtask", "--", "--ignored", "--test-threads=1", "scenarios::"]]) },
    Ring { name: "runtime", what: "containerd with runc, cnitool", prepare: runtime, work: Work::Tests(&[&["--bin", "xtask", "--", "--ignored", "--test-threads=1", "containerd::", "runtime::"]]) },
    Ring { name: "storage", what: "volumes on a real disk, csi-sanity", prepare: runtime, work: Work::Tests(&[&["--lib", "--", "--ignored", "--test-threads=1", "disk_tests::", "--skip", "disk_tests::elsewhere::"], &["--bin", "xtask", "--", "--ignored", "--test-threads=1", "storage::"]]) },
    Ring { name: "guest", what: "another kernel, in a guest of QEMU's", prepare: guest, work: Work::Tests(&[&["--bin", "xtask", "--", "--ignored", "--test-threads=1", "vm::"]]) },
    Ring { name: "cluster", what: "a real Kubernetes of two nodes", prepare: cluster, work: Work::Verb(&["cluster", "--name", "check", "check"]) },
    Ring { name: "demo", what: "the demo, all pairs", prepare: kernel, work: Work::Verb(&["demo", "--seconds", "1"]) },
    Ring { name: "bench", what: "the bench runs; nothing is judged", prepare: kernel, work: Work::Verb(&["bench", "--quick"]) },
];

fn checkers() -> Result<()> {
    setup::ensure_checkers()
}

fn clippy() -> Result<()> {
    checkers()?;
    compiler()
}

fn compiler() -> Result<()> {
    setup::ensure(Group::Build)
}

/// Rights, kernel and programs that work with network namespaces and eBPF needs.
fn kernel() -> Result<()> {
    setup::ensure(Group::Lab)?;
    let missing: Vec<_> = lab::missing()
        .iter()
        .map(|one| format!("  - {one}"))
        .collect();
    ensure!(
        missing.is_empty(),
        "this machine cannot run the ring:\n{}",
        missing.join("\n")
    );
    Ok(())
}

fn binaries() -> Result<()> {
    kernel()?;
    build::ensure_built()
}

fn runtime() -> Result<()> {
    setup::ensure(Group::Test)?;
    binaries()
}

fn guest() -> Result<()> {
    setup::ensure_extra(Extra::Guest)?;
    runtime()
}

fn cluster() -> Result<()> {
    setup::ensure(Group::Cluster)?;
    binaries()
}

/// Runs the rings and prints the summary.
///
/// # Errors
/// When a ring failed, could not run or ran nothing, or a test belongs to no ring.
pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted = |ring: &&Ring| args.rings.is_empty() || args.rings.iter().any(|r| r == ring.name);
    // What no set-up can give is told before minutes of it.
    if RINGS.iter().filter(wanted).any(Ring::needs_kernel) {
        lab::ensure_able()?;
    }
    let start = Instant::now();
    let mut table = Table::new(3, &["ring", "result", "what", "passed", "failed", "time"]);
    let mut failures = Vec::new();
    let mut row = |ring: &Ring, outcome: &Outcome, took: Duration| {
        let result = if outcome.failure.is_none() {
            "ok"
        } else {
            "FAILED"
        };
        let (passed, failed) = (outcome.passed.to_string(), outcome.failed.to_string());
        let took = format!("{:.1} s", took.as_secs_f64());
        table.row([ring.name, result, ring.what, &passed, &failed, &took]);
    };
    let (mut left_out, mut caught_up) = (0, 0);
    for ring in RINGS.iter().filter(wanted) {
        println!("\n══ {}: {}", ring.name, ring.what);
        let start = Instant::now();
        let outcome = ring.run();
        row(ring, &outcome, start.elapsed());
        match ring.name {
            // One test of the ring `guest` runs all of those in a guest.
            "pure" => left_out = outcome.ignored - outcome.elsewhere,
            _ => caught_up += outcome.passed + outcome.failed,
        }
        if let Some(failure) = outcome.failure {
            println!("══ {} FAILED: {failure}", ring.name);
            failures.push(format!("{}: {failure}", ring.name));
        }
    }
    println!(
        "\n══ summary, {:.0} s in all\n\n{table}",
        start.elapsed().as_secs_f64()
    );
    if args.rings.is_empty() && failures.is_empty() && left_out != caught_up {
        failures.push(format!(
            "{left_out} tests need the kernel, but the rings ran {caught_up} of them: which ring \
             do the others belong to (xtask/src/test)?"
        ));
    }
    for failure in &failures {
        println!("  FAILED {failure}");
    }
    if !failures.is_empty() {
        bail!("the test suite failed in {} places", failures.len());
    }
    println!("  everything passed");
    Ok(())
}

impl Ring {
    /// Whether it needs root and the kernel's features.
    fn needs_kernel(&self) -> bool {
        !["fmt", "tidy", "clippy", "pure"].contains(&self.name)
    }

    fn run(&self) -> Outcome {
        if let Err(error) = (self.prepare)() {
            return Outcome::failed(format!("could not run: {error:#}"));
        }
        match self.work {
            Work::Verb(words) => Outcome::of(crate::verb(words)),
            Work::Check(words) => Outcome::of(workspace::run(workspace::cargo().args(words))),
            Work::Tests(commands) => {
                let mut sum = Outcome::default();
                for words in commands {
                    let mut command = workspace::cargo();
                    command
                        .args(["test", "--locked", "--no-fail-fast"])
                        .args(*words);
                    sum.add(outcome::of_tests(&mut command));
                }
                sum
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_called_what_the_documentation_calls_them() {
        let page = std::fs::read_to_string(workspace::root().join("docs/testing.md")).unwrap();
        let rows = page.lines().filter_map(|line| line.strip_prefix("| "));
        let told: Vec<_> = rows
            .filter_map(|row| row.split_once(" |"))
            .flat_map(|(names, _)| names.split(", "))
            .collect();
        for ring in &RINGS {
            assert!(told.contains(&ring.name), "{}: {told:?}", ring.name);
        }
    }
}
