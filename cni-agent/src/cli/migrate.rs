//! `fairlead migrate`: looks at this node and cleans it; no agent is asked.

use super::{
    Print,
    print::{Columns, render},
    rows::Answer,
};
use crate::{
    config::Output,
    migrate::{
        Finding, Kind, Outcome, clean,
        policies::{Converted, convert},
        scan,
    },
};
use serde_json::Value;
use std::path::PathBuf;

#[derive(clap::Subcommand)]
pub(super) enum MigrateVerb {
    /// Find what Calico, Flannel or the reference plugins left on this node; exits with 1 if there is any.
    Check {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        print: Print,
    },
    /// Remove what `check` says that it removes; without --yes only tell.
    Clean {
        #[command(flatten)]
        place: Place,
        /// Do it.
        #[arg(long)]
        yes: bool,
        /// Also links of running pods, which lose their network.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        print: Print,
    },
    /// Write Calico's GlobalNetworkPolicies and NetworkPolicies as ClusterNetworkPolicies, to standard output. What
    /// can't be said there is named; exits with 1 if there is any.
    #[command(
        after_help = "Example:\n  calicoctl get globalnetworkpolicy,networkpolicy -A -o yaml | fairlead migrate policies - > policies.yaml\n  fairlead policy plan -f policies.yaml"
    )]
    Policies {
        /// Manifests; - for standard input.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[derive(clap::Args)]
pub(super) struct Place {
    /// Root of the node's files, in a container where they are mounted.
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// Only this kind.
    #[arg(long, value_enum)]
    only: Option<Kind>,
}

impl Place {
    fn scan(&self) -> Result<Vec<Finding>, String> {
        let mut found = scan(&self.root)?;
        found.retain(|f| self.only.is_none_or(|kind| f.kind == kind));
        Ok(found)
    }
}

fn policies(files: &[PathBuf]) -> Result<Answer, String> {
    let mut objects = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let bytes = super::read_file(file).map_err(|error| format!("{name}: {error}"))?;
        let text = String::from_utf8(bytes).map_err(|error| format!("{name}: {error}"))?;
        let read: Result<Vec<Value>, _> = serde_saphyr::from_multiple(&text);
        objects.extend(read.map_err(|error| format!("{name}: {error}"))?);
    }
    let Converted { objects, problems } = convert(&objects);
    for (object, problem) in &problems {
        eprintln!("fairlead: {object}: {problem}");
    }
    let mut text = String::new();
    for object in &objects {
        let object = serde_saphyr::to_string(object).map_err(|error| error.to_string())?;
        text += &format!("---\n{object}");
    }
    if objects.is_empty() && problems.is_empty() {
        return Err("there is no policy of Calico's in these files".into());
    }
    let code = u8::from(!problems.is_empty());
    Ok(Answer { text, code })
}

pub(super) fn run(verb: &MigrateVerb) -> Result<Answer, String> {
    match verb {
        MigrateVerb::Policies { files } => policies(files),
        MigrateVerb::Check { place, print } => {
            let found = place.scan()?;
            let code = u8::from(!found.is_empty());
            told(&found, print.output, code)
        }
        MigrateVerb::Clean {
            place,
            yes: false,
            print,
            ..
        } => {
            eprintln!("fairlead: nothing is removed without --yes; this is found:");
            told(&place.scan()?, print.output, 1)
        }
        MigrateVerb::Clean {
            place,
            force,
            print,
            ..
        } => {
            let found = place.scan()?;
            let outcomes = clean(&found, *force);
            for (finding, outcome) in found.iter().zip(&outcomes) {
                if let Outcome::Failed(fault) = outcome {
                    eprintln!("fairlead: {} stays: {fault}", finding.name);
                }
            }
            // A second look tells more than what was meant to happen.
            let left = place.scan()?;
            eprintln!(
                "fairlead: {} of {} findings are gone",
                found.len().saturating_sub(left.len()),
                found.len()
            );
            let code = u8::from(!left.is_empty());
            told(&left, print.output, code)
        }
    }
}

fn told(found: &[Finding], output: Output, code: u8) -> Result<Answer, String> {
    let text = render(&found, output, || Columns {
        heads: vec!["KIND", "NAME", "MADE BY", "REMOVAL"],
        wide_heads: vec!["DOES", "IF IT STAYS"],
        rows: found.iter().map(row).collect(),
    })?;
    Ok(Answer { text, code })
}

fn row(finding: &Finding) -> (Vec<String>, Vec<String>) {
    let kind = format!("{:?}", finding.kind).to_lowercase();
    let name = finding.name.clone();
    let removal = finding.removal.to_string();
    let wide = vec![finding.does.to_owned(), finding.if_left.to_owned()];
    (vec![kind, name, finding.made_by.to_owned(), removal], wide)
}
