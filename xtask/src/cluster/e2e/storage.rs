//! Kubernetes' tests of external CSI drivers, run against ours. Pure but for the driver's file.

use super::{
    super::place::Cluster,
    report::{Spec, summary},
};
use anyhow::{Context, Result};
use std::{fs, path::PathBuf};

/// All specs of external drivers; the driver's file decides which there are.
pub(super) const FOCUS: &str = "External.Storage";
const DRIVER: &str = include_str!("driver.yaml");
/// What a page of results is called.
pub(super) const PAGE: &str = "docs/e2e-storage.md";

/// Writes the driver's file where the tests find it.
///
/// # Errors
/// When it can't be written.
pub(super) fn driver(cluster: &Cluster) -> Result<PathBuf> {
    let path = cluster.dir().join("e2e-driver.yaml");
    fs::write(&path, DRIVER).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// What ran, and where.
pub(super) struct Seen<'a> {
    pub(super) day: &'a str,
    pub(super) kubernetes: &'a str,
    pub(super) commit: &'a str,
    /// Kubernetes' own helpers made volumes, and not the agents.
    pub(super) sidecars: bool,
}

/// Whether Kubernetes' own helpers are installed.
///
/// # Errors
/// Of kubectl.
pub(super) fn has_sidecars(cluster: &Cluster) -> Result<bool> {
    let words = ["get", "daemonset", "-n", "kube-system", "-o", "name"];
    let all = cluster.ask(&words)?;
    Ok(all.contains("/fairlead-storage-node"))
}

/// The page with each spec that ran.
pub(super) fn page(seen: &Seen<'_>, specs: &[Spec]) -> String {
    let Seen {
        day,
        kubernetes,
        commit,
        sidecars,
    } = seen;
    let who = match sidecars {
        true => "the sidecars, unchanged",
        false => "the agents",
    };
    format!(
        "{HEAD}Seen on {day} with Kubernetes {kubernetes} and commit {commit}; {who} made volumes: {}",
        summary(specs, "External Storage ")
    )
}

const HEAD: &str = "\
# Kubernetes' tests of external storage

    cargo xtask cluster up --dns
    cargo xtask cluster storage --sidecars --install-only
    cargo xtask cluster e2e --storage                 # all; --focus and --skip take some
    cargo xtask cluster e2e --storage --accept        # writes this page

The specs `External Storage` of `e2e.test`, with the driver as `xtask/src/cluster/e2e/driver.yaml` describes it. Only what
ran is in the table: the whole suite, or what `--focus` and `--skip` left of it.

- `nginx` is a shell here: the specs that name it (`exec of files`) run a shell in it.
- What fails: specs with images that can't be packed from what is here (`any volume data source`: hello-populator), and snapshots
  that are there before their objects (`Pre-provisioned Snapshot`): the spec makes a VolumeSnapshotContent without the label
  `snapshot.storage.kubernetes.io/managed-by`, and neither a snapshotter on each node nor an agent takes one of those
  ([storage.md](storage.md#claims-of-a-cluster)).
- `Disruptive` specs end the kubelet by ssh, which the nodes don't have.
- Volumes are made by claims: `PreprovisionedPV` and `InlineVolume` (drivers of the tree) aren't ours, `ntfs` and `ext3` aren't, nor
  is any volume on two nodes (`RWX`).

";

#[cfg(test)]
mod tests {
    use super::{super::report::Outcome, *};

    #[test]
    fn a_page_has_a_row_for_each_spec() {
        let spec = |name: &str, outcome| Spec {
            name: format!("External Storage {name}"),
            outcome,
            millis: 2500,
            reason: String::new(),
        };
        let specs = [spec("b|c", Outcome::Failed), spec("a", Outcome::Passed)];
        let seen = Seen {
            day: "2026-11-28",
            kubernetes: "v1",
            commit: "0123abc",
            sidecars: false,
        };
        let page = page(&seen, &specs);
        assert!(
            page.contains("commit 0123abc; the agents made volumes: 2 specs ran, 1 passed, 1 failed, 0 skipped"),
            "{page}"
        );
        assert!(
            page.ends_with("| a | passed | 2 |  |\n| b\\|c | failed | 2 |  |\n"),
            "{page}"
        );
    }
}
