//! What the demo shows of the inside: maps, drop reasons, and where to look next.

use crate::lab::{Agent, Lab, Node, Pod, Session, probe};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
};

/// Lines of a map's dump that are shown.
const EXCERPT: usize = 24;

/// A command and the beginning of its output, as a person would see it.
fn excerpt(command: &str, output: &str, lines: usize) -> String {
    let mut text = format!("  # {command}\n");
    let total = output.lines().count();
    for line in output.lines().take(lines) {
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    if total > lines {
        text.push_str(&format!("  … {} more lines\n", total - lines));
    }
    text
}

/// The maps of a node's agent as bpftool prints them.
///
/// # Errors
/// When bpftool cannot read a map, or prints it without field names.
pub(super) fn maps(lab: &Lab, node: &Node) -> Result<String> {
    let mut text = String::new();
    for (map, field) in [("endpoints", "ifindex"), ("nodes", "next_hop")] {
        let pinned = lab.pins(node).join("maps").join(map);
        let output = Command::new("bpftool")
            .args(["map", "dump", "pinned"])
            .arg(&pinned)
            .output()
            .context("starting bpftool")?;
        let dump = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && dump.contains(field),
            "bpftool does not print {field} of {}: {dump}{}",
            pinned.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        let command = format!("bpftool map dump pinned {}", pinned.display());
        text.push_str(&excerpt(&command, &dump, EXCERPT));
    }
    Ok(text)
}

/// Lets a pod send from an address that is not its own, looks at the receiver, and answers what
/// `fairlead drops` says afterwards.
///
/// # Errors
/// When a forged packet arrives, a true one does not, or not every forged one is counted.
pub(super) fn spoof(node: &Node, agent: &Agent, from: &Pod, to: &Pod) -> Result<String> {
    const FORGED: usize = 5;
    let (own, forged) = (
        IpAddr::from(from.v4),
        Ipv4Addr::new(100, 11, node.number, 250),
    );
    let counted = || -> Result<u64> {
        let output = agent.client(&["drops", "-o", "json"])?;
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).context("fairlead drops")?;
        let of_reason = rows.iter().filter(|row| row["reason"] == "source_address");
        Ok(of_reason.filter_map(|row| row["packets"].as_u64()).sum())
    };
    let before = counted()?;
    // True ones first and last: the way is open, and what was sent in between has had its time.
    let mut sources = vec![own];
    sources.extend([IpAddr::from(forged); FORGED]);
    sources.push(own);
    from.ns.ip(&format!("addr add {forged}/32 dev eth0\n"))?;
    let arrived = probe::arrivals((&from.ns, &to.ns), to.v4.into(), &sources);
    from.ns.ip(&format!("addr del {forged}/32 dev eth0\n"))?;
    let arrived = arrived?;
    ensure!(
        arrived == [own, own],
        "{} sent from {sources:?}, and {} received from {arrived:?}",
        from.name,
        to.name
    );
    let counted = counted()? - before;
    ensure!(
        counted == FORGED as u64,
        "{FORGED} packets were forged, fairlead drops counts {counted} by source_address"
    );
    let output = agent.client(&["drops"])?;
    let drops = String::from_utf8_lossy(&output.stdout);
    Ok(excerpt("fairlead drops", &drops, EXCERPT))
}

/// How to explore a lab that is kept.
pub(super) fn exploring(lab: &Lab, pods: &[Pod], fairlead: &Path) -> Result<String> {
    let (node, pod) = (&lab.nodes[0], &pods[0]);
    let (fairlead, socket) = (fairlead.display(), node.socket());
    let socket = socket.display();
    let target = pods.last().map_or(pod.v4, |last| last.v4);
    let mut text = String::new();
    for (purpose, command) in [
        (
            "a shell on a node",
            format!("nsenter --net={}", node.ns.path().display()),
        ),
        (
            "a shell in a pod",
            format!("nsenter --net={}", pod.ns.path().display()),
        ),
        (
            "pod to pod",
            format!(
                "nsenter --net={} ping -c3 {target}",
                pod.ns.path().display()
            ),
        ),
        (
            "the agent's word",
            format!("{fairlead} --socket {socket} status"),
        ),
        (
            "its endpoints",
            format!("{fairlead} --socket {socket} endpoint list -o wide"),
        ),
        (
            "its maps",
            format!("{fairlead} --socket {socket} debug maps"),
        ),
        ("its log", format!("tail -f {}", node.agent_log().display())),
        ("desired state", format!("ls {}", lab.manifests().display())),
    ] {
        writeln!(text, "  {purpose:17} {command}")?;
    }
    Ok(text)
}

/// Said at the end of every demo.
pub(super) fn next_steps(session: &Session, kept: bool) -> String {
    let kept = match kept {
        true => format!(
            "  this lab stays until Ctrl-C (files in {})\n",
            session.dir().display()
        ),
        false => "  cargo xtask demo --keep     the same, and the lab stays for you to explore\n"
            .to_owned(),
    };
    format!(
        "{kept}\
         \x20 cargo xtask test            everything tested, with a real container runtime\n\
         \x20 cargo xtask bench           every path measured side by side\n\
         \x20 docs/architecture.md        how a packet and an ADD walk through\n\
         \x20 docs/operations.md          drop reasons and how to look\n"
    )
}
