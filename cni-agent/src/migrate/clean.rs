//! Carries out what the findings say, one after the other, and goes on after a failure.

use super::{
    finding::{Finding, Removal},
    place,
};
use crate::netlink::foreign;
use std::{fs, io};

/// What became of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Removed,
    /// It stays, for the reason that its removal tells.
    Left,
    Failed(String),
}

/// Removes the findings in their order. Those for a reader's hand stay, and without `force` those that
/// running pods use.
pub fn clean(findings: &[Finding], force: bool) -> Vec<Outcome> {
    let one = |finding: &Finding| {
        if !finding.is_cleaned(force) {
            return Outcome::Left;
        }
        match remove(&finding.removal) {
            Ok(()) => Outcome::Removed,
            Err(fault) => Outcome::Failed(fault),
        }
    };
    findings.iter().map(one).collect()
}

fn remove(removal: &Removal) -> Result<(), String> {
    match removal {
        Removal::Aside { from, to } => {
            // What was set aside before may be the only copy.
            if to.exists() {
                return Err(format!("{} is there already: move it away", to.display()));
            }
            gone_is_fine(fs::rename(from, to))
        }
        Removal::Delete(path) => place::remove(path),
        Removal::Link { ifindex, name } | Removal::InUse { ifindex, name } => {
            foreign::remove_link(*ifindex, name).map_err(|e| e.to_string())
        }
        Removal::Route(route) => foreign::remove_route(route).map_err(|e| e.to_string()),
        Removal::ByHand(_) => Ok(()),
    }
}

fn gone_is_fine(result: io::Result<()>) -> Result<(), String> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.to_string()),
        _ => Ok(()),
    }
}
