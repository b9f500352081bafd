//! What each spec is expected to come to, with Fairlead and with the reference, and the page that shows
//! it. Pure; the list itself is `expected.json`.

use super::report::{Outcome, Spec};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Write as _};

/// The list as it is committed.
pub(super) const LIST: &str = include_str!("expected.json");

/// Parts of specs' names that are left out of `--all`, and why.
pub(super) const LEFT_OUT: [(&str, &str); 10] = [
    (
        "[Feature:NetworkPolicy]",
        "by themselves: docs/e2e-network-policy.md",
    ),
    ("[Feature:LoadBalancer]", "no cloud gives load balancers"),
    ("[Feature:SCTPConnectivity]", "a kernel may have no SCTP"),
    (
        "[Feature:Networking-",
        "the internet, or an image with iperf",
    ),
    (
        "[Feature:KubeProxy",
        "kube-proxy as DaemonSet or with iptables",
    ),
    (
        "[Feature:PerformanceDNS]",
        "measures the API server with thousands of Services",
    ),
    ("[Disruptive]", "nodes are reached by SSH"),
    ("[Serial]", "changes cluster DNS or defaults for all others"),
    (
        "CLOSE_WAIT",
        "image distroless-iptables, with the tool conntrack",
    ),
    (
        "invalid conntrack state bug",
        "image regression-issue-74839",
    ),
];

/// Expected results.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Expected {
    /// By network: when and against what it was seen.
    pub(super) runs: BTreeMap<String, Run>,
    /// By the specs' names.
    pub(super) specs: BTreeMap<String, Row>,
}

/// When results were seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) day: String,
    pub(super) kubernetes: String,
}

/// What is expected of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    /// By network.
    pub(super) results: BTreeMap<String, Outcome>,
    /// Why one is not `passed`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) why: String,
}

impl Expected {
    /// How a run differs from what was expected of this network, a line for each spec.
    pub(super) fn differences(&self, network: &str, ran: &[Spec]) -> Vec<String> {
        let mut lines = Vec::new();
        for spec in ran {
            let row = self.specs.get(&spec.name);
            let expected = row.and_then(|row| row.results.get(network));
            let seen = spec.outcome.name();
            match expected {
                Some(Outcome::Varies) => {}
                Some(expected) if *expected == spec.outcome => {}
                Some(expected) => lines.push(format!(
                    "{}: {seen}, expected {}: {}",
                    spec.name,
                    expected.name(),
                    spec.reason
                )),
                None => lines.push(format!("{}: {seen}, not in the list", spec.name)),
            }
        }
        let expected = self
            .specs
            .iter()
            .filter(|(_, row)| row.results.contains_key(network));
        for (name, _) in expected {
            if !ran.iter().any(|spec| spec.name == *name) {
                lines.push(format!("{name}: expected, and has not run"));
            }
        }
        lines
    }

    /// Takes a whole run as what is expected of its network. Reasons that somebody wrote stay.
    pub(super) fn accept(&mut self, network: &str, run: Run, ran: &[Spec]) {
        self.runs.insert(network.to_owned(), run);
        for row in self.specs.values_mut() {
            row.results.remove(network);
        }
        for spec in ran {
            let row = self.specs.entry(spec.name.clone()).or_default();
            row.results.insert(network.to_owned(), spec.outcome);
            if row.why.is_empty() {
                row.why.clone_from(&spec.reason);
            }
        }
        self.specs.retain(|_, row| !row.results.is_empty());
        for row in self.specs.values_mut() {
            if row.results.values().all(|o| *o == Outcome::Passed) {
                row.why.clear();
            }
        }
    }

