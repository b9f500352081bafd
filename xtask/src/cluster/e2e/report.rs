//! What Ginkgo's report says about each spec. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// How a spec ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    Passed,
    /// Failed, panicked, was stopped or took too long.
    Failed,
    /// The spec itself saw that it can't run here.
    Skipped,
    /// Only expected, never seen: sometimes one, sometimes the other.
    Varies,
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Varies => "varies",
        }
    }
}

/// A spec that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) outcome: Outcome,
    pub(super) millis: u64,
    /// Why it failed or was skipped: the first line of what it said.
    pub(super) reason: String,
}

/// The specs of a report that were not left out, in the order in which they ran.
pub(super) fn ran(report: &Value) -> Vec<Spec> {
    specs(report)
        .filter(|spec| !was_left_out(spec))
        .map(|spec| Spec {
            name: name(spec),
            outcome: outcome(spec),
            millis: spec["RunTime"].as_u64().unwrap_or(0) / 1_000_000, // nanoseconds
            reason: reason(spec),
        })
        .collect()
}

/// Names of the specs that focus or skip left out.
pub(super) fn left_out(report: &Value) -> Vec<String> {
    specs(report)
        .filter(|spec| was_left_out(spec))
        .map(name)
        .collect()
}

/// The day on which the specs began, `2026-11-25`.
pub(super) fn day(report: &Value) -> String {
    let first = specs(report).find_map(|spec| spec["StartTime"].as_str()?.get(..10));
    first.unwrap_or("unknown").to_owned()
}

/// Rows of a table, by what each spec is called in it: result, seconds, why it did not pass.
fn rows<'a>(specs: impl IntoIterator<Item = (&'a str, &'a Spec)>) -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let row = |(name, spec): (&str, &Spec)| {
        format!(
            "| {} | {} | {} | {} |\n",
            cell(name),
            spec.outcome.name(),
            spec.millis / 1000,
            cell(&spec.reason)
        )
    };
    specs.into_iter().map(row).collect()
}

/// How many specs ran and how each ended, with a row for each, by its name without `prefix`.
pub(super) fn summary(specs: &[Spec], prefix: &str) -> String {
    let count = |outcome| specs.iter().filter(|spec| spec.outcome == outcome).count();
    let names: BTreeMap<_, _> = specs
        .iter()
        .map(|spec| (spec.name.trim_start_matches(prefix), spec))
        .collect();
    format!(
        "{} specs ran, {} passed, {} failed, {} skipped themselves.\n\n\
         | spec | result | seconds | why not passed |\n|---|---|---|---|\n{}",
        specs.len(),
        count(Outcome::Passed),
        count(Outcome::Failed),
        count(Outcome::Skipped),
        rows(names)
    )
}

fn specs(report: &Value) -> impl Iterator<Item = &Value> {
    let suites = report.as_array().into_iter().flatten();
    let all = suites.flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
    all.filter(|spec| spec["LeafNodeType"] == "It")
}

/// A spec that skips itself says why; one that the focus left out says nothing.
fn was_left_out(spec: &Value) -> bool {
    spec["State"] == "pending" || (spec["State"] == "skipped" && reason(spec).is_empty())
}

fn outcome(spec: &Value) -> Outcome {
    match spec["State"].as_str() {
        Some("passed") => Outcome::Passed,
        Some("skipped") => Outcome::Skipped,
        _ => Outcome::Failed,
    }
}

fn name(spec: &Value) -> String {
    let containers = spec["ContainerHierarchyTexts"].as_array();
    let all = containers.into_iter().flatten();
    let words = all.chain([&spec["LeafNodeText"]]);
    let words: Vec<_> = words.filter_map(Value::as_str).collect();
    words.join(" ")
}

fn reason(spec: &Value) -> String {
    let message = spec["Failure"]["Message"].as_str().unwrap_or_default();
    message.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(kind: &str, name: &str, state: &str, message: &str) -> Value {
        json!({ "LeafNodeType": kind, "ContainerHierarchyTexts": ["[sig-network] Services"],
            "LeafNodeText": name, "State": state, "RunTime": 2_500_000_000_u64,
            "StartTime": "2026-11-25T02:17:42Z", "Failure": { "Message": message } })
    }

    #[test]
    fn what_the_focus_left_out_has_not_run() {
        let report = json!([{ "SpecReports": [
            spec("BeforeSuite", "", "passed", ""),
            spec("It", "serves", "passed", ""),
            spec("It", "breaks", "timedout", "no answer\nat all"),
            spec("It", "waits", "skipped", ""),
            spec("It", "declines", "skipped", "needs a cloud"),
        ] }]);
        let ran = ran(&report);
        let seen: Vec<_> = ran.iter().map(|s| (s.outcome, &*s.reason)).collect();
        assert_eq!(
            seen,
            [
                (Outcome::Passed, ""),
                (Outcome::Failed, "no answer"),
                (Outcome::Skipped, "needs a cloud"),
            ]
        );
        assert_eq!(ran[0].name, "[sig-network] Services serves");
        assert_eq!(ran[0].millis, 2500);
        assert_eq!(left_out(&report), ["[sig-network] Services waits"]);
        assert_eq!(day(&report), "2026-11-25");
    }

    #[test]
    fn a_report_without_specs_has_none() {
        let report = json!([{ "SpecReports": null }]);
        assert_eq!(ran(&report), []);
        assert_eq!(day(&report), "unknown");
    }
}
