//! The configuration of the devices part. PURE: [`parse`] checks texts into a [`Plan`], of which nothing is used when
//! anything in it is faulty. RIM: [`watched`] reads the texts, again when they change, and keeps the last good ones.

mod entry;
mod fields;
mod finder;
mod folder;
mod give;
mod last_good;
mod preset;
mod problem;
mod reader;
#[cfg(test)]
mod tests;
pub mod watched;
mod words;

pub use problem::Problem;
pub use watched::Configured;

use super::plan::{Plan, Rule};
use crate::yaml::{Branch, Tree, syntax};
use reader::{At, Scope};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Largest file that is read.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most files that are read.
pub const MAX_FILES: usize = 64;
/// Most bytes of all files together.
pub const MAX_BYTES: usize = 8 << 20;
/// Most resources of a node.
pub const MAX_RESOURCES: usize = 256;
/// The argument of the command line that adds presets, as problems name it.
const PRESETS_ARGUMENT: &str = "--device-presets";

/// A file of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// How problems name it.
    pub name: String,
    pub text: String,
}

/// Checks the files, and presets that are added by their names.
///
/// # Errors
/// All faults, in the order of the files and lines; nothing of such a configuration is used.
pub fn parse(files: &[Text], presets: &[String]) -> Result<Plan, Vec<Problem>> {
    let mut problems = too_much(files);
    let mut entries = Vec::new();
    let read_files = if problems.is_empty() { files } else { &[] };
    for file in read_files {
        let scope = Scope::new(&file.name);
        read(&scope, file, &mut entries);
        problems.extend(scope.into_problems());
    }
    let scope = Scope::new(PRESETS_ARGUMENT);
    for name in presets {
        let tree = Tree {
            line: 0,
            named: 0,
            branch: Branch::Map(vec![(
                "preset".to_owned(),
                Tree {
                    line: 0,
                    named: 0,
                    branch: Branch::Leaf(Value::String(name.clone())),
                },
            )]),
        };
        preset::entry(&At::root(&scope, name, &tree), &mut entries);
    }
    problems.extend(scope.into_problems());
    let plan = plan(entries, &mut problems);
    match problems.is_empty() {
        true => Ok(plan),
        false => Err(problems),
    }
}

/// A rule, and where its name is written.
struct Entry {
    rule: Rule,
    name: Problem,
}

fn plan(entries: Vec<Entry>, problems: &mut Vec<Problem>) -> Plan {
    if entries.len() > MAX_RESOURCES {
        let message = format!(
            "is resource {} of {MAX_RESOURCES} at most; leave some out",
            MAX_RESOURCES + 1
        );
        let name = &entries[MAX_RESOURCES].name;
        problems.push(Problem {
            message,
            ..name.clone()
        });
    }
    let mut resources: BTreeMap<_, Rule> = BTreeMap::new();
    for Entry { rule, name } in entries {
        if let Some(first) = resources.get(&rule.name) {
            let message = format!(
                "{} is a resource already, at {}; give one another name, or write both ways into one `find`",
                rule.name, first.origin
            );
            problems.push(Problem { message, ..name });
            continue;
        }
        resources.insert(rule.name.clone(), rule);
    }
    Plan { resources }
}

fn too_much(files: &[Text]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(first) = files.get(MAX_FILES) {
        let message = format!(
            "is one of {} files; at most {MAX_FILES} are read, write several resources into one",
            files.len()
        );
        problems.push(Problem::of_file(&first.name, message));
    }
    for file in files {
        if file.text.len() as u64 > MAX_FILE_BYTES {
            let message = format!(
                "has {} bytes; at most {MAX_FILE_BYTES} are read, split it",
                file.text.len()
            );
            problems.push(Problem::of_file(&file.name, message));
        }
    }
    let mut bytes = 0;
    for file in files {
        bytes += file.text.len();
        if bytes > MAX_BYTES {
            let message =
                format!("with it, all files have more than {MAX_BYTES} bytes; leave some out");
            problems.push(Problem::of_file(&file.name, message));
            break;
        }
    }
    problems
}

/// The entries of a file, without the faulty ones.
fn read(scope: &Scope, file: &Text, entries: &mut Vec<Entry>) {
    if file.text.trim().is_empty() {
        // A writer that truncates before it writes must not remove the devices for a moment.
        scope.note(Problem::of_file(
            &file.name,
            "is empty; write `resources: []`, or remove the file",
        ));
        return;
    }
    for document in documents(&file.text) {
        match document {
            Ok(tree) => of_document(scope, &tree, entries),
            Err(error) => scope.note(Problem {
                line: error
                    .location()
                    .map(|location| location.line())
                    .filter(|line| *line > 0),
                ..Problem::of_file(&file.name, syntax(&error))
            }),
        }
    }
}

/// The documents of a text, each with the lines of its parts.
fn documents(text: &str) -> Vec<Result<Tree, serde_saphyr::Error>> {
    let options = serde_saphyr::options! { with_snippet: false };
    let mut bytes = text.as_bytes();
    serde_saphyr::read_with_options::<_, Tree>(&mut bytes, options).collect()
}

fn of_document(scope: &Scope, tree: &Tree, entries: &mut Vec<Entry>) {
    let at = At::root(scope, "", tree);
    match &tree.branch {
        Branch::Leaf(Value::Null) => return,
        Branch::List(_) => return at.fault("is a list; write `resources:` above it"),
        Branch::Map(_) if tree.get("kind").is_some() && tree.get("apiVersion").is_some() => {
            return at.fault("is an object of Kubernetes; write what a file of it would hold, beginning with `resources:`");
        }
        Branch::Map(_) if tree.get("resources").is_none() && tree.get("find").is_some() => {
            return at
                .fault("is a resource by itself; write it below `resources:`, beginning with `-`");
        }
        _ => {}
    }
    let Some(fields) = at.fields(&["resources"]) else {
        return;
    };
    let remedy = "write the resources below `resources:`, each beginning with `-`";
    let list = fields.must("resources", remedy, |at| {
        at.list(MAX_RESOURCES, "`- name: example.com/serial`")
    });
    for at in list.into_iter().flatten() {
        preset::entry(&at, entries);
    }
}