    /// The page of the documentation.
    pub(super) fn page(&self) -> String {
        let mut page = String::from(HEAD);
        for (network, run) in &self.runs {
            let of = |outcome| {
                let rows = self.specs.values();
                rows.filter(|row| row.results.get(network) == Some(&outcome))
                    .count()
            };
            line(
                &mut page,
                &[
                    network,
                    &run.day,
                    &run.kubernetes,
                    &of(Outcome::Passed).to_string(),
                    &of(Outcome::Failed).to_string(),
                    &of(Outcome::Skipped).to_string(),
                    &of(Outcome::Varies).to_string(),
                ],
            );
        }
        page.push_str(
            "\nLeft out, by a part of the name:\n\n| specs with | because |\n|---|---|\n",
        );
        for (part, why) in LEFT_OUT {
            line(&mut page, &[&format!("`{part}`"), why]);
        }
        page.push_str(
            "\n## By spec\n\n| spec | fairlead | reference | why not passed |\n|---|---|---|---|\n",
        );
        for (name, row) in &self.specs {
            let result = |network: &str| row.results.get(network).map_or("–", |o| o.name());
            let name = name.replace("[sig-network] ", "").replace('|', "\\|");
            let why = row.why.replace('|', "\\|");
            line(
                &mut page,
                &[&name, result("fairlead"), result("reference"), &why],
            );
        }
        page
    }
}

const HEAD: &str = "\
# Kubernetes' own network tests

    cargo xtask cluster e2e --all                    # Fairlead
    cargo xtask cluster e2e --all --cni reference    # what the results are compared with

starts two nodes with kube-proxy (nftables), CoreDNS and both families, runs every `[sig-network]` spec that
can run here, compares the results with this list, fails on any difference, and removes the cluster.
`--accept` writes the list anew, and this page from it: the results' place is
`xtask/src/cluster/e2e/expected.json`, which also has the reasons. What the reference fails, too, is the
machine's or the images' fault.

The list is not whole yet: it is of one run that met its time limit, the reference was not run, and what failed
has not been explained. Until it is, `--all` tells differences.

| network | seen | Kubernetes | passed | failed | skipped | varies |
|---|---|---|---|---|---|---|
";

fn line(page: &mut String, cells: &[&str]) {
    // Writing to a String can't fail.
    let written = writeln!(page, "| {} |", cells.join(" | "));
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, outcome: Outcome) -> Spec {
        Spec {
            name: name.to_owned(),
            outcome,
            millis: 1,
            reason: "said so".to_owned(),
        }
    }

    fn accepted() -> Expected {
        let run = Run {
            day: "2026-11-25".to_owned(),
            kubernetes: "v1".to_owned(),
        };
        let mut expected = Expected::default();
        let ran = [spec("a", Outcome::Passed), spec("b", Outcome::Failed)];
        expected.accept("fairlead", run, &ran);
        expected
    }

    #[test]
    fn a_run_that_was_accepted_differs_in_nothing() {
        let ran = [spec("b", Outcome::Failed), spec("a", Outcome::Passed)];
        assert!(accepted().differences("fairlead", &ran).is_empty());
        assert_eq!(accepted().specs["b"].why, "said so");
        assert_eq!(accepted().specs["a"].why, "");
    }

    #[test]
    fn better_worse_new_and_missing_results_are_differences() {
        let ran = [spec("a", Outcome::Failed), spec("c", Outcome::Passed)];
        let lines = accepted().differences("fairlead", &ran);
        assert_eq!(
            lines,
            [
                "a: failed, expected passed: said so",
                "c: passed, not in the list",
                "b: expected, and has not run",
            ]
        );
        let better = [spec("a", Outcome::Passed), spec("b", Outcome::Passed)];
        assert_eq!(accepted().differences("fairlead", &better).len(), 1);
    }

    #[test]
    fn a_spec_that_varies_may_end_either_way() {
        let mut expected = accepted();
        let b = expected.specs.get_mut("b").unwrap();
        b.results.insert("fairlead".to_owned(), Outcome::Varies);
        for outcome in [Outcome::Passed, Outcome::Failed] {
            let ran = [spec("a", Outcome::Passed), spec("b", outcome)];
            assert!(expected.differences("fairlead", &ran).is_empty());
        }
    }

    #[test]
    fn the_page_shows_the_list() {
        let expected: Expected = serde_json::from_str(LIST).unwrap();
        let page = crate::workspace::root().join("docs/e2e.md");
        let page = std::fs::read_to_string(page).unwrap();
        assert!(
            page == expected.page(),
            "docs/e2e.md is old: take what `cluster e2e --all --accept` writes"
        );
    }
}
