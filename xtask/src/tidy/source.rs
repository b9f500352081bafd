//! The shape of Rust files: what opens them, how long they are, where unsafe lives.

use super::{File, Finding};

/// Lines of code, tests not counted: from the first on it is said, from the second on refused.
const LONG: usize = 400;
const TOO_LONG: usize = 700;

/// The only files with unsafe code. A further one needs a reason that a reviewer accepts.
const UNSAFE: [&str; 30] = [
    "cni-agent/src/balancer/frame.rs",
    "cni-agent/src/csi/backend/kernel.rs",
    "cni-agent/src/csi/kernel.rs",
    "cni-agent/src/datapath/kernel.rs",
    "cni-agent/src/memory.rs",
    "cni-agent/tests/support/raw.rs",
    "cni-ebpf-common/src/announcement.rs",
    "cni-ebpf-common/src/endpoint.rs",
    "cni-ebpf-common/src/event.rs",
    "cni-ebpf-common/src/flow.rs",
    "cni-ebpf-common/src/node.rs",
    "cni-ebpf-common/src/outside.rs",
    "cni-ebpf-common/src/policy.rs",
    "cni-ebpf-common/src/service.rs",
    "cni-ebpf-common/src/socket.rs",
    "cni-ebpf-common/src/trace.rs",
    "cni-ebpf-common/src/verdict.rs",
    "cni-ebpf/src/kernel.rs",
    "cni-ebpf/src/maps/events.rs",
    "cni-ebpf/src/maps/flows.rs",
    "cni-ebpf/src/maps/mod.rs",
    "cni-ebpf/src/maps/outside.rs",
    "cni-ebpf/src/maps/policy.rs",
    "cni-ebpf/src/maps/services.rs",
    "cni-ebpf/src/maps/sockets.rs",
    "cni-ebpf/src/maps/traces.rs",
    "cni-ebpf/src/packet.rs",
    "cni-ebpf/src/socket_context.rs",
    "cni-shim/src/start.rs",
    "xtask/src/device_use/kernel.rs",
];

pub(super) fn check(file: &File, findings: &mut Vec<Finding>) {
    if !file.path.ends_with(".rs") {
        return;
    }
    if !file.text.starts_with("//!") {
        let what = "a file opens with `//!`: what it is for, who calls it";
        findings.push(Finding::new(&file.path, 1, what));
    }
    if is_product(&file.path) {
        let lines = without_tests(&file.text).lines().count();
        if lines > LONG {
            let what = format!("{lines} lines without tests; {LONG} is the habit");
            let mild = lines <= TOO_LONG;
            findings.push(Finding {
                mild,
                ..Finding::new(&file.path, lines, what)
            });
        }
    }
    if !UNSAFE.contains(&file.path.as_str())
        && let Some(line) = first_unsafe(&file.text)
    {
        let what = "unsafe code outside the files that may have it (xtask/src/tidy/source.rs)";
        findings.push(Finding::new(&file.path, line, what));
    }
}

/// The list of unsafe files must not outlive their unsafety.
pub(super) fn check_list(files: &[File], findings: &mut Vec<Finding>) {
    for path in UNSAFE {
        let file = files.iter().find(|file| file.path == path);
        if file.and_then(|file| first_unsafe(&file.text)).is_none() {
            let what = format!("{path} is listed as unsafe and is not");
            let place = "xtask/src/tidy/source.rs";
            findings.push(Finding {
                mild: true,
                ..Finding::new(place, 1, what)
            });
        }
    }
}

/// Whether a Rust file is part of the product and not a test.
pub(super) fn is_product(path: &str) -> bool {
    path.ends_with(".rs") && !path.contains("/tests/") && !path.ends_with("/tests.rs")
}

/// The code before the unit tests, which close a file.
pub(super) fn without_tests(text: &str) -> &str {
    let end = text
        .find("\n#[cfg(test)]\nmod tests {")
        .map_or(text.len(), |at| at + 1);
    &text[..end]
}

fn first_unsafe(text: &str) -> Option<usize> {
    // Put together, so that this file does not find itself.
    let forms = ["{", "fn", "impl", "extern"].map(|next| ["unsafe ", next].concat());
    let found = text.lines().position(|line| {
        let code = line.split("//").next().unwrap_or_default();
        forms.iter().any(|form| code.contains(form.as_str()))
    });
    found.map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        check(
            &File {
                path: path.into(),
                text: text.into(),
            },
            &mut findings,
        );
        findings
    }

    #[test]
    fn a_file_opens_with_what_it_is_for() {
        assert_eq!(findings("x/src/a.rs", "//! A.\n"), []);
        assert_eq!(findings("x/src/a.rs", "use std::fs;\n").len(), 1);
        assert_eq!(findings("x/a.sh", "#!/bin/sh\n"), []);
    }

    #[test]
    fn long_files_are_told_and_very_long_ones_refused() {
        let of = |lines: usize| format!("//! A.\n{}", "x\n".repeat(lines - 1));
        assert_eq!(findings("x/src/a.rs", &of(LONG)), []);
        assert!(findings("x/src/a.rs", &of(LONG + 1))[0].mild);
        assert!(!findings("x/src/a.rs", &of(TOO_LONG + 1))[0].mild);
        assert_eq!(findings("x/tests/a.rs", &of(TOO_LONG + 1)), []);
        let tested = format!(
            "//! A.\n\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "x\n".repeat(TOO_LONG)
        );
        assert_eq!(findings("x/src/a.rs", &tested), []);
    }

    #[test]
    fn unsafe_code_lives_where_it_is_listed() {
        let code = ["//! A.\nfn a() { un", "safe { b() } }\n"].concat();
        assert_eq!(findings("cni-agent/src/agent.rs", &code).len(), 1);
        assert_eq!(findings(UNSAFE[0], &code), []);
        assert_eq!(
            findings("cni-agent/src/agent.rs", "//! A.\n// nothing unsafe here\n"),
            []
        );
    }
}
