//! Who talks to whom: every pod to every other, every host to every pod, by every protocol.

use crate::{
    lab::{Lab, NetNs, Pod, probe::Proto},
    table::Table,
};
use anyhow::{Result, bail};
use std::thread;

/// Checks of one pair: each protocol by each family.
const CHECKS: usize = Proto::ALL.len() * 2;

/// The outcome of all pairs.
pub(super) struct Matrix {
    targets: Vec<String>,
    rows: Vec<Row>,
}

struct Row {
    source: String,
    /// For each target its failures; `None` for the source itself.
    cells: Vec<Option<Vec<String>>>,
}

impl Matrix {
    /// Runs all checks, the sources at the same time. A server runs in every pod.
    ///
    /// # Errors
    /// When a source's namespace cannot be entered; failed checks are in the matrix.
    pub(super) fn run(lab: &Lab, pods: &[Pod]) -> Result<Self> {
        let hosts = lab
            .nodes
            .iter()
            .map(|node| (format!("host {}", node.name), &node.ns));
        let sources = pods
            .iter()
            .map(|pod| (pod.name.clone(), &pod.ns))
            .chain(hosts);
        let rows = thread::scope(|scope| {
            let threads: Vec<_> = sources
                .map(|(name, ns)| scope.spawn(move || row(name, ns, pods)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| bail!("a probe panicked")))
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(Self {
            targets: pods.iter().map(|pod| pod.name.clone()).collect(),
            rows,
        })
    }

    /// All failed checks, each a sentence.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for row in &self.rows {
            for (target, cell) in self.targets.iter().zip(&row.cells) {
                for failure in cell.iter().flatten() {
                    failures.push(format!("{} → {target}: {failure}", row.source));
                }
            }
        }
        failures
    }

    /// Number of checks made.
    pub(super) fn checks(&self) -> usize {
        self.rows
            .iter()
            .flat_map(|row| row.cells.iter().flatten())
            .count()
            * CHECKS
    }

    /// One row for each source, one column for each target, how many checks passed.
    pub(super) fn table(&self) -> Table {
        let mut header = vec!["from \\ to"];
        header.extend(self.targets.iter().map(String::as_str));
        let mut table = Table::new(1, &header);
        for row in &self.rows {
            let cells = row.cells.iter().map(|cell| match cell {
                None => "·".to_owned(),
                Some(failures) if failures.is_empty() => "ok".to_owned(),
                Some(failures) => format!("{}/{CHECKS} FAIL", CHECKS - failures.len()),
            });
            table.row(std::iter::once(row.source.clone()).chain(cells));
        }
        table
    }
}

fn row(source: String, ns: &NetNs, pods: &[Pod]) -> Result<Row> {
    ns.enter()?;
    let cells = pods
        .iter()
        .map(|target| (target.ns.name() != ns.name()).then(|| pair(target)));
    Ok(Row {
        cells: cells.collect(),
        source,
    })
}

/// The failed checks towards one target.
fn pair(target: &Pod) -> Vec<String> {
    let mut failures = Vec::new();
    for v6 in [false, true] {
        for proto in Proto::ALL {
            if let Err(error) = proto.check(target.addr(v6)) {
                let family = if v6 { "IPv6" } else { "IPv4" };
                failures.push(format!("{proto} {family}: {error:#}"));
            }
        }
    }
    failures
}
