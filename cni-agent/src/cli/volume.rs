//! `fairlead volume`.

use super::{
    client::ask,
    print::{Columns, render},
    rows::{Answer, NONE, duration, join},
    volume_demo::DemoArgs,
};
use crate::{
    config::Output,
    query::{CheckAnswer, PoolUsage, Query, SnapshotRow, VolumeRow},
};
use clap::{Args, Subcommand};
use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// Most names that are suggested.
const MOST_NEAR: usize = 5;

#[derive(Subcommand)]
pub(super) enum VolumeVerb {
    /// Every volume of this node: its size and use, its claim and pods, how far it is.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  fairlead volume list\n  fairlead volume list -n shop -o wide\n  fairlead volume list -o json | jq '.[] | select(.state == \"published\") | .claim'\nUSED is what the volume's own file system has in use, where it is mounted."
    )]
    List {
        /// Volumes of claims and pods of this namespace only.
        #[arg(short, long)]
        namespace: Option<String>,
        #[command(flatten)]
        print: Print,
    },
    /// One volume: where it is, who has it, what is wrong with it. Exits with 1 if there is none of that name.
    #[command(
        after_help = "Examples:\n  fairlead volume get shop/data-db-0\n  fairlead volume get pvc-6d1d2e3f-8f43-4a0e-9d7b-1c6a5f0e2b11 -o yaml\n  fairlead volume get vol-2b3c"
    )]
    Get {
        /// Its id or the beginning of it, its name, namespace/name of its claim or of a pod that has it, or a claim's
        /// name alone.
        volume: String,
        #[command(flatten)]
        print: Print,
    },
    /// How the pool's room is used: promised, taken, shared, free, and what would fill it. Exits with 1 if something
    /// would.
    #[command(
        after_help = "Examples:\n  fairlead volume usage\n  fairlead volume usage -o json | jq .available\nOWN is what nobody shares: a removal frees it. PROMISED is kept free for blocks that are shared or thin and may be\nwritten anew. AVAILABLE is how large another volume may be."
    )]
    Usage(Print),
    /// Every snapshot with the volume that it is of, its own blocks and those that it shares.
    #[command(
        after_help = "Examples:\n  fairlead volume snapshots\n  fairlead volume snapshots --of shop/data-db-0\n  fairlead volume snapshots -o wide\nA snapshot's source may be deleted: the snapshot stays whole."
    )]
    Snapshots {
        /// Of this volume only: its id, or namespace/name of its claim.
        #[arg(long)]
        of: Option<String>,
        #[command(flatten)]
        print: Print,
    },
    /// Whether the store, the pool's files, loop devices, mounts and the pods' folders agree: each difference with its
    /// remedy. Nothing is changed. Exits with 0 if they do, with 1 if not.
    #[command(
        after_help = "Examples:\n  fairlead volume check\n  fairlead volume check -o json | jq -r '.differences[].what'"
    )]
    Check(Print),
    /// Show the whole life of the specification's example claim without Kubernetes: each call of the driver with its
    /// request and its answer, on a pool of its own that goes at the end. Needs root. Exits with 0 if each step held.
    Demo(DemoArgs),
}

