//! Dependencies: each one declared once, in the workspace, with its reason.

use super::{File, Finding};

pub(super) fn check(file: &File, findings: &mut Vec<Finding>) {
    if !file.path.ends_with("Cargo.toml") {
        return;
    }
    let (mut section, mut above) = ("", "");
    for (index, line) in file.text.lines().enumerate() {
        let line = line.trim();
        let commented = std::mem::replace(&mut above, line).starts_with('#');
        let explained = line.contains(" # ") || commented;
        if line.starts_with('[') {
            section = line;
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let what = match section {
            "[workspace.dependencies]" if !explained => "a dependency has its reason beside it",
            "[dependencies]" | "[dev-dependencies]" | "[build-dependencies]"
                if !line.contains("workspace = true") =>
            {
                "a dependency is declared in the workspace's Cargo.toml"
            }
            _ => continue,
        };
        findings.push(Finding::new(&file.path, index + 1, what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_declared_once_and_with_a_reason() {
        let findings = |text: &str| {
            let mut findings = Vec::new();
            check(
                &File {
                    path: "a/Cargo.toml".into(),
                    text: text.into(),
                },
                &mut findings,
            );
            findings.len()
        };
        assert_eq!(
            findings("[workspace.dependencies]\na = \"1\" # because\n"),
            0
        );
        assert_eq!(
            findings("[workspace.dependencies]\n# because\na = \"1\"\n"),
            0
        );
        assert_eq!(
            findings("[workspace.dependencies]\na = \"1\" # x\nb = \"1\"\n"),
            1
        );
        assert_eq!(
            findings("[dependencies]\na.workspace = true\nb = { workspace = true }\n"),
            0
        );
        assert_eq!(
            findings("[dependencies]\na = \"1\"\n[features]\nb = []\n"),
            1
        );
    }
}
