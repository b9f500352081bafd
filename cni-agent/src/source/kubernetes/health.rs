//! PURE: whether the API server answers, as `fairlead status` tells it.

use super::collected::KindName;
use crate::source::{Severity, SourceProblem};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Health {
    /// Kinds that can't be listed or watched now, with the reason.
    faults: BTreeMap<KindName, String>,
    /// Since when the state from the disk is in force, as people write time.
    from_disk: Option<String>,
    /// Why the state could not be written or read.
    disk: Option<String>,
}

impl Health {
    /// Returns whether that is new.
    pub(super) fn fault(&mut self, kind: KindName, reason: String) -> bool {
        self.faults.insert(kind, reason).is_none()
    }

    /// Returns whether there was a fault.
    pub(super) fn well(&mut self, kind: KindName) -> bool {
        self.faults.remove(&kind).is_some()
    }

    pub(super) fn is_faulty(&self, kind: KindName) -> bool {
        self.faults.contains_key(&kind)
    }

    pub(super) fn serve_saved(&mut self, since: String) {
        self.from_disk = Some(since);
    }

    pub(super) fn is_from_disk(&self) -> bool {
        self.from_disk.is_some()
    }

    pub(super) fn serve_live(&mut self) {
        self.from_disk = None;
    }

    pub(super) fn disk(&mut self, fault: Option<String>) {
        self.disk = fault;
    }

    pub(super) fn problems(&self) -> Vec<SourceProblem> {
        let of = |message: String| SourceProblem::of_file("API server", message);
        let mut problems = Vec::new();
        if let Some(since) = &self.from_disk {
            problems.push(of(format!(
                "what is in force is from disk: the API server has not told everything since {since}, when the agent last wrote it down; see that it can be reached (--kubeconfig, --api-server) and that its roles are there"
            )));
        }
        // Mostly all kinds fail for one reason.
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (kind, reason) in &self.faults {
            by_reason.entry(reason).or_default().push(kind.as_str());
        }
        for (reason, kinds) in by_reason {
            problems.push(of(format!(
                "{} can't be watched: {reason}; the last known state stays in force and it is tried again",
                kinds.join(", ")
            )));
        }
        if let Some(fault) = &self.disk {
            problems.push(SourceProblem {
                severity: Severity::Warning,
                ..of(format!(
                    "the last state is not kept on disk: {fault}; a start while the API server is away would find an older one or none"
                ))
            });
        }
        problems
    }
}
