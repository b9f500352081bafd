//! The figures of volumes in tables and as charts.

use super::{
    super::{
        chart::{self, Dot},
        stats::{Estimate, median, percentile, percentile_ratio},
    },
    Storage,
    cuts::{Contents, Cut},
    io::{Job, compared},
    latency::BY_HAND,
};
use crate::table::Table;
use anyhow::Result;
use std::{fmt::Write, path::Path};

/// The most that the image back end may lose of a bare directory's rate.
const LEAST_RATE: f64 = 0.95;
/// The most that a snapshot may take, in milliseconds.
const LONGEST_SNAPSHOT: f64 = 100.0;
/// Snapshots of the largest volume may take so many times as long as those of the smallest.
const FLAT: f64 = 1.5;

/// Everything in words.
pub(crate) fn tables(all: &Storage) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = write!(
        text,
        "From the request to the pod's mount, ms (less is better)\n\n{}\n{}Snapshots and clones, ms\n\n{}\n{}",
        latencies(all),
        rates(all),
        cuts(all),
        aims(all)
    );
    for refused in &all.refused {
        let _infallible = writeln!(text, "Not measured: {refused}");
    }
    text
}

fn latencies(all: &Storage) -> Table {
    let header = [
        "volume",
        "at a time",
        "p50",
        "p99",
        "create p50",
        "stage p50",
        "publish p50",
        "p50 of by hand (95 %)",
        "p99 of by hand (95 %)",
    ];
    let mut table = Table::new(1, &header);
    for one in &all.latencies {
        let mut peers = all.latencies.iter();
        let by_hand = peers.find(|of| of.back_end == BY_HAND && of.parallel == one.parallel);
        let ratio = |percent| {
            let by_hand = by_hand.filter(|of| of.back_end != one.back_end);
            by_hand.map_or_else(String::new, |of| {
                let ratio = percentile_ratio(&one.whole_ms, &of.whole_ms, percent);
                format!("{ratio:.2}")
            })
        };
        let p50 = |values: &[Vec<f64>]| format!("{:.1}", median(&values.concat()));
        table.row([
            one.back_end.to_owned(),
            one.parallel.to_string(),
            p50(&one.whole_ms),
            format!("{:.1}", percentile(&one.whole_ms.concat(), 99.0)),
            p50(&one.create_ms),
            p50(&one.stage_ms),
            p50(&one.publish_ms),
            ratio(50.0),
            ratio(99.0),
        ]);
    }
    table
}

fn rates(all: &Storage) -> String {
    let mut text = String::new();
    for job in Job::ALL {
        let mut table = Table::new(1, &["place", "median", "of bare (95 %)", ""]);
        let ratios = compared(&all.io, job);
        for series in &all.io {
            let Some(values) = series.rates.get(&job) else {
                continue;
            };
            let own = ratios.iter().find(|(of, _)| of.place == series.place);
            let (ratio, note) = match own {
                None => (String::new(), ""),
                Some((_, ratio)) => (
                    ratio.to_string(),
                    match ratio {
                        ratio if ratio.contains_one() => "no difference",
                        ratio if ratio.value > 1.0 => "better",
                        _ => "worse",
                    },
                ),
            };
            table.row([
                series.place.clone(),
                format!("{:.0}", median(values)),
                ratio,
                note.to_owned(),
            ]);
        }
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{} (more is better)\n\n{table}", job.title());
    }
    text
}

fn cuts(all: &Storage) -> Table {
    let header = [
        "volume",
        "GiB",
        "on disk MiB",
        "snapshot p50",
        "most",
        "clone p50",
        "most",
        "while written p50",
        "most",
        "longest write",
        "without snapshots",
        "copy p50",
    ];
    let mut table = Table::new(1, &header);
    let most = |values: &[f64]| format!("{:.1}", percentile(values, 100.0));
    let p50 = |values: &[f64]| format!("{:.1}", median(values));
    for cut in &all.cuts {
        let [with, without] = cut.longest_write_ms.map(|ms| format!("{ms:.1}"));
        table.row([
            name(cut),
            cut.gib.to_string(),
            (cut.written >> 20).to_string(),
            p50(&cut.snapshot_ms),
            most(&cut.snapshot_ms),
            p50(&cut.clone_ms),
            most(&cut.clone_ms),
            p50(&cut.busy_snapshot_ms),
            most(&cut.busy_snapshot_ms),
            with,
            without,
            p50(&cut.copy_ms),
        ]);
    }
    table
}

fn name(cut: &Cut) -> String {
    match cut.contents {
        Contents::Ordered => cut.back_end.to_owned(),
        Contents::Scattered => format!("{}, scattered", cut.back_end),
    }
}

/// One figure of a volume.
type Values = fn(&Cut) -> &[f64];

/// What a ratio means for the aim of a rate.
fn verdict(ratio: &Estimate) -> &'static str {
    match ratio {
        ratio if ratio.low >= LEAST_RATE => "met",
        ratio if ratio.high < LEAST_RATE => "NOT met",
        _ => "open: the interval holds the bound",
    }
}