#[derive(Args, Clone, Copy)]
pub(super) struct Print {
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Asks the agent and words the answer.
pub(super) fn run(verb: VolumeVerb, socket: &Path) -> Result<Answer, String> {
    match verb {
        VolumeVerb::List { namespace, print } => {
            let mut rows: Vec<VolumeRow> = ask(socket, Query::Volumes)?;
            if let Some(namespace) = namespace {
                rows.retain(|row| is_in(row, &namespace));
            }
            list(&rows, print.output)
        }
        VolumeVerb::Get { volume, print } => {
            let rows: Vec<VolumeRow> = ask(socket, Query::Volumes)?;
            get(&rows, &volume, print.output)
        }
        VolumeVerb::Usage(print) => usage(&ask(socket, Query::VolumeUsage)?, print.output),
        VolumeVerb::Snapshots { of, print } => {
            let mut rows: Vec<SnapshotRow> = ask(socket, Query::Snapshots)?;
            if let Some(of) = of {
                rows.retain(|row| row.of == of || row.claim.as_ref() == Some(&of));
            }
            snapshots(&rows, print.output)
        }
        VolumeVerb::Demo(_) => Err("needs no agent".into()),
        VolumeVerb::Check(print) => check(&ask(socket, Query::VolumeCheck)?, print.output),
    }
}

fn is_in(row: &VolumeRow, namespace: &str) -> bool {
    let mut names = row.claim.iter().chain(&row.pods);
    names.any(|name| name.split_once('/').is_some_and(|(of, _)| of == namespace))
}

fn list(rows: &[VolumeRow], output: Output) -> Result<Answer, String> {
    let text = render(&rows, output, || Columns {
        heads: vec![
            "VOLUME", "CLAIM", "SIZE", "USED", "BACK END", "FS", "STATE", "PODS", "AGE", "PROBLEMS",
        ],
        wide_heads: vec![
            "NAME",
            "ON DISK",
            "THIN",
            "SOURCE",
            "DEVICE",
            "STAGED",
            "PUBLISHED",
        ],
        rows: rows.iter().map(line).collect(),
    })?;
    Ok(Answer { text, code: 0 })
}

fn line(row: &VolumeRow) -> (Vec<String>, Vec<String>) {
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| NONE.to_owned(), size);
    let whose = match (&row.claim, row.inline) {
        (Some(claim), _) => claim.clone(),
        (None, true) => "(inline)".to_owned(),
        (None, false) => NONE.to_owned(),
    };
    let paths = |paths: Vec<&Path>| {
        let paths: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        join(&paths)
    };
    let main = vec![
        row.id.clone(),
        whose,
        size(row.bytes),
        bytes(row.used),
        row.back_end.clone(),
        row.fs.clone(),
        row.state.as_str().to_owned(),
        join(&row.pods),
        age(row.made_at),
        row.problems.len().to_string(),
    ];
    let device = row
        .device
        .as_ref()
        .map(|device| device.display().to_string());
    let wide = vec![
        row.name.clone(),
        bytes(row.allocated),
        if row.thin { "yes" } else { "no" }.to_owned(),
        or_none(&row.source),
        or_none(&device),
        paths(row.staged.iter().map(AsRef::as_ref).collect()),
        paths(row.published.iter().map(|at| at.path.as_ref()).collect()),
    ];
    (main, wide)
}

fn get(rows: &[VolumeRow], wanted: &str, output: Output) -> Result<Answer, String> {
    match found(rows, wanted).as_slice() {
        [] => {
            eprintln!("fairlead: {}", unknown(rows, wanted));
            let text = String::new();
            Ok(Answer { text, code: 1 })
        }
        [one] => {
            let text = render(one, output, || details(one))?;
            Ok(Answer { text, code: 0 })
        }
        several => {
            let names: Vec<&str> = several.iter().map(|row| called(row)).collect();
            eprintln!(
                "fairlead: {wanted:?} may be several volumes, say which: {}",
                join(&names)
            );
            let text = String::new();
            Ok(Answer { text, code: 1 })
        }
    }
}

/// What can be meant by a name: exactly one of an id or a full name, else those that begin so.
fn found<'a>(rows: &'a [VolumeRow], wanted: &str) -> Vec<&'a VolumeRow> {
    let exact = |row: &&VolumeRow| {
        row.id == wanted
            || row.name == wanted
            || row.claim.as_deref() == Some(wanted)
            || row.pods.iter().any(|pod| pod == wanted)
    };
    let exactly: Vec<&VolumeRow> = rows.iter().filter(exact).collect();
    if !exactly.is_empty() || wanted.is_empty() {
        return exactly;
    }
    let in_part = |row: &&VolumeRow| {
        let claim = row.claim.as_ref().and_then(|claim| claim.split_once('/'));
        claim.is_some_and(|(_, name)| name == wanted)
            || (wanted.len() >= 6 && (row.id.starts_with(wanted) || row.name.starts_with(wanted)))
    };
    rows.iter().filter(in_part).collect()
}

