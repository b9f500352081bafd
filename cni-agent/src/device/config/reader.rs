//! PURE: values of a YAML text, each with its place. Who reads one that is of another kind gets nothing, and the fault is
//! noted with what to write instead; so one pass finds all faults.

use super::{fields::Fields, problem::Problem, words};
use crate::{
    device::{nearest::nearest, template::Template},
    yaml::{Branch, Tree},
};
use serde_json::Value;
use std::{cell::RefCell, ops::RangeInclusive, time::Duration};

/// One file, and what is wrong with it so far.
#[derive(Debug)]
pub(super) struct Scope {
    file: String,
    problems: RefCell<Vec<Problem>>,
}

impl Scope {
    pub(super) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            problems: RefCell::default(),
        }
    }

    /// What was noted, in the order of the lines.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }

    pub(super) fn note(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    scope: &'a Scope,
    /// `resources[2].find[0]`
    path: String,
    line: u64,
    tree: &'a Tree,
}

impl<'a> At<'a> {
    pub(super) fn root(scope: &'a Scope, path: &str, tree: &'a Tree) -> Self {
        Self {
            scope,
            path: path.to_owned(),
            line: tree.named,
            tree,
        }
    }

    /// The same place with another value: a preset that is written over.
    pub(super) fn with<'b>(&self, tree: &'b Tree) -> At<'b>
    where
        'a: 'b,
    {
        At {
            scope: self.scope,
            path: self.path.clone(),
            line: self.line,
            tree,
        }
    }

    pub(super) fn tree(&self) -> &'a Tree {
        self.tree
    }

    pub(super) fn line(&self) -> Option<u64> {
        Some(self.line).filter(|line| *line > 0)
    }

    /// `a.yaml:3`, for people.
    pub(super) fn place(&self) -> String {
        match self.line() {
            Some(line) => format!("{}:{line}", self.scope.file),
            None => self.scope.file.clone(),
        }
    }

    /// A fault of the name that is written here, without its words.
    pub(super) fn named(&self) -> Problem {
        let name = match &self.tree.branch {
            Branch::Map(map) => map.iter().find(|(key, _)| key == "name"),
            _ => None,
        };
        let at = name.map_or_else(|| self.clone(), |(name, tree)| self.child(name, tree));
        Problem {
            file: at.scope.file.clone(),
            line: at.line(),
            field: at.path,
            message: String::new(),
        }
    }

    /// Notes a fault here.
    pub(super) fn fault(&self, message: impl Into<String>) {
        self.scope.note(Problem {
            file: self.scope.file.clone(),
            line: self.line(),
            field: self.path.clone(),
            message: message.into(),
        });
    }

    /// Notes the fault of a value that is none.
    pub(super) fn sound<T>(&self, checked: Result<T, String>) -> Option<T> {
        checked.map_err(|message| self.fault(message)).ok()
    }

    /// What it is to YAML, in words.
    fn kind(&self) -> String {
        match &self.tree.branch {
            Branch::Map(_) => "a map of keys".to_owned(),
            Branch::List(_) => "a list".to_owned(),
            Branch::Leaf(Value::Null) => "empty".to_owned(),
            Branch::Leaf(Value::Bool(value)) => format!("{value} to YAML"),
            Branch::Leaf(Value::Number(number)) => format!("the number {number} to YAML"),
            Branch::Leaf(other) => format!("the text {other}"),
        }
    }

    fn expected(&self, remedy: &str) {
        self.fault(format!("is {}; {remedy}", self.kind()));
    }

    /// The fields of a map, of which only `known` may be there.
    pub(super) fn fields(&self, known: &[&str]) -> Option<Fields<'a>> {
        let Branch::Map(map) = &self.tree.branch else {
            let (some, dots) = (known.len().min(4), if known.len() > 4 { ", …" } else { "" });
            self.expected(&format!(
                "write a map of {}{dots}, or leave it out",
                known[..some].join(", ")
            ));
            return None;
        };
        let fields = Fields::new(self.clone(), map, known);
        for (name, _) in map {
            if !known.contains(&name.as_str())
                && let Some(at) = fields.get(name)
            {
                let remedy = match nearest(name, known) {
                    Some(near) => format!("write {near}, or remove it"),
                    None => format!("write one of {}, or remove it", known.join(", ")),
                };
                at.fault(format!("is no key that is known here; {remedy}"));
            }
        }
        Some(fields)
    }

    /// A map whose names are free.
    pub(super) fn entries(&self, most: usize, example: &str) -> Option<Vec<(&'a str, Self)>> {
        let Branch::Map(map) = &self.tree.branch else {
            self.expected(&format!("write a map, like {example}, or leave it out"));
            return None;
        };
        if map.len() > most {
            self.fault(format!(
                "has {} entries; at most {most} are read, leave some out",
                map.len()
            ));
            return None;
        }
        let entry = |(name, tree): &'a (String, Tree)| (name.as_str(), self.child(name, tree));
        Some(map.iter().map(entry).collect())
    }

    pub(super) fn list(&self, most: usize, example: &str) -> Option<Vec<Self>> {
        let Branch::List(items) = &self.tree.branch else {
            self.expected(&format!("write a list, like {example}"));
            return None;
        };
        if items.len() > most {
            self.fault(format!(
                "has {} entries; at most {most} are read, leave some out",
                items.len()
            ));
            return None;
        }
        let item = |(n, tree): (usize, &'a Tree)| Self {
            scope: self.scope,
            path: format!("{}[{n}]", self.path),
            line: tree.line,
            tree,
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn child(&self, name: &str, tree: &'a Tree) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self {
            scope: self.scope,
            path: format!("{}{dot}{name}", self.path),
            line: tree.named,
            tree,
        }
    }

    /// The text, when it is one and nothing is to be said.
    pub(super) fn as_text(&self) -> Option<&'a str> {
        match &self.tree.branch {
            Branch::Leaf(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.tree.branch, Branch::List(_))
    }

    /// A text that may be empty.
    pub(super) fn any_text(&self, longest: usize) -> Option<&'a str> {
        let Some(text) = self.as_text() else {
            match &self.tree.branch {
                // YAML has read it already: zeros at its front and the `0x` are gone.
                Branch::Leaf(Value::Number(_) | Value::Bool(_)) => {
                    self.expected("quote it, so that it is the text as you write it: \"…\"");
                }
                Branch::Leaf(_) => self.expected("write a text, or remove the key"),
                _ => self.expected("write one text"),
            }
            return None;
        };
        if text.chars().count() > longest {
            let length = text.chars().count();
            self.fault(format!(
                "has {length} characters; at most {longest} are read, shorten it"
            ));
            return None;
        }
        if text.contains('\0') {
            self.fault("has a byte 0 in it; remove it");
            return None;
        }
        Some(text)
    }

    /// A text of one line.
    pub(super) fn text(&self, longest: usize) -> Option<&'a str> {
        let text = self.any_text(longest)?;
        if text.is_empty() {
            self.fault("is empty; write a text, or remove the key");
            return None;
        }
        if text.chars().any(char::is_control) {
            self.fault(format!(
                "{text:?} has a line break or another control character; write it on one line"
            ));
            return None;
        }
        Some(text)
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match &self.tree.branch {
            Branch::Leaf(Value::Bool(value)) => Some(*value),
            _ => {
                self.expected("write true or false, without quotes");
                None
            }
        }
    }

    pub(super) fn number(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let (least, most) = (range.start(), range.end());
        let Branch::Leaf(Value::Number(number)) = &self.tree.branch else {
            let quotes = if self.as_text().is_some() {
                ", without quotes"
            } else {
                ""
            };
            self.expected(&format!(
                "write a whole number from {least} to {most}{quotes}"
            ));
            return None;
        };
        let number = number
            .as_u64()
            .and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.expected(&format!("write a whole number from {least} to {most}"));
        }
        number
    }

    pub(super) fn duration(&self, least: Duration, most: Duration) -> Option<Duration> {
        let span = || format!("from {} to {}", words::written(least), words::written(most));
        let Some(text) = self.as_text() else {
            let remedy = match &self.tree.branch {
                Branch::Leaf(Value::Number(number)) => {
                    format!("write its unit too, like {number}s")
                }
                _ => format!("write a time {}, like 10s", span()),
            };
            self.expected(&remedy);
            return None;
        };
        match words::duration(text) {
            None => {
                self.fault(format!(
                    "{text:?} is no time; write a number and its unit (ms, s, m, h), like 10s"
                ));
                None
            }
            Some(time) if time < least || time > most => {
                self.fault(format!(
                    "{text} is out of its bounds; write a time {}",
                    span()
                ));
                None
            }
            time => time,
        }
    }

    /// One of several words.
    pub(super) fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let Some(text) = self.as_text() else {
            self.expected(&format!("write one of {}", words.join(", ")));
            return None;
        };
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let remedy = match nearest(text, &words) {
                Some(near) => format!("write {near}"),
                None => format!("write one of {}", words.join(", ")),
            };
            self.fault(format!("{text:?} is not known here; {remedy}"));
        }
        found.map(|(_, value)| *value)
    }

    /// A text with places, which may be empty.
    pub(super) fn template(&self) -> Option<Template> {
        let text = self.any_text(words::LONGEST_TEXT)?;
        self.sound(Template::parse(text))
    }
}
