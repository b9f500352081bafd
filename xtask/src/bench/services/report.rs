//! The figures of Services in tables and as a chart.

use super::{
    super::{
        chart::{self, Curve},
        stats::{Estimate, median, paired_ratio, percentile},
    },
    Rates, Services, Step,
};
use crate::table::Table;
use anyhow::{Context, Result};
use std::{fmt::Write, path::Path};

/// The path that the others are compared with.
const DIRECT: &str = "no Service";

/// Connections, changes and memory, and what the aims say of them.
pub(crate) fn tables(all: &Services) -> String {
    let mut text = String::new();
    let header = [
        "Services",
        "path",
        "connections/s",
        "µs each",
        "of no Service (95 %)",
    ];
    let mut table = Table::new(2, &header);
    for step in &all.steps {
        for path in &step.paths {
            let rate = median(&path.per_second);
            table.row([
                step.services.to_string(),
                path.path.to_owned(),
                format!("{rate:.0}"),
                format!("{:.1}", 1e6 / rate),
                step.ratio(path.path, DIRECT).to_string(),
            ]);
        }
    }
    let mut changes = Table::new(1, &["path", "changes", "p50 ms", "p99 ms"]);
    for one in &all.changes {
        changes.row([
            one.path.to_owned(),
            one.millis.len().to_string(),
            format!("{:.1}", median(&one.millis)),
            format!("{:.1}", percentile(&one.millis, 99.0)),
        ]);
    }
    let mut memory = Table::new(1, &["map", "KiB"]);
    for (map, bytes) in &all.map_bytes {
        memory.row([map.clone(), (bytes / 1024).to_string()]);
    }
    // Writing to a String cannot fail.
    let _infallible = write!(
        text,
        "New connections (connect, request, close; more is better)\n\n{table}\n\
         From a changed EndpointSlice to the first connection that follows it\n\n{changes}\n\
         Maps of Services in the kernel; the agent has {} KiB resident\n\n{memory}\n{}",
        all.agent_kib,
        aims(all)
    );
    text
}

impl Step {
    fn rates(&self, path: &str) -> &[f64] {
        let found = self.paths.iter().find(|one| one.path == path);
        found.map_or(&[], |one| &one.per_second)
    }

    fn ratio(&self, path: &str, reference: &str) -> Estimate {
        paired_ratio(self.rates(path), self.rates(reference))
    }

    /// A path's rates as parts of those without a Service, one a round.
    fn relative(&self, path: &str) -> Vec<f64> {
        let direct = self.rates(DIRECT);
        let rates = self.rates(path).iter();
        rates
            .zip(direct)
            .map(|(rate, direct)| rate / direct)
            .collect()
    }
}

/// The aims: the same cost with few and many Services, and no path of kube-proxy ahead at 1,000.
fn aims(all: &Services) -> Table {
    let mut table = Table::new(2, &["what", "figure", "measured", "aim", "verdict"]);
    let (Some(first), Some(last)) = (all.steps.first(), all.steps.last()) else {
        return table;
    };
    let ours = |path: &&Rates| path.path.starts_with("Fairlead");
    let verdict = |met: bool, never: bool| match (met, never) {
        (true, _) => "met",
        (false, true) => "NOT met",
        (false, false) => "open: the interval holds the bound",
    };
    for path in first.paths.iter().filter(ours) {
        let flat = paired_ratio(&last.relative(path.path), &first.relative(path.path));
        table.row([
            path.path,
            &format!("{} Services of {}", last.services, first.services),
            &flat.to_string(),
            "0.95 to 1.05",
            verdict(
                flat.low >= 0.95 && flat.high <= 1.05,
                flat.high < 0.95 || flat.low > 1.05,
            ),
        ]);
    }
    for step in all.steps.iter().filter(|step| step.services >= 1_000) {
        for path in step.paths.iter().filter(ours) {
            for other in step
                .paths
                .iter()
                .filter(|one| one.path.starts_with("kube-proxy"))
            {
                let ahead = step.ratio(path.path, other.path);
                table.row([
                    path.path,
                    &format!("{} Services, of {}", step.services, other.path),
                    &ahead.to_string(),
                    "> 1",
                    verdict(ahead.low > 1.0, ahead.high <= 1.0),
                ]);
            }
        }
    }
    for one in all
        .changes
        .iter()
        .filter(|one| one.path.starts_with("Fairlead"))
    {
        let p99 = percentile(&one.millis, 99.0);
        table.row([
            one.path,
            &format!("change p99, {} Services", last.services),
            &format!("{p99:.1} ms"),
            "< 50 ms",
            verdict(p99 < 50.0, true),
        ]);
    }
    table
}

/// Draws the connections a second over the number of Services, both by powers of ten.
///
/// # Errors
/// Those of drawing and of the file system.
pub(crate) fn draw(file: &Path, all: &Services) -> Result<()> {
    let first = all.steps.first().context("nothing was measured")?;
    let curves = first.paths.iter().map(|path| -> Curve<'_> {
        let point = |step: &Step| (f64::from(step.services), median(step.rates(path.path)));
        (path.path, all.steps.iter().map(point).collect())
    });
    let curves: Vec<_> = curves.collect();
    chart::curves(
        file,
        "New connections a second, by the number of Services",
        &curves,
    )
}
