//! Kubernetes' tests of Dynamic Resource Allocation: its control plane and kubelet, with the driver that the tests bring along.
//! Pure.

use super::report::{Spec, summary};

/// All specs of it.
pub(super) const FOCUS: &str = r"\[DRA\]";
/// What the page is called.
pub(super) const PAGE: &str = "docs/e2e-devices.md";

/// Parts of names of specs that can't run here, and why.
pub(super) const LEFT_OUT: [(&str, &str); 3] = [
    (
        "[Feature:OffByDefault]",
        "features that no API server has on by itself",
    ),
    (
        "with v1beta",
        "versions of the API that no API server serves by itself any more",
    ),
    (
        "[Serial]",
        "an image with a device plugin (sample-device-plugin), and nobody else's classes meanwhile",
    ),
];

/// What ran, and where.
pub(super) struct Seen<'a> {
    pub(super) day: &'a str,
    pub(super) kubernetes: &'a str,
    pub(super) commit: &'a str,
}

/// The page with each spec that ran.
pub(super) fn page(seen: &Seen<'_>, specs: &[Spec]) -> String {
    let Seen {
        day,
        kubernetes,
        commit,
    } = seen;
    let left_out: String = LEFT_OUT
        .iter()
        .map(|(part, why)| format!("- `{part}`: {why}\n"))
        .collect();
    format!(
        "{HEAD}{left_out}\nSeen on {day} with Kubernetes {kubernetes} and commit {commit}: {}",
        summary(specs, "[sig-node] [DRA] ")
    )
}

const HEAD: &str = "\
# Kubernetes' tests of Dynamic Resource Allocation

    cargo xtask cluster up
    cargo xtask cluster devices --install-only
    cargo xtask cluster e2e --devices                 # all that can run; --focus and --skip take some
    cargo xtask cluster e2e --devices --accept        # writes this page

The specs `[DRA]` of `e2e.test`. They bring a driver of their own along, which runs inside the tests and is reached by way of a
pod (`hostpathplugin`, for which `xtask hostpath-proxy` stands in here): they can't be run against ours. What they show is that
kubelet, scheduler, API server and runtime of the cluster here do what the tests of claims with our driver rely on, and that
both drivers go beside each other. With ours in place of theirs the scenarios are in `cargo xtask cluster devices --only claims`, by
the same names ([cluster.md](cluster.md#devices)).

Left out:

";

#[cfg(test)]
mod tests {
    use super::{super::report::Outcome, *};

    #[test]
    fn a_page_counts_and_names_each_spec() {
        let spec = |name: &str, outcome| Spec {
            name: format!("[sig-node] [DRA] {name}"),
            outcome,
            millis: 2500,
            reason: String::new(),
        };
        let specs = [
            spec("kubelet b", Outcome::Failed),
            spec("control plane a", Outcome::Passed),
        ];
        let seen = Seen {
            day: "2026-11-29",
            kubernetes: "v1",
            commit: "0123abc",
        };
        let page = page(&seen, &specs);
        assert!(
            page.contains("commit 0123abc: 2 specs ran, 1 passed, 1 failed, 0 skipped"),
            "{page}"
        );
        assert!(
            page.ends_with("| control plane a | passed | 2 |  |\n| kubelet b | failed | 2 |  |\n"),
            "{page}"
        );
    }
}
