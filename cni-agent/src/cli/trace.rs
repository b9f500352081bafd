//! `fairlead trace`.

use super::{client::ask, flows::talk, policy::port, print::print_one, rows::join};
use crate::{
    config::Output,
    policy::Port,
    query::{FlowEnds, Outcome, Query, Said, TraceAnswer, TraceQuestion, WalkRow, WalkStep},
};
use clap::Args;
use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  fairlead trace shop/client service/shop/web 80\n  fairlead trace shop/web --follow -o json\n  fairlead trace shop/client 192.0.2.7 icmp --seconds 30\nWhile it runs, other programs are attached in place of the usual ones, which do the same and also tell: no packet is\nlost by it, and each pays for the look whether it is meant. One trace at a time on a node. What is told is this\nnode's part of the way: where the other end is another node's, trace there as well. What XDP drops early is counted\n(`fairlead drops`) and not told."
)]
pub(super) struct TraceArgs {
    /// One end: a pod as namespace/name, an address, or a Service as service/namespace/name.
    from: String,
    /// The other end: packets in both directions between them. Without it: all packets from and to the first.
    to: Option<String>,
    /// Only what has this port at one end, before or after a Service is translated: port, port/protocol, or icmp.
    #[arg(value_parser = port)]
    port: Option<Port>,
    /// Go on until it is ended.
    #[arg(short, long, conflicts_with = "seconds")]
    follow: bool,
    /// Follow packets for so long.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Form of the output: lines, or with json and yaml a document for each packet.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Prints what comes, until it is time.
pub(super) fn run(args: &TraceArgs, socket: &Path) -> Result<(), String> {
    let ask = |question| ask::<TraceAnswer>(socket, Query::Trace(question));
    let begun = ask(TraceQuestion::Begin {
        from: args.from.clone(),
        to: args.to.clone(),
    })?;
    let trace = begun.trace;
    eprintln!("fairlead: following packets; send some");
    let printed = print_all(args, || ask(TraceQuestion::More { trace }));
    ask(TraceQuestion::End { trace })?;
    if printed? == 0 {
        eprintln!(
            "fairlead: no such packet on this node; `fairlead endpoint list` shows whose pods are here"
        );
    }
    Ok(())
}

/// How many packets were printed.
fn print_all(
    args: &TraceArgs,
    mut more: impl FnMut() -> Result<TraceAnswer, String>,
) -> Result<u64, String> {
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let (mut printed, mut lost) = (0, 0);
    let mut out = io::stdout().lock();
    while args.follow || Instant::now() < end {
        let now = more()?;
        for walk in now.walks.iter().filter(|walk| wanted(args.port, walk)) {
            if !print_one(&mut out, walk, args.output, text)? {
                return Ok(printed);
            }
            printed += 1;
        }
        if now.lost > lost {
            eprintln!(
                "fairlead: {} packets more than can be told",
                now.lost - lost
            );
            lost = now.lost;
        }
    }
    Ok(printed)
}

fn wanted(port: Option<Port>, walk: &WalkRow) -> bool {
    let Some(port) = port else {
        return true;
    };
    let rewritten = walk.steps.iter().filter_map(|step| match step {
        WalkStep::Rewritten(ends) => Some(ends),
        _ => None,
    });
    let has = |ends: &FlowEnds| match port {
        Port::Of(protocol, port) => {
            ends.protocol == protocol.as_str() && [ends.from_port, ends.to_port].contains(&port)
        }
        Port::None => ends.protocol == "ICMP",
    };
    walk.ends.iter().chain(rewritten).any(has)
}

fn text(walk: &WalkRow, wide: bool) -> String {
    let mut head = vec![walk.at.clone()];
    head.push(match &walk.ends {
        Some(ends) => talk(ends),
        None => "a packet of unknown ends".to_owned(),
    });
    if !walk.flags.is_empty() {
        head.push(walk.flags.clone());
    }
    head.push(format!("{} bytes", walk.length));
    let mut lines = vec![head.join(" ")];
    let at = match wide {
        true => format!("  at {} ({})", walk.seen_by, walk.program),
        false => format!("  at {}", walk.seen_by),
    };
    lines.push(at);
    lines.extend(walk.steps.iter().map(|step| format!("    {}", words(step))));
    if walk.cut {
        lines.push("    … and more steps than can be told".to_owned());
    }
    lines.push(format!("    => {}", outcome(walk)));
    lines.join("\n")
}

fn words(step: &WalkStep) -> String {
    match step {
        WalkStep::Balanced { new: true } => "service: a backend is chosen".to_owned(),
        WalkStep::Balanced { new: false } => "service: the backend that its flow has".to_owned(),
        WalkStep::Rewritten(ends) => format!("rewritten: {}", talk(ends)),
        WalkStep::Judged {
            pod,
            direction,
            said,
            policies,
        } => {
            let by = match policies.is_empty() {
                true => String::new(),
                false => format!(", by {}", join(policies)),
            };
            let said = match said {
                Said::NotAsked => "nothing is asked of it",
                Said::Known => "allowed, of a connection that is",
                Said::Begins => "allowed, begins a connection",
                Said::Audited => "not allowed, and only watched",
                Said::Denied => "not allowed",
                Said::NotKnown => "no answer to a connection that is known",
            };
            format!("policy: {direction} of {pod}: {said}{by}")
        }
        WalkStep::ByStack => "flow: its other direction comes by the host's stack".to_owned(),
        WalkStep::Path { path } => format!("path: {path}"),
        WalkStep::Dropped { reason } => format!("reason: {reason}"),
    }
}

fn outcome(walk: &WalkRow) -> &'static str {
    match walk.outcome {
        Outcome::Stack => "on by the host's stack",
        Outcome::Dropped => "dropped",
        Outcome::Redirected => "on past the host's stack",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::End;

    fn ends(to: &str, to_port: u16) -> FlowEnds {
        let end = |name: &str, address: &str| End {
            name: name.into(),
            address: address.parse().unwrap(),
            node: None,
        };
        FlowEnds {
            from: end("pod shop/client", "10.1.0.2"),
            from_port: 40_000,
            to: end(to, "10.96.0.10"),
            to_port,
            protocol: "TCP".into(),
        }
    }

    fn walk() -> WalkRow {
        WalkRow {
            at: "2026-11-28T10:00:00.123Z".into(),
            program: "from_pod".into(),
            seen_by: "pod shop/client".into(),
            ends: Some(ends("service shop/web", 80)),
            flags: "S".into(),
            length: 74,
            steps: vec![
                WalkStep::Balanced { new: true },
                WalkStep::Rewritten(ends("pod shop/web", 8080)),
                WalkStep::Judged {
                    pod: "pod shop/web".into(),
                    direction: "ingress".into(),
                    said: Said::Denied,
                    policies: vec!["NetworkPolicy shop/web".into()],
                },
                WalkStep::Dropped {
                    reason: "policy_ingress".into(),
                },
            ],
            cut: false,
            outcome: Outcome::Dropped,
        }
    }

    #[test]
    fn a_packet_is_told_with_names_step_by_step() {
        let expected = "2026-11-28T10:00:00.123Z TCP pod shop/client (10.1.0.2):40000 -> service shop/web (10.96.0.10):80 S 74 bytes\n  at pod shop/client\n    service: a backend is chosen\n    rewritten: TCP pod shop/client (10.1.0.2):40000 -> pod shop/web (10.96.0.10):8080\n    policy: ingress of pod shop/web: not allowed, by NetworkPolicy shop/web\n    reason: policy_ingress\n    => dropped";
        assert_eq!(text(&walk(), false), expected);
        assert!(text(&walk(), true).contains("at pod shop/client (from_pod)\n"));
    }

    #[test]
    fn a_port_is_meant_before_and_behind_a_service() {
        for (words, meant) in [
            ("80", true),
            ("8080/TCP", true),
            ("40000", true),
            ("80/UDP", false),
            ("81", false),
            ("icmp", false),
        ] {
            assert_eq!(
                wanted(Some(port(words).unwrap()), &walk()),
                meant,
                "{words}"
            );
        }
        assert!(wanted(None, &walk()));
    }

    #[test]
    fn a_step_has_its_name_in_json() {
        let json = serde_json::to_value(walk()).unwrap();
        assert_eq!(json["steps"][1]["step"], "rewritten");
        assert_eq!(json["steps"][1]["toPort"], 8080);
        assert_eq!(json["steps"][2]["said"], "denied");
        let back: WalkRow = serde_json::from_value(json).unwrap();
        assert_eq!(back, walk());
    }
}
