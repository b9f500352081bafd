//! PURE: one entry of `resources` to one rule of the plan: what it has of a preset, what it says itself, and what
//! doesn't go together.

use super::{fields::Fields, finder::finder, give, reader::At, words};
use crate::device::{
    name::ResourceName,
    plan::{By, Finder, HealthRule, Prefer, Program, Rule, Serve},
    template::Template,
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub(super) const KEYS: [&str; 13] = [
    "name",
    "preset",
    "description",
    "find",
    "groupBy",
    "id",
    "count",
    "numa",
    "give",
    "prefer",
    "health",
    "beforeStart",
    "serve",
];

/// Longest description.
const LONGEST_DESCRIPTION: usize = 1024;
/// Most ways to find the devices of one resource.
const MOST_FINDERS: usize = 64;
/// Most containers that have one device at once.
const MOST_COUNT: u32 = 10_000;
/// The kernel's own bound of NUMA nodes.
const MOST_NUMA: u32 = 1023;
/// Most arguments of a program.
const MOST_ARGUMENTS: usize = 32;
/// The kubelet waits so long for what is before a start.
const LONGEST_BEFORE_START: Duration = Duration::from_secs(30);

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Reads an entry whose preset is written into it already; `origin` is where it came from.
pub(super) fn rule(at: &At<'_>, origin: &str) -> Option<Rule> {
    let fields = at.fields(&KEYS)?;
    let name = fields.must("name", "write one, like example.com/serial", |at| {
        let text = at.text(words::LONGEST_TEXT)?;
        at.sound(ResourceName::try_from(text.to_owned()))
    });
    let description = fields.maybe("description", |at| {
        at.any_text(LONGEST_DESCRIPTION).map(str::to_owned)
    });
    let find = fields.must(
        "find",
        "write how its devices are found, like `find: [{path: /dev/ttyUSB*}]`",
        finders,
    );
    let group_by = fields.maybe("groupBy", |at| told_by(&at));
    let id = fields.maybe("id", |at| told_by(&at));
    let count = fields.or("count", 1, |at| at.number(1..=MOST_COUNT));
    let numa = fields.maybe("numa", |at| numa(&at));
    let serve = fields.or("serve", Serve::DevicePlugin, |at| {
        at.one_of(&[("devicePlugin", Serve::DevicePlugin), ("dra", Serve::Dra)])
    });
    let context = give::Context {
        serve: serve.unwrap_or(Serve::DevicePlugin),
        is_of_cdi: find
            .iter()
            .flatten()
            .all(|finder| matches!(finder.by, By::Cdi { .. }))
            && find.is_some(),
    };
    let give = fields.or("give", give::default(context), |at| {
        give::give(&at, context)
    });
    let by_count = match count {
        Some(2..) => Prefer::Spread,
        _ => Prefer::Near,
    };
    let prefer = fields.or("prefer", by_count, |at| {
        at.one_of(&[
            ("near", Prefer::Near),
            ("pack", Prefer::Pack),
            ("spread", Prefer::Spread),
            ("any", Prefer::Any),
        ])
    });
    let health = health(&fields);
    let before_start = fields.maybe("beforeStart", |at| before_start(&at));
    // What is faulty by itself and what doesn't go together are told in one pass.
    let agrees = agrees(
        &fields,
        find.as_deref(),
        group_by.as_ref(),
        id.as_ref(),
        serve,
    );
    let rule = Rule {
        name: name?,
        origin: origin.to_owned(),
        description: description?,
        find: find?,
        group_by: group_by?,
        id: id?,
        count: count?,
        numa: numa?,
        give: give?,
        prefer: prefer?,
        health: health?,
        before_start: before_start?,
        serve: serve?,
    };
    agrees.then_some(rule).filter(|_| !fields.has_unknown)
}

fn finders(at: At<'_>) -> Option<Vec<Finder>> {
    let items = at.list(MOST_FINDERS, "`- path: /dev/ttyUSB*`")?;
    if items.is_empty() {
        at.fault("finds nothing; write at least one way, like `- path: /dev/ttyUSB*`");
        return None;
    }
    let read: Vec<Option<Finder>> = items.iter().map(finder).collect();
    read.into_iter().collect()
}

/// A template of what a device is told by: it must be the same at each look.
fn told_by(at: &At<'_>) -> Option<Template> {
    at.text(words::LONGEST_NAME)?;
    let template = at.template()?;
    for (field, remedy) in [
        ("random", "{serial} or {path}"),
        ("id", "{serial} or {path}"),
    ] {
        if template.asks_for(field) {
            let why = match field {
                "id" => "which is made of this",
                _ => "which is another one each time",
            };
            at.fault(format!(
                "asks for {{{field}}}, {why}; write what stays the same, like {remedy}"
            ));
            return None;
        }
    }
    Some(template)
}

fn numa(at: &At<'_>) -> Option<Vec<u32>> {
    let mut nodes = give::each(at, "[0]", |at| at.number(0..=MOST_NUMA))?;
    let written = nodes.len();
    nodes.sort_unstable();
    nodes.dedup();
    match nodes.len() == written && written > 0 {
        true => Some(nodes),
        false => {
            at.fault("is empty or has a node twice; write each NUMA node once, like [0], or remove the key");
            None
        }
    }
}

fn health(fields: &Fields<'_>) -> Option<HealthRule> {
    let default = HealthRule {
        open: false,
        command: None,
        every: 10 * SECOND,
        failures: 2,
        successes: 1,
        forget: 3600 * SECOND,
    };
    let Some(at) = fields.get("health") else {
        return Some(default);
    };
    let fields = at.fields(&[
        "open",
        "command",
        "deadline",
        "every",
        "failures",
        "successes",
        "forget",
    ])?;
    let open = fields.or("open", default.open, |at| at.boolean());
    let every = fields.or("every", default.every, |at| at.duration(SECOND, DAY));
    let longest = every.unwrap_or(DAY);
    let deadline = fields.or("deadline", longest.min(5 * SECOND), |at| {
        if !fields.has("command") {
            at.fault("is of `command`, which isn't there; write one, or remove the deadline");
            return None;
        }
        let deadline = at.duration(SECOND, DAY)?;
        if deadline > longest {
            at.fault(format!(
                "is longer than the time between two looks; write at most {}, or a longer `every`",
                words::written(longest)
            ));
            return None;
        }
        Some(deadline)
    });
    let command = fields.maybe("command", |at| program(&at, deadline.unwrap_or(SECOND)));
    let failures = fields.or("failures", default.failures, |at| at.number(1..=100));
    let successes = fields.or("successes", default.successes, |at| at.number(1..=100));
    let forget = fields.or("forget", default.forget, |at| at.duration(SECOND, 30 * DAY));
    (!fields.has_unknown && deadline.is_some()).then_some(())?;
    let rule = HealthRule {
        open: open?,
        command: command?,
        every: every?,
        failures: failures?,
        successes: successes?,
        forget: forget?,
    };
    for looks in ["every", "failures", "successes"] {
        if !rule.open
            && rule.command.is_none()
            && let Some(at) = fields.get(looks)
        {
            at.fault("is of looks that nothing asks for; write also `open: true` or a `command`, or remove it");
            return None;
        }
    }
    Some(rule)
}

fn before_start(at: &At<'_>) -> Option<Program> {
    let fields = at.fields(&["command", "deadline"])?;
    let deadline = fields.or("deadline", 10 * SECOND, |at| {
        let deadline = at.duration(SECOND, DAY)?;
        if deadline > LONGEST_BEFORE_START {
            at.fault("is longer than the 30s that the kubelet gives; write at most 30s");
            return None;
        }
        Some(deadline)
    });
    let command = fields.must(
        "command",
        "write the program and its arguments, like [/usr/bin/reset, \"{path}\"]",
        |at| program(&at, deadline.unwrap_or(SECOND)),
    );
    (!fields.has_unknown && deadline.is_some()).then_some(())?;
    command
}

fn program(at: &At<'_>, deadline: Duration) -> Option<Program> {
    let words_of = at.list(
        1 + MOST_ARGUMENTS,
        "[/usr/bin/reset, \"{path}\"], without a shell",
    )?;
    let Some((first, rest)) = words_of.split_first() else {
        at.fault("is empty; write the program and its arguments, or remove the key");
        return None;
    };
    let path = first.text(words::LONGEST_TEXT).and_then(|text| {
        first.sound(words::absolute(text))?;
        Some(PathBuf::from(text))
    });
    let arguments: Vec<Option<Template>> = rest.iter().map(At::template).collect();
    let (path, arguments) = (path?, arguments.into_iter().collect::<Option<Vec<_>>>()?);
    // A serial number is what a device says of itself, and must be no part of a program.
    if let Some(written) = written_by_device(&path, &arguments) {
        let (place, message) = match written {
            Written::Script(place) => (
                place,
                "is a shell's program with fields in it, and a device could write a part of that; write \"$1\" in it, and the field as an argument after it: [/bin/sh, -c, 'reset \"$1\"', sh, \"{path}\"]",
            ),
            Written::Words(place) => (
                place,
                "is taken apart into words by -S, and a device could write some of them; write arguments of their own, without -S",
            ),
        };
        rest[place].fault(message);
        return None;
    }
    Some(Program {
        path,
        arguments,
        deadline,
    })
}

/// Which of a program's arguments would be a program itself, with fields in it.
enum Written {
    Script(usize),
    Words(usize),
}

fn written_by_device(path: &Path, arguments: &[Template]) -> Option<Written> {
    let texts: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let name = path.file_name()?.to_str()?;
    let begin = match name {
        // Their first word that is no option and no variable is the program.
        "env" | "busybox" | "toybox" => {
            let mut program = 0;
            let mut is_split = false;
            while let Some(text) = texts.get(program) {
                let is_option = text.starts_with('-');
                if !is_option && !text.contains('=') {
                    break;
                }
                let is_short = is_option && !text.starts_with("--");
                is_split |= (is_short && text.contains('S')) || text.starts_with("--split-string");
                let has_value = ["-u", "--unset", "-C", "--chdir", "-a", "--argv0"];
                program += 1 + usize::from(has_value.contains(&text.as_str()));
            }
            if is_split {
                let fields = arguments.iter().position(|text| !text.is_plain());
                return fields.map(Written::Words);
            }
            if !texts.get(program)?.ends_with("sh") {
                return None;
            }
            program + 1
        }
        _ if name.ends_with("sh") => 0,
        _ => return None,
    };
    script(&texts[begin..])
        .map(|place| begin + place)
        .filter(|place| !arguments[*place].is_plain())
        .map(Written::Script)
}

/// Which of a shell's arguments is a program's text: behind an option with a `c` the first that is no option.
fn script(texts: &[String]) -> Option<usize> {
    let mut has_text = false;
    let mut words = texts.iter().enumerate();
    while let Some((place, text)) = words.next() {
        if !text.starts_with(['-', '+']) {
            return has_text.then_some(place);
        }
        has_text |= text.starts_with('-') && text.contains('c');
        // As fish has it.
        if text.starts_with("--command=") {
            return Some(place);
        }
        let is_short = !text.starts_with("--");
        if (is_short && text.ends_with(['o', 'O']))
            || matches!(text.as_str(), "--rcfile" | "--init-file")
        {
            words.next();
        }
    }
    None
}

/// Whether the parts of an entry go together; notes what doesn't.
fn agrees(
    fields: &Fields<'_>,
    find: Option<&[Finder]>,
    group_by: Option<&Option<Template>>,
    id: Option<&Option<Template>>,
    serve: Option<Serve>,
) -> bool {
    let mut agrees = true;
    let mut refuse = |key: &str, message: &str| {
        if let Some(at) = fields.get(key) {
            at.fault(message);
            agrees = false;
        }
    };
    if find.is_some_and(|find| {
        find.iter()
            .any(|finder| matches!(finder.by, By::Random { .. }))
    }) {
        if find.is_some_and(|find| find.len() > 1) {
            refuse(
                "find",
                "has `random` beside others, which its devices have nothing in common with; write it into a resource of its own",
            );
        }
        for key in ["groupBy", "id", "health", "numa"] {
            refuse(
                key,
                "says nothing of devices that `random` makes up; remove it",
            );
        }
    }
    let is_plain = |template: Option<&Option<Template>>| {
        template
            .and_then(Option::as_ref)
            .is_some_and(Template::is_plain)
    };
    if is_plain(id) && !is_plain(group_by) {
        refuse(
            "id",
            "is the same for every device; write a field into it, like {serial}, or make all one device by `groupBy`",
        );
    }
    if serve == Some(Serve::Dra) {
        refuse(
            "prefer",
            "is of device plugins: by DRA, the scheduler chooses by the claim's selectors; remove it, or write `serve: devicePlugin`",
        );
    }
    agrees
}
