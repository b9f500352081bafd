//! The figures of devices in tables and as a chart.

use super::{
    super::{
        JUDGED,
        chart::{self, Dot},
        stats::{Estimate, median, paired_ratio, percentile},
    },
    Devices,
    calls::{Call, Calls},
    starts::Kind,
};
use crate::table::Table;
use anyhow::Result;
use std::{fmt::Write, path::Path};

/// The most that 99 of 100 calls of Allocate may take, in milliseconds.
const LONGEST_ALLOCATE: f64 = 2.0;

/// Said where this program was built like that.
const UNOPTIMIZED: &str = "
The bare server and the asking side were built without optimization, unlike the agent: the ratios mean nothing, and all
times are too long. cargo run --release --package xtask -- bench --only devices
";

/// Everything in words.
pub(crate) fn tables(all: &Devices) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = write!(
        text,
        "{} devices over {} resources\n\nThe agent, MiB\n\n{}\n\
         Until the kubelet has all devices of all resources, ms (less is better)\n\n{}\n\
         Calls, µs (less is better)\n\n{}\n\
         From a device's change until the kubelet's stream says so, ms (less is better)\n\n{}\n{}{}",
        all.devices,
        all.resources,
        memory(all),
        starts(all),
        calls(all),
        told(all),
        aims(all),
        if all.optimized { "" } else { UNOPTIMIZED }
    );
    text
}

fn memory(all: &Devices) -> Table {
    let mut table = Table::new(1, &["when", "resident", "most"]);
    for one in &all.memory {
        let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
        table.row([
            one.when.to_owned(),
            mib(one.resident_kib),
            mib(one.peak_kib),
        ]);
    }
    table
}

fn starts(all: &Devices) -> Table {
    let header = [
        "after",
        "p50",
        "longest",
        "bare p50",
        "of bare (95 %)",
        "Register to list p50",
        "p99",
        "bare p50",
        "p99",
    ];
    let mut table = Table::new(1, &header);
    for one in &all.starts {
        let ms = |value: f64| format!("{value:.1}");
        let bare = |text: String| match one.kind {
            Kind::Kubelet => "–".to_owned(),
            Kind::First | Kind::Again => text,
        };
        let (ours, floor) = (one.each_ours_ms.concat(), one.each_bare_ms.concat());
        table.row([
            one.kind.title().to_owned(),
            ms(median(&one.ours_ms)),
            ms(percentile(&one.ours_ms, 100.0)),
            bare(ms(median(&one.bare_ms))),
            bare(format!("{:.2}", paired_ratio(&one.ours_ms, &one.bare_ms))),
            ms(median(&ours)),
            ms(percentile(&ours, 99.0)),
            bare(ms(median(&floor))),
            bare(ms(percentile(&floor, 99.0))),
        ]);
    }
    table
}

impl Calls {
    fn title(&self) -> String {
        match self.changing {
            true => format!("{}, while a tenth changes", self.call.title()),
            false => self.call.title(),
        }
    }

    /// A name that has room beside the chart.
    fn short(&self) -> String {
        let when = if self.changing { ", changing" } else { "" };
        match self.call {
            Call::Allocate(count) => format!("Allocate, {count}{when}"),
            Call::Preferred => format!("GetPreferred…{when}"),
        }
    }

    /// One percentile of each round, ours and that of the bare server.
    fn rounds(&self, percent: f64) -> [Vec<f64>; 2] {
        [&self.ours_ms, &self.bare_ms].map(|rounds| {
            let rounds = rounds.iter();
            rounds.map(|times| percentile(times, percent)).collect()
        })
    }

    fn ratio(&self, percent: f64) -> Estimate {
        let [ours, bare] = self.rounds(percent);
        paired_ratio(&ours, &bare)
    }

    /// The middle round's percentile, in milliseconds.
    fn estimate(&self, percent: f64) -> Estimate {
        let [ours, _] = self.rounds(percent);
        paired_ratio(&ours, &vec![1.0; ours.len()])
    }
}

