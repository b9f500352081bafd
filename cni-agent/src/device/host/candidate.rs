//! What a finder looks at, and the conditions that sieve it.

use crate::device::found::DeviceFile;
use std::{collections::BTreeMap, path::PathBuf};

/// Something that may be a device.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidate {
    /// Its folders in sysfs: one, or those of the files that are taken together.
    pub(super) folders: Vec<PathBuf>,
    pub(super) files: Files,
    /// Its stable name, where it has a better one than what it is tells.
    pub(super) key: Option<String>,
    /// Fields that only its finder knows.
    pub(super) fields: BTreeMap<String, String>,
}

/// Which files in /dev belong to a candidate.
#[derive(Clone, Debug, Default)]
pub(super) enum Files {
    /// Those that are beneath its folder in sysfs; it may have none.
    #[default]
    Beneath,
    /// These, and none is too few.
    These(Vec<DeviceFile>),
    /// What somebody else describes has no files.
    Never,
}

/// What a candidate must be, in words and in fact.
pub(super) type Condition<'a> = (String, Box<dyn Fn(&Candidate) -> bool + 'a>);

/// What a finder looks at, and what it asks for.
pub(super) struct Sought<'a> {
    /// In words: `PCI functions`.
    pub(super) what: String,
    pub(super) candidates: Vec<Candidate>,
    pub(super) conditions: Vec<Condition<'a>>,
}

impl<'a> Sought<'a> {
    pub(super) fn new(what: impl Into<String>, candidates: Vec<Candidate>) -> Self {
        Self {
            what: what.into(),
            candidates,
            conditions: Vec::new(),
        }
    }

    /// With one more condition, where there is one.
    pub(super) fn whose(
        mut self,
        words: Option<String>,
        holds: impl Fn(&Candidate) -> bool + 'a,
    ) -> Self {
        if let Some(words) = words {
            self.conditions.push((words, Box::new(holds)));
        }
        self
    }

    /// The finder in words, with all that it asks for.
    pub(super) fn words(&self) -> String {
        let conditions: Vec<&str> = self
            .conditions
            .iter()
            .map(|(words, _)| words.as_str())
            .collect();
        match conditions.is_empty() {
            true => self.what.clone(),
            false => format!("{} with {}", self.what, conditions.join(", ")),
        }
    }
}
