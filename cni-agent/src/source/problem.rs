//! A fault in the input, told so that its author can mend it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a problem costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something in the input is not in force.
    Error,
    /// Everything is in force, but perhaps not what its author meant.
    Warning,
}

/// One fault and where it is. `Display` prints it on one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceProblem {
    pub severity: Severity,
    /// File or folder, or the object of the API server.
    pub file: String,
    /// Which YAML document of the file, counted from 1; documents without content don't count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Path of the field, like `spec.podCIDRs[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

impl SourceProblem {
    /// An error of a whole file or folder.
    pub(super) fn of_file(file: &str, message: String) -> Self {
        let file = file.to_owned();
        let severity = Severity::Error;
        Self {
            severity,
            file,
            document: None,
            line: None,
            field: None,
            message,
        }
    }
}

impl fmt::Display for SourceProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        let mut separator = ": ";
        if let Some(document) = self.document {
            write!(f, "{separator}document {document}")?;
            separator = ", ";
        }
        if let Some(line) = self.line {
            write!(f, "{separator}line {line}")?;
            separator = ", ";
        }
        if let Some(field) = &self.field {
            write!(f, "{separator}{field}")?;
        }
        write!(f, ": {}", self.message)
    }
}
