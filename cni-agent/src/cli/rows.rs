//! What each command prints.

use super::print::{Columns, render};
use crate::{
    config::Output,
    query::{DropRow, EndpointRow, IpamRow, LogRow, NodeRow, PinRow, Status},
};
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) const NONE: &str = "-";

/// What a command prints, and the code that it ends with.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) code: u8,
}

/// `ok`, or one reason a line, as `/readyz` says it.
pub(super) fn health(reasons: &[String]) -> Answer {
    match reasons {
        [] => Answer {
            text: "ok\n".to_owned(),
            code: 0,
        },
        reasons => Answer {
            text: reasons.join("\n") + "\n",
            code: 1,
        },
    }
}

pub(super) fn status(status: &Status, output: Output) -> Result<Answer, String> {
    let text = render(status, output, || {
        let mut rows = Vec::new();
        let mut line =
            |name: &str, value: String| rows.push((vec![name.to_owned(), value], vec![]));
        line("node", status.node.clone());
        line("ready", if status.ready { "yes" } else { "no" }.to_owned());
        line("version", status.version.clone());
        line("up", duration(status.uptime_secs));
        line("podCIDRs", join(&status.pod_cidrs));
        line("pod MTU", status.pod_mtu.to_string());
        for uplink in &status.uplinks {
            let addresses = join(&uplink.addresses);
            line(
                "uplink",
                format!(
                    "{} ({addresses}) mtu {} xdp {}",
                    uplink.name, uplink.mtu, uplink.xdp
                ),
            );
        }
        line("endpoints", status.endpoints.to_string());
        line("nodes", status.nodes.to_string());
        for (name, part) in &status.parts {
            let state = if part.running { "running" } else { "stopped" };
            let last = part
                .last_failure
                .as_ref()
                .map(|f| format!("; last failure: {f}"));
            line(
                "part",
                format!(
                    "{name}: {state}, {} restarts{}",
                    part.restarts,
                    last.unwrap_or_default()
                ),
            );
        }
        if let Some(a) = &status.adoption {
            line(
                "start",
                format!(
                    "{} endpoints adopted{}, {} freed, {} orphan links removed, {} deletions replayed",
                    a.adopted,
                    match a.recovered {
                        0 => String::new(),
                        recovered => format!(" ({recovered} that the store had lost)"),
                    },
                    a.freed.len(),
                    a.orphan_links,
                    a.replayed_deletions
                ),
            );
        }
        for path in status.paths.iter().filter(|p| p.packets > 0) {
            line(
                "packets",
                format!("{}: {} ({} bytes)", path.path, path.packets, path.bytes),
            );
        }
        for problem in &status.problems {
            line("problem", problem.clone());
        }
        Columns {
            heads: vec!["FIELD", "VALUE"],
            rows,
            ..Columns::default()
        }
    })?;
    let code = u8::from(!status.ready);
    Ok(Answer { text, code })
}

pub(super) fn endpoints(list: &[EndpointRow], output: Output) -> Result<Answer, String> {
    let text = render(&list, output, || Columns {
        heads: vec!["ID", "POD", "INTERFACE", "IPV4", "IPV6", "AGE"],
        wide_heads: vec!["HOST INTERFACE", "MAC", "MTU", "NETWORK", "CONTAINER"],
        rows: list.iter().map(endpoint_row).collect(),
    })?;
    Ok(Answer { text, code: 0 })
}

pub(super) fn endpoint(
    list: &[EndpointRow],
    wanted: &str,
    output: Output,
) -> Result<Answer, String> {
    let found: Vec<_> = list
        .iter()
        .filter(|e| matches(e, wanted))
        .cloned()
        .collect();
    match found.as_slice() {
        [] => {
            eprintln!(
                "fairlead: no endpoint {wanted:?}; `fairlead endpoint list -o wide` shows them"
            );
            let text = String::new();
            Ok(Answer { text, code: 1 })
        }
        [one] if matches!(output, Output::Json | Output::Yaml) => {
            let text = render(one, output, Columns::default)?;
            Ok(Answer { text, code: 0 })
        }
        several => endpoints(
            several,
            if output == Output::Table {
                Output::Wide
            } else {
                output
            },
        ),
    }
}

pub(super) fn log_level(row: &LogRow, output: Output) -> Result<Answer, String> {
    let text = render(row, output, || Columns {
        heads: vec!["FILTER", "BEFORE"],
        wide_heads: vec![],
        rows: vec![(vec![row.filter.clone(), row.before.clone()], vec![])],
    })?;
    Ok(Answer { text, code: 0 })
}