fn aims(all: &Storage) -> Table {
    let mut table = Table::new(2, &["what", "figure", "measured", "aim", "verdict"]);
    for job in Job::ALL {
        for (series, ratio) in compared(&all.io, job) {
            if series.place.starts_with("image") {
                table.row([
                    series.place.clone(),
                    job.title().to_owned(),
                    ratio.to_string(),
                    format!("≥ {LEAST_RATE:.2} of bare"),
                    verdict(&ratio).to_owned(),
                ]);
            }
        }
    }
    let met = |met: bool| if met { "met" } else { "NOT met" }.to_owned();
    for cut in &all.cuts {
        for (figure, values) in [
            ("snapshot", &cut.snapshot_ms),
            ("snapshot while written", &cut.busy_snapshot_ms),
        ] {
            let most = percentile(values, 100.0);
            table.row([
                format!("{}, {} GiB", name(cut), cut.gib),
                format!("{figure}, the longest, ms"),
                format!("{most:.1}"),
                format!("< {LONGEST_SNAPSHOT}"),
                met(most < LONGEST_SNAPSHOT),
            ]);
        }
    }
    let ordered = |of: &&Cut| of.contents == Contents::Ordered;
    for smallest in all.cuts.iter().filter(ordered) {
        let same = all.cuts.iter().filter(ordered);
        let mut same = same.filter(|of| of.back_end == smallest.back_end);
        let Some(largest) = same.clone().max_by_key(|of| of.gib) else {
            continue;
        };
        if same.any(|of| of.gib < smallest.gib) {
            continue;
        }
        let ratio = median(&largest.snapshot_ms) / median(&smallest.snapshot_ms);
        table.row([
            name(smallest),
            format!("snapshot p50, {} GiB of {} GiB", largest.gib, smallest.gib),
            format!("{ratio:.2}"),
            format!("≤ {FLAT}"),
            met(ratio <= FLAT),
        ]);
    }
    table
}

/// Draws the ratios of reads and writes, and the times of snapshots, clones and copies over the volume's size.
///
/// # Errors
/// Those of drawing and of the file system.
pub(crate) fn draw(dir: &Path, all: &Storage) -> Result<()> {
    let panels: Vec<_> = Job::ALL
        .into_iter()
        .map(|job| {
            let dots = compared(&all.io, job)
                .into_iter()
                .map(|(series, ratio)| Dot {
                    name: &series.place,
                    ratio,
                    ours: !series.place.starts_with("bare"),
                });
            (job.title(), dots.collect())
        })
        .collect();
    chart::ratios(&dir.join("storage-io.svg"), &panels)?;
    let mut curves = Vec::new();
    let mut names = Vec::new();
    let ordered = || {
        all.cuts
            .iter()
            .filter(|of| of.contents == Contents::Ordered)
    };
    let mut back_ends: Vec<_> = ordered().map(|of| of.back_end).collect();
    back_ends.dedup();
    for back_end in back_ends {
        let figures: [(&str, Values); 3] = [
            ("snapshot", |cut| &cut.snapshot_ms),
            ("clone", |cut| &cut.clone_ms),
            ("copy", |cut| &cut.copy_ms),
        ];
        for (figure, values) in figures {
            let of_it = ordered().filter(|of| of.back_end == back_end);
            let points: Vec<_> = of_it
                .map(|cut| (cut.gib as f64, median(values(cut))))
                .collect();
            names.push(format!("{figure}, {back_end}"));
            curves.push(points);
        }
    }
    let curves: Vec<_> = names.iter().map(String::as_str).zip(curves).collect();
    chart::curves(
        &dir.join("storage-cuts.svg"),
        "Milliseconds of a snapshot, a clone and a copy, by GiB of the volume",
        &curves,
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::{io::Series, rig::PoolFs},
        *,
    };

    fn series(place: &str, bare: bool, part: f64) -> Series {
        let rates = (0..10).map(|n| part * f64::from(1_000 + n % 3)).collect();
        Series {
            place: place.to_owned(),
            pool: PoolFs::Xfs,
            bare,
            rates: [(Job::RandomRead1, rates)].into(),
        }
    }

    fn cut(gib: u64, ms: f64) -> Cut {
        Cut {
            back_end: "image, ext4",
            contents: Contents::Ordered,
            gib,
            written: 1 << 30,
            snapshot_ms: vec![ms; 3],
            clone_ms: vec![ms; 3],
            busy_snapshot_ms: vec![ms; 3],
            longest_write_ms: [ms; 2],
            copy_ms: vec![1_000.0; 3],
        }
    }

    fn judged(io: Vec<Series>, cuts: Vec<Cut>) -> String {
        let all = Storage {
            latencies: Vec::new(),
            io,
            cuts,
            refused: Vec::new(),
        };
        aims(&all).to_string()
    }

    fn verdict_of(text: &str, what: &str) -> String {
        let line = text.lines().find(|line| line.contains(what));
        let line = line.unwrap_or_else(|| panic!("{what}: {text}"));
        line.trim_end()
            .rsplit("  ")
            .next()
            .unwrap()
            .trim()
            .to_owned()
    }

    #[test]
    fn a_back_end_that_loses_a_tenth_misses_the_aim_and_one_that_loses_a_hundredth_meets_it() {
        for (part, expected) in [(0.9, "NOT met"), (0.99, "met")] {
            let io = vec![
                series("bare (xfs)", true, 1.0),
                series("image, ext4", false, part),
            ];
            let text = judged(io, Vec::new());
            assert_eq!(verdict_of(&text, "random reads"), expected, "{text}");
        }
    }

    #[test]
    fn a_snapshot_that_grows_with_its_volume_is_not_flat() {
        for (largest, flat, short) in [
            (20.0, "met", "met"),
            (60.0, "NOT met", "met"),
            (200.0, "NOT met", "NOT met"),
        ] {
            let text = judged(
                Vec::new(),
                vec![cut(1, 19.0), cut(10, 19.0), cut(50, largest)],
            );
            assert_eq!(verdict_of(&text, "50 GiB of 1 GiB"), flat, "{text}");
            assert_eq!(verdict_of(&text, "image, ext4, 50 GiB"), short, "{text}");
        }
    }
}
