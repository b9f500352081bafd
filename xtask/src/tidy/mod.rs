//! `cargo xtask tidy`: the rules of the house that neither compiler nor clippy knows. Works on the
//! text of tracked files, so it takes no time; every finding names file and line.

mod imports;
mod manifests;
mod source;

use crate::workspace;
use anyhow::{Result, bail};
use cni_ebpf_common::verdict::DropReason;
use std::{fmt, fs, path::Path, process::Command};

/// Check the rules of the house: pure folders, file sizes, where unsafe lives, documentation.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// A tracked text file.
struct File {
    /// Relative to the root.
    path: String,
    text: String,
}

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    place: String,
    what: String,
    /// Said, but no failure.
    mild: bool,
}

impl Finding {
    fn new(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            place: format!("{file}:{line}"),
            what: what.into(),
            mild: false,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.mild { "warning: " } else { "" };
        write!(f, "{}: {kind}{}", self.place, self.what)
    }
}

/// Checks everything and prints what it finds.
///
/// # Errors
/// When a rule is broken.
pub(crate) fn run(_: &Args) -> Result<()> {
    let files = files(&workspace::root())?;
    let mut findings = Vec::new();
    for file in &files {
        source::check(file, &mut findings);
        imports::check(file, &mut findings);
        manifests::check(file, &mut findings);
        machine(file, &mut findings);
    }
    imports::check_list(&files, &mut findings);
    source::check_list(&files, &mut findings);
    drop_reasons(&files, &mut findings);
    for finding in &findings {
        println!("{finding}");
    }
    let broken = findings.iter().filter(|finding| !finding.mild).count();
    if broken > 0 {
        bail!("{broken} rules of the house are broken, listed above");
    }
    println!("tidy: {} files, {} warnings", files.len(), findings.len());
    Ok(())
}

/// Everything that is tracked or would be by `git add`, as far as it is text.
fn files(root: &Path) -> Result<Vec<File>> {
    let list = workspace::output(Command::new("git").current_dir(root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let paths = list.split('\0').filter(|path| !path.is_empty());
    // A file that is deleted but still in the index is no file; bytes that are no text, no text.
    let read = |path: &str| {
        let text = fs::read_to_string(root.join(path)).ok()?;
        Some(File {
            path: path.to_owned(),
            text,
        })
    };
    Ok(paths.filter_map(read).collect())
}

/// Nothing in the repository may depend on one machine: no home folders, no package source other
/// than the public one.
fn machine(file: &File, findings: &mut Vec<Finding>) {
    // Put together, so that this file does not find itself.
    let homes = ["root", "home", "Users"].map(|home| format!("/{home}/"));
    for (index, line) in file.text.lines().enumerate() {
        let path_begins = |at: usize| {
            let before = line[..at].chars().next_back();
            before.is_none_or(|c| !c.is_alphanumeric() && !"_.-}".contains(c))
        };
        for home in &homes {
            if line
                .match_indices(home.as_str())
                .any(|(at, _)| path_begins(at))
            {
                findings.push(Finding::new(&file.path, index + 1, "a path of one machine"));
            }
        }
        let public = "registry+https://github.com/rust-lang/crates.io-index";
        if file.path == "Cargo.lock" && line.starts_with("source = ") && !line.contains(public) {
            let what = "a package that is not from crates.io";
            findings.push(Finding::new(&file.path, index + 1, what));
        }
    }
}

/// Who meets a drop reason finds it explained.
fn drop_reasons(files: &[File], findings: &mut Vec<Finding>) {
    const PAGE: &str = "docs/operations.md";
    let page = files
        .iter()
        .find(|file| file.path == PAGE)
        .map_or("", |file| file.text.as_str());
    for reason in DropReason::ALL {
        let row = format!("| `{}` |", reason.name());
        if !page.lines().any(|line| line.starts_with(&row)) {
            let what = format!("the drop reason {} has no row", reason.name());
            findings.push(Finding::new(PAGE, 1, what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn paths_of_one_machine_are_found_and_others_are_not() {
        let home = ["/ho", "me/alice/x"].concat();
        for (line, expected) in [
            (home.as_str(), 1),
            ("see `~/x`", 0),
            ("$FOO/root", 0),
            (&format!("a{home}"), 0),
        ] {
            let mut findings = Vec::new();
            machine(&file("a.md", line), &mut findings);
            assert_eq!(findings.len(), expected, "{line}");
        }
    }

    #[test]
    fn packages_come_from_the_public_registry() {
        let mut findings = Vec::new();
        let text = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n\
                    source = \"git+https://example.org/x\"\n";
        machine(&file("Cargo.lock", text), &mut findings);
        assert_eq!(
            findings,
            [Finding::new(
                "Cargo.lock",
                2,
                "a package that is not from crates.io"
            )]
        );
    }

    #[test]
    fn a_drop_reason_without_a_row_is_found() {
        let rows: String = DropReason::ALL
            .iter()
            .skip(1)
            .map(|r| format!("| `{}` | x |\n", r.name()))
            .collect();
        let mut findings = Vec::new();
        drop_reasons(&[file("docs/operations.md", &rows)], &mut findings);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains(DropReason::ALL[0].name()));
    }
}
