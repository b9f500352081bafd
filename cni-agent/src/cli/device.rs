//! `fairlead device`.

use super::{
    client::ask,
    print::{Columns, render},
    rows::{Answer, NONE, duration, join},
};
use crate::{
    config::Output,
    query::{DeviceAnswer, DeviceLook, DeviceRow, HolderRow, Query, ResourceRow},
};
use clap::{Args, Subcommand};
use std::{
    collections::BTreeMap,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

#[derive(Subcommand)]
pub(super) enum DeviceVerb {
    /// Every resource of this node: how many devices it has, how many of them can be had, who has the others.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  fairlead device list\n  fairlead device list -o wide\n  fairlead device list -o json | jq '.resources[] | select(.registered | not) | .whyNot'\nFREE can be had by a pod now; `-` where the kubelet doesn't say who has what. A resource that is not REGISTERED can't be had at all: `fairlead device explain NAME`."
    )]
    List(Print),
    /// The devices of one resource: their health, their files, the containers that have them. Exits with 1 if there is
    /// no such resource.
    #[command(
        after_help = "Examples:\n  fairlead device get example.com/serial\n  fairlead device get serial -o wide\n  fairlead device get example.com/serial -o yaml"
    )]
    Get {
        /// Its name, with or without the domain.
        resource: String,
        #[command(flatten)]
        print: Print,
    },
    /// Why a resource is as it is: where it is written, what each finder looked at and what each condition left, why a
    /// device is not healthy, why the kubelet does not have it. Exits with 1 if something is in the way.
    #[command(
        after_help = "Examples:\n  fairlead device explain example.com/serial\n  fairlead device explain kvm"
    )]
    Explain {
        /// Its name, with or without the domain.
        resource: String,
        #[command(flatten)]
        print: Print,
    },
}

#[derive(Args, Clone, Copy)]
pub(super) struct Print {
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Asks the agent and words the answer.
pub(super) fn run(verb: DeviceVerb, socket: &Path) -> Result<Answer, String> {
    let answer: DeviceAnswer = ask(socket, Query::Devices)?;
    match verb {
        DeviceVerb::List(print) => list(&answer, print.output),
        DeviceVerb::Get { resource, print } => match found(&answer, &resource) {
            Ok(row) => get(row, print.output),
            Err(why) => Ok(unknown(&why)),
        },
        DeviceVerb::Explain { resource, print } => match found(&answer, &resource) {
            Ok(row) => explain(row, &answer, print.output),
            Err(why) => Ok(unknown(&why)),
        },
    }
}

fn unknown(why: &str) -> Answer {
    eprintln!("fairlead: {why}");
    Answer {
        text: String::new(),
        code: 1,
    }
}

/// The resource of a name, with or without the domain.
fn found<'a>(answer: &'a DeviceAnswer, wanted: &str) -> Result<&'a ResourceRow, String> {
    let all = &answer.resources;
    if let Some(row) = all.iter().find(|row| row.name == wanted) {
        return Ok(row);
    }
    let short = |row: &&ResourceRow| row.name.split_once('/').is_some_and(|(_, s)| s == wanted);
    let names = |rows: &[&ResourceRow]| -> String {
        let names: Vec<&str> = rows.iter().map(|row| &*row.name).collect();
        join(&names)
    };
    match all.iter().filter(short).collect::<Vec<_>>().as_slice() {
        [one] => Ok(one),
        [] if all.is_empty() => Err(format!(
            "there is no resource {wanted:?}, nor any other: write them into the agent's --devices, or name --device-presets"
        )),
        [] => {
            let all: Vec<&ResourceRow> = all.iter().collect();
            Err(format!(
                "there is no resource {wanted:?}; there are {}",
                names(&all)
            ))
        }
        several => Err(format!(
            "{wanted:?} may be several resources, say which: {}",
            names(several)
        )),
    }
}

/// Warnings that come with every answer.
fn warn(answer: &DeviceAnswer) {
    for problem in &answer.problems {
        eprintln!("fairlead: {problem}");
    }
    if !answer.problems.is_empty() {
        eprintln!("fairlead: the configuration has faults; what was in force before goes on");
    }
    for warning in &answer.warnings {
        eprintln!("fairlead: {warning}");
    }
    if let Some(why) = &answer.kubelet {
        eprintln!("fairlead: who has devices isn't known: {why}");
    }
}

fn list(answer: &DeviceAnswer, output: Output) -> Result<Answer, String> {
    warn(answer);
    let text = render(answer, output, || Columns {
        heads: vec![
            "RESOURCE",
            "DEVICES",
            "HEALTHY",
            "HELD",
            "FREE",
            "REGISTERED",
            "PROBLEMS",
        ],
        wide_heads: vec!["FROM", "PODS", "DESCRIPTION"],
        rows: answer
            .resources
            .iter()
            .map(|row| line(row, answer.kubelet.is_none()))
            .collect(),
    })?;
    let code = u8::from(!answer.problems.is_empty());
    Ok(Answer { text, code })
}

