//! The summary of a bench in words and tables, and the raw figures as files.

use super::{
    Machine,
    cni::Cni,
    devices::Devices,
    figures::{Figure, LOADS},
    paths::Place,
    policy::Policies,
    services::Services,
    stats::{Estimate, median, paired_ratio},
    storage::Storage,
};
use crate::table::Table;
use anyhow::Result;
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

/// All values of one path: for each figure one a round.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) path: String,
    pub(super) place: Place,
    pub(super) limit: bool,
    pub(super) ours: bool,
    pub(super) values: BTreeMap<Figure, Vec<f64>>,
}

/// A path compared with the limit of its place.
#[derive(Clone, Debug)]
pub(super) struct Compared<'a> {
    pub(super) series: &'a Series,
    pub(super) ratio: Estimate,
}

/// Compares all paths of one figure with their limits; the limits themselves are left out.
pub(super) fn compare(all: &[Series], figure: Figure) -> Vec<Compared<'_>> {
    let limit = |place| {
        all.iter()
            .find(|series| series.limit && series.place == place)
    };
    let compared = all
        .iter()
        .filter(|series| !series.limit)
        .filter_map(|series| {
            let reference = limit(series.place)?.values.get(&figure)?;
            let ratio = paired_ratio(series.values.get(&figure)?, reference);
            Some(Compared { series, ratio })
        });
    compared.collect()
}

/// Medians of all paths and their ratios to the limit, one table for each figure.
pub(super) fn path_tables(all: &[Series]) -> String {
    let mut text = String::new();
    let measured = |figure: &Figure| all.iter().any(|series| series.values.contains_key(figure));
    for figure in Figure::ALL.into_iter().filter(measured) {
        let better = if figure.more_is_better() {
            "more"
        } else {
            "less"
        };
        let mut table = Table::new(1, &["path", "median", "of the limit (95 %)", ""]);
        let compared = compare(all, figure);
        for series in all {
            let value = series
                .values
                .get(&figure)
                .map_or(f64::NAN, |values| median(values));
            let value = if value >= 1000.0 {
                format!("{value:.0}")
            } else {
                format!("{value:.2}")
            };
            let own = compared.iter().find(|one| one.series.path == series.path);
            let (ratio, note) = match own {
                None => ("limit".to_owned(), ""),
                Some(one) if one.ratio.contains_one() => {
                    (format!("{:.2}", one.ratio), "no difference")
                }
                Some(one) if (one.ratio.value > 1.0) == figure.more_is_better() => {
                    (format!("{:.2}", one.ratio), "better")
                }
                Some(one) => (format!("{:.2}", one.ratio), "worse"),
            };
            table.row([series.path.clone(), value, ratio, note.to_owned()]);
        }
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{} ({better} is better)\n\n{table}", figure.title());
    }
    text
}

/// The aims of the project for the paths, met or not.
pub(super) fn aims(all: &[Series], cni: Option<&Cni>) -> Table {
    let mut table = Table::new(2, &["what", "figure", "measured", "aim", "verdict"]);
    for place in [Place::SameNode, Place::OtherNode] {
        for figure in Figure::ALL {
            for one in compare(all, figure) {
                let Some(aim) = figure.aim(place) else {
                    continue;
                };
                if !one.series.ours || one.series.place != place {
                    continue;
                }
                let sign = if figure.more_is_better() {
                    "≥"
                } else {
                    "≤"
                };
                let aim = match aim {
                    1.0 => "no worse".to_owned(),
                    aim => format!("{sign} {aim:.2}"),
                };
                let verdict = figure
                    .verdict(place, &one.ratio)
                    .map(|verdict| verdict.to_string());
                table.row([
                    one.series.path.clone(),
                    figure.title().to_owned(),
                    format!("{:.2}", one.ratio),
                    aim,
                    verdict.unwrap_or_default(),
                ]);
            }
        }
    }
    if let Some(cni) = cni {
        cni_aims(&mut table, cni);
    }
    table
}

