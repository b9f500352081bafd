//! `fairlead flows`.

use super::{client::ask, print::print_one, rows::join};
use crate::{
    config::Output,
    query::{End, FlowEnds, FlowRow, FlowVerdict, FlowsAnswer, Query},
};
use clap::{Args, ValueEnum};
use std::{
    io,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  fairlead flows --follow --verdict dropped -n shop\n  fairlead flows --seconds 30 -o json\nThe programs tell while somebody asks, up to 2,000 packets a second for each processor: what happens more often\nis a sample. What XDP drops early is counted (`fairlead drops`) and not told."
)]
pub(super) struct FlowsArgs {
    /// Go on until it is ended.
    #[arg(short, long, conflicts_with = "seconds")]
    follow: bool,
    /// Listen for so long.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Only what became so.
    #[arg(long, value_enum, default_value_t)]
    verdict: Wanted,
    /// Only what has a pod or a Service of this namespace at one end.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Form of the output: lines, or with json and yaml a document for each packet.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Wanted {
    #[default]
    All,
    Dropped,
    /// Connections that begin.
    Allowed,
    /// What policies don't allow in namespaces where they only watch.
    Audited,
}

impl Wanted {
    fn means(self, verdict: FlowVerdict) -> bool {
        match self {
            Self::All => true,
            Self::Dropped => verdict == FlowVerdict::Dropped,
            Self::Allowed => verdict == FlowVerdict::Allowed,
            Self::Audited => verdict == FlowVerdict::Audited,
        }
    }
}

/// Prints what comes, until it is time.
pub(super) fn run(args: &FlowsArgs, socket: &Path) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut last: FlowsAnswer = ask(socket, Query::Flows { from: None })?;
    let mut out = io::stdout().lock();
    while args.follow || Instant::now() < end {
        let from = Some(last.next);
        let now: FlowsAnswer = ask(socket, Query::Flows { from })?;
        for row in now.flows.iter().filter(|row| wanted(args, row)) {
            if !print_one(&mut out, row, args.output, line)? {
                return Ok(());
            }
        }
        let left_out = now.lost.saturating_sub(last.lost) + now.missed;
        if left_out > 0 {
            eprintln!("fairlead: {left_out} packets more than can be told");
        }
        last = now;
    }
    Ok(())
}

fn wanted(args: &FlowsArgs, row: &FlowRow) -> bool {
    let in_namespace = |namespace: &String| {
        let of = |end: &End| {
            let name = end.name.split_once(' ').map_or("", |(_, name)| name);
            name.split_once('/').is_some_and(|(of, _)| of == namespace)
        };
        let ends = row.ends.as_ref();
        ends.is_some_and(|ends| of(&ends.from) || of(&ends.to))
    };
    args.verdict.means(row.verdict) && args.namespace.as_ref().is_none_or(in_namespace)
}

/// Who sends to whom, by name where there is one.
pub(super) fn talk(ends: &FlowEnds) -> String {
    let place = |end: &End, port: u16| {
        let address = match (end.name.is_empty(), port) {
            (true, 1..) => return SocketAddr::new(end.address, port).to_string(),
            (true, 0) => end.address.to_string(),
            (false, _) => format!("{} ({})", end.name, end.address),
        };
        match port {
            0 => address,
            port => format!("{address}:{port}"),
        }
    };
    let (from, to) = (
        place(&ends.from, ends.from_port),
        place(&ends.to, ends.to_port),
    );
    format!("{} {from} -> {to}", ends.protocol)
}

fn line(row: &FlowRow, wide: bool) -> String {
    let mut words = vec![row.at.clone(), row.verdict.as_str().to_owned()];
    if !row.reason.is_empty() {
        words.push(row.reason.clone());
    } else if !row.direction.is_empty() {
        words.push(row.direction.clone());
    }
    match &row.ends {
        None => words.push("no IP packet".into()),
        Some(ends) => words.push(talk(ends)),
    }
    if !row.policies.is_empty() {
        words.push(format!("by {}", join(&row.policies)));
    }
    if wide {
        words.push(format!("{} bytes at {}", row.length, row.seen_by));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(verdict: FlowVerdict) -> FlowRow {
        let end = |name: &str, address: &str| End {
            name: name.into(),
            address: address.parse().unwrap(),
            node: None,
        };
        FlowRow {
            at: "2026-11-25T10:00:00.123Z".into(),
            verdict,
            reason: "policy_ingress".into(),
            direction: "ingress".into(),
            ends: Some(FlowEnds {
                from: end("pod shop/client", "10.1.0.2"),
                from_port: 40_000,
                to: end("", "192.0.2.1"),
                to_port: 80,
                protocol: "TCP".into(),
            }),
            length: 74,
            seen_by: "pod shop/client".into(),
            policies: vec!["NetworkPolicy shop/web".into()],
        }
    }

    #[test]
    fn a_line_has_names_where_there_are_some_and_the_policy() {
        let text = line(&row(FlowVerdict::Dropped), true);
        assert_eq!(
            text,
            "2026-11-25T10:00:00.123Z dropped policy_ingress TCP pod shop/client (10.1.0.2):40000 -> 192.0.2.1:80 by NetworkPolicy shop/web 74 bytes at pod shop/client"
        );
    }

    #[test]
    fn a_namespace_at_either_end_is_meant() {
        let args = |namespace: Option<&str>, verdict| FlowsArgs {
            follow: false,
            seconds: 5,
            verdict,
            namespace: namespace.map(ToOwned::to_owned),
            output: Output::Table,
        };
        let dropped = row(FlowVerdict::Dropped);
        assert!(wanted(&args(None, Wanted::All), &dropped));
        assert!(wanted(&args(Some("shop"), Wanted::Dropped), &dropped));
        assert!(!wanted(&args(Some("other"), Wanted::Dropped), &dropped));
        assert!(!wanted(&args(None, Wanted::Allowed), &dropped));
    }
}
