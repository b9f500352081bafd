//! The figures of policies in tables and as a chart.

use super::{
    super::{
        chart,
        stats::{Estimate, median, paired_ratio},
    },
    Policies, Rates,
};
use crate::table::Table;
use anyhow::Result;
use std::{fmt::Write, path::Path};

/// The path that the others are compared with.
const WITHOUT: &str = "kernel routing";

/// Connections, round trips, and what the aim says of them.
pub(crate) fn tables(all: &Policies) -> String {
    let mut table = Table::new(
        1,
        &[
            "path",
            "connections/s",
            "of kernel routing (95 %)",
            "round trips/s",
            "of kernel routing (95 %)",
        ],
    );
    let without = all.paths.iter().find(|path| path.by == WITHOUT);
    for path in &all.paths {
        let of = |values: Values| {
            without.map_or_else(String::new, |without| {
                words(&paired_ratio(values(path), values(without)))
            })
        };
        table.row([
            path.path.clone(),
            format!("{:.0}", median(&path.connections)),
            of(|rates| &rates.connections),
            format!("{:.0}", median(&path.trips)),
            of(|rates| &rates.trips),
        ]);
    }
    let mut agents = Table::new(1, &["rules", "in force after ms", "agent's memory, KiB"]);
    for (rules, millis) in &all.in_force_millis {
        let kib = all.agent_kib.iter().find(|(of, _)| of == rules);
        agents.row([
            rules.to_string(),
            format!("{millis:.0}"),
            kib.map_or_else(String::new, |(_, kib)| kib.to_string()),
        ]);
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = write!(
        text,
        "New connections (connect, request, reset) and round trips of one byte; more is better\n\n{table}\n\
         From the manifests' last byte to rules in force\n\n{agents}\n{}",
        aims(all)
    );
    text
}

/// One figure of a path, by rounds.
type Values = fn(&Rates) -> &[f64];

fn words(ratio: &Estimate) -> String {
    format!("{:.3} ({:.3}–{:.3})", ratio.value, ratio.low, ratio.high)
}

fn of<'a>(all: &'a Policies, by: &str, rules: u32) -> Option<&'a Rates> {
    let mut paths = all.paths.iter();
    paths.find(|path| path.by == by && path.rules == rules)
}

/// The same cost with few and many rules, and no firewall ahead with the same number.
fn aims(all: &Policies) -> Table {
    let mut table = Table::new(2, &["what", "figure", "measured", "aim", "verdict"]);
    let [few, many] = all.rules;
    let figures: [(&str, Values); 2] = [
        ("connections", |rates| &rates.connections),
        ("round trips", |rates| &rates.trips),
    ];
    let verdict = |met: bool, never: bool| match (met, never) {
        (true, _) => "met",
        (false, true) => "NOT met",
        (false, false) => "open: the interval holds the bound",
    };
    for by in ["Fairlead", "nftables", "iptables"] {
        let (Some(few_rules), Some(many_rules)) = (of(all, by, few), of(all, by, many)) else {
            continue;
        };
        for (name, values) in figures {
            let ratio = paired_ratio(values(many_rules), values(few_rules));
            let aim = if by == "Fairlead" { "0.95 to 1.05" } else { "" };
            let said = verdict(
                ratio.low >= 0.95 && ratio.high <= 1.05,
                ratio.high < 0.95 || ratio.low > 1.05,
            );
            table.row([
                by.to_owned(),
                format!("{name}, {many} rules of {few}"),
                words(&ratio),
                aim.to_owned(),
                if aim.is_empty() { "" } else { said }.to_owned(),
            ]);
        }
    }
    for rules in all.rules {
        for other in ["nftables", "iptables"] {
            let (Some(ours), Some(theirs)) = (of(all, "Fairlead", rules), of(all, other, rules))
            else {
                continue;
            };
            for (name, values) in figures {
                let ratio = paired_ratio(values(ours), values(theirs));
                table.row([
                    "Fairlead".to_owned(),
                    format!("{name}, {rules} rules, of {other}"),
                    words(&ratio),
                    "> 1".to_owned(),
                    verdict(ratio.low > 1.0, ratio.high <= 1.0).to_owned(),
                ]);
            }
        }
    }
    table
}

/// Draws the connections a second over the number of rules, both by powers of ten.
///
/// # Errors
/// Those of drawing and of the file system.
pub(crate) fn draw(file: &Path, all: &Policies) -> Result<()> {
    let curves = ["Fairlead", "nftables", "iptables"].map(|by| {
        let points = all.rules.into_iter().filter_map(|rules| {
            let path = of(all, by, rules)?;
            Some((f64::from(rules), median(&path.connections)))
        });
        (by, points.collect())
    });
    chart::curves(
        file,
        "New connections a second, by the number of rules",
        &curves,
    )
}
