//! Programs that go on running on a node.

use super::place::Cluster;
use crate::workspace;
use anyhow::{Result, ensure};

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
