//! Programs that go on running on a node.

use super::place::Cluster;
use crate::workspace;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// A script that prints the pids of a program that goes on running. By its arguments, too: a probe runs
/// `fairlead` for a moment.
pub(super) fn finder(program: &str) -> String {
    let called = match program {
        "fairlead" => "fairlead\\ agent",
        other => other,
    };
    format!(
        "for file in /proc/[0-9]*/cmdline; do \
           case \"$(tr '\\0' ' ' < $file 2>/dev/null)\" in \
             {called}\\ *|*/{called}\\ *) file=${{file%/cmdline}}; echo ${{file#/proc/}};; \
           esac; \
         done 2>/dev/null"
    )
}

/// Their pids, as the node counts.
///
/// # Errors
/// When none runs.
pub(super) fn pids(cluster: &Cluster, node: &str, program: &str) -> Result<String> {
    let mut shell = cluster.in_node(node, "sh")?;
    let pids = workspace::output(shell.args(["-c", &finder(program)]))?;
    ensure!(!pids.trim().is_empty(), "no {program} on {node}");
    Ok(pids.trim().to_owned())
}

/// Ends a program on a node at once.
///
/// # Errors
/// When it doesn't run there.
pub(super) fn kill(cluster: &Cluster, node: &str, program: &str) -> Result<()> {
    let script = format!("kill -9 $({})", finder(program));
    workspace::run(cluster.in_node(node, "sh")?.args(["-c", &script]))
}

/// Pids of a program on n1 and n2, as each node counts.
///
/// # Errors
/// When it doesn't run on one of them.
pub(super) fn both(cluster: &Cluster, program: &str) -> Result<BTreeMap<&'static str, String>> {
    let on = |node| Ok((node, pids(cluster, node, program)?));
    ["n1", "n2"].into_iter().map(on).collect()
}