pub(super) fn nodes(list: &[NodeRow], output: Output) -> Result<Answer, String> {
    let text = render(&list, output, || Columns {
        heads: vec!["NODE", "PODCIDRS", "ADDRESSES", "BY"],
        wide_heads: vec![],
        rows: list
            .iter()
            .map(|node| {
                let by = if node.local {
                    "this node"
                } else {
                    node.uplink.as_deref().unwrap_or("no way")
                };
                (
                    vec![
                        node.name.clone(),
                        join(&node.pod_cidrs),
                        join(&node.addresses),
                        by.to_owned(),
                    ],
                    vec![],
                )
            })
            .collect(),
    })?;
    Ok(Answer { text, code: 0 })
}

pub(super) fn ipam(list: &[IpamRow], output: Output) -> Result<Answer, String> {
    let text = render(&list, output, || Columns {
        heads: vec!["PODCIDR", "USED", "COOLING", "FREE", "TOTAL"],
        wide_heads: vec![],
        rows: list
            .iter()
            .map(|p| {
                let free = p.total.saturating_sub(p.used).saturating_sub(p.cooling);
                let numbers = [p.used, p.cooling, free, p.total].map(|n| n.to_string());
                let mut row = vec![p.prefix.to_string()];
                row.extend(numbers);
                (row, vec![])
            })
            .collect(),
    })?;
    Ok(Answer { text, code: 0 })
}

pub(super) fn drops(list: &[DropRow], output: Output) -> Result<Answer, String> {
    let text = render(&list, output, || Columns {
        heads: vec!["REASON", "INTERFACE", "ENDPOINT", "PACKETS", "BYTES"],
        wide_heads: vec!["IFINDEX"],
        rows: list
            .iter()
            .map(|d| {
                let endpoint = if d.endpoint.is_empty() {
                    NONE
                } else {
                    &d.endpoint
                };
                let row = [
                    &d.reason,
                    &d.interface,
                    endpoint,
                    &d.packets.to_string(),
                    &d.bytes.to_string(),
                ];
                (row.map(str::to_owned).to_vec(), vec![d.ifindex.to_string()])
            })
            .collect(),
    })?;
    Ok(Answer { text, code: 0 })
}

pub(super) fn pins(list: &[PinRow], output: Output) -> Result<Answer, String> {
    let text = render(&list, output, || Columns {
        heads: vec!["KIND", "NAME", "COMMAND"],
        wide_heads: vec!["PATH"],
        rows: list
            .iter()
            .map(|p| {
                (
                    vec![p.kind.clone(), p.name.clone(), p.command.clone()],
                    vec![p.path.clone()],
                )
            })
            .collect(),
    })?;
    Ok(Answer { text, code: 0 })
}

fn endpoint_row(e: &EndpointRow) -> (Vec<String>, Vec<String>) {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let row = vec![
        e.id.to_string(),
        or_none(e.pod.as_ref().map(ToString::to_string)),
        e.ifname.clone(),
        or_none(e.addresses.v4.map(|a| a.to_string())),
        or_none(e.addresses.v6.map(|a| a.to_string())),
        duration(now.saturating_sub(e.created_at)),
    ];
    let wide = vec![
        e.host_ifname.clone(),
        e.mac.to_string(),
        e.mtu.to_string(),
        e.network.clone(),
        e.container_id.clone(),
    ];
    (row, wide)
}

fn matches(e: &EndpointRow, wanted: &str) -> bool {
    e.id.to_string() == wanted
        || e.host_ifname == wanted
        || format!("{}/{}", e.container_id, e.ifname) == wanted
        || e.addresses.iter().any(|a| a.to_string() == wanted)
        || e.pod.as_ref().is_some_and(|p| p.to_string() == wanted)
        || (wanted.len() >= 6 && e.container_id.starts_with(wanted))
}

pub(super) fn join<T: ToString>(list: &[T]) -> String {
    if list.is_empty() {
        return NONE.to_owned();
    }
    list.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Seconds as people say them: 59s, 3m, 5h, 2d.
pub(super) fn duration(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs}s"),
        60..3_600 => format!("{}m", secs / 60),
        3_600..86_400 => format!("{}h", secs / 3_600),
        _ => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