fn calls(all: &Devices) -> Table {
    let header = [
        "call",
        "calls",
        "p50",
        "p99",
        "bare p50",
        "bare p99",
        "p50 of bare (95 %)",
        "p99 of bare (95 %)",
    ];
    let mut table = Table::new(1, &header);
    for one in &all.calls {
        let (ours, bare) = (one.ours_ms.concat(), one.bare_ms.concat());
        let micros = |values: &[f64], percent| format!("{:.0}", percentile(values, percent) * 1e3);
        table.row([
            one.title(),
            ours.len().to_string(),
            micros(&ours, 50.0),
            micros(&ours, 99.0),
            micros(&bare, 50.0),
            micros(&bare, 99.0),
            format!("{:.2}", one.ratio(50.0)),
            format!("{:.2}", one.ratio(99.0)),
        ]);
    }
    table
}

fn told(all: &Devices) -> Table {
    let header = [
        "what", "gone p50", "p99", "longest", "back p50", "p99", "longest",
    ];
    let mut table = Table::new(1, &header);
    for one in &all.told {
        let mut row = vec![one.kind.title()];
        for times in [one.gone_ms.concat(), one.back_ms.concat()] {
            let figures = [50.0, 99.0, 100.0].map(|percent| percentile(&times, percent));
            row.extend(figures.map(|value| format!("{value:.1}")));
        }
        table.row(row);
    }
    table
}

/// What the middle round's p99 means for the aim.
fn verdict(p99: &Estimate, rounds: usize) -> &'static str {
    match p99 {
        _ if rounds < JUDGED as usize => "not judged by so few rounds",
        p99 if p99.high < LONGEST_ALLOCATE => "met",
        p99 if p99.low >= LONGEST_ALLOCATE => "NOT met",
        _ => "open: the interval holds the bound",
    }
}

fn aims(all: &Devices) -> Table {
    let mut table = Table::new(2, &["what", "figure", "measured", "aim", "verdict"]);
    let allocate = |one: &&Calls| one.call != Call::Preferred;
    for one in all.calls.iter().filter(allocate) {
        let p99 = one.estimate(99.0);
        table.row([
            one.title(),
            "p99 of a round, ms".to_owned(),
            p99.to_string(),
            format!("< {LONGEST_ALLOCATE}"),
            verdict(&p99, one.ours_ms.len()).to_owned(),
        ]);
    }
    table
}

/// Draws the ratios of the calls to those of the bare server.
///
/// # Errors
/// Those of drawing and of the file system.
pub(crate) fn draw(file: &Path, all: &Devices) -> Result<()> {
    let names: Vec<_> = all.calls.iter().map(Calls::short).collect();
    let panels = [
        (50.0, "p50 — ratio to a bare gRPC server, left is better"),
        (99.0, "p99 — ratio to a bare gRPC server, left is better"),
    ];
    let panels = panels.map(|(percent, caption)| {
        let dots = names.iter().zip(&all.calls).map(|(name, one)| Dot {
            name,
            ratio: one.ratio(percent),
            ours: true,
        });
        (caption, dots.collect())
    });
    chart::ratios(file, &panels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(call: Call, ours: f64, rounds: usize) -> Calls {
        let times =
            |most: f64| vec![(0..100).map(|n| most * f64::from(n) / 99.0).collect(); rounds];
        Calls {
            call,
            changing: false,
            ours_ms: times(ours),
            bare_ms: times(0.5),
        }
    }

    fn judged(one: Calls) -> String {
        let all = Devices {
            resources: 1,
            devices: 1,
            optimized: true,
            memory: Vec::new(),
            starts: Vec::new(),
            calls: vec![one],
            told: Vec::new(),
        };
        aims(&all).to_string()
    }

    #[test]
    fn allocate_is_judged_by_its_p99_from_ten_rounds_on() {
        for (ours, rounds, expected) in [
            (1.0, 10, " met"),
            (3.0, 10, "NOT met"),
            (1.0, 9, "not judged by so few rounds"),
        ] {
            let text = judged(calls(Call::Allocate(1), ours, rounds));
            assert!(text.trim_end().ends_with(expected), "{text}");
        }
        let text = judged(calls(Call::Preferred, 3.0, 10));
        assert!(!text.contains("met"), "{text}");
    }

    #[test]
    fn the_ratio_is_that_of_the_rounds() {
        let ratio = calls(Call::Allocate(1), 1.0, 10).ratio(99.0);
        assert!((ratio.value - 2.0).abs() < 1e-9 && (ratio.high - ratio.low) < 1e-9);
    }
}
