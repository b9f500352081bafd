//! The figures of policies in tables and as a chart.

use super::{
    super::{
        chart,
        stats::{median, paired_ratio, percentile},
    },
    Policies, Rates,
};
use crate::table::Table;
use anyhow::Result;
use std::{fmt::Write, path::Path};

/// The path that the others are compared with.
const WITHOUT: &str = "kernel routing";
/// Those that Fairlead is compared with; a set is there with many rules only.
const FIREWALLS: [&str; 3] = ["nftables", "nftables, set", "iptables"];
/// All that have rules.
const JUDGES: [&str; 4] = ["Fairlead", FIREWALLS[0], FIREWALLS[1], FIREWALLS[2]];

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
                paired_ratio(values(path), values(without)).to_string()
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
    let header = [
        "rules",
        "in force after ms",
        "least",
        "most",
        "KiB resident",
    ];
    let mut agents = Table::new(1, &header);
    for agent in &all.agents {
        let [half, least, most] =
            [50.0, 0.0, 100.0].map(
                |percent| match percentile(&agent.in_force_millis, percent) {
                    millis if millis.is_nan() => "–".to_owned(),
                    millis => format!("{millis:.0}"),
                },
            );
        let kib = agent.resident_kib.to_string();
        agents.row([agent.rules.to_string(), half, least, most, kib]);
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = write!(
        text,
        "New connections (connect, request, reset) and round trips of one byte; more is better\n\n{table}\n\
         iptables is {}\n\n\
         Agents: from the manifests' last byte to the first connection that they let in\n\n{agents}\n{}",
        all.iptables,
        aims(all)
    );
    text
}

/// One figure of a path, by rounds.
type Values = fn(&Rates) -> &[f64];

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
                ratio.to_string(),
                aim.to_owned(),
                if aim.is_empty() { "" } else { said }.to_owned(),
            ]);
        }
    }
    for rules in all.rules {
        for other in FIREWALLS {
            let (Some(ours), Some(theirs)) = (of(all, "Fairlead", rules), of(all, other, rules))
            else {
                continue;
            };
            for (name, values) in figures {
                let ratio = paired_ratio(values(ours), values(theirs));
                table.row([
                    "Fairlead".to_owned(),
                    format!("{name}, {rules} rules, of {other}"),
                    ratio.to_string(),
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
    let curves = JUDGES.map(|by| {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten rounds of two numbers of rules, in which a path keeps this part of its connections.
    fn measured(kept: &[(&'static str, [f64; 2])]) -> Policies {
        let rates = |by, rules, part: f64| Rates {
            path: format!("{by}, {rules} rules"),
            by,
            rules,
            connections: (0..10).map(|n| part * f64::from(1_000 + n % 3)).collect(),
            trips: vec![500.0; 10],
        };
        let mut paths = vec![rates(WITHOUT, 0, 1.0)];
        for &(by, [few, many]) in kept {
            paths.extend([rates(by, 1, few), rates(by, 10_000, many)]);
        }
        Policies {
            rules: [1, 10_000],
            paths,
            agents: Vec::new(),
            iptables: "iptables v1".to_owned(),
        }
    }

    fn line(text: &str, what: &str) -> String {
        let line = text.lines().find(|line| line.contains(what));
        line.unwrap_or_default().to_owned()
    }

    #[test]
    fn a_walk_over_the_rules_misses_the_aim_and_a_flat_cost_meets_it() {
        let text = aims(&measured(&[("Fairlead", [1.0, 0.99])])).to_string();
        let flat = line(&text, "connections, 10000 rules of 1 ");
        assert!(flat.ends_with(" met"), "{text}");
        let text = aims(&measured(&[("Fairlead", [1.0, 0.5])])).to_string();
        let walk = line(&text, "connections, 10000 rules of 1 ");
        assert!(
            walk.contains("0.500") && walk.ends_with("NOT met"),
            "{text}"
        );
    }

    #[test]
    fn fairlead_is_compared_with_each_firewall_of_the_same_number_of_rules() {
        let all = measured(&[("Fairlead", [1.0, 0.9]), ("iptables", [1.2, 0.3])]);
        let text = aims(&all).to_string();
        let few = line(&text, "connections, 1 rules, of iptables");
        assert!(few.contains("0.833") && few.ends_with("NOT met"), "{text}");
        let many = line(&text, "connections, 10000 rules, of iptables");
        assert!(many.contains("3.000") && many.ends_with(" met"), "{text}");
        assert!(!text.contains("of nftables"), "{text}");
    }

    #[test]
    fn an_agent_without_rules_has_a_size_and_no_time() {
        let mut all = measured(&[]);
        all.agents = [(0, vec![]), (10_000, vec![900.0, 1_000.0, 1_400.0])]
            .map(|(rules, in_force_millis)| super::super::Agents {
                rules,
                in_force_millis,
                resident_kib: 20_480,
            })
            .into();
        let text = tables(&all);
        let words = |start: &str| {
            let line = text.lines().find(|line| line.trim().starts_with(start));
            let words = line.unwrap_or_default().split_whitespace();
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(words("0 "), ["0", "–", "–", "–", "20480"], "{text}");
        assert_eq!(
            words("10000 "),
            ["10000", "1000", "900", "1400", "20480"],
            "{text}"
        );
    }
}