/// One resource; `is_held_known`: the kubelet has said who has what.
fn line(row: &ResourceRow, is_held_known: bool) -> (Vec<String>, Vec<String>) {
    let count = |is: &dyn Fn(&DeviceRow) -> bool| {
        let devices = row.devices.iter();
        devices.filter(|device| is(device)).count().to_string()
    };
    let if_known = |count: String| match is_held_known {
        true => count,
        false => NONE.to_owned(),
    };
    let mut pods: Vec<String> = row
        .devices
        .iter()
        .flat_map(|device| &device.holders)
        .map(|holder| format!("{}/{}", holder.namespace, holder.pod))
        .collect();
    pods.sort();
    pods.dedup();
    let main = vec![
        row.name.clone(),
        row.devices.len().to_string(),
        count(&|device| device.healthy),
        if_known(count(&|device| !device.holders.is_empty())),
        if_known(count(&|device| device.healthy && device.holders.is_empty())),
        yes(row.registered),
        row.problems.len().to_string(),
    ];
    let description = row.description.clone();
    let wide = vec![
        row.origin.clone(),
        join(&pods),
        description.unwrap_or_else(|| NONE.to_owned()),
    ];
    (main, wide)
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn get(row: &ResourceRow, output: Output) -> Result<Answer, String> {
    let text = render(row, output, || Columns {
        heads: vec!["DEVICE", "HEALTH", "HELD BY", "FILES", "NUMA", "REASON"],
        wide_heads: vec!["KEY", "SINCE", "DRIVER", "PCI"],
        rows: row.devices.iter().map(device).collect(),
    })?;
    Ok(Answer { text, code: 0 })
}

fn device(row: &DeviceRow) -> (Vec<String>, Vec<String>) {
    let files: Vec<String> = row
        .files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let numa: Vec<String> = row.numa.iter().map(u32::to_string).collect();
    let main = vec![
        row.id.clone(),
        health(row).to_owned(),
        holders(&row.holders),
        join(&files),
        join(&numa),
        row.reason.clone().unwrap_or_else(|| NONE.to_owned()),
    ];
    let field = |name: &str| row.fields.get(name).cloned();
    let wide = vec![
        row.key.clone(),
        row.since.map_or_else(|| NONE.to_owned(), ago),
        field("driver").unwrap_or_else(|| NONE.to_owned()),
        field("pci").unwrap_or_else(|| NONE.to_owned()),
    ];
    (main, wide)
}

fn health(row: &DeviceRow) -> &'static str {
    if row.healthy { "healthy" } else { "UNHEALTHY" }
}

fn holders(holders: &[HolderRow]) -> String {
    let names: Vec<String> = holders
        .iter()
        .map(|holder| format!("{}/{} ({})", holder.namespace, holder.pod, holder.container))
        .collect();
    join(&names)
}

/// Unix time in seconds to how long it is over.
fn ago(since: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    duration(now.map_or(0, |now| now.as_secs()).saturating_sub(since))
}

fn explain(row: &ResourceRow, answer: &DeviceAnswer, output: Output) -> Result<Answer, String> {
    warn(answer);
    let hindrances = hindrances(row);
    let code = u8::from(!hindrances.is_empty());
    if matches!(output, Output::Json | Output::Yaml) {
        let text = render(row, output, Columns::default)?;
        return Ok(Answer { text, code });
    }
    let mut text = format!("{}, from {}\n", row.name, row.origin);
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    if let Some(description) = &row.description {
        say(format!("  {description}"));
    }
    say("\nIt is found by".to_owned());
    for look in &row.looks {
        for line in steps(look) {
            say(line);
        }
    }
    if row.looks.is_empty() {
        say(
            "  nothing on the node: its devices are made up, or it wasn't looked for yet"
                .to_owned(),
        );
    }
    say(format!(
        "\nA container gets with each{}",
        match row.count {
            1 => String::new(),
            count => format!(", which {count} may have at once"),
        }
    ));
    for given in &row.gives {
        say(format!("  {given}"));
    }
    let (mut healthy, mut by_reason) = (0, BTreeMap::<&str, usize>::new());
    for device in &row.devices {
        match &device.reason {
            None => healthy += 1,
            Some(reason) => *by_reason.entry(reason).or_default() += 1,
        }
    }
    say(format!(
        "\n{} devices, {healthy} healthy",
        row.devices.len()
    ));
    for (reason, count) in by_reason {
        say(format!("  {count}: {reason}"));
    }
    match hindrances.is_empty() {
        true => say("\nNothing is in the way: pods that ask for it get it.".to_owned()),
        false => {
            say("\nIn the way".to_owned());
            for hindrance in hindrances {
                say(format!("  {hindrance}"));
            }
        }
    }
    Ok(Answer { text, code })
}

/// What a finder looked at, as lines.
fn steps(look: &DeviceLook) -> Vec<String> {
    let mut lines = vec![format!("  {}: {} there", look.finder, look.candidates)];
    for step in &look.steps {
        lines.push(format!("    with {}: {} left", step.condition, step.left));
    }
    lines
}

/// What keeps pods from it, each with what to do.
fn hindrances(row: &ResourceRow) -> Vec<String> {
    let mut hindrances = row.problems.clone();
    if let Some(why) = &row.why_not {
        hindrances.push(format!("the kubelet does not have it: {why}"));
    }
    if row.devices.is_empty() {
        let culprit = row.looks.iter().find_map(|look| {
            let empty = look.steps.iter().find(|step| step.left == 0)?;
            Some(format!("none of {} has {}", look.finder, empty.condition))
        });
        let why = match culprit {
            Some(culprit) if row.looks.iter().any(|look| look.candidates > 0) => culprit,
            _ => "the node has nothing of the kind".to_owned(),
        };
        hindrances.push(format!(
            "there are no devices: {why}; look what there is, and mend find in {}",
            row.origin
        ));
    }
    if !row.devices.is_empty() && row.devices.iter().all(|device| !device.healthy) {
        hindrances.push("no device is healthy: see `fairlead device get`".to_owned());
    }
    let free = |device: &DeviceRow| device.healthy && device.holders.is_empty();
    if row.devices.iter().any(|device| device.healthy) && !row.devices.iter().any(free) {
        hindrances.push("every healthy device is held: see `fairlead device get`".to_owned());
    }
    hindrances
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