fn called(row: &VolumeRow) -> &str {
    row.claim.as_deref().unwrap_or(&row.name)
}

/// What to say of a name that nothing has: those that are alike, a letter in three may be wrong.
fn unknown(rows: &[VolumeRow], wanted: &str) -> String {
    let most = (wanted.chars().count() / 3).max(1);
    let near = |row: &VolumeRow| {
        let claim = row.claim.as_ref();
        let short = claim.and_then(|claim| claim.split_once('/').map(|(_, name)| name));
        let names = [
            Some(row.id.as_str()),
            Some(&row.name),
            claim.map(String::as_str),
            short,
        ];
        let differences = names
            .into_iter()
            .flatten()
            .chain(row.pods.iter().map(String::as_str))
            .map(|name| strsim::damerau_levenshtein(wanted, name));
        differences.min().filter(|differences| *differences <= most)
    };
    let mut alike: Vec<(usize, &str)> = rows
        .iter()
        .filter_map(|row| Some((near(row)?, called(row))))
        .collect();
    alike.sort_unstable();
    let names: Vec<&str> = alike
        .iter()
        .map(|(_, name)| *name)
        .take(MOST_NEAR)
        .collect();
    match names.is_empty() {
        true => format!("no volume {wanted:?} on this node; `fairlead volume list` shows them"),
        false => format!(
            "no volume {wanted:?} on this node; is it one of these? {}",
            join(&names)
        ),
    }
}

fn details(row: &VolumeRow) -> Columns {
    let mut rows = Vec::new();
    let mut line = |name: &str, value: String| rows.push((vec![name.to_owned(), value], vec![]));
    line("volume", row.id.clone());
    line("name", row.name.clone());
    line(
        "claim",
        match row.inline {
            true => "none: it lives with its pod (inline)".to_owned(),
            false => or_none(&row.claim),
        },
    );
    line("state", row.state.as_str().to_owned());
    line("size", exact_size(row.bytes));
    line(
        "used",
        row.used
            .map_or_else(|| "not mounted".to_owned(), exact_size),
    );
    let taken = row
        .allocated
        .map_or_else(|| "no file".to_owned(), exact_size);
    line(
        "on disk",
        if row.thin {
            format!("{taken}, thin")
        } else {
            taken
        },
    );
    line("back end", row.back_end.clone());
    line("file system", row.fs.clone());
    line("made from", or_none(&row.source));
    line("age", age(row.made_at));
    line(
        "device",
        row.device
            .as_ref()
            .map_or_else(|| NONE.to_owned(), |d| d.display().to_string()),
    );
    for at in &row.staged {
        line("staged", at.display().to_string());
    }
    for at in &row.published {
        let pod = at.pod.as_deref().unwrap_or("a pod whose name isn't known");
        let way = if at.readonly { ", read-only" } else { "" };
        line("published", format!("{} ({pod}{way})", at.path.display()));
    }
    for problem in &row.problems {
        line("problem", problem.clone());
    }
    Columns {
        heads: vec!["FIELD", "VALUE"],
        rows,
        ..Columns::default()
    }
}

