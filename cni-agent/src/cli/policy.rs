//! `fairlead policy`.

use super::{
    client::ask,
    policy_plan,
    print::{Columns, render},
    rows::{Answer, NONE, join},
};
use crate::{
    config::Output,
    model::Protocol,
    policy::{AskedRule, Because, Explanation, Port},
    query::{End, PolicyAnswer, PolicyQuestion, PolicyRow, Query},
};
use clap::{Args, Subcommand};
use std::{fmt::Write as _, path::Path};

#[derive(Subcommand)]
pub(super) enum PolicyVerb {
    /// Every policy in the order in which its tier is asked, and which pods of this node it selects.
    #[command(visible_alias = "ls")]
    List {
        /// NetworkPolicies of this namespace, and those of the whole cluster.
        #[arg(short, long)]
        namespace: Option<String>,
        /// Form of the output.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Whether one end may connect to another now: which rule of which policy decides, and what the programs
    /// make of such a packet. Nothing is sent. Exits with 0 if it may, with 1 if not.
    #[command(
        after_help = "Examples:\n  fairlead policy explain shop/client shop/web 8080\n  fairlead policy explain shop/client service/shop/web 80/TCP\n  fairlead policy explain 192.0.2.7 shop/web 53/UDP\n  fairlead policy explain shop/client shop/web icmp"
    )]
    Explain(Asked),
    /// What policies in files would change before they are applied: which pairs of this node's pods and others,
    /// and which connections that go on now. Nothing is written. Exits with 0 if nothing changes, with 1 if
    /// something does.
    #[command(
        after_help = "Examples:\n  fairlead policy plan -f new.yaml\n  kubectl get networkpolicy -n shop web -o yaml | sed s/8080/8443/ | fairlead policy plan -f -\n  fairlead policy plan --remove NetworkPolicy/shop/web\nIt answers for the pods of the node that it runs on: ask on each node."
    )]
    Plan(policy_plan::Planned),
}

