//! `fairlead policy plan`.

use super::{
    client::ask,
    print::{Columns, render},
    rows::{Answer, NONE, join},
};
use crate::{
    config::Output,
    query::{CutConnection, PlannedChange, PolicyChange, PolicyPlan, Query},
    source::{Severity, read_policies},
};
use clap::Args;
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

#[derive(Args)]
pub(super) struct Planned {
    /// Files with NetworkPolicies and ClusterNetworkPolicies, new ones or others of the same name; - for standard
    /// input.
    #[arg(short, long, value_name = "FILE", required_unless_present = "remove")]
    file: Vec<PathBuf>,
    /// Policies that are to go, as NetworkPolicy/namespace/name or ClusterNetworkPolicy/name.
    #[arg(long, value_name = "POLICY", value_parser = removed)]
    remove: Vec<(String, String, String)>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

fn removed(text: &str) -> Result<(String, String, String), String> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        ["NetworkPolicy", namespace, name] => {
            Ok(("NetworkPolicy".into(), namespace.into(), name.into()))
        }
        [
            kind @ ("ClusterNetworkPolicy" | "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy"),
            name,
        ] => Ok((kind.into(), String::new(), name.into())),
        _ => Err("write NetworkPolicy/namespace/name or ClusterNetworkPolicy/name".into()),
    }
}

/// Asks the agent and words the answer.
pub(super) fn run(planned: &Planned, socket: &Path) -> Result<Answer, String> {
    let change = change(planned)?;
    let answer: PolicyPlan = ask(socket, Query::PolicyPlan(Box::new(change)))?;
    plan(&answer, planned.output)
}

/// The change that files and removals make.
fn change(planned: &Planned) -> Result<PolicyChange, String> {
    let mut change = PolicyChange {
        removed: planned.remove.clone(),
        ..PolicyChange::default()
    };
    for path in &planned.file {
        let name = path.display().to_string();
        let bytes = super::read_file(path).map_err(|error| format!("{name}: {error}"))?;
        let (policies, of_cluster, problems) = read_policies(&name, &bytes);
        for problem in &problems {
            eprintln!("fairlead: {problem}");
        }
        if problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
        {
            return Err(format!(
                "{name} can't be read whole: mend what is said above"
            ));
        }
        if policies.is_empty() && of_cluster.is_empty() {
            return Err(format!(
                "{name} has no policy; name a file with a NetworkPolicy or ClusterNetworkPolicy"
            ));
        }
        change.policies.extend(policies);
        change.cluster_policies.extend(of_cluster);
    }
    Ok(change)
}

fn plan(plan: &PolicyPlan, output: Output) -> Result<Answer, String> {
    let changes = !plan.changes.is_empty() || plan.cut_count > 0;
    let text = match output {
        Output::Json | Output::Yaml => render(plan, output, Columns::default)?,
        Output::Table | Output::Wide => plan_words(plan, output == Output::Wide)?,
    };
    let code = u8::from(changes);
    Ok(Answer { text, code })
}

/// Peers that are named in a row of the table.
const FEW: usize = 3;

fn plan_words(plan: &PolicyPlan, wide: bool) -> Result<String, String> {
    let mut text = String::new();
    if plan.changes.is_empty() {
        let _infallible = writeln!(
            text,
            "no pair of {} on node {} changes",
            plan.pairs, plan.node
        );
    } else {
        text += &render(&plan.changes, Output::Table, || Columns {
            heads: vec!["POD", "DIRECTION", "PEER", "DENIED THEN", "ALLOWED THEN"],
            wide_heads: Vec::new(),
            rows: plan
                .changes
                .iter()
                .map(|change| (change_row(change, wide), Vec::new()))
                .collect(),
        })?;
    }
    if !plan.unresolved.is_empty() {
        let _infallible = writeln!(
            text,
            "\nnot known yet: the addresses of {}; what goes to them is shown as if they had none",
            plan.unresolved.join(", ")
        );
    }
    let (cut, all) = (plan.cut_count, plan.connections);
    let _infallible = writeln!(
        text,
        "\n{cut} of {all} connections that go on now would be cut"
    );
    if cut > 0 {
        text += &render(&plan.cut, Output::Table, || Columns {
            heads: vec!["POD", "DIRECTION", "PEER", "PORT"],
            wide_heads: Vec::new(),
            rows: plan.cut.iter().map(cut_row).collect(),
        })?;
    }
    Ok(text)
}

fn change_row(change: &PlannedChange, wide: bool) -> Vec<String> {
    let text = |text: &str| if text.is_empty() { NONE } else { text }.to_owned();
    let peers = &change.peers;
    let shown = match peers.get(FEW..).map(<[String]>::len) {
        Some(more @ 1..) if !wide => format!("{} and {more} more", join(&peers[..FEW])),
        _ => join(peers),
    };
    vec![
        change.pod.clone(),
        change.direction.clone(),
        shown,
        text(&change.denied),
        text(&change.allowed),
    ]
}

fn cut_row(cut: &CutConnection) -> (Vec<String>, Vec<String>) {
    let CutConnection {
        pod,
        direction,
        peer,
        port,
    } = cut.clone();
    (vec![pod, direction, peer, port], Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_go_is_named_by_kind() {
        let shop = ["NetworkPolicy", "shop", "web"].map(str::to_owned);
        assert_eq!(removed("NetworkPolicy/shop/web"), Ok(shop.into()));
        assert!(removed("ClusterNetworkPolicy/guard").is_ok());
        for wrong in [
            "web",
            "shop/web",
            "ClusterNetworkPolicy/shop/web",
            "Pod/shop/web",
        ] {
            assert!(
                removed(wrong)
                    .unwrap_err()
                    .contains("NetworkPolicy/namespace/name"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_plan_tells_what_changes_and_what_is_cut() {
        let mut planned = PolicyPlan {
            node: "n1".into(),
            pairs: 12,
            changes: Vec::new(),
            cut: Vec::new(),
            cut_count: 0,
            connections: 7,
            unresolved: Vec::new(),
        };
        let calm = plan(&planned, Output::Table).unwrap();
        assert_eq!(calm.code, 0);
        assert!(
            calm.text.contains("no pair of 12") && calm.text.contains("0 of 7"),
            "{}",
            calm.text
        );
        planned.changes.push(PlannedChange {
            pod: "shop/web".into(),
            direction: "ingress".into(),
            peers: (0..5).map(|n| format!("pod shop/p{n}")).collect(),
            denied: "80/TCP".into(),
            allowed: String::new(),
        });
        planned.cut_count = 1;
        planned.cut.push(CutConnection {
            pod: "shop/web".into(),
            direction: "ingress".into(),
            peer: "pod shop/p0 (10.1.0.9)".into(),
            port: "80/TCP".into(),
        });
        let Answer { text, code } = plan(&planned, Output::Table).unwrap();
        assert_eq!(code, 1);
        for part in ["and 2 more", "80/TCP", "1 of 7", "10.1.0.9"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