fn usage(usage: &PoolUsage, output: Output) -> Result<Answer, String> {
    let code = u8::from(!usage.warnings.is_empty());
    if matches!(output, Output::Json | Output::Yaml) {
        let text = render(usage, output, Columns::default)?;
        return Ok(Answer { text, code });
    }
    let pool = render(&(), output, || {
        let mut rows = Vec::new();
        let mut line =
            |name: &str, value: String| rows.push((vec![name.to_owned(), value], vec![]));
        line("pool", usage.folder.display().to_string());
        line("total", exact_size(usage.total));
        line("free", exact_size(usage.free));
        line("promised", exact_size(usage.promised));
        line("available", exact_size(usage.available));
        for warning in &usage.warnings {
            line("warning", warning.clone());
        }
        Columns {
            heads: vec!["FIELD", "VALUE"],
            rows,
            ..Columns::default()
        }
    })?;
    let of = render(&(), output, || Columns {
        heads: vec!["KIND", "NAME", "SIZE", "OWN", "SHARED", "PROMISED"],
        wide_heads: vec!["ID"],
        rows: usage
            .rows
            .iter()
            .map(|row| {
                let mut columns = vec![row.kind.clone(), row.name.clone()];
                columns.extend([row.bytes, row.own, row.shared, row.promised].map(size));
                (columns, vec![row.id.clone()])
            })
            .collect(),
    })?;
    let text = format!("{pool}\n{of}");
    Ok(Answer { text, code })
}

fn snapshots(rows: &[SnapshotRow], output: Output) -> Result<Answer, String> {
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| NONE.to_owned(), size);
    let text = render(&rows, output, || Columns {
        heads: vec!["SNAPSHOT", "OF", "SIZE", "OWN", "SHARED", "STATE", "AGE"],
        wide_heads: vec!["NAME", "VOLUME", "GROUP"],
        rows: rows
            .iter()
            .map(|row| {
                let main = vec![
                    row.id.clone(),
                    row.claim.clone().unwrap_or_else(|| row.of.clone()),
                    size(row.bytes),
                    bytes(row.own),
                    bytes(row.shared),
                    row.state.as_str().to_owned(),
                    age(row.made_at),
                ];
                (
                    main,
                    vec![row.name.clone(), row.of.clone(), or_none(&row.group)],
                )
            })
            .collect(),
    })?;
    Ok(Answer { text, code: 0 })
}

fn check(answer: &CheckAnswer, output: Output) -> Result<Answer, String> {
    let code = u8::from(!answer.differences.is_empty());
    let text = match (output, answer.differences.is_empty()) {
        (Output::Json | Output::Yaml, _) => render(answer, output, Columns::default)?,
        (Output::Table | Output::Wide, true) => format!("{}: all agree\n", looked_at(answer)),
        (Output::Table | Output::Wide, false) => {
            let table = render(&(), output, || Columns {
                heads: vec!["WHAT", "PROBLEM", "REMEDY"],
                rows: answer
                    .differences
                    .iter()
                    .map(|of| {
                        (
                            vec![of.what.clone(), of.problem.clone(), of.remedy.clone()],
                            vec![],
                        )
                    })
                    .collect(),
                ..Columns::default()
            })?;
            format!(
                "{table}\n{}: {} differences\n",
                looked_at(answer),
                answer.differences.len()
            )
        }
    };
    Ok(Answer { text, code })
}

fn looked_at(answer: &CheckAnswer) -> String {
    let busy = match answer.busy {
        0 => String::new(),
        busy => format!(" ({busy} of them busy, left out)"),
    };
    format!(
        "{} volumes{busy}, {} snapshots, {} files, {} loop devices, {} mounts, {} folders of pods",
        answer.volumes, answer.snapshots, answer.files, answer.devices, answer.mounts, answer.pods
    )
}

/// As Kubernetes writes sizes, with a digit after the point where it is not whole.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let unit = UNITS.into_iter().find(|(shift, _)| bytes >> shift > 0);
    match unit {
        None => bytes.to_string(),
        Some((shift, unit)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            match tenths % 10 {
                0 => format!("{}{unit}", tenths / 10),
                tenth => format!("{}.{tenth}{unit}", tenths / 10),
            }
        }
    }
}

fn exact_size(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", size(bytes))
}

fn age(made_at: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    duration(now.map_or(0, |now| now.as_secs()).saturating_sub(made_at))
}

fn or_none(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| NONE.to_owned())
}

#[cfg(test)]
#[path = "volume_tests.rs"]
mod tests;