#[derive(Args)]
pub(super) struct Asked {
    /// Who begins: a pod as namespace/name, or an address.
    from: String,
    /// Who is connected to: the same, or a Service as service/namespace/name.
    to: String,
    /// Port, or port/protocol, or icmp.
    #[arg(value_parser = port)]
    port: Port,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Reads `80`, `80/TCP` or `icmp`.
pub(super) fn port(text: &str) -> Result<Port, String> {
    if text.eq_ignore_ascii_case("icmp") {
        return Ok(Port::None);
    }
    let (number, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    let same = |protocol_of: &Protocol| protocol.eq_ignore_ascii_case(protocol_of.as_str());
    match (number.parse(), Protocol::ALL.into_iter().find(same)) {
        (Ok(port @ 1..), Some(protocol)) => Ok(Port::Of(protocol, port)),
        _ => Err("write a port like 80, 53/UDP or 9003/SCTP, or icmp".into()),
    }
}

/// Asks the agent and words the answer.
pub(super) fn run(verb: PolicyVerb, socket: &Path) -> Result<Answer, String> {
    match verb {
        PolicyVerb::List { namespace, output } => {
            let mut rows: Vec<PolicyRow> = ask(socket, Query::Policies)?;
            if let Some(namespace) = namespace {
                rows.retain(|row| row.namespace.is_empty() || row.namespace == namespace);
            }
            list(&rows, output)
        }
        PolicyVerb::Explain(asked) => {
            let Asked {
                from,
                to,
                port,
                output,
            } = asked;
            let question = PolicyQuestion { from, to, port };
            explain(&ask(socket, Query::Policy(question))?, output)
        }
        PolicyVerb::Plan(planned) => policy_plan::run(&planned, socket),
    }
}

fn list(rows: &[PolicyRow], output: Output) -> Result<Answer, String> {
    let text = render(&rows, output, || Columns {
        heads: vec![
            "TIER",
            "PRIORITY",
            "KIND",
            "NAMESPACE",
            "NAME",
            "INGRESS",
            "EGRESS",
            "PODS",
        ],
        wide_heads: vec!["SELECTED", "PROBLEMS"],
        rows: rows.iter().map(row).collect(),
    })?;
    Ok(Answer { text, code: 0 })
}

fn row(row: &PolicyRow) -> (Vec<String>, Vec<String>) {
    let rules =
        |rules: Option<usize>| rules.map_or_else(|| NONE.to_owned(), |n| format!("{n} rules"));
    let text = |text: &str| if text.is_empty() { NONE } else { text }.to_owned();
    let priority = row
        .priority
        .map_or_else(|| NONE.to_owned(), |p| p.to_string());
    (
        vec![
            row.tier.clone(),
            priority,
            row.kind.clone(),
            text(&row.namespace),
            row.name.clone(),
            rules(row.ingress),
            rules(row.egress),
            row.pods.len().to_string(),
        ],
        vec![join(&row.pods), join(&row.problems)],
    )
}

fn explain(answer: &PolicyAnswer, output: Output) -> Result<Answer, String> {
    let text = match output {
        Output::Json | Output::Yaml => render(answer, output, Columns::default)?,
        Output::Table | Output::Wide => words(answer)?,
    };
    let code = u8::from(!answer.allowed);
    Ok(Answer { text, code })
}

fn words(answer: &PolicyAnswer) -> Result<String, String> {
    let mut text = String::new();
    let verdict = if answer.allowed {
        "allowed"
    } else {
        "not allowed"
    };
    let (from, to) = (end(&answer.from), end(&answer.to));
    let line = |text: &mut String, line: std::fmt::Arguments<'_>| {
        let _infallible = writeln!(text, "{line}");
    };
    line(
        &mut text,
        format_args!("{from} -> {to} {}: {verdict}", answer.port),
    );
    if let Some(backend) = &answer.backend {
        let name = end(&backend.end);
        line(
            &mut text,
            format_args!("  answered by {name}, port {}", backend.address.port()),
        );
    }
    for (said, whose, what) in [
        (&answer.egress, &answer.from, "what it may send"),
        (
            &answer.ingress,
            answer
                .backend
                .as_ref()
                .map_or(&answer.to, |backend| &backend.end),
            "what may come to it",
        ),
    ] {
        let Some(said) = said else { continue };
        let mut reason = reason(said);
        if said.audit && !said.allowed {
            reason += "; it passes, because its namespace is in audit mode";
        }
        line(
            &mut text,
            format_args!("\n{}: {what}: {reason}", whose.name),
        );
        if !said.rules.is_empty() {
            text += &rules(&said.rules)?;
        }
        for remedy in remedies(said) {
            line(&mut text, format_args!("  {remedy}"));
        }
    }
    let programs = &answer.programs;
    line(
        &mut text,
        format_args!(
            "\nprograms: {} says of such a packet: {}",
            programs.program, programs.outcome
        ),
    );
    for more in answer.elsewhere.iter().chain(&answer.problems) {
        line(&mut text, format_args!("note: {more}"));
    }
    Ok(text)
}

fn end(end: &End) -> String {
    match end.name.as_str() {
        "" => end.address.to_string(),
        name => format!("{name} ({})", end.address),
    }
}

fn reason(said: &Explanation) -> String {
    let verdict = if said.allowed {
        "allowed"
    } else {
        "not allowed"
    };
    let decider = said.rules.iter().rfind(|rule| rule.decides);
    match (said.because, decider) {
        (Because::Rule, Some(rule)) => format!("{verdict} by {} {}", rule.object, rule.rule),
        (Because::Rule, None) | (Because::NoPolicy, _) => format!("{verdict}: no policy means it"),
        (Because::NoRule, _) => {
            format!("{verdict}: NetworkPolicies select it, and no rule of theirs lets this through")
        }
        (Because::OwnNode, _) => {
            format!("{verdict}: NetworkPolicies don't come between a node and its own pods")
        }
        (Because::NotKnown, _) => format!(
            "{verdict}: the API server has not told of its labels yet, and policies may be about it"
        ),
    }
}

fn rules(rules: &[AskedRule]) -> Result<String, String> {
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let columns = || Columns {
        heads: vec!["", "TIER", "POLICY", "RULE", "ACTION", "PEER", "PORT"],
        wide_heads: Vec::new(),
        rows: rules
            .iter()
            .map(|rule| {
                let mark = if rule.decides { "  *" } else { "" };
                let named = match rule.name.as_str() {
                    "" => rule.rule.clone(),
                    name => format!("{} ({name})", rule.rule),
                };
                let named = match &rule.place {
                    None => named,
                    Some(place) => format!("{named}, {place}"),
                };
                let place = if named.is_empty() {
                    "has no rules"
                } else {
                    &named
                };
                let row = vec![
                    mark.to_owned(),
                    rule.tier.clone(),
                    rule.object.clone(),
                    place.to_owned(),
                    format!("{:?}", rule.action),
                    yes(rule.peer),
                    yes(rule.port),
                ];
                (row, Vec::new())
            })
            .collect(),
    };
    render(&rules, Output::Table, columns)
}

/// What would change the answer.
fn remedies(said: &Explanation) -> Vec<String> {
    let decider = said.rules.iter().rfind(|rule| rule.decides);
    match (said.because, decider) {
        (Because::Rule, Some(rule)) if !said.allowed => vec![format!(
            "to allow it: change that rule, or write one that accepts it before {} {}",
            rule.object, rule.rule
        )],
        (Because::Rule, Some(rule)) => vec![format!(
            "to deny it: change that rule, or write a ClusterNetworkPolicy that denies it before {}",
            rule.object
        )],
        (Because::NoRule, _) => {
            let near = said.rules.iter().filter(|rule| rule.peer || rule.port);
            let near = near.filter(|rule| rule.tier == "NetworkPolicy");
            let mut all: Vec<String> = near
                .map(|rule| {
                    let lacks = if rule.peer { "the port" } else { "the peer" };
                    format!("to allow it: add {lacks} to {} {}", rule.object, rule.rule)
                })
                .collect();
            if all.is_empty() {
                all.push("to allow it: write a NetworkPolicy that selects the pod, with a rule for this peer and port".into());
            }
            all
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Action, query::ProgramsSay};

    fn rule(object: &str, fits: (bool, bool), decides: bool) -> AskedRule {
        AskedRule {
            object: object.into(),
            rule: "spec.ingress[0]".into(),
            name: String::new(),
            place: None,
            tier: "NetworkPolicy".into(),
            action: Action::Accept,
            peer: fits.0,
            port: fits.1,
            decides,
        }
    }

    fn answer(ingress: Explanation) -> PolicyAnswer {
        let end = |name: &str, address: &str| End {
            name: name.into(),
            address: address.parse().unwrap(),
            node: Some("n1".into()),
        };
        PolicyAnswer {
            node: "n1".into(),
            from: end("pod shop/client", "10.1.0.2"),
            to: end("pod shop/web", "10.1.0.3"),
            port: Port::Of(Protocol::Tcp, 8080),
            allowed: ingress.allowed,
            backend: None,
            egress: None,
            programs: ProgramsSay {
                program: "from_pod".into(),
                passes: ingress.allowed,
                outcome: if ingress.allowed {
                    "forwarded"
                } else {
                    "policy_ingress"
                }
                .into(),
            },
            ingress: Some(ingress),
            elsewhere: Vec::new(),
            problems: Vec::new(),
        }
    }

    #[test]
    fn a_port_is_read_as_people_write_it() {
        assert_eq!(port("80"), Ok(Port::Of(Protocol::Tcp, 80)));
        assert_eq!(port("53/udp"), Ok(Port::Of(Protocol::Udp, 53)));
        assert_eq!(port("ICMP"), Ok(Port::None));
        for wrong in ["0", "80/HTTP", "web", "70000", ""] {
            assert!(port(wrong).unwrap_err().contains("53/UDP"), "{wrong}");
        }
    }

    #[test]
    fn what_is_denied_says_which_rule_lacks_what() {
        let said = Explanation {
            allowed: false,
            audit: false,
            because: Because::NoRule,
            rules: vec![rule("NetworkPolicy shop/web", (true, false), false)],
        };
        let Answer { text, code } = explain(&answer(said), Output::Table).unwrap();
        assert_eq!(code, 1);
        for part in [
            "pod shop/client (10.1.0.2) -> pod shop/web (10.1.0.3) 8080/TCP: not allowed",
            "add the port to NetworkPolicy shop/web spec.ingress[0]",
            "from_pod says of such a packet: policy_ingress",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_is_allowed_names_the_rule_that_decides() {
        let said = Explanation {
            allowed: true,
            audit: false,
            because: Because::Rule,
            rules: vec![
                rule("NetworkPolicy shop/a", (false, true), false),
                rule("NetworkPolicy shop/b", (true, true), true),
            ],
        };
        let Answer { text, code } = explain(&answer(said), Output::Table).unwrap();
        assert_eq!(code, 0);
        assert!(
            text.contains("allowed by NetworkPolicy shop/b spec.ingress[0]"),
            "{text}"
        );
        let marked = text.lines().find(|line| line.contains('*'));
        assert!(marked.is_some_and(|line| line.contains("shop/b")), "{text}");
    }
}
