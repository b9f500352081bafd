//! PURE: the text of a manifest file to Kubernetes objects. YAML 1.2 and with it JSON, several
//! documents, `kind: List`. Every fault has its document, line and field.

use super::{
    convert::FieldError,
    object::{self, Object, ObjectKey, Reading},
    problem::{Severity, SourceProblem},
};
use crate::yaml::{Branch, Tree, syntax};
use std::collections::BTreeMap;

/// An object and where it stands in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) document: usize,
    pub(super) line: u64,
    pub(super) key: ObjectKey,
    pub(super) object: Object,
    /// Of a policy: the line of each of its rules, by its field.
    pub(super) rules: BTreeMap<String, u64>,
}

/// What one file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    /// The objects without fault.
    pub(super) objects: Vec<Found>,
    pub(super) problems: Vec<SourceProblem>,
}

impl Parsed {
    /// Whether something in the file could not be used.
    pub(super) fn is_broken(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }
}

/// Parses the text of `file`, which is only used to name it.
pub(super) fn parse(file: &str, bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let message = format!(
                "byte {} is not UTF-8; save the file as UTF-8",
                e.valid_up_to()
            );
            parsed.problems.push(SourceProblem::of_file(file, message));
            return parsed;
        }
    };
    if text.trim().is_empty() {
        // A writer that truncates before it writes must not remove the objects for a moment.
        let message = "is empty; delete the file to remove its objects".to_owned();
        parsed.problems.push(SourceProblem::of_file(file, message));
        return parsed;
    }
    // The other limits of the parser suit a file of 4 MiB; this one is for fewer, larger documents.
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_documents: 65_536 },
    };
    let starts = starts(text);
    // One document at a time, so that only one is in memory besides the text. The parser goes on
    // behind a fault if it can.
    for document in serde_saphyr::read_with_options::<_, Tree>(&mut text.as_bytes(), options) {
        match document {
            Ok(tree) => {
                let document = document_at(&starts, tree.line);
                let place = Place {
                    file,
                    document,
                    root: &tree,
                    prefix: String::new(),
                };
                place.read(&tree, &mut parsed);
            }
            Err(error) => {
                let line = error
                    .location()
                    .map(|location| location.line())
                    .filter(|l| *l > 0);
                parsed.problems.push(SourceProblem {
                    document: line.map(|line| document_at(&starts, line)),
                    line,
                    ..SourceProblem::of_file(file, syntax(&error))
                });
            }
        }
    }
    parsed
}

/// The line at which each document begins, as people count them: those with content.
fn starts(text: &str) -> Vec<u64> {
    let (mut starts, mut content) = (vec![1], false);
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim_end() == "---" || text.starts_with("--- ") {
            if content {
                starts.push(line);
            }
            content = text.trim_end().len() > 3;
        } else if !(text.trim().is_empty() || text.trim_start().starts_with('#')) {
            content |= !text.starts_with('%') && text.trim_end() != "...";
        }
    }
    starts
}

/// Which document a line belongs to, from 1.
fn document_at(starts: &[u64], line: u64) -> usize {
    starts.partition_point(|start| *start <= line).max(1)
}

/// Where in a file an object stands.
struct Place<'a> {
    file: &'a str,
    document: usize,
    /// The whole document.
    root: &'a Tree,
    /// Path of the object in it: empty, or `items[3]` in a List.
    prefix: String,
}

impl Place<'_> {
    fn read(&self, tree: &Tree, parsed: &mut Parsed) {
        let Branch::Map(_) = &tree.branch else {
            let found = match tree.branch {
                Branch::List(_) => "a list",
                _ => "a single value",
            };
            let message = format!(
                "is {found}, not a Kubernetes object; write one with apiVersion, kind and metadata"
            );
            parsed
                .problems
                .push(self.problem(&FieldError::new("", message)));
            return;
        };
        if tree.text("kind") == Some("List") {
            return self.read_list(tree, parsed);
        }
        match object::read(tree.to_value()) {
            Ok(Reading::Foreign(note)) => parsed.problems.push(SourceProblem {
                severity: Severity::Warning,
                ..self.problem(&note)
            }),
            Ok(Reading::Ours(read)) => {
                for field in &read.unknown_fields {
                    let message = format!(
                        "is not a field of {}; correct its name or remove it, the rest is in force",
                        read.key.kind
                    );
                    let problem = self.problem(&FieldError::new(field, message));
                    parsed.problems.push(SourceProblem {
                        severity: Severity::Warning,
                        ..problem
                    });
                }
                let (document, line) = (self.document, tree.line);
                parsed.objects.push(Found {
                    document,
                    line,
                    key: read.key,
                    rules: match read.object {
                        Object::Policy(_) | Object::ClusterPolicy(_) => rules(tree),
                        _ => BTreeMap::new(),
                    },
                    object: read.object,
                });
            }
            Err(errors) => parsed
                .problems
                .extend(errors.iter().map(|error| self.problem(error))),
        }
    }

    fn read_list(&self, tree: &Tree, parsed: &mut Parsed) {
        let fault = |field: &str, message: &str| self.problem(&FieldError::new(field, message));
        if !self.prefix.is_empty() {
            let message = "a List can't hold a List; write its items into the outer one";
            return parsed.problems.push(fault("kind", message));
        }
        if tree.text("apiVersion") != Some("v1") {
            let message = "kind List is read in version v1; write apiVersion: v1";
            return parsed.problems.push(fault("apiVersion", message));
        }
        let Some(Branch::List(items)) = tree.get("items").map(|items| &items.branch) else {
            let message =
                "is missing or not a list; write the objects below items:, each beginning with '-'";
            return parsed.problems.push(fault("items", message));
        };
        for (n, item) in items.iter().enumerate() {
            let prefix = format!("items[{n}]");
            Place {
                prefix,
                file: self.file,
                document: self.document,
                root: self.root,
            }
            .read(item, parsed);
        }
    }

    fn problem(&self, error: &FieldError) -> SourceProblem {
        let dot = if self.prefix.is_empty() || error.field.is_empty() {
            ""
        } else {
            "."
        };
        let field = format!("{}{dot}{}", self.prefix, error.field);
        SourceProblem {
            document: Some(self.document),
            line: Some(self.root.line_of(&field)).filter(|line| *line > 0),
            field: Some(field).filter(|field| !field.is_empty()),
            ..SourceProblem::of_file(self.file, error.message.clone())
        }
    }
}

/// The line of each rule of a policy.
fn rules(policy: &Tree) -> BTreeMap<String, u64> {
    let mut lines = BTreeMap::new();
    for side in ["ingress", "egress"] {
        let rules = policy.get("spec").and_then(|spec| spec.get(side));
        if let Some(Branch::List(rules)) = rules.map(|rules| &rules.branch) {
            let named = rules.iter().enumerate();
            lines.extend(named.map(|(n, rule)| (format!("spec.{side}[{n}]"), rule.line)));
        }
    }
    lines
}
