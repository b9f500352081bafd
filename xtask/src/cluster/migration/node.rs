//! `fairlead migrate` on a node, by a copy of the agent's program, and what it tells to do by hand.

use super::super::place::Cluster;
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// As `fairlead migrate check -o json` has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) removal: String,
}

impl Finding {
    /// The command that is told, without the condition before it.
    pub(super) fn by_hand(&self) -> Option<&str> {
        let told = self.removal.strip_prefix("by hand: ")?;
        let conditional = told.starts_with("if ") || told.starts_with("once ");
        let command = match conditional {
            true => told.rsplit_once(": ")?.1,
            false => told,
        };
        Some(command.split("; then ").next().unwrap_or(command))
    }
}

/// Runs `fairlead migrate` and answers what is found, or left.
///
/// # Errors
/// When it fails, or its exit code does not fit what it found.
pub(super) fn migrate(cluster: &Cluster, node: &str, words: &[&str]) -> Result<Vec<Finding>> {
    let mut fairlead = cluster.in_node(node, workspace::binaries().join("fairlead"))?;
    let output = fairlead
        .arg("migrate")
        .args(words)
        .args(["-o", "json"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    let found: Vec<Finding> =
        serde_json::from_str(&text).with_context(|| format!("{words:?} said {text}{said}"))?;
    match (output.status.code(), found.is_empty()) {
        (Some(0), true) | (Some(1), false) => Ok(found),
        (code, _) => bail!("{words:?} on {node} exits with {code:?} and tells {found:?}"),
    }
}

/// Fails unless each of these names is found.
///
/// # Errors
/// The names that are not.
pub(super) fn names(found: &[Finding], wanted: &[&str]) -> Result<()> {
    let there = |name: &&&str| !found.iter().any(|finding| finding.name == ***name);
    let missing: Vec<_> = wanted.iter().filter(there).collect();
    ensure!(
        missing.is_empty(),
        "check does not name {missing:?}: {found:#?}"
    );
    Ok(())
}

/// Runs a line of shell on a node and answers what it printed.
///
/// # Errors
/// When it fails.
pub(super) fn shell(cluster: &Cluster, node: &str, line: &str) -> Result<String> {
    workspace::output(cluster.in_node(node, "sh")?.args(["-euc", line]))
        .with_context(|| format!("on {node}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_what_follows_the_condition_and_precedes_the_next_step() {
        for (removal, command) in [
            (
                "by hand: once no pod is on it (`ip link show master cni0`): ip link delete cni0",
                Some("ip link delete cni0"),
            ),
            (
                "by hand: if no network of that name is left: rm -r /var/lib/cni/networks/x",
                Some("rm -r /var/lib/cni/networks/x"),
            ),
            (
                "by hand: umount /run/calico/a; then clean again",
                Some("umount /run/calico/a"),
            ),
            (
                "by hand: nft delete table inet cni_hostport",
                Some("nft delete table inet cni_hostport"),
            ),
            ("clean deletes link vxlan.calico", None),
        ] {
            let finding = Finding {
                kind: String::new(),
                name: String::new(),
                removal: removal.to_owned(),
            };
            assert_eq!(finding.by_hand(), command, "{removal}");
        }
    }
}
