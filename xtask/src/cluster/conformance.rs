//! The conformance tests of network-policy-api, the project of the cluster-wide policies, each by name.

use super::{
    images, node,
    place::{Cluster, until},
    plan::Member,
};
use crate::{setup, workspace};
use anyhow::{Context, Result, ensure};
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

/// The module that pins the tests.
const MODULE: &str = "sigs.k8s.io/network-policy-api";
/// The kinds with all fields.
const KINDS: &str = "config/crd/experimental/policy.networking.k8s.io_clusternetworkpolicies.yaml";

/// What to run.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Only tests that match, as `go test -run` takes it.
    #[arg(long, value_name = "REGEX", default_value = ".*")]
    run: String,
    /// But not these.
    #[arg(long, value_name = "REGEX")]
    skip: Option<String>,
}

/// Runs the tests and prints each with its result.
///
/// # Errors
/// When one failed, or none ran.
pub(super) fn run(cluster: &Cluster, args: &Args) -> Result<()> {
    node::give(cluster, &cluster.plan()?, &images::of_conformance()?)?;
    serve_kinds(cluster)?;
    let mut tests = cluster.inside(Member::ControlPlane, setup::conformance()?);
    tests
        .env("KUBECONFIG", cluster.dir().join("admin.json"))
        .args(["-test.v", "-test.timeout=2h", "-all-features"])
        .arg(format!("-test.run=^TestConformance$/{}", args.run))
        .args(
            args.skip
                .as_ref()
                .map(|skip| format!("-test.skip=^TestConformance$/{skip}")),
        )
        .stdout(Stdio::piped());
    let mut child = tests.spawn().context("starting the tests")?;
    let mut results = Vec::new();
    for line in BufReader::new(child.stdout.take().context("its output")?).lines() {
        let line = line?;
        println!("{line}");
        results.extend(result(&line));
    }
    let status = child.wait()?;
    println!("\nresults:");
    for (outcome, name) in &results {
        println!("{outcome:8} {name}");
    }
    let count = |wanted: &str| {
        results
            .iter()
            .filter(|(outcome, _)| outcome == wanted)
            .count()
    };
    println!(
        "{} passed, {} failed, {} skipped",
        count("PASS"),
        count("FAIL"),
        count("SKIP")
    );
    ensure!(count("PASS") > 0, "no test passed: nothing was tested");
    ensure!(
        status.success() && count("FAIL") == 0,
        "the conformance tests failed, see above"
    );
    Ok(())
}

/// Has the API server know the kinds of cluster-wide policies.
///
/// # Errors
/// When it refuses them.
pub(super) fn serve_kinds(cluster: &Cluster) -> Result<()> {
    let kinds = sources()?.join(KINDS);
    workspace::output(
        cluster
            .kubectl()?
            .args(["apply", "--server-side", "-f"])
            .arg(&kinds),
    )?;
    until(Duration::from_secs(30), "the kind is served", || {
        Ok(cluster.ask(&["get", "clusternetworkpolicies"]).ok())
    })?;
    Ok(())
}

/// What a line says of a test that has none below it.
fn result(line: &str) -> Option<(String, String)> {
    let (outcome, rest) = line.trim().strip_prefix("--- ")?.split_once(": ")?;
    let name = rest.split(" (").next()?.strip_prefix("TestConformance/")?;
    name.contains('/')
        .then(|| (outcome.to_owned(), name.to_owned()))
}

/// Where Go keeps the module.
fn sources() -> Result<PathBuf> {
    let go = |words: &[&str]| {
        let folder = workspace::root().join("xtask/go-network-policy");
        workspace::output(Command::new("go").args(words).current_dir(folder))
    };
    go(&["mod", "download", MODULE])?;
    Ok(go(&["list", "-m", "-f", "{{.Dir}}", MODULE])?.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_below_the_features_are_results() {
        let line = "        --- PASS: TestConformance/Priority/Should_deny (3.20s)";
        let expected = ("PASS".to_owned(), "Priority/Should_deny".to_owned());
        assert_eq!(result(line), Some(expected));
        assert_eq!(
            result("    --- PASS: TestConformance/Priority (3.20s)"),
            None
        );
        assert_eq!(result("--- FAIL: TestConformance (3.20s)"), None);
        assert_eq!(
            result("=== RUN   TestConformance/Priority/Should_deny"),
            None
        );
    }
}