/// The aims for CNI calls and memory.
fn cni_aims(table: &mut Table, cni: &Cni) {
    let mut latency = |figure: &str, ratio: Estimate| {
        let verdict = match ratio {
            Estimate { high, .. } if high <= 0.2 => "met",
            Estimate { low, .. } if low > 0.2 => "NOT met",
            Estimate { value, .. } if value <= 0.2 => {
                "met by the estimate, not by the whole interval"
            }
            _ => "not met by the estimate, the interval reaches it",
        };
        table.row([
            "CNI call",
            figure,
            &format!("{ratio:.2}"),
            "≤ 0.20",
            verdict,
        ]);
    };
    for one in &cni.latencies {
        for percent in [50.0, 99.0] {
            let figure = format!("{} p{percent}, {} at a time", one.action, one.parallel);
            latency(&figure, one.ratio(percent));
        }
    }
    let memory = &cni.memory;
    for (what, kib, most) in [
        ("shim", memory.shim_kib, 1024),
        ("agent", memory.agent_kib, 20 * 1024),
    ] {
        let figure = format!("resident, {} pods", memory.pods);
        let verdict = match () {
            () if memory.pods < JUDGED_PODS => "not judged by so few pods",
            () if kib < most => "met",
            () => "NOT met",
        };
        table.row([
            what.to_owned(),
            figure,
            format!("{kib} KiB"),
            format!("< {most} KiB"),
            verdict.to_owned(),
        ]);
    }
}

/// The aim for the agent's memory is about this many pods.
const JUDGED_PODS: usize = 100;

/// Latencies of the CNI calls in milliseconds.
pub(super) fn cni_table(cni: &Cni) -> String {
    let header = [
        "call",
        "at a time",
        "p50 ms",
        "p99 ms",
        "bridge p50",
        "bridge p99",
        "p50 ratio",
        "p99 ratio",
    ];
    let mut table = Table::new(1, &header);
    for latency in &cni.latencies {
        let figures = latency.percentiles().map(|value| format!("{value:.2}"));
        let mut row = vec![latency.action.to_owned(), latency.parallel.to_string()];
        row.extend(figures);
        row.extend([50.0, 99.0].map(|percent| format!("{:.2}", latency.ratio(percent))));
        table.row(row);
    }
    let mut text = table.to_string();
    for gone in &cni.until_gone {
        let [ours, reference] = [&gone.ours_ms, &gone.reference_ms].map(|times| median(times));
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            text,
            "\nAll DELs, {} at a time, until the last link is gone too: {ours:.2} ms for each pod, \
             bridge {reference:.2} ms, ratio {:.2}.",
            gone.parallel,
            paired_ratio(&gone.ours_ms, &gone.reference_ms)
        );
    }
    text
}

/// The parts of a bench beside the paths; none that was not asked for.
#[derive(Default, Serialize)]
pub(super) struct Parts {
    pub(super) cni: Option<Cni>,
    pub(super) services: Option<Services>,
    pub(super) policies: Option<Policies>,
    pub(super) storage: Option<Storage>,
    pub(super) devices: Option<Devices>,
}

#[derive(Serialize)]
struct Summary<'a> {
    rounds: usize,
    millis_per_run: u128,
    paths: Vec<PathSummary<'a>>,
    #[serde(flatten)]
    parts: &'a Parts,
    machine: &'a Machine,
}

#[derive(Serialize)]
struct PathSummary<'a> {
    path: &'a str,
    place: Place,
    figure: &'static str,
    median: f64,
    ratio_to_limit: Option<Estimate>,
}

/// Writes `raw.csv` (a line for each round, path and figure) and `summary.json`.
///
/// # Errors
/// Those of the file system.
pub(super) fn write(
    dir: &Path,
    all: &[Series],
    parts: &Parts,
    run: std::time::Duration,
    machine: &Machine,
) -> Result<()> {
    let mut csv = "round,path,figure,value\n".to_owned();
    let mut paths = Vec::new();
    for figure in LOADS
        .iter()
        .flat_map(|(_, figures)| figures.iter().copied())
    {
        let compared = compare(all, figure);
        for series in all {
            let Some(values) = series.values.get(&figure) else {
                continue;
            };
            for (round, value) in values.iter().enumerate() {
                writeln!(
                    csv,
                    "{round},\"{}\",\"{}\",{value}",
                    series.path,
                    figure.title()
                )?;
            }
            let own = compared.iter().find(|one| one.series.path == series.path);
            paths.push(PathSummary {
                path: &series.path,
                place: series.place,
                figure: figure.title(),
                median: median(values),
                ratio_to_limit: own.map(|one| one.ratio),
            });
        }
    }
    let rounds = all
        .iter()
        .flat_map(|series| series.values.values())
        .map(Vec::len)
        .max();
    let summary = Summary {
        rounds: rounds.unwrap_or(0),
        millis_per_run: run.as_millis(),
        paths,
        parts,
        machine,
    };
    fs::write(dir.join("raw.csv"), csv)?;
    fs::write(
        dir.join("summary.json"),
        serde_json::to_string_pretty(&summary)?,
    )?;
    Ok(())
}
