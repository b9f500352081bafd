//! Kubernetes' own end-to-end tests, and what came of each.

use super::{
    place::{Cluster, kubernetes},
    plan::Member,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{ffi::OsString, fs};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Specs whose whole name matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    focus: String,
    /// But not these.
    #[arg(long, value_name = "REGEX")]
    skip: Option<String>,
    /// Only list what would run.
    #[arg(long)]
    dry_run: bool,
    /// Passed to e2e.test.
    #[arg(last = true)]
    words: Vec<OsString>,
}

/// A spec that ran.
#[derive(Debug, PartialEq, Eq)]
struct Spec {
    name: String,
    state: String,
    millis: u64,
}

/// Runs the specs and prints each with its result.
///
/// # Errors
/// When one failed, or none ran.
pub(super) fn run(cluster: &Cluster, args: &Args) -> Result<()> {
    cluster.plan()?;
    let report = cluster.dir().join("e2e.json");
    if report.exists() {
        fs::remove_file(&report)?;
    }
    let mut tests = cluster.inside(Member::ControlPlane, kubernetes("e2e.test")?);
    tests
        .arg("--kubeconfig")
        .arg(cluster.dir().join("admin.json"))
        .arg("--kubectl-path")
        .arg(kubernetes("kubectl")?)
        .arg("--provider=local")
        .arg("--ginkgo.no-color")
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .arg(format!("--ginkgo.focus={}", args.focus));
    if let Some(skip) = &args.skip {
        tests.arg(format!("--ginkgo.skip={skip}"));
    }
    if args.dry_run {
        tests.arg("--ginkgo.dry-run");
    }
    tests.args(&args.words);
    let status = crate::workspace::status(&mut tests)?;
    let text = fs::read(&report).context("e2e.test wrote no report; its output is above")?;
    let specs = ran(&serde_json::from_slice(&text)?);
    println!("\nresults:");
    for spec in &specs {
        let seconds = spec.millis as f64 / 1000.0;
        println!("{:8} {seconds:7.1} s  {}", spec.state, spec.name);
    }
    let passed = specs.iter().filter(|spec| spec.state == "passed").count();
    println!("{passed} of {} specs passed", specs.len());
    ensure!(
        !specs.is_empty(),
        "no spec matches --focus {:?}: nothing was tested",
        args.focus
    );
    ensure!(
        status.success() && passed == specs.len(),
        "end-to-end tests failed ({status}), see above"
    );
    Ok(())
}

/// The specs of a report of Ginkgo that were not left out, in the order in which they ran.
fn ran(report: &Value) -> Vec<Spec> {
    let suites = report.as_array().into_iter().flatten();
    let specs = suites.flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
    let words = |spec: &Value| -> Vec<String> {
        let containers = spec["ContainerHierarchyTexts"].as_array();
        let leaf = &spec["LeafNodeText"];
        let all = containers.into_iter().flatten().chain([leaf]);
        all.filter_map(|word| word.as_str().map(str::to_owned))
            .collect()
    };
    specs
        .filter(|spec| spec["LeafNodeType"] == "It" && spec["State"] != "skipped")
        .map(|spec| Spec {
            name: words(spec).join(" "),
            state: spec["State"].as_str().unwrap_or("unknown").to_owned(),
            millis: spec["RunTime"].as_u64().unwrap_or(0) / 1_000_000, // nanoseconds
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_focus_left_out_has_not_run() {
        let spec = |kind: &str, name: &str, state: &str| {
            json!({ "LeafNodeType": kind, "ContainerHierarchyTexts": ["[sig-network] Services"],
                "LeafNodeText": name, "State": state, "RunTime": 2_500_000_000_u64 })
        };
        let report = json!([{ "SpecReports": [
            spec("BeforeSuite", "", "passed"),
            spec("It", "serves", "passed"),
            spec("It", "breaks", "failed"),
            spec("It", "waits", "skipped"),
        ] }]);
        let ran = ran(&report);
        let states: Vec<_> = ran.iter().map(|spec| &*spec.state).collect();
        assert_eq!(states, ["passed", "failed"]);
        assert_eq!(ran[0].name, "[sig-network] Services serves");
        assert_eq!(ran[0].millis, 2500);
    }

    #[test]
    fn a_report_without_specs_has_none() {
        assert_eq!(ran(&json!([{ "SpecReports": null }])), []);
    }
}
